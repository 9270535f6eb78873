//! What does a backend do to others that sends without end what nobody wants? Its connection is ended, with a name for
//! why, and a new one is opened for those who come next. Honest backends send some of each, and are left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{BLUE, assert_failed, get};
use crate::harness::door::Builder;
use crate::harness::fake::ok;
use crate::harness::flooder::{Connection, answer, interim};
use crate::harness::raw::request;
use crate::harness::raw_http2::{
    END_HEADERS, END_STREAM, INITIAL_WINDOW_SIZE, block, data, frame, headers, kind, reset, settings, window_update,
};
use crate::harness::{Act, DEADLINE, Door, Fake, Flooder, Raw, RawHttp2, pace, tell, wait_until};

/// What a flood may leave behind of memory, in KiB.
const MEMORY: u64 = 8 * 1024;
/// How long a request to another backend may take on the same worker meanwhile. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is told when a limit of the HTTP/2 library was passed before ours.
const H2: &str = "excessive load";
/// A request to the other backend.
const ELSEWHERE: &[u8] = b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";

/// A door before a backend that floods with these pieces, and before one that does not; one worker: what hurts one of
/// its requests hurts all.
struct Both {
    // In the order they end: the door first.
    door: Door,
    blue: Flooder,
    _other: Fake,
}

