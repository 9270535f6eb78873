//! What happens when something fails? Every failure has one status and one name, a broken answer never looks like a
//! whole one, and no request is repeated that a backend may have acted on.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::Socket;

use crate::harness::door::Builder;
use crate::harness::fake::{Crowded, ok};
use crate::harness::raw::{Failure, Response, Target, request};
use crate::harness::{Act, DEADLINE, Door, Fake, Raw, pace, text_of, wait_for, wait_until};

fn get() -> Vec<u8> {
    request("GET", "/", &[], b"")
}

/// The answer is the door's own, with this status and reason, in every place where the reason is told.
#[track_caller]
fn assert_failed(door: &Door, answer: &Response, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let proxy_status = answer.header("proxy-status").unwrap_or_default();
    assert!(proxy_status.contains(&format!("; details=\"{reason}\"")), "{reason}: {proxy_status}");
    assert!(answer.text().contains(&format!("({reason})")), "{reason}: {}", answer.text());
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", reason)]), 1.0, "{reason}");
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 1.0, "{reason} alone");
    assert_eq!(metrics.sum("bgproxy_requests_total", &[("code", &status.to_string())]), 1.0, "{reason}");
}

/// The same, told by the last line of the access log too.
#[track_caller]
fn assert_failed_and_logged(door: &Door, answer: &Response, status: u16, reason: &str) {
    assert_failed(door, answer, status, reason);
    let line = logged(door, 1).remove(0);
    assert_eq!((&line["status"], &line["reason"]), (&json!(status), &json!(reason)));
}

/// Waits until the access log has this many lines.
#[track_caller]
fn logged(door: &Door, count: usize) -> Vec<Value> {
    wait_for("the access log", DEADLINE, || {
        let text = text_of(&door.access_log());
        let lines = text.lines().map(|line| serde_json::from_str(line).map_err(|why| format!("{why}: {line}")));
        let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
        if lines.len() >= count { Ok(lines) } else { Err(format!("{} lines", lines.len())) }
    })
}

#[track_caller]
fn assert_ends(fake: &Fake) {
    wait_until("the backend's connections to end", DEADLINE, || fake.heard().iter().all(|heard| heard.ended));
}

// === reaching a backend ===

#[test]
fn a_socket_that_does_not_exist_is_told() {
    let door = Door::builder().start();
    assert_failed_and_logged(&door, &door.get("/"), 502, "socket_missing");
    assert_eq!(door.metrics().sum("bgproxy_connect_failures_total", &[("reason", "socket_missing")]), 1.0);
}

#[test]
fn a_socket_that_nobody_listens_on_is_told() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    drop(blue);
    assert_failed_and_logged(&door, &door.get("/"), 502, "socket_refused");
    assert_eq!(door.metrics().sum("bgproxy_connect_failures_total", &[("reason", "socket_refused")]), 1.0);
}

#[test]
fn a_socket_that_we_may_not_use_is_told() {
    let builder = Door::builder();
    // Root without its capabilities is bound by file modes like everybody.
    let root = rustix::process::getuid().is_root();
    let builder = if root { builder.under(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"]) } else { builder };
    let closed = |at: PathBuf| {
        let blue = Fake::echoes(at.clone());
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o000)).unwrap();
        blue
    };
    let (door, _blue) = builder.before(closed);
    assert_failed_and_logged(&door, &door.get("/"), 502, "socket_denied");
}

#[test]
fn a_full_backlog_is_waited_for_and_then_told_with_when_to_come_again() {
    let builder = Door::builder().set("service.portal.timeouts.connect", "200ms");
    let crowded = Crowded::at(builder.dir().join("blue.sock"));
    let door = builder.start();
    let asked = Instant::now();
    let answer = door.get("/");
    assert!(asked.elapsed() >= Duration::from_millis(140), "it was given up after {:?}", asked.elapsed());
    assert_failed_and_logged(&door, &answer, 503, "backlog_full");
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(crowded);
}

#[test]
fn a_full_backlog_that_clears_in_time_costs_nobody_anything() {
    let builder = Door::builder().set("service.portal.timeouts.connect", "20s");
    let crowded = Crowded::at(builder.dir().join("blue.sock"));
    let door = builder.start();
    let mut client = door.connect();
    client.send(get());
    wait_until("a claim", DEADLINE, || door.metrics().sum("bgproxy_requests_in_flight", &[]) == 1.0);
    let _blue = crowded.accepts(|_| vec![Act::ReadRequest, Act::Say(ok("at last"))]);
    assert_eq!(client.response().text(), "at last");
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
}

