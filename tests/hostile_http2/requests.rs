//! What does a backend that speaks HTTP/1.1 see of a request that came by HTTP/2? One meaning, or nothing.

use crate::harness::raw_http2::{Answer, END_STREAM, block, code, data, fields, frame, headers, kind};
use crate::harness::strict::Request;
use crate::harness::{Door, Fake, RawHttp2};

use super::{one_worker, site};

/// A request's fields, as bytes because some are no text.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a client gets that may not ask so.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    /// PROTOCOL_ERROR: for the stream, or, where h2 takes it for a fault of the compression, for the connection.
    Malformed,
    /// An answer with this status and reason.
    Answered(u16, &'static str),
}

/// The usual fields, with some left out and some more.
fn but(without: &[&str], more: &[(&str, &str)]) -> Fields {
    let all = fields("GET", "/refused", more);
    let kept = all.into_iter().enumerate().filter(|(at, (name, _))| *at >= 4 || !without.contains(name));
    kept.map(|(_, (name, value))| (name.into(), value.into())).collect()
}

pub(crate) fn malformed_requests() -> Vec<(&'static str, Fields, Refusal)> {
    use Refusal::{Answered, Malformed};
    let replaced = |name: &str, value: &str| {
        let replace = |(key, old): (Vec<u8>, Vec<u8>)| {
            let new = if key == name.as_bytes() { value.as_bytes().to_vec() } else { old };
            (key, new)
        };
        but(&[], &[]).into_iter().map(replace).collect::<Fields>()
    };
    let mut pseudo_last = but(&[":path"], &[("x", "y")]);
    pseudo_last.push((b":path".to_vec(), b"/refused".to_vec()));
    vec![
        ("a name in upper case", but(&[], &[("X-Upper", "y")]), Malformed),
        ("a name with a space", but(&[], &[("x y", "z")]), Malformed),
        ("a name with a colon", but(&[], &[("x:y", "z")]), Malformed),
        ("a name with a line end", but(&[], &[("x\r\ny", "z")]), Malformed),
        ("an empty name", but(&[], &[("", "z")]), Malformed),
        ("a value with a line end", but(&[], &[("x", "y\r\nhost: other")]), Malformed),
        ("a value with LF", but(&[], &[("x", "y\nz")]), Malformed),
        ("a value with NUL", but(&[], &[("x", "y\0")]), Malformed),
        ("connection", but(&[], &[("connection", "x")]), Malformed),
        ("keep-alive", but(&[], &[("keep-alive", "5")]), Malformed),
        ("proxy-connection", but(&[], &[("proxy-connection", "close")]), Malformed),
        ("transfer-encoding", but(&[], &[("transfer-encoding", "chunked")]), Malformed),
        ("upgrade", but(&[], &[("upgrade", "websocket")]), Malformed),
        ("te other than trailers", but(&[], &[("te", "gzip")]), Malformed),
        ("no method", but(&[":method"], &[]), Malformed),
        ("no scheme", but(&[":scheme"], &[]), Malformed),
        ("no path", but(&[":path"], &[]), Malformed),
        ("two methods", but(&[], &[(":method", "POST")]), Malformed),
        ("two paths", but(&[], &[(":path", "/other")]), Malformed),
        ("two authorities", but(&[], &[(":authority", "other")]), Malformed),
        ("a pseudo header behind others", pseudo_last, Malformed),
        ("an unknown pseudo header", but(&[], &[(":color", "blue")]), Malformed),
        ("a status", but(&[], &[(":status", "200")]), Malformed),
        ("a method with a space", replaced(":method", "GET / HTTP/1.1"), Malformed),
        ("a method with a line end", replaced(":method", "GET\r\n"), Malformed),
        ("an empty method", replaced(":method", ""), Malformed),
        ("an empty path", replaced(":path", ""), Malformed),
        ("a path with a space", replaced(":path", "/refused HTTP/1.1"), Malformed),
        ("a path with a line end", replaced(":path", "/refused\r\nx: y"), Malformed),
        ("a path without its slash", replaced(":path", "refused"), Malformed),
        ("a path that is a URI", replaced(":path", "http://other/refused"), Malformed),
        ("a path of an asterisk", replaced(":path", "*"), Answered(400, "target_invalid")),
        ("an authority with a user", replaced(":authority", "a@test"), Answered(400, "host_invalid")),
        ("an authority with a path", replaced(":authority", "test/refused"), Malformed),
        ("an authority with a space", replaced(":authority", "te st"), Malformed),
        ("another host", but(&[], &[("host", "other")]), Answered(400, "hosts_differ")),
        ("two hosts", but(&[], &[("host", "test"), ("host", "other")]), Answered(400, "host_several")),
        ("no host at all", but(&[":authority"], &[]), Answered(400, "host_missing")),
        ("an unknown expectation", but(&[], &[("expect", "tea")]), Answered(417, "expectation_unknown")),
        ("a length without a body", but(&[], &[("content-length", "5")]), Malformed),
        ("a length that is none", but(&[], &[("content-length", "+0")]), Malformed),
        // h2 takes it for 0, and lets it pass.
        ("a length of nothing", but(&[], &[("content-length", "")]), Answered(400, "head_malformed")),
        ("two lengths", but(&[], &[("content-length", "0"), ("content-length", "1")]), Malformed),
        (
            "CONNECT",
            vec![(b":method".to_vec(), b"CONNECT".to_vec()), (b":authority".to_vec(), b"test:443".to_vec())],
            Answered(405, "method_refused"),
        ),
    ]
}

