//! Does a flood end its own connection, and nothing else?

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::fake::ok;
use crate::harness::raw_http2::{
    ACK, AGAIN, END_HEADERS, END_STREAM, block, code, data, fields, frame, headers, kind, remembered, reset, settings,
    window_update,
};
use crate::harness::{Act, DEADLINE, Door, Fake, RawHttp2, wait_until};

use super::{one_worker, site, turned_away};

/// What a flood may leave behind of memory, in KiB.
const MEMORY: u64 = 16 * 1024;
/// How long another client of the same worker may wait meanwhile. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(3);

/// Floods a door, at most this often, and makes sure that it ends the connection for one of these reasons, remembers
/// nothing, serves others meanwhile and is at rest afterwards. How many pieces were sent, and the backend.
#[track_caller]
fn flood(reasons: &[&str], most: usize, piece: impl FnMut(&mut RawHttp2) -> Vec<u8>) -> (usize, Fake) {
    let (door, blue) = one_worker().before(site);
    assert_eq!(door.get("/").status, 200);
    let before = door.resident();
    let mut client = RawHttp2::connect(door.addr());
    let flooding = AtomicBool::new(true);
    let mut sent = 0;
    let (served, longest) = std::thread::scope(|scope| {
        let other = scope.spawn(|| serve_others(&door, &flooding));
        // Also when what floods panics: the other client must end for the test to fail.
        let ends = Ends(&flooding);
        sent = client.flood(most, piece);
        drop(ends);
        other.join().expect("another client")
    });
    assert!(sent < most, "{sent} pieces, and no end");
    assert_eq!(client.end(), Some(code::ENHANCE_YOUR_CALM));
    drop(client);
    assert!(served > 0 && longest < PATIENCE, "{served} requests of others, the slowest took {longest:?}");
    let metrics = door.quiet();
    let counted = |reason: &&str| metrics.sum("bgproxy_connection_failures_total", &[("reason", *reason)]);
    assert_eq!(reasons.iter().map(counted).sum::<f64>(), 1.0, "{reasons:?}: {metrics:?}");
    let grown = door.resident().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB more");
    (sent, blue)
}

/// Makes a flag false when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Another client, for as long as the flood goes on: how often it was answered, and how long it took at most.
fn serve_others(door: &Door, flooding: &AtomicBool) -> (usize, Duration) {
    let (mut served, mut longest) = (0, Duration::ZERO);
    while served == 0 || flooding.load(Ordering::Acquire) {
        let asked = Instant::now();
        assert_eq!(door.get("/").status, 200);
        longest = longest.max(asked.elapsed());
        served += 1;
    }
    (served, longest)
}

/// What the backend heard of, without those who went before they had been heard.
fn called(blue: &Fake) -> usize {
    blue.requests().iter().filter(|request| request.target() == "/never").count()
}

// === resets ===

#[test]
fn streams_that_are_taken_back_at_once_end_the_connection() {
    let (_, blue) =
        flood(&["h2_reset_flood", "h2_flood"], 2000, |client| (0..10).flat_map(|_| begun_and_reset(client)).collect());
    assert!(called(&blue) < 1000, "{} reached the backend", called(&blue));
}

fn begun_and_reset(client: &mut RawHttp2) -> Vec<u8> {
    let stream = client.stream();
    [headers(stream, &fields("GET", "/never", &[]), END_STREAM), reset(stream, code::CANCEL)].concat()
}

#[test]
fn streams_that_are_taken_back_when_they_are_at_work_end_the_connection() {
    let (sent, blue) = flood(&["h2_reset_flood"], 2000, |client| {
        let streams: Vec<u32> = (0..10).map(|_| client.stream()).collect();
        let asked = streams.iter().flat_map(|stream| headers(*stream, &fields("GET", "/never", &[]), END_STREAM));
        let asked: Vec<u8> = asked.collect();
        if client.try_send(asked) {
            client.try_ping();
        }
        streams.iter().flat_map(|stream| reset(*stream, code::CANCEL)).collect()
    });
    assert!(sent > 25, "after {sent} times 10 streams");
    assert!(called(&blue) <= (sent + 1) * 10, "{} reached the backend", called(&blue));
}