#[test]
fn a_backend_that_does_not_let_us_in_is_given_up() {
    // Over TCP a full queue is silence.
    let (socket, address) = Target::Tcp(([127, 0, 0, 1], 0).into()).socket().unwrap();
    socket.bind(&address).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap();
    let crowd = |_| {
        let client = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&address);
        client
    };
    let crowd: Vec<Socket> = (0..4).map(crowd).collect();
    let to = address.as_socket().unwrap().to_string();
    let door = Door::builder().color("blue", to).set("service.portal.timeouts.connect", "200ms").start();
    assert_failed_and_logged(&door, &door.get("/"), 504, "connect_timeout");
    drop(crowd);
}

// === a backend's bad answers ===

#[test]
fn a_backend_that_gives_no_answer_is_told_by_how_it_went() {
    type Made = fn(PathBuf) -> Fake;
    let cases: [(Made, u16, &str); 8] = [
        (|at| Fake::reads_then_closes(at), 502, "backend_closed"),
        (|at| Fake::resets_after(at, 5), 502, "backend_reset"),
        (|at| Fake::answers_half_a_head(at), 502, "backend_closed"),
        (|at| Fake::answers(at, "HTTP/1.1 two hundred\r\n\r\n"), 502, "backend_malformed"),
        (|at| Fake::answers(at, "hello\r\n\r\n"), 502, "backend_malformed"),
        (|at| Fake::answers(at, "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n"), 502, "backend_malformed"),
        (|at| Fake::answers(at, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), 502, "backend_malformed"),
        (|at| Fake::answers(at, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), 502, "backend_malformed"),
    ];
    for (made, status, reason) in cases {
        let (door, blue) = Door::builder().before(made);
        let mut client = door.connect();
        // A POST is not sent twice, so that each fake fails once.
        let answer = client.send(request("POST", "/", &[], b"hello")).response();
        assert!(answer.keeps_alive(), "{reason}: nothing is wrong with the client's connection");
        drop(client);
        assert_failed_and_logged(&door, &answer, status, reason);
        assert_eq!(blue.heard().len(), 1, "{reason}");
        assert_ends(&blue);
    }
}

#[test]
fn a_broken_answer_is_broken_for_the_client_too() {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\nhalf").into_bytes();
    let broken_off = [
        head("Content-Length: 100\r\n"),
        [head("Transfer-Encoding: chunked\r\n\r\n64\r\n"), b"half".to_vec()].concat(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n".to_vec(),
    ];
    for answer in broken_off {
        for version in ["1.1", "1.0"] {
            let (door, _blue) = Door::builder().before(|at| Fake::answers_then_closes(at, &answer));
            let mut client = door.connect();
            client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
            if version == "1.1" {
                // What came is there: without a byte of it the connection would look idle, and a client might ask
                // again.
                let (head, mut body) = client.head();
                assert_eq!(head.status, 200);
                let broken = loop {
                    match client.piece(&mut body) {
                        Ok(Some(_)) => {}
                        ended => break ended,
                    }
                };
                assert!(matches!(broken, Err(Failure::Closed(_) | Failure::Reset(_))), "{broken:?}");
            } else {
                // An HTTP/1.0 client takes an orderly end for the end of the answer.
                let got = client.try_response();
                assert!(matches!(got, Err(Failure::Reset(_))), "{got:?}");
            }
            drop(client);
            let metrics = door.quiet();
            assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "backend_truncated")]), 1.0);
            assert_eq!(metrics.sum("bgproxy_claims_ended_total", &[("outcome", "failed")]), 1.0);
            let line = logged(&door, 1).remove(0);
            assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("backend_truncated")));
        }
    }
}

// === waiting ===

fn timeout(key: &str) -> Builder {
    Door::builder().set(&format!("service.portal.timeouts.{key}"), "200ms")
}

#[test]
fn a_backend_that_takes_too_long_to_answer_is_given_up() {
    let (door, blue) = timeout("response").before(Fake::never_answers);
    let answer = door.get("/");
    assert_failed_and_logged(&door, &answer, 504, "response_timeout");
    assert_ends(&blue);
}

#[test]
fn the_wait_for_an_answer_begins_when_the_request_is_complete() {
    let (door, _blue) = timeout("response").before(Fake::echoes);
    let mut client = door.connect();
    client.send(request("POST", "/", &[("Content-Length", "8")], b""));
    client.send_slowly("slowness", 1, Duration::from_millis(60));
    assert_eq!(client.response().status, 200);
}

