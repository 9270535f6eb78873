//! What do headers become on their way through? Request and answer, between any two versions of HTTP. Pure: no I/O, no
//! state.
//!
//! [`refuse()`] what is ambiguous, see who the [`client()`] is, whether it wants an [`upgrade()`] or has to be sent
//! elsewhere ([`redirect_https`], [`canonical`]), then [`to_backend`] and [`to_client`].

mod client;
mod redirect;
mod refuse;
mod upgrade;

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, StatusCode, Version, request, response};

use super::error::Reason;
pub use client::{Sender, client, is_secure, text};
pub use redirect::{canonical, challenge, redirect_https};
pub use refuse::{host, path, refuse};
pub use upgrade::{begin_upgrade, finish_upgrade, is_upgraded, protocol, upgrade, wanted};

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");
/// The request's identity, kept when the client sent a usable one, made otherwise.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Turns a client's request head into the one that a backend reads, in HTTP/1.1; true when the client said that it will
/// send no other on this connection.
///
/// `client` is whom [`client()`] found, `upgrade` is what [`upgrade()`] found: the two headers that ask for it stay
/// then. How a body is framed is not said here: that is up to whoever sends it.
pub fn to_backend(
    head: &mut request::Parts,
    sender: &Sender<'_>,
    client: IpAddr,
    upgrade: Option<HeaderValue>,
) -> bool {
    // The scheme goes too: whether there was TLS is what we saw, not what a target says.
    let authority = to_origin_form(head);
    let is_last = strip_request(&mut head.headers, sender.trusted);
    if let Some(authority) = authority {
        head.headers.insert(header::HOST, authority);
    }
    match head.version {
        Version::HTTP_10 => {
            head.headers.remove(header::EXPECT);
            // A request without Host can only stay what it was; everything else speaks HTTP/1.1 from here on.
            if head.headers.contains_key(header::HOST) {
                head.version = Version::HTTP_11;
            }
        }
        Version::HTTP_2 => {
            // No body is held back for it: a stream has a window of its own, and refusing it costs no connection. So
            // there is nothing that a 100 could release.
            head.headers.remove(header::EXPECT);
            join_cookies(&mut head.headers);
            say_length_once(&mut head.headers);
            head.version = Version::HTTP_11;
        }
        _ => {}
    }
    if let Some(token) = upgrade {
        // Trailers have no place behind a 101, and an HTTP/2 client's CONNECT has no body that could have a length.
        head.headers.remove(header::TE);
        head.headers.remove(header::CONTENT_LENGTH);
        upgrade::say_upgrade(&mut head.headers, token);
    }
    client::introduce(&mut head.headers, sender, client);
    match head.headers.entry(X_REQUEST_ID) {
        Entry::Occupied(id) if usable_id(id.get()) => {}
        Entry::Occupied(mut id) => drop(id.insert(new_id())),
        Entry::Vacant(id) => drop(id.insert(new_id())),
    }
    is_last
}

/// Turns what [`to_backend`] made into what a backend reads that speaks HTTP/2 in clear (RFC 9113, section 8.3.1): the
/// host goes into the target, what frames HTTP/1.1 goes away.
///
/// # Errors
/// [`Reason::HostInvalid`] or [`Reason::TargetInvalid`], where [`refuse()`] and the library disagree.
pub fn to_http2_backend(head: &mut request::Parts) -> Result<(), Reason> {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        head.headers.remove(name);
    }
    // Only HTTP/1.0 may have no host; as long as the version says so, h2 leaves out the authority.
    let Some(host) = head.headers.remove(header::HOST) else { return Ok(()) };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_invalid| Reason::HostInvalid)?);
    head.uri = Uri::from_parts(parts).map_err(|_invalid| Reason::TargetInvalid)?;
    head.version = Version::HTTP_2;
    Ok(())
}

