//! What a load asks, in every protocol it speaks, and what the answers must be.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::raw::{Response, request};

/// One kind of request, to be answered by the application of [`App`](super::App).
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The page that names its color.
    Index,
    /// The style sheet, from nginx alone.
    Static,
    /// A body of so many random bytes with a `Content-Length`, digested by the application.
    Post(usize),
    /// The same in chunks.
    PostChunked(usize),
    /// An answer of so many bytes.
    Big(usize),
}

impl Kind {
    /// What real clients mix.
    pub(crate) fn mixed() -> Vec<Kind> {
        use Kind::*;
        vec![Index, Post(100), Static, Index, PostChunked(5_000), Big(40_000), Index, Post(70_000)]
    }
}

/// One request, before it is known how it is spoken.
pub(crate) struct Ask {
    method: &'static str,
    target: String,
    body: Vec<u8>,
    /// Without a length that is told first.
    pieces: bool,
}

/// How long a piece of a body without a told length is.
const PIECE: usize = 1_700;

impl Ask {
    fn get(target: String) -> Ask {
        Ask { method: "GET", target, body: Vec::new(), pieces: false }
    }

    /// As HTTP/1.1 has it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if !self.pieces {
            return request(self.method, &self.target, &[], &self.body);
        }
        let mut bytes = request(self.method, &self.target, &[("Transfer-Encoding", "chunked")], b"");
        for piece in self.body.chunks(PIECE) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    /// As HTTP/2 has it: the head, and the body's pieces.
    pub(crate) fn http2(&self, authority: &str) -> (http::Request<()>, Vec<Bytes>) {
        let mut head = http::Request::builder().method(self.method).uri(format!("https://{authority}{}", self.target));
        if !self.pieces && !self.body.is_empty() {
            head = head.header("content-length", self.body.len());
        }
        let size = if self.pieces { PIECE } else { self.body.len().max(1) };
        let pieces = self.body.chunks(size).map(Bytes::copy_from_slice).collect();
        (head.body(()).expect("a request"), pieces)
    }
}

pub(crate) type Check = Box<dyn Fn(&Response) -> Result<(), String>>;

/// A request of a kind, and what its answer must be.
pub(crate) fn prepare(kind: &Kind, random: &mut fastrand::Rng) -> (Ask, Check) {
    match *kind {
        Kind::Index => (
            Ask::get("/".into()),
            Box::new(|answer| {
                let color = expect_ok(answer)?;
                expect_eq("body", answer.text(), format!("{color}\n"))
            }),
        ),
        Kind::Static => (
            Ask::get("/static/style.css".into()),
            Box::new(|answer| {
                expect_ok(answer)?;
                expect_eq("body", answer.body.as_slice(), include_bytes!("../app/static/style.css"))
            }),
        ),
        Kind::Big(size) => (
            Ask::get(format!("/big?bytes={size}")),
            Box::new(move |answer| {
                expect_ok(answer)?;
                expect_eq("length", answer.body.len(), size)?;
                let right = answer.body.iter().zip((0..251u8).cycle()).all(|(is, must)| *is == must);
                expect_eq("every byte right", right, true)
            }),
        ),
        Kind::Post(size) => post("/echo?a=1", random_bytes(size, random), false),
        Kind::PostChunked(size) => post("/echo?a=2", random_bytes(size, random), true),
    }
}

fn post(target: &str, body: Vec<u8>, pieces: bool) -> (Ask, Check) {
    let check = check_echo(&body);
    (Ask { method: "POST", target: target.to_owned(), body, pieces }, check)
}

fn check_echo(body: &[u8]) -> Check {
    let (length, digest) = (body.len(), hex(&Sha256::digest(body)));
    Box::new(move |answer| {
        let color = expect_ok(answer)?;
        let said: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|why| why.to_string())?;
        expect_eq("method", &said["method"], &"POST".into())?;
        expect_eq("length", &said["length"], &length.into())?;
        expect_eq("sha256", &said["sha256"], &digest.as_str().into())?;
        expect_eq("color", &said["color"], &color.into())
    })
}

/// The color of an answer that is a 200 with a color.
fn expect_ok(answer: &Response) -> Result<&str, String> {
    if answer.status != 200 {
        return Err(format!("status {} ({}): {}", answer.status, via(answer), answer.text()));
    }
    answer.color().ok_or_else(|| "no X-Color".to_owned())
}

fn via(answer: &Response) -> &str {
    answer.header("proxy-status").unwrap_or("no Proxy-Status")
}

fn expect_eq<T: PartialEq + fmt::Debug>(what: &str, is: T, must: T) -> Result<(), String> {
    if is == must { Ok(()) } else { Err(format!("{what} is {is:?}, must be {must:?}")) }
}

fn random_bytes(size: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
