//! How do requests and answers pass through the door? Byte for byte what was meant, streaming both ways, and nothing
//! that concerns one connection only.

use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::fake::ok;
use crate::harness::raw::{Failure, Framing, request};
use crate::harness::{Act, DEADLINE, Door, Fake, Raw, Site, settled, wait_until};

/// More than all buffers on the way can hold, and much less than what a test would send without back-pressure.
const HELD: u64 = 16 << 20;

// === connections ===

#[test]
fn requests_share_the_clients_and_the_backends_connection() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    for number in 0..3 {
        let target = format!("/{number}");
        assert_eq!(client.send(request("GET", &target, &[], b"")).response().text(), format!("GET {target} HTTP/1.1"));
        assert_eq!(client.send(request("POST", &target, &[], b"hi")).response().status, 200);
    }
    drop(client);
    assert_eq!(blue.heard().len(), 1);
    assert_eq!(door.quiet().sum("bgproxy_connects_total", &[]), 1.0);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    let of = |number: usize| match number % 3 {
        0 => request("GET", &format!("/{number}"), &[], b""),
        1 => request("POST", &format!("/{number}"), &[], b"GET /within HTTP/1.1\r\nHost: a\r\n\r\n"),
        _ => request("PUT", &format!("/{number}"), &[("Transfer-Encoding", "chunked")], b"2\r\nhi\r\n0\r\n\r\n"),
    };
    client.send((0..30).flat_map(of).collect::<Vec<u8>>());
    for number in 0..30 {
        let text = client.response().text();
        assert!(text.contains(&format!(" /{number} ")), "answer {number} is to {text}");
    }
    drop(client);
    door.quiet();
    assert_eq!(blue.requests().len(), 30);
}

#[test]
fn what_a_backend_says_unasked_is_never_anybodys_answer() {
    // Two answers to one request: the second would be given to whoever asks next.
    let twice = [ok("mine"), ok("poison")].concat();
    let (door, blue) = Door::builder().set("workers", 1).before(|at| Fake::answers(at, twice));
    let mut client = door.connect();
    for _ in 0..3 {
        assert_eq!(client.send(request("GET", "/", &[], b"")).response().text(), "mine");
    }
    drop(client);
    door.quiet();
    assert_eq!(blue.heard().len(), 3, "a connection with something unasked in it is not used again");
}

#[test]
fn a_malformed_request_behind_a_large_answer_is_refused_behind_it() {
    let large = "x".repeat(3_000_000);
    let (door, _blue) = Door::builder().before(|at| Fake::answers(at, ok(&large)));
    let mut client = Raw::connect_narrow(door.addr());
    client.send(request("GET", "/", &[], b"")).send("GET / HTTP/1.1\r\nX : y\r\n\r\n");
    assert_eq!(client.response().body.len(), large.len());
    let refusal = client.response();
    assert_eq!((refusal.status, refusal.header("proxy-status").is_some()), (400, true));
    assert!(client.finish_sending().rest().bytes.is_empty(), "once");
    door.quiet();
}

// === bodies ===

#[test]
fn bodies_of_all_sizes_pass_unchanged_both_ways() {
    let site = Site::start();
    let mut client = site.door.connect();
    for size in [0, 1, 8191, 65536, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        let down = client.send(request("GET", &format!("/big?bytes={size}"), &[], b"")).response();
        assert_eq!((down.framing, down.body == body), (Framing::Sized(size.into()), true), "down, {size} bytes");
        let sized = client.send(request("POST", "/echo", &[], &body)).response().json();
        assert_eq!((&sized["length"], &sized["sha256"]), (&json!(size), &json!(digest)), "up, sized");
        let chunks = chunked(&body, 10_000);
        let chunked = client.send(request("POST", "/echo", &[("Transfer-Encoding", "chunked")], &chunks)).response();
        assert_eq!(chunked.json()["sha256"], digest, "up, chunked, {size} bytes");
    }
    let streamed = client.send(request("GET", "/stream?chunks=5&every_ms=1", &[], b"")).response();
    assert_eq!(
        (streamed.framing, streamed.text()),
        (Framing::Chunked, "blue 0\nblue 1\nblue 2\nblue 3\nblue 4\n".into())
    );
    drop(client);
    site.door.quiet();
}