fn before(piece: impl Fn(u32, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Both {
    before_with(piece, |door| door)
}

fn before_with(
    piece: impl Fn(u32, usize) -> Option<Vec<u8>> + Send + Sync + 'static,
    change: impl FnOnce(Builder) -> Builder,
) -> Both {
    let builder = Door::builder().set("workers", 1);
    let blue = Flooder::with(builder.dir().join("blue.sock"), piece);
    let other = Fake::answers(builder.dir().join("other.sock"), ok("other"));
    let nobody = builder.dir().join("nobody.sock");
    let builder = builder.set(BLUE, blue.backend()).set("service.other.hosts", json!(["other.test"]));
    let builder = builder.set("service.other.backends.blue", json!(other.address()));
    let door = change(builder.set("service.other.backends.green", json!(nobody))).start();
    Both { door, blue, _other: other }
}

/// Lets a backend flood, while another request is on the same connection and others go elsewhere, and makes sure that
/// the connection is ended for one of these reasons, that nobody waits for it, and that nothing is remembered. What is
/// asked are POSTs, which are not sent again.
#[track_caller]
fn flood(whys: &[&str], piece: impl Fn(u32, usize) -> Vec<u8> + Send + Sync + 'static) {
    let Both { door, blue, _other } = before(move |stream, count| Some(piece(stream, count)));
    assert_eq!((door.get("/").status, Raw::ask(door.addr(), ELSEWHERE).text().as_str()), (200, "other"));
    let before = door.resident();
    let (mut held, mut flooded) = (door.connect(), door.connect());
    held.send(request("POST", "/held", &[], b"hi"));
    blue.wait("the other request", |all| all[0].asked.len() == 2);
    let flooding = AtomicBool::new(true);
    let asked = Instant::now();
    let (answers, longest) = std::thread::scope(|scope| {
        let other = scope.spawn(|| serve_others(&door, &flooding));
        let ends = Ends(&flooding);
        let answers = [flooded.send(request("POST", "/flood", &[], b"hi")).response(), held.response()];
        drop(ends);
        (answers, other.join().expect("another client"))
    });
    let took = asked.elapsed();
    for answer in &answers {
        assert!(answer.status == 502 && answer.text().contains("(backend_flood)"), "{}", answer.text());
    }
    assert!(longest < PATIENCE, "the slowest of others took {longest:?}");
    blue.wait("the end of the connection", |all| all[0].ended);
    assert_eq!(door.get("/").status, 200);
    assert_eq!(blue.look(|all| all.len()), 2, "over a new connection");
    drop((held, flooded));
    let metrics = door.quiet();
    let failed = metrics.sum("bgproxy_request_failures_total", &[("reason", "backend_flood")]);
    let ended = metrics.sum("bgproxy_connect_failures_total", &[("reason", "backend_flood")]);
    assert_eq!((failed, ended), (2.0, 1.0));
    let log = door.log();
    let told = log.lines().find(|line| line.contains("reason=\"backend_flood\"")).unwrap_or_else(|| panic!("{log}"));
    assert!(whys.iter().any(|why| told.contains(why)), "{told}");
    let grown = door.resident().saturating_sub(before);
    tell(format_args!("{}: ended after {took:?}, {grown} KiB more, others served within {longest:?}", whys[0]));
    assert!(grown < MEMORY, "{grown} KiB more");
}

/// Makes a flag false when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Asks elsewhere for as long as the flood goes on: how long that took at most.
fn serve_others(door: &Door, flooding: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while flooding.load(Ordering::Acquire) {
        let asked = Instant::now();
        assert_eq!(Raw::ask(door.addr(), ELSEWHERE).text(), "other");
        longest = longest.max(asked.elapsed());
    }
    longest
}

fn pings() -> Vec<u8> {
    frame(kind::PING, 0, 0, [0; 8]).repeat(100)
}

// === floods ===

#[test]
fn pings_of_a_backend_without_end_end_its_connection() {
    flood(&["h2_ping_flood"], |_, _| pings());
}

#[test]
fn settings_of_a_backend_without_end_end_its_connection() {
    flood(&["h2_settings_flood"], |_, _| settings(&[]).repeat(100));
}

#[test]
fn interim_answers_without_end_end_the_connection() {
    flood(&["h2_interim_flood"], |stream, count| interim(stream, ["100", "102", "103"][count % 3]).repeat(100));
}

// A kilobyte each, of which 60 are made: 4,000 of them would be 400 MiB to whoever kept them.
#[test]
fn interim_answers_that_unfold_cost_no_memory() {
    const GZIP: u8 = 0x80 | 16;
    let fields = [block(&[(":status", "103")]), vec![GZIP; 1000]].concat();
    flood(&["h2_interim_flood"], move |stream, _| frame(kind::HEADERS, END_HEADERS, stream, &fields).repeat(10));
}

#[test]
fn empty_frames_of_an_answer_without_end_end_the_connection() {
    let go = Arc::new(AtomicBool::new(false));
    let gone = go.clone();
    let Both { door, blue, _other } = before(move |stream, count| match count {
        0 => Some([headers(stream, &[(":status", "200")], 0), data(stream, "half", 0)].concat()),
        _ if gone.load(Ordering::Acquire) => Some(data(stream, [], 0).repeat(1000)),
        _ => {
            pace(Duration::from_millis(1));
            Some(Vec::new())
        }
    });
    let mut client = door.connect();
    let (head, mut body) = client.send(get("/flood")).head();
    assert_eq!((head.status, client.piece(&mut body).unwrap().unwrap()), (200, b"half".to_vec()));
    go.store(true, Ordering::Release);
    assert!(client.piece(&mut body).is_err(), "an answer that has begun breaks off");
    blue.wait("the end of the connection", |all| all[0].ended);
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "backend_flood")]), 1.0);
    wait_until("a word on why", DEADLINE, || door.log().contains("h2_empty_frame_flood") || door.log().contains(H2));
}

#[test]
fn window_updates_of_a_backend_without_end_end_its_connection() {
    flood(&["h2_window_update_flood"], |_, _| window_update(0, 1).repeat(1000));
}

#[test]
fn resets_of_a_backend_without_end_end_its_connection() {
    // Of the first request, which has been answered.
    flood(&["h2_reset_flood"], |_, _| reset(1, 0).repeat(100));
}

