//! Each refusal and each rewriting, by example.

use std::net::Ipv4Addr;

use bgproxy_conf::{Host, UpgradeToken};
use http::{Request, Response};
use proptest::prelude::*;

use super::refuse::is_host;
use super::*;

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

const SENDER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

/// The sender at the other end, in clear.
fn sender(text: &HeaderValue, trusted: bool) -> Sender<'_> {
    Sender { address: SENDER, text, trusted, secure: false, subject: None, forwarded: false }
}

fn trusts(address: IpAddr) -> bool {
    address.is_loopback() || address == SENDER
}

fn sent_by(mut head: request::Parts, sender: &Sender<'_>) -> request::Parts {
    let client = client(&head, sender, trusts);
    to_backend(&mut head, sender, client, None);
    head
}

fn sent(head: request::Parts, trusted: bool) -> request::Parts {
    sent_by(head, &sender(&text(SENDER), trusted))
}

/// A request as h2 hands it over.
fn http2(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut head = head(method, uri, headers);
    head.version = Version::HTTP_2;
    head
}

fn answer(status: u16, headers: &[(&str, &str)]) -> response::Parts {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).expect("an answer").into_parts().0
}

const PLAIN: Recipient = Recipient { http2: false, preview: false, hsts: None };

fn websocket() -> Vec<UpgradeToken> {
    vec![UpgradeToken::websocket()]
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

/// Names of trailers that pass.
fn trailing(strip: fn(&mut HeaderMap), names: &[&'static str]) -> Vec<String> {
    let pairs = names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
    let mut trailers: HeaderMap = pairs.collect();
    strip(&mut trailers);
    trailers.keys().map(ToString::to_string).collect()
}

#[test]
fn trailers_of_a_request_do_not_say_what_its_head_must() {
    let forged = ["x-forwarded-for", "x_real_ip", "forwarded", "x-client-cert-subject", "x-client_cert_subject"];
    let framing = ["connection", "transfer-encoding", "content-length", "host", "te", "upgrade", "trailer"];
    let others = ["authorization", "cookie", "x-request-id", "content-type"];
    assert_eq!(trailing(trailers_to_backend, &[&forged[..], &framing, &others, &["x-sum"]].concat()), ["x-sum"]);
}

#[test]
fn trailers_of_an_answer_say_nothing_about_the_connection() {
    let names = ["grpc-status", "connection", "keep-alive", "transfer-encoding", "content-length", "x-request-id"];
    assert_eq!(trailing(trailers_to_client, &names), ["grpc-status", "x-request-id"], "gRPC's own pass");
}

#[test]
fn a_length_is_said_once() {
    let twice = [("content-length", "5"), ("content-length", "5")];
    let head = sent(http2("POST", "http://a/", &twice), false);
    assert_eq!(head.headers.get_all(header::CONTENT_LENGTH).iter().count(), 1);
    let mut head = answer(200, &twice);
    to_client(&mut head, &PLAIN);
    assert_eq!(lines(&head.headers), ["content-length: 5"]);
    let mut head = answer(204, &twice);
    to_client(&mut head, &PLAIN);
    assert_eq!(lines(&head.headers), [""; 0], "where there is no body there is no length");
}

#[test]
fn an_upgrade_has_no_length() {
    let mut head = http2("CONNECT", "http://a/", &[("content-length", "5")]);
    let token = HeaderValue::from_static("websocket");
    begin_upgrade(&mut head, &token);
    to_backend(&mut head, &sender(&text(SENDER), false), SENDER, Some(token));
    assert_eq!(head.headers.get(header::CONTENT_LENGTH), None, "what follows a 101 is no body");
}

#[test]
fn a_client_that_says_close_says_that_nothing_follows() {
    let is_last = |connection: &[(&str, &str)]| {
        let text = text(SENDER);
        to_backend(&mut head("GET", "/", connection), &sender(&text, false), SENDER, None)
    };
    assert!(is_last(&[("connection", "close")]) && is_last(&[("connection", "te, Close")]));
    assert!(is_last(&[("connection", "keep-alive"), ("connection", "close")]));
    assert!(!is_last(&[]) && !is_last(&[("connection", "keep-alive")]) && !is_last(&[("te", "close")]));
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

// As it must be said: with Connection before it, as most clients write it, it was taken off unheard.
#[test]
fn a_client_that_accepts_trailers_may_say_so_in_any_order() {
    let (te, connection) = (("te", "trailers"), ("connection", "te"));
    for said in [[te, connection], [connection, te]] {
        let head = sent(head("GET", "/", &[&[("host", "a")], &said[..]].concat()), false);
        let (te, connection) = (head.headers.get("te"), head.headers.get("connection"));
        assert!(te.is_some_and(|te| te == "trailers") && connection.is_some_and(|it| it == "te"), "{said:?}");
    }
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
fn what_a_trusted_proxy_sends_on_unseen_is_removed() {
    let unseen = [("host", "a"), ("x_forwarded_for", "1.1.1.1"), ("x-client-cert-subject", "CN=admin")];
    let head = sent(head("GET", "/", &unseen), true);
    for name in ["x_forwarded_for", "x-client-cert-subject"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
}

#[test]
fn the_client_is_the_first_from_the_right_who_is_no_trusted_proxy() {
    let of = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        client(&head("GET", "/", &lines), &sender(&text(SENDER), true), trusts).to_string()
    };
    assert_eq!(of(&[]), "203.0.113.9");
    assert_eq!(of(&["9.9.9.9, 8.8.8.8"]), "8.8.8.8");
    assert_eq!(of(&["9.9.9.9", "8.8.8.8, 127.0.0.1"]), "8.8.8.8", "lines are one list");
    assert_eq!(of(&["127.0.0.2, 127.0.0.1"]), "127.0.0.2", "all of them are trusted: the first");
    assert_eq!(of(&["8.8.8.8:567"]), "8.8.8.8", "with a port");
    assert_eq!(of(&["[2001:db8::1]:80"]), "2001:db8::1", "with brackets and a port");
    assert_eq!(of(&["[2001:db8::1]"]), "2001:db8::1", "with brackets");
    assert_eq!(of(&["2001:db8::1"]), "2001:db8::1");
    assert_eq!(of(&["9.9.9.9,[::ffff:127.0.0.1]:1"]), "9.9.9.9", "an IPv4 address in IPv6 clothes");
    assert_eq!(of(&["9.9.9.9, , 127.0.0.1,"]), "9.9.9.9", "empty entries say nothing");
    for garbage in ["unknown", "_hidden", "8.8.8.8:x", "8.8.8.8:70000", "[::1", "fe80::1%eth0", "8.8.8", "\"8.8.8.8\""]
    {
        assert_eq!(of(&[&format!("9.9.9.9, {garbage}")]), "203.0.113.9", "{garbage} was written by the sender");
        assert_eq!(of(&[&format!("9.9.9.9, {garbage}, 127.0.0.1")]), "127.0.0.1", "{garbage} was written by 127.0.0.1");
    }
    let forged = head("GET", "/", &[("x-forwarded-for", "8.8.8.8")]);
    assert_eq!(client(&forged, &sender(&text(SENDER), false), trusts), SENDER);
}

#[test]
fn the_backend_is_told_the_client_that_the_log_is_told() {
    let chain = [("host", "a"), ("x-forwarded-for", "9.9.9.9, [2001:db8::1]:80, 127.0.0.1")];
    let head = sent(head("GET", "/", &chain), true);
    assert_eq!(head.headers["x-real-ip"], "2001:db8::1");
    assert_eq!(head.headers["x-forwarded-for"], "9.9.9.9, [2001:db8::1]:80, 127.0.0.1, 203.0.113.9");
}

#[test]
fn what_came_over_tls_is_https_and_names_the_certificates_subject() {
    let (text, subject) = (text(SENDER), HeaderValue::from_static("CN=jane"));
    let sender = Sender { secure: true, subject: Some(&subject), ..sender(&text, false) };
    let forged = [("host", "a"), ("x-client-cert-subject", "CN=admin"), ("x_client_cert-subject", "CN=admin")];
    let head = sent_by(head("GET", "http://a/", &forged), &sender);
    assert_eq!(head.headers["x-forwarded-proto"], "https");
    assert_eq!(head.headers["x-client-cert-subject"], "CN=jane");
    assert!(!lines(&head.headers).iter().any(|line| line.contains("admin")));
}

#[test]
fn the_scheme_of_a_target_is_not_believed() {
    let head = sent(head("GET", "https://a/", &[("host", "a")]), false);
    assert_eq!(head.headers["x-forwarded-proto"], "http");
}

#[test]
fn tls_in_front_of_a_trusted_proxy_counts_for_redirects() {
    let https = head("GET", "/", &[("host", "a"), ("x-forwarded-proto", "HTTPS")]);
    let text = text(SENDER);
    assert!(is_secure(&https, &sender(&text, true)));
    assert!(!is_secure(&https, &sender(&text, false)));
    assert!(!is_secure(&head("GET", "/", &[]), &sender(&text, true)));
    assert!(is_secure(&head("GET", "/", &[]), &Sender { secure: true, ..sender(&text, false) }));
}

#[test]
fn forwarded_is_said_when_asked_for() {
    let say = |address: &str, host: &str, own: &str, trusted| {
        let address: IpAddr = address.parse().expect("an address");
        let text = text(address);
        let sender = Sender { address, forwarded: true, ..sender(&text, trusted) };
        let head = sent_by(head("GET", "/", &[("host", host), ("forwarded", own)]), &sender);
        assert_eq!(head.headers.get_all("forwarded").iter().count(), 1);
        head.headers["forwarded"].to_str().expect("text").to_owned()
    };
    assert_eq!(say("203.0.113.9", "a.example", "for=1", false), "for=203.0.113.9;host=a.example;proto=http");
    assert_eq!(say("2001:db8::1", "[::1]:80", "for=1", false), r#"for="[2001:db8::1]";host="[::1]:80";proto=http"#);
    assert_eq!(say("203.0.113.9", "a:80", "for=1", true), r#"for=1, for=203.0.113.9;host="a:80";proto=http"#);
    assert_eq!(say("::ffff:203.0.113.9", "a", "", true), "for=203.0.113.9;host=a;proto=http");
}

#[test]
fn an_http2_request_names_its_host_once() {
    let reason = |uri, hosts: &[&str]| {
        let hosts: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        refuse(&http2("GET", uri, &hosts)).err()
    };
    assert_eq!(reason("https://a/", &[]), None);
    assert_eq!(reason("/", &["a"]), None);
    assert_eq!(reason("https://a:1/", &["A:1"]), None);
    assert_eq!(reason("/", &[]), Some(Reason::HostMissing));
    assert_eq!(reason("https://a/", &["b"]), Some(Reason::HostsDiffer));
    assert_eq!(reason("https://a/", &["a:443"]), Some(Reason::HostsDiffer));
    assert_eq!(reason("https://a/", &["a", "a"]), Some(Reason::HostSeveral));
    assert_eq!(reason("https://u@a/", &[]), Some(Reason::HostInvalid));
    assert_eq!(reason("ftp://a/", &[]), Some(Reason::TargetInvalid));
}

#[test]
fn connect_is_refused_unless_it_opens_a_stream_for_another_protocol() {
    let tunnel = http2("CONNECT", "b:80", &[]);
    assert_eq!((refuse(&tunnel).err(), protocol(&tunnel)), (Some(Reason::MethodRefused), None));
    let mut websocket = http2("CONNECT", "https://a/chat", &[]);
    websocket.extensions.insert(h2::ext::Protocol::from_static("websocket"));
    assert_eq!((refuse(&websocket).err(), protocol(&websocket)), (None, Some("websocket")));
}

#[test]
fn an_http2_request_is_put_into_http1_words() {
    let from = [
        ("cookie", "a=1"),
        ("x", "y"),
        ("cookie", "b=2; c=3"),
        ("te", "trailers"),
        ("expect", "100-continue"),
        ("cookie", "d=4"),
    ];
    let head = sent(http2("GET", "https://A:1/x?y", &from), false);
    assert_eq!((head.version, head.uri.to_string().as_str()), (Version::HTTP_11, "/x?y"));
    assert_eq!(
        lines(&head.headers),
        [
            "connection: te",
            "cookie: a=1; b=2; c=3; d=4",
            "host: A:1",
            "te: trailers",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: A:1",
            "x-forwarded-proto: http",
            "x-real-ip: 203.0.113.9",
            "x: y",
        ]
    );
    let mut options = http2("OPTIONS", "/", &[]);
    let mut parts = http::uri::Parts::default();
    (parts.scheme, parts.authority) = (Some(Scheme::HTTPS), Some(Authority::from_static("a")));
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    options.uri = Uri::from_parts(parts).expect("a target");
    assert_eq!(refuse(&options), Ok(()));
    assert_eq!(sent(options, false).uri.to_string(), "*");
}

#[test]
fn cookie_lines_of_http1_pass_as_they_are() {
    let head = sent(head("GET", "/", &[("host", "a"), ("cookie", "a=1"), ("cookie", "b=2")]), false);
    assert_eq!(head.headers.get_all("cookie").iter().count(), 2);
}

#[test]
fn an_http2_backend_is_spoken_to_in_its_words() {
    let from = [("host", "a:1"), ("te", "trailers"), ("expect", "100-continue"), ("keep-alive", "5")];
    let mut head = sent(head("POST", "/x?y", &from), false);
    head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    to_http2_backend(&mut head).expect("a request");
    assert_eq!((head.version, head.uri.to_string().as_str()), (Version::HTTP_2, "http://a:1/x?y"));
    assert_eq!(
        lines(&head.headers),
        [
            "expect: 100-continue",
            "te: trailers",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: a:1",
            "x-forwarded-proto: http",
            "x-real-ip: 203.0.113.9",
        ]
    );
    let mut old = self::head("GET", "/", &[]);
    old.version = Version::HTTP_10;
    let mut old = sent(old, false);
    to_http2_backend(&mut old).expect("a request");
    assert_eq!((old.version, old.uri.authority()), (Version::HTTP_10, None), "it has no host, and none is made up");
    let mut all = sent(self::head("OPTIONS", "*", &[("host", "a")]), false);
    to_http2_backend(&mut all).expect("a request");
    assert_eq!(all.uri.path(), "*");
}

#[test]
fn an_upgrade_is_one_that_is_allowed_and_has_no_body() {
    let asks = |method, headers: &[(&str, &str)]| {
        let head = head(method, "/", headers);
        upgrade(&head, &websocket()).map(|token| token.to_str().expect("a token").to_owned())
    };
    let (connection, token) = (("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"));
    assert_eq!(asks("GET", &[connection, token]).as_deref(), Some("WebSocket"));
    assert_eq!(asks("POST", &[connection, token, ("content-length", "0")]).as_deref(), Some("WebSocket"));
    assert_eq!(asks("GET", &[token]), None, "Connection does not name it");
    assert_eq!(asks("GET", &[connection]), None);
    assert_eq!(asks("GET", &[connection, ("upgrade", "h2c")]), None);
    assert_eq!(asks("GET", &[connection, ("upgrade", "websocket, h2c")]), None);
    assert_eq!(asks("GET", &[connection, token, token]), None);
    assert_eq!(asks("HEAD", &[connection, token]), None);
    assert_eq!(asks("POST", &[connection, token, ("content-length", "3")]), None);
    assert_eq!(asks("POST", &[connection, token, ("transfer-encoding", "chunked")]), None);
    for version in [Version::HTTP_10, Version::HTTP_2] {
        let mut head = head("GET", "/", &[connection, token]);
        head.version = version;
        assert_eq!(upgrade(&head, &websocket()), None, "{version:?}");
    }
    assert_eq!(upgrade(&head("GET", "/", &[connection, token]), &[]), None, "nothing is allowed");
}

#[test]
fn an_upgrade_reaches_the_backend_and_its_agreement_the_client() {
    let asked = [
        ("host", "a"),
        ("connection", "Upgrade, x-secret, te"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("x-secret", "1"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
    ];
    let mut head = head("GET", "/", &asked);
    let token = upgrade(&head, &websocket()).expect("an upgrade");
    let text = text(SENDER);
    to_backend(&mut head, &sender(&text, false), SENDER, Some(token.clone()));
    let kept: Vec<_> = lines(&head.headers).into_iter().filter(|line| !line.starts_with("x-forwarded")).collect();
    assert_eq!(kept, ["connection: upgrade", "host: a", "upgrade: websocket", "x-real-ip: 203.0.113.9"]);

    let agrees = |status, headers: &[(&str, &str)]| is_upgraded(&answer(status, headers), &token);
    let (connection, agreed) = (("connection", "Upgrade"), ("upgrade", "WebSocket"));
    assert!(agrees(101, &[connection, agreed]));
    assert!(!agrees(200, &[connection, agreed]));
    assert!(!agrees(101, &[agreed]));
    assert!(!agrees(101, &[connection]));
    assert!(!agrees(101, &[connection, ("upgrade", "h2c")]));
    assert!(!agrees(101, &[connection, agreed, ("upgrade", "h2c")]));

    let mut answer = answer(101, &[connection, agreed, ("keep-alive", "5"), ("content-length", "7"), ("x", "y")]);
    to_client(&mut answer, &PLAIN);
    assert_eq!(lines(&answer.headers), ["connection: upgrade", "upgrade: WebSocket", "x: y"]);
}

#[test]
fn an_answer_loses_what_belongs_to_the_backends_connection() {
    let from = [
        ("connection", "x-hop, upgrade"),
        ("x-hop", "1"),
        ("keep-alive", "5"),
        ("upgrade", "h2c"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
        ("x", "y"),
    ];
    for http2 in [false, true] {
        // No upgrade exists on HTTP/2, so not even a 101 keeps anything.
        let mut head = answer(if http2 { 101 } else { 200 }, &from);
        to_client(&mut head, &Recipient { http2, ..PLAIN });
        assert_eq!(lines(&head.headers), ["x: y"]);
        assert_eq!(head.version, if http2 { Version::HTTP_2 } else { Version::HTTP_11 });
    }
}

#[test]
fn an_answer_over_tls_says_hsts_unless_the_backend_does() {
    let recipient = Recipient { hsts: Some(60), ..PLAIN };
    for (own, expected) in [(vec![], "max-age=60"), (vec![("strict-transport-security", "max-age=1")], "max-age=1")] {
        let mut head = answer(200, &own);
        to_client(&mut head, &recipient);
        assert_eq!(lines(&head.headers), [format!("strict-transport-security: {expected}")]);
    }
}

#[test]
fn a_preview_is_neither_stored_nor_indexed() {
    let mut head = answer(200, &[("cache-control", "public")]);
    to_client(&mut head, &Recipient { preview: true, ..PLAIN });
    assert_eq!(lines(&head.headers), ["cache-control: no-store", "x-robots-tag: noindex"]);
}

#[test]
fn requests_in_clear_are_sent_to_tls() {
    let to = |host: &str, target: &str, port| {
        let location = redirect_https(&head("GET", target, &[("host", host)]), port);
        location.map(|location| location.map(|location| location.to_str().expect("text").to_owned()))
    };
    let location = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(to("a", "/x?y=1", 443), location("https://a/x?y=1"));
    assert_eq!(to("a:80", "/", 8443), location("https://a:8443/"));
    assert_eq!(to("[::1]:80", "//evil", 443), location("https://[::1]//evil"));
    assert_eq!(to("[::1]", "/", 443), location("https://[::1]/"));
    assert_eq!(to("a", "http://b?q", 443), location("https://b/?q"), "the target's authority counts");
    let challenge = "/.well-known/acme-challenge/";
    assert_eq!(to("a", &format!("{challenge}to-k_en"), 443), Ok(None));
    for outside in ["", "..", "../x", "a/../../x", "%2e%2e", "a/b"] {
        let target = format!("{challenge}{outside}");
        assert_eq!(to("a", &target, 443), location(&format!("https://a{target}")));
    }
    assert_eq!(to("a", "/.well-known/acme-challengex", 443), location("https://a/.well-known/acme-challengex"));
    assert_eq!(redirect_https(&head("GET", "/", &[]), 443), Err(Reason::HostMissing));
    assert_eq!(
        redirect_https(&head("OPTIONS", "*", &[("host", "a")]), 443),
        Ok(Some(HeaderValue::from_static("https://a/")))
    );
}

#[test]
fn requests_for_another_host_are_sent_to_the_canonical_one() {
    let host: Host = "www.example.com".parse().expect("a host");
    let to = |asked: &str, secure| canonical(&head("GET", "/x?y", &[("host", asked)]), &host, secure);
    let is = |text| Some(HeaderValue::from_static(text));
    assert_eq!(to("example.com", true), is("https://www.example.com/x?y"));
    assert_eq!(to("example.com", false), is("http://www.example.com/x?y"));
    assert_eq!(to("example.com:443", true), is("https://www.example.com/x?y"));
    assert_eq!(to("example.com:8080", false), is("http://www.example.com:8080/x?y"), "another listener's port stays");
    for there in ["www.example.com", "WWW.Example.com:8443", "www.example.com.", "www.example.com.:80"] {
        assert_eq!(to(there, true), None, "{there}");
    }
    assert_eq!(canonical(&head("GET", "/", &[]), &host, false), None, "HTTP/1.0 without a host");
}

proptest! {
    /// Whatever an untrusted sender says about who the client is, in whatever spelling, none of it comes through.
    #[test]
    fn no_forged_word_on_the_client_survives(
        names in prop::collection::vec(
            "(forwarded|x[-_]real[-_]ip|x[-_]client[-_]cert[-_]subject|x[-_]forwarded[-_][a-z0-9_-]{1,8})", 0..40),
        nominated in prop::bool::ANY,
        version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
        forwarded in prop::bool::ANY,
    ) {
        let mut forged: Vec<_> = names.iter().map(|name| (name.as_str(), "forged")).collect();
        let connection = names.join(", ");
        if nominated && !names.is_empty() {
            forged.push(("connection", &connection));
        }
        forged.push(("host", "a"));
        let mut head = head("GET", "/", &forged);
        head.version = version;
        let (text, subject) = (text(SENDER), HeaderValue::from_static("CN=jane"));
        let sender = Sender { subject: Some(&subject), forwarded, ..sender(&text, false) };
        prop_assert_eq!(client(&head, &sender, trusts), SENDER);
        let head = sent_by(head, &sender);
        let mut expected = vec![
            "host: a",
            "x-client-cert-subject: CN=jane",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: a",
            "x-forwarded-proto: http",
            "x-real-ip: 203.0.113.9",
        ];
        if forwarded {
            expected.insert(0, "forwarded: for=203.0.113.9;host=a;proto=http");
        }
        prop_assert_eq!(lines(&head.headers), expected);
    }

    /// Whatever a trusted proxy appends to what strangers told it, the client is never who a stranger says.
    #[test]
    fn strangers_cannot_speak_through_a_trusted_proxy(told in "[0-9a-f.:,\\[\\] ]{0,40}", known in 0u8..=255) {
        let known = IpAddr::from([9, 9, 9, known]);
        let line = format!("{told}, {known}");
        let head = head("GET", "/", &[("x-forwarded-for", &line)]);
        prop_assert_eq!(client(&head, &sender(&text(SENDER), true), trusts), known);
    }
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