#[test]
fn an_answer_that_stops_flowing_is_broken_off() {
    let script = |_| {
        let said = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
        vec![Act::ReadRequest, Act::Say(said), Act::Stay]
    };
    let (door, blue) = timeout("idle").before(|at| Fake::scripted(at, script));
    assert!(matches!(Raw::try_get(door.addr(), "/"), Err(Failure::Closed(_) | Failure::Reset(_))));
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[("reason", "backend_stalled")]), 1.0);
    assert_ends(&blue);
}

#[test]
fn an_event_stream_that_falls_silent_is_ended_after_a_time_of_its_own() {
    // Or one whose client is gone without a word would keep its color from ever being idle.
    let said = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n".to_vec();
    let script = move |_| vec![Act::ReadRequest, Act::Say(said.clone()), Act::Stay];
    let door = timeout("idle").set("service.portal.streams.idle", "800ms");
    let (door, blue) = door.before(|at| Fake::scripted(at, script));
    let asked = Instant::now();
    assert!(matches!(Raw::try_get(door.addr(), "/"), Err(Failure::Closed(_) | Failure::Reset(_))));
    assert!(asked.elapsed() >= Duration::from_millis(800), "{:?}", asked.elapsed());
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[("reason", "backend_stalled")]), 1.0);
    assert_ends(&blue);
}

#[test]
fn a_client_that_takes_no_more_is_given_up() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1u64 << 40).into_bytes();
    let script = move |_| vec![Act::ReadRequest, Act::Say(head.clone()), Act::Flood];
    let (door, blue) = timeout("idle").before(|at| Fake::scripted(at, script));
    let mut client = Raw::connect_narrow(door.addr());
    client.send(get());
    client.head();
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "client_timeout")]), 1.0);
    assert_ends(&blue);
}

#[test]
fn a_client_that_takes_not_even_the_last_bytes_is_given_up() {
    // All of the answer is in the door's own buffers, so that nothing waits for the backend any more.
    let (door, _blue) = timeout("idle").before(|at| Fake::answers(at, ok(&"x".repeat(3_000_000))));
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::connect_narrow(door.addr())).collect();
    for client in &mut clients {
        client.send(get());
        client.head();
    }
    door.quiet();
}

#[test]
fn a_client_that_leaves_with_the_last_bytes_under_way_leaves_nothing_behind() {
    for size in [100_000, 1_000_000, 3_000_000] {
        let (door, _blue) = Door::builder().before(|at| Fake::answers(at, ok(&"x".repeat(size))));
        for _ in 0..5 {
            let mut client = Raw::connect_narrow(door.addr());
            client.send(get());
            client.head();
            client.reset();
        }
        door.quiet();
    }
}

#[test]
fn a_body_that_comes_too_slowly_is_given_up() {
    let (door, blue) = timeout("idle").before(Fake::echoes);
    let mut client = door.connect();
    let answer = client.send(request("POST", "/", &[("Content-Length", "5")], b"he")).response();
    assert!(!answer.keeps_alive());
    drop(client);
    assert_failed_and_logged(&door, &answer, 408, "body_timeout");
    assert_ends(&blue);
    assert_eq!(blue.heard()[0].requests, 0, "it never got the whole");
}

#[test]
fn a_head_that_comes_too_slowly_is_refused() {
    let door = Door::builder().set("limits.header_time", "200ms").start();
    let mut client = door.connect();
    let began = Instant::now();
    // Byte after byte: the limit is for all of the head, not for the next byte of it.
    let answer = loop {
        if client.try_send("x").is_err() || began.elapsed() > DEADLINE || !client.hears_nothing() {
            break client.response();
        }
    };
    // Deadlines are as exact as the sweep that looks for them.
    assert!(began.elapsed() >= Duration::from_millis(90) && !answer.keeps_alive());
    drop(client);
    assert_failed(&door, &answer, 408, "head_timeout");
}

#[test]
fn a_connection_without_requests_is_closed_after_a_while() {
    let (door, _blue) = Door::builder().set("limits.idle_time", "200ms").before(Fake::echoes);
    let mut used = door.connect();
    used.send(get()).response();
    let rest = used.rest();
    assert!(rest.bytes.is_empty() && !rest.reset);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
}

// === trying again ===

