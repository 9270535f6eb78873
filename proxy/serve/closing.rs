//! When does a stream leave? After a switch, one by one: so that clients come back, to the new color, without a storm.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Duration;

use super::sleeper::Sleeper;
use crate::mail::Pace;

/// An event stream that was told to leave waits this long for the end of the event that is passing.
const PATIENCE: u64 = 2_000;

/// A stream that has not ended this long after it was told is broken off: its client takes nothing.
const LONGEST: u64 = 5_000;

/// Seconds between two ends are stretched by this much: the sweep that tells streams may be a tenth of a second late,
/// which pushes more of them into one second than were planned for it.
const SLACK: f64 = 1.1;

/// When each of `count` streams is to leave, from now, the first to go first: evenly over the time given, no more of
/// them in a second than this worker's share, and between those of the other workers.
pub fn times(count: usize, pace: Pace, worker: usize, workers: usize) -> impl Iterator<Item = Duration> {
    let cap = SLACK * workers as f64 / f64::from(pace.per_second.max(1));
    let interval = (pace.over.as_secs_f64() / count.max(1) as f64).max(cap);
    let first = interval * (worker + 1) as f64 / workers as f64;
    // An operator may ask for more time than there is.
    (0..count).map(move |n| Duration::try_from_secs_f64(first + n as f64 * interval).unwrap_or(Duration::MAX))
}

/// Whether a stream is to leave, and when; times in the worker's milliseconds.
#[derive(Debug, Default)]
pub struct Leave {
    due: Cell<Option<u64>>,
    told: Cell<Option<u64>>,
    sleeper: Sleeper,
}

impl Leave {
    /// When it is to be told.
    pub fn due(&self) -> Option<u64> {
        self.due.get()
    }

    /// It is to be told then, or not at all.
    pub fn set_due(&self, due: Option<u64>) {
        self.due.set(due);
    }

    /// Whether it has been told.
    pub fn is_told(&self) -> bool {
        self.told.get().is_some()
    }

    /// Tells it.
    pub fn tell(&self, now: u64) {
        if !self.is_told() {
            self.told.set(Some(now));
        }
        self.sleeper.wake();
    }

    /// Tells it if it is time; true when it was told long ago and is still here.
    pub fn sweep(&self, now: u64) -> bool {
        let since_told = self.told.get().map(|told| now.saturating_sub(told));
        let again = since_told.is_some_and(|since| since >= PATIENCE);
        if again || (since_told.is_none() && self.due.get().is_some_and(|due| due <= now)) {
            self.tell(now);
        }
        since_told.is_some_and(|since| since > LONGEST)
    }

    /// Whether it has waited for an event's end for long enough.
    pub fn is_pressed(&self, now: u64) -> bool {
        self.told.get().is_some_and(|told| now.saturating_sub(told) >= PATIENCE)
    }

    /// Ready when it has been told; until then whoever asks is woken.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_told() {
            return Poll::Ready(());
        }
        self.remember(cx);
        Poll::Pending
    }

    /// Whom to wake.
    pub fn remember(&self, cx: &Context<'_>) {
        self.sleeper.remember(cx);
    }
}

/// Where an event stream stands. An event ends with an empty line, and lines end with `\n`, `\r\n` or `\r`.
#[derive(Debug, Default)]
pub struct Ending {
    /// Of the bytes so far. Longer ends of an event than this there are not.
    tail: [u8; 4],
    /// How many of them there are.
    length: usize,
}