#[test]
fn advice_and_unknown_frames_of_a_backend_without_end_end_its_connection() {
    flood(&["h2_priority_flood"], |stream, count| match count % 2 {
        0 => frame(kind::PRIORITY, 0, stream, [0, 0, 0, 0, 1]).repeat(100),
        _ => frame(0x77, 0, 0, []).repeat(100),
    });
}

#[test]
fn a_head_of_an_answer_without_end_ends_the_connection() {
    flood(&["h2_continuation_flood", H2], |stream, count| match count {
        0 => frame(kind::HEADERS, 0, stream, block(&[(":status", "200")])),
        _ => frame(kind::CONTINUATION, 0, stream, block(&[("x", "y")])).repeat(10),
    });
}

#[test]
fn who_was_beside_a_flood_that_the_library_ends_is_asked_for_again() {
    let Both { door, blue, _other } = before(|stream, count| {
        Some(match count {
            0 => frame(kind::HEADERS, 0, stream, block(&[(":status", "200")])),
            // More than h2 bears, and less than we do.
            1 => frame(kind::CONTINUATION, 0, stream, block(&[("x", "y")])).repeat(30),
            _ => {
                pace(Duration::from_millis(1));
                frame(kind::PING, 0, 0, [0; 8])
            }
        })
    });
    let (mut beside, mut flooded) = (door.connect(), door.connect());
    beside.send(get("/first"));
    blue.wait("the other request", |all| all.len() == 1 && all[0].asked.len() == 1);
    flooded.send(request("POST", "/flood", &[], b"hi"));
    assert_eq!((beside.response().text().as_str(), flooded.response().status), ("blue\n", 502));
    assert!(door.log().contains(H2), "{}", door.log());
}

// === who hears of it ===

#[test]
fn a_request_that_may_be_repeated_is_sent_once_more_and_not_for_ever() {
    let Both { door, blue, _other } = before(|_, _| Some(pings()));
    let answer = door.get("/flood");
    assert_failed(&door, &answer, 502, "backend_flood");
    assert!(blue.look(|all| all.iter().all(|connection| connection.asked == ["GET /flood"])));
    assert_eq!((blue.look(|all| all.len()), door.quiet().sum("bgproxy_retries_total", &[])), (2, 1.0));
}

#[test]
fn a_flood_that_no_request_suffers_from_is_told_as_well() {
    let Both { door, blue, _other } = before(|stream, count| Some(if count == 0 { answer(stream) } else { pings() }));
    assert_eq!(door.get("/flood").text(), "blue\n");
    blue.wait("the end of the connection", |all| all[0].ended);
    door.wait_log("h2_ping_flood");
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_connect_failures_total", &[("reason", "backend_flood")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
    assert_eq!(door.get("/").status, 200);
}

#[test]
fn a_color_that_floods_is_not_ready() {
    let flooding = |_: u32, _: usize| Some(pings());
    let Both { door, blue: _blue, .. } = before_with(flooding, |door| door.set("service.portal.ready.path", "/flood"));
    let reply = door.post("/v1/services/portal/probe", json!({ "color": "blue" }));
    assert!(reply.json().to_string().contains("backend_flood"), "{}", reply.json());
}

// === honest backends ===

#[test]
fn a_backend_that_hints_before_each_answer_and_resets_behind_it_is_left_alone() {
    // More heads and more resets than would be let pass of a backend that was not asked.
    let Both { door, blue, _other } = before(|_, _| None);
    let mut client = door.connect();
    for _ in 0..1500 {
        assert_eq!(client.send(get("/hints")).response().status, 200);
    }
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
    assert_eq!(blue.look(|all| all.len()), 1);
}

#[test]
fn a_backend_that_confirms_every_piece_of_an_upload_is_left_alone() {
    let Both { door, blue, _other } = before(|_, _| None);
    let mut client = door.connect();
    // 100,000 pieces, each with a PING behind it; 10,000 at once are a flood, and 5,000 a second.
    client.send(request("POST", "/upload", &[("Transfer-Encoding", "chunked")], &b"1\r\nx\r\n".repeat(100_000)));
    client.send("0\r\n\r\n");
    assert_eq!(client.response().text(), "blue\n");
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
    assert_eq!(blue.look(|all| all.len()), 1);
}

