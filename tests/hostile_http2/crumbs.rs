//! What of a client that sends an upload in very small frames? It is taken like any other: gRPC's messages are small.
//! What nobody takes yet costs what its bytes do, and ends no connection.

use crate::harness::fake::ok;
use crate::harness::raw_http2::{END_STREAM, data, fields};
use crate::harness::{Act, DEADLINE, Fake, RawHttp2, wait_until};

use super::{one_worker, site};

/// What windows allow of one upload that nobody takes.
const WINDOW: usize = 256 * 1024;

/// Begins an upload of this many bytes.
fn begin(client: &mut RawHttp2, length: usize) -> u32 {
    client.begin(&fields("POST", "/upload", &[("content-length", &length.to_string())]), 0)
}

#[test]
fn small_messages_that_come_all_at_once_are_taken() {
    const MESSAGES: usize = 8000;
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    // Afterwards it knows how much room there is, and the door knows that.
    (0..2).for_each(|_| client.ping());
    let stream = begin(&mut client, MESSAGES * 25);
    let message = |flags| data(stream, [b'x'; 25], flags);
    client.send([message(0).repeat(MESSAGES - 1), message(END_STREAM)].concat());
    assert_eq!(client.answer(stream).text(), "POST /upload HTTP/1.1");
    assert!(blue.heard().iter().any(|heard| heard.bytes.iter().filter(|byte| **byte == b'x').count() >= MESSAGES * 25));
    drop(client);
    door.quiet();
}

#[test]
fn an_upload_in_single_bytes_that_nobody_takes_costs_its_bytes_and_no_other() {
    // What the sockets between take, and then some that waits in the door.
    const LENGTH: usize = 3 * WINDOW;
    let (door, blue) = one_worker().before(|at| {
        Fake::scripted(at, |connection| match connection {
            0 => vec![Act::ReadHead, Act::AwaitGo, Act::Read(LENGTH), Act::Say(ok("late"))],
            _ => vec![Act::ReadRequest, Act::Echo, Act::Repeat],
        })
    });
    let mut client = RawHttp2::connect(door.addr());
    let stream = begin(&mut client, LENGTH);
    let before = door.resident();
    let body: Vec<u8> = (0..LENGTH).map(|at| b"0123456789"[at % 10]).collect();
    let sent = client.upload_in(1, stream, &body, END_STREAM);
    assert!((WINDOW..LENGTH).contains(&sent), "{sent}");
    let grown = door.resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more for {sent} bytes");
    assert_eq!(client.get("/other").text(), "GET /other HTTP/1.1");
    blue.go();
    assert_eq!(client.upload(stream, &body[sent..], END_STREAM), LENGTH - sent);
    assert_eq!(client.answer(stream).text(), "late");
    wait_until("all of it in its order", DEADLINE, || blue.heard()[0].bytes.ends_with(&body));
    drop(client);
    door.quiet();
}

// h2 counts what comes when nobody wants it any more for the whole life of a connection.
#[test]
fn a_connection_of_uploads_that_are_answered_early_is_replaced_and_no_request_lost() {
    let (door, _blue) =
        one_worker().before(|at| Fake::scripted(at, |_| vec![Act::ReadHead, Act::Say(ok("no")), Act::Stay]));
    let (mut client, mut connections) = (RawHttp2::connect(door.addr()), 1);
    for _ in 0..10 {
        if let Some((_, code)) = client.goaway {
            assert_eq!(code, 0, "NO_ERROR");
            client = RawHttp2::connect(door.addr());
            connections += 1;
        }
        let stream = begin(&mut client, WINDOW);
        let answer = client.answer(stream);
        assert_eq!((answer.status, answer.text().as_str()), (200, "no"));
        // On its way before the client knew that.
        client.send(data(stream, [b'x'; 16], 0).repeat(8000));
        client.ping();
    }
    assert!(connections > 1, "each has 4 MiB, and each upload costs almost 2");
    drop(client);
    door.quiet();
}
