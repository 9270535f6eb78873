//! What came of a load?

use std::time::{Duration, Instant};

use anyhow::bail;
use hdrhistogram::Histogram;

/// What came of one.
pub(crate) struct Outcome {
    /// Nanoseconds from the time on the schedule to the last byte of the answer.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds from the time on the schedule to the sending, where a connection was free: the generator's own.
    pub(crate) late: Histogram<u64>,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) failed: Failed,
    /// Connections that the proxy closed between two requests.
    pub(crate) renewed: u64,
    pub(crate) elapsed: Duration,
    /// Each answer, if the talk tells colors.
    pub(crate) seen: Vec<Seen>,
}

/// Requests without a right answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Failed {
    /// Closed before a byte of the answer: a browser would ask again.
    pub(crate) unanswered: u64,
    /// Closed within the answer.
    pub(crate) cut: u64,
    /// Another answer than 200.
    pub(crate) refused: u64,
    /// No answer in time.
    pub(crate) late: u64,
}

impl Failed {
    pub(crate) fn all(&self) -> u64 {
        self.unanswered + self.cut + self.refused + self.late
    }
}

/// An answer, and from which color it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) sent: Instant,
    pub(crate) done: Instant,
    /// Its first letter.
    pub(crate) color: u8,
}

impl Outcome {
    /// Per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    /// Milliseconds; 1.0 is the longest of all.
    pub(crate) fn millis(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1e6
    }

    /// Fails if a request did.
    pub(crate) fn all_answered(self) -> anyhow::Result<Outcome> {
        if self.failed.all() > 0 {
            bail!("{} requests of {} failed: {:?}", self.failed.all(), self.sent, self.failed);
        }
        Ok(self)
    }
}
