//! What becomes of streams after a switch? They go on for a while, and then end one by one, in an orderly way.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bgproxy_conf::wire::{CloseStreamsReply, ColorStatus, DrainOutcome, What};
use serde_json::json;

use crate::harness::door::Builder;
use crate::harness::raw::{Body, Failure, request};
use crate::harness::{Act, DEADLINE, Door, Fake, Pair, Raw, wait_for, wait_until};

const CLOSE: &str = "/v1/services/portal/close-streams";

// === event streams ===

#[test]
fn old_streams_go_on_for_a_while_then_end_evenly_and_come_back_to_the_new_color() {
    let pair = Pair::start_with(policy("500ms", "2s", 200));
    let streams: Vec<Stream> = (0..40).map(|_| Stream::open(&pair.door)).collect();
    assert!(streams.iter().all(|stream| stream.color == "blue"));
    let mut events = pair.door.events(None);
    let receipt = pair.door.switch_and_drain("green");
    let switched = Instant::now();
    assert_eq!((receipt.outcome, receipt.streams_left), (DrainOutcome::Drained, 40));
    let ends = ends_of(streams, switched);

    let What::ClosingStreams { color, streams, by, .. } = events.wait(is_closing).what else { unreachable!() };
    assert_eq!((color.as_str(), streams, by.as_str()), ("blue", 40, "streams.keep"));
    let after = |end: &Ended| end.after.as_secs_f64();
    let ends: Vec<Ended> = ends.into_iter().map(|end| end.join().expect("a client")).collect();
    assert!(ends.iter().all(|end| end.clean && end.next == "green"), "{ends:?}");
    // The reply was a moment later than the fence, from which the time counts.
    assert!(ends.iter().all(|end| (0.4..6.0).contains(&after(end))), "{ends:?}");
    // How evenly is a matter of unit tests: a busy machine tells many of them late.
    let (first, last) =
        ends.iter().map(after).fold((f64::MAX, 0.0_f64), |(first, last), at| (first.min(at), last.max(at)));
    assert!(last - first > 1.0, "all at once: {ends:?}");
    let early = ends.iter().filter(|end| after(end) < (first + last) / 2.0).count();
    assert!((10..=30).contains(&early), "{early} in the first half: {ends:?}");
    let metrics = pair.door.metrics();
    assert_eq!(metrics.sum("bgproxy_streams_closed_total", &[("color", "blue")]), 40.0);
    assert_eq!(metrics.sum("bgproxy_streams_open", &[("color", "blue")]), 0.0);
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
    pair.door.bgctl(&["wait-idle", "blue"]).ok();
}

#[test]
fn no_more_streams_end_in_a_second_than_the_cap_allows() {
    let pair = Pair::start_with(policy("0s", "0s", 10));
    let streams: Vec<Stream> = (0..30).map(|_| Stream::open(&pair.door)).collect();
    pair.door.switch("green");
    let ends: Vec<f64> = ends_of(streams, Instant::now())
        .into_iter()
        .map(|end| end.join().expect("a client").after.as_secs_f64())
        .collect();
    let within = |from: f64| ends.iter().filter(|end| (from..from + 1.0).contains(*end)).count();
    let most = ends.iter().map(|end| within(*end)).max().unwrap_or(0);
    // A machine that is busy with other tests may tell a few of them late.
    assert!(most <= 12, "{most} within a second: {ends:?}");
    assert!(ends.iter().any(|end| *end > 2.0), "{ends:?}");
}

#[test]
fn a_color_that_is_used_again_keeps_its_streams() {
    let pair = Pair::start_with(policy("0s", "4s", 200));
    let streams: Vec<Stream> = (0..4).map(|_| Stream::open(&pair.door)).collect();
    let mut events = pair.door.events(None);
    pair.door.switch("green");
    events.wait(is_closing);
    pair.door.switch("blue");
    let back = Instant::now();
    wait_until("the time that they had", DEADLINE, || back.elapsed() > Duration::from_millis(4_500));
    assert_eq!(blue(&pair.door).streams, 4);
    pair.blue.go();
    for mut stream in streams {
        assert!(stream.read_to_end(), "it ends when its backend ends it");
    }
    assert_eq!(pair.door.metrics().sum("bgproxy_streams_closed_total", &[]), 0.0);
}

#[test]
fn an_event_stream_ends_between_two_events() {
    let (door, fake) = Door::builder().before(|at| Fake::scripted(at, |_| event_in_two_pieces()));
    let mut stream = Stream::open(&door);
    let reply = close(&door, json!({ "color": "blue", "over": 0 }));
    assert_eq!((reply.service.as_str(), reply.color.as_str(), reply.closing), ("portal", "blue", 1));
    wait_until("the sweep", DEADLINE, || stream.raw.hears_nothing());
    fake.go();
    assert!(stream.read_to_end());
    assert_eq!(stream.text, "data: 1\n\ndata: 2\n\n");
    drop(stream);
    door.quiet();
    wait_until("the backend's connection to end", DEADLINE, || fake.heard()[0].ended);
}