/// RFC 9113, section 8.2.3: a cookie's crumbs are one line again for those who do not speak HTTP/2.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let joined = [first, second].into_iter().chain(crumbs).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(cookie) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// RFC 9110, section 8.6: a length that is said twice, and the same, is said once to whoever comes next; many refuse
/// the second line. Different ones were refused by the libraries.
fn say_length_once(headers: &mut HeaderMap) {
    if headers.len() == headers.keys_len() {
        return;
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(first), Some(_)) = (lengths.next().cloned(), lengths.next()) {
        headers.insert(header::CONTENT_LENGTH, first);
    }
}

/// Takes out of a request's trailers what has to stand in its head (RFC 9110, section 6.5.1): some backends put
/// trailers among the headers, and what frames, routes and authorizes a request, or says who the client is, was decided
/// by then.
pub fn trailers_to_backend(trailers: &mut HeaderMap) {
    remove_all(trailers, |name| is_hop_by_hop(name) || is_protected(name));
}

/// The same for those of an answer. h2 refuses to send what concerns only a connection.
pub fn trailers_to_client(trailers: &mut HeaderMap) {
    remove_all(trailers, |name| is_hop_by_hop(name) || [header::CONTENT_LENGTH, header::HOST].contains(name));
}

fn remove_all(trailers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<HeaderName> = trailers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in unwanted {
        trailers.remove(name);
    }
}

/// Leaves path and query only; gives back the authority of an absolute-form target.
fn to_origin_form(head: &mut request::Parts) -> Option<HeaderValue> {
    head.uri.authority()?;
    let parts = std::mem::take(&mut head.uri).into_parts();
    let authority = parts.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    // RFC 9112, section 3.2.4: `OPTIONS http://host` without a path is about the server as a whole.
    let root = if head.method == Method::OPTIONS { "*" } else { "/" };
    let path = parts.path_and_query.filter(|path| !path.as_str().is_empty() && path.as_str() != "/");
    head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static(root)));
    authority
}

/// Removes what concerns only the connection it came on (RFC 9110, section 7.6.1), and what only a trusted proxy may
/// say. True when the connection was to be closed.
fn strip_request(headers: &mut HeaderMap, trusted: bool) -> bool {
    let (mut te_trailers, mut closes) = (false, false);
    strip(
        headers,
        |name| is_hop_by_hop(name) || client::is_forged(name, trusted),
        |headers, name| {
            if *name == header::TE {
                te_trailers = accepts_trailers(headers);
            } else if *name == header::CONNECTION {
                closes = says_close(headers);
            }
        },
    );
    if te_trailers {
        headers.insert(header::TE, TRAILERS);
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    closes
}

/// Removes the headers that are unwanted, and those that Connection names. One pass to see what is there, so that what
/// is not there costs no look-up; `look` sees each before it goes.
fn strip(
    headers: &mut HeaderMap,
    is_unwanted: impl Fn(&HeaderName) -> bool,
    mut look: impl FnMut(&HeaderMap, &HeaderName),
) {
    let mut unwanted: [Option<HeaderName>; 16] = [const { None }; 16];
    loop {
        let mut found = 0;
        for name in headers.keys().filter(|name| is_unwanted(name)).take(unwanted.len()) {
            unwanted[found] = Some(name.clone());
            found += 1;
        }
        for name in unwanted[..found].iter_mut().filter_map(Option::take) {
            look(headers, &name);
            if name == header::CONNECTION {
                strip_nominated(headers);
            }
            headers.remove(name);
        }
        if found < unwanted.len() {
            break;
        }
    }
}

/// What concerns only a connection. Static: as a constant it would be built anew for every name it is compared with.
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    // Goes with `Upgrade: h2c`; also where Connection, against the rules, does not name it.
    HTTP2_SETTINGS,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Whether the sender closes the connection after this message (RFC 9112, section 9.3).
pub fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"close"))
}

/// Whether the client said `TE: trailers`, the only part of TE that makes sense beyond this hop.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")))
}