/// What a kept backend connection does with its second request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    /// Reads all of it, and ends in an orderly way.
    Closes,
    /// Does not read it, and resets.
    Resets,
}

#[test]
fn a_request_on_a_dead_connection_is_repeated_only_where_no_backend_can_have_acted_on_it() {
    let large = "x".repeat(100_000);
    let cases: [(&str, &str, Dies, bool); 11] = [
        ("GET", "", Dies::Closes, true),
        ("HEAD", "", Dies::Closes, true),
        ("DELETE", "", Dies::Closes, true),
        ("PUT", "hello", Dies::Closes, true),
        ("PUT", &large, Dies::Closes, false),
        ("POST", "", Dies::Closes, false),
        ("POST", "hello", Dies::Closes, false),
        ("GET", "", Dies::Resets, true),
        ("POST", "", Dies::Resets, true),
        ("POST", "hello", Dies::Resets, false),
        ("PATCH", "hello", Dies::Resets, false),
    ];
    for (method, body, dies, repeated) in cases {
        let script = move |number| match (number, dies) {
            (0, Dies::Closes) => vec![Act::ReadRequest, Act::Say(ok("")), Act::ReadRequest],
            (0, Dies::Resets) => vec![Act::ReadRequest, Act::Say(ok("")), Act::AwaitUnread],
            _ => vec![Act::ReadRequest, Act::Echo, Act::Repeat],
        };
        let (door, blue) = Door::builder().set("workers", 1).before(|at| Fake::scripted(at, script));
        let mut client = door.connect();
        assert_eq!(client.send(get()).response().status, 200);
        client.send(request(method, "/again", &[], body.as_bytes()));
        let answer = if method == "HEAD" { client.try_response_to_head() } else { client.try_response() };
        let answer = answer.unwrap_or_else(|why| panic!("{method} {} {dies:?}: {why}", body.len()));
        drop(client);
        let metrics = door.quiet();
        let told = format!("{method} with {} bytes, {dies:?}", body.len());
        assert_eq!(answer.status, if repeated { 200 } else { 502 }, "{told}");
        assert_eq!(blue.heard().len(), 1 + usize::from(repeated), "{told}: connections");
        assert_eq!(metrics.sum("bgproxy_retries_total", &[]), f64::from(u8::from(repeated)), "{told}");
        assert_eq!(metrics.sum("bgproxy_claims_ended_total", &[("outcome", "moved")]), f64::from(u8::from(repeated)));
        if repeated {
            let again = &blue.requests().pop().expect("the second try");
            assert_eq!((again.target(), again.body.as_slice()), ("/again", body.as_bytes()), "{told}: the same again");
        }
    }
}

#[test]
fn a_connection_that_died_unnoticed_costs_no_request_whatever_its_method() {
    // The door is stopped while the backend closes and the request comes: it finds both at once.
    for (method, body) in [("GET", ""), ("POST", "hello"), ("POST", "")] {
        let script = |number| match number {
            0 => vec![Act::ReadRequest, Act::Say(ok("")), Act::AwaitGo],
            _ => vec![Act::ReadRequest, Act::Echo, Act::Repeat],
        };
        let (mut door, blue) = Door::builder().set("workers", 1).before(|at| Fake::scripted(at, script));
        let mut client = door.connect();
        client.send(get()).response();
        door.signal(Signal::STOP);
        blue.go();
        assert_ends(&blue);
        client.send(request(method, "/again", &[], body.as_bytes()));
        door.signal(Signal::CONT);
        assert_eq!(client.response().text(), format!("{method} /again HTTP/1.1"), "with {} bytes", body.len());
        let times = blue.requests().iter().filter(|it| it.target() == "/again").count();
        assert_eq!(times, 1, "{method}");
        drop(client);
        door.quiet();
    }
}