#[test]
fn requests_that_could_be_read_in_two_ways_never_reach_the_backend() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let mut wrong = Vec::new();
    for (name, fields, expected) in malformed_requests() {
        if client.ended || client.goaway.is_some() {
            client = RawHttp2::connect(door.addr());
        }
        let stream = client.stream();
        client.send(headers(stream, &fields, END_STREAM));
        client.read_until_over(stream);
        let answer = client.so_far(stream);
        let fits = match expected {
            Refusal::Malformed => {
                let code = answer.reset.or(client.goaway.map(|(_, code)| code));
                answer.status == 0 && code == Some(code::PROTOCOL_ERROR)
            }
            Refusal::Answered(status, reason) => answer.status == status && reason_of(&answer) == Some(reason),
        };
        if !fits {
            wrong.push(format!("{name}: {expected:?}, but {answer:?} {:?}", client.goaway));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(client.get("/last").status, 200);
    drop(client);
    door.quiet();
    let targets: Vec<String> = blue.requests().iter().map(|request| request.line.clone()).collect();
    assert_eq!(targets, ["GET /last HTTP/1.1"]);
}

/// The door's own word in an answer.
fn reason_of(answer: &Answer) -> Option<&str> {
    answer.header("proxy-status")?.split('"').nth(1)
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_never_reaches_the_backend_as_a_whole() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    for (length, pieces) in [("5", vec!["hi"]), ("5", vec!["hello", " and more"]), ("0", vec!["x"])] {
        let stream = client.begin(&fields("POST", "/lies", &[("content-length", length)]), 0);
        // As much as is true has its chance to be sent on.
        client.ping();
        for (at, piece) in pieces.iter().enumerate() {
            let flags = if at + 1 == pieces.len() { END_STREAM } else { 0 };
            client.send(data(stream, piece, flags));
        }
        let answer = client.answer(stream);
        let refused = answer.reset == Some(code::PROTOCOL_ERROR) || answer.status == 400;
        assert!(refused, "{length}, {pieces:?}: {answer:?}");
    }
    assert_eq!(client.get("/last").text(), "GET /last HTTP/1.1");
    drop(client);
    door.quiet();
    let whole: Vec<Request> = blue.requests().into_iter().filter(|request| request.target() == "/lies").collect();
    // What was announced and came is a whole request; that more came is told to the client, not to the backend.
    assert!(whole.iter().all(|request| [&b"hello"[..], b""].contains(&&request.body[..])), "{whole:?}");
}

/// What the backend was sent for one request, and the answer.
#[track_caller]
fn passed(door: &Door, blue: &Fake, more: &[(&str, &str)], body: &[&str], trailers: &[(&str, &str)]) -> Request {
    let mut client = RawHttp2::connect(door.addr());
    let ends = body.is_empty() && trailers.is_empty();
    let stream = client.begin(&fields("POST", "/passed", more), if ends { END_STREAM } else { 0 });
    for (at, piece) in body.iter().enumerate() {
        let last = at + 1 == body.len() && trailers.is_empty();
        client.send(data(stream, piece, if last { END_STREAM } else { 0 }));
    }
    if !trailers.is_empty() {
        client.send(headers(stream, trailers, END_STREAM));
    }
    assert_eq!(client.answer(stream).text(), "POST /passed HTTP/1.1");
    drop(client);
    door.quiet();
    blue.requests().pop().expect("a request")
}

#[test]
fn what_http2_says_otherwise_is_said_as_http1_says_it() {
    let (door, blue) = one_worker().before(site);
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("x", "y"), ("cookie", "c=3")];
    let request = passed(&door, &blue, &crumbs, &[], &[]);
    assert_eq!(request.get("cookie").as_deref(), Some("a=1; b=2; c=3"));
    assert_eq!(request.get("host").as_deref(), Some("test"));

    let request = passed(&door, &blue, &[("host", "test")], &["hello", " world"], &[]);
    assert_eq!((request.chunked, &request.body[..]), (true, &b"hello world"[..]));
    assert_eq!(request.get("host").as_deref(), Some("test"));

    let request = passed(&door, &blue, &[("content-length", "5")], &["he", "llo"], &[]);
    assert_eq!((request.chunked, &request.body[..]), (false, &b"hello"[..]));

    let trailers = [("x-checksum", "42")];
    let request = passed(&door, &blue, &[("te", "trailers"), ("trailer", "x-checksum")], &["hello"], &trailers);
    assert_eq!(request.trailers, [("x-checksum".to_owned(), b"42".to_vec())]);

    // Its body is not held back, and whoever sends it needs no permission.
    let expects = [("expect", "100-continue"), ("content-length", "5")];
    let request = passed(&door, &blue, &expects, &["hello"], &[]);
    assert_eq!((request.get("expect"), &request.body[..]), (None, &b"hello"[..]));
}