#[test]
fn answers_stream_piece_by_piece_while_the_backend_makes_them() {
    let site = Site::start();
    let mut client = site.door.connect();
    client.send(request("GET", "/stream?chunks=2&id=s", &[], b""));
    let (_, mut body) = client.head();
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"blue 0\n", "before the second one is due");
    site.blue.release("s");
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"blue 1\n");
    assert!(client.piece(&mut body).unwrap().is_none());
    drop(client);
    site.door.quiet();
}

#[test]
fn uploads_stream_piece_by_piece_while_the_client_makes_them() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    client.send(request("POST", "/", &[("Transfer-Encoding", "chunked")], b"5\r\nfirst\r\n"));
    wait_until("the first chunk", DEADLINE, || blue.heard().first().is_some_and(|it| it.bytes.ends_with(b"first\r\n")));
    client.send("4\r\nlast\r\n0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(blue.requests()[0].body, b"firstlast");
    drop(client);
    door.quiet();
}

#[test]
fn a_client_that_does_not_read_stops_the_backend() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1u64 << 40).into_bytes();
    let script = move |_| vec![Act::ReadRequest, Act::Say(head.clone()), Act::Flood];
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = Raw::connect_narrow(door.addr());
    client.send(request("GET", "/", &[], b""));
    let (_, mut body) = client.head();
    let said = || blue.heard()[0].said;
    let held = settled(said);
    assert!(held < HELD, "{held} bytes are on the way to a client that reads none");
    while said() < held + 1_000_000 {
        client.piece(&mut body).unwrap().expect("more, as the client reads");
    }
    client.reset();
    door.quiet();
}

#[test]
fn a_backend_that_does_not_read_stops_the_client() {
    let script = |_| vec![Act::ReadHead, Act::AwaitGo, Act::Stay];
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = door.connect();
    client.send(request("POST", "/", &[("Content-Length", "100000000")], b""));
    wait_until("the head", DEADLINE, || !blue.heard().is_empty());
    let taken = client.send_what_is_taken(90_000_000);
    assert!((taken as u64) < HELD, "{taken} bytes were taken for a backend that reads none");
    blue.go();
    wait_until("what was taken", DEADLINE, || blue.heard()[0].bytes.len() > taken);
    drop(client);
    door.quiet();
}

#[test]
fn answers_without_a_body_have_none_and_keep_the_connection() {
    let cases: [(&str, &str, Option<&str>); 8] = [
        ("HEAD", "200 OK\r\nContent-Length: 5\r\n", Some("5")),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\n", None),
        ("HEAD", "404 Not Found\r\nContent-Length: 9\r\n", Some("9")),
        ("GET", "204 No Content\r\n", None),
        ("DELETE", "204 No Content\r\nX-A: b\r\n", None),
        ("GET", "304 Not Modified\r\nETag: \"one\"\r\n", None),
        ("GET", "304 Not Modified\r\nETag: \"one\"\r\nContent-Length: 5\r\n", None),
        ("GET", "205 Reset Content\r\nContent-Length: 0\r\n", Some("0")),
    ];
    for (method, head, length) in cases {
        let answer = format!("HTTP/1.1 {head}X-Id: 1\r\n\r\n");
        let (door, blue) = Door::builder().before(|at| Fake::answers(at, answer));
        let mut client = door.connect();
        for _ in 0..2 {
            client.send(request(method, "/", &[], b""));
            let got = if method == "HEAD" { client.try_response_to_head() } else { client.try_response() };
            let got = got.unwrap_or_else(|why| panic!("{method} {head}: {why}"));
            assert_eq!(got.head.status.to_string(), head[..3], "{method} {head}");
            assert_eq!((got.header("content-length"), got.header("x-id")), (length, Some("1")), "{method} {head}");
            assert!(got.body.is_empty() && got.header("transfer-encoding").is_none(), "{method} {head}");
        }
        drop(client);
        let metrics = door.quiet();
        assert_eq!(metrics.sum("bgproxy_claims_ended_total", &[("outcome", "finished")]), 2.0, "{method} {head}");
        assert_eq!(blue.heard().len(), 1, "{method} {head}: the backend's connection is kept too");
    }
}

