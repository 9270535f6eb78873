//! Each refusal and each rewriting, by example.

use super::*;
use http::Request;

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| *name != X_REQUEST_ID)
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines
}

fn sent(mut head: request::Parts, trusted: bool) -> request::Parts {
    let text = HeaderValue::from_static("203.0.113.9");
    let sender = Sender { address: IpAddr::from([203, 0, 113, 9]), text: &text, trusted };
    to_backend(&mut head, &sender, |address| address.is_loopback() || address == sender.address, true);
    head
}

#[test]
fn hosts_are_what_browsers_and_django_agree_on() {
    for good in ["a", "a.example.com", "a:80", "[::1]", "[::1]:8080", "10.0.0.1:1", "a_b.c", "xn--bcher-kva.de", "a:"] {
        assert!(is_host(good.as_bytes()), "{good} is a host");
    }
    for bad in ["", ":80", "a b", "a,b", "a/b", "a@b", "a:b", "a:123456", "[::1", "::1", "a\u{fc}", "[a]", "a?b", "a#"]
    {
        assert!(!is_host(bad.as_bytes()), "{bad:?} is no host");
    }
}

#[test]
fn ambiguous_requests_are_refused_with_their_reason() {
    let cases = [
        (head("GET", "/", &[]), Some(Reason::HostMissing)),
        (head("GET", "/", &[("host", "a")]), None),
        (head("GET", "/", &[("host", "a"), ("host", "a")]), Some(Reason::HostSeveral)),
        (head("GET", "/", &[("host", "a b")]), Some(Reason::HostInvalid)),
        (head("GET", "http://b/", &[("host", "a")]), None),
        (head("GET", "http://u@b/", &[("host", "a")]), Some(Reason::TargetInvalid)),
        (head("GET", "ftp://b/", &[("host", "a")]), Some(Reason::TargetInvalid)),
        (head("GET", "*", &[("host", "a")]), Some(Reason::TargetInvalid)),
        (head("OPTIONS", "*", &[("host", "a")]), None),
        (head("GET", "b:80", &[("host", "a")]), Some(Reason::TargetInvalid)),
        (head("CONNECT", "b:80", &[("host", "a")]), Some(Reason::MethodRefused)),
        (head("POST", "/", &[("host", "a"), ("transfer-encoding", "chunked")]), None),
        (head("POST", "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")]), Some(Reason::CodingUnknown)),
        (head("POST", "/", &[("host", "a"), ("expect", "100-Continue")]), None),
        (head("POST", "/", &[("host", "a"), ("expect", "coffee")]), Some(Reason::ExpectationUnknown)),
    ];
    for (head, expected) in cases {
        assert_eq!(refuse(&head).err(), expected, "{head:?}");
    }
}

#[test]
fn hop_by_hop_headers_end_here_and_connection_cannot_take_off_what_matters() {
    let head = sent(
        head(
            "GET",
            "/",
            &[
                ("host", "a"),
                ("connection", "close, X-Secret, Host, authorization, x-forwarded-for"),
                ("x-secret", "1"),
                ("authorization", "Basic x"),
                ("keep-alive", "5"),
                ("proxy-connection", "keep-alive"),
                ("upgrade", "h2c"),
                ("te", "gzip, Trailers"),
                ("cookie", "a=b"),
            ],
        ),
        false,
    );
    assert_eq!(
        lines(&head.headers),
        [
            "authorization: Basic x",
            "connection: te",
            "cookie: a=b",
            "host: a",
            "te: trailers",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: a",
            "x-forwarded-proto: http",
            "x-real-ip: 203.0.113.9",
        ]
    );
}

#[test]
fn more_unwanted_headers_than_fit_one_pass_are_all_removed() {
    let names: Vec<String> = (0..40).map(|n| format!("x-forwarded-{n}")).collect();
    let mut list = vec![("host", "a")];
    list.extend(names.iter().map(|name| (name.as_str(), "forged")));
    let head = sent(head("GET", "/", &list), false);
    assert!(!lines(&head.headers).iter().any(|line| line.contains("forged")));
}

#[test]
fn a_strangers_word_on_who_the_client_is_is_replaced() {
    let forged = [
        ("host", "a"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-real-ip", "1.1.1.1"),
        ("forwarded", "for=1"),
        ("x_forwarded-for", "1.1.1.1"),
        ("x_real_ip", "1.1.1.1"),
    ];
    let head = sent(head("GET", "/", &forged), false);
    assert_eq!(head.headers["x-forwarded-for"], "203.0.113.9");
    assert_eq!(head.headers["x-real-ip"], "203.0.113.9");
    for name in ["forwarded", "x_forwarded-for", "x_real_ip"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
}

#[test]
fn a_trusted_proxys_word_is_kept_and_extended() {
    let chain = [
        ("host", "a"),
        ("x-forwarded-for", "9.9.9.9, 8.8.8.8"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "public"),
    ];
    let head = sent(head("GET", "/", &chain), true);
    assert_eq!(head.headers["x-forwarded-for"], "9.9.9.9, 8.8.8.8, 127.0.0.1, 203.0.113.9");
    assert_eq!(head.headers["x-real-ip"], "8.8.8.8");
    assert_eq!(head.headers["x-forwarded-proto"], "https");
    assert_eq!(head.headers["x-forwarded-host"], "public");
}

#[test]
fn an_absolute_target_becomes_a_path_and_its_authority_the_host() {
    let head = sent(head("GET", "http://b:81/x?y=", &[("host", "a")]), false);
    assert_eq!(head.uri.to_string(), "/x?y=");
    assert_eq!(head.headers["host"], "b:81");
}

#[test]
fn request_ids_are_kept_when_usable_and_made_otherwise() {
    let id =
        |value| sent(head("GET", "/", &[("host", "a"), ("x-request-id", value)]), false).headers[X_REQUEST_ID].clone();
    assert_eq!(id("abc-1"), "abc-1");
    assert_eq!(id("a b").len(), 32);
    assert_eq!(id("").len(), 32);
    assert_eq!(id(&"x".repeat(129)).len(), 32);
}

#[test]
fn event_streams_are_known_by_their_type() {
    let of = |value| is_event_stream(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]));
    assert!(of("text/event-stream"));
    assert!(of("Text/Event-Stream; charset=utf-8"));
    assert!(!of("text/event-streams"));
    assert!(!of("text/plain"));
}