#[test]
fn an_event_that_does_not_end_is_not_waited_for_without_end() {
    let (door, _fake) = Door::builder().before(|at| Fake::scripted(at, |_| event_in_two_pieces()));
    let mut stream = Stream::open(&door);
    let asked = Instant::now();
    close(&door, json!({ "color": "blue", "over": 0 }));
    assert!(stream.read_to_end());
    assert_eq!(stream.text, "data: 1\n\ndata: 2");
    // By the worker's own clock, which its sweep moves on.
    assert!(asked.elapsed() >= Duration::from_millis(1_900), "{:?}", asked.elapsed());
    drop(stream);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
}

#[test]
fn a_client_that_takes_nothing_is_broken_off() {
    let said = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec();
    let script = move |_| vec![Act::ReadRequest, Act::Say(said.clone()), Act::Flood];
    let (door, _fake) = Door::builder().before(|at| Fake::scripted(at, script));
    let mut client = Raw::connect_narrow(door.addr());
    client.send(request("GET", "/", &[], b""));
    client.head();
    close(&door, json!({ "color": "blue", "over": 0 }));
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "stream_ended")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_streams_closed_total", &[]), 1.0);
}

// === downloads ===

#[test]
fn a_download_that_outlives_the_drain_goes_on_as_a_stream_and_is_broken_off_when_its_time_is_over() {
    let half = b"HTTP/1.1 200 OK\r\nX-Color: blue\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    let pair = Pair::start_with(|door| policy("1s", "200ms", 200)(door).set("service.portal.drain.deadline", "200ms"));
    let blue_at = pair.dir.path().join("other");
    let Pair { mut door, .. } = pair;
    let _other = Fake::scripted(&*blue_at, move |_| vec![Act::ReadRequest, Act::Say(half.clone()), Act::Stay]);
    door.configure("service.portal.backends.blue", blue_at.to_str().expect("a readable path"));
    door.bgctl(&["reload"]).ok();

    let mut client = door.connect();
    client.send(request("GET", "/large", &[], b""));
    let (head, mut body) = client.head();
    assert_eq!(head.status, 200);
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"half");
    let output = door.bgctl(&["switch", "green"]).ok();
    let switched = Instant::now();
    assert!(output.stdout.contains("of 1 request in flight, 0 finished, 1 goes on as a stream"), "{output:?}");
    let receipt = door.history()[0].receipt.clone().expect("a receipt");
    assert_eq!((receipt.outcome, receipt.in_flight, receipt.finished), (DrainOutcome::Drained, 1, 0));
    assert_eq!((receipt.cut_total, receipt.streams_kept, receipt.streams_left), (0, 1, 1));
    let status = wait_for("the stream's age", DEADLINE, || {
        let status = blue(&door);
        if status.oldest_stream.is_some() { Ok(status) } else { Err("unknown") }
    });
    assert_eq!((status.streams, status.streams_by_kind.downloads), (1, 1));
    assert!(door.bgctl(&["status"]).ok().stdout.contains("blue has 1 download open, the oldest for "));
    assert_eq!(door.metrics().sum("bgproxy_streams_open", &[("color", "blue"), ("kind", "download")]), 1.0);

    assert!(matches!(client.piece(&mut body), Err(Failure::Closed(_) | Failure::Reset(_))), "no part for the whole");
    // One second from the fence on, of which the drain took two tenths.
    assert!(switched.elapsed() > Duration::from_millis(500), "{:?}", switched.elapsed());
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "stream_ended")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_drain_cut_requests_total", &[]), 0.0);
}

#[test]
fn a_download_that_is_completed_in_its_time_is_whole() {
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf".to_vec(), b"half".to_vec()];
    let dir = crate::harness::temp_dir();
    let blue = Fake::scripted(dir.path().join("blue"), move |_| {
        let [first, second] = answer.clone();
        vec![Act::ReadRequest, Act::Say(first), Act::AwaitGo, Act::Say(second), Act::Stay]
    });
    let green = Fake::color(dir.path().join("green"), "green");
    let door = Door::builder().fakes(&blue, &green).set("service.portal.drain.deadline", "100ms").start();
    let mut client = door.connect();
    client.send(request("GET", "/", &[], b""));
    let (_, mut body) = client.head();
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"half");
    assert_eq!(door.switch_and_drain("green").streams_kept, 1);
    blue.go();
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"half");
    assert!(client.piece(&mut body).unwrap().is_none());
    let metrics = door.metrics();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[]), 0.0);
    let next = client.send(request("GET", "/", &[], b"")).response();
    assert_eq!(next.color(), Some("green"), "the connection goes on");
}

// === close-streams ===

