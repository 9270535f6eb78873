//! Is every boundary found, and no other?

use proptest::prelude::*;

use super::*;

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
