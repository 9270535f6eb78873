//! How is a chunked body read? Chunk by chunk, strictly (RFC 9112, section 7.1).

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use httparse::Status;

use super::Broken;

/// A line with a chunk's size may be this long, with extensions that nobody reads.
const LINE: usize = 1024;

/// All trailers together.
const TRAILERS: usize = 16 * 1024;

/// Where a chunked body stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunked {
    /// Before a chunk's size.
    Size,
    /// Within a chunk, with this many bytes to come.
    Data(u64),
    /// Behind a chunk's data.
    DataEnd,
    /// Behind the last chunk.
    Trailers,
}

/// What comes next of a body.
#[derive(Debug)]
pub(super) enum Part {
    Data(Bytes),
    /// The last of it.
    Trailers(HeaderMap),
    End,
    /// More has to arrive first.
    Missing,
}

impl Chunked {
    /// Takes the next part off `input`.
    ///
    /// # Errors
    /// [`Broken::Malformed`].
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Part, Broken> {
        loop {
            match *self {
                Chunked::Size => {
                    let Some(end) = input.iter().take(LINE).position(|byte| *byte == b'\n') else {
                        return if input.len() < LINE { Ok(Part::Missing) } else { Err(MALFORMED) };
                    };
                    let size = size(&input[..end]).ok_or(MALFORMED)?;
                    input.advance(end + 1);
                    *self = if size == 0 { Chunked::Trailers } else { Chunked::Data(size) };
                }
                Chunked::Data(_) if input.is_empty() => return Ok(Part::Missing),
                Chunked::Data(left) => {
                    let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - bytes as u64;
                    *self = if left == 0 { Chunked::DataEnd } else { Chunked::Data(left) };
                    return Ok(Part::Data(input.split_to(bytes).freeze()));
                }
                Chunked::DataEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        *self = Chunked::Size;
                    }
                    Some(_) => return Err(MALFORMED),
                    None => return Ok(Part::Missing),
                },
                Chunked::Trailers => return trailers(input),
            }
        }
    }
}

const MALFORMED: Broken = Broken::Malformed("its chunks are malformed");

/// A chunk's size, from its line without the newline.
fn size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r")?;
    let (digits, extension) = line.split_at(line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count());
    let is_extension = matches!(extension.trim_ascii_start().first(), None | Some(b';'));
    // More digits than a u64 has are too many, and a bare carriage return means different things to different readers.
    if digits.is_empty() || digits.len() > 16 || !is_extension || line.contains(&b'\r') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether each newline in there follows a carriage return.
fn ends_lines(bytes: &[u8]) -> bool {
    let mut before = 0;
    bytes.iter().all(|byte| std::mem::replace(&mut before, *byte) == b'\r' || *byte != b'\n')
}

fn trailers(input: &mut BytesMut) -> Result<Part, Broken> {
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Part::End);
    }
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let (length, lines) = match httparse::parse_headers(input, &mut lines) {
        Ok(Status::Complete(parsed)) if parsed.0 <= TRAILERS => parsed,
        Ok(Status::Partial) if input.len() < TRAILERS => return Ok(Part::Missing),
        Ok(_) => return Err(Broken::Malformed("its trailers are too large")),
        Err(_) => return Err(Broken::Malformed("its trailers are malformed")),
    };
    let mut trailers = HeaderMap::with_capacity(lines.len());
    // httparse takes a bare newline for the end of a line.
    if !ends_lines(input.get(..length).unwrap_or_default()) {
        return Err(Broken::Malformed("its trailers are malformed"));
    }
    for line in lines {
        let (name, value) = (HeaderName::from_bytes(line.name.as_bytes()), HeaderValue::from_bytes(line.value));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Broken::Malformed("its trailers are malformed")) };
        trailers.append(name, value);
    }
    input.advance(length);
    Ok(Part::Trailers(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All data of a body that comes in pieces of this size, and its trailers.
    fn read(body: &[u8], piece: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Broken> {
        let (mut chunked, mut input, mut data) = (Chunked::Size, BytesMut::new(), Vec::new());
        let mut pieces = body.chunks(piece);
        loop {
            match chunked.next(&mut input)? {
                Part::Data(bytes) => data.extend_from_slice(&bytes),
                Part::Trailers(trailers) => return Ok((data, Some(trailers), input.len() + pieces.flatten().count())),
                Part::End => return Ok((data, None, input.len() + pieces.flatten().count())),
                Part::Missing => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => return Err(Broken::Truncated),
                },
            }
        }
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let body = b"5\r\nhello\r\n6;name=value\r\n, all!\r\n0\r\n\r\nnext";
        for piece in 1..body.len() {
            let (data, trailers, left) = read(body, piece).expect("a body");
            assert_eq!((data.as_slice(), trailers, left), (&b"hello, all!"[..], None, 4), "pieces of {piece}");
        }
    }

    #[test]
    fn trailers_come_last() {
        let body = b"1\r\nx\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n";
        for piece in 1..body.len() {
            let (data, trailers, left) = read(body, piece).expect("a body");
            let trailers = trailers.expect("trailers");
            assert_eq!((data.as_slice(), trailers.get_all("x-sum").iter().count(), left), (&b"x"[..], 2, 0));
        }
    }

    #[test]
    fn what_two_readers_could_cut_differently_is_malformed() {
        let long = [b"1;".as_slice(), &[b'x'; LINE], b"\r\n"].concat();
        let many = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(TRAILERS)].concat();
        let bodies: [&[u8]; 16] = [
            b"\r\n",
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b"1 1\r\n",
            b"1\n",
            b"1;\rx\r\n",
            b"11111111111111111\r\n",
            b"1\r\nxxx",
            b"1\r\nx\nx",
            b"0\r\n: b\r\n\r\n",
            b"0\r\n\n",
            b"0\r\na: b\n\r\n",
            &long,
            &many,
        ];
        for body in bodies {
            let name = String::from_utf8_lossy(&body[..body.len().min(20)]);
            assert!(matches!(read(body, 1000), Err(Broken::Malformed(_))), "{name:?}");
        }
    }

    // What came all at once was let pass.
    #[test]
    fn trailers_are_too_large_however_they_are_cut() {
        let body = [b"0\r\nX: ".as_slice(), &[b'y'; TRAILERS], b"\r\n\r\n"].concat();
        for piece in [1000, body.len()] {
            assert!(matches!(read(&body, piece), Err(Broken::Malformed(_))), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_size_that_is_as_large_as_can_be_is_one() {
        let mut input = BytesMut::from(&b"ffffffffffffffff\r\nx"[..]);
        let mut chunked = Chunked::Size;
        assert!(matches!(chunked.next(&mut input), Ok(Part::Data(_))));
        assert_eq!(chunked, Chunked::Data(u64::MAX - 1));
    }
}
