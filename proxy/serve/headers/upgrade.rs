//! Does this request, and does its answer, turn the connection into something else?

use bgproxy_conf::{Protocol, UpgradeToken};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version, request, response};

use super::tokens;
use crate::serve::error::Reason;
use crate::serve::websocket;

/// The protocol that an HTTP/2 client wants to speak in a stream (RFC 8441): its CONNECT has a `:protocol`.
pub fn protocol(head: &request::Parts) -> Option<&str> {
    head.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str)
}

/// The protocol that an HTTP/1.1 request asks to upgrade to, if that is one of those allowed and nothing stands against
/// it. Otherwise the request is served without an upgrade, as RFC 9110 (section 7.8) has it.
pub fn upgrade(head: &request::Parts, allowed: &[UpgradeToken]) -> Option<HeaderValue> {
    let headers = &head.headers;
    let token = only_token(headers, header::UPGRADE)?;
    // `h2c` is never among them: see `UpgradeToken`.
    let is_allowed = allowed.iter().any(|allowed| allowed.as_str().as_bytes().eq_ignore_ascii_case(token));
    // Where the body ends and the other protocol begins must not be a question.
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    let fits = head.version == Version::HTTP_11 && !matches!(head.method, Method::CONNECT | Method::HEAD) && !has_body;
    if is_allowed && fits && says_upgrade(headers) { HeaderValue::from_bytes(token).ok() } else { None }
}

/// The protocol that a request shall be passed on for, by either version of HTTP. A backend that speaks HTTP/2 gets no
/// upgrades.
///
/// # Errors
/// [`Reason::UpgradeRefused`]: without the protocol nothing is left of an HTTP/2 client's CONNECT that could be served.
pub fn wanted(
    head: &request::Parts,
    allowed: &[UpgradeToken],
    backend: Protocol,
) -> Result<Option<HeaderValue>, Reason> {
    let Some(protocol) = protocol(head) else {
        return Ok(if backend == Protocol::Http1 { upgrade(head, allowed) } else { None });
    };
    let is_allowed = allowed.iter().any(|allowed| allowed.as_str().eq_ignore_ascii_case(protocol));
    if !is_allowed || backend != Protocol::Http1 {
        return Err(Reason::UpgradeRefused);
    }
    HeaderValue::from_str(protocol).map(Some).map_err(|_| Reason::UpgradeRefused)
}

/// Makes an HTTP/2 client's CONNECT the GET that asks for the same upgrade (RFC 8441, section 5), with the key that a
/// websocket's handshake has in HTTP/1.1 and that the client did not have to send.
pub fn begin_upgrade(head: &mut request::Parts, token: &HeaderValue) -> Option<HeaderValue> {
    head.method = Method::GET;
    head.extensions.remove::<h2::ext::Protocol>();
    if !token.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let key = HeaderValue::try_from(websocket::new_key()).ok()?;
    head.headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    Some(key)
}

/// Makes a backend's 101 the 200 that opens an HTTP/2 client's stream.
///
/// # Errors
/// [`Reason::BackendMalformed`]: the backend did not take up the key, so it is no websocket that answers.
pub fn finish_upgrade(head: &mut response::Parts, key: Option<&HeaderValue>) -> Result<(), Reason> {
    let accepted = head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    if let Some(key) = key
        && accepted.is_none_or(|accepted| accepted != websocket::accept_key(key.as_bytes()))
    {
        return Err(Reason::BackendMalformed);
    }
    head.status = StatusCode::OK;
    Ok(())
}

/// Whether the backend agreed to upgrade to this protocol, and to nothing else.
pub fn is_upgraded(head: &response::Parts, token: &HeaderValue) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS
        && says_upgrade(&head.headers)
        && only_token(&head.headers, header::UPGRADE)
            .is_some_and(|agreed| agreed.eq_ignore_ascii_case(token.as_bytes()))
}

/// Writes the two headers that make an upgrade.
pub(super) fn say_upgrade(headers: &mut HeaderMap, token: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, token);
}

fn says_upgrade(headers: &HeaderMap) -> bool {
    let mut tokens = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    tokens.any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// The token of a header that has exactly one.
fn only_token(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut tokens = headers.get_all(name).iter().flat_map(tokens);
    tokens.next().filter(|_| tokens.next().is_none())
}