#[test]
fn clients_are_not_blamed_for_time_in_which_the_door_did_not_run() {
    let builder = Door::builder().set("workers", 1).set("limits.header_time", "3s").set("limits.idle_time", "3s");
    let (mut door, _blue) = builder.before(Fake::echoes);
    let mut idle: Vec<Raw> = (0..20).map(|_| door.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.send(get()).response().status, 200);
    }
    let mut halfway: Vec<Raw> = (0..20).map(|_| door.connect()).collect();
    for client in &mut halfway {
        client.send("GET / HTTP/1.1\r\n");
    }
    let accepted = || door.metrics().sum("bgproxy_connections_open", &[]) >= 40.0;
    wait_until("all of them to be accepted", DEADLINE, accepted);
    door.signal(Signal::STOP);
    // Longer than both deadlines.
    pace(Duration::from_secs(5));
    for client in &mut halfway {
        client.send("Host: portal\r\n\r\n");
    }
    for client in &mut idle {
        client.send(get());
    }
    door.signal(Signal::CONT);
    for client in halfway.iter_mut().chain(&mut idle) {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn a_second_failure_is_final() {
    let (door, blue) = Door::builder().before(Fake::reads_then_closes);
    assert_failed_and_logged(&door, &door.get("/"), 502, "backend_closed");
    assert_eq!(blue.heard().len(), 2, "one try and one more");
}

// === limits ===

#[test]
fn a_body_past_the_limit_is_refused() {
    let (door, blue) = Door::builder().set("limits.body_size", "1000B").before(Fake::echoes);
    let sized = Raw::ask(door.addr(), &request("POST", "/", &[("Content-Length", "1001")], b""));
    assert_eq!((sized.status, sized.keeps_alive()), (413, false));
    assert_eq!(blue.heard().len(), 0, "nobody is bothered with what is known to be too much");

    let mut client = door.connect();
    client.send(request("POST", "/", &[("Transfer-Encoding", "chunked")], b"3e8\r\n"));
    client.send("x".repeat(1000)).send("\r\n1\r\nx\r\n0\r\n\r\n");
    let chunked = client.response();
    assert_eq!((chunked.status, chunked.keeps_alive()), (413, false));
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "body_too_large")]), 2.0);
    assert_ends(&blue);
    assert_eq!(blue.requests().len(), 0, "the backend never got a whole request");

    let most = Raw::ask(door.addr(), &request("POST", "/", &[], &[b'x'; 1000]));
    assert_eq!(most.status, 200);
}

#[test]
fn a_head_past_the_limit_is_refused() {
    let (door, blue) = Door::builder().set("limits.header_size", "8KiB").before(Fake::echoes);
    let large = "x".repeat(9000);
    let answer = Raw::ask(door.addr(), &request("GET", "/", &[("X-Large", &large)], b""));
    assert!(!answer.keeps_alive() && blue.heard().is_empty());
    assert_failed(&door, &answer, 431, "head_too_large");
}

#[test]
fn a_target_past_the_limit_is_refused() {
    let door = Door::builder().set("limits.header_size", "128KiB").start();
    let answer = Raw::ask(door.addr(), &request("GET", &format!("/{}", "x".repeat(66_000)), &[], b""));
    assert_failed(&door, &answer, 414, "target_too_long");
}

#[test]
fn a_refused_head_counts_for_no_method() {
    let door = Door::builder().start();
    let answer = Raw::ask(door.addr(), b"GET / HTTP/1.1\r\nX : y\r\n\r\n");
    assert_failed(&door, &answer, 400, "head_malformed");
    assert_eq!(door.metrics().sum("bgproxy_requests_total", &[("method", "OTHER"), ("code", "400")]), 1.0);
}

#[test]
fn a_request_that_no_service_is_for_is_told_so() {
    let door = Door::builder().set("service.portal.paths", json!(["/app"])).start();
    let mut client = door.connect();
    let answer = client.send(request("GET", "/apple", &[], b"")).response();
    assert!(answer.keeps_alive());
    drop(client);
    assert_failed_and_logged(&door, &answer, 404, "no_route");
}

#[test]
fn past_the_limit_of_connections_the_next_client_waits_while_none_is_idle() {
    let builder = Door::builder().set("workers", 1).set("limits.connections", 2);
    let (door, blue) = builder.before(|at| Fake::color(at, "blue"));
    let mut busy = [door.connect(), door.connect()];
    for client in &mut busy {
        client.send(request("GET", "/hold", &[], b""));
    }
    blue.wait_requests(2);
    let mut third = door.connect();
    third.send(get());
    assert!(third.hears_nothing(), "nobody leaves who is served");
    blue.go();
    for client in &mut busy {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(third.response().status, 200);
    drop((busy, third));
    door.quiet();
}

#[test]
fn clients_that_come_all_at_once_do_not_get_past_the_limit_of_connections() {
    let builder = Door::builder().set("workers", 1).set("limits.connections", 2);
    let (mut door, _blue) = builder.before(Fake::echoes);
    door.signal(Signal::STOP);
    let mut clients: Vec<Raw> = (0..20).map(|_| door.connect()).collect();
    for client in &mut clients {
        client.send(get());
    }
    door.signal(Signal::CONT);
    while !clients.is_empty() {
        assert!(door.metrics().sum("bgproxy_connections_open", &[]) <= 2.0);
        // They are let in in the order in which they came.
        assert_eq!(clients.remove(0).response().status, 200);
    }
    door.quiet();
}

// === the client leaves ===

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    for reset in [false, true] {
        let (door, blue) = Door::builder().before(Fake::never_answers);
        let mut client = door.connect();
        client.send(get());
        blue.wait_requests(1);
        if reset {
            client.reset()
        } else {
            drop(client)
        }
        let metrics = door.quiet();
        assert_ends(&blue);
        assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "client_gone")]), 1.0);
        assert_eq!(metrics.sum("bgproxy_requests_total", &[("code", "499")]), 1.0);
        let line = logged(&door, 1).remove(0);
        assert_eq!((&line["status"], &line["reason"]), (&json!(499), &json!("client_gone")));
    }
}

