//! What a backend's 101 begins, byte by byte, and how it ends; and what does not become a tunnel.

use std::time::{Duration, Instant};

use bgproxy_conf::wire::{ColorStatus, DrainOutcome};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::door::NAME;
use crate::harness::fake::{Choice, ok};
use crate::harness::http2::{Http2, runtime};
use crate::harness::raw::{Failure, Target, request};
use crate::harness::{Act, Authority, DEADLINE, Door, Fake, Raw, Trust, settled, text_of, wait_for, wait_until};

const UPGRADES: &str = "service.portal.upgrades";

/// A request for an upgrade.
fn asks(token: &str) -> Vec<u8> {
    let headers = [("Connection", "keep-alive, Upgrade"), ("Upgrade", token), ("Sec-WebSocket-Version", "13")];
    request("GET", "/ws", &headers, b"")
}

/// A backend's 101, with what it says at once.
fn agrees(token: &str, ahead: &[u8]) -> Act {
    let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\n");
    Act::Say([head.as_bytes(), ahead].concat())
}

/// A backend that agrees to a websocket, and then does this.
fn websocket(then: Vec<Act>) -> impl Fn(usize) -> Vec<Act> {
    move |_| [vec![Act::ReadRequest, agrees("websocket", b"")], then.clone()].concat()
}

/// Repeats what it is sent, if it is sent this, so often.
fn repeats(what: &[u8], times: usize) -> Vec<Act> {
    (0..times).flat_map(|_| [Act::Read(what.len()), Act::Say(what.to_vec())]).chain([Act::Stay]).collect()
}

/// Opens a tunnel for a websocket; it is one when this returns.
#[track_caller]
fn open(mut client: Raw) -> Raw {
    client.send(asks("websocket"));
    let (head, _) = client.head();
    assert_eq!((head.status, head.fields.get("upgrade")), (101, Some("websocket")));
    assert_eq!(head.fields.get("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    client
}

/// What a backend heard over its only connection, behind the head.
fn heard(fake: &Fake) -> Vec<u8> {
    let bytes = fake.heard().into_iter().next().map(|heard| heard.bytes).unwrap_or_default();
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    bytes[head..].to_vec()
}

#[track_caller]
fn hears(fake: &Fake, bytes: &[u8]) {
    wait_for(&format!("{:?} at the backend", bytes.escape_ascii().to_string()), DEADLINE, || {
        let heard = heard(fake);
        if heard == bytes { Ok(()) } else { Err(heard.escape_ascii().to_string()) }
    });
}

/// A frame of a websocket server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ ..126 => vec![short as u8],
        middle @ ..65_536 => [&[126][..], &(middle as u16).to_be_bytes()].concat(),
        long => [&[127][..], &(long as u64).to_be_bytes()].concat(),
    };
    [&[first][..], &length, payload].concat()
}

const BINARY: u8 = 0x82;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// What tells a client to come back.
fn going_away() -> Vec<u8> {
    frame(CLOSE, b"\x03\xe9going away")
}

/// A websocket client's answer to it, masked with zeros.
const ANSWER: &[u8] = b"\x88\x82\0\0\0\0\x03\xe9";

#[track_caller]
fn close_streams(door: &Door) {
    door.post("/v1/services/portal/close-streams", json!({ "color": "blue", "over": 0 })).parsed::<Value>();
}

fn open_tunnels(door: &Door) -> f64 {
    door.metrics().sum("bgproxy_streams_open", &[("color", "blue"), ("kind", "tunnel")])
}

/// The line of the access log; there is one.
#[track_caller]
fn logged(door: &Door) -> Value {
    wait_until("a line in the access log", DEADLINE, || text_of(&door.access_log()).ends_with('\n'));
    serde_json::from_str(&text_of(&door.access_log())).unwrap()
}

// === what passes ===

