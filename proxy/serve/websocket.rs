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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: u8 = 0x1;
    const PING: u8 = 0x9;

    fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..126 => bytes.push(mask | short as u8),
            medium @ 126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend((medium as u16).to_be_bytes());
            }
            long => {
                bytes.push(mask | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_conversation_begins_at_a_boundary() {
        let boundary = Boundary::new();
        assert!(boundary.at_boundary());
        assert!(!boundary.closed());
        assert_eq!(boundary.until_boundary(b"\x81\x05hello"), 0);
    }

    #[test]
    fn every_length_ends_with_its_last_byte() {
        for masked in [false, true] {
            for length in [0, 1, 124, 125, 126, 127, 128, 65_535, 65_536, 65_537, 1 << 20] {
                let bytes = frame(TEXT, masked, &vec![b'x'; length]);
                let mut boundary = Boundary::new();
                let (last, all_but) = bytes.split_last().expect("a frame");
                boundary.feed(&all_but[..2.min(all_but.len())]);
                assert!(!boundary.at_boundary(), "{length} bytes, masked: {masked}");
                boundary.feed(&all_but[2.min(all_but.len())..]);
                assert!(!boundary.at_boundary(), "{length} bytes, masked: {masked}");
                assert_eq!(boundary.until_boundary(&[*last, 0x81]), 1);
                boundary.feed(&[*last]);
                assert!(boundary.at_boundary(), "{length} bytes, masked: {masked}");
            }
        }
    }

    // Not the shortest form, which the RFC asks for; the length counts all the same.
    #[test]
    fn a_length_may_be_longer_than_it_must() {
        let mut boundary = Boundary::new();
        boundary.feed(&[0x81, 126, 0, 1, b'x']);
        assert!(boundary.at_boundary());
        boundary.feed(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(boundary.at_boundary());
    }

    #[test]
    fn a_length_that_never_ends_does_no_harm() {
        let mut boundary = Boundary::new();
        boundary.feed(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(boundary.until_boundary(&[0; 1000]), 1000);
        boundary.feed(&[0; 1000]);
        assert!(!boundary.at_boundary());
    }

    #[test]
    fn the_rest_of_a_frame_passes_and_what_follows_is_held_back() {
        let mut boundary = Boundary::new();
        boundary.feed(b"\x81\x05he");
        assert_eq!(boundary.until_boundary(b""), 0);
        assert_eq!(boundary.until_boundary(b"ll"), 2);
        assert_eq!(boundary.until_boundary(b"llo"), 3);
        assert_eq!(boundary.until_boundary(b"llo\x81\x05again"), 3);
        assert!(!boundary.at_boundary(), "looking ahead moves nothing");
        boundary.feed(b"llo");
        assert_eq!(boundary.until_boundary(b"\x81\x05again"), 0);
        // From within a head, too.
        boundary.feed(b"\x81");
        assert_eq!(boundary.until_boundary(b"\x02hi\x89\x00"), 3);
    }

    // Only when its reason has passed as well may the connection end.
    #[test]
    fn a_close_frame_is_noticed_when_it_has_passed() {
        let mut boundary = Boundary::new();
        boundary.feed(&frame(TEXT, false, b"bye"));
        boundary.feed(&frame(PING, false, b"\x88\x00"));
        assert!(!boundary.closed(), "what is inside of a frame is no frame");
        let close = close_frame(1001, "going away");
        let (last, all_but) = close.split_last().expect("a frame");
        boundary.feed(all_but);
        assert!(!boundary.closed());
        boundary.feed(&[*last]);
        assert!(boundary.closed());
        assert!(boundary.at_boundary());
        boundary.feed(b"\x81\x05mo");
        assert!(boundary.closed(), "whatever a server sends after it");
    }

    #[test]
    fn an_empty_close_frame_is_one() {
        let mut boundary = Boundary::new();
        boundary.feed(&[0x88, 0x00]);
        assert!(boundary.closed());
    }

    #[test]
    fn a_close_frame_has_a_code_and_a_reason() {
        assert_eq!(close_frame(1001, ""), [0x88, 2, 0x03, 0xe9]);
        assert_eq!(close_frame(1001, "going away"), [&[0x88, 12, 0x03, 0xe9][..], b"going away"].concat());
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_two_characters() {
        let close = close_frame(1000, &"x".repeat(500));
        assert_eq!((close.len(), close[1]), (127, 125));
        // Two bytes each: 122 are 61 of them.
        let close = close_frame(1000, &"ä".repeat(100));
        assert_eq!((close.len(), close[1]), (126, 124));
        assert_eq!(std::str::from_utf8(&close[4..]).expect("characters"), "ä".repeat(61));
    }

    // The example of the RFC, section 1.3.
    #[test]
    fn a_key_is_accepted_as_the_rfc_says() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_new_key_is_sixteen_bytes_and_another_each_time() {
        let keys: std::collections::BTreeSet<_> = (0..1000).map(|_| new_key()).collect();
        assert_eq!(keys.len(), 1000);
        for key in keys {
            assert_eq!(key.len(), 24);
            assert!(key.ends_with("==") && !key.ends_with("==="), "{key}");
        }
    }

    // The examples of RFC 4648, section 10.
    #[test]
    fn base64_is_what_the_rfc_says() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![4 => 0..20usize, 2 => 120..135usize, 1 => 65_530..65_545usize];
        (0..16u8, any::<bool>(), size).prop_map(|(opcode, masked, size)| frame(opcode, masked, &vec![0x88; size]))
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            bytes in prop_oneof![
                proptest::collection::vec(any_frame(), 0..6).prop_map(|frames| frames.concat()),
                proptest::collection::vec(any::<u8>(), 0..300),
            ],
            cuts in proptest::collection::vec(1..5000usize, 1..20),
        ) {
            let mut whole = Boundary::new();
            whole.feed(&bytes);
            let (mut pieces, mut rest) = (Boundary::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                pieces.feed(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(pieces.at_boundary(), whole.at_boundary());
            prop_assert_eq!(pieces.closed(), whole.closed());
            prop_assert_eq!(pieces.left, whole.left);
            prop_assert_eq!(pieces.filled, whole.filled);
        }

        // Wherever we stop, a frame of ours fits in after what `until_boundary` lets pass, and not a byte earlier.
        #[test]
        fn a_boundary_is_found_from_anywhere(
            frames in proptest::collection::vec(any_frame(), 1..4),
            at in any::<proptest::sample::Index>(),
        ) {
            let bytes = frames.concat();
            let at = at.index(bytes.len() + 1);
            let mut boundary = Boundary::new();
            boundary.feed(&bytes[..at]);
            let until = at + boundary.until_boundary(&bytes[at..]);
            let ends = frames.iter().scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            });
            let expected = std::iter::once(0).chain(ends).find(|end| *end >= at);
            prop_assert_eq!(Some(until), expected);
            boundary.feed(&bytes[at..until]);
            prop_assert!(boundary.at_boundary());
        }
    }
}
