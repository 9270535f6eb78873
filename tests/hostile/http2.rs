//! What of the hostile corpus can HTTP/2 say, and what comes of it?

use crate::harness::RawHttp2;
use crate::harness::raw_http2::{Answer, END_STREAM, code, data, fields, headers};
use crate::harness::strict::Request;
use crate::hostile_http2::requests::{Fields, malformed_requests};

use super::corpus;
use super::{Bench, Fate, Outcome, is_to_last, shown};

/// What one frame of headers holds.
const LONGEST: usize = 16_000;

/// A request in the words of HTTP/2.
pub(super) struct Case {
    name: String,
    fields: Fields,
    body: Vec<u8>,
}

/// Those of the corpus that HTTP/2 can say, and those that only HTTP/2 can say.
pub(super) fn cases(corpus: &[corpus::Case]) -> Vec<Case> {
    let own = malformed_requests().into_iter();
    let own = own.map(|(name, fields, _)| Case { name: format!("http/2: {name}"), fields, body: Vec::new() });
    corpus.iter().filter_map(translate).chain(own).collect()
}

/// The same request, as far as its lines can be told apart: what a line says becomes a field, whatever it says, and
/// what stands behind the empty line the body. None where HTTP/2 has no way to say what is odd about it.
fn translate(case: &corpus::Case) -> Option<Case> {
    let text = &case.bytes;
    let end = text.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (&text[..end], &text[end + 4..]);
    // How lines end, and that there are empty ones, cannot be said.
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut rest = head;
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let (first, lines) = lines.split_first()?;
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = words[..] else { return None };
    let mut fields: Fields = vec![(b":method".to_vec(), method.to_vec())];
    let (mut authority, mut others): (_, Fields) = (None, Vec::new());
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        // The one space that everybody writes is of the line; what else there is, is of the value.
        let value = &line[at + 1..];
        let (name, value) = (line[..at].to_ascii_lowercase(), value.strip_prefix(b" ").unwrap_or(value).to_vec());
        if name == b"host" && authority.is_none() {
            authority = Some(value);
        } else {
            others.push((name, value));
        }
    }
    fields.push((b":scheme".to_vec(), b"http".to_vec()));
    fields.extend(authority.map(|host| (b":authority".to_vec(), host)));
    fields.push((b":path".to_vec(), target.to_vec()));
    fields.extend(others);
    let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    (size < LONGEST && body.len() < LONGEST).then(|| Case { name: case.name.clone(), fields, body: body.to_vec() })
}

/// Sends a case over a connection of its own, and behind it what is answered only on one that is still trusted.
pub(super) fn send(bench: &mut Bench, case: &Case) -> Outcome {
    let mut client = RawHttp2::connect(bench.door.addr());
    let stream = client.stream();
    let flags = if case.body.is_empty() { END_STREAM } else { 0 };
    let mut frames = headers(stream, &case.fields, flags);
    if !case.body.is_empty() {
        // At once: what the door says to a head that it refuses depends on what it has seen of the body by then.
        frames.extend(data(stream, &case.body, END_STREAM));
    }
    client.send(frames);
    client.read_until_over(stream);
    let answer = client.so_far(stream);
    let mut told = vec![shown_answer(&answer)];
    let kept = !client.ended && client.goaway.is_none();
    if kept {
        assert_eq!(client.get("/last").text(), "GET /last HTTP/1.1", "{}", case.name);
        told.push("kept".to_owned());
    } else {
        let code = client.end().map_or("closed".to_owned(), named);
        told.push(code);
    }
    drop(client);
    let seen: Vec<Request> = bench.seen(&case.name).into_iter().filter(|request| !is_to_last(request)).collect();
    assert!(seen.len() <= 1, "{}: one request became {seen:?}", case.name);
    let backends_own = answer.status == 200 && answer.header("proxy-status").is_none();
    assert_eq!(seen.len(), usize::from(backends_own), "{}: {seen:?}, but {answer:?}", case.name);
    let fate = match seen.first() {
        None => Fate::Refused,
        Some(first) => {
            let to_head = first.line.starts_with("HEAD ");
            assert!(to_head || first.line == answer.text(), "{}: {} was answered {answer:?}", case.name, first.line);
            assert!(!first.line.contains("/smuggled"), "{}: what was smuggled has arrived", case.name);
            if is_as_sent(first, case) { Fate::Forwarded } else { Fate::Normalized }
        }
    };
    let backend: Vec<String> = seen.iter().map(shown).collect();
    Outcome { name: case.name.clone(), client: told.join(", "), backend: backend.join(" + "), fate }
}

fn shown_answer(answer: &Answer) -> String {
    let interim: String = answer.interim.iter().map(|status| format!("{status}, ")).collect();
    let reason = answer.header("proxy-status").and_then(|status| status.split('"').nth(1));
    match (answer.status, answer.reset, reason) {
        (0, Some(code), _) => format!("{interim}reset {}", named(code)),
        (0, None, _) => format!("{interim}nothing"),
        (status, _, Some(reason)) => format!("{interim}{status} {reason}"),
        (status, Some(code), None) => format!("{interim}{status} and reset {}", named(code)),
        (status, None, None) => format!("{interim}{status}"),
    }
}

fn named(code: u32) -> String {
    match code {
        code::NO_ERROR => "no error".to_owned(),
        code::PROTOCOL_ERROR => "protocol error".to_owned(),
        code::COMPRESSION_ERROR => "compression error".to_owned(),
        other => format!("error {other}"),
    }
}

/// Whether this is the request that the client sent: every field of it, and the body.
fn is_as_sent(request: &Request, case: &Case) -> bool {
    let of = |wanted: &str| {
        let field = case.fields.iter().find(|(name, _)| name == wanted.as_bytes());
        field.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let has = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let here = |(key, here): &(String, Vec<u8>)| key.as_bytes().eq_ignore_ascii_case(name) && here == value;
        name.starts_with(b":") || request.fields.iter().any(here)
    };
    request.line == format!("{} {} HTTP/1.1", of(":method"), of(":path"))
        && request.get("host") == Some(of(":authority"))
        && case.fields.iter().all(has)
        && request.body == case.body
}

#[test]
fn what_can_be_said_is_said() {
    let case = |bytes: &str| corpus::Case { name: "a case".to_owned(), bytes: bytes.as_bytes().to_vec() };
    let said = translate(&case("POST /x HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\nHost: b\r\n\r\nbody")).unwrap();
    let expected = fields("POST", "/x", &[("x-y", " z "), ("host", "b")]);
    let expected: Vec<(&str, &str)> =
        expected.into_iter().map(|(name, value)| (name, if name == ":authority" { "a" } else { value })).collect();
    let told: Vec<(&str, &str)> = said
        .fields
        .iter()
        .map(|(name, value)| (std::str::from_utf8(name).unwrap(), std::str::from_utf8(value).unwrap()))
        .collect();
    assert_eq!((told, &said.body[..]), (expected, &b"body"[..]));
    for unspeakable in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nX\r\n\r\n"] {
        assert!(translate(&case(unspeakable)).is_none(), "{unspeakable:?}");
    }
}
