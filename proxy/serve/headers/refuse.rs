//! Could two readers understand this request in two ways? Then nobody shall; the rest tells what it is for.

use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{Method, Version, request};

use super::length;
use super::upgrade::protocol;
use crate::serve::error::Reason;
use crate::table::split_port;

/// Refuses what two readers could understand in two ways (RFC 9112, sections 3.2 and 6; RFC 9113, section 8.3.1; what
/// hyper and h2 let pass).
///
/// # Errors
/// The reason, which is answered with a 4xx or 501 and, on HTTP/1.1, the end of the connection.
pub fn refuse(head: &request::Parts) -> Result<(), Reason> {
    // What opens a stream for a websocket (RFC 8441) is called CONNECT too, and has a path.
    if head.method == Method::CONNECT && protocol(head).is_none() {
        return Err(Reason::MethodRefused);
    }
    refuse_target(head)?;
    refuse_host(head)?;
    // Few requests have one of the three; a pass over the names costs less than looking for each.
    let rare = [&header::TRANSFER_ENCODING, &header::EXPECT, &header::CONTENT_LENGTH];
    if !head.headers.keys().any(|name| rare.contains(&name)) {
        return Ok(());
    }
    // h2 takes an empty one for 0.
    if head.headers.get_all(header::CONTENT_LENGTH).iter().any(|value| length(value).is_none()) {
        return Err(Reason::HeadMalformed);
    }
    // A chain of codings would be undone only in part: hyper takes the last `chunked` off.
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err(Reason::CodingUnknown);
    }
    let mut expectations = head.headers.get_all(header::EXPECT).iter();
    if let Some(expectation) = expectations.next()
        && (!expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") || expectations.next().is_some())
    {
        return Err(Reason::ExpectationUnknown);
    }
    Ok(())
}

/// RFC 9112, section 3.2: origin-form, absolute-form with an http authority, or `*` for OPTIONS. An HTTP/2 request has
/// the same parts, each in a field of its own.
fn refuse_target(head: &request::Parts) -> Result<(), Reason> {
    let uri = &head.uri;
    let has_path = || uri.path().starts_with('/') || (uri.path() == "*" && head.method == Method::OPTIONS);
    let valid = match (uri.scheme_str(), uri.authority()) {
        (None, None) => has_path(),
        (Some("http" | "https"), Some(_)) if head.version == Version::HTTP_2 => has_path(),
        (Some("http" | "https"), Some(authority)) => is_host(authority.as_str().as_bytes()),
        _ => false,
    };
    if valid { Ok(()) } else { Err(Reason::TargetInvalid) }
}

/// RFC 9112, section 3.2: exactly one valid Host on HTTP/1.1; HTTP/1.0 may have none. On HTTP/2 `:authority` stands for
/// it, and where both came they must agree.
fn refuse_host(head: &request::Parts) -> Result<(), Reason> {
    let authority = head.uri.authority().filter(|_| head.version == Version::HTTP_2).map(Authority::as_str);
    let mut hosts = head.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let (host, more) = (hosts.next(), hosts.next());
    match (authority.map(str::as_bytes), host) {
        _ if more.is_some() => Err(Reason::HostSeveral),
        (None, None) if head.version == Version::HTTP_10 => Ok(()),
        (None, None) => Err(Reason::HostMissing),
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => Err(Reason::HostsDiffer),
        (Some(host), _) | (None, Some(host)) => {
            if is_host(host) {
                Ok(())
            } else {
                Err(Reason::HostInvalid)
            }
        }
    }
}

/// Whether this is a host with an optional port. Stricter than RFC 3986's reg-name on purpose: what Django, nginx and
/// browsers agree on, so that nobody behind us reads another host than we did.
pub(super) fn is_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (name, port) = split_port(host);
    let name_is_valid = match name.as_bytes() {
        [b'[', inner @ .., b']'] => {
            inner.contains(&b':') && inner.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        name => {
            !name.is_empty()
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
        }
    };
    name_is_valid && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// The host a request is for: the target's authority wins over the Host header (RFC 9112, section 3.2.2). Empty when
/// an HTTP/1.0 request names none.
pub fn host(head: &request::Parts) -> &str {
    match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(""),
    }
}

/// The path a request is routed by: `*` is about all of the host.
pub fn path(head: &request::Parts) -> &str {
    match head.uri.path() {
        "*" => "/",
        path => path,
    }
}
