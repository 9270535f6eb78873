//! How much longer does an HTTP/2 connection last? h2 counts some of what comes over its whole life, and ends it, with
//! all that is on it, when there was too much of it. So another one is made to take its place before. Pure: no I/O.

use std::collections::{HashSet, VecDeque};

use super::frames::{END_STREAM, Frame, Kind, PADDED};

/// A piece of a body with fewer bytes than this costs h2 more than it carries: what is missing.
pub const SMALL: u32 = 256;

/// Empty pieces of bodies that h2 bears.
const EMPTIES: u32 = 100;

/// Streams that we have left, of which is known that more may be on its way.
pub const LEFT: usize = 5000;

/// What a connection has been through.
#[derive(Debug, Default)]
pub struct Wear {
    empties: u32,
    /// What was missing of small pieces that came too late.
    spent: usize,
    left: HashSet<u32>,
    /// The same in their order.
    order: VecDeque<u32>,
}

impl Wear {
    /// Nobody reads this stream any more.
    pub fn leaves(&mut self, stream: u32) {
        if self.left.insert(stream) {
            self.order.push_back(stream);
        }
        if self.order.len() > LEFT
            && let Some(oldest) = self.order.pop_front()
        {
            self.left.remove(&oldest);
        }
    }

    /// A frame has come.
    pub fn came(&mut self, frame: Frame) {
        let Frame::Begins { kind: Kind::Data, flags, stream, .. } = frame else { return };
        let missing = missing(frame);
        if missing == SMALL as usize && flags & END_STREAM == 0 {
            self.empties += 1;
        }
        if missing > 0 && self.left.contains(&stream) {
            self.spent += missing;
        }
    }

    /// What is gone for good of what h2 spares for small pieces ([`missing`]).
    pub fn spent(&self) -> usize {
        self.spent
    }

    /// Whether half of the empty pieces that h2 bears have come.
    pub fn has_many_empties(&self) -> bool {
        self.empties > EMPTIES / 2
    }
}

/// How many bytes a piece of a body lacks to be worth its frame, or more: how much of one is padding is not known here.
pub fn missing(frame: Frame) -> usize {
    let Frame::Begins { kind: Kind::Data, flags, length, .. } = frame else { return 0 };
    let carried = if flags & PADDED != 0 { 0 } else { length };
    SMALL.saturating_sub(carried) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(stream: u32, length: u32, flags: u8) -> Frame {
        Frame::Begins { kind: Kind::Data, flags, stream, length }
    }

    /// What is gone after so many of these, on a connection whose first stream was left.
    fn after(count: u32, frame: Frame) -> (usize, bool) {
        let mut wear = Wear::default();
        wear.leaves(1);
        (0..count).for_each(|_| wear.came(frame));
        (wear.spent(), wear.has_many_empties())
    }

    #[test]
    fn what_h2_does_not_forget_wears_a_connection_out() {
        assert_eq!(after(50, data(3, 0, 0)), (0, false));
        assert_eq!(after(51, data(3, 0, 0)), (0, true));
        assert_eq!(after(51, data(3, 0, END_STREAM)), (0, false));
        assert_eq!(after(1000, data(1, 6, 0)), (250_000, false));
        assert_eq!(after(1000, data(3, 6, 0)), (0, false), "somebody reads it");
        assert_eq!(after(1000, data(1, 256, 0)), (0, false));
        assert_eq!(after(1000, data(1, 256, PADDED)), (256_000, true), "it may be all padding");
    }

    #[test]
    fn the_streams_that_were_left_last_are_remembered() {
        let mut wear = Wear::default();
        (10_000..).take(LEFT).for_each(|stream| wear.leaves(stream));
        wear.leaves(1);
        wear.came(data(1, 6, 0));
        assert_eq!(wear.spent(), 250);
        wear.came(data(10_000, 6, 0));
        assert_eq!(wear.spent(), 250, "the oldest is forgotten");
    }
}
