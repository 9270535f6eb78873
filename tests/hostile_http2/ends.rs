//! How do requests and connections of HTTP/2 end: by the client, at a shutdown, over a switch?

use crate::harness::raw_http2::{END_STREAM, code, fields, headers, reset};
use crate::harness::{DEADLINE, Fake, Pair, RawHttp2, text_of, wait_for, wait_until};

use super::{one_worker, site, wait_failed};

/// Waits until the backend has no connection left in the middle of something.
#[track_caller]
fn wait_let_go(blue: &Fake) {
    wait_until("the backend's connections to end", DEADLINE, || blue.heard().iter().all(|heard| heard.ended));
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_an_answer_is_counted_and_the_backend_let_go() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let stream = client.ask("/endless");
    client.wait("a part of it", |client| client.so_far(stream).body.len() > 1_000_000);
    drop(client);
    door.quiet();
    wait_failed(&door, "client_gone", 1.0);
    wait_let_go(&blue);
}

#[test]
fn a_stream_that_is_taken_back_in_the_middle_is_counted_and_the_backend_let_go() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    for (count, path) in [(1.0, "/endless"), (2.0, "/never")] {
        let stream = client.ask(path);
        match path {
            "/endless" => client.wait("a part", |client| client.so_far(stream).body.len() > 100_000),
            _ => blue.wait_target(path),
        }
        client.send(reset(stream, code::CANCEL));
        wait_failed(&door, "client_gone", count);
        wait_let_go(&blue);
    }
    assert_eq!(client.get("/").status, 200);
    drop(client);
    door.quiet();
}

#[test]
fn an_upload_that_is_taken_back_is_no_whole_request_to_the_backend() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let stream = client.begin(&fields("POST", "/cut", &[]), 0);
    client.upload(stream, b"hello", 0);
    blue.wait_target("/cut");
    client.send(reset(stream, code::CANCEL));
    wait_let_go(&blue);
    drop(client);
    door.quiet();
    assert!(blue.requests().is_empty());
}

#[test]
fn a_shutdown_says_goodbye_finishes_what_was_begun_and_begins_nothing() {
    let (mut door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let held = client.ask("/hold");
    blue.wait_target("/hold");
    door.signal(rustix::process::Signal::TERM);
    // First that there will be an end, then which stream is the last.
    client.wait("goodbye", |client| client.goaway == Some((held, code::NO_ERROR)));
    let late = client.stream();
    client.try_send(headers(late, &fields("GET", "/late", &[]), END_STREAM));
    blue.go();
    assert_eq!(client.answer(held).text(), "GET /hold HTTP/1.1");
    assert_eq!(client.end(), Some(code::NO_ERROR));
    assert_eq!(client.so_far(late).status, 0);
    assert!(door.wait_end().success());
    assert!(blue.requests().iter().all(|request| request.target() != "/late"));
}

#[test]
fn the_next_stream_of_a_connection_goes_to_the_new_color() {
    let pair = Pair::start();
    let mut client = RawHttp2::connect(pair.door.addr());
    for color in ["blue", "green", "blue"] {
        pair.door.switch(color);
        assert_eq!(client.get("/").header("x-color"), Some(color));
    }
    assert_eq!(client.goaway, None);
    drop(client);
    pair.door.quiet();
}

#[test]
fn a_drain_waits_for_the_streams_in_flight_and_its_receipt_adds_up() {
    let pair = Pair::start();
    let mut client = RawHttp2::connect(pair.door.addr());
    let held: Vec<u32> = (0..5).map(|_| client.ask("/hold")).collect();
    let lost = client.ask("/hold/lost");
    pair.blue.wait_requests(6);
    let receipt = std::thread::scope(|scope| {
        let switch = scope.spawn(|| pair.door.switch_and_drain("green"));
        wait_until("green", DEADLINE, || pair.door.live() == "green");
        assert_eq!(client.get("/").header("x-color"), Some("green"));
        assert!(!switch.is_finished(), "the drain did not wait");
        client.send(reset(lost, code::CANCEL));
        pair.blue.go();
        for stream in &held {
            assert_eq!(client.answer(*stream).header("x-color"), Some("blue"));
        }
        switch.join().expect("a receipt")
    });
    let counts = (receipt.in_flight, receipt.finished, receipt.failed, receipt.moved, receipt.cut_total);
    assert_eq!(counts, (6, 5, 1, 0, 0), "{receipt:?}");
    drop(client);
    pair.door.quiet();
}

#[test]
fn a_request_that_outlives_a_drain_is_cut_and_its_connection_lives() {
    let pair = Pair::start_with(|door| door.set("service.portal.drain.deadline", "100ms"));
    let mut client = RawHttp2::connect(pair.door.addr());
    let held = client.ask("/hold");
    pair.blue.wait_target("/hold");
    let receipt = pair.door.switch_and_drain("green");
    assert_eq!((receipt.in_flight, receipt.cut_total), (1, 1), "{receipt:?}");
    assert_eq!(receipt.cut[0].path, "/hold");
    // Nothing of an answer had come: it gets one, not a reset.
    assert_eq!(client.answer(held).status, 503);
    assert_eq!(client.get("/").header("x-color"), Some("green"));
    drop(client);
    pair.door.quiet();
}

#[test]
fn the_access_log_says_which_protocol_it_was() {
    let (door, _blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    assert_eq!(client.get("/logged").status, 200);
    drop(client);
    door.quiet();
    let line = wait_for("a line", DEADLINE, || match text_of(&door.access_log()) {
        text if text.ends_with('\n') => Ok(text),
        text => Err(text),
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["protocol"], &line["target"], &line["status"]),
        (&"HTTP/2.0".into(), &"/logged".into(), &200.into())
    );
}
