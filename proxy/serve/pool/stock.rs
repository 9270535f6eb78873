//! Which lanes have connections to look after? Those that kept one since they were last found without: a sweep looks at
//! no others, and not at all of them at once, so that ten thousand backends cost it no more than a hundred.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::Lane;

/// So many lanes are looked at in one sweep, however many there are.
const ALWAYS: usize = 64;

/// Where there are more, all of them have been looked at after so many sweeps.
const SWEEPS: usize = 10;

/// A worker's lanes that have connections. Whose turn comes first is first.
#[derive(Debug, Default)]
pub struct Stock(RefCell<VecDeque<Weak<Lane>>>);

impl Stock {
    /// A lane has a connection now, and had none.
    pub(super) fn add(&self, lane: Weak<Lane>) {
        self.0.borrow_mut().push_back(lane);
    }

    /// Looks at the lanes whose turn it is; those that have no connection left are not looked at again.
    pub fn sweep(&self, look: impl Fn(&Lane)) {
        let count = self.0.borrow().len();
        for _ in 0..count.min(ALWAYS.max(count.div_ceil(SWEEPS))) {
            let Some(lane) = self.0.borrow_mut().pop_front() else { break };
            let Some(lane) = lane.upgrade() else { continue };
            look(&lane);
            if lane.stays_in_stock() {
                self.add(Rc::downgrade(&lane));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::table::tests::backend;

    fn lanes(stock: &Rc<Stock>, count: usize) -> Vec<Rc<Lane>> {
        (0..count).map(|slot| Lane::new(backend(slot, "blue", 1), Default::default(), 0, stock.clone())).collect()
    }

    /// How many lanes a sweep looks at.
    fn looked_at(stock: &Stock) -> usize {
        let count = Cell::new(0);
        stock.sweep(|_| count.set(count.get() + 1));
        count.get()
    }

    #[test]
    fn lanes_without_connections_are_not_looked_at() {
        let stock = Rc::default();
        let lanes = lanes(&stock, 1000);
        assert_eq!(looked_at(&stock), 0);
        lanes[7].enters_stock();
        lanes[7].enters_stock();
        assert_eq!(looked_at(&stock), 1);
        assert_eq!(looked_at(&stock), 0, "it was found without");
        lanes[7].enters_stock();
        drop(lanes);
        assert_eq!(looked_at(&stock), 0, "it is gone");
    }

    #[test]
    fn a_few_are_looked_at_in_every_sweep_and_many_within_a_second() {
        for (count, sweeps) in [(1, 1), (64, 1), (65, 2), (640, 10), (10_000, 10)] {
            let stock = Rc::default();
            let lanes = lanes(&stock, count);
            for lane in &lanes {
                // A client's own shelf is something to look after.
                lane.owned.borrow_mut().push(Weak::new());
                lane.enters_stock();
            }
            let seen = RefCell::new(vec![0; count]);
            for _ in 0..sweeps {
                let before: u32 = seen.borrow().iter().sum();
                stock.sweep(|lane| seen.borrow_mut()[lane.backend.slot] += 1);
                let more = seen.borrow().iter().sum::<u32>() - before;
                assert!(more as usize <= (count / SWEEPS).max(ALWAYS), "{more} of {count}");
            }
            assert!(seen.borrow().iter().all(|times| *times > 0), "{count}");
        }
    }
}
