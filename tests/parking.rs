//! What is a client's connection between requests? Parked: nothing is held for it but its socket, and nobody can tell.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::door::NAME;
use crate::harness::raw::{Rest, request};
use crate::harness::{Authority, DEADLINE, Door, Fake, Raw, Trust, pace, tell, wait_until};

fn get(target: &str) -> Vec<u8> {
    request("GET", target, &[("Host", NAME)], b"")
}

/// Waits until this many connections are parked.
#[track_caller]
fn wait_parked(door: &Door, count: usize) {
    let parked = || door.metrics().sum("bgproxy_connections_parked", &[]);
    wait_until(&format!("{count} parked connections"), DEADLINE, || parked() == count as f64);
}

fn is_calm(rest: &Rest) -> bool {
    rest.bytes.is_empty() && !rest.reset
}

// === what comes next ===

#[test]
fn a_connection_is_served_after_parking_as_before_in_clear_and_over_tls() {
    let authority = Authority::new();
    for secure in [false, true] {
        let builder = Door::builder();
        let builder = if secure { builder.tls(&authority) } else { builder };
        let (door, blue) = builder.before(Fake::echoes);
        let mut client = match secure {
            true => Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME)),
            false => door.connect(),
        };
        for number in 0..3 {
            // Over TLS a connection is parked before its first request too.
            wait_parked(&door, 1);
            let target = format!("/{number}");
            let answer = client.send(get(&target)).response();
            assert_eq!(answer.text(), format!("GET {target} HTTP/1.1"), "secure: {secure}");
            wait_parked(&door, 1);
            let answer = client.send(request("POST", &target, &[("Host", NAME)], &[b'x'; 100_000])).response();
            assert_eq!(answer.status, 200, "secure: {secure}");
        }
        drop(client);
        door.quiet();
        wait_parked(&door, 0);
        assert_eq!(blue.requests().len(), 6);
    }
}

#[test]
fn a_head_that_ends_the_parking_may_come_byte_by_byte() {
    let authority = Authority::new();
    let (door, _blue) = Door::builder().tls(&authority).before(Fake::echoes);
    let mut client = Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME));
    for target in ["/a", "/b"] {
        wait_parked(&door, 1);
        client.send_slowly(get(target), 4, Duration::from_millis(2));
        assert_eq!(client.response().text(), format!("GET {target} HTTP/1.1"));
    }
}

#[test]
fn requests_that_end_the_parking_together_are_answered_in_their_order() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    for _ in 0..2 {
        wait_parked(&door, 1);
        client.send((0..20).flat_map(|number| get(&format!("/{number}"))).collect::<Vec<u8>>());
        for number in 0..20 {
            assert_eq!(client.response().text(), format!("GET /{number} HTTP/1.1"));
        }
    }
}

#[test]
fn the_beginning_of_a_head_that_came_with_the_request_before_is_not_lost() {
    let authority = Authority::new();
    for secure in [false, true] {
        let builder = Door::builder().set("limits.header_time", "30s");
        let builder = if secure { builder.tls(&authority) } else { builder };
        let (door, _blue) = builder.before(Fake::echoes);
        let mut client = match secure {
            true => Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME)),
            false => door.connect(),
        };
        let (next, last) = (get("/next"), get("/last"));
        let (beginning, end) = next.split_at(10);
        client.send([&get("/first"), beginning].concat());
        assert_eq!(client.response().text(), "GET /first HTTP/1.1");
        // Longer than it takes to be parked, which it must not be: a head has begun.
        assert!(client.hears_nothing() && client.hears_nothing() && client.hears_nothing() && client.hears_nothing());
        wait_parked(&door, 0);
        client.send([end, &last[..]].concat());
        assert_eq!(client.response().text(), "GET /next HTTP/1.1");
        assert_eq!(client.response().text(), "GET /last HTTP/1.1");
    }
}

#[test]
fn a_head_that_began_with_the_request_before_has_a_heads_time() {
    let builder = Door::builder().set("limits.header_time", "300ms").set("limits.idle_time", "60s");
    let (door, _blue) = builder.before(Fake::echoes);
    let mut client = door.connect();
    client.send([&get("/"), &b"GET /next"[..]].concat());
    assert_eq!(client.response().status, 200);
    assert_eq!(client.response().status, 408);
}

#[test]
fn empty_lines_between_requests_are_no_head() {
    let builder = Door::builder().set("limits.header_time", "300ms").set("limits.idle_time", "60s");
    let (door, _blue) = builder.before(Fake::echoes);
    let mut client = door.connect();
    // As some old clients end a body (RFC 9112, section 2.2).
    client.send([&request("POST", "/", &[], b"hello"), &b"\r\n"[..]].concat());
    assert_eq!(client.response().status, 200);
    wait_parked(&door, 1);
    assert_eq!(client.send(get("/")).response().status, 200);
}

