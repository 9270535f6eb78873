//! What do headers become on their way through? Refusals, hop-by-hop, who the client is. Pure: no I/O, no state.

use std::net::IpAddr;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Version, request, response};

use super::error::Reason;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");
/// The request's identity, kept when the client sent a usable one, made otherwise.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Refuses what two readers could understand in two ways (RFC 9112, sections 3.2 and 6; what hyper lets pass).
///
/// # Errors
/// The reason, which is answered with a 4xx or 501 and the end of the connection.
pub fn refuse(head: &request::Parts) -> Result<(), Reason> {
    if head.method == Method::CONNECT {
        return Err(Reason::MethodRefused);
    }
    refuse_target(head)?;
    refuse_host(head)?;
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

/// RFC 9112, section 3.2: origin-form, absolute-form with an http authority, or `*` for OPTIONS.
fn refuse_target(head: &request::Parts) -> Result<(), Reason> {
    let uri = &head.uri;
    let valid = match (uri.scheme_str(), uri.authority()) {
        (None, None) => uri.path().starts_with('/') || (uri.path() == "*" && head.method == Method::OPTIONS),
        (Some("http" | "https"), Some(authority)) => is_host(authority.as_str().as_bytes()),
        _ => false,
    };
    if valid { Ok(()) } else { Err(Reason::TargetInvalid) }
}

/// RFC 9112, section 3.2: exactly one valid Host on HTTP/1.1; HTTP/1.0 may have none.
fn refuse_host(head: &request::Parts) -> Result<(), Reason> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match hosts.next() {
        None if head.version == Version::HTTP_10 => Ok(()),
        None => Err(Reason::HostMissing),
        Some(_) if hosts.next().is_some() => Err(Reason::HostSeveral),
        Some(host) if is_host(host.as_bytes()) => Ok(()),
        Some(_) => Err(Reason::HostInvalid),
    }
}

/// Whether this is a host with an optional port. Stricter than RFC 3986's reg-name on purpose: what Django, nginx and
/// browsers agree on, so that nobody behind us reads another host than we did.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, &b""[..]),
    };
    let name_is_valid = match name {
        [b'[', inner @ .., b']'] => {
            inner.contains(&b':') && inner.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        name => {
            !name.is_empty()
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
        }
    };
    name_is_valid && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
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

/// Who sent a request, as far as the door can tell.
#[derive(Debug)]
pub struct Sender<'c> {
    /// The address at the other end of the connection.
    pub address: IpAddr,
    /// The same as a header value, made once per connection.
    pub text: &'c HeaderValue,
    /// Whether its own word on whom it speaks for counts.
    pub trusted: bool,
}

