//! What does the door itself answer? One small page per failure, in the kind of text that the client wants, the same
//! whether hyper or we write it.

mod accept;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::error::Reason;
use crate::pages::{Kind, Pages};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What a client has said about the answer it wants, and under which id the log knows its request.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// Its Accept header.
    pub accept: Option<&'a HeaderValue>,
    /// The request's id, where it has one and a log that knows it.
    pub request_id: Option<&'a HeaderValue>,
}

/// The answer to a request that failed for this reason; its `Proxy-Status` (RFC 9209) carries the reason's name. The
/// text is the operator's page where there is one of the kind that the client wants.
pub fn to(reason: Reason, pages: &Pages, asked: &Asked<'_>) -> Response<Bytes> {
    let status = reason.status();
    let page = pages.of(status);
    let kind = accept::choose(asked.accept.map(HeaderValue::as_bytes), page.map(|page| page.kind));
    let (text, content_type) = match page {
        Some(page) if page.kind == kind => (page.text.clone(), kind.content_type()),
        _ => built_in(reason, kind, asked.request_id),
    };
    let proxy_status = format!("bgproxy; error={}; details=\"{}\"", reason.proxy_error(), reason.label());
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
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

/// RFC 9457; its `type` is the one that says no more than the status (`about:blank`), which may be left out.
#[derive(Serialize)]
struct Problem<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

fn built_in(reason: Reason, kind: Kind, request_id: Option<&HeaderValue>) -> (Bytes, HeaderValue) {
    let (status, sentence, label) = (reason.status(), reason.sentence(), reason.label());
    match kind {
        Kind::Json => {
            let title = status.canonical_reason().unwrap_or_default();
            let request_id = request_id.and_then(|id| id.to_str().ok());
            let problem = Problem { status: status.as_u16(), title, detail: sentence, reason: label, request_id };
            // There is nothing in it that JSON has no words for.
            let mut text = serde_json::to_vec(&problem).unwrap_or_default();
            text.push(b'\n');
            (text.into(), HeaderValue::from_static("application/problem+json"))
        }
        Kind::Html => {
            let text = format!(
                "<!doctype html>\n\
                 <html lang=\"en\">\n\
                 <meta charset=\"utf-8\">\n\
                 <meta name=\"viewport\" content=\"width=device-width\">\n\
                 <title>{status}</title>\n\
                 <h1>{status}</h1>\n\
                 <p>{sentence} ({label})</p>\n"
            );
            (text.into(), kind.content_type())
        }
        Kind::Text => (format!("{status}: {sentence} ({label})\n").into(), kind.content_type()),
    }
}

/// The same as bytes, for a request that hyper never handed to us; what it would accept is unknown.
pub fn raw(reason: Reason, pages: &Pages) -> Vec<u8> {
    let response = to(reason, pages, &Asked::default());
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
    response.headers_mut().insert(header::CONTENT_TYPE, Kind::Text.content_type());
    response.headers_mut().insert(header::LOCATION, location);
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pages::Page;

    fn plain(reason: Reason) -> Response<Bytes> {
        to(reason, &Pages::default(), &Asked::default())
    }

    fn accepting(accept: &'static str, pages: &Pages) -> (HeaderValue, Bytes) {
        let (accept, request_id) = (HeaderValue::from_static(accept), HeaderValue::from_static("abc"));
        let asked = Asked { accept: Some(&accept), request_id: Some(&request_id) };
        let response = to(Reason::SocketMissing, pages, &asked);
        assert_eq!(response.status(), 502);
        assert!(response.headers()[PROXY_STATUS].to_str().is_ok_and(|status| status.contains("socket_missing")));
        (response.headers()[header::CONTENT_TYPE].clone(), response.into_body())
    }

    #[test]
    fn the_reason_is_in_the_header_and_in_the_text() {
        let text = String::from_utf8(raw(Reason::HeadTooLarge, &Pages::default())).expect("ascii");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        assert!(head.contains("proxy-status: bgproxy; error=http_request_error; details=\"head_too_large\""), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(body, "431 Request Header Fields Too Large: the request head is too large (head_too_large)\n");
    }

    #[test]
    fn an_answer_a_client_may_repeat_says_when() {
        assert_eq!(plain(Reason::BacklogFull).headers()[header::RETRY_AFTER], "1");
        assert!(!plain(Reason::SocketMissing).headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_program_gets_problem_details_and_a_browser_a_page() {
        let (kind, body) = accepting("application/json", &Pages::default());
        assert_eq!(kind, "application/problem+json");
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let expected = json!({
            "status": 502,
            "title": "Bad Gateway",
            "detail": "the backend's socket does not exist",
            "reason": "socket_missing",
            "request_id": "abc",
        });
        assert_eq!(problem, expected);
        let (kind, body) = accepting("text/html", &Pages::default());
        assert_eq!(kind, "text/html; charset=utf-8");
        assert!(body.starts_with(b"<!doctype html>"));
        assert!(body.ends_with(b"<p>the backend's socket does not exist (socket_missing)</p>\n"));
    }

    #[test]
    fn a_page_of_the_operators_is_for_clients_that_take_its_kind() {
        let page = Page { kind: Kind::Html, text: Bytes::from_static(b"<p>soon") };
        let pages = Pages::from_iter([(502, page)]);
        let theirs = (HeaderValue::from_static("text/html; charset=utf-8"), Bytes::from_static(b"<p>soon"));
        for accept in ["text/html", "*/*", "text/*;q=0.1"] {
            assert_eq!(accepting(accept, &pages), theirs, "{accept}");
        }
        assert_eq!(accepting("application/json", &pages).0, "application/problem+json");
        assert_eq!(accepting("text/plain", &pages).0, "text/plain; charset=utf-8");
        // Those who could not say what they accept.
        assert!(raw(Reason::SocketMissing, &pages).ends_with(b"\r\n\r\n<p>soon"));
        // Another status has none.
        assert!(to(Reason::NoRoute, &pages, &Asked::default()).body().starts_with(b"404"));
    }

    #[test]
    fn nothing_in_a_sentence_means_anything_to_a_browser() {
        for reason in Reason::ALL {
            assert!(!reason.sentence().contains(['<', '>', '&']), "{}", reason.label());
        }
    }
}
