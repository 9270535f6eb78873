//! What passes on an HTTP/2 connection, frame by frame? Bytes of one direction in, events out. Pure: no I/O.

/// A frame that ends its stream (DATA, HEADERS).
pub const END_STREAM: u8 = 0x1;
/// A frame that only confirms one of ours (SETTINGS, PING).
pub const ACK: u8 = 0x1;
/// A frame that ends its block of headers (HEADERS, PUSH_PROMISE, CONTINUATION).
pub const END_HEADERS: u8 = 0x4;

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
    /// Whether a block of headers is open: nothing may come between its frames.
    block: bool,
    /// Whether a frame has passed at all: the first one must be SETTINGS, and not ours.
    begun: bool,
    highest: u32,
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
        Frames {
            preface: if preface { PREFACE } else { 0 },
            partial: [0; HEAD],
            filled: 0,
            current: None,
            left: 0,
            block: false,
            begun: false,
            highest: 0,
        }
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
                    self.begin(head);
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

    /// Whether a frame of ours may be put in here: between two frames, and not within a block of headers.
    ///
    /// Not before the first frame either: it must be SETTINGS (RFC 9113, section 3.4).
    pub fn at_boundary(&self) -> bool {
        self.begun && self.current.is_none() && self.filled == 0 && !self.block
    }

    /// The highest stream that HEADERS of a client named: the last one that a GOAWAY admits to. 0 before the first.
    pub fn highest_stream(&self) -> u32 {
        self.highest
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

    fn begin(&mut self, head: Head) {
        self.begun = true;
        self.current = Some(head);
        self.left = head.length;
        match head.kind {
            Kind::Headers => {
                self.block = head.flags & END_HEADERS == 0;
                // Even numbers are a server's: a client that uses one has not opened a stream but made an error.
                if head.stream % 2 == 1 {
                    self.highest = self.highest.max(head.stream);
                }
            }
            Kind::PushPromise | Kind::Continuation => self.block = head.flags & END_HEADERS == 0,
            _ => {}
        }
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

/// A GOAWAY: no stream after `last_stream` was or will be served, for this `reason` (RFC 9113, sections 6.8 and 7).
pub fn go_away(last_stream: u32, reason: u32) -> [u8; 17] {
    let [s0, s1, s2, s3] = (last_stream & 0x7fff_ffff).to_be_bytes();
    let [r0, r1, r2, r3] = reason.to_be_bytes();
    [0, 0, 8, 0x7, 0, 0, 0, 0, 0, s0, s1, s2, s3, r0, r1, r2, r3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAID: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn events(frames: &mut Frames, bytes: &[u8]) -> Vec<Frame> {
        let mut seen = Vec::new();
        frames.feed(bytes, |frame| seen.push(frame));
        seen
    }

    #[test]
    fn the_preface_is_no_frame() {
        let mut frames = Frames::new(true);
        assert_eq!(events(&mut frames, SAID), []);
        assert!(!frames.at_boundary(), "nothing may come before the SETTINGS");
        let seen = events(&mut frames, &frame(0x4, 0, 0, &[0; 6]));
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], Frame::Begins { kind: Kind::Settings, flags: 0, stream: 0, length: 6 });
        assert_eq!(seen[1], Frame::Ended { kind: Kind::Settings, flags: 0, stream: 0 });
        assert!(frames.at_boundary());
    }

    #[test]
    fn a_frame_begins_with_its_head_and_ends_with_its_last_byte() {
        let mut frames = Frames::new(false);
        let bytes = frame(0x0, END_STREAM, 5, b"hello");
        assert_eq!(events(&mut frames, &bytes[..8]), []);
        let begins = Frame::Begins { kind: Kind::Data, flags: END_STREAM, stream: 5, length: 5 };
        assert_eq!(events(&mut frames, &bytes[8..9]), [begins]);
        assert!(!frames.at_boundary());
        assert_eq!(events(&mut frames, &bytes[9..13]), []);
        assert!(!frames.at_boundary());
        assert_eq!(
            events(&mut frames, &bytes[13..]),
            [Frame::Ended { kind: Kind::Data, flags: END_STREAM, stream: 5 }]
        );
        assert!(frames.at_boundary());
    }

    #[test]
    fn an_empty_frame_begins_and_ends_at_once() {
        let mut frames = Frames::new(false);
        let seen = events(&mut frames, &frame(0x4, ACK, 0, b""));
        assert_eq!(
            seen,
            [
                Frame::Begins { kind: Kind::Settings, flags: ACK, stream: 0, length: 0 },
                Frame::Ended { kind: Kind::Settings, flags: ACK, stream: 0 },
            ]
        );
        assert!(frames.at_boundary());
    }

    #[test]
    fn within_a_head_is_no_boundary() {
        let mut frames = Frames::new(false);
        events(&mut frames, &frame(0x4, 0, 0, b""));
        let bytes = frame(0x6, 0, 0, &[0; 8]);
        for (at, byte) in bytes.iter().enumerate() {
            assert!(at == 0 || !frames.at_boundary(), "after {at} bytes");
            events(&mut frames, &[*byte]);
        }
        assert!(frames.at_boundary());
    }

    // A GOAWAY between HEADERS and its CONTINUATION is a connection error at the client (RFC 9113, section 6.10).
    #[test]
    fn within_a_block_of_headers_is_no_boundary() {
        for kind in [0x1, 0x5] {
            let mut frames = Frames::new(false);
            events(&mut frames, &frame(kind, 0, 1, b"abc"));
            assert!(!frames.at_boundary());
            events(&mut frames, &frame(0x9, 0, 1, b"def"));
            assert!(!frames.at_boundary());
            events(&mut frames, &frame(0x9, END_HEADERS, 1, b"ghi"));
            assert!(frames.at_boundary());
        }
    }

    #[test]
    fn the_highest_stream_is_the_highest_that_headers_of_a_client_named() {
        let mut frames = Frames::new(false);
        assert_eq!(frames.highest_stream(), 0);
        for (stream, kind, highest) in [(3, 0x1, 3), (1, 0x1, 3), (9, 0x0, 3), (11, 0x8, 3), (12, 0x1, 3), (7, 0x1, 7)]
        {
            events(&mut frames, &frame(kind, END_HEADERS, stream, b"x"));
            assert_eq!(frames.highest_stream(), highest, "after {stream}");
        }
        // The reserved bit is not part of the number.
        events(&mut frames, &frame(0x1, END_HEADERS, 0x8000_0000 | 9, b"x"));
        assert_eq!(frames.highest_stream(), 9);
    }

    #[test]
    fn every_kind_has_its_number() {
        let known = [
            (0x0, Kind::Data),
            (0x1, Kind::Headers),
            (0x2, Kind::Priority),
            (0x3, Kind::Reset),
            (0x4, Kind::Settings),
            (0x5, Kind::PushPromise),
            (0x6, Kind::Ping),
            (0x7, Kind::GoAway),
            (0x8, Kind::WindowUpdate),
            (0x9, Kind::Continuation),
            (0x10, Kind::PriorityUpdate),
        ];
        for number in 0..=255 {
            let expected = known.iter().find(|known| known.0 == number).map_or(Kind::Unknown(number), |known| known.1);
            assert_eq!(Kind::from(number), expected);
        }
    }

    #[test]
    fn a_go_away_is_a_frame_of_its_own() {
        let mut frames = Frames::new(false);
        let bytes = go_away(u32::MAX, 0xb);
        assert_eq!(bytes[9..], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb]);
        assert_eq!(
            events(&mut frames, &bytes),
            [
                Frame::Begins { kind: Kind::GoAway, flags: 0, stream: 0, length: 8 },
                Frame::Ended { kind: Kind::GoAway, flags: 0, stream: 0 },
            ]
        );
    }

    #[test]
    fn the_longest_frame_passes() {
        let mut frames = Frames::new(false);
        let seen = events(&mut frames, &[0xff, 0xff, 0xff, 0x0, 0, 0, 0, 0, 1]);
        assert_eq!(seen, [Frame::Begins { kind: Kind::Data, flags: 0, stream: 1, length: 0xff_ffff }]);
        assert_eq!(events(&mut frames, &vec![0; 0xff_fffe]), []);
        assert_eq!(events(&mut frames, &[0]).len(), 1);
    }

    fn any_frame() -> impl Strategy<Value = (u8, u8, u32, Vec<u8>)> {
        (0..0x12u8, any::<u8>(), 0..0x8000_0000u32, proptest::collection::vec(any::<u8>(), 0..40))
    }

    proptest! {
        #[test]
        fn what_was_written_is_what_is_seen(written in proptest::collection::vec(any_frame(), 1..12), preface: bool) {
            let mut bytes = if preface { SAID.to_vec() } else { Vec::new() };
            let mut expected = Vec::new();
            for (kind, flags, stream, payload) in &written {
                let (kind, flags, stream) = (*kind, *flags, *stream);
                bytes.extend(frame(kind, flags, stream, payload));
                let kind = Kind::from(kind);
                expected.push(Frame::Begins { kind, flags, stream, length: payload.len() as u32 });
                expected.push(Frame::Ended { kind, flags, stream });
            }
            prop_assert_eq!(events(&mut Frames::new(preface), &bytes), expected);
        }

        #[test]
        fn any_split_gives_the_same(
            written in proptest::collection::vec(any_frame(), 0..8),
            junk in proptest::collection::vec(any::<u8>(), 0..40),
            cuts in proptest::collection::vec(1..30usize, 1..40),
            preface: bool,
        ) {
            let mut bytes: Vec<u8> = written.iter().flat_map(|(k, f, s, p)| frame(*k, *f, *s, p)).collect();
            bytes.extend(junk);
            let mut whole = Frames::new(preface);
            let expected = events(&mut whole, &bytes);

            let mut pieces = Frames::new(preface);
            let (mut seen, mut rest) = (Vec::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                seen.extend(events(&mut pieces, piece));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(pieces.at_boundary(), whole.at_boundary());
            prop_assert_eq!(pieces.highest_stream(), whole.highest_stream());
        }
    }
}