#[test]
fn what_the_door_itself_answers_to_head_has_no_body_either() {
    let door = Door::builder().set("service.portal.hosts", json!(["a.example"])).start();
    let mut client = door.connect();
    for _ in 0..2 {
        let answer = client.send(request("HEAD", "/", &[], b"")).try_response_to_head().unwrap();
        assert_eq!(answer.status, 404);
        assert!(answer.header("proxy-status").unwrap().contains("no_route"));
    }
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "no_route")]), 2.0);
    assert_eq!(metrics.sum("bgproxy_requests_total", &[("method", "HEAD"), ("code", "404")]), 2.0);
}

#[test]
fn trailers_pass_both_ways_when_they_are_announced() {
    let (door, blue) = Door::builder().before(Fake::answers_chunked_with_trailers);
    let mut client = door.connect();
    let headers = [("TE", "trailers"), ("Connection", "TE"), ("Trailer", "X-Sum"), ("Transfer-Encoding", "chunked")];
    let answer = client.send(request("POST", "/", &headers, b"2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")).response();
    assert_eq!((answer.text(), answer.trailers.get("x-checksum")), ("hello world".into(), Some("42")));
    let sent = &blue.requests()[0];
    assert_eq!((sent.body.as_slice(), &sent.trailers[..]), (&b"hi"[..], &[("x-sum".to_owned(), b"7".to_vec())][..]));
    assert_eq!((sent.get("te"), sent.get("connection")), (Some("trailers".into()), Some("te".into())));

    let plain = client.send(request("GET", "/", &[], b"")).response();
    assert_eq!((plain.text(), plain.trailers.0.len()), ("hello world".into(), 0), "a client that did not ask for them");
    drop(client);
    door.quiet();
}

// === Expect: 100-continue ===

const ASKS: [(&str, &str); 2] = [("Expect", "100-continue"), ("Content-Length", "5")];

#[test]
fn a_client_that_asks_first_is_told_to_go_on_when_the_backend_says_so() {
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let script =
        move |_| vec![Act::ReadHead, Act::AwaitGo, Act::Say(go_on.clone()), Act::Read(5), Act::Say(ok("done"))];
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = door.connect();
    client.send(request("POST", "/", &ASKS, b""));
    wait_until("the head", DEADLINE, || blue.heard().first().is_some_and(|it| it.bytes.ends_with(b"\r\n\r\n")));
    assert!(client.hears_nothing(), "the backend has not said anything yet");
    blue.go();
    assert_eq!(client.head().0.status, 100);
    assert_eq!(client.send("hello").response().text(), "done");
    assert_eq!(blue.requests()[0].get("expect"), Some("100-continue".into()));
    drop(client);
    door.quiet();
}

#[test]
fn a_client_that_asks_first_and_is_refused_is_not_asked_for_its_body() {
    for refusal in ["413 Content Too Large", "417 Expectation Failed", "401 Unauthorized"] {
        let answer = format!("HTTP/1.1 {refusal}\r\nContent-Length: 2\r\n\r\nno").into_bytes();
        let script = move |_| vec![Act::ReadHead, Act::Say(answer.clone()), Act::Stay];
        let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
        let mut client = door.connect();
        let answer = client.send(request("POST", "/", &ASKS, b"")).response();
        assert_eq!((answer.status.to_string().as_str(), answer.interim.len()), (&refusal[..3], 0));
        assert_eq!(answer.text(), "no");
        // What follows could be the body or a next request: nobody can tell any more.
        let rest = client.finish_sending().rest();
        assert!(rest.bytes.is_empty() && !rest.reset, "{rest:?}");
        door.quiet();
        wait_until("the backend's connection to end", DEADLINE, || blue.heard()[0].ended);
        assert!(blue.heard()[0].bytes.ends_with(b"\r\n\r\n"), "the head alone");
    }
}

