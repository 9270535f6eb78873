//! What one address may cost: requests, connections. Who leaves when the house is full, and who is not let in at all.

mod attacks;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::door::{Builder, NAME};
use crate::harness::fake::ok;
use crate::harness::http2::{Http2, runtime};
use crate::harness::raw::{Failure, Target, request};
use crate::harness::{
    Act, Authority, DEADLINE, Door, Fake, Output, Raw, RawHttp2, Response, Trust, need, pace, tell, wait_for,
    wait_until,
};

const RATE: &str = "limits.requests_per_second";
const BURST: &str = "limits.requests_burst";
const PER_ADDRESS: &str = "limits.connections_per_address";
const CONNECTIONS: &str = "limits.connections";
const EXEMPT: &str = "limits.exempt";

/// An address that nobody trusts.
const STRANGER: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

fn get() -> Vec<u8> {
    request("GET", "/", &[], b"")
}

fn from(source: [u8; 4], door: &Door) -> Raw {
    Raw::connect_from(IpAddr::from(source), door.addr())
}

/// A door before a backend that answers.
fn door(change: impl FnOnce(Builder) -> Builder) -> (Door, Fake) {
    change(Door::builder()).before(|at| Fake::answers(at, ok("blue")))
}

/// Asks until the bucket is empty: how often that went well, within which time, and the refusal.
fn exhaust(mut ask: impl FnMut() -> Response) -> (u32, Duration, Response) {
    let begun = Instant::now();
    for admitted in 0..1000 {
        let answer = ask();
        if answer.status != 200 {
            return (admitted, begun.elapsed(), answer);
        }
    }
    panic!("a thousand requests, and none refused");
}

/// What a bucket gives: its burst, and what it gets meanwhile.
#[track_caller]
fn assert_gives(admitted: u32, burst: u32, rate: u32, time: Duration) {
    let most = burst + (time.as_secs_f64() * f64::from(rate)).ceil() as u32;
    assert!((burst..=most).contains(&admitted), "{admitted} admitted in {time:?}, {burst} to {most} expected");
}

fn failures(door: &Door, reason: &str) -> f64 {
    door.metrics().sum("bgproxy_request_failures_total", &[("reason", reason)])
}

fn connection_failures(door: &Door, reason: &str) -> f64 {
    door.metrics().sum("bgproxy_connection_failures_total", &[("reason", reason)])
}

// === requests of an address ===

#[test]
fn past_the_rate_an_address_is_told_when_to_come_again_and_then_served() {
    let (door, blue) = door(|door| door.set(RATE, 1).set(BURST, 3));
    let mut client = from(STRANGER, &door);
    let (admitted, time, refusal) = exhaust(|| client.send(get()).response());
    assert_gives(admitted, 3, 1, time);
    assert_eq!((refusal.status, refusal.header("retry-after")), (429, Some("1")));
    let status = "bgproxy; error=http_request_denied; details=\"rate_limited\"";
    assert_eq!(refusal.header("proxy-status"), Some(status));
    assert!(refusal.keeps_alive(), "a new connection would cost more than the next refusal");
    let refused = || door.status().limits.last_minute;
    wait_until("the refusal in the status", DEADLINE, || refused().rate_limited == 1);
    assert_eq!(refused().address.as_deref(), Some("127.0.0.2"));
    let told = door.bgctl(&["status"]).ok().stdout;
    let line = "limits: in the last minute 1 request refused (rate_limited); the newest address is 127.0.0.2\n";
    assert!(told.contains(line), "{told}");
    // Whoever does as he was told is served, each time.
    for _ in 0..2 {
        pace(Duration::from_secs(1));
        assert_eq!(client.send(get()).response().status, 200);
    }
    assert_eq!(from(OTHER, &door).send(get()).response().status, 200, "another address has a bucket of its own");
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "rate_limited")]), 1.0);
    let claims = metrics.sum("bgproxy_claims_total", &[]);
    assert_eq!(claims, f64::from(admitted + 3), "who is refused claims no backend");
    assert_eq!(blue.requests().len(), admitted as usize + 3);
}

#[test]
fn a_refused_request_with_a_body_leaves_nothing_behind_that_reads_as_a_request() {
    let (door, blue) = door(|door| door.set(RATE, 1).set(BURST, 1));
    let mut client = from(STRANGER, &door);
    let post = request("POST", "/outer", &[], &request("GET", "/inner", &[], b""));
    let (_, _, refusal) = exhaust(|| client.send(&post).response());
    assert_eq!(refusal.status, 429);
    // Whether it goes on or was closed: a body is never answered.
    pace(Duration::from_millis(1100));
    if refusal.keeps_alive() {
        assert_eq!(client.send(&post).response().status, 200);
    }
    assert!(blue.requests().iter().all(|request| request.target() == "/outer"));
}

