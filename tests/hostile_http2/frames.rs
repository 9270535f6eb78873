//! What ends a connection, or a stream, whose frames break the rules?

use crate::harness::raw_http2::{
    ACK, END_HEADERS, END_STREAM, PADDED, PREFACE, block, code, data, fields, frame, headers, kind, reset, settings,
    window_update,
};
use crate::harness::{Fake, RawHttp2};

use super::{one_worker, site};

/// RFC 9113 has finer names for these; h2 calls them all so.
const MALFORMED: &[u32] = &[code::PROTOCOL_ERROR];

/// A name, what is sent behind the greeting, and the codes with which the connection may end.
type Case = (&'static str, Vec<u8>, &'static [u32]);

fn cases() -> Vec<Case> {
    use code::{FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR, STREAM_CLOSED};
    let open = |stream| headers(stream, &fields("POST", "/never", &[]), 0);
    let asked = |stream| headers(stream, &fields("GET", "/never", &[]), END_STREAM);
    let begun = frame(kind::HEADERS, END_STREAM, 1, block(&fields("GET", "/never", &[])));
    let head = block(&fields("GET", "/never", &[]));
    vec![
        ("DATA of the connection", data(0, "x", 0), &[PROTOCOL_ERROR]),
        ("DATA of no stream", data(1, "x", 0), &[PROTOCOL_ERROR]),
        ("DATA behind the end", [asked(1), data(1, "x", 0)].concat(), MALFORMED),
        ("DATA that is too large", [open(1), data(1, [b'x'; 16_385], 0)].concat(), &[FRAME_SIZE_ERROR]),
        ("DATA that is all padding", [open(1), data(1, [200, 0, 0], PADDED)].concat(), &[PROTOCOL_ERROR]),
        ("HEADERS of the connection", headers(0, &fields("GET", "/never", &[]), END_STREAM), &[PROTOCOL_ERROR]),
        ("HEADERS of an even stream", asked(2), &[PROTOCOL_ERROR]),
        ("HEADERS of an earlier stream", [asked(5), asked(3)].concat(), &[PROTOCOL_ERROR, STREAM_CLOSED]),
        ("HEADERS that are too large", frame(kind::HEADERS, END_HEADERS, 1, [0; 16_385]), &[FRAME_SIZE_ERROR]),
        (
            "HEADERS that are all padding",
            frame(kind::HEADERS, END_HEADERS | PADDED, 1, [&[250][..], &head].concat()),
            &[PROTOCOL_ERROR],
        ),
        ("HEADERS with index 0", frame(kind::HEADERS, END_HEADERS, 1, [0x80]), MALFORMED),
        ("HEADERS with an unknown index", frame(kind::HEADERS, END_HEADERS, 1, [0xff, 0x10]), MALFORMED),
        ("HEADERS that break off", frame(kind::HEADERS, END_HEADERS, 1, [0x00, 0x05, b'a']), MALFORMED),
        (
            "HEADERS and a PING in their midst",
            [begun.clone(), frame(kind::PING, 0, 0, [0; 8])].concat(),
            &[PROTOCOL_ERROR],
        ),
        (
            "HEADERS that another stream goes on with",
            [begun, frame(kind::CONTINUATION, END_HEADERS, 3, [])].concat(),
            &[PROTOCOL_ERROR],
        ),
        ("CONTINUATION of nothing", frame(kind::CONTINUATION, END_HEADERS, 1, []), &[PROTOCOL_ERROR]),
        ("PRIORITY of the connection", frame(kind::PRIORITY, 0, 0, [0, 0, 0, 0, 1]), &[PROTOCOL_ERROR]),
        ("RST_STREAM of the connection", reset(0, code::CANCEL), &[PROTOCOL_ERROR]),
        ("RST_STREAM of no stream", reset(1, code::CANCEL), &[PROTOCOL_ERROR]),
        ("RST_STREAM of 3 bytes", [asked(1), frame(kind::RESET, 0, 1, [0; 3])].concat(), MALFORMED),
        ("SETTINGS of a stream", frame(kind::SETTINGS, 0, 1, []), &[PROTOCOL_ERROR]),
        ("SETTINGS of 5 bytes", frame(kind::SETTINGS, 0, 0, [0; 5]), MALFORMED),
        ("SETTINGS confirmed with a value", frame(kind::SETTINGS, ACK, 0, [0; 6]), MALFORMED),
        ("SETTINGS with a push of 2", settings(&[(2, 2)]), &[PROTOCOL_ERROR]),
        ("SETTINGS with a window of 2 GiB", settings(&[(4, 1 << 31)]), MALFORMED),
        ("SETTINGS with frames of 1 byte", settings(&[(5, 1)]), &[PROTOCOL_ERROR]),
        (
            "PUSH_PROMISE",
            frame(kind::PUSH_PROMISE, END_HEADERS, 1, [&[0, 0, 0, 2][..], &head].concat()),
            &[PROTOCOL_ERROR],
        ),
        ("PING of a stream", frame(kind::PING, 0, 1, [0; 8]), &[PROTOCOL_ERROR]),
        ("PING of 7 bytes", frame(kind::PING, 0, 0, [0; 7]), MALFORMED),
        ("GOAWAY of a stream", frame(kind::GOAWAY, 0, 1, [0; 8]), &[PROTOCOL_ERROR]),
        ("WINDOW_UPDATE of 0", window_update(0, 0), &[PROTOCOL_ERROR]),
        ("WINDOW_UPDATE of 0 for a stream", [asked(1), window_update(1, 0)].concat(), MALFORMED),
        ("WINDOW_UPDATE of no stream", window_update(1, 1), &[PROTOCOL_ERROR]),
        ("WINDOW_UPDATE beyond 2 GiB", window_update(0, (1 << 31) - 1), &[FLOW_CONTROL_ERROR]),
        ("WINDOW_UPDATE of 3 bytes", frame(kind::WINDOW_UPDATE, 0, 0, [0; 3]), MALFORMED),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
    ]
}