#[test]
fn a_client_that_asks_first_need_not_wait_for_a_backend_that_says_nothing() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    let asked = Instant::now();
    client.send(request("POST", "/", &ASKS, b""));
    assert_eq!(client.head().0.status, 100);
    let waited = asked.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&waited), "{waited:?}");
    assert_eq!(client.send("hello").response().status, 200);
    assert_eq!(blue.requests()[0].body, b"hello");
    drop(client);
    door.quiet();
}

#[test]
fn the_time_a_client_was_not_asked_for_its_body_is_not_held_against_it() {
    let (door, _blue) = Door::builder().set("service.portal.timeouts.idle", "500ms").before(Fake::echoes);
    let mut client = door.connect();
    client.send(request("POST", "/", &ASKS, b""));
    assert_eq!(client.head().0.status, 100);
    assert!(client.hears_nothing() && client.hears_nothing(), "it has time to begin");
    assert_eq!(client.send("hello").response().status, 200);
    drop(client);
    door.quiet();
}

#[test]
fn a_client_that_asks_for_too_much_or_for_something_else_is_refused_at_once() {
    let (door, blue) = Door::builder().set("limits.body_size", "4B").before(Fake::echoes);
    let refused = Raw::ask(door.addr(), &request("POST", "/", &ASKS, b""));
    assert_eq!((refused.status, refused.interim.len()), (413, 0));
    let other = Raw::ask(door.addr(), &request("POST", "/", &[("Expect", "200-ok"), ("Content-Length", "2")], b""));
    assert_eq!((other.status, other.interim.len()), (417, 0));
    assert_eq!(blue.heard().len(), 0, "nobody else was bothered");
    door.quiet();
}

// === what is passed on untouched ===

#[test]
fn targets_arrive_byte_for_byte() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    let targets = [
        "/",
        "//",
        "//x//y/",
        "/?",
        "/a?",
        "/a?b?c",
        "/?a=1&b=&&",
        "/%2F%2f%00%zz%",
        "/a/../b/./c",
        "/..",
        "/;a=b,c",
        "/a+b%20c",
        "/\u{fc}\u{20ac}?\u{fc}",
        "/!$&'()*+,;=:@-._~",
        "/?{}[]|\\",
        "/http://x/",
        "/*",
        "/:80",
        "/a%23b",
    ];
    for target in targets {
        let answer = client.send(request("GET", target, &[], b"")).response();
        assert_eq!(answer.text(), format!("GET {target} HTTP/1.1"));
    }
    drop(client);
    door.quiet();
    assert_eq!(blue.requests().iter().map(|it| it.target().to_owned()).collect::<Vec<_>>(), targets);
}

#[test]
fn header_values_arrive_byte_for_byte_both_ways() {
    let values: [&[u8]; 6] =
        [b"\xff\xfe\x80", b"a,b;c=\"d\"", b"", b"in  side\tit", "\u{fc}".as_bytes(), b"=?utf-8?q?x?="];
    let lines: Vec<u8> = values.iter().flat_map(|value| [b"X-Odd: ", *value, b"\r\n"].concat()).collect();
    let said = [b"HTTP/1.1 200 Quite Fine\r\nContent-Length: 0\r\n", &lines[..], b"\r\n"].concat();
    let (door, blue) = Door::builder().before(|at| Fake::answers(at, said));
    let mut client = door.connect();
    client.send([b"GET / HTTP/1.1\r\nHost: a\r\n", &lines[..], b"\r\n"].concat());
    let answer = client.response();
    assert_eq!(answer.head.fields.all("x-odd"), values, "the answer's, in their order");
    assert!(answer.head.raw.starts_with(b"HTTP/1.1 200 Quite Fine\r\n"), "its words too");
    let heard = blue.only();
    let sent: Vec<u8> = values.iter().flat_map(|value| [b"x-odd: ", *value, b"\r\n"].concat()).collect();
    assert!(heard.windows(sent.len()).any(|window| window == sent), "{}", heard.escape_ascii());
    drop(client);
    door.quiet();
}