#[test]
fn bytes_pass_both_ways_and_those_behind_the_request_wait_for_the_101() {
    let script = |_| vec![Act::ReadRequest, Act::AwaitGo, agrees("websocket", b"early"), Act::Stay];
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    // To be taken for a request by whoever does not wait.
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut client = door.connect();
    client.send([&asks("websocket"), &smuggled[..]].concat());
    blue.wait_requests(1);
    assert!(client.hears_nothing());
    assert_eq!(heard(&blue), b"", "before the 101");
    blue.go();
    assert_eq!(client.head().0.status, 101);
    assert_eq!(client.exactly(5), b"early");
    hears(&blue, smuggled);
    client.send("and more");
    hears(&blue, &[smuggled, &b"and more"[..]].concat());
    let request = String::from_utf8(blue.only()).unwrap().to_ascii_lowercase();
    let head = request.split("\r\n\r\n").next().unwrap();
    assert!(head.contains("\r\nupgrade: websocket") && head.contains("\r\nconnection: upgrade"), "{head}");
    assert!(head.contains("\r\nsec-websocket-version: 13") && !head.contains("keep-alive"), "{head}");
    client.finish_sending();
    assert!(!client.rest().reset);
    assert_eq!(door.quiet().sum("bgproxy_requests_total", &[]), 1.0);
}

#[test]
fn an_end_of_one_side_is_an_end_of_that_side_only() {
    let authority = Authority::new();
    let trust = Trust::of(&authority, NAME);
    for tls in [true, false] {
        let connect = |door: &Door| match tls {
            true => Raw::connect_tls(door.addr(), &trust),
            false => Raw::connect(door.listener(1)),
        };
        let says_last = websocket(vec![Act::Stay, Act::Say(b"the last word".to_vec())]);
        let (door, blue) = Door::builder().tls(&authority).before(|at| Fake::scripted(at, says_last));
        let mut client = open(connect(&door));
        client.send("first").finish_sending();
        let rest = client.rest();
        assert_eq!((rest.bytes.as_slice(), rest.reset), (&b"the last word"[..], false), "client first, TLS: {tls}");
        hears(&blue, b"first");
        door.quiet();

        let listens = websocket(vec![Act::Say(b"first".to_vec()), Act::FinishSending, Act::Stay]);
        let (door, blue) = Door::builder().tls(&authority).before(|at| Fake::scripted(at, listens));
        let mut client = open(connect(&door));
        let rest = client.rest();
        assert_eq!((rest.bytes.as_slice(), rest.reset), (&b"first"[..], false), "backend first, TLS: {tls}");
        client.send("the last ");
        hears(&blue, b"the last ");
        client.send("word");
        hears(&blue, b"the last word");
        assert_eq!(open_tunnels(&door), 1.0);
        client.finish_sending();
        assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
    }
}

#[test]
fn a_reset_of_either_side_ends_both() {
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, websocket(vec![Act::Stay])));
    open(door.connect()).reset();
    wait_until("the backend's connection to end", DEADLINE, || blue.heard()[0].ended);
    door.quiet();
    // What is left unread makes the end a reset.
    let (door, _blue) = Door::builder().before(|at| Fake::scripted(at, websocket(vec![Act::AwaitUnread])));
    let mut client = open(door.connect());
    client.send("unread");
    client.rest();
    drop(client);
    door.quiet();
}

/// What passes in one go, and what of it the door may hold.
const MUCH: usize = 64 * 1024 * 1024;
const HELD: u64 = 8 * 1024 * 1024;

#[test]
fn a_client_that_does_not_read_costs_no_memory_and_misses_nothing() {
    let mut pumped = vec![0; MUCH];
    fastrand::Rng::with_seed(7).fill(&mut pumped);
    let digest = Sha256::digest(&pumped);
    let script = websocket(vec![Act::Read(1), Act::Say(pumped), Act::Stay]);
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = open(door.connect());
    let resident = || {
        let status = text_of(format!("/proc/{}/status", door.pid()).as_ref());
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    };
    let before = resident();
    client.send("!");
    // More than the 101.
    let said = settled(|| Some(blue.heard()[0].said).filter(|said| *said > 100_000).unwrap_or(0));
    assert!(said < MUCH as u64, "all of it went somewhere");
    let grown = resident().saturating_sub(before);
    assert!(grown < HELD, "{grown} bytes more");
    let mut hash = Sha256::new();
    for _ in 0..MUCH / (64 * 1024) {
        hash.update(client.exactly(64 * 1024));
    }
    assert!(hash.finalize() == digest, "what came is not what was sent");
    let grown = resident().saturating_sub(before);
    assert!(grown < HELD, "{grown} bytes more");
}

