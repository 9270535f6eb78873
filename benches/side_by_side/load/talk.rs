//! What does a client send, and when has it heard the whole answer?

use anyhow::{Context, bail};

use crate::site::HOST;

/// What is said on a connection.
pub(crate) struct Talk {
    /// One of them at a time, any of them.
    pub(crate) asks: Vec<Vec<u8>>,
    /// What opens a tunnel; without one it is HTTP.
    pub(crate) greeting: Option<Vec<u8>>,
    /// How long an answer in a tunnel is.
    pub(crate) length: usize,
    /// Whether each answer is to be remembered with its color.
    pub(crate) tells_color: bool,
}

impl Talk {
    /// Small GETs.
    pub(crate) fn small() -> Talk {
        Talk::of_hosts([HOST])
    }

    /// Small GETs of these hosts, at random.
    pub(crate) fn of_hosts<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Talk {
        let asks = hosts.into_iter().map(|host| get(host.as_ref())).collect();
        Talk { asks, greeting: None, length: 0, tells_color: false }
    }

    /// A message of so many bytes in a websocket, which comes back.
    pub(crate) fn echo(size: usize) -> Talk {
        let message = Message { size, mask: Some([0; 4]) };
        let greeting = format!(
            "GET /echo HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let length = Message { mask: None, ..message }.length();
        Talk { asks: vec![message.write()], greeting: Some(greeting.into_bytes()), length, tells_color: false }
    }
}

/// A small GET.
pub(crate) fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A message of a websocket in one binary frame (RFC 6455, section 5.2); all of it is zeros, so that any mask of zeros
/// leaves it as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) size: usize,
    pub(crate) mask: Option<[u8; 4]>,
}

impl Message {
    pub(crate) fn write(self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.resize(self.length(), 0);
        bytes
    }

    fn length(self) -> usize {
        self.head().len() + self.size
    }

    /// What comes before the payload. No message here is longer than 65535 bytes.
    pub(crate) fn head(self) -> Vec<u8> {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut head = vec![0x82];
        match u8::try_from(self.size) {
            Ok(size) if size < 126 => head.push(masked | size),
            _ => {
                head.push(masked | 126);
                head.extend((self.size as u16).to_be_bytes());
            }
        }
        head.extend(self.mask.into_iter().flatten());
        head
    }
}

/// What has been read of an answer.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    head: Vec<u8>,
    /// How many bytes of the body, or of the message, are still to come; none before the head is whole.
    left: Option<usize>,
    answer: Answer,
}

/// An answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answer {
    /// 200.
    pub(crate) is_well: bool,
    /// The connection ends with it.
    pub(crate) is_last: bool,
    /// The first letter of the color that it names.
    pub(crate) color: Option<u8>,
}

impl Heard {
    pub(crate) fn clear(&mut self) {
        self.head.clear();
        self.left = None;
        self.answer = Answer::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.left.is_none()
    }

    /// More of it has come; the answer, when it is whole.
    pub(crate) fn hear(&mut self, bytes: &[u8], talk: &Talk) -> anyhow::Result<Option<Answer>> {
        let mut more = bytes.len();
        if self.left.is_none() && talk.greeting.is_some() {
            self.left = Some(talk.length);
            self.answer.is_well = true;
        }
        if self.left.is_none() {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
            more = self.head.len() - end - 4;
            self.left = Some(self.read_head(end)?);
        }
        let left = self.left.unwrap_or_default();
        self.left = Some(left.checked_sub(more).context("more bytes than an answer has")?);
        Ok((left == more).then_some(self.answer))
    }

    /// Reads a head that is so long; the length of the body.
    fn read_head(&mut self, end: usize) -> anyhow::Result<usize> {
        let head = std::str::from_utf8(&self.head[..end])?;
        let mut lines = head.split("\r\n");
        self.answer.is_well = lines.next().context("no status")?.starts_with("HTTP/1.1 200");
        let mut length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            match name.len() {
                14 if name.eq_ignore_ascii_case("content-length") => length = Some(value.parse()?),
                10 if name.eq_ignore_ascii_case("connection") => {
                    self.answer.is_last = value.eq_ignore_ascii_case("close");
                }
                7 if name.eq_ignore_ascii_case("x-color") => self.answer.color = value.bytes().next(),
                _ => {}
            }
        }
        let Some(length) = length else { bail!("an answer without a length: {head}") };
        Ok(length)
    }
}