#[test]
fn a_client_that_leaves_within_its_upload_takes_its_request_with_it() {
    for head in [&[("Content-Length", "100")][..], &[("Transfer-Encoding", "chunked")]] {
        let (door, blue) = Door::builder().before(Fake::echoes);
        let mut client = door.connect();
        client.send(request("POST", "/", head, b"5\r\nhello\r\n"));
        wait_until("the head", DEADLINE, || !blue.heard().is_empty());
        drop(client);
        let metrics = door.quiet();
        assert_ends(&blue);
        assert_eq!(blue.requests().len(), 0, "half an upload is not passed off as the whole");
        assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "client_gone")]), 1.0);
    }
}

#[test]
fn a_client_that_leaves_within_an_answer_ends_it_for_the_backend() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1u64 << 40).into_bytes();
    let script = move |_| vec![Act::ReadRequest, Act::Say(head.clone()), Act::Flood];
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = door.connect();
    client.send(get());
    client.head();
    drop(client);
    let metrics = door.quiet();
    assert_ends(&blue);
    assert_eq!(metrics.sum("bgproxy_claims_ended_total", &[("outcome", "failed")]), 1.0);
    let line = logged(&door, 1).remove(0);
    assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("client_gone")));
}

// === books ===

#[test]
fn the_books_balance_whatever_happens_to_requests() {
    let script = |number: usize| match number % 5 {
        0 => vec![Act::ReadRequest, Act::Echo, Act::ReadRequest],
        1 => vec![Act::ReadRequest, Act::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec())],
        2 => vec![Act::ReadRequest, Act::Say(b"nonsense\r\n\r\n".to_vec())],
        3 => vec![Act::ReadRequest],
        _ => vec![Act::ReadRequest, Act::Echo, Act::Repeat],
    };
    let (door, _blue) = Door::builder().before(|at| Fake::scripted(at, script));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..25 {
                    let mut client = door.connect();
                    let method = ["GET", "POST", "HEAD", "PUT"][number % 4];
                    client.send(request(method, "/", &[], if number % 2 == 0 { b"" } else { b"hello" }));
                    // Whatever the answer is; every sixth client does not wait for it.
                    let _ = number % 6 == 0 || client.try_response_to_head().is_ok();
                }
            });
        }
    });
    // One that has left may still be in the kernel's queue.
    wait_until("every client to be accepted", DEADLINE, || {
        door.metrics().sum("bgproxy_connections_total", &[]) >= 100.0
    });
    let metrics = door.quiet();
    let ended = |outcome| metrics.sum("bgproxy_claims_ended_total", &[("outcome", outcome)]);
    let requests = metrics.sum("bgproxy_requests_total", &[]);
    // Who leaves so early that nobody has looked at his request has not sent one.
    assert!((80.0..=100.0).contains(&requests), "{requests}");
    assert_eq!(ended("finished") + ended("failed"), requests, "each was claimed by one backend in the end");
    assert_eq!(ended("moved"), metrics.sum("bgproxy_retries_total", &[]));
    assert_eq!(ended("failed"), metrics.sum("bgproxy_request_failures_total", &[]));
    assert!(ended("finished") > 0.0 && ended("failed") > 0.0 && ended("moved") > 0.0);
    assert_eq!(logged(&door, requests as usize).len(), requests as usize);
}

