//! What does a client get that takes, sends or begins nothing? Its own stream's end, and no other's.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::fake::ok;
use crate::harness::raw_http2::{
    END_STREAM, INITIAL_WINDOW_SIZE, PREFACE, code, fields, headers, settings, window_update,
};
use crate::harness::{Act, DEADLINE, Fake, RawHttp2, pace, wait_until};

use super::{BIG, one_worker, site, turned_away, wait_failed};

// === answers that are not taken ===

#[test]
fn a_stream_whose_answer_nobody_takes_is_reset_and_no_other() {
    let (door, _blue) = one_worker().set("service.portal.timeouts.idle", "600ms").before(site);
    let mut client = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    let (stalled, slow) = (client.ask("/big"), client.ask("/big"));
    let asked = Instant::now();
    // Longer than one may be still, for what is one piece to the door.
    while client.so_far(stalled).reset.is_none() || asked.elapsed() < Duration::from_millis(1500) {
        assert!(asked.elapsed() < DEADLINE, "it is still open");
        client.send(window_update(slow, 1000));
        client.read_for(Duration::from_millis(30));
    }
    assert!(asked.elapsed() >= Duration::from_millis(600), "{:?}", asked.elapsed());
    assert_eq!(client.so_far(stalled).reset, Some(code::INTERNAL_ERROR));
    // The other one was never still for that long, and goes on to its end.
    let taken = client.so_far(slow).body.len();
    assert!(taken > 5000, "{taken} bytes");
    client.send([window_update(0, 1 << 30), window_update(slow, 1 << 30)].concat());
    assert_eq!(client.answer(slow).body.len(), BIG);
    wait_failed(&door, "client_timeout", 1.0);
    drop(client);
    door.quiet();
}

#[test]
fn a_small_answer_that_nobody_takes_is_reset_as_well() {
    let (door, _blue) = one_worker().set("service.portal.timeouts.idle", "300ms").before(site);
    let mut client = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    // The backend has long said all of it: it waits with h2.
    let stalled = client.ask("/");
    let answer = client.answer(stalled);
    assert_eq!((answer.status, answer.reset, answer.text()), (200, Some(code::INTERNAL_ERROR), String::new()));
    let head = client.begin(&fields("HEAD", "/", &[]), END_STREAM);
    assert!(client.answer(head).whole);
    wait_failed(&door, "client_timeout", 1.0);
    drop(client);
    door.quiet();
}

#[test]
fn a_connection_that_takes_no_bytes_keeps_its_streams_that_have_none() {
    let (door, _blue) = one_worker().set("service.portal.timeouts.idle", "400ms").before(site);
    let mut client = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 1 << 30)]);
    let stalled = client.ask("/big");
    client.wait("what the window allows", |client| client.so_far(stalled).body.len() == 65_535);
    assert_eq!(client.get("/204").status, 204);
    let answer = client.answer(stalled);
    assert_eq!((answer.reset, answer.body.len()), (Some(code::INTERNAL_ERROR), 65_535));
    wait_failed(&door, "client_timeout", 1.0);
    client.send(window_update(0, 1000));
    assert_eq!(client.get("/").text(), "GET / HTTP/1.1");
    drop(client);
    door.quiet();
}

#[test]
fn answers_that_nobody_takes_cost_a_bounded_memory() {
    let (door, blue) = one_worker().before(site);
    assert_eq!(door.get("/").status, 200);
    let before = door.resident();
    let mut client = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    for _ in 0..100 {
        client.ask("/endless");
    }
    client.wait("the heads", |client| (0..100).all(|stream| client.so_far(stream * 2 + 1).status == 200));
    // 64 KiB each are h2's, and what hyper reads ahead is about as much.
    let grown = door.resident().saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} KiB for 100 answers");
    drop(client);
    door.quiet();
    wait_until("the backend's connections to end", DEADLINE, || {
        blue.heard().iter().filter(|heard| !heard.ended).count() <= 1
    });
}

