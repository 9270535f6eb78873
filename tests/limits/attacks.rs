//! What is left for others while somebody attacks? Operators are answered, and so is a client from another address.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::ClientConnection;
use serde_json::json;

use super::{
    BURST, CONNECTIONS, EXEMPT, OTHER, PER_ADDRESS, RATE, STRANGER, door, failures, from, get, over_http2, reload,
    try_from,
};
use crate::harness::door::{Builder, NAME};
use crate::harness::fake::{Choice, ok};
use crate::harness::raw::request;
use crate::harness::raw_http2::{END_STREAM, PREFACE, code, fields, headers, reset, settings};
use crate::harness::{
    Act, Authority, DEADLINE, Door, Fake, Process, Raw, RawHttp2, Trust, need, pace, tell, temp_dir, wait_until,
};

/// How soon an operator is answered.
const PROMISE: Duration = Duration::from_millis(100);

/// How soon a client is.
const ANSWERED: Duration = Duration::from_millis(50);

/// The machine has other things to do than these tests: what an operator waits at a door that nobody attacks is allowed
/// for, and so is one bad moment.
const TRIES: usize = 3;

// === operators ===

/// What an attacker does with each connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Ends it when something has come back.
    Hears,
    /// Ends it at once.
    Leaves,
}

/// Attacks with connections that begin so, from eight threads, while `bgctl status` is asked.
fn attack(name: &str, (door, calm): (&Door, &Door), to: SocketAddr, bytes: &[u8], then: Then) {
    let (stop, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    let is_soon = std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    tries.fetch_add(1, Ordering::Relaxed);
                    // Whatever becomes of it: the next one follows.
                    let Ok(mut socket) = TcpStream::connect_timeout(&to, DEADLINE) else { continue };
                    let sent = socket.write_all(bytes).and_then(|()| socket.set_read_timeout(Some(DEADLINE)));
                    if sent.is_ok() && then == Then::Hears {
                        let _heard = socket.read(&mut [0; 4096]);
                    }
                    // By a reset: the port is free for the next one.
                    let _reset = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                }
            });
        }
        wait_until("the attack", DEADLINE, || tries.load(Ordering::Relaxed) > 100);
        let is_soon = is_soon(&format!("bgctl status under {name}"), PROMISE, || status(door), || status(calm));
        stop.store(true, Ordering::Release);
        is_soon
    });
    tell(format_args!("{} connections meanwhile", tries.load(Ordering::Relaxed)));
    assert!(is_soon, "bgctl status under {name} takes too long");
}

/// Whether the median of twenty answers takes no longer than promised; the same at a calm door, in turns, tells what
/// the machine has to do with it.
fn is_soon(what: &str, promise: Duration, ask: impl Fn() -> Duration, ask_calm: impl Fn() -> Duration) -> bool {
    (0..TRIES).any(|_| {
        let (mut took, mut without): (Vec<_>, Vec<_>) = (0..20).map(|_| (ask(), ask_calm())).unzip();
        took.sort_unstable();
        without.sort_unstable();
        tell(format_args!(
            "{what}: {:?} (median of 20), {:?} at most; of a calm door meanwhile {:?}, {:?} at most",
            took[10], took[19], without[10], without[19]
        ));
        took[10] < promise + 2 * without[10]
    })
}

/// How long an operator waits for an answer.
fn status(door: &Door) -> Duration {
    let begun = Instant::now();
    door.bgctl(&["status"]).ok();
    begun.elapsed()
}

