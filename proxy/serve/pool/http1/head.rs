//! How does a head look on the wire? A request's is written, an answer's is read, both in HTTP/1.1.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version, request, response};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::super::super::headers;
use super::{Broken, LARGEST};

/// Header lines of one answer.
const LINES: usize = 100;

/// Those of a request that is read back: what a client may send by HTTP/1.1, and ours. One by HTTP/2 may have more, and
/// then has no second try.
const READ_BACK: usize = 2 * LINES;

/// How the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// An answer's head.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) framing: Framing,
    /// Whether the connection can carry another request after this answer.
    pub(super) keeps: bool,
}

/// Writes a request's head.
pub(super) fn write(head: &request::Parts, out: &mut Vec<u8>) {
    let version: &[u8] = if head.version == Version::HTTP_10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" };
    let (mark, query) = head.uri.query().map_or(("", ""), |query| ("?", query));
    // An absolute target may have had a query and no path; `path` knows.
    for part in [head.method.as_str(), " ", head.uri.path(), mark, query] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(version);
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Reads back what [`write()`] wrote: a second try needs the head again, and hardly any request needs a second try.
pub(super) fn read_back(written: &[u8]) -> Option<request::Parts> {
    let mut lines = [httparse::EMPTY_HEADER; READ_BACK];
    let mut parsed = httparse::Request::new(&mut lines);
    let Ok(Status::Complete(_)) = parsed.parse(written) else { return None };
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    head.uri = Uri::try_from(parsed.path?).ok()?;
    head.version = if parsed.version? == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        head.headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some(head)
}

/// Reads an answer's head off `input`, once all of it is there. `to` is the method it answers.
///
/// # Errors
/// [`Broken::Malformed`]: what came is none, or none that can be understood in one way only.
pub(super) fn read(input: &mut BytesMut, to: &Method) -> Result<Option<Answer>, Broken> {
    // Where name and value of each line begin and end: nothing larger than `LARGEST` comes here.
    let mut places = [[0_u16; 4]; LINES];
    let mut lines = [const { MaybeUninit::uninit() }; LINES];
    let mut parsed = httparse::Response::new(&mut []);
    let start = input.as_ptr() as usize;
    let length = match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut lines) {
        Ok(Status::Complete(length)) if length <= LARGEST => length,
        Ok(Status::Complete(_)) => return Err(Broken::Malformed("its head is too large")),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::Malformed("its head has too many lines")),
        Err(_) => return Err(Broken::Malformed("its head is no HTTP/1.1")),
    };
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Broken::Malformed("no status"))?;
    head.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    if let Some(reason) = parsed.reason
        && head.status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes().to_vec())
    {
        head.extensions.insert(reason);
    }
    let count = parsed.headers.len();
    for (place, line) in places.iter_mut().zip(parsed.headers.iter()) {
        let (name, value) = (line.name.as_ptr() as usize - start, line.value.as_ptr() as usize - start);
        // All of them are at most `LARGEST`, which fits.
        *place = [name, name + line.name.len(), value, value + line.value.len()].map(|at| at as u16);
    }
    let bytes = input.split_to(length).freeze();
    head.headers = lines_of(&bytes, &places[..count])?;
    let keeps = head.version == Version::HTTP_11 && !headers::says_close(&head.headers) && !says_two_things(&head);
    Ok(Some(Answer { framing: framing(&head, to)?, keeps, head }))
}

/// Whether the backend may mean another end of its answer than we do: what it still sends would be taken for the next
/// one.
fn says_two_things(head: &response::Parts) -> bool {
    let has = |name| head.headers.contains_key(name);
    match head.status {
        StatusCode::SWITCHING_PROTOCOLS => true,
        StatusCode::NO_CONTENT => {
            let length = head.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
            has(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != b"0")
        }
        _ => has(header::TRANSFER_ENCODING) && has(header::CONTENT_LENGTH),
    }
}

/// The header lines at these places. Values share the bytes they came in.
fn lines_of(bytes: &Bytes, places: &[[u16; 4]]) -> Result<HeaderMap, Broken> {
    let mut headers = HeaderMap::with_capacity(places.len());
    for place in places {
        let [name, name_end, value, value_end] = place.map(usize::from);
        let name = HeaderName::from_bytes(&bytes[name..name_end]);
        let value = HeaderValue::from_maybe_shared(bytes.slice(value..value_end));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Broken::Malformed("a header line is none")) };
        headers.append(name, value);
    }
    Ok(headers)
}

/// RFC 9112, section 6.3.
fn framing(head: &response::Parts, to: &Method) -> Result<Framing, Broken> {
    let empty = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if *to == Method::HEAD || empty || head.status.is_informational() {
        // It does not frame this answer, but the client is told it.
        return said_length(head).map(|_| Framing::Length(0));
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let is_known = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        return match is_known && head.version == Version::HTTP_11 {
            true => Ok(Framing::Chunked),
            // What we take off must be all that was put on, or the client could not read it.
            false => Err(Broken::Malformed("its Transfer-Encoding is not just chunked")),
        };
    }
    Ok(said_length(head)?.map_or(Framing::Close, Framing::Length))
}

/// The length that an answer says to have, if it says one.
fn said_length(head: &response::Parts) -> Result<Option<u64>, Broken> {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(None) };
    let length = headers::length(first).filter(|_| lengths.all(|length| length == first));
    length.map(Some).ok_or(Broken::Malformed("its Content-Length is none"))
}