#[test]
fn ranges_and_conditions_are_between_the_client_and_the_backend() {
    let site = Site::start();
    let mut client = site.door.connect();
    let mut get = |headers: &[(&str, &str)]| client.send(request("GET", "/static/page.html", headers, b"")).response();
    let whole = get(&[]);
    let (etag, modified) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
    let part = get(&[("Range", "bytes=2-5")]);
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[2..6]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 2-5/{}", whole.body.len()).as_str()));
    assert_eq!(get(&[("Range", "bytes=99999999-")]).status, 416);
    assert_eq!(get(&[("Range", "bytes=0-0,2-3")]).header("content-type").unwrap()[..20], *"multipart/byteranges");
    assert_eq!(get(&[("Range", "bytes=0-1"), ("If-Range", "\"other\"")]).status, 200);
    let same = get(&[("If-None-Match", etag)]);
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(etag)));
    assert_eq!(get(&[("If-Modified-Since", modified)]).status, 304);
    assert_eq!(get(&[("If-Match", "\"other\"")]).status, 412);
    let cookies = client.send(request("GET", "/cookies", &[("Cookie", "c=3; d=4")], b"")).response();
    assert_eq!((cookies.head.fields.all("set-cookie").len(), cookies.text()), (2, "c=3; d=4".into()));
    drop(client);
    site.door.quiet();
}

// === what is changed ===

#[test]
fn headers_of_one_connection_do_not_pass_to_the_next() {
    let said = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\n\
                X-Hop: 1\r\nProxy-Connection: x\r\nUpgrade: h2\r\nX-Kept: 1\r\n\r\nok";
    let (door, blue) = Door::builder().before(|at| Fake::answers(at, said));
    let headers = [
        ("Connection", "close, X-Hop, Host, Authorization, X-Real-IP"),
        ("X-Hop", "1"),
        ("Keep-Alive", "5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"),
        ("TE", "gzip"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAM"),
        ("Authorization", "Basic y"),
        ("X-Kept", "1"),
    ];
    let answer = Raw::ask(door.addr(), &request("GET", "/", &headers, b""));
    assert_eq!((answer.header("x-kept"), answer.header("connection")), (Some("1"), Some("close")));
    for name in ["keep-alive", "x-hop", "proxy-connection", "upgrade"] {
        assert_eq!(answer.header(name), None, "{name} in the answer");
    }
    let sent = &blue.requests()[0];
    for name in headers.map(|(name, _)| name) {
        let kept = ["Authorization", "X-Kept"].contains(&name);
        assert_eq!(sent.get(name).is_some(), kept, "{name} in the request");
    }
    assert_eq!((sent.get("host"), sent.get("x-real-ip")), (Some("test".into()), Some("127.0.0.1".into())));
    door.quiet();
}

const FORGED: [(&str, &str); 9] = [
    ("X-Forwarded-For", "1.1.1.1"),
    ("X-Forwarded-For", "2.2.2.2"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "public"),
    ("X-Forwarded-Port", "443"),
    ("X-Real-IP", "1.1.1.1"),
    ("Forwarded", "for=1.1.1.1"),
    ("X_Forwarded_For", "1.1.1.1"),
    ("X_Real_IP", "1.1.1.1"),
];

#[test]
fn a_strangers_word_on_who_the_client_is_is_replaced() {
    let (door, blue) = Door::builder().set("trusted.proxies", json!([])).before(Fake::echoes);
    Raw::ask(door.addr(), &request("GET", "/", &[&FORGED[..], &[("Host", "a:81")]].concat(), b""));
    let sent = &blue.requests()[0];
    let get = |name| sent.get(name).unwrap_or_default();
    assert_eq!((get("x-forwarded-for"), get("x-real-ip")), ("127.0.0.1".into(), "127.0.0.1".into()));
    assert_eq!((get("x-forwarded-proto"), get("x-forwarded-host")), ("http".into(), "a:81".into()));
    assert_eq!(get("host"), "a:81");
    for name in ["forwarded", "x-forwarded-port", "x_forwarded_for", "x_real_ip"] {
        assert_eq!(sent.all(name).len(), 0, "{name}: WSGI tells neither `-` from `_` nor one header from another");
    }
}

#[test]
fn a_trusted_proxys_word_is_kept_and_extended() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    Raw::ask(door.addr(), &request("GET", "/", &FORGED, b""));
    let sent = &blue.requests()[0];
    let get = |name| sent.get(name).unwrap_or_default();
    assert_eq!((get("x-forwarded-for"), get("x-real-ip")), ("1.1.1.1, 2.2.2.2, 127.0.0.1".into(), "2.2.2.2".into()));
    assert_eq!((get("x-forwarded-proto"), get("x-forwarded-host")), ("https".into(), "public".into()));
    assert_eq!((get("x-forwarded-port"), get("forwarded")), ("443".into(), "for=1.1.1.1".into()));
}

