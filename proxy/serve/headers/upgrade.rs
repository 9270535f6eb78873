//! Does this request, and does its answer, turn the connection into something else?

use bgproxy_conf::UpgradeToken;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version, request, response};

use super::tokens;

/// The protocol that an HTTP/2 client wants to speak in a stream (RFC 8441): its CONNECT has a `:protocol`.
pub fn protocol(head: &request::Parts) -> Option<&str> {
    head.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str)
}

/// The protocol that an HTTP/1.1 request asks to upgrade to, if that is one of those allowed and nothing stands against
/// it. Otherwise the request is served without an upgrade, as RFC 9110 (section 7.8) has it.
pub fn upgrade(head: &request::Parts, allowed: &[UpgradeToken]) -> Option<HeaderValue> {
    let headers = &head.headers;
    let token = only_token(headers, header::UPGRADE)?;
    let is_allowed = allowed.iter().any(|allowed| allowed.as_str().as_bytes().eq_ignore_ascii_case(token));
    // Where the body ends and the other protocol begins must not be a question.
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    let fits = head.version == Version::HTTP_11
        && !matches!(head.method, Method::CONNECT | Method::HEAD)
        && !has_body
        // Never, whatever the list says: requests inside it would pass unseen.
        && !token.eq_ignore_ascii_case(b"h2c");
    if is_allowed && fits && says_upgrade(headers) { HeaderValue::from_bytes(token).ok() } else { None }
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