// === what is no tunnel ===

#[test]
fn what_else_a_backend_says_to_an_upgrade_is_an_answer_like_any_other() {
    for status in ["200 OK", "426 Upgrade Required", "503 Service Unavailable"] {
        let answer = format!("HTTP/1.1 {status}\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno").into_bytes();
        let choose = Choice::new(move |target| match target {
            "/ws" => vec![Act::Say(answer.clone())],
            _ => vec![Act::Echo],
        });
        let script = move |_| vec![Act::ReadRequest, Act::Choose(choose.clone()), Act::Repeat];
        let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
        let mut client = door.connect();
        client.send([asks("websocket"), request("GET", "/next", &[], b"")].concat());
        let answer = client.response();
        assert_eq!((answer.status.to_string().as_str(), answer.text().as_str()), (&status[..3], "no"));
        assert_eq!(answer.header("connection"), None);
        assert_eq!(client.response().text(), "GET /next HTTP/1.1", "after {status}");
        assert_eq!(blue.requests().len(), 2);
        drop(client);
        let metrics = door.quiet();
        assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
    }
}

#[test]
fn a_101_that_does_not_fit_is_no_answer() {
    let choose = Choice::new(|target| {
        let said = match target {
            "/ws" => "Connection: upgrade\r\nUpgrade: other\r\n",
            "/nameless" => "Connection: upgrade\r\n",
            "/several" => "Connection: upgrade\r\nUpgrade: websocket, other\r\n",
            "/unsaid" => "Upgrade: websocket\r\n",
            _ => "Connection: upgrade\r\nUpgrade: websocket\r\n",
        };
        vec![Act::Say(format!("HTTP/1.1 101 Switching Protocols\r\n{said}\r\n").into_bytes()), Act::Stay]
    });
    let script = move |_| vec![Act::ReadRequest, Act::Choose(choose.clone())];
    let (door, _blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let paths = ["/ws", "/nameless", "/several", "/unsaid"];
    let mut asked: Vec<Vec<u8>> =
        paths.map(|path| String::from_utf8(asks("websocket")).unwrap().replace("/ws", path).into_bytes()).to_vec();
    asked.push(request("GET", "/unasked", &[], b""));
    let count = asked.len() as f64;
    for ask in asked {
        let answer = Raw::ask(door.addr(), &ask);
        let text = answer.text();
        assert!(answer.status == 502 && text.contains("(backend_malformed)"), "{}: {text}", ask.escape_ascii());
    }
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "backend_malformed")]), count);
}

#[test]
fn a_request_that_cannot_be_upgraded_is_served_without() {
    let (door, blue) = Door::builder().set(UPGRADES, json!(["websocket", "mine"])).before(Fake::echoes);
    let ask = |method: &str, headers: &[(&str, &str)], body: &[u8]| request(method, "/", headers, body);
    let upgrade = ("Connection", "Upgrade");
    let cases = [
        ("not in the list", ask("GET", &[upgrade, ("Upgrade", "other")], b"")),
        (
            "h2c",
            ask("GET", &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AA")], b""),
        ),
        ("two tokens", ask("GET", &[upgrade, ("Upgrade", "websocket, mine")], b"")),
        ("two lines", ask("GET", &[upgrade, ("Upgrade", "websocket"), ("Upgrade", "mine")], b"")),
        ("no Connection", ask("GET", &[("Upgrade", "websocket")], b"")),
        ("with a body", ask("POST", &[upgrade, ("Upgrade", "websocket")], b"a body")),
        ("with chunks", ask("GET", &[upgrade, ("Upgrade", "mine"), ("Transfer-Encoding", "chunked")], b"0\r\n\r\n")),
        ("HEAD", ask("HEAD", &[upgrade, ("Upgrade", "websocket")], b"")),
    ];
    let mut client = door.connect();
    for (what, bytes) in &cases {
        client.send(bytes);
        let answer = if *what == "HEAD" { client.try_response_to_head() } else { client.try_response() };
        assert_eq!(answer.unwrap_or_else(|why| panic!("{what}: {why}")).status, 200, "{what}");
    }
    let old = b"GET / HTTP/1.0\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(Raw::ask(door.addr(), old).status, 200);
    let requests = blue.requests();
    assert_eq!(requests.len(), cases.len() + 1);
    for request in &requests {
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(request.get(gone), None, "{request:?}");
        }
    }
    assert!(requests.iter().any(|request| request.body == b"a body"));
}