#[test]
fn an_address_has_one_bucket_over_all_workers_and_over_http2() {
    let (door, _blue) = door(|door| door.set(RATE, 1).set(BURST, 5).set("trusted.proxies", json!([])));
    let mut turn = 0;
    let (admitted, time, _) = exhaust(|| {
        turn += 1;
        // Each on a connection of its own: the kernel spreads them over the workers.
        if turn % 2 == 0 { Raw::get(door.addr(), "/") } else { over_http2(&door, &[]) }
    });
    assert_gives(admitted, 5, 1, time);
}

fn over_http2(door: &Door, headers: &[(&str, &str)]) -> Response {
    let head =
        headers.iter().fold(http::Request::get("http://test/"), |head, (name, value)| head.header(*name, *value));
    let head = head.body(()).expect("a request");
    let asked = runtime()
        .block_on(async { Http2::connect(&Target::from(door.addr()), None).await?.ask(head, Vec::new()).await });
    asked.unwrap_or_else(|why| panic!("{why}"))
}

/// A limit of 100 a second and 50 at once, with clients that ask as fast as they can for three seconds, on two workers.
/// (With fewer at once, half a second in which a busy machine lets nobody ask would be lost to them.)
#[test]
fn what_is_admitted_is_the_rate_and_the_burst_within_a_few_percent() {
    let (door, _blue) =
        door(|door| door.set(RATE, 100).set(BURST, 50).set("log.access", "off").set("log.level", "info"));
    let mut wrk = Command::new(need("wrk"));
    wrk.args(["--threads", "2", "--connections", "16", "--duration", "3s", &format!("http://{}/", door.addr())]);
    let said = Output::of(&mut wrk, door.dir()).ok().stdout;
    let seconds: f64 = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.1.split_once("s,")?.0.parse().ok())
        .unwrap_or_else(|| panic!("no time in {said}"));
    let metrics = door.quiet();
    let of = |code: &str| metrics.sum("bgproxy_requests_total", &[("code", code)]);
    let (admitted, refused, expected) = (of("200"), of("429"), seconds * 100.0 + 50.0);
    let off = (admitted - expected) / expected * 100.0;
    tell(format_args!(
        "rate limit of 100 a second and 50 at once, two workers, 16 connections: {admitted} admitted in {seconds} s \
         ({expected:.0} expected, {off:+.1} %), {refused} refused"
    ));
    assert!(off.abs() < 5.0, "{said}");
    assert!(refused > admitted, "{said}");
}

#[test]
fn an_exempt_address_may_ask_as_often_as_it_likes() {
    let (door, _blue) = door(|door| door.set(RATE, 1).set(PER_ADDRESS, 1).set(EXEMPT, json!(["127.0.0.3/32"])));
    let mut clients: Vec<Raw> = (0..3).map(|_| from(OTHER, &door)).collect();
    for client in &mut clients {
        assert!((0..5).all(|_| client.send(get()).response().status == 200));
    }
}

#[test]
fn behind_a_trusted_proxy_it_is_the_client_that_is_counted_and_nobody_else_says_who_he_is() {
    let (door, _blue) = door(|door| door.set(RATE, 1).set(BURST, 2));
    let ask =
        |client: &mut Raw, says: &str| client.send(request("GET", "/", &[("X-Forwarded-For", says)], b"")).response();
    let mut proxy = door.connect();
    for client in ["203.0.113.1", "203.0.113.2", "2001:db8::1"] {
        let (admitted, time, refusal) = exhaust(|| ask(&mut proxy, client));
        assert_gives(admitted, 2, 1, time);
        assert_eq!(refusal.status, 429);
    }
    assert_eq!(ask(&mut proxy, "2001:db8::2").status, 429, "of the same network");
    assert_eq!(ask(&mut proxy, "2001:db8:0:1::1").status, 200, "of another one");
    // A stranger's word counts for nothing, whomever he names.
    let mut stranger = from(STRANGER, &door);
    let mut number = 0;
    let (admitted, time, _) = exhaust(|| {
        number += 1;
        ask(&mut stranger, &format!("198.51.100.{number}"))
    });
    assert_gives(admitted, 2, 1, time);
}

// === connections of an address ===