impl Ending {
    /// These bytes passed.
    pub fn passed(&mut self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(self.tail.len())..];
        // As many of the earlier ones stay as there is room for.
        let stay = self.length.min(self.tail.len() - last.len());
        self.tail.copy_within(self.length - stay..self.length, 0);
        self.length = stay + last.len();
        self.tail[stay..self.length].copy_from_slice(last);
    }

    /// Whether no event is passing.
    pub fn is_between_events(&self) -> bool {
        let tail = &self.tail[..self.length];
        tail.is_empty()
            || [&b"\n\n"[..], b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\r\n\r", b"\n\r"].iter().any(|end| tail.ends_with(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(over: u64, per_second: u32) -> Pace {
        Pace { over: Duration::from_secs(over), per_second }
    }

    /// All workers' times in milliseconds, in order.
    fn all(counts: &[usize], pace: Pace) -> Vec<u128> {
        let each = counts.iter().enumerate().flat_map(|(worker, count)| times(*count, pace, worker, counts.len()));
        let mut all: Vec<u128> = each.map(|time| time.as_millis()).collect();
        all.sort_unstable();
        all
    }

    /// The most of them within one second.
    fn densest(times: &[u128]) -> usize {
        let within = |from: &u128| times.iter().filter(|time| (*from..*from + 1000).contains(*time)).count();
        times.iter().map(within).max().unwrap_or(0)
    }

    #[test]
    fn streams_leave_evenly_and_the_last_one_when_the_time_is_over() {
        let times = all(&[10, 10], pace(10, 1000));
        assert_eq!(times, (1..=20).map(|n| n * 500).collect::<Vec<u128>>(), "every half second, by turns");
    }

    #[test]
    fn workers_with_more_streams_let_them_go_faster() {
        let times = all(&[1, 100, 3], pace(10, 1000));
        assert_eq!((times.len(), *times.last().expect("one")), (104, 10_000));
        for second in 0..10 {
            let count = times.iter().filter(|time| **time / 1000 == second).count();
            assert!((9..=12).contains(&count), "{count} in second {second}");
        }
    }

    #[test]
    fn no_second_sees_more_than_the_cap_even_if_the_sweep_is_late() {
        for (counts, over, per_second) in [(vec![500; 4], 1, 200), (vec![7, 90], 0, 10), (vec![3, 3, 3], 5, 1)] {
            let times = all(&counts, pace(over, per_second));
            let seen: Vec<u128> = times.iter().map(|time| time.div_ceil(100) * 100).collect();
            let most = densest(&seen);
            assert!(most <= per_second as usize, "{most} of {per_second} allowed");
            assert!(*times.last().expect("one") > u128::from(over) * 1000, "it takes longer");
        }
    }

    #[test]
    fn all_the_time_in_the_world_is_as_much_as_any() {
        assert_eq!(times(3, Pace { over: Duration::MAX, per_second: 1 }, 1, 2).count(), 3);
    }

    #[test]
    fn nothing_to_close_takes_no_time() {
        assert_eq!(times(0, pace(10, 0), 0, 1).count(), 0);
    }

    #[test]
    fn an_event_ends_with_an_empty_line_however_its_bytes_come() {
        let after = |frames: &[&str]| {
            let mut ending = Ending::default();
            frames.iter().for_each(|frame| ending.passed(frame.as_bytes()));
            ending.is_between_events()
        };
        for ended in [
            &[][..],
            &["data: 1\n\n"],
            &["data: 1\r\n\r\n"],
            &["data: 1\r\r"],
            &["data: 1\n", "\n"],
            &["data: 1\r", "\n\r", "\n"],
            &["data: 1\r\n", "", "\r\n"],
            &["a", "b", "c", "d", "\r", "\n", "\r", "\n"],
            &["\n\n"],
        ] {
            assert!(after(ended), "{ended:?}");
        }
        for passing in
            [&["data: 1\n"][..], &["data: 1\r\n"], &["data: 1\n\nid"], &["\n", "x", "\n"], &["\n"], &["\r", "\n"]]
        {
            assert!(!after(passing), "{passing:?}");
        }
    }

    #[test]
    fn a_stream_is_told_when_it_is_time_and_again_while_it_stays() {
        let leave = Leave::default();
        assert!(!leave.sweep(1_000) && !leave.is_told());
        leave.set_due(Some(2_000));
        assert!(!leave.sweep(1_999) && !leave.is_told());
        assert!(!leave.sweep(2_000) && leave.is_told());
        assert!(!leave.is_pressed(3_999) && leave.is_pressed(4_000));
        assert!(!leave.sweep(7_000), "it may still end by itself");
        assert!(leave.sweep(7_001));
    }

    #[test]
    fn a_stream_that_is_to_go_on_is_not_told() {
        let leave = Leave::default();
        leave.set_due(Some(1_000));
        leave.set_due(None);
        leave.sweep(5_000);
        assert!(!leave.is_told());
    }
}
