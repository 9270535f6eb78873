//! Where should the client have asked? Locations for 308: the same request over TLS, or at the canonical host.

use bgproxy_conf::Host;
use bytes::Bytes;
use http::header::HeaderValue;
use http::request;

use super::{host, path};
use crate::serve::error::Reason;
use crate::table::{split_port, without_root};

/// Authorities that issue certificates ask here, and without TLS (RFC 8555, section 8.3).
const ACME: &str = "/.well-known/acme-challenge/";

/// Where a request in clear goes that should have come over TLS: the same host, path and query, at `port`. None when it
/// is served in clear: an authority looks whether the host is ours.
///
/// # Errors
/// [`Reason::HostMissing`]: HTTP/1.0 need not say a host, and then there is no place to send it to.
pub fn redirect_https(head: &request::Parts, port: u16) -> Result<Option<HeaderValue>, Reason> {
    if challenge(path(head)).is_some() {
        return Ok(None);
    }
    let (name, _port) = split_port(host(head));
    if name.is_empty() {
        return Err(Reason::HostMissing);
    }
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    location(head, &["https://", name, &port]).map(Some).ok_or(Reason::TargetInvalid)
}

/// Where a request goes that asked for another of the service's hosts: the canonical one, with the same port, path and
/// query. `secure` tells by which scheme the client came ([`super::is_secure`]). None when it is at the right host, or
/// named none.
pub fn canonical(head: &request::Parts, canonical: &Host, secure: bool) -> Option<HeaderValue> {
    let (name, port) = split_port(host(head));
    if name.is_empty() || without_root(name).eq_ignore_ascii_case(canonical.name()) {
        return None;
    }
    let (scheme, usual) = if secure { ("https://", "443") } else { ("http://", "80") };
    let (colon, port) = if port.is_empty() || port == usual { ("", "") } else { (":", port) };
    location(head, &[scheme, canonical.name(), colon, port])
}

/// The token that a request asks for as authorities do. One path segment of what tokens are made of: a path that leads
/// out of there again is not served in clear.
pub fn challenge(path: &str) -> Option<&str> {
    path.strip_prefix(ACME).filter(|token| {
        !matches!(*token, "" | "." | "..")
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    })
}

/// None for a target that no header can hold; none that was parsed is such.
fn location(head: &request::Parts, parts: &[&str]) -> Option<HeaderValue> {
    let mut location = parts.concat();
    location.push_str(path(head));
    if let Some(query) = head.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    HeaderValue::from_maybe_shared(Bytes::from(location)).ok()
}
