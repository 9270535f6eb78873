//! Who is the client? The sender, or whom a trusted proxy speaks for; and the headers that tell the backend.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::request;

const FORWARDED: HeaderName = header::FORWARDED;
const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Who sent a request, as far as the door can tell: the other end of the connection, or whom the PROXY protocol named.
#[derive(Debug)]
pub struct Sender<'c> {
    /// Its address; an IPv4 address is one, even where the socket speaks IPv6.
    pub address: IpAddr,
    /// The same as a header value, made once per connection.
    pub text: &'c HeaderValue,
    /// Whether its own word on whom it speaks for counts.
    pub trusted: bool,
    /// Whether it came over TLS.
    pub secure: bool,
    /// The subject of its certificate, if it was asked for one and we verified it.
    pub subject: Option<&'c HeaderValue>,
    /// Whether backends also get `Forwarded` (RFC 7239).
    pub forwarded: bool,
}

/// Who the client is: for logs, limits and headers, always this one. The sender; if that is a trusted proxy, the first
/// address from the right of X-Forwarded-For that is none. What is no address ends the search at the proxy that wrote
/// it down: nobody whom we trust vouches for what stands left of it.
pub fn client(head: &request::Parts, sender: &Sender<'_>, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = sender.address.to_canonical();
    if !sender.trusted {
        return client;
    }
    let lines = head.headers.get_all(X_FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    for hop in hops.filter(|hop| !hop.is_empty()) {
        let Some(address) = address(hop) else { break };
        client = address;
        if !trusts(address) {
            break;
        }
    }
    client
}

/// One entry of X-Forwarded-For: an address, as some proxies write it with a port or in brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    let bare = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let address = hop.parse::<IpAddr>().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|hop| hop.ip()));
    address.or_else(bare).map(|address| address.to_canonical())
}

/// Whether the client came over TLS, to us or to a trusted proxy in front of us.
pub fn is_secure(head: &request::Parts, sender: &Sender<'_>) -> bool {
    let said = || head.headers.get_all(X_FORWARDED_PROTO).iter().next_back();
    sender.secure || (sender.trusted && said().is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https")))
}

/// Whether a header speaks about who the client is, which only the door and, in part, trusted proxies may do.
pub(super) fn is_forwarding(name: &HeaderName) -> bool {
    const PREFIX: &str = "x-forwarded-";
    let name = name.as_str();
    if !name.starts_with(['f', 'x']) {
        return false;
    }
    name.get(..PREFIX.len()).is_some_and(|start| reads_as(start, PREFIX))
        || ["forwarded", "x-real-ip", "x-client-cert-subject"].iter().any(|wanted| reads_as(name, wanted))
}

/// Whether this header of the request goes because of who sent it.
pub(super) fn is_forged(name: &HeaderName, trusted: bool) -> bool {
    // Even a trusted proxy sends on what it does not know: names with `_` instead of `-`, which it sees as others, and
    // the certificate's subject, which is our own invention.
    is_forwarding(name) && (!trusted || *name == X_CLIENT_CERT_SUBJECT || name.as_str().contains('_'))
}

/// CGI and WSGI programs cannot tell `_` from `-`.
fn reads_as(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len()
        && name.bytes().zip(wanted.bytes()).all(|(byte, wanted)| byte == wanted || (byte == b'_' && wanted == b'-'))
}

/// Says who the client is: our own word, or a trusted proxy's word and ours behind it. What was forged is gone already.
pub(super) fn introduce(headers: &mut HeaderMap, sender: &Sender<'_>, client: IpAddr) {
    let proto = if sender.secure { HTTPS } else { HTTP };
    if sender.forwarded {
        let element = element(headers, sender, &proto);
        extend(headers, FORWARDED, element);
    }
    extend(headers, X_FORWARDED_FOR, sender.text.clone());
    headers.insert(X_REAL_IP, if client == sender.address { sender.text.clone() } else { text(client) });
    if let Entry::Vacant(entry) = headers.entry(X_FORWARDED_PROTO) {
        entry.insert(proto);
    }
    if let Some(host) = headers.get(header::HOST).cloned()
        && let Entry::Vacant(entry) = headers.entry(X_FORWARDED_HOST)
    {
        entry.insert(host);
    }
    if let Some(subject) = sender.subject {
        headers.insert(X_CLIENT_CERT_SUBJECT, subject.clone());
    }
}

/// An address as a header value.
pub fn text(address: IpAddr) -> HeaderValue {
    // An address is always a valid header value.
    HeaderValue::from_str(&address.to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// All lines of a list as one, with the newest entry behind them.
fn extend(headers: &mut HeaderMap, name: HeaderName, newest: HeaderValue) {
    let mut entry = match headers.entry(name) {
        Entry::Occupied(entry) => entry,
        Entry::Vacant(entry) => {
            entry.insert(newest);
            return;
        }
    };
    let mut list = Vec::new();
    for line in entry.iter().filter(|line| !line.is_empty()) {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(newest.as_bytes());
    entry.insert(HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or(newest));
}

/// Our own element of Forwarded (RFC 7239, section 4). A value that is no token is quoted: with `:` or brackets.
fn element(headers: &HeaderMap, sender: &Sender<'_>, proto: &HeaderValue) -> HeaderValue {
    let mut element = Vec::with_capacity(128);
    element.extend_from_slice(b"for=");
    let address = sender.text.as_bytes();
    if address.contains(&b':') {
        element.extend_from_slice(b"\"[");
        element.extend_from_slice(address);
        element.extend_from_slice(b"]\"");
    } else {
        element.extend_from_slice(address);
    }
    // Host was refused if it had a character that would have to be escaped.
    if let Some(host) = headers.get(header::HOST).map(HeaderValue::as_bytes).filter(|host| !host.is_empty()) {
        let quote: &[u8] = if host.iter().any(|byte| matches!(byte, b':' | b'[' | b']')) { b"\"" } else { b"" };
        for part in [b";host=", quote, host, quote] {
            element.extend_from_slice(part);
        }
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(proto.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(element)).unwrap_or(HeaderValue::from_static("for=unknown"))
}