#[test]
fn bgctl_answers_within_a_tenth_of_a_second_whatever_the_attack() {
    let authority = Authority::new();
    let limited = |door: Builder| {
        let door = door.set("log.access", "off").set("log.level", "info");
        door.tls(&authority).set(RATE, 50).set("trusted.proxies", json!([]))
    };
    let calm = Door::builder().start();
    {
        let (door, _blue) = door(limited);
        let clear = door.listener(1);
        attack("new connections with a request each", (&door, &calm), clear, &get(), Then::Hears);
        // A client's greeting costs us a signature, and its sender nothing.
        let config = Trust::of(&authority, NAME).config(&["http/1.1"]);
        let mut greeting = Vec::new();
        let mut tls = ClientConnection::new(config, NAME.to_owned().try_into().expect("a name")).expect("a client");
        tls.write_tls(&mut greeting).expect("a greeting");
        attack("TLS handshakes that are not finished", (&door, &calm), door.addr(), &greeting, Then::Hears);
        let streams = (0..400).map(|number| 2 * number + 1);
        let resets = streams.flat_map(|stream| {
            [headers(stream, &fields("GET", "/", &[]), END_STREAM), reset(stream, code::CANCEL)].concat()
        });
        let rapid: Vec<u8> = [PREFACE.to_vec(), settings(&[])].into_iter().flatten().chain(resets).collect();
        attack("HTTP/2 streams begun and taken back", (&door, &calm), clear, &rapid, Then::Hears);
        attack("connections that end at once", (&door, &calm), clear, b"", Then::Leaves);
    }
    let (door, _blue) = door(|door| limited(door).set(PER_ADDRESS, 4));
    attack("more connections than an address may have", (&door, &calm), door.listener(1), &get(), Then::Hears);
}

/// A thousand connections that ask as fast as they can, far above their limit.
#[test]
fn bgctl_answers_within_a_tenth_of_a_second_under_a_flood() {
    let (door, _blue) = door(|door| door.set(RATE, 100).set("log.access", "off").set("log.level", "info"));
    let dir = temp_dir();
    let mut wrk = Command::new(need("wrk"));
    wrk.args(["--threads", "2", "--connections", "1000", "--duration", "600s", &format!("http://{}/", door.addr())]);
    let mut flood = Process::start("wrk", &mut wrk, &dir.path().join("wrk.log"));
    wait_until("the flood", DEADLINE, || failures(&door, "rate_limited") > 5000.0);
    assert!(door.status().connections >= 1000);
    let calm = Door::builder().start();
    let is_soon =
        is_soon("bgctl status under a flood of 1,000 connections", PROMISE, || status(&door), || status(&calm));
    assert!(door.status().connections >= 1000, "the flood is over");
    flood.signal(Signal::INT);
    flood.wait_end(DEADLINE);
    tell(format_args!("{} requests refused", failures(&door, "rate_limited")));
    assert!(is_soon, "bgctl status under a flood takes too long");
}

// === clients ===

/// How long a client from another address waits for an answer.
fn stranger(to: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut client = Raw::connect_from(IpAddr::from(OTHER), to);
    assert_eq!(client.send(get()).response().status, 200);
    begun.elapsed()
}

