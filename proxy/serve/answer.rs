//! What does the door itself answer? One small page per failure, the same whether hyper or we write it.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};

use super::error::Reason;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The answer to a request that failed for this reason; its `Proxy-Status` (RFC 9209) carries the reason's name.
pub fn to(reason: Reason) -> Response<Bytes> {
    let status = reason.status();
    let text = format!("{status}: {} ({})\n", reason.sentence(), reason.label());
    let proxy_status = format!("bgproxy; error={}; details=\"{}\"", reason.proxy_error(), reason.label());
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Both parts are tokens of ours.
    headers.insert(
        PROXY_STATUS,
        HeaderValue::from_maybe_shared(Bytes::from(proxy_status)).unwrap_or(HeaderValue::from_static("bgproxy")),
    );
    if let Some(seconds) = reason.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    if reason.closes() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same as bytes, for a request that hyper never handed to us.
pub fn raw(reason: Reason) -> Vec<u8> {
    let response = to(reason);
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let length = response.body().len();
    bytes.extend_from_slice(format!("date: {date}\r\ncontent-length: {length}\r\n\r\n").as_bytes());
    bytes.extend_from_slice(response.body());
    bytes
}

/// Sends a client to where it should have asked, with the same method and body (RFC 9110, section 15.4.9).
pub fn redirect(location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"308 Permanent Redirect\n"));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response.headers_mut().insert(header::LOCATION, location);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_in_the_header_and_in_the_text() {
        let text = String::from_utf8(raw(Reason::HeadTooLarge)).expect("ascii");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        assert!(head.contains("proxy-status: bgproxy; error=http_request_error; details=\"head_too_large\""), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(body, "431 Request Header Fields Too Large: the request head is too large (head_too_large)\n");
    }

    #[test]
    fn an_answer_a_client_may_repeat_says_when() {
        assert_eq!(to(Reason::BacklogFull).headers()[header::RETRY_AFTER], "1");
        assert!(!to(Reason::SocketMissing).headers().contains_key(header::RETRY_AFTER));
    }
}