#[test]
fn the_list_of_upgrades_decides_and_case_does_not() {
    let script = |_| {
        let choose = Choice::new(|_| vec![agrees("myproto", b"welcome"), Act::Stay]);
        vec![Act::ReadRequest, Act::Choose(choose)]
    };
    let (door, blue) = Door::builder().set(UPGRADES, json!(["myproto"])).before(|at| Fake::scripted(at, script));
    let mut client = door.connect();
    client.send(asks("MyProto"));
    assert_eq!(client.head().0.status, 101);
    assert_eq!(client.exactly(7), b"welcome");
    client.send("thanks");
    hears(&blue, b"thanks");
    drop(client);
    // Not asked for an upgrade, it had no business to agree.
    assert_eq!(Raw::ask(door.addr(), &asks("websocket")).status, 502);
    let second = String::from_utf8(blue.heard().remove(1).bytes).unwrap();
    assert!(second.starts_with("GET /ws ") && !second.to_ascii_lowercase().contains("upgrade"), "{second}");
}

#[test]
fn connect_is_refused() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let answer = Raw::ask(door.addr(), b"CONNECT portal.example:443 HTTP/1.1\r\nHost: portal.example:443\r\n\r\nraw");
    assert!(answer.status == 405 && answer.text().contains("(method_refused)"), "{}", answer.text());
    assert_eq!(blue.heard().len(), 0);
}

#[test]
fn an_http2_client_is_refused_a_protocol_that_is_not_in_the_list() {
    let authority = Authority::new();
    let (door, blue) = Door::builder().tls(&authority).set(UPGRADES, json!(["myproto"])).before(Fake::echoes);
    runtime().block_on(async {
        let client = Http2::connect(&Target::Tcp(door.addr()), Some(&Trust::of(&authority, NAME))).await.unwrap();
        let (status, _, _) = client.websocket(&format!("https://{NAME}/ws")).await.unwrap();
        assert_eq!(status, 501);
        assert_eq!(client.get(&format!("https://{NAME}/next")).await.unwrap().status, 200);
    });
    assert_eq!(blue.requests().len(), 1);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[("reason", "upgrade_refused")]), 1.0);
}

// === what is known of it ===