/// A thousand connections that are in use, which none is closed for: but an address has only so many.
#[test]
fn who_holds_on_to_requests_and_streams_keeps_nobody_out_with_a_limit_by_address() {
    let upgraded = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
    let script = move |_| {
        let upgraded = upgraded.clone();
        let choose = Choice::new(move |target| match target {
            "/ws" => vec![Act::Say(upgraded.clone()), Act::Stay],
            "/slow" => vec![Act::Stay],
            _ => vec![Act::Say(ok("blue"))],
        });
        vec![Act::ReadHead, Act::Choose(choose), Act::Repeat]
    };
    let authority = Authority::new();
    let builder = Door::builder().tls(&authority).set("workers", 1).set("limits.connections", 150);
    let builder = builder.set(PER_ADDRESS, 100).set("log.level", "info").set("limits.header_time", "60s");
    let builder = builder.set("limits.handshake_time", "60s");
    let (door, _blue) = builder.before(|at| Fake::scripted(at, script));
    let websocket = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    let stream = [PREFACE.to_vec(), settings(&[]), headers(1, &fields("POST", "/slow", &[]), 0)].concat();
    let kinds: [(&str, usize, Vec<u8>); 5] = [
        ("heads", 1, b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ".to_vec()),
        ("bodies", 1, b"POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nhalf".to_vec()),
        ("websockets", 1, request("GET", "/ws", &websocket, b"")),
        ("HTTP/2 streams", 1, stream),
        ("TLS handshakes", 0, vec![22, 3, 1]),
    ];
    let (calm, _other) = super::door(|door| door);
    for (kind, listener, bytes) in kinds {
        let to = door.listener(listener);
        let held: Vec<Raw> = (0..1000)
            .filter_map(|_| {
                let mut raw = Raw::try_connect_from(IpAddr::from(STRANGER), to).ok()?;
                raw.try_send(&bytes).ok().map(|()| raw)
            })
            .collect();
        wait_until("a hundred of them", DEADLINE, || door.status().connections >= 100);
        let what = format!("a client beside a thousand connections that hold on to {kind}");
        let is_soon = is_soon(&what, ANSWERED, || stranger(door.listener(1)), || stranger(calm.addr()));
        assert!(is_soon, "{what} waits too long");
        assert!(door.status().connections >= 100, "they hold on no more");
        drop(held);
        wait_until("the end of all", DEADLINE, || door.metrics().sum("bgproxy_connections_open", &[]) == 0.0);
    }
}

#[test]
fn refused_requests_in_a_row_are_answered_one_by_one_in_their_order() {
    let (door, _blue) = door(|door| door.set(RATE, 1).set(BURST, 3));
    let mut client = from(STRANGER, &door);
    client.send(get().repeat(10));
    let answers: Vec<u16> = (0..10).map(|_| client.response().status).collect();
    let admitted = answers.iter().filter(|status| **status == 200).count();
    assert!((3..=4).contains(&admitted), "{answers:?}");
    assert!(answers.is_sorted() || admitted == 4, "{answers:?}");
}

#[test]
fn streams_that_are_refused_cost_their_connection_nothing() {
    let (door, blue) = door(|door| door.set(RATE, 1).set(BURST, 1));
    let mut client = RawHttp2::connect(door.addr());
    assert_eq!(client.get("/").status, 200);
    // Together more than all uploads of a connection may have on their way.
    let mut refused = 0;
    for _ in 0..60 {
        let stream = client.begin(&fields("POST", "/upload", &[]), 0);
        let sent = client.upload(stream, &[b'x'; 60_000], END_STREAM);
        let answer = client.answer(stream);
        refused += usize::from(answer.status == 429);
        assert!(matches!(answer.status, 200 | 429), "{answer:?} after {sent}");
    }
    assert!(refused > 50, "{refused} refused");
    // Many at once.
    let streams: Vec<u32> = (0..100).map(|_| client.ask("/")).collect();
    let answers: Vec<u16> = streams.into_iter().map(|stream| client.answer(stream).status).collect();
    assert!(answers.iter().filter(|status| **status == 429).count() >= 98, "{answers:?}");
    pace(Duration::from_millis(1100));
    let stream = client.begin(&fields("POST", "/upload", &[]), 0);
    assert_eq!(client.upload(stream, &[b'x'; 500_000], END_STREAM), 500_000, "the windows are open");
    assert_eq!(client.answer(stream).status, 200);
    drop(client);
    door.quiet();
    assert!(blue.requests().len() < 10);
}

/// What every limit was at some time, and then is not any more.
#[test]
fn limits_that_change_under_load_leave_nothing_behind() {
    let (mut door, _blue) = door(|door| {
        door.set("trusted.proxies", json!([])).set("log.access", "off").set("log.level", "info").set("workers", 2)
    });
    let dir = temp_dir();
    let mut wrk = Command::new(need("wrk"));
    wrk.args(["--threads", "2", "--connections", "100", "--duration", "60s", &format!("http://{}/", door.addr())]);
    let mut load = Process::start("wrk", &mut wrk, &dir.path().join("wrk.log"));
    let none = [
        (RATE, json!(0)),
        (BURST, json!(0)),
        (PER_ADDRESS, json!(0)),
        (CONNECTIONS, json!(20_000)),
        (EXEMPT, json!([])),
    ];
    let some = [
        (RATE, json!(100)),
        (BURST, json!(5)),
        (PER_ADDRESS, json!(20)),
        (CONNECTIONS, json!(30)),
        (EXEMPT, json!(["127.0.0.0/8"])),
        (EXEMPT, json!([])),
        (RATE, json!(1)),
        (PER_ADDRESS, json!(3)),
    ];
    for _ in 0..2 {
        for change in &some {
            reload(&mut door, std::slice::from_ref(change));
            // Into the middle of it, and past a sweep of each worker.
            pace(Duration::from_millis(150));
        }
        reload(&mut door, &none);
        let served = || door.metrics().sum("bgproxy_requests_total", &[("code", "200")]);
        let before = served();
        wait_until("requests without a limit", DEADLINE, || served() > before + 500.0);
    }
    load.signal(Signal::INT);
    load.wait_end(DEADLINE);
    door.quiet();
    assert!(failures(&door, "rate_limited") > 0.0);
    // Everybody has given back the badge that he had.
    reload(&mut door, &[(PER_ADDRESS, json!(1))]);
    pace(Duration::from_millis(300));
    let one = try_from([127, 0, 0, 1], door.addr());
    assert!(one.is_some(), "the only one");
    assert!(try_from([127, 0, 0, 1], door.addr()).is_none(), "one too many");
    drop(one);
    door.quiet();
}

// === who counts as whom ===

#[test]
fn in_a_chain_of_proxies_it_is_the_first_that_nobody_vouches_for() {
    let (door, _blue) = door(|door| {
        door.set(RATE, 1).set(BURST, 2).set("trusted.proxies", json!(["127.0.0.1/32", "10.0.0.0/8", "::1/128"]))
    });
    let mut proxy = door.connect();
    let mut number = 0;
    let mut ask = |chain: &dyn Fn(u32) -> String| {
        number += 1;
        let says = chain(number);
        proxy.send(request("GET", "/", &[("X-Forwarded-For", &says)], b"")).response().status
    };
    // By other proxies each time, and with other lies.
    let statuses: Vec<u16> = (0..5).map(|_| ask(&|n| format!("198.51.100.{n}, 203.0.113.9, 10.0.0.{n}"))).collect();
    assert_eq!((statuses[0], statuses[1], statuses[4]), (200, 200, 429));
    assert_eq!(ask(&|_| "203.0.113.9:5000".to_owned()), 429, "with a port");
    assert_eq!(ask(&|_| "::ffff:203.0.113.9".to_owned()), 429, "as an IPv6 address");
    assert_eq!(ask(&|_| "203.0.113.10".to_owned()), 200, "another one");
    // What is no address ends the search at the proxy that wrote it down, which then is the client.
    let statuses: Vec<u16> = (0..5).map(|_| ask(&|n| format!("198.51.100.{n}, unknown, 10.0.0.1"))).collect();
    assert_eq!((statuses[0], statuses[4]), (200, 429));
    assert_eq!(over_http2(&door, &[("x-forwarded-for", "203.0.113.9")]).status, 429);
}

#[test]
fn a_balancer_that_does_not_say_for_whom_it_comes_has_its_own_bucket_and_no_limit_of_connections() {
    let listen = json!([{ "address": "127.0.0.1:0", "proxy_protocol": "required" }]);
    let (door, _blue) = door(|door| door.set(PER_ADDRESS, 1).set(RATE, 1).set(BURST, 4).set("listen", listen));
    let local = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20, 0, 0, 0]].concat();
    let mut admitted = 0;
    let mut open = Vec::new();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local].repeat(4) {
        let mut raw = door.connect();
        // Its word on who the client is counts for nothing.
        let forged = format!("203.0.113.{}", open.len());
        raw.send(header).send(request("GET", "/", &[("X-Forwarded-For", &forged)], b""));
        admitted += usize::from(raw.response().status == 200);
        open.push(raw);
    }
    assert!((4..=6).contains(&admitted), "{admitted}");
}