/// A client's connection, unless it is reset: while he connects, or later.
fn try_from(source: [u8; 4], to: SocketAddr) -> Option<Raw> {
    let mut client = Raw::try_connect_from(IpAddr::from(source), to).ok()?;
    client.try_send(get()).ok()?;
    assert_eq!(client.try_response().ok()?.status, 200);
    Some(client)
}

/// Whether a connection that begins so is closed before anything is answered.
fn is_turned_away(begin: impl FnOnce() -> Result<Raw, Failure>) -> bool {
    let asked = begin().and_then(|mut client| client.try_send(get()).and_then(|()| client.try_response()));
    asked.inspect(|answer| assert_eq!(answer.status, 200)).is_err()
}

#[test]
fn an_address_has_as_many_connections_as_it_may_have_over_all_workers() {
    let (door, _blue) = door(|door| door.set(PER_ADDRESS, 5));
    let mut open: Vec<Raw> = (0..20).filter_map(|_| try_from(STRANGER, door.addr())).collect();
    assert_eq!(open.len(), 5);
    wait_until("all counted", DEADLINE, || connection_failures(&door, "too_many_connections") == 15.0);
    door.wait_log("limits were reached");
    // Each worker tells at its next sweep.
    wait_until("all in the status", DEADLINE, || door.status().limits.last_minute.too_many_connections == 15);
    assert!(try_from(OTHER, door.addr()).is_some(), "another address has its own");
    let mut proxy: Vec<Raw> = (0..10).map(|_| door.connect()).collect();
    assert!(proxy.iter_mut().all(|client| client.send(get()).response().status == 200), "many clients share a proxy");
    // One that ends makes room for one, and for one only.
    drop(open.pop());
    let next = wait_for("a badge", DEADLINE, || try_from(STRANGER, door.addr()).ok_or("turned away"));
    assert!(try_from(STRANGER, door.addr()).is_none());
    drop((open, next, proxy));
    assert_eq!(door.quiet().sum("bgproxy_connections_open", &[]), 0.0);
}

/// Whatever becomes of a connection, its address gets the badge back.
#[test]
fn no_way_to_end_keeps_a_badge() {
    let authority = Authority::new();
    let upgraded = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
    let answers = |target: &str| target.starts_with("/ws");
    let script = move |_| {
        let (upgraded, answer) = (upgraded.clone(), ok("blue"));
        let choose = crate::harness::fake::Choice::new(move |target| match answers(target) {
            true => vec![Act::Say(upgraded.clone()), Act::Stay],
            false => vec![Act::Say(answer.clone())],
        });
        vec![Act::ReadRequest, Act::Choose(choose), Act::Repeat]
    };
    let builder = Door::builder().tls(&authority).set(PER_ADDRESS, 1).set("trusted.proxies", json!([]));
    let (door, _blue) = builder.before(|at| Fake::scripted(at, script));
    let clear = door.listener(1);
    let trust = Trust::of(&authority, NAME);
    let is_free = |after: &str| {
        let open = || door.metrics().sum("bgproxy_connections_open", &[]);
        wait_until(&format!("the end of {after}"), DEADLINE, || open() == 0.0);
        // None open may mean that it has not been accepted yet.
        let next = || try_from([127, 0, 0, 1], clear).ok_or("turned away");
        drop(wait_for(&format!("a badge after {after}"), DEADLINE, next));
        wait_until("the end of the next one", DEADLINE, || open() == 0.0);
    };
    let is_taken = || is_turned_away(|| Raw::try_connect(clear));
    let websocket = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    for _ in 0..3 {
        drop(Raw::connect(clear));
        is_free("one that said nothing");
        let mut reset = Raw::connect(clear);
        reset.send("GET / HT");
        reset.reset();
        is_free("a reset");
        let mut malformed = Raw::connect(clear);
        assert_eq!(malformed.send("nonsense\r\n\r\n").response().status, 400);
        drop(malformed);
        is_free("a refusal");
        let _sent = Raw::connect(door.addr()).try_send("this is not TLS\r\n\r\n");
        is_free("a failed handshake");
        let mut secure = Raw::connect_tls(door.addr(), &trust);
        assert_eq!(secure.send(get()).response().status, 200);
        assert!(is_taken(), "the same address, by whatever listener");
        drop(secure);
        is_free("TLS");
        let mut http2 = RawHttp2::connect(clear);
        assert_eq!(http2.get("/").status, 200);
        assert!(is_taken());
        drop(http2);
        is_free("HTTP/2");
        let mut tunnel = Raw::connect(clear);
        assert_eq!(tunnel.send(request("GET", "/ws", &websocket, b"")).head().0.status, 101);
        assert!(is_taken());
        drop(tunnel);
        is_free("a tunnel");
    }
    door.quiet();
}

