//! For what has a request waited too long? Whom it waits for now, since when, and how much of the client's time is
//! spent.
//!
//! Nobody keeps a timer: each sweep of the worker looks at where a request stands. The time between two sweeps is put
//! down to whomever the later one finds it waiting for, so neither the backend's slowness nor ours is a client's.

use std::cell::Cell;

use bgproxy_conf::Protocol;

use super::super::error::Reason;
use super::super::worker::{Limits, SWEEP};
use super::Flight;
use crate::cell::StreamKind;

/// So many milliseconds a client may take without having passed anything.
const GRACE: i64 = 5_000;

/// What a client has passed pays for so many milliseconds more, at most: a pause after gigabytes is no longer than one
/// after kilobytes.
const SAVED: i64 = 300_000;

/// No rate is reckoned above this, a terabyte per second, so that sums stay sums.
const FASTEST: u64 = 1 << 40;

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Reaching the backend: `connect` has its own deadline.
    Connecting,
    /// Waiting for the answer's head.
    Waiting,
    /// The answer streams.
    Streaming,
    /// All of it is with the kernel or on its way there.
    Flushing,
}

/// Whom a body waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// For the client: to send, or to take.
    Client,
    /// For the backend.
    Backend,
    /// It is complete, or has not begun.
    Nobody,
}

/// The client's account in one direction: waiting costs at the least rate, what passes pays.
///
/// An answer has passed when the kernel has taken it for the client, and the kernel takes it in lumps: some 64 KiB when
/// half of what it keeps has left ([`super::super::listen`]). A lump pays for the wait before the next one, so a client
/// above the rate never falls into debt, however coarse the lumps. Requests that share a connection share its client's
/// time: it is the line that is slow, not each of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Bytes that had passed at the last sweep.
    passed: u64,
    /// In thousandths of a byte; below zero it is savings.
    debt: i64,
}

impl Pace {
    /// A new account, at so many bytes.
    pub(super) fn at(passed: u64) -> Pace {
        Pace { passed, debt: 0 }
    }

    /// A sweep finds the client waited for, by a request among so many: so many bytes have passed in all, so many per
    /// second are the least; true when that is too slow.
    fn lags(&mut self, passed: u64, rate: u64, among: u32) -> bool {
        let rate = rate.min(FASTEST) as i64;
        let bytes = i64::try_from(passed.saturating_sub(self.passed)).unwrap_or(i64::MAX);
        self.passed = passed;
        let paid = self.debt.saturating_sub(bytes.saturating_mul(1000)).max(-rate * SAVED);
        self.debt = paid.saturating_add(rate * SWEEP.as_millis() as i64 / i64::from(among.max(1)));
        self.debt > rate * GRACE
    }
}

impl Flight {
    // --- what moves

    /// Something moved.
    pub fn touch(&self) {
        self.touched.set(self.worker.now());
    }

    /// Bytes of the request's body passed.
    pub fn received(&self, bytes: u64) {
        self.bytes_in.set(self.bytes_in.get() + bytes);
        self.touch();
    }

    /// The request's body is wanted: it waits for the client, or for the backend to take what came.
    pub fn uploads(&self, for_client: bool) {
        self.wait_for(&self.upload, if for_client { Side::Client } else { Side::Backend });
    }

    /// The request's body is complete.
    pub fn uploaded(&self) {
        self.upload.set(Side::Nobody);
        self.conn.heard();
    }

    /// The request's body is the client's part of a conversation, as gRPC has them: when it says the next word is
    /// between it and the backend. Over HTTP/1.1 there are none.
    pub fn converses(&self) {
        self.conversation.set(self.lane().is_some_and(|lane| lane.backend.protocol == Protocol::H2c));
    }

    /// Bytes of the answer's body passed.
    pub fn sent(&self, bytes: u64) {
        self.bytes_out.set(self.bytes_out.get() + bytes);
        self.touch();
    }

    /// The answer's body waits for the backend, or for the client to take what came.
    pub fn awaits_backend(&self, backend: bool) {
        self.wait_for(&self.download, if backend { Side::Backend } else { Side::Client });
    }

    /// So many bytes of the answer wait for the window of their HTTP/2 stream.
    pub fn holds_back(&self, bytes: usize) {
        // A piece that a client takes in many small steps is long on its way, and yet taken.
        if self.held_back.replace(bytes as u64) != bytes as u64 {
            self.touch();
        }
    }

    /// Bytes that were with the library have left on their HTTP/2 stream.
    pub fn flushed(&self, bytes: u32) {
        self.flushed.set(self.flushed.get() + u64::from(bytes));
        self.touch();
    }

    fn wait_for(&self, body: &Cell<Side>, side: Side) {
        if body.replace(side) != side {
            // How long the other side took is not held against this one.
            self.touch();
        }
    }

    // --- what does not

    /// For how long nothing has moved.
    fn still(&self, now: u64) -> u64 {
        now.saturating_sub(self.touched.get())
    }

    /// How many bytes the client has taken, of this answer and on a connection of its own also of those before.
    fn taken(&self) -> u64 {
        if self.stream_id == 0 {
            return self.conn.written();
        }
        // What is with the library counts twice: at most its buffer.
        self.bytes_out.get().saturating_sub(self.held_back.get()) + self.flushed.get()
    }