#[test]
fn the_containers_nginx_believes_the_door_about_the_client() {
    let site = Site::start_with(|door| door.set("trusted.proxies", json!([])));
    let headers = [("X-Forwarded-For", "203.0.113.9"), ("Host", "portal.example")];
    let said = Raw::ask(site.door.addr(), &request("GET", "/echo", &headers, b"")).json();
    assert_eq!((&said["client"], &said["headers"]["host"]), (&json!("127.0.0.1"), &json!("portal.example")));
}

#[test]
fn a_request_id_is_kept_or_made() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    for headers in [&[("X-Request-Id", "abc-1")][..], &[], &[], &[("X-Request-Id", "two words")]] {
        client.send(request("GET", "/", headers, b"")).response();
    }
    let ids: Vec<String> = blue.requests().iter().map(|it| it.get("x-request-id").unwrap()).collect();
    assert_eq!(ids[0], "abc-1");
    assert!(ids[1..].iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids:?}");
    assert_ne!(ids[1], ids[2]);
}

#[test]
fn an_absolute_target_becomes_a_path_and_its_authority_the_host() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    for target in ["http://b:81/x?y=", "http://b", "http://b?q"] {
        assert_eq!(client.send(request("GET", target, &[], b"")).response().status, 200);
    }
    client.send(request("OPTIONS", "*", &[], b"")).response();
    let seen: Vec<_> = blue.requests().iter().map(|it| (it.line.clone(), it.get("host").unwrap())).collect();
    let expected = [
        ("GET /x?y= HTTP/1.1", "b:81"),
        ("GET / HTTP/1.1", "b"),
        ("GET /?q HTTP/1.1", "b"),
        ("OPTIONS * HTTP/1.1", "test"),
    ];
    assert_eq!(seen, expected.map(|(line, host)| (line.to_owned(), host.to_owned())));
}

// === old and odd protocols ===

#[test]
fn http_1_0_clients_are_served_with_and_without_a_host() {
    let (door, blue) = Door::builder().before(Fake::answers_chunked_with_trailers);
    let mut client = door.connect();
    let answer = client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").response();
    assert_eq!((answer.framing, answer.text()), (Framing::UntilClose, "hello world".into()), "no chunks for it");
    drop(client);
    let answer = Raw::ask(door.addr(), b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!((answer.head.version.as_str(), answer.text()), ("HTTP/1.0", "hello world".into()));
    let lines: Vec<String> = blue.requests().into_iter().map(|it| it.line).collect();
    assert_eq!(lines, ["GET / HTTP/1.1", "GET / HTTP/1.0"], "without a host it can only stay what it was");
    door.quiet();
}

#[test]
fn http_1_0_clients_may_keep_their_connection() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    for _ in 0..2 {
        let answer = client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").response();
        assert!(answer.keeps_alive() && answer.status == 200, "{answer:?}");
    }
    drop(client);
    door.quiet();
}

#[test]
fn interim_answers_end_here() {
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let (door, _blue) = Door::builder().before(|at| Fake::answers_interim_first(at, hints));
    let mut client = door.connect();
    for _ in 0..2 {
        let answer = client.send(request("GET", "/", &[], b"")).response();
        assert_eq!((answer.status, answer.interim.len(), answer.text()), (200, 0, "done".into()));
    }
    drop(client);
    door.quiet();
}

