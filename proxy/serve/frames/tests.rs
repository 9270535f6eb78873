//! Does the watcher see every frame, wherever the bytes are cut?

use proptest::prelude::*;

use super::*;

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
    let seen = events(&mut frames, &frame(0x4, 0, 0, &[0; 6]));
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], Frame::Begins { kind: Kind::Settings, flags: 0, stream: 0, length: 6 });
    assert_eq!(seen[1], Frame::Ended { kind: Kind::Settings, flags: 0, stream: 0 });
}

#[test]
fn a_frame_begins_with_its_head_and_ends_with_its_last_byte() {
    let mut frames = Frames::new(false);
    let bytes = frame(0x0, END_STREAM, 5, b"hello");
    assert_eq!(events(&mut frames, &bytes[..8]), []);
    let begins = Frame::Begins { kind: Kind::Data, flags: END_STREAM, stream: 5, length: 5 };
    assert_eq!(events(&mut frames, &bytes[8..9]), [begins]);
    assert_eq!(events(&mut frames, &bytes[9..13]), []);
    assert_eq!(events(&mut frames, &bytes[13..]), [Frame::Ended { kind: Kind::Data, flags: END_STREAM, stream: 5 }]);
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
fn the_reserved_bit_is_not_part_of_the_number() {
    let seen = events(&mut Frames::new(false), &frame(0x1, END_HEADERS, 0x8000_0000 | 9, b"x"));
    assert_eq!(seen[1], Frame::Ended { kind: Kind::Headers, flags: END_HEADERS, stream: 9 });
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
        let expected = events(&mut Frames::new(preface), &bytes);

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
    }
}