/// Requests at every distance from the moment of parking, which is a sweep's: a tenth of a second, and again.
#[test]
fn no_request_is_lost_at_the_moment_of_parking() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    std::thread::scope(|scope| {
        for lane in 0..4_u64 {
            let door = &door;
            scope.spawn(move || {
                let mut client = door.connect();
                for step in 0..30 {
                    pace(Duration::from_millis(90 + (lane * 30 + step) % 120));
                    let target = format!("/{lane}/{step}");
                    assert_eq!(client.send(get(&target)).response().text(), format!("GET {target} HTTP/1.1"));
                }
            });
        }
    });
    door.quiet();
    assert_eq!(blue.requests().len(), 120);
}

#[test]
fn more_connections_than_are_kept_warm_are_served_all_the_same() {
    let (door, _blue) = Door::builder().set("workers", 1).before(Fake::echoes);
    let mut clients: Vec<Raw> = (0..400).map(|_| door.connect()).collect();
    for _ in 0..3 {
        // All of them at once, so that more are in use than there is room for.
        for client in &mut clients {
            client.send(get("/"));
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
    }
    wait_parked(&door, 400);
}

#[test]
fn the_preface_of_http_2_is_no_first_word_after_a_request() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    client.send(get("/")).response();
    wait_parked(&door, 1);
    let answer = client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").response();
    assert_eq!(answer.status, 400);
    assert!(client.rest().bytes.is_empty());
}

#[test]
fn an_old_client_that_keeps_its_connection_is_parked_too() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    let mut client = door.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.response().status, 200);
        wait_parked(&door, 1);
    }
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert!(is_calm(&client.rest()));
}

// === how it ends ===

#[test]
fn a_parked_connection_is_closed_when_it_has_been_idle_for_too_long() {
    let builder = Door::builder().set("limits.idle_time", "800ms").set("limits.first_byte_time", "800ms");
    let (door, _blue) = builder.before(Fake::echoes);
    let (mut fresh, mut used) = (door.connect(), door.connect());
    used.send(get("/")).response();
    let began = Instant::now();
    wait_parked(&door, 2);
    assert!(is_calm(&fresh.rest()) && is_calm(&used.rest()));
    assert!(began.elapsed() >= Duration::from_millis(600), "after {:?}", began.elapsed());
    door.quiet();
}

#[test]
fn a_door_that_ends_closes_parked_connections() {
    let authority = Authority::new();
    let (mut door, _blue) = Door::builder().tls(&authority).before(Fake::echoes);
    let trust = Trust::of(&authority, NAME);
    let (mut used, mut fresh) = (Raw::connect_tls(door.addr(), &trust), Raw::connect_tls(door.addr(), &trust));
    used.send(get("/")).response();
    wait_parked(&door, 2);
    door.signal(Signal::TERM);
    // `rest` fails when the end of TLS is missing.
    assert!(is_calm(&used.rest()) && is_calm(&fresh.rest()));
    drop((used, fresh));
    assert_eq!(door.wait_end().code(), Some(0));
}

#[test]
fn a_client_that_leaves_while_it_is_parked_takes_its_descriptor_along() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", door.pid())).expect("the door's descriptors").count();
    let mut clients: Vec<Raw> = (0..30).map(|_| door.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.send(get("/")).response()));
    wait_parked(&door, 30);
    let before = open();
    for (number, mut client) in clients.into_iter().enumerate() {
        match number % 3 {
            0 => drop(client),
            1 => client.reset(),
            // It has said its last and waits for ours.
            _ => assert!(is_calm(&client.finish_sending().rest())),
        }
    }
    wait_until("the descriptors to be closed", DEADLINE, || open() <= before - 30);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_connections_parked", &[]), 0.0);
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
}

// === what it costs ===

#[test]
fn a_parked_connection_costs_a_tenth_of_a_warm_one() {
    let (door, _blue) = Door::builder().set("workers", 1).before(Fake::echoes);
    let visit = |count: usize| -> Vec<Raw> {
        (0..count)
            .map(|_| {
                let mut client = door.connect();
                client.send(get("/")).response();
                client
            })
            .collect()
    };
    // What is allocated once, and what is kept for those that are warm.
    drop(visit(300));
    door.quiet();
    let before = door.resident();
    let clients = visit(1500);
    wait_parked(&door, clients.len());
    let each = door.resident().saturating_sub(before) as f64 / clients.len() as f64;
    tell(format_args!("{each:.2} KiB for each parked connection"));
    assert!(each < 4.0, "{each:.2} KiB for each");
}

// === what it must not do ===

#[test]
fn a_request_that_was_given_up_leaves_nothing_that_could_be_taken_for_the_next() {
    // More than are kept warm, so that whatever may be parked is parked at once.
    const CLIENTS: usize = 60;
    let builder = Door::builder().set("workers", 1).set("service.portal.timeouts.idle", "400ms");
    let (door, blue) = builder.before(Fake::echoes);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| door.connect()).collect();
    for client in &mut clients {
        client.send(request("POST", "/", &[("Content-Length", "1000")], b"begins"));
    }
    for client in &mut clients {
        let answer = client.response();
        assert_eq!((answer.status, answer.keeps_alive()), (408, false));
    }
    for client in &mut clients {
        // The rest of the body, whatever it looks like. It may be that nobody is there any more.
        let _gone = client.try_send("GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(client.rest().bytes.is_empty());
    }
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_requests_total", &[]), CLIENTS as f64);
    assert!(blue.requests().is_empty());
}