#[test]
fn a_client_that_takes_nothing_of_many_answers_is_told_to_calm_down() {
    let (door, _blue) = one_worker().set("service.portal.timeouts.idle", "300ms").before(site);
    let mut client = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    for _ in 0..60 {
        client.ask("/big");
    }
    assert_eq!(client.end(), Some(code::ENHANCE_YOUR_CALM));
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_connection_failures_total", &[("reason", "h2_stall_flood")]), 1.0);
}

// === uploads ===

#[test]
fn an_upload_that_nobody_takes_keeps_no_other_waiting() {
    const STALLED: usize = 3 * 1024 * 1024;
    let (door, blue) = one_worker().before(|at| {
        Fake::scripted(at, |connection| match connection {
            0 => vec![Act::ReadHead, Act::AwaitGo, Act::Read(STALLED), Act::Say(ok("late"))],
            _ => vec![Act::ReadRequest, Act::Echo, Act::Repeat],
        })
    });
    let mut client = RawHttp2::connect(door.addr());
    let length = STALLED.to_string();
    let stalled = client.begin(&fields("POST", "/stalled", &[("content-length", &length)]), 0);
    let body = vec![b'x'; STALLED];
    let sent = client.upload(stalled, &body, END_STREAM);
    assert!(sent < STALLED, "all of it was taken");
    let other = client.begin(&fields("POST", "/other", &[("content-length", "2000000")]), 0);
    assert_eq!(client.upload(other, &body[..2_000_000], END_STREAM), 2_000_000);
    assert_eq!(client.answer(other).text(), "POST /other HTTP/1.1");
    blue.go();
    assert_eq!(client.upload(stalled, &body[sent..], END_STREAM), STALLED - sent);
    assert_eq!(client.answer(stalled).text(), "late");
    drop(client);
    door.quiet();
}

#[test]
fn an_upload_for_which_others_leave_no_room_is_not_the_clients_fault() {
    const LARGE: usize = 1024 * 1024;
    // More than fill the window of a connection: four do, if no read is late.
    const STALLED: usize = 8;
    let (door, blue) = one_worker().set("service.portal.timeouts.idle", "500ms").before(|at| {
        Fake::scripted(at, |connection| match connection {
            0..STALLED => vec![Act::ReadHead, Act::AwaitGo, Act::Read(LARGE), Act::Say(ok("late"))],
            _ => vec![Act::ReadRequest, Act::Echo],
        })
    });
    let mut client = RawHttp2::connect(door.addr());
    let body = vec![b'x'; LARGE];
    let begin = |client: &mut RawHttp2| {
        let stream = client.begin(&fields("POST", "/", &[("content-length", &LARGE.to_string())]), 0);
        (stream, client.upload(stream, &body, END_STREAM))
    };
    let stalled: Vec<_> = (0..STALLED)
        .map(|number| {
            let begun = begin(&mut client);
            blue.wait_connections(number + 1);
            begun
        })
        .collect();
    let (other, sent) = begin(&mut client);
    assert_eq!(sent, 0, "there was room");
    client.read_for(Duration::from_secs(2));
    assert_eq!(client.so_far(other).status, 0, "given up");
    blue.go();
    for (stream, sent) in stalled.into_iter().chain([(other, sent)]) {
        client.upload(stream, &body[sent..], END_STREAM);
        assert_eq!(client.answer(stream).status, 200);
    }
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
}

#[test]
fn an_upload_that_does_not_come_is_ended_and_no_other() {
    let (door, _blue) = one_worker().set("service.portal.timeouts.idle", "300ms").before(site);
    let mut client = RawHttp2::connect(door.addr());
    let upload = client.begin(&fields("POST", "/", &[("content-length", "10")]), 0);
    assert_eq!(client.answer(upload).status, 408);
    wait_failed(&door, "body_timeout", 1.0);
    assert_eq!(client.get("/").status, 200);
    drop(client);
    door.quiet();
}

// === streams ===