/// Turns a client's request head into the one the backend reads.
///
/// `sized` tells that the body's length is known from Content-Length or that there is no body.
pub fn to_backend(head: &mut request::Parts, sender: &Sender<'_>, trusts: impl Fn(IpAddr) -> bool, sized: bool) {
    let absolute = to_origin_form(head);
    strip_request(&mut head.headers, sender.trusted);
    if let Some(authority) = absolute {
        head.headers.insert(header::HOST, authority);
    }
    // A request without Host can only stay what it was; everything else speaks HTTP/1.1 from here on.
    let named = head.headers.contains_key(header::HOST);
    if head.version == Version::HTTP_10 {
        head.headers.remove(header::EXPECT);
        if named {
            head.version = Version::HTTP_11;
        }
    }
    if !sized {
        // hyper sends no body with GET or HEAD unless told how it is framed.
        head.headers.insert(header::TRANSFER_ENCODING, CHUNKED);
    }
    forwarded(&mut head.headers, sender, trusts);
    if !head.headers.get(X_REQUEST_ID).is_some_and(usable_id) {
        head.headers.insert(X_REQUEST_ID, new_id());
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
/// say. One pass to see what is there, so that what is not there costs no look-up.
fn strip_request(headers: &mut HeaderMap, trusted: bool) {
    let te_trailers = accepts_trailers(headers);
    strip_nominated(headers);
    let mut unwanted: [Option<HeaderName>; 16] = [const { None }; 16];
    loop {
        let mut found = 0;
        for name in headers.keys().filter(|name| is_hop_by_hop(name) || (!trusted && is_forwarding(name))) {
            if found == unwanted.len() {
                break;
            }
            unwanted[found] = Some(name.clone());
            found += 1;
        }
        for name in unwanted[..found].iter_mut().filter_map(Option::take) {
            headers.remove(name);
        }
        if found < unwanted.len() {
            break;
        }
    }
    if te_trailers {
        headers.insert(header::TE, TRAILERS);
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    [
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
    ]
    .contains(name)
}

fn is_forwarding(name: &HeaderName) -> bool {
    // CGI and WSGI programs cannot tell `_` from `-`.
    let is = |name: &str, wanted: &str| {
        name.len() == wanted.len()
            && name.bytes().zip(wanted.bytes()).all(|(byte, wanted)| byte == wanted || (byte == b'_' && wanted == b'-'))
    };
    const PREFIX: &str = "x-forwarded-";
    let name = name.as_str();
    name.get(..PREFIX.len()).is_some_and(|start| is(start, PREFIX)) || is(name, "forwarded") || is(name, "x-real-ip")
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
        .filter(|name| !is_protected(name))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

fn is_protected(name: &HeaderName) -> bool {
    [
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
    ]
    .contains(name)
        || is_forwarding(name)
}

/// The comma-separated tokens of a header value.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Says who the client is: our own word, or a trusted proxy's word and ours behind it.
fn forwarded(headers: &mut HeaderMap, sender: &Sender<'_>, trusts: impl Fn(IpAddr) -> bool) {
    if sender.trusted {
        let chain = chain(headers, sender);
        headers.insert(X_REAL_IP, client_of(&chain, trusts).unwrap_or_else(|| sender.text.clone()));
        headers.insert(X_FORWARDED_FOR, chain);
        if let Entry::Vacant(entry) = headers.entry(X_FORWARDED_PROTO) {
            entry.insert(HTTP);
        }
        if !headers.contains_key(X_FORWARDED_HOST) {
            forward_host(headers);
        }
    } else {
        headers.insert(X_FORWARDED_FOR, sender.text.clone());
        headers.insert(X_REAL_IP, sender.text.clone());
        headers.insert(X_FORWARDED_PROTO, HTTP);
        forward_host(headers);
    }
}

fn forward_host(headers: &mut HeaderMap) {
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// All X-Forwarded-For lines as one, with the sender behind them.
fn chain(headers: &HeaderMap, sender: &Sender<'_>) -> HeaderValue {
    let mut chain = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(sender.text.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(chain)).unwrap_or_else(|_| sender.text.clone())
}

/// The first address from the right that is not a trusted proxy's; the leftmost one when all are.
fn client_of(chain: &HeaderValue, trusts: impl Fn(IpAddr) -> bool) -> Option<HeaderValue> {
    let mut client = None;
    for hop in chain.to_str().ok()?.rsplit(',') {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = Some(address);
        if !trusts(address) {
            break;
        }
    }
    client.and_then(|address| HeaderValue::from_str(&address.to_string()).ok())
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

/// Turns a backend's answer head into the one the client reads.
pub fn to_client(head: &mut response::Parts, preview: bool) {
    let headers = &mut head.headers;
    // RFC 9112, section 6.3: with both, the coding counts; hyper refuses to send both.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
    }
    strip_nominated(headers);
    for name in [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE, header::PROXY_AUTHENTICATE] {
        headers.remove(name);
    }
    if preview {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
    }
    head.version = Version::HTTP_11;
}

/// Whether an answer goes on until somebody ends it, rather than until it is complete.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        const TYPE: &[u8] = b"text/event-stream";
        value.len() >= TYPE.len()
            && value[..TYPE.len()].eq_ignore_ascii_case(TYPE)
            && matches!(value.get(TYPE.len()), None | Some(b';' | b' '))
    })
}

#[cfg(test)]
mod tests;
