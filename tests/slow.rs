//! What do clients get that take their time? Each deadline, and who it must not hit: who is slow and honest, who waits
//! for the backend, who has a tunnel, an event stream or a conversation.

mod crowds;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::door::{Builder, NAME};
use crate::harness::fake::{Choice, ok};
use crate::harness::raw::{Failure, request};
use crate::harness::raw_http2::{
    END_STREAM, INITIAL_WINDOW_SIZE, block, code, data, fields, frame, kind, window_update,
};
use crate::harness::{Act, Authority, DEADLINE, Door, Fake, H2c, Raw, RawHttp2, Trust, pace};

/// What a client may owe before it is too slow.
const GRACE: Duration = Duration::from_secs(5);

/// Between two steps of somebody slow.
const STEP: Duration = Duration::from_millis(100);

/// The body of `/big`, more than a kernel buffers.
const BIG: usize = 24 * 1024 * 1024;

/// The body of `/some`.
const SOME: usize = 200_000;

fn one_worker() -> Builder {
    Door::builder().set("workers", 1)
}

fn site(at: std::path::PathBuf) -> Fake {
    let events = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec();
    let choose = Choice::new(move |target| match target {
        "/big" => vec![Act::Say(ok(&"x".repeat(BIG)))],
        "/some" => vec![Act::Say(ok(&"x".repeat(SOME)))],
        "/events" => vec![Act::Say(events.clone()), Act::Flood],
        _ => vec![Act::Echo],
    });
    Fake::scripted(at, move |_| vec![Act::ReadRequest, Act::Choose(choose.clone()), Act::Repeat])
}

/// How many requests have failed for this reason.
#[track_caller]
fn failed(door: &Door, reason: &str) -> f64 {
    door.metrics().sum("bgproxy_request_failures_total", &[("reason", reason)])
}

/// Whether a client is still connected that hears nothing new.
fn is_connected(client: &mut Raw) -> bool {
    client.hears_nothing()
}

// === before a request ===

#[test]
fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let authority = Authority::new();
    let builder = one_worker().tls(&authority).set("limits.first_byte_time", "300ms");
    let (door, blue) = builder.before(Fake::echoes);
    let begun = Instant::now();
    let mut secure = Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME));
    let (mut clear, mut used) = (Raw::connect(door.listener(1)), Raw::connect(door.listener(1)));
    assert_eq!(used.send(request("GET", "/", &[], b"")).response().status, 200);
    for client in [&mut clear, &mut secure] {
        // `rest` fails when the end of TLS is missing.
        let rest = client.rest();
        assert!(rest.bytes.is_empty() && !rest.reset);
    }
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    // Whoever has asked once has `idle_time`.
    while begun.elapsed() < Duration::from_millis(900) {
        assert!(is_connected(&mut used), "closed after {:?}", begun.elapsed());
    }
    assert_eq!(used.send(request("GET", "/", &[], b"")).response().status, 200);
    drop(used);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
    assert_eq!(blue.requests().len(), 2);
}

#[test]
fn the_preface_over_tls_has_a_handshakes_time_of_its_own() {
    let authority = Authority::new();
    let builder = one_worker().tls(&authority).set("limits.handshake_time", "400ms");
    let (door, _blue) = builder.set("limits.header_time", "60s").before(Fake::echoes);
    let mut silent = Raw::try_handshake(door.addr(), &Trust::of(&authority, NAME), &["h2"]).unwrap();
    let begun = Instant::now();
    silent.rest();
    assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_connection_failures_total", &[("reason", "h2_preface_timeout")]), 1.0);
}

#[test]
fn a_proxy_header_has_a_handshakes_time() {
    let listen = json!([{ "address": "127.0.0.1:0", "proxy_protocol": "required" }]);
    let (door, _blue) = one_worker().set("listen", listen).set("limits.handshake_time", "400ms").before(Fake::echoes);
    let (mut silent, mut slow) = (door.connect(), door.connect());
    slow.send("PROXY TCP4 192.0.2.1 ");
    assert!(silent.rest().bytes.is_empty() && slow.rest().bytes.is_empty());
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_connection_failures_total", &[("reason", "proxy_header_timeout")]), 2.0);
}

#[test]
fn a_head_in_pieces_has_a_heads_time_over_http2_too() {
    let (door, blue) = one_worker().set("limits.header_time", "400ms").before(Fake::echoes);
    let mut client = RawHttp2::connect(door.addr());
    let busy = client.begin(&fields("POST", "/", &[]), 0);
    blue.wait_connections(1);
    // A request in progress is no reason to let the next one take its time: no frame may come between its own.
    let begins = block(&fields("GET", "/", &[]));
    client.send(frame(kind::HEADERS, END_STREAM, busy + 2, &begins[..1]));
    let begun = Instant::now();
    for byte in &begins[1..9] {
        pace(STEP);
        client.try_send(frame(kind::CONTINUATION, 0, busy + 2, [*byte]));
    }
    assert_eq!(client.end(), Some(code::ENHANCE_YOUR_CALM));
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_connection_failures_total", &[("reason", "h2_head_timeout")]), 1.0);
    assert!(blue.requests().is_empty());
}