#[test]
fn a_tunnel_is_a_stream_and_no_request_wherever_it_is_counted() {
    let builder = Door::builder();
    let _green = Fake::color(builder.dir().join("green.sock"), "green");
    let (door, _blue) = builder.before(|at| Fake::scripted(at, websocket(repeats(b"12345", 2))));
    let mut client = open(door.connect());
    client.send("12345");
    assert_eq!(client.exactly(5), b"12345");
    let metrics = door.metrics();
    assert_eq!((open_tunnels(&door), metrics.sum("bgproxy_requests_in_flight", &[])), (1.0, 0.0));
    let oldest = wait_for("its age", DEADLINE, || status_of_blue(&door).oldest_stream.ok_or("unknown"));
    let status = status_of_blue(&door);
    assert_eq!((status.streams_by_kind.tunnels, status.streams, status.in_flight), (1, 1, 0));
    assert!((0.0..60.0).contains(&oldest), "{oldest}");
    let shown = door.bgctl(&["status"]).ok().stdout;
    assert!(shown.contains("blue has 1 tunnel open, the oldest for "), "{shown}");

    let receipt = door.switch_and_drain("green");
    assert_eq!((receipt.outcome, receipt.in_flight, receipt.streams_left), (DrainOutcome::Drained, 0, 1));
    client.send("12345");
    assert_eq!(client.exactly(5), b"12345", "after the switch");
    client.finish_sending();
    assert!(!client.rest().reset);
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_claims_ended_total", &[("outcome", "finished"), ("color", "blue")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_requests_total", &[("code", "101"), ("color", "blue")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_request_bytes_total", &[("color", "blue")]), 10.0);
    assert_eq!(metrics.sum("bgproxy_response_bytes_total", &[("color", "blue")]), 10.0);
    let line = logged(&door);
    let of = ["status", "bytes_in", "bytes_out", "color", "target", "reason"].map(|key| line[key].clone());
    assert_eq!(of, [json!(101), json!(10), json!(10), json!("blue"), json!("/ws"), Value::Null]);
}

#[track_caller]
fn status_of_blue(door: &Door) -> ColorStatus {
    let (_, status) = door.portal().colors.into_iter().find(|(color, _)| color.as_str() == "blue").expect("blue");
    status
}

#[test]
fn many_that_came_and_went_leave_nothing_behind() {
    let (door, _blue) = Door::builder().before(|at| Fake::scripted(at, websocket(repeats(b"hi", 1))));
    let files = || std::fs::read_dir(format!("/proc/{}/fd", door.pid())).unwrap().count();
    door.quiet();
    let before = files();
    for _ in 0..5 {
        let mut clients: Vec<Raw> = (0..40).map(|_| open(door.connect())).collect();
        assert_eq!(open_tunnels(&door), 40.0);
        clients.iter_mut().for_each(|client| drop(client.send("hi").exactly(2)));
        for (number, mut client) in clients.into_iter().enumerate() {
            match number % 3 {
                0 => client.reset(),
                1 => drop(client.finish_sending().rest()),
                _ => drop(client),
            }
        }
    }
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_claims_total", &[]), 200.0);
    assert_eq!(metrics.sum("bgproxy_claims_ended_total", &[("outcome", "finished")]), 200.0);
    wait_for("the files to be closed", DEADLINE, || {
        let now = files();
        if now <= before { Ok(()) } else { Err(format!("{now} open, {before} before")) }
    });
}

// === how it ends ===

#[test]
fn a_silent_tunnel_is_closed_and_a_byte_of_either_side_keeps_it() {
    let (door, blue) = Door::builder()
        .set("service.portal.streams.idle", "1s")
        .before(|at| Fake::scripted(at, websocket(repeats(b"\x81\x01x", 3))));
    let mut client = open(door.connect());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) {
        assert!(client.hears_nothing());
    }
    let moved = Instant::now();
    client.send(b"\x81\x01x");
    assert_eq!(client.exactly(3), b"\x81\x01x");
    // Between two frames, as after a switch: going away.
    assert_eq!(client.exactly(4), b"\x88\x0c\x03\xe9");
    assert_eq!(client.rest().bytes, b"going away");
    // By the worker's own clock, which its sweep moves on.
    assert!(moved.elapsed() >= Duration::from_millis(850), "{:?}", moved.elapsed());
    wait_until("the backend's connection to end", DEADLINE, || blue.heard()[0].ended);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[("reason", "tunnel_idle")]), 1.0);
    let line = logged(&door);
    assert_eq!((&line["status"], &line["reason"]), (&json!(101), &json!("tunnel_idle")));
}

#[test]
fn a_close_frame_waits_for_the_end_of_the_frame_that_passes() {
    let large = frame(BINARY, &vec![b'x'; 1024 * 1024]);
    let (first, second) = large.split_at(700_000);
    let later = [second, &frame(TEXT, b"too late")].concat();
    let script = websocket(vec![Act::Say(first.to_vec()), Act::AwaitGo, Act::Say(later), Act::Stay]);
    let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = open(door.connect());
    let mut came = client.exactly(first.len());
    close_streams(&door);
    // It is told by a sweep, ten times a second.
    assert!((0..4).all(|_| client.hears_nothing()), "something stands within the frame");
    blue.go();
    came.extend(client.exactly(second.len()));
    assert!(came == large, "the frame is not what it was");
    let close = going_away();
    assert_eq!(client.exactly(close.len()), close);
    client.send(ANSWER);
    hears(&blue, ANSWER);
    client.finish_sending();
    let rest = client.rest();
    assert_eq!((rest.bytes.escape_ascii().to_string().as_str(), rest.reset), ("", false));
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_streams_closed_total", &[("color", "blue")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
}