#[test]
fn a_client_that_cancels_half_of_what_it_asks_is_not_hurt() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    for _ in 0..80 {
        let streams: Vec<(u32, u32)> = (0..10).map(|_| (client.ask("/wanted"), client.ask("/never"))).collect();
        client.ping();
        for (wanted, unwanted) in streams {
            client.send(reset(unwanted, code::CANCEL));
            assert_eq!(client.answer(wanted).status, 200);
        }
    }
    drop(client);
    let wanted = blue.requests().iter().filter(|request| request.target() == "/wanted").count();
    assert_eq!(wanted, 800);
    door.quiet();
}

// h2 by itself would bear 2,000 of these before anybody takes them.
#[test]
fn a_client_whose_small_messages_wait_for_the_backend_is_not_hurt() {
    let script = |_| vec![Act::AwaitGo, Act::ReadRequest, Act::Say(ok("all of it"))];
    let (door, blue) = one_worker().before(|at| Fake::scripted(at, script));
    let mut client = RawHttp2::connect(door.addr());
    client.ping();
    let upload = client.begin(&fields("POST", "/upload", &[]), 0);
    for _ in 0..16_000 {
        client.send(data(upload, [b'm'; 16], 0));
    }
    client.ping();
    assert_eq!(client.goaway, None);
    blue.go();
    client.send(data(upload, "", END_STREAM));
    assert_eq!(client.answer(upload).text(), "all of it");
    drop(client);
    door.quiet();
}

// A line that stood still for a moment brings all of it at once; h2 by itself would bear 20 of these.
#[test]
fn a_client_whose_cancellations_come_together_with_the_requests_is_not_hurt() {
    let (door, _blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    client.ping();
    let mut wanted = Vec::new();
    let burst: Vec<u8> = (0..50)
        .flat_map(|_| {
            wanted.push(client.stream());
            let asked = headers(wanted[wanted.len() - 1], &fields("GET", "/wanted", &[]), END_STREAM);
            [asked, begun_and_reset(&mut client)].concat()
        })
        .collect();
    client.send(burst);
    for stream in wanted {
        assert_eq!(client.answer(stream).status, 200);
    }
    assert_eq!(client.goaway, None);
    drop(client);
    door.quiet();
}

// === frames beside requests ===

#[test]
fn a_block_of_headers_without_end_ends_the_connection() {
    let mut begun = false;
    flood(&["h2_continuation_flood", "h2_flood"], 1_000_000, |client| {
        if std::mem::replace(&mut begun, true) {
            return frame(kind::CONTINUATION, 0, 1, block(&[("x", "y")]));
        }
        let stream = client.stream();
        frame(kind::HEADERS, 0, stream, block(&fields("GET", "/never", &[])))
    });
}

#[test]
fn settings_without_end_end_the_connection() {
    let (sent, _) = flood(&["h2_settings_flood"], 1_000_000, |_| settings(&[]));
    assert!(sent > 20, "after {sent}");
}

#[test]
fn pings_without_end_end_the_connection() {
    let (sent, _) = flood(&["h2_ping_flood"], 10_000, |_| frame(kind::PING, 0, 0, [0; 8]).repeat(100));
    assert!(sent > 50, "after {sent} times 100");
}

// The library warns of each: a client could fill the disk.
#[test]
fn confirmations_of_no_ping_leave_nothing_in_the_log_unless_it_is_asked_for() {
    for (level, told) in [("info", false), ("debug", false), ("info,h2=warn", true)] {
        let (door, _blue) = one_worker().set("log.level", level).before(site);
        let mut client = RawHttp2::connect(door.addr());
        client.send(frame(kind::PING, ACK, 0, [0; 8]).repeat(1000));
        assert_eq!(client.get("/").status, 200);
        drop(client);
        door.quiet();
        assert_eq!(door.log().contains("recv PING ack"), told, "{level}: {}", door.log());
    }
}

#[test]
fn frames_without_a_byte_of_a_body_end_the_connection() {
    let mut stream = 0;
    flood(&["h2_empty_frame_flood", "h2_flood"], 100_000, |client| {
        if stream == 0 {
            stream = client.begin(&fields("POST", "/never", &[]), 0);
        }
        data(stream, [], 0)
    });
}

#[test]
fn room_that_is_given_byte_by_byte_ends_the_connection() {
    flood(&["h2_window_update_flood"], 2000, |_| window_update(0, 1).repeat(1000));
}

#[test]
fn advice_without_end_ends_the_connection() {
    flood(&["h2_priority_flood"], 200_000, |_| frame(kind::PRIORITY, 0, 1, [0, 0, 0, 0, 1]).repeat(10));
}

// === headers that are larger than they look ===

/// A request of 16 KiB with 48 MiB of headers.
fn bomb(client: &mut RawHttp2) -> Vec<u8> {
    let small = [block(&fields("GET", "/never", &[])), remembered("x", &"a".repeat(3900))].concat();
    let stream = client.stream();
    frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, [small, vec![AGAIN; 12_000]].concat())
}