    /// The deadline that has passed, if one has. To be asked once in every sweep.
    pub fn overdue(&self, now: u64, limits: &Limits) -> Option<Reason> {
        let terms = self.terms.get();
        let kind = self.stream();
        let idle = match kind {
            Some(StreamKind::Tunnel) => return None,
            Some(StreamKind::Events) => terms.stream_idle,
            Some(StreamKind::Download) | None => terms.idle,
        };
        if self.stream_id != 0 && self.upload.get() == Side::Backend {
            self.conn.clogs(now);
        }
        let still = self.still(now);
        match self.step.get() {
            // Connecting has its own deadline, in the pool.
            Step::Connecting => None,
            // Uploads share a window. One that its backend does not take may keep the client from sending the others;
            // what is in the way has the backend's deadline.
            Step::Waiting if self.upload.get() == Side::Client && self.stream_id != 0 && self.conn.is_clogged(now) => {
                self.touch();
                None
            }
            Step::Waiting if self.upload.get() == Side::Client => {
                let mut pace = self.upload_pace.get();
                let rate = if self.conversation.get() { 0 } else { limits.body_rate };
                let lags = pace.lags(self.bytes_in.get(), rate, self.conn.busy());
                self.upload_pace.set(pace);
                (lags || still > terms.idle).then_some(Reason::BodyTimeout)
            }
            Step::Waiting => (still > terms.response).then_some(Reason::ResponseTimeout),
            Step::Streaming if self.download.get() == Side::Backend => (still > idle).then_some(Reason::BackendStalled),
            Step::Streaming | Step::Flushing => {
                let mut pace = self.download_pace.get();
                let rate = if kind == Some(StreamKind::Events) { 0 } else { limits.answer_rate };
                let lags = pace.lags(self.taken(), rate, self.conn.busy());
                self.download_pace.set(pace);
                // A client that takes the answer byte by byte empties hyper's buffers for long, and yet takes it. Of
                // one stream among others, what the connection takes says nothing.
                let still = if self.stream_id == 0 { still.min(now.saturating_sub(self.conn.taken())) } else { still };
                (lags || still > idle).then_some(Reason::ClientTimeout)
            }
        }
    }

    /// Tells the stream to leave when that is due, or when it is a tunnel without use; breaks it off if it stays.
    pub fn sweep(&self, now: u64) {
        // Where nothing passes any more there is time for a last word.
        if self.stream() == Some(StreamKind::Tunnel) && self.still(now) > self.terms.get().stream_idle {
            self.reason.set(Some(Reason::TunnelIdle));
            self.leave.tell(now);
        }
        if self.leave.sweep(now) {
            self.condemn(self.reason.get().unwrap_or(Reason::StreamEnded));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds of being waited for a client lags that passes what `passed` says for each second.
    fn lags_after(rate: u64, within: u64, passed: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut pace, mut sum) = (Pace::at(0), 0);
        (0..within * 10)
            .find(|sweep| {
                if sweep % 10 == 9 {
                    sum += passed(sweep / 10);
                }
                pace.lags(sum, rate, 1)
            })
            .map(|sweep| sweep / 10)
    }

    #[test]
    fn a_client_that_passes_nothing_has_five_seconds() {
        assert_eq!(lags_after(240, 60, |_| 0), Some(5));
        assert_eq!(lags_after(1, 60, |_| 0), Some(5));
        assert_eq!(lags_after(u64::MAX, 60, |_| 0), Some(5));
    }

    #[test]
    fn a_client_at_the_least_rate_is_never_too_slow_and_one_below_is_in_the_end() {
        assert_eq!(lags_after(240, 100_000, |_| 240), None);
        assert_eq!(lags_after(240, 100_000, |_| 239), Some(985));
        assert_eq!(lags_after(240, 100_000, |_| 120), Some(9));
        // One byte a second, as slowhttptest sends them.
        assert_eq!(lags_after(240, 60, |_| 1), Some(5));
    }

    #[test]
    fn lumps_pay_for_the_wait_between_them() {
        // A modem of 56 kbit/s behind a send buffer of which four minutes' worth is taken at once.
        let lumps = |second| if second % 240 == 0 { 240 * 7000 } else { 0 };
        assert_eq!(lags_after(240, 10_000, lumps), None);
    }

    #[test]
    fn what_has_passed_pays_for_a_pause_of_minutes_not_of_days() {
        let then_nothing = |second| if second == 0 { 1 << 30 } else { 0 };
        assert_eq!(lags_after(240, 100_000, then_nothing), Some(305));
    }

    #[test]
    fn without_a_least_rate_nobody_is_too_slow() {
        assert_eq!(lags_after(0, 10_000, |_| 0), None);
    }

    #[test]
    fn bytes_of_earlier_answers_pay_nothing() {
        let mut pace = Pace::at(1 << 40);
        assert!((0..50).all(|_| !pace.lags(1 << 40, 240, 1)));
        assert!(pace.lags(1 << 40, 240, 1));
    }

    #[test]
    fn requests_of_one_connection_share_its_clients_time() {
        // A hundred images over a modem: each gets a piece of 16 KiB when its turn comes, every four minutes.
        let mut pace = Pace::at(0);
        let lags = |sweep: u64, pace: &mut Pace| pace.lags(sweep / 2340 * 16_384, 240, 100);
        assert!((0..100_000).all(|sweep| !lags(sweep, &mut pace)));
        let mut pace = Pace::at(0);
        assert_eq!((0..100_000).position(|_| pace.lags(0, 240, 100)), Some(5000));
    }
}