#[test]
fn a_line_of_the_access_log_tells_all_about_a_request() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    let headers = [("Host", "a:81"), ("User-Agent", "test \"1\""), ("Referer", "http://r/"), ("X-Request-Id", "id-1")];
    Raw::ask(door.addr(), &request("POST", "/x?y=z", &headers, b"hello"));
    let line = logged(&door, 1).remove(0);
    let expected = [
        ("client", json!("127.0.0.1")),
        ("method", json!("POST")),
        ("host", json!("a:81")),
        ("target", json!("/x?y=z")),
        ("protocol", json!("HTTP/1.1")),
        ("status", json!(200)),
        ("bytes_in", json!(5)),
        ("bytes_out", json!("POST /x?y=z HTTP/1.1".len())),
        ("service", json!("portal")),
        ("color", json!("blue")),
        ("retries", json!(0)),
        ("request_id", json!("id-1")),
        ("user_agent", json!("test \"1\"")),
        ("referer", json!("http://r/")),
    ];
    for (key, value) in expected {
        assert_eq!(line[key], value, "{key}");
    }
    assert!(line["seconds"].as_f64().unwrap() >= line["first_byte"].as_f64().unwrap());
    assert!(line["generation"].is_u64() && line.get("reason").is_none(), "{line}");
}

#[test]
fn the_access_log_can_be_what_other_servers_write() {
    let (door, _blue) = Door::builder().set("log.access_format", "combined").before(Fake::echoes);
    let headers = [("User-Agent", "test \"1\"\t\u{fc}"), ("Connection", "close")];
    Raw::ask(door.addr(), &request("GET", "/x", &headers, b""));
    let line = wait_for("a line", DEADLINE, || match text_of(&door.access_log()) {
        text if text.ends_with('\n') => Ok(text),
        text => Err(text),
    });
    let (before, rest) = line.split_once(" [").unwrap();
    let (_, after) = rest.split_once("] ").unwrap();
    assert_eq!(before, "127.0.0.1 - -");
    assert_eq!(after, "\"GET /x HTTP/1.1\" 200 15 \"-\" \"test \\x221\\x22\\x09\\xC3\\xBC\"\n");
}

// === the end ===

fn answers_on_cue(at: PathBuf) -> Fake {
    Fake::scripted(at, |_| vec![Act::ReadRequest, Act::AwaitGo, Act::Echo, Act::Repeat])
}

/// Waits until no worker accepts any more.
#[track_caller]
fn wait_refused(address: std::net::SocketAddr) {
    let refused = || matches!(Raw::try_connect(address), Err(Failure::Connect(_)));
    wait_until("new clients to be refused", DEADLINE, refused);
}

#[test]
fn a_door_that_is_told_to_end_finishes_what_it_began() {
    let (mut door, blue) = Door::builder().before(answers_on_cue);
    let address = door.addr();
    let mut client = door.connect();
    client.send(get());
    blue.wait_requests(1);
    door.signal(Signal::TERM);
    wait_refused(address);
    blue.go();
    let answer = client.response();
    assert_eq!((answer.status, answer.keeps_alive()), (200, false));
    assert!(client.rest().bytes.is_empty());
    drop(client);
    assert_eq!(door.wait_end().code(), Some(0));
    let line = logged(&door, 1).remove(0);
    assert_eq!(line["status"], 200, "also in the log");
}

#[test]
fn a_door_that_ends_closes_idle_connections() {
    let (mut door, _blue) = Door::builder().before(Fake::echoes);
    let mut used = door.connect();
    used.send(get()).response();
    let mut fresh = door.connect();
    door.signal(Signal::TERM);
    for client in [&mut used, &mut fresh] {
        let rest = client.rest();
        assert!(rest.bytes.is_empty() && !rest.reset, "{rest:?}");
    }
    assert_eq!(door.wait_end().code(), Some(0));
}