/// Removes the headers that Connection names. It may not name what frames, routes or authorizes the message: a client
/// could make us take off what others rely on.
fn strip_nominated(headers: &mut HeaderMap) {
    let simple = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    if headers.get_all(header::CONNECTION).iter().all(simple) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        // Whoever sends TE has to name it here; it goes by itself, and what it says is heard before.
        .filter(|name| !is_protected(name) && *name != header::TE)
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

/// What frames, routes or authorizes a message, or says who sent it.
static PROTECTED: [HeaderName; 11] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::EXPECT,
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::CACHE_CONTROL,
    X_REQUEST_ID,
];

fn is_protected(name: &HeaderName) -> bool {
    PROTECTED.contains(name) || client::is_forwarding(name)
}

/// The comma-separated tokens of a header value.
pub fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// What Content-Length says. Digits only; what else `parse` takes, such as a sign, others do not.
pub fn length(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// An id that can be logged and searched for: visible ASCII, of sane length.
fn usable_id(id: &HeaderValue) -> bool {
    (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// 128 random bits in hex. For telling requests apart, not for keeping secrets.
fn new_id() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut random = fastrand::u128(..);
    let mut text = [0; 32];
    for digit in &mut text {
        *digit = HEX[(random & 15) as usize];
        random >>= 4;
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

/// Whom an answer is for.
#[derive(Debug, Clone, Copy)]
pub struct Recipient {
    /// Whether it reads HTTP/2.
    pub http2: bool,
    /// Whether it came by a preview host.
    pub preview: bool,
    /// For how many seconds Strict-Transport-Security forbids it to come without TLS; nothing in clear, where browsers
    /// do not believe it.
    pub hsts: Option<u64>,
}

/// Turns a backend's answer head into the one the client reads.
pub fn to_client(head: &mut response::Parts, recipient: &Recipient) {
    let headers = &mut head.headers;
    // Whether this was asked for is decided by now: see `is_upgraded`.
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS && !recipient.http2;
    let token = if upgraded { headers.get(header::UPGRADE).cloned() } else { None };
    // RFC 9112, section 6.3: with both, the coding counts; hyper refuses to send both. Behind a 101 there is neither.
    // A 204 has none either (section 8.6 of RFC 9110), and some HTTP/2 clients take one for malformed.
    if headers.contains_key(header::TRANSFER_ENCODING) || upgraded || head.status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
    }
    say_length_once(headers);
    strip(headers, |name| CONNECTIONS_OWN.contains(name), |_, _| {});
    if let Some(token) = token {
        upgrade::say_upgrade(headers, token);
    }
    if recipient.preview {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
    }
    // A backend that speaks about it itself knows better, such as which hosts below it are meant.
    if let Some(seconds) = recipient.hsts
        && let Entry::Vacant(entry) = headers.entry(header::STRICT_TRANSPORT_SECURITY)
        && let Ok(hsts) = HeaderValue::from_maybe_shared(Bytes::from(format!("max-age={seconds}")))
    {
        entry.insert(hsts);
    }
    head.version = if recipient.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
}

/// What in an answer concerns only the connection to the backend; h2 refuses to send an answer with one of them. The
/// coding goes apart.
static CONNECTIONS_OWN: [HeaderName; 6] =
    [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE, header::PROXY_AUTHENTICATE, header::TE];

/// Whether an answer goes on until somebody ends it, rather than until it is complete.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    matches!(after_type(headers, b"text/event-stream"), Some(None | Some(b';' | b' ')))
}

/// Whether a request is a call of gRPC, whose body may be one side of a conversation.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    matches!(after_type(headers, b"application/grpc"), Some(None | Some(b';' | b' ' | b'+')))
}

/// What the body is, if that begins so: the byte behind it, if there is one.
fn after_type(headers: &HeaderMap, beginning: &[u8]) -> Option<Option<u8>> {
    let (begins, rest) = headers.get(header::CONTENT_TYPE)?.as_bytes().split_at_checked(beginning.len())?;
    begins.eq_ignore_ascii_case(beginning).then(|| rest.first().copied())
}

#[cfg(test)]
mod tests;
