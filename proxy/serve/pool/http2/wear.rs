//! How much longer does a connection last? h2 counts some of what comes over the whole life of a connection, and ends
//! it, with all that is on it, when there was too much of it. So another one takes its place before. Pure: no I/O.

use std::collections::BTreeSet;

use super::super::super::frames::{END_STREAM, Frame, Kind};

/// What h2 spares for pieces of bodies below [`SMALL`] bytes, which cost it more than they carry: those that nobody has
/// taken yet, for as long as they are not put together ([`super::super::super::crumbs`]), and for good those that came
/// too late.
pub(super) const SPARE: usize = 128 * 1024 * 1024;
const SMALL: u32 = 256;

/// Empty pieces of bodies that h2 bears.
const EMPTIES: u32 = 100;

/// Streams that we have left, of which is known that more of the answer may be on its way.
pub(super) const LEFT: usize = 5000;

/// What a connection has been through.
#[derive(Debug, Default)]
pub(super) struct Wear {
    empties: u32,
    /// What is gone of [`SPARE`] for good.
    spent: usize,
    left: BTreeSet<u32>,
}

impl Wear {
    /// We take a stream back.
    pub(super) fn leaves(&mut self, stream: u32) {
        self.left.insert(stream);
        if self.left.len() > LEFT {
            self.left.pop_first();
        }
    }

    /// A frame has come from the backend.
    pub(super) fn came(&mut self, frame: Frame) {
        let Frame::Begins { kind, flags, stream, length } = frame else { return };
        match kind {
            Kind::Data if flags & END_STREAM == 0 && length == 0 => self.empties += 1,
            Kind::Data if length < SMALL && self.left.contains(&stream) => self.spent += (SMALL - length) as usize,
            _ => {}
        }
    }

    /// Whether another connection shall take its place: half of what it can bear is gone.
    pub(super) fn is_out(&self) -> bool {
        self.empties > EMPTIES / 2 || self.spent > SPARE / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(stream: u32, length: u32, flags: u8) -> Frame {
        Frame::Begins { kind: Kind::Data, flags, stream, length }
    }

    /// How many of these it bears.
    fn lasts(frame: Frame) -> usize {
        let mut wear = Wear::default();
        wear.leaves(1);
        let mut came = 0;
        while !wear.is_out() && came < 1_000_000 {
            wear.came(frame);
            came += 1;
        }
        came
    }

    #[test]
    fn what_h2_does_not_forget_wears_a_connection_out() {
        assert_eq!(lasts(data(3, 0, 0)), 51);
        assert_eq!(lasts(data(1, 5, 0)), SPARE / 2 / 251 + 1);
        for lasting in [data(3, 0, END_STREAM), data(3, 5, 0), data(1, 256, 0)] {
            assert_eq!(lasts(lasting), 1_000_000, "{lasting:?}");
        }
    }
}
