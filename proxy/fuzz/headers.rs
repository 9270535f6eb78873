//! Does what concerns one connection stay there? Heads that the libraries would never let through are rewritten as
//! well: nothing of a hop must be left, and to rewrite twice must be to rewrite once.
//!
//! The input is text. The first line is a request's method, version and target, or the status of an answer; each
//! further one is a header, `name: value`.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version, request, response};

use super::places::{TABLE, place};
use super::request::{SENDER, SENDER_TEXT};
use super::strict;
use crate::serve::headers::{self, Recipient, Sender};
use crate::serve::pool;

/// What never passes, but for the two that say so themselves.
const HOPS: [&str; 8] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Checks what becomes of a head.
pub fn headers(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(first) = lines.next() else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        let at = line.iter().skip(1).position(|byte| *byte == b':').map_or(line.len(), |at| at + 1);
        let (name, value) = line.split_at(at);
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else { continue };
        headers.append(name, value);
    }
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    match words[..] {
        [status] => {
            if let Ok(status) = StatusCode::from_bytes(status) {
                answer(status, headers);
            }
        }
        [method, version, target] => {
            let version = match version {
                b"1.0" => Version::HTTP_10,
                b"2" => Version::HTTP_2,
                _ => Version::HTTP_11,
            };
            if let (Ok(method), Ok(target)) = (Method::from_bytes(method), Uri::try_from(target)) {
                let (mut head, ()) = Request::new(()).into_parts();
                (head.method, head.version, head.uri, head.headers) = (method, version, target, headers);
                ask(&head);
            }
        }
        _ => {}
    }
}

fn ask(head: &request::Parts) {
    for trusted in [false, true] {
        let sender =
            Sender { address: SENDER, text: &SENDER_TEXT, trusted, secure: false, subject: None, forwarded: !trusted };
        let client = headers::client(head, &sender, |address| TABLE.trusts(address));
        let secure = headers::is_secure(head, &sender);
        let canonical = "a.example.com".parse().expect("a host");
        for location in
            [headers::redirect_https(head, 443).ok().flatten(), headers::canonical(head, &canonical, secure)]
        {
            let location = location.unwrap_or(HeaderValue::from_static("https://"));
            assert!(location.as_bytes().starts_with(b"http"), "{location:?}");
        }
        if headers::refuse(head).is_err() {
            continue;
        }
        let before = place(headers::host(head), headers::path(head));
        let mut once = head.clone();
        headers::to_backend(&mut once, &sender, client, None);
        arrived(&once, client.to_string(), trusted);
        assert_eq!(place(headers::host(&once), headers::path(&once)), before);
        if !trusted {
            let mut twice = once.clone();
            headers::to_backend(&mut twice, &sender, client, None);
            assert_eq!((&twice.headers, &twice.uri, twice.version), (&once.headers, &once.uri, once.version));
        }
        written(once.clone());
        let mut http2 = once;
        if headers::to_http2_backend(&mut http2).is_ok() && http2.version == Version::HTTP_2 {
            assert!(http2.uri.authority().is_some() && !http2.headers.contains_key(header::HOST));
            assert!(HOPS.iter().all(|name| *name == "te" || !http2.headers.contains_key(*name)), "{http2:?}");
        }
    }
}

/// What a backend must not see, and what it must.
fn arrived(head: &request::Parts, client: String, trusted: bool) {
    let all = |name: &str| -> Vec<&[u8]> { head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect() };
    let te = all("te");
    assert!(te.is_empty() || te == [b"trailers"], "{te:?}");
    assert_eq!(all("connection"), if te.is_empty() { vec![] } else { vec![&b"te"[..]] });
    for name in HOPS.iter().filter(|name| !["te", "connection"].contains(name)) {
        assert!(all(name).is_empty(), "{name}");
    }
    assert!(all("host").len() == 1 || (head.version == Version::HTTP_10 && all("host").is_empty()));
    assert!(head.uri.authority().is_none() && head.version <= Version::HTTP_11);
    assert_eq!(all("x-real-ip"), [client.as_bytes()]);
    assert_eq!(all("x-request-id").len(), 1);
    let chain = all("x-forwarded-for");
    assert!(chain.len() == 1 && chain[0].ends_with(SENDER_TEXT.as_bytes()) && (trusted || chain[0].len() == 9));
    // Nobody can say in another way who the client is.
    let reads_as_ours = |name: &HeaderName| {
        let plain = name.as_str().replace('_', "-");
        name.as_str().contains('_') && (plain.starts_with("x-forwarded-") || plain == "x-real-ip")
    };
    assert!(!head.headers.keys().any(reads_as_ours), "{:?}", head.headers);
}

/// The head on the wire says the same to a strict reader.
fn written(mut head: request::Parts) {
    // Framing is not of our making here: the libraries have refused what is wrong with it.
    head.headers.remove(header::CONTENT_LENGTH);
    let bytes = pool::fuzz::written(&head);
    let cut = strict::cut(&bytes).unwrap_or_else(|why| panic!("a backend was sent a {why}"));
    let [read] = &cut.requests[..] else { panic!("{} requests of one", cut.requests.len()) };
    assert!(!cut.partial);
    let fields: Vec<(&str, &[u8])> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    // An empty value and one of spaces only are the same.
    let read: Vec<(&str, &[u8])> = read.fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    assert_eq!(read, fields.iter().map(|(name, value)| (*name, value.trim_ascii())).collect::<Vec<_>>());
}

fn answer(status: StatusCode, headers: HeaderMap) {
    for (http2, preview, hsts) in
        [(false, false, None), (false, true, Some(1)), (true, true, None), (true, false, Some(1))]
    {
        let recipient = Recipient { http2, preview, hsts };
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (status, headers.clone());
        headers::to_client(&mut head, &recipient);
        left(&head, &headers, &recipient);
        let mut twice = head.clone();
        headers::to_client(&mut twice, &recipient);
        assert_eq!(twice.headers, head.headers);
    }
}

/// What a client must not see, and what it must.
fn left(head: &response::Parts, before: &HeaderMap, recipient: &Recipient) {
    let has = |name: &str| head.headers.contains_key(name);
    let upgrades = head.status == StatusCode::SWITCHING_PROTOCOLS && !recipient.http2;
    for name in HOPS {
        // The coding is taken off where the connection has one of its own; HTTP/1.1 goes on with ours.
        let may = (upgrades && ["connection", "upgrade"].contains(&name)) || name == "http2-settings";
        assert!(may || !has(name), "{name}: {head:?}");
    }
    assert!(!(upgrades && has("upgrade")) || has("connection"));
    if before.contains_key(header::TRANSFER_ENCODING) || head.status == StatusCode::NO_CONTENT {
        assert!(!has("content-length"));
    }
    if recipient.preview {
        let all: Vec<_> = head.headers.get_all(header::CACHE_CONTROL).iter().collect();
        assert_eq!(all, ["no-store"]);
    }
    assert!(recipient.hsts.is_none() || has("strict-transport-security"));
}