#[test]
fn a_frame_that_breaks_the_rules_ends_the_connection_with_its_name() {
    let (door, blue) = one_worker().before(site);
    let mut wrong = Vec::new();
    for (name, bytes, codes) in cases() {
        let mut client = RawHttp2::connect(door.addr());
        client.send(bytes);
        // A door that waits for more shall not be waited for.
        client.read_for(std::time::Duration::from_secs(2));
        let code = client.goaway.map(|(_, code)| code);
        if !client.ended || !code.is_some_and(|code| codes.contains(&code)) {
            wrong.push(format!("{name}: ended {}, GOAWAY {code:?}, not {codes:?}", client.ended));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(door.get("/").status, 200);
    door.quiet();
    assert_heard_clearly(&blue);
}

#[test]
fn a_frame_that_concerns_one_stream_ends_that_alone() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let held = client.ask("/hold");
    type Bytes = fn(u32) -> Vec<u8>;
    let cases: [(&str, Bytes, u32); 2] = [
        ("a window beyond 2 GiB", |stream| window_update(stream, (1 << 31) - 1), code::FLOW_CONTROL_ERROR),
        ("trailers that do not end it", |stream| headers(stream, &[("x", "y")], 0), code::PROTOCOL_ERROR),
    ];
    for (name, bytes, code) in cases {
        let stream = client.begin(&fields("POST", "/never", &[]), 0);
        client.send(bytes(stream));
        assert_eq!(client.answer(stream).reset, Some(code), "{name}");
    }
    blue.go();
    assert_eq!(client.answer(held).status, 200);
    drop(client);
    door.quiet();
    assert_heard_clearly(&blue);
}

#[test]
fn what_nobody_knows_is_passed_over() {
    let (door, _blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    client.send([frame(0xfa, 0xff, 0, [0; 100]), frame(0xfb, 0, 77, []), settings(&[(0xaaaa, 7)])].concat());
    assert_eq!(client.get("/").status, 200);
    drop(client);
    door.quiet();
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_anything_leaves_nothing_behind() {
    let (door, blue) = one_worker().before(site);
    let head = headers(1, &fields("POST", "/never", &[("content-length", "10")]), 0);
    let all = [PREFACE, &settings(&[]), &head, &data(1, "hello", 0)].concat();
    for length in (0..all.len()).step_by(5) {
        let mut client = RawHttp2::silent(door.addr());
        client.send(&all[..length]);
        client.finish_sending();
        client.end();
    }
    door.quiet();
    assert_heard_clearly(&blue);
}

/// What the backend was sent can be read in one way.
#[track_caller]
fn assert_heard_clearly(blue: &Fake) {
    blue.requests();
}
