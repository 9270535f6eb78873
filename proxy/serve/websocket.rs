//! Where does one websocket frame end and the next begin (RFC 6455, section 5.2)? Pure: no I/O.
//!
//! Frames pass through us unread. But a close frame of our own must stand between two of them.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The frame that ends a conversation.
const CLOSE: u8 = 0x8;
/// The first bit of a frame's second byte: a mask of four bytes stands before the payload.
const MASKED: u8 = 0x80;
/// The first byte, the second, eight of length, four of mask.
const LONGEST_HEAD: usize = 14;
/// What a frame of control may carry: 125 bytes, of which a close frame needs two for its code.
const LONGEST_REASON: usize = 123;
/// What a server adds to the client's key, to show that it knows what a websocket is (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A watcher over the frames that a server sends.
///
/// It reads the heads and counts the rest. What is not a frame at all is none of its business.
#[derive(Clone, Debug, Default)]
pub struct Boundary {
    /// The head that passes now, as far as it is there.
    head: [u8; LONGEST_HEAD],
    filled: usize,
    /// What is left of the payload that passes now.
    left: u64,
    /// Whether that payload is a close frame's.
    closing: bool,
    closed: bool,
}

impl Boundary {
    /// At the beginning of a conversation, right after the 101.
    pub fn new() -> Boundary {
        Boundary::default()
    }

    /// Takes the bytes that pass next, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.step(rest);
        }
    }

    /// Whether a frame of ours may be put in here.
    pub fn at_boundary(&self) -> bool {
        self.filled == 0 && self.left == 0
    }

    /// How many of these bytes, which have not been fed, may still pass so that the stream stands at a boundary: the
    /// rest of the frame that has begun. All of them, if that frame does not end among them; none at a boundary.
    pub fn until_boundary(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut rest = bytes;
        while !rest.is_empty() && !ahead.at_boundary() {
            rest = ahead.step(rest);
        }
        bytes.len() - rest.len()
    }

    /// Whether a close frame has passed, whole: nothing may follow it.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Takes the rest of a payload, or one more byte of a head.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.left > 0 {
            let passed = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= passed as u64;
            self.closed |= self.closing && self.left == 0;
            return bytes.split_at(passed).1;
        }
        let Some((byte, rest)) = bytes.split_first() else { return bytes };
        if let Some(place) = self.head.get_mut(self.filled) {
            *place = *byte;
            self.filled += 1;
        }
        if let Some(length) = length(self.head.split_at(self.filled).0) {
            self.filled = 0;
            self.left = length;
            self.closing = self.head[0] & 0x0f == CLOSE;
            self.closed |= self.closing && length == 0;
        }
        rest
    }
}

/// The length of the payload, once its head is complete.
fn length(head: &[u8]) -> Option<u64> {
    let (_, rest) = head.split_first()?;
    let (second, rest) = rest.split_first()?;
    let (length, rest) = match second & !MASKED {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length), rest)
        }
        short => (u64::from(short), rest),
    };
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    (rest.len() == mask).then_some(length)
}

/// A close frame, as a server sends it. A reason that is too long is cut between two characters.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = reason.split_at(reason.floor_char_boundary(LONGEST_REASON)).0;
    let mut frame = Vec::with_capacity(4 + reason.len());
    frame.extend([0x80 | CLOSE, 2 + reason.len() as u8]);
    frame.extend(code.to_be_bytes());
    frame.extend(reason.bytes());
    frame
}

/// What a server answers to a client's key: `Sec-WebSocket-Accept` (RFC 6455, section 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    // Not for secrecy: it shows that somebody has read the key, and SHA-1 is what the RFC asks for.
    base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()).as_ref())
}

/// A key for a conversation that we begin, where the client speaks HTTP/2 and has none (RFC 8441).
pub fn new_key() -> String {
    // A nonce against caches that do not know websockets; nobody gains by guessing it.
    base64(&fastrand::u128(..).to_be_bytes())
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            // One byte fills two characters, two fill three.
            let character = if at <= three.len() { ALPHABET[bits >> (18 - 6 * at) & 0x3f] } else { b'=' };
            text.push(char::from(character));
        }
    }
    text
}

#[cfg(test)]
mod tests;