// === request bodies ===

#[test]
fn a_body_below_the_least_rate_is_given_up_and_one_above_it_is_not() {
    let (door, blue) = one_worker().before(Fake::echoes);
    let post = |length: usize| request("POST", "/", &[("Content-Length", &length.to_string())], b"");
    let (mut slow, mut brisk) = (door.connect(), door.connect());
    slow.send(post(1000));
    brisk.send(post(40 * 60));
    let mut http2 = RawHttp2::connect(door.addr());
    let slow_stream = http2.begin(&fields("POST", "/", &[("content-length", "1000")]), 0);
    let begun = Instant::now();
    // 400 bytes a second, and ten: `timeouts.idle` has nothing against either.
    for step in 0..60 {
        let turned_away = slow.try_send("x").is_err();
        assert!(!turned_away || begun.elapsed() > GRACE, "after {:?}", begun.elapsed());
        if http2.so_far(slow_stream).status == 0 {
            http2.send(data(slow_stream, "x", 0));
        }
        http2.read_for(STEP);
        brisk.send([b'x'; 40]);
        assert!(step > 45 || http2.so_far(slow_stream).status == 0, "given up after {:?}", begun.elapsed());
    }
    let answer = slow.response();
    assert_eq!((answer.status, answer.keeps_alive()), (408, false));
    assert!(answer.header("proxy-status").is_some_and(|status| status.contains("body_timeout")));
    assert_eq!(http2.answer(slow_stream).status, 408);
    assert_eq!(http2.get("/").status, 200, "the other streams of the connection go on");
    assert_eq!(brisk.response().text(), "POST / HTTP/1.1");
    drop((slow, brisk, http2));
    door.quiet();
    assert_eq!(failed(&door, "body_timeout"), 2.0);
    assert_eq!(blue.requests().len(), 2, "of the slow ones no backend got the whole");
}

#[test]
fn bytes_that_are_no_body_pay_for_nothing_and_a_pause_is_paid_for_by_what_came() {
    let (door, blue) = one_worker().before(Fake::echoes);
    let begin = |headers: &[(&str, &str)], body: &[u8]| {
        let mut client = door.connect();
        client.send(request("POST", "/", headers, b"")).send(body);
        client
    };
    let chunked = ("Transfer-Encoding", "chunked");
    // Each byte by byte, without an end: a chunk's extension, a trailer, a chunk's size.
    let mut slow = [&b"5;"[..], b"5\r\nhello\r\n0\r\nX: ", b"5\r\nhello\r\n"].map(|body| begin(&[chunked], body));
    // Ten thousand bytes pay for forty seconds.
    let mut pauses = begin(&[("Content-Length", "10001")], &[b'x'; 10_000]);
    let begun = Instant::now();
    for step in 0..75 {
        for (client, byte) in slow.iter_mut().zip(["x", "x", "0"]) {
            let turned_away = client.try_send(byte).is_err();
            assert!(!turned_away || begun.elapsed() > GRACE, "after {:?}", begun.elapsed());
        }
        assert!(step > 70 || is_connected(&mut pauses), "after {:?}", begun.elapsed());
    }
    for client in &mut slow {
        let answer = client.response();
        assert_eq!((answer.status, answer.keeps_alive()), (408, false));
        assert!(answer.header("proxy-status").is_some_and(|status| status.contains("body_timeout")));
    }
    assert_eq!(pauses.send("x").response().status, 200);
    drop((slow, pauses));
    door.quiet();
    assert_eq!(blue.requests().len(), 1, "of the slow ones no backend got the whole");
}

#[test]
fn the_backends_time_is_not_the_clients() {
    // At such a rate five seconds of waiting for somebody who passes nothing are all that is forgiven.
    let rates = one_worker().set("limits.body_rate", "10MiB").set("limits.answer_rate", "10MiB");
    let (door, blue) = rates.before(|at| {
        let upload = vec![Act::ReadHead, Act::AwaitGo, Act::Read(BIG), Act::Say(ok("late"))];
        let choose = Choice::new(|_| {
            let half = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf".to_vec();
            vec![Act::Say(half), Act::AwaitGo, Act::Say(b"half".to_vec())]
        });
        let download = vec![Act::ReadRequest, Act::Choose(choose)];
        Fake::scripted(at, move |connection| if connection == 0 { upload.clone() } else { download.clone() })
    });
    let mut uploads = door.connect();
    uploads.send(request("POST", "/", &[("Content-Length", &BIG.to_string())], b""));
    blue.wait_connections(1);
    let taken = uploads.send_what_is_taken(BIG);
    assert!(taken < BIG, "all of it was taken");
    let mut downloads = door.connect();
    downloads.send(request("GET", "/", &[], b""));
    let (_, mut body) = downloads.head();
    assert_eq!(downloads.piece(&mut body).unwrap(), Some(b"half".to_vec()));
    let begun = Instant::now();
    while begun.elapsed() < GRACE + Duration::from_millis(1500) {
        assert!(is_connected(&mut uploads) && is_connected(&mut downloads), "after {:?}", begun.elapsed());
    }
    blue.go();
    assert_eq!(downloads.piece(&mut body).unwrap(), Some(b"half".to_vec()));
    uploads.send(vec![b'x'; BIG - taken]);
    assert_eq!(uploads.response().text(), "late");
    drop((uploads, downloads));
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
}