#[test]
fn a_backends_own_close_frame_stays_the_only_one_and_a_client_without_an_answer_is_cut() {
    let own = frame(CLOSE, b"\x03\xe8");
    for (said, expected) in [(own.clone(), own), (frame(TEXT, b"hi"), going_away())] {
        let script = websocket(vec![Act::Say(said.clone()), Act::Stay]);
        let (door, blue) = Door::builder().before(|at| Fake::scripted(at, script));
        let mut client = open(door.connect());
        let first = client.exactly(said.len());
        let asked = Instant::now();
        close_streams(&door);
        let rest = client.rest();
        let end = if rest.bytes.is_empty() { first } else { rest.bytes };
        assert_eq!(end.escape_ascii().to_string(), expected.escape_ascii().to_string());
        let patience = asked.elapsed().as_secs_f64();
        assert!((1.9..8.0).contains(&patience), "after {patience} s");
        wait_until("the backend's connection to end", DEADLINE, || blue.heard()[0].ended);
        drop(client);
        door.quiet();
    }
}

#[test]
fn what_is_no_websocket_is_just_closed() {
    let script = |_| vec![Act::ReadRequest, agrees("myproto", b"hi"), Act::Stay];
    let (door, blue) = Door::builder().set(UPGRADES, json!(["myproto"])).before(|at| Fake::scripted(at, script));
    let mut client = door.connect();
    client.send(asks("myproto"));
    assert_eq!(client.head().0.status, 101);
    assert_eq!(client.exactly(2), b"hi");
    close_streams(&door);
    let rest = client.rest();
    assert_eq!((rest.bytes.as_slice(), rest.reset), (&b""[..], false));
    wait_until("the backend's connection to end", DEADLINE, || blue.heard()[0].ended);
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_streams_closed_total", &[]), 1.0);
}

#[test]
fn a_daemon_that_ends_says_goodbye_to_its_websockets() {
    let authority = Authority::new();
    let (mut door, _blue) = Door::builder()
        .tls(&authority)
        .set("shutdown.deadline", "4s")
        .before(|at| Fake::scripted(at, websocket(vec![Act::Stay])));
    let mut clients: Vec<Raw> = (0..3).map(|_| open(Raw::connect(door.listener(1)))).collect();
    clients.push(open(Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME))));
    let asked = Instant::now();
    door.signal(Signal::TERM);
    for mut client in clients {
        let close = going_away();
        assert_eq!(client.exactly(close.len()), close);
        // A client that leaves at once may find that the door was faster.
        let answered = client.try_send(ANSWER);
        assert!(matches!(answered, Ok(()) | Err(Failure::Send(_))), "{answered:?}");
        client.finish_sending();
    }
    assert!(door.wait_end().success());
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert!(!door.log().contains("deadline passed"), "{}", door.log());
}

#[test]
fn a_color_that_is_used_again_keeps_its_tunnels() {
    let builder = Door::builder().set("service.portal.streams", json!({ "keep": "400ms", "spread": "0s" }));
    let _green = Fake::color(builder.dir().join("green.sock"), "green");
    let choose = Choice::new(|target| match target {
        "/ws" => [vec![agrees("websocket", b"")], repeats(b"hi", 3)].concat(),
        _ => vec![Act::Say(ok("blue"))],
    });
    let script = move |_| vec![Act::ReadRequest, Act::Choose(choose.clone()), Act::Repeat];
    let (door, _blue) = builder.before(|at| Fake::scripted(at, script));
    let mut client = open(door.connect());
    let mut echoes = |when: &str| assert_eq!(client.send("hi").exactly(2), b"hi", "{when}");
    echoes("before");
    door.switch("green");
    door.switch("blue");
    let back = Instant::now();
    wait_until("the time that they had", DEADLINE, || back.elapsed() > Duration::from_millis(900));
    echoes("back");
    assert_eq!(door.metrics().sum("bgproxy_streams_closed_total", &[]), 0.0);
}
