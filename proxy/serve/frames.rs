//! What passes on an HTTP/2 connection, frame by frame? Bytes of one direction in, events out. Pure: no I/O.

/// A frame that ends its stream (DATA, HEADERS).
pub const END_STREAM: u8 = 0x1;
/// A frame that only confirms one of ours (SETTINGS, PING).
pub const ACK: u8 = 0x1;
/// A frame that ends its block of headers (HEADERS, PUSH_PROMISE, CONTINUATION).
pub const END_HEADERS: u8 = 0x4;

/// A frame part of which is only there to hide its length (DATA, HEADERS).
pub const PADDED: u8 = 0x8;

/// What a client says before its first frame: `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`.
const PREFACE: u32 = 24;
/// The head of every frame: length, kind, flags, stream (RFC 9113, section 4.1).
const HEAD: usize = 9;

/// One of the two ends of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The head is complete; `length` bytes follow.
    Begins {
        /// What it is.
        kind: Kind,
        /// Its flags, as they came.
        flags: u8,
        /// Its stream; 0 is the connection.
        stream: u32,
        /// How long its payload is.
        length: u32,
    },
    /// The last byte has passed.
    Ended {
        /// What it was.
        kind: Kind,
        /// Its flags, as they came.
        flags: u8,
        /// Its stream; 0 is the connection.
        stream: u32,
    },
}

/// What a frame is (RFC 9113, section 6; RFC 9218, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A piece of a body.
    Data,
    /// The beginning of a block of headers.
    Headers,
    /// Advice on the order of streams, as RFC 7540 had it.
    Priority,
    /// RST_STREAM: the end of a stream before its end.
    Reset,
    /// What the sender can bear.
    Settings,
    /// A request that nobody made.
    PushPromise,
    /// Are you there?
    Ping,
    /// No further streams.
    GoAway,
    /// Room for more bytes of bodies.
    WindowUpdate,
    /// More of a block of headers.
    Continuation,
    /// Advice on the order of streams, as browsers give it today.
    PriorityUpdate,
    /// One that is to be ignored.
    Unknown(u8),
}

impl From<u8> for Kind {
    fn from(byte: u8) -> Kind {
        match byte {
            0x0 => Kind::Data,
            0x1 => Kind::Headers,
            0x2 => Kind::Priority,
            0x3 => Kind::Reset,
            0x4 => Kind::Settings,
            0x5 => Kind::PushPromise,
            0x6 => Kind::Ping,
            0x7 => Kind::GoAway,
            0x8 => Kind::WindowUpdate,
            0x9 => Kind::Continuation,
            0x10 => Kind::PriorityUpdate,
            other => Kind::Unknown(other),
        }
    }
}

/// A watcher over one direction of one connection.
///
/// It reads the heads and counts the rest. It believes what it reads: whether a frame is allowed, or the preface is
/// one, the library behind it says.
#[derive(Debug)]
pub struct Frames {
    /// What is left of the preface.
    preface: u32,
    /// The beginning of a head that came in pieces.
    partial: [u8; HEAD],
    /// How much of it is there.
    filled: usize,
    /// The frame whose payload passes now.
    current: Option<Head>,
    /// What is left of that payload.
    left: u32,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    kind: Kind,
    flags: u8,
    stream: u32,
    length: u32,
}

impl Frames {
    /// At the beginning of a connection. What a client sends begins with a `preface`, what a server sends does not.
    pub fn new(preface: bool) -> Frames {
        Frames { preface: if preface { PREFACE } else { 0 }, partial: [0; HEAD], filled: 0, current: None, left: 0 }
    }

    /// Takes the bytes that pass next, in pieces of any size, and tells which frames begin and end in them.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Frame)) {
        let mut rest = skip(bytes, &mut self.preface);
        while !rest.is_empty() {
            let head = match self.current {
                Some(head) => {
                    rest = skip(rest, &mut self.left);
                    head
                }
                None => {
                    let Some(head) = self.head(&mut rest) else { return };
                    self.current = Some(head);
                    self.left = head.length;
                    let Head { kind, flags, stream, length } = head;
                    on(Frame::Begins { kind, flags, stream, length });
                    head
                }
            };
            if self.left == 0 {
                self.current = None;
                on(Frame::Ended { kind: head.kind, flags: head.flags, stream: head.stream });
            }
        }
    }

    /// The next head, if it is complete; what there is of it is kept otherwise.
    fn head(&mut self, rest: &mut &[u8]) -> Option<Head> {
        if self.filled == 0
            && let Some((whole, after)) = rest.split_first_chunk::<HEAD>()
        {
            *rest = after;
            return Some(Head::from(*whole));
        }
        let mut taken = 0;
        for (place, byte) in self.partial.iter_mut().skip(self.filled).zip(rest.iter()) {
            *place = *byte;
            taken += 1;
        }
        self.filled += taken;
        *rest = rest.split_at(taken).1;
        if self.filled < HEAD {
            return None;
        }
        self.filled = 0;
        Some(Head::from(self.partial))
    }
}

impl From<[u8; HEAD]> for Head {
    fn from([l0, l1, l2, kind, flags, s0, s1, s2, s3]: [u8; HEAD]) -> Head {
        Head {
            kind: Kind::from(kind),
            flags,
            // The first bit is reserved, and to be ignored.
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            length: u32::from_be_bytes([0, l0, l1, l2]),
        }
    }
}

/// What is left of the bytes after `left` of them were passed over; counts `left` down.
fn skip<'a>(bytes: &'a [u8], left: &mut u32) -> &'a [u8] {
    let passed = bytes.len().min(*left as usize);
    *left -= passed as u32;
    bytes.split_at(passed).1
}

#[cfg(test)]
mod tests;