#[test]
fn a_conversation_of_grpc_may_fall_silent_and_an_upload_may_not() {
    let builder = one_worker();
    let backend = H2c::color(builder.dir().join("blue.sock"), "blue");
    let door = builder.set("service.portal.backends.blue", backend.backend()).start();
    let (mut client, mut other) = (RawHttp2::connect(door.addr()), RawHttp2::connect(door.addr()));
    let call = client.begin(&fields("POST", "/", &[("content-type", "application/grpc+proto")]), 0);
    let web = other.begin(&fields("POST", "/", &[("content-type", "application/grpc-web")]), 0);
    let begun = Instant::now();
    assert_eq!(other.answer(web).status, 408);
    assert!(begun.elapsed() >= GRACE, "{:?}", begun.elapsed());
    client.read_for(Duration::from_secs(1));
    assert_eq!(client.so_far(call).status, 0);
    client.send(data(call, "done", END_STREAM));
    assert_eq!(client.answer(call).status, 200);
    drop((client, other));
    door.quiet();
    assert_eq!(failed(&door, "body_timeout"), 1.0);
}

// === answers ===

#[test]
fn an_answer_taken_below_the_least_rate_is_broken_off_but_no_event_stream() {
    // More than what the kernel takes ahead could pay for.
    let (door, _blue) = one_worker().set("limits.answer_rate", "10MiB").before(site);
    let ask = |path: &str| {
        let mut client = Raw::connect_narrow(door.addr());
        client.send(request("GET", path, &[], b""));
        let (_, body) = client.head();
        (client, body)
    };
    let (mut slow, mut body) = ask("/big");
    let (mut events, mut stream) = ask("/events");
    let begun = Instant::now();
    let broken = loop {
        match slow.piece(&mut body) {
            Ok(Some(_)) => pace(STEP),
            Ok(None) => panic!("it came to its end"),
            Err(why) => break why,
        }
        events.piece(&mut stream).unwrap();
    };
    // What lay in the kernel for it is gone: nobody keeps it for a client that does not take it.
    assert!(matches!(broken, Failure::Reset(_)), "{broken:?}");
    assert!(begun.elapsed() >= GRACE && begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    let mut taken = 0;
    while taken < BIG {
        taken += events.piece(&mut stream).unwrap().map_or_else(|| panic!("ended after {taken} bytes"), |it| it.len());
    }
    drop((slow, events));
    door.quiet();
    assert_eq!(failed(&door, "client_timeout"), 1.0);
}

#[test]
fn a_slow_and_honest_client_may_even_pause() {
    // 56 kbit/s, with the rates as they are unless somebody changes them, and a pause longer than the grace.
    let (door, _blue) = one_worker().before(site);
    let mut client = Raw::connect_narrow(door.addr());
    client.send(request("GET", "/big", &[], b""));
    let (_, mut body) = client.head();
    let (begun, mut taken) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(2) {
        while taken < begun.elapsed().as_millis() as usize * 7 {
            taken += client.piece(&mut body).unwrap().expect("more").len();
        }
        pace(STEP);
    }
    pace(GRACE + Duration::from_secs(1));
    while let Some(piece) = client.piece(&mut body).unwrap() {
        taken += piece.len();
    }
    assert_eq!(taken, BIG);
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
}

#[test]
fn a_stream_taken_byte_by_byte_is_reset_and_no_other() {
    let (door, _blue) = one_worker().before(site);
    let connect = || {
        let mut client = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
        client.send(window_update(0, 1 << 30));
        let stream = client.ask("/some");
        client.wait("the head", |client| client.so_far(stream).status == 200);
        (client, stream)
    };
    // Ten bytes a second, and a thousand.
    let (mut dawdles, slow) = connect();
    let (mut honest, stream) = connect();
    let begun = Instant::now();
    while dawdles.so_far(slow).reset.is_none() || begun.elapsed() < GRACE + Duration::from_secs(2) {
        assert!(begun.elapsed() < DEADLINE, "it is still open");
        dawdles.send(window_update(slow, 1));
        honest.send(window_update(stream, 100));
        dawdles.read_for(STEP / 2);
        honest.read_for(STEP / 2);
        let reset = dawdles.so_far(slow).reset;
        assert!(reset.is_none() || begun.elapsed() >= GRACE, "reset after {:?}", begun.elapsed());
    }
    assert_eq!(dawdles.so_far(slow).reset, Some(code::INTERNAL_ERROR));
    let next = dawdles.ask("/");
    dawdles.send(window_update(next, 1000));
    assert_eq!(dawdles.answer(next).text(), "GET / HTTP/1.1", "the connection goes on");
    honest.send(window_update(stream, 1 << 30));
    assert_eq!(honest.answer(stream).body.len(), SOME);
    drop((dawdles, honest));
    door.quiet();
    assert_eq!(failed(&door, "client_timeout"), 1.0);
}