#[test]
fn trailers_that_say_how_a_message_is_framed_do_not_pass() {
    let (door, blue) = one_worker().before(site);
    let trailers = [("content-length", "3"), ("host", "other"), ("x-checksum", "42")];
    let request = passed(&door, &blue, &[], &["hello"], &trailers);
    assert!(request.trailers.iter().all(|(name, _)| name == "x-checksum"), "{request:?}");
    for (name, value) in [("transfer-encoding", "chunked"), ("connection", "close")] {
        let mut client = RawHttp2::connect(door.addr());
        let stream = client.begin(&fields("POST", "/trailers", &[]), 0);
        client.send([data(stream, "hello", 0), headers(stream, &[(name, value)], END_STREAM)].concat());
        client.read_until_over(stream);
        let answer = client.so_far(stream);
        assert!(answer.reset == Some(code::PROTOCOL_ERROR) || answer.status == 400, "{name}: {answer:?}");
    }
    door.quiet();
    assert!(blue.requests().iter().all(|request| request.target() == "/passed"));
    // h2 passes this one over, where RFC 9113 (section 8.1) has it refused.
    let request = passed(&door, &blue, &[], &["hello"], &[(":path", "/other")]);
    assert!(request.trailers.is_empty(), "{request:?}");
}

#[test]
fn answers_without_a_body_have_none() {
    let (door, _blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let head = client.begin(&fields("HEAD", "/", &[]), END_STREAM);
    let head = client.answer(head);
    let length = "HEAD / HTTP/1.1".len().to_string();
    assert_eq!((head.status, head.header("content-length"), &head.body[..]), (200, Some(&length[..]), &b""[..]));
    for (path, status) in [("/204", 204), ("/304", 304)] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.header("content-length"), &answer.body[..]), (status, None, &b""[..]));
    }
    // An answer of the door's own has its text, but not to HEAD.
    let refused = client.begin(&fields("HEAD", "/", &[("host", "other")]), END_STREAM);
    let refused = client.answer(refused);
    assert_eq!((refused.status, &refused.body[..]), (400, &b""[..]));
    drop(client);
    door.quiet();
}

#[test]
fn trailers_of_an_answer_pass() {
    let (door, _blue) = one_worker().before(Fake::answers_chunked_with_trailers);
    let mut client = RawHttp2::connect(door.addr());
    let stream = client.begin(&fields("GET", "/", &[("te", "trailers")]), END_STREAM);
    let answer = client.answer(stream);
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("hello world", None));
    assert_eq!(answer.trailers, [("x-checksum".to_owned(), "42".to_owned())]);
    drop(client);
    door.quiet();
}

#[test]
fn headers_that_go_on_in_other_frames_are_headers() {
    let (door, blue) = one_worker().before(site);
    let mut client = RawHttp2::connect(door.addr());
    let stream = client.stream();
    let block = block(&fields("GET", "/split", &[("x", "y")]));
    let (first, rest) = block.split_at(block.len() / 2);
    let (second, third) = rest.split_at(rest.len() / 2);
    client
        .send([frame(kind::HEADERS, END_STREAM, stream, first), frame(kind::CONTINUATION, 0, stream, second)].concat());
    client.send(frame(kind::CONTINUATION, 4, stream, third));
    assert_eq!(client.answer(stream).text(), "GET /split HTTP/1.1");
    assert_eq!(blue.requests()[0].get("x").as_deref(), Some("y"));
    drop(client);
    door.quiet();
}
