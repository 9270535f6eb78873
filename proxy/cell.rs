//! How many requests does one worker have on one backend? Counted without a lock, by one writer, for any reader.
//!
//! Each worker owns one [`Cell`] per backend, on cache lines of its own, so counting is a plain load and store. A
//! reader sums the cells of all workers. What a sum means depends on when it is read: only after a fence (see
//! [`crate::mail`]) is "nothing in flight" a promise that nothing will be again.

// The model in cell/model.rs compiles this file a second time, against loom's atomics.
use super::atomic::{AtomicU64, Ordering};

/// One worker's ledger of one backend. Written by its worker alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Cell {
    claimed: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    moved: AtomicU64,
    streams_opened: AtomicU64,
    streams_closed: AtomicU64,
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The answer's last byte was written.
    Finished,
    /// It was not: the client left, the backend failed, or the request was cut.
    Failed,
    /// The request was sent to another backend instead.
    Moved,
    /// The answer turned out to be a stream, which is counted apart from now on.
    Stream,
}

/// A sum of cells: accepted = finished + failed + moved + in flight.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Requests ever claimed.
    pub claimed: u64,
    /// Requests answered to the last byte.
    pub finished: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Requests that another backend took over.
    pub moved: u64,
    /// Event streams and tunnels open now.
    pub streams: u64,
}

impl Sum {
    /// Requests that hold a claim now.
    pub fn in_flight(&self) -> u64 {
        self.claimed.saturating_sub(self.finished + self.failed + self.moved)
    }
}

impl Cell {
    /// Counts a request in.
    pub fn claim(&self) {
        bump(&self.claimed);
    }

    /// Counts a request out.
    pub fn release(&self, end: End) {
        match end {
            End::Finished => bump(&self.finished),
            End::Failed => bump(&self.failed),
            End::Moved => bump(&self.moved),
            End::Stream => {
                // The stream is there before the request is gone, so that no reader sees neither.
                bump(&self.streams_opened);
                bump(&self.finished);
            }
        }
    }

    /// Counts a stream out.
    pub fn close_stream(&self) {
        bump(&self.streams_closed);
    }

    /// Adds this cell to `sum`.
    ///
    /// Ends are read before beginnings: a request that ends in between is seen as still in flight, never the other
    /// way round, so a zero is a true zero.
    pub fn add_to(&self, sum: &mut Sum) {
        sum.finished += self.finished.load(Ordering::Acquire);
        sum.failed += self.failed.load(Ordering::Acquire);
        sum.moved += self.moved.load(Ordering::Acquire);
        sum.claimed += self.claimed.load(Ordering::Acquire);
        let closed = self.streams_closed.load(Ordering::Acquire);
        sum.streams += self.streams_opened.load(Ordering::Acquire).saturating_sub(closed);
    }
}

/// One more, by the only writer: a load and a store instead of a locked instruction. Release, so that whoever sees
/// the new count also sees everything that was done before it.
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
}