#[test]
fn with_the_proxy_protocol_it_is_the_headers_client_that_is_counted() {
    let listen = json!([{ "address": "127.0.0.1:0", "proxy_protocol": "required" }]);
    let (door, _blue) = door(|door| door.set(PER_ADDRESS, 1).set("listen", listen));
    let connect = |client: &str| {
        let mut raw = door.connect();
        raw.try_send(format!("PROXY TCP4 {client} 127.0.0.1 40000 80\r\n")).map(|()| raw)
    };
    let mut first = connect("203.0.113.1").expect("a connection");
    assert_eq!(first.send(get()).response().status, 200);
    assert!(is_turned_away(|| connect("203.0.113.1")));
    assert!(!is_turned_away(|| connect("203.0.113.2")));
    assert_eq!(first.send(get()).response().status, 200);
}

// === the house is full ===

#[test]
fn when_all_connections_are_taken_the_longest_idle_one_leaves() {
    let (door, _blue) = door(|door| door.set("workers", 1).set(CONNECTIONS, 3));
    let mut clients: Vec<Raw> = Vec::new();
    for _ in 0..6 {
        let mut client = door.connect();
        assert_eq!(client.send(get()).response().status, 200, "client {}", clients.len());
        clients.push(client);
        if clients.len() > 3 {
            let longest = clients.len() - 4;
            let rest = clients[longest].rest();
            assert!(rest.bytes.is_empty() && !rest.reset, "an orderly end between requests");
        }
        assert!(door.metrics().sum("bgproxy_connections_open", &[]) <= 3.0);
        // So that one has been idle for longer than the other.
        pace(Duration::from_millis(250));
    }
    for client in &mut clients[3..] {
        assert_eq!(client.send(get()).response().status, 200, "whoever came last is still there");
    }
    assert_eq!(connection_failures(&door, "reclaimed"), 3.0);
    door.wait_log("limits were reached");
    wait_until("all of it in the status", DEADLINE, || door.status().limits.last_minute.reclaimed == 3);
    drop(clients);
    door.quiet();
}

#[test]
fn an_idle_http2_connection_that_makes_room_is_told_so() {
    let authority = Authority::new();
    let (door, _blue) = door(|door| door.tls(&authority).set("workers", 1).set(CONNECTIONS, 1));
    let mut first = RawHttp2::connect(door.listener(1));
    assert_eq!(first.get("/").status, 200);
    let mut second = Raw::connect(door.listener(1));
    assert_eq!(second.send(get()).response().status, 200);
    assert_eq!(first.end(), Some(0), "GOAWAY without an error");
    // And a handshake that does not come to its end.
    drop(second);
    let mut silent = Raw::connect(door.addr());
    silent.send([22, 3, 1]);
    wait_until("the handshake's beginning", DEADLINE, || door.metrics().sum("bgproxy_connections_open", &[]) == 1.0);
    let mut third = Raw::connect(door.listener(1));
    assert_eq!(third.send(get()).response().status, 200);
    silent.rest();
    drop((silent, third));
    assert_eq!(door.quiet().sum("bgproxy_connection_failures_total", &[("reason", "reclaimed")]), 2.0);
}

/// Heads that never end, four times as many as there is room for, begun anew whenever one is closed.
#[test]
fn behind_slow_heads_a_client_gets_in_soon() {
    let (door, _blue) = door(|door| door.set("workers", 1).set(CONNECTIONS, 10).set("log.level", "info"));
    let to = door.addr();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let Ok(mut slow) = Raw::try_connect(to) else { continue };
                    let _sent = slow.try_send("GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ");
                    // Until it is closed, or the test is over.
                    while slow.hears_nothing() && !stop.load(Ordering::Acquire) {
                        pace(Duration::from_millis(1));
                    }
                }
            });
        }
        wait_until("a full house", DEADLINE, || connection_failures(&door, "reclaimed") > 5.0);
        let mut took: Vec<Duration> = (0..5)
            .map(|_| {
                let begun = Instant::now();
                assert_eq!(door.get("/").status, 200);
                begun.elapsed()
            })
            .collect();
        stop.store(true, Ordering::Release);
        took.sort_unstable();
        tell(format_args!(
            "40 clients with heads that never end, room for 10: a normal client is answered within {:?} (median), {:?} \
             at most",
            took[2], took[4]
        ));
        // Each place turns over in a second and a bit, and at most 40 wait before him.
        assert!(took[4] < Duration::from_secs(10), "{took:?}");
    });
}

