//! What time is it for a worker? The time in which it was let run, for a client is not slow while nobody listens.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::SWEEP;

/// No more than this counts between two ticks, which are [`SWEEP`] apart. Whoever stops the process, or takes its cores
/// for longer, finds what clients have said meanwhile in the kernel, and no deadline that has passed unheard.
const STALL: Duration = SWEEP.saturating_mul(5);

/// Goes on from tick to tick.
#[derive(Debug)]
pub(super) struct Clock {
    ticked: Cell<Instant>,
    passed: Cell<Duration>,
    /// The same in milliseconds.
    now: Cell<u64>,
}

impl Clock {
    /// A clock that begins.
    pub(super) fn new() -> Clock {
        Clock { ticked: Cell::new(Instant::now()), passed: Cell::default(), now: Cell::new(0) }
    }

    /// Milliseconds up to the last tick.
    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    /// Milliseconds up to this moment.
    pub(super) fn exactly(&self) -> u64 {
        millis(self.at(Instant::now()))
    }

    /// Goes on.
    pub(super) fn tick(&self) {
        self.tick_at(Instant::now());
    }

    fn tick_at(&self, moment: Instant) {
        let passed = self.at(moment);
        self.passed.set(passed);
        self.now.set(millis(passed));
        self.ticked.set(moment);
    }

    fn at(&self, moment: Instant) -> Duration {
        self.passed.get() + moment.saturating_duration_since(self.ticked.get()).min(STALL)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_looked_is_half_a_second_at_most() {
        let clock = Clock::new();
        let mut moment = clock.ticked.get();
        for (later, now) in [(100, 100), (150, 250), (500, 750), (60_000, 1250), (100, 1350)] {
            moment += Duration::from_millis(later);
            clock.tick_at(moment);
            assert_eq!(clock.now(), now, "after {later} ms more");
        }
    }

    #[test]
    fn parts_of_milliseconds_are_not_lost() {
        let clock = Clock::new();
        let mut moment = clock.ticked.get();
        for _ in 0..1000 {
            moment += Duration::from_micros(100_900);
            clock.tick_at(moment);
        }
        assert_eq!(clock.now(), 100_900);
    }
}