#[test]
fn headers_that_unfold_end_the_connection_and_cost_no_memory() {
    // h2 gives up at four times the limit.
    let (_, blue) = flood(&["h2_flood"], 2000, bomb);
    assert_eq!(called(&blue), 0);
}

#[test]
fn headers_that_are_too_large_are_refused_and_the_connection_lives() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let large = "a".repeat(10_000);
    for _ in 0..3 {
        let stream = client.stream();
        let first = frame(kind::HEADERS, END_STREAM, stream, block(&fields("GET", "/never", &[("x", &large)])));
        let more = block(&[("y", &large)]);
        client.send([first, frame(kind::CONTINUATION, 0, stream, &more)].concat());
        client.send([frame(kind::CONTINUATION, 0, stream, &more), frame(kind::CONTINUATION, 4, stream, more)].concat());
        assert_eq!(client.answer(stream).status, 431);
    }
    assert_eq!(client.get("/").status, 200);
    drop(client);
    door.quiet();
    assert_eq!(called(&blue), 0);
}

#[test]
fn requests_with_large_headers_without_end_end_the_connection() {
    // Just above the limit, in few bytes.
    let (sent, blue) = flood(&["h2_refused_stream_flood"], 20_000, |client| {
        let small = [block(&fields("GET", "/never", &[])), remembered("x", &"a".repeat(3900))].concat();
        let stream = client.stream();
        frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, [small, vec![AGAIN; 12]].concat())
    });
    assert!(sent > 100, "after {sent}");
    assert_eq!(called(&blue), 0);
}

#[test]
fn malformed_requests_without_end_end_the_connection() {
    let (_, blue) = flood(&["h2_refused_stream_flood", "h2_flood"], 100_000, |client| {
        let stream = client.stream();
        headers(stream, &fields("GET", "/never", &[("connection", "close")]), END_STREAM)
    });
    assert_eq!(called(&blue), 0);
}

// === clients that do not even read why ===

#[test]
fn a_flood_that_reads_nothing_is_ended_as_well() {
    let (door, _blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let pings = frame(kind::PING, 0, 0, [0; 8]).repeat(1000);
    let end = Instant::now() + DEADLINE;
    while client.try_send(&pings) {
        assert!(Instant::now() < end, "no end");
    }
    wait_until("the count", DEADLINE, || turned_away(&door, "h2_ping_flood") == 1.0);
    assert_eq!(door.get("/").status, 200);
    door.quiet();
}