#[test]
fn one_stream_too_many_is_refused_and_the_connection_lives() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let held: Vec<u32> = (0..128).map(|_| client.ask("/hold")).collect();
    let last = client.ask("/last");
    assert_eq!(client.answer(last).reset, Some(code::REFUSED_STREAM));
    blue.go();
    for stream in held {
        assert_eq!(client.answer(stream).status, 200);
    }
    assert_eq!(client.get("/next").status, 200);
    drop(client);
    door.quiet();
    assert!(blue.requests().iter().all(|request| request.target() != "/last"));
}

// === connections that do not begin ===

#[test]
fn a_preface_that_comes_too_slowly_ends_the_connection() {
    let builder = one_worker().set("limits.header_time", "300ms").set("limits.handshake_time", "300ms");
    let (door, blue) = builder.before(site);
    // As far as it could be a head of HTTP/1.1, and beyond that.
    let mut early = door.connect();
    let mut late = door.connect();
    early.send(&PREFACE[..10]);
    late.send(&PREFACE[..20]);
    assert!(early.rest().bytes.starts_with(b"HTTP/1.1 408 "));
    let said = late.rest().bytes;
    assert!(!said.starts_with(b"HTTP/1.1"), "{}", said.escape_ascii());
    assert_eq!(turned_away(&door, "h2_preface_timeout"), 1.0);
    door.quiet();
    assert!(blue.heard().is_empty());
}

#[test]
fn a_preface_that_comes_byte_by_byte_is_one() {
    let (door, _blue) = one_worker().before(site);
    let mut client = RawHttp2::silent(door.addr());
    let asked = headers(1, &fields("GET", "/", &[]), END_STREAM);
    for byte in [PREFACE, &settings(&[]), &asked].concat() {
        client.send([byte]);
    }
    assert_eq!(client.answer(1).status, 200);
    drop(client);
    door.quiet();
}

/// The reader of HTTP/1.1 gives up within the preface: after 12 bytes if the next two have not come yet. Then a client
/// was answered 400 in HTTP/1.1: one of a hundred that send it byte by byte.
#[test]
fn a_preface_in_two_parts_is_one_wherever_it_is_cut() {
    let (door, _blue) = one_worker().before(site);
    for cut in 1..PREFACE.len() {
        let mut client = RawHttp2::silent(door.addr());
        client.send(&PREFACE[..cut]);
        // Until the door has read so far.
        pace(Duration::from_millis(20));
        client.send([&PREFACE[cut..], &settings(&[]), &headers(1, &fields("GET", "/", &[]), END_STREAM)].concat());
        client.read_until_over(1);
        assert_eq!(client.so_far(1).status, 200, "cut after {cut} bytes");
    }
    door.quiet();
}

#[test]
fn a_connection_that_asks_nothing_is_told_to_go() {
    let (door, blue) = one_worker().set("limits.idle_time", "200ms").before(site);
    let mut only_a_preface = RawHttp2::silent(door.addr());
    only_a_preface.send(PREFACE);
    let mut greets = RawHttp2::connect(door.addr());
    assert_eq!(only_a_preface.end(), Some(code::NO_ERROR));
    assert_eq!(greets.end(), Some(code::NO_ERROR));
    door.quiet();
    assert!(blue.heard().is_empty());
}

#[test]
fn the_preface_is_only_the_first_word_and_only_where_it_is_welcome() {
    let (door, _blue) = one_worker().before(site);
    let second = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", PREFACE, &settings(&[])].concat();
    let mut client = door.connect();
    client.send(&second);
    assert_eq!(client.response().status, 200);
    let refused = client.response();
    assert_eq!((refused.status, refused.keeps_alive()), (400, false));
    assert!(client.rest().bytes.is_empty());
    door.quiet();

    let listen = json!([{ "address": "127.0.0.1:0", "h2c": false }]);
    let (door, blue) = one_worker().set("listen", listen).before(site);
    let mut client = door.connect();
    client.send([PREFACE, &settings(&[]), &headers(1, &fields("GET", "/", &[]), END_STREAM)].concat());
    assert_eq!(client.response().status, 400);
    assert!(client.rest().bytes.is_empty());
    door.quiet();
    assert!(blue.heard().is_empty());
}
