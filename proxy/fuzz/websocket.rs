//! Is every frame's end found, and no other? Compared with a reader that has all of the bytes at once.

use super::sizes;
use crate::serve::websocket::{Boundary, close_frame};

/// Checks where frames end in these bytes.
pub fn websocket(bytes: &[u8]) {
    let ends = ends(bytes);
    let closed_at = ends.iter().find(|(_, closes)| *closes).map(|(end, _)| *end);
    let is_end = |at: usize| at == 0 || ends.iter().any(|(end, _)| *end == at);
    for size in sizes(bytes).into_iter().chain([bytes.len().max(1)]) {
        let mut boundary = Boundary::new();
        let mut fed = 0;
        for piece in bytes.chunks(size) {
            look_ahead(&boundary, &bytes[fed..], fed, &ends);
            boundary.feed(piece);
            fed += piece.len();
            assert_eq!(boundary.at_boundary(), is_end(fed), "after {fed} of {bytes:?} in pieces of {size}");
            assert_eq!(boundary.closed(), closed_at.is_some_and(|at| at <= fed), "after {fed}");
        }
    }
    farewell(bytes);
}

/// What may still pass leads to the next end.
fn look_ahead(boundary: &Boundary, rest: &[u8], fed: usize, ends: &[(usize, bool)]) {
    let passes = boundary.until_boundary(rest);
    let next = ends.iter().map(|(end, _)| *end).find(|end| *end > fed);
    let expected = if boundary.at_boundary() { 0 } else { next.map_or(rest.len(), |end| end - fed) };
    assert_eq!(passes, expected, "at {fed}");
}

/// Where frames end, and whether that was a close.
fn ends(bytes: &[u8]) -> Vec<(usize, bool)> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(length) = frame(&bytes[at..]).filter(|length| *length <= bytes.len() - at) {
        let closes = bytes[at] & 0x0f == 8;
        at += length;
        ends.push((at, closes));
    }
    ends
}

/// How long the first frame is, head and all; none while that is not known, or is more than there can be.
fn frame(bytes: &[u8]) -> Option<usize> {
    let second = *bytes.get(1)?;
    let (length, head) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let mask = if second >= 0x80 { 4 } else { 0 };
    usize::try_from(length).ok()?.checked_add(head + mask)
}

/// A close frame of ours is one, whatever the reason.
fn farewell(bytes: &[u8]) {
    let reason = String::from_utf8_lossy(bytes);
    let close = close_frame(1001, &reason);
    assert_eq!(ends(&close), [(close.len(), true)]);
    assert!(close.len() <= 127, "a frame of control has 125 bytes at most");
    let said = std::str::from_utf8(&close[4..]).expect("whole characters");
    assert!(reason.starts_with(said) && (said.len() > 119 || said == reason));
}