#[test]
fn close_streams_ends_them_sooner_of_whatever_color() {
    let pair = Pair::start();
    let streams: Vec<Stream> = (0..3).map(|_| Stream::open(&pair.door)).collect();
    let mut events = pair.door.events(None);
    wait_until("the streams' age", DEADLINE, || blue(&pair.door).oldest_stream.is_some());
    let status = pair.door.bgctl(&["status"]).ok().stdout;
    assert!(status.contains("blue has 3 event streams open, the oldest for "), "{status}");

    let output = pair.door.bgctl(&["close-streams", "blue", "--over", "300ms"]).ok();
    assert!(output.stdout.starts_with("closing 3 streams of blue within "), "{output:?}");
    for mut stream in streams {
        assert!(stream.read_to_end());
    }
    let What::ClosingStreams { streams, by, .. } = events.wait(is_closing).what else { unreachable!() };
    assert_eq!(streams, 3);
    assert!(by.starts_with("uid "), "{by}");
    pair.door.wait_log("path=\"/v1/services/portal/close-streams\"");
    pair.door.quiet();
    assert_eq!(pair.door.bgctl(&["close-streams", "blue"]).ok().stdout, "blue has no stream open\n");
    assert_eq!(pair.answers(), "blue");
}

#[test]
fn a_second_close_can_only_make_it_sooner() {
    let pair = Pair::start();
    let mut streams: Vec<Stream> = (0..2).map(|_| Stream::open(&pair.door)).collect();
    let hour = close(&pair.door, json!({ "color": "blue", "over": 3600 }));
    assert!((900.0..=3600.1).contains(&hour.seconds), "{hour:?}");
    let day = close(&pair.door, json!({ "color": "blue", "over": 86400 }));
    assert!(day.closing == 2 && day.seconds <= hour.seconds, "{day:?}");
    assert!(close(&pair.door, json!({ "color": "blue", "over": 0.1 })).seconds < 1.0);
    assert!(streams.iter_mut().all(Stream::read_to_end));
}

#[test]
fn close_streams_refuses_what_makes_no_sense() {
    let pair = Pair::start();
    let refused = |path: &str, body| {
        let reply = pair.door.post(path, body);
        (reply.status(), reply.problem().reason)
    };
    assert_eq!(refused(CLOSE, json!({ "color": "purple" })), (422, "unknown_color".into()));
    assert_eq!(refused(CLOSE, json!({ "color": "blue", "over": -1 })), (400, "bad_request".into()));
    assert_eq!(refused(CLOSE, json!({ "over": 1 })), (400, "bad_request".into()));
    let nowhere = refused("/v1/services/nowhere/close-streams", json!({ "color": "blue" }));
    assert_eq!(nowhere, (404, "unknown_service".into()));
    let mistyped = pair.door.bgctl(&["close-streams", "bleu"]);
    assert_eq!(mistyped.code, Some(1));
    assert!(mistyped.stderr.contains("did you mean `blue`?"), "{mistyped:?}");
}

// === helpers ===

/// An event stream's client.
struct Stream {
    raw: Raw,
    body: Body,
    color: String,
    text: String,
}

/// How it ended.
#[derive(Debug)]
struct Ended {
    after: Duration,
    /// With the chunk that says so.
    clean: bool,
    /// The color that answered the next request on the same connection.
    next: String,
}

impl Stream {
    /// Opens one and reads its first event.
    #[track_caller]
    fn open(door: &Door) -> Stream {
        let mut raw = door.connect();
        raw.send(request("GET", "/sse", &[], b""));
        let (head, mut body) = raw.head();
        let color = head.fields.get("x-color").unwrap_or("nobody").to_owned();
        let first = raw.piece(&mut body).unwrap().expect("an event");
        Stream { raw, body, color, text: String::from_utf8(first).unwrap() }
    }

    /// Reads until it ends; whether it did so in an orderly way.
    fn read_to_end(&mut self) -> bool {
        loop {
            match self.raw.piece(&mut self.body) {
                Ok(Some(piece)) => self.text.push_str(&String::from_utf8_lossy(&piece)),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// Reads all of them to their ends, side by side.
fn ends_of(streams: Vec<Stream>, since: Instant) -> Vec<JoinHandle<Ended>> {
    let read = move |mut stream: Stream| {
        let clean = stream.read_to_end();
        let after = since.elapsed();
        let next = stream.raw.send(request("GET", "/", &[], b"")).response();
        Ended { after, clean, next: next.color().unwrap_or("nobody").to_owned() }
    };
    streams.into_iter().map(|stream| std::thread::spawn(move || read(stream))).collect()
}

fn policy(keep: &str, spread: &str, per_second: u32) -> impl FnOnce(Builder) -> Builder {
    let streams = json!({ "keep": keep, "spread": spread, "per_second": per_second });
    move |door| door.set("service.portal.streams", streams)
}

/// One event, then another in two pieces, the second only after [`Fake::go`].
fn event_in_two_pieces() -> Vec<Act> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first = format!("{head}10\r\ndata: 1\n\ndata: 2\r\n").into_bytes();
    vec![Act::ReadRequest, Act::Say(first), Act::AwaitGo, Act::Say(b"2\r\n\n\n\r\n".to_vec()), Act::Stay]
}

fn is_closing(what: &What) -> bool {
    matches!(what, What::ClosingStreams { .. })
}

#[track_caller]
fn close(door: &Door, body: serde_json::Value) -> CloseStreamsReply {
    door.post(CLOSE, body).parsed()
}

/// Blue's part of the status.
#[track_caller]
fn blue(door: &Door) -> ColorStatus {
    let (_, status) = door.portal().colors.into_iter().find(|(color, _)| color.as_str() == "blue").expect("blue");
    status
}
