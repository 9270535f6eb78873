//! Can what passes be understood in one way only? A client's bytes as hyper reads them, through our refusals, routes
//! and headers, as a backend would get them; a strict reader that shares nothing with us must find the same requests.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::places::{TABLE, place};
use super::wire::{Pieces, finish};
use super::{sizes, strict};
use crate::serve::headers::{self, Sender};
use crate::serve::pool;

/// Who sends, in all targets.
pub(super) const SENDER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(super) static SENDER_TEXT: HeaderValue = HeaderValue::from_static("192.0.2.1");

/// What a backend is sent for one request, and what that must say.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    bytes: Vec<u8>,
    target: String,
    method: String,
    body: Bytes,
    trailers: usize,
    place: Option<(String, bool)>,
}

/// Checks what becomes of a client's bytes.
pub fn request(bytes: &[u8]) {
    let passed = hear(bytes, bytes.len().max(1));
    for size in sizes(bytes) {
        assert_eq!(hear(bytes, size), passed, "in pieces of {size}");
    }
    let sent: Vec<u8> = passed.iter().flat_map(|passed| &passed.bytes).copied().collect();
    let cut = strict::cut(&sent).unwrap_or_else(|why| panic!("a backend was sent a {why}"));
    assert!(!cut.partial, "a backend was sent half a request");
    assert_eq!(cut.requests.len(), passed.len(), "a backend was sent other requests: {:?}", cut.requests);
    for (read, passed) in cut.requests.iter().zip(&passed) {
        check(read, passed);
    }
}

fn check(read: &strict::Request, passed: &Passed) {
    assert_eq!((read.target(), &read.body[..]), (&passed.target[..], &passed.body[..]));
    assert!(read.line.starts_with(&format!("{} ", passed.method)), "{} became {}", passed.method, read.line);
    assert_eq!(read.trailers.len(), passed.trailers);
    // Whom a backend takes it to be for is where it went.
    let host = read.get("host").unwrap_or_default();
    let path = match read.target().split('?').next() {
        Some("*") | None => "/",
        Some(path) => path,
    };
    assert_eq!(place(&host, path), passed.place);
    assert_eq!(place(&host.to_ascii_uppercase(), path), passed.place, "in upper case");
    let client = read.all("x-forwarded-for");
    assert!(client.len() == 1 && client[0].ends_with("192.0.2.1"), "{client:?}");
}

/// What passes of these bytes, when they arrive in pieces of this size.
fn hear(bytes: &[u8], size: usize) -> Vec<Passed> {
    // Ids of requests are the same each time.
    fastrand::seed(1);
    let passed = RefCell::new(Vec::new());
    let trusted = !bytes.len().is_multiple_of(2);
    let service = service_fn(|request| pass(request, trusted, &passed));
    let header_size = TABLE.limits.header_size.get();
    let header_size = usize::try_from(header_size).unwrap_or(usize::MAX);
    let connection = http1::Builder::new()
        .max_buf_size(header_size.max(64 * 1024))
        .max_header_size(header_size)
        .serve_connection(Pieces::new(bytes, size), service);
    // How it ends is the library's business; what has passed is ours.
    let _ended = finish(connection);
    passed.into_inner()
}

async fn pass(
    request: Request<Incoming>,
    trusted: bool,
    passed: &RefCell<Vec<Passed>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (mut head, body) = request.into_parts();
    if headers::refuse(&head).is_err() {
        return Ok(closing(StatusCode::BAD_REQUEST));
    }
    let sender =
        Sender { address: SENDER, text: &SENDER_TEXT, trusted, secure: false, subject: None, forwarded: trusted };
    let client = headers::client(&head, &sender, |address| TABLE.trusts(address));
    let place = place(headers::host(&head), headers::path(&head));
    let ended = body.is_end_stream();
    headers::to_backend(&mut head, &sender, client, None);
    let Ok(body) = body.collect().await else { return Ok(closing(StatusCode::BAD_REQUEST)) };
    let mut trailers = body.trailers().cloned().unwrap_or_default();
    headers::trailers_to_backend(&mut trailers);
    let body = body.to_bytes();
    let (target, method) = (target(&head), head.method.to_string());
    // As `Sending::begin` decides it.
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(headers::length);
    let is_chunked = !ended && length.is_none();
    let bytes = send(&mut head, &body, &trailers, is_chunked);
    let trailers = if is_chunked { trailers.len() } else { 0 };
    passed.borrow_mut().push(Passed { bytes, target, method, body, trailers, place });
    Ok(Response::new(Full::default()))
}

fn closing(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn target(head: &Parts) -> String {
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", head.uri.path())
}

/// The request as it leaves, in the two ways that a body is framed.
fn send(head: &mut Parts, body: &[u8], trailers: &HeaderMap, is_chunked: bool) -> Vec<u8> {
    if !is_chunked {
        return [&pool::fuzz::written(head)[..], body].concat();
    }
    head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    let mut bytes = pool::fuzz::written(head);
    if !body.is_empty() {
        bytes.extend(format!("{:x}\r\n", body.len()).bytes());
        bytes.extend(body);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n");
    for (name, value) in trailers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}