#[test]
fn a_door_that_ends_answers_requests_that_were_on_their_way() {
    let (mut door, _blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    client.send(get()).response();
    let address = door.addr();
    door.signal(Signal::TERM);
    wait_refused(address);
    let answer = client.send(get()).response();
    assert_eq!((answer.status, answer.keeps_alive()), (200, false), "the last on this connection");
    drop(client);
    assert_eq!(door.wait_end().code(), Some(0));
}

#[test]
fn a_door_that_ends_cuts_what_outlives_its_deadline() {
    let (mut door, blue) = Door::builder().set("shutdown.deadline", "200ms").before(Fake::never_answers);
    let mut client = door.connect();
    client.send(get());
    blue.wait_requests(1);
    door.signal(Signal::TERM);
    let answer = client.response();
    assert_eq!((answer.status, answer.keeps_alive()), (503, false));
    assert!(answer.header("proxy-status").unwrap().contains("shutdown_cut"));
    drop(client);
    assert_eq!(door.wait_end().code(), Some(0));
    assert_eq!(logged(&door, 1)[0]["reason"], "shutdown_cut");
}

#[test]
fn a_websocket_that_a_door_opens_while_it_ends_is_told_at_once() {
    let opens = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
    let script = move |_| vec![Act::ReadHead, Act::AwaitGo, Act::Say(opens.clone()), Act::Stay];
    let (mut door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let (mut client, mut idle) = (door.connect(), door.connect());
    client.send(request("GET", "/", &[("Connection", "upgrade"), ("Upgrade", "websocket")], b""));
    wait_until("the head", DEADLINE, || blue.heard().first().is_some_and(|it| it.bytes.ends_with(b"\r\n\r\n")));
    door.signal(Signal::TERM);
    // Idle connections end when all streams there are have been told.
    idle.rest();
    blue.go();
    assert_eq!(client.head().0.status, 101);
    assert_eq!(client.rest().bytes, b"\x88\x0c\x03\xe9going away");
    drop(client);
    assert_eq!(door.wait_end().code(), Some(0));
    assert!(!door.log().contains("deadline passed"), "nothing was left to cut");
}

#[test]
fn a_door_that_is_told_twice_ends_at_once() {
    let (mut door, blue) = Door::builder().before(Fake::never_answers);
    let mut client = door.connect();
    client.send(get());
    blue.wait_requests(1);
    door.signal(Signal::TERM);
    door.wait_log("closing the door");
    let told = Instant::now();
    door.signal(Signal::TERM);
    assert!(client.try_response().is_err());
    assert_eq!(door.wait_end().code(), Some(1), "not what was asked for first");
    assert!(told.elapsed() < Duration::from_millis(2500), "it took {:?}", told.elapsed());
}

/// A backend answers before it reads bodies: whatever is left of a request by then, in whichever buffer, must never be
/// sent with the next one.
#[test]
fn what_is_left_of_a_request_is_not_sent_with_the_next_one() {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::{Arc, Mutex};

    /// Answers every head at once, and only then reads the body.
    fn hears(mut backend: UnixStream, odd: &Mutex<Vec<String>>) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while backend.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = String::from_utf8_lossy(&head).to_lowercase();
            if !text.starts_with("get / http/1.1\r\n") && !text.starts_with("post / http/1.1\r\n") {
                odd.lock().expect("no panic").push(text.chars().take(80).collect());
                return;
            }
            // As much of the body as fits waits in the socket, the rest with the door.
            let (mut last, mut same) = (0, 0);
            wait_until("what is sent to come to rest", DEADLINE, || {
                let waiting = rustix::io::ioctl_fionread(&backend).expect("a socket");
                same = if waiting == last { same + 1 } else { 0 };
                last = waiting;
                same == 5
            });
            if backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
            let length = text.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next());
            let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
            if backend.read_exact(&mut body).is_ok() && body.iter().any(|byte| *byte != b'x') {
                odd.lock().expect("no panic").push(format!("a body of {} bytes is not as it was sent", body.len()));
            }
            head.clear();
        }
    }

    let builder = Door::builder().set("workers", 1);
    let path = builder.dir().join("blue.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let odd = Arc::new(Mutex::new(Vec::new()));
    let seen = odd.clone();
    std::thread::spawn(move || {
        for backend in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || hears(backend, &seen));
        }
    });
    let door = builder.set("service.portal.backends.blue", path.to_str().expect("readable")).start();
    // Around what a unix socket's buffer takes.
    for size in (0..40).map(|step| 150_000 + step * 4_000) {
        let mut client = TcpStream::connect(door.addr()).expect("a connection");
        client.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut sends = client.try_clone().expect("a second handle");
        let upload = std::thread::spawn(move || {
            let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n");
            sends.write_all(head.as_bytes()).and_then(|()| sends.write_all(&vec![b'x'; size]))
        });
        let mut status = [0; 12];
        client.read_exact(&mut status).expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 200", "{size} bytes");
        let next = Raw::ask(door.addr(), &request("GET", "/", &[], b""));
        assert_eq!((next.status, next.text().as_str()), (200, "ok"), "after {size} bytes");
        upload.join().expect("no panic").expect("the door takes the rest");
    }
    assert_eq!(*odd.lock().expect("no panic"), Vec::<String>::new());
}