#[test]
fn an_answer_with_both_lengths_goes_by_its_chunks() {
    let (door, _blue) = Door::builder().before(Fake::answers_with_both_lengths);
    let answer = door.get("/");
    assert_eq!((answer.framing, answer.text()), (Framing::Chunked, "hello".into()));
    door.quiet();
}

#[test]
fn an_answer_that_ends_with_its_connection_is_chunked_for_the_client() {
    for version in ["1.0", "1.1"] {
        let said = format!("HTTP/{version} 200 OK\r\n\r\nto the end");
        let (door, blue) = Door::builder().before(|at| Fake::answers_then_closes(at, said));
        let mut client = door.connect();
        for _ in 0..2 {
            let answer = client.send(request("GET", "/", &[], b"")).response();
            assert_eq!((answer.head.version.as_str(), answer.framing), ("HTTP/1.1", Framing::Chunked));
            assert_eq!(answer.text(), "to the end");
        }
        drop(client);
        door.quiet();
        assert_eq!(blue.heard().len(), 2);
    }
}

#[test]
fn a_backend_of_http_1_0_gets_every_body_whole() {
    // HTTP/1.0 has no chunks. On a connection that once answered so, they would be left out, and the body with them.
    let said = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    let (door, blue) = Door::builder().before(|at| Fake::answers(at, said));
    let mut client = door.connect();
    for _ in 0..2 {
        let upload = request("POST", "/", &[("Transfer-Encoding", "chunked")], b"5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(client.send(upload).response().text(), "ok");
    }
    drop(client);
    door.quiet();
    assert_eq!(blue.requests().iter().map(|it| it.body.clone()).collect::<Vec<_>>(), [b"hello", b"hello"]);
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_the_same_answer() {
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n";
    let (door, _blue) = Door::builder().before(|at| Fake::answers_byte_by_byte(at, said, Duration::from_micros(200)));
    assert_eq!(door.get("/").text(), "hello");
    door.quiet();
}

#[test]
fn an_answer_that_comes_before_the_upload_is_over_can_be_read() {
    for reads_on in [true, false] {
        let (door, _blue) = Door::builder().before(|at| Fake::refuses_early(at, reads_on));
        let mut client = door.connect();
        client.send(request("POST", "/", &[("Content-Length", "50000000")], b""));
        let sent = client.send_what_is_taken(700_000);
        let answer = client.response();
        assert_eq!((answer.status, answer.text()), (413, "too big\n".into()), "after {sent} bytes");
        let rest = client.finish_sending().rest();
        assert!(rest.bytes.is_empty(), "one answer");
        door.quiet();
    }
}

// === streams ===

#[test]
fn event_streams_are_counted_as_streams_and_end_with_their_client() {
    let said = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n";
    let script = move |_| vec![Act::ReadRequest, Act::Say(said.into()), Act::Stay];
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = door.connect();
    client.send(request("GET", "/", &[], b""));
    let (_, mut body) = client.head();
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"data: 1\n\n");
    let metrics = door.metrics();
    assert_eq!(metrics.sum("bgproxy_streams_open", &[("color", "blue")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_requests_in_flight", &[]), 0.0);
    drop(client);
    door.quiet();
    wait_until("the backend's connection to end", DEADLINE, || blue.heard()[0].ended);
}

#[test]
fn a_client_that_says_it_will_send_no_more_has_left() {
    // Half-closing is how a client that gives up looks, too; a backend need not work on for nobody.
    let (door, blue) = Door::builder().before(Fake::never_answers);
    let mut client = door.connect();
    client.send(request("GET", "/", &[], b""));
    blue.wait_requests(1);
    assert!(matches!(client.finish_sending().try_response(), Err(Failure::Closed(read)) if read.is_empty()));
    door.quiet();
    wait_until("the backend's connection to end", DEADLINE, || blue.heard()[0].ended);
}

/// A body in chunks of this size.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let chunk = |chunk: &[u8]| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
    [body.chunks(size).flat_map(chunk).collect(), b"0\r\n\r\n".to_vec()].concat()
}