// h2 by itself remembers 50 streams that it has reset, for a second. What comes late on another one is a fault to it,
// and a connection that has had a thousand of them in its life was ended, with all that was on it.
#[test]
fn a_backend_whose_answers_are_on_their_way_when_clients_leave_is_left_alone() {
    let Both { door, blue, _other } = before(|_, _| None);
    let mut held = door.connect();
    held.send(request("POST", "/held", &[], b"hi"));
    for round in 1..=16 {
        let mut clients: Vec<Raw> = (0..90).map(|_| door.connect()).collect();
        for client in &mut clients {
            let (_, mut body) = client.send(get("/late")).head();
            assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"late");
        }
        drop(clients);
        blue.wait("them to have left", |all| all[0].resets == 90 * round || all[0].ended);
        assert_eq!(door.get("/").status, 200);
    }
    assert_eq!(blue.look(|all| (all.len(), all[0].ended)), (1, false));
    drop(held);
    door.quiet();
}

// h2 counts small pieces on streams that were left for the whole life of a connection.
#[test]
fn a_connection_that_small_pieces_have_worn_out_is_replaced_and_nobody_hurt() {
    let Both { door, blue, _other } = before(|_, _| None);
    let mut held = door.connect();
    held.send(request("POST", "/held", &[], b"hi"));
    blue.wait("it", |all| all.len() == 1 && all[0].asked.len() == 1);
    // Each round costs the connection 90 * 500 * 240 bytes of 128 MiB; after half of that it is worn out.
    for _ in 0..9 {
        let mut clients: Vec<Raw> = (0..90).map(|_| door.connect()).collect();
        for client in &mut clients {
            let (_, mut body) = client.send(get("/late-messages")).head();
            assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"late");
        }
        let left = |all: &[Connection]| all.iter().map(|connection| connection.resets).sum::<usize>();
        let before = blue.look(left);
        drop(clients);
        blue.wait("them to have left", |all| left(all) == before + 90);
        assert_eq!(door.get("/").status, 200);
    }
    assert_eq!(blue.look(|all| (all.len(), all[0].ended)), (2, false), "the held one goes on, on the first");
    drop(held);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[("reason", "backend_flood")]), 0.0);
}

#[test]
fn clients_that_take_nothing_of_many_small_messages_cost_the_others_nothing() {
    let Both { door, blue, _other } = before(|_, _| None);
    let mut held = door.connect();
    held.send(request("POST", "/upload", &[("Transfer-Encoding", "chunked")], b"2\r\nhi\r\n"));
    let before = door.resident();
    let mut client = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    let stalled: Vec<u32> = (0..90).map(|_| client.ask("/messages")).collect();
    client.wait("their heads", |client| stalled.iter().all(|stream| client.so_far(*stream).status == 200));
    // Behind all that is on its way.
    assert_eq!(door.get("/").status, 200);
    let each = door.resident().saturating_sub(before) / 90;
    // A message of 45 bytes costs some 300; there are no more of them than the window lets through.
    assert!(each < 2048, "{each} KiB for each");
    held.send("0\r\n\r\n");
    assert_eq!(held.response().text(), "blue\n");
    assert_eq!(blue.look(|all| (all.len(), all[0].ended)), (1, false));
    drop((client, held));
    door.quiet();
}

