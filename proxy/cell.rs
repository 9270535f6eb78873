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
    /// By kind.
    streams_opened: [AtomicU64; StreamKind::ALL.len()],
    streams_closed: [AtomicU64; StreamKind::ALL.len()],
    /// Those of the closed ones that had been told to leave.
    streams_ended: AtomicU64,
    /// When the oldest open stream began, in milliseconds since the epoch; 0 while that is not known.
    oldest: AtomicU64,
}

/// What kind of stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Bytes both ways, after an upgrade.
    Tunnel,
    /// An event stream.
    Events,
    /// An answer that outlived the deadline of a drain.
    Download,
}

impl StreamKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [StreamKind; 3] = [StreamKind::Tunnel, StreamKind::Events, StreamKind::Download];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            StreamKind::Tunnel => "tunnel",
            StreamKind::Events => "events",
            StreamKind::Download => "download",
        }
    }
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
    Stream(StreamKind),
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
    /// Streams open now.
    pub streams: u64,
    /// The same by kind, in the order of [`StreamKind::ALL`].
    pub streams_by_kind: [u64; StreamKind::ALL.len()],
    /// Streams that ended because they had been told to leave.
    pub streams_ended: u64,
    /// When the oldest open stream began, in milliseconds since the epoch, once that is known.
    pub oldest: Option<u64>,
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
            End::Stream(kind) => {
                // The stream is there before the request is gone, so that no reader sees neither.
                bump(&self.streams_opened[kind as usize]);
                bump(&self.finished);
            }
        }
    }

    /// Counts a stream out; `ended` when it had been told to leave.
    pub fn close_stream(&self, kind: StreamKind, ended: bool) {
        if ended {
            bump(&self.streams_ended);
        }
        bump(&self.streams_closed[kind as usize]);
        let count = |counters: &[AtomicU64]| counters.iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>();
        if count(&self.streams_closed) == count(&self.streams_opened) {
            self.set_oldest(0);
        }
    }

    /// Notes when the oldest open stream began, in milliseconds since the epoch.
    pub fn set_oldest(&self, began: u64) {
        self.oldest.store(began, Ordering::Relaxed);
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
        for kind in StreamKind::ALL {
            let closed = self.streams_closed[kind as usize].load(Ordering::Acquire);
            let open = self.streams_opened[kind as usize].load(Ordering::Acquire).saturating_sub(closed);
            sum.streams_by_kind[kind as usize] += open;
            sum.streams += open;
        }
        sum.streams_ended += self.streams_ended.load(Ordering::Acquire);
        let began = Some(self.oldest.load(Ordering::Relaxed)).filter(|began| *began > 0);
        sum.oldest = [sum.oldest, began].into_iter().flatten().min();
    }
}

/// One more, by the only writer: a load and a store instead of a locked instruction. Release, so that whoever sees
/// the new count also sees everything that was done before it.
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
}