// === who is let in at all ===

#[test]
fn a_service_is_closed_to_whom_it_denies_and_to_whom_it_does_not_allow() {
    let (door, blue) = door(|door| {
        door.set("service.portal.allow", json!(["203.0.113.0/24", "2001:db8::/32"]))
            .set("service.portal.deny", json!(["203.0.113.7/32"]))
    });
    let cases = [("203.0.113.1", 200), ("203.0.113.7", 403), ("198.51.100.1", 403), ("2001:db8::1", 200)];
    for (client, status) in cases {
        let mut raw = door.connect();
        let headers = [("X-Forwarded-For", client)];
        let answer = raw.send(request("GET", "/", &headers, b"")).response();
        assert_eq!((answer.status, answer.keeps_alive()), (status, true), "{client}");
        let answer = over_http2(&door, &[("x-forwarded-for", client)]);
        assert_eq!(answer.status, status, "{client} over HTTP/2");
        if status == 403 {
            let said = answer.header("proxy-status").unwrap_or_default().to_owned();
            assert!(said.contains("details=\"address_denied\""), "{said}");
        }
    }
    // A stranger cannot say to be somebody else.
    let mut stranger = from(STRANGER, &door);
    let forged = request("GET", "/", &[("X-Forwarded-For", "203.0.113.1")], b"");
    assert_eq!(stranger.send(forged).response().status, 403);
    drop(stranger);
    door.quiet();
    assert_eq!(failures(&door, "address_denied"), 5.0);
    assert_eq!(blue.requests().len(), 4, "nobody else got through");
}

// === while it runs ===

fn reload(door: &mut Door, changes: &[(&str, Value)]) {
    for (key, value) in changes {
        door.configure(key, value.clone());
    }
    door.bgctl(&["reload"]).ok();
}

#[test]
fn a_reload_puts_limits_into_force_and_out_again() {
    let (mut door, _blue) = door(|door| door);
    let mut client = from(STRANGER, &door);
    let mut second = from(STRANGER, &door);
    for client in [&mut client, &mut second] {
        assert!((0..20).all(|_| client.send(get()).response().status == 200));
    }
    reload(&mut door, &[(RATE, json!(1)), (BURST, json!(2)), (PER_ADDRESS, json!(2))]);
    wait_until("a refusal", DEADLINE, || client.send(get()).response().status == 429);
    assert!(try_from(STRANGER, door.addr()).is_none(), "those that were open before count too");
    reload(&mut door, &[(EXEMPT, json!(["127.0.0.2/32"]))]);
    wait_until("no more refusals", DEADLINE, || (0..10).all(|_| client.send(get()).response().status == 200));
    reload(&mut door, &[("service.portal.deny", json!(["127.0.0.2/32"]))]);
    // A denied client is out at once: a reload's reply is a promise for what is routed.
    assert_eq!(second.send(get()).response().status, 403);
    let off = [
        (RATE, json!(0)),
        (BURST, json!(0)),
        (PER_ADDRESS, json!(0)),
        (EXEMPT, json!([])),
        ("service.portal.deny", json!([])),
    ];
    reload(&mut door, &off);
    wait_until("no limit", DEADLINE, || (0..10).all(|_| client.send(get()).response().status == 200));
    let mut many: Vec<Raw> = (0..5).map(|_| from(STRANGER, &door)).collect();
    assert!(many.iter_mut().all(|client| client.send(get()).response().status == 200));
    drop((client, second, many));
    door.quiet();
}

/// Whoever had been exempt kept his connections, and could open as many again.
#[test]
fn connections_that_began_while_their_address_was_exempt_count_when_it_is_not() {
    let (mut door, _blue) = door(|door| door.set(PER_ADDRESS, 2).set(EXEMPT, json!(["127.0.0.2/32"])));
    let mut many: Vec<Raw> = (0..3).filter_map(|_| try_from(STRANGER, door.addr())).collect();
    assert_eq!(many.len(), 3);
    reload(&mut door, &[(EXEMPT, json!([]))]);
    wait_until("a limit", DEADLINE, || try_from(STRANGER, door.addr()).is_none());
    assert!(many.iter_mut().all(|client| client.send(get()).response().status == 200), "whoever is in may stay");
    drop(many);
    wait_until("badges given back", DEADLINE, || {
        (0..2).filter_map(|_| try_from(STRANGER, door.addr())).collect::<Vec<Raw>>().len() == 2
    });
    door.quiet();
}