// What h2 keeps of each small frame was counted for a flood of the backend's, and one reader of events who stalled
// ended the connection, with everybody else's requests on it.
#[test]
fn an_answer_in_single_bytes_that_its_client_does_not_take_costs_its_bytes_and_no_other() {
    const BYTES: usize = 250_000;
    let at = |piece: usize| b"0123456789"[piece % 10];
    let Both { door, blue, _other } = before(move |stream, count| match count {
        0 => Some(headers(stream, &[(":status", "200"), ("content-type", "text/event-stream")], 0)),
        1..=250 => Some((0..BYTES / 250).flat_map(|byte| data(stream, [at(byte)], 0)).collect()),
        251 => Some(data(stream, "", END_STREAM)),
        _ => {
            pace(Duration::from_millis(1));
            Some(Vec::new())
        }
    });
    assert_eq!(door.get("/").status, 200);
    let before = door.resident();
    let mut stalled = RawHttp2::with(door.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    let stream = stalled.ask("/flood");
    blue.wait("all of it", |all| all[0].taken > 252 || all[0].ended);
    assert_eq!(door.get("/").status, 200);
    let grown = door.resident().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB more");
    assert_eq!(blue.look(|all| (all.len(), all[0].ended)), (1, false));
    stalled.send([window_update(0, 1 << 30), window_update(stream, 1 << 30)].concat());
    let answer = stalled.answer(stream);
    let expected: Vec<u8> = (0..BYTES).map(at).collect();
    assert!(answer.whole && answer.body == expected, "{} bytes", answer.body.len());
    drop(stalled);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
}

// A client of HTTP/1.1 has all of it with the last byte; it got nothing, and waited for as long as it liked.
#[test]
fn an_answer_whose_end_comes_behind_its_last_byte_is_whole() {
    let begins = |stream| {
        let head = headers(stream, &[(":status", "200"), ("content-length", "4")], 0);
        [head, data(stream, "blue", 0)].concat()
    };
    for end in [
        |stream| data(stream, "", END_STREAM),
        |stream| headers(stream, &[("x", "y")], END_STREAM),
        |stream| reset(stream, 0),
    ] {
        for late in [0, 20] {
            let Both { door, blue, _other } = before(move |stream, count| match count {
                0 if late == 0 => Some([begins(stream), end(stream)].concat()),
                0 => Some(begins(stream)),
                count if count == late => Some(end(stream)),
                _ => {
                    pace(Duration::from_millis(1));
                    Some(Vec::new())
                }
            });
            let mut client = door.connect();
            assert_eq!(client.send(request("POST", "/flood", &[], b"hi")).response().text(), "blue");
            assert_eq!(client.send(get("/")).response().status, 200);
            blue.wait("its end", |all| all[0].taken > late);
            drop(client);
            let metrics = door.quiet();
            assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
            assert_eq!(blue.look(|all| all.len()), 1);
        }
    }
}

#[test]
fn many_interim_answers_that_have_an_end_are_passed_over() {
    let Both { door, blue, _other } = before(|stream, count| (count < 30).then(|| interim(stream, "102").repeat(100)));
    assert_eq!(door.get("/flood").text(), "blue\n");
    assert_eq!(blue.look(|all| all.len()), 1);
    door.quiet();
}

// === HTTP/1.1 ===

#[test]
fn interim_answers_without_end_end_an_http1_connection_too() {
    for (status, count) in [("100 Continue", 1000), ("103 Early Hints", 1000), ("102 Processing", 1001)] {
        let interims = format!("HTTP/1.1 {status}\r\n\r\n").repeat(count).into_bytes();
        let script = move |_| vec![Act::ReadRequest, Act::Say(interims.clone()), Act::Say(ok("blue")), Act::Repeat];
        let builder = Door::builder();
        let blue = Fake::scripted(builder.dir().join("blue.sock"), script);
        let door = builder.set(BLUE, json!(blue.address())).start();
        let answer = door.get("/");
        if count <= 1000 {
            assert_eq!(answer.text(), "blue", "{status}");
            continue;
        }
        assert_failed(&door, &answer, 502, "backend_flood");
        wait_until("the end of the connection", DEADLINE, || blue.heard()[0].ended);
        assert_eq!(blue.heard().len(), 1, "an answer had begun");
    }
}
