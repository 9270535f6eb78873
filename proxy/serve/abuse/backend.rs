//! Does a backend flood us? The same frames have other prices than from a client: many clients' requests share a
//! connection, a backend has a round trip of microseconds, and it answers. Pure: no I/O.

use super::super::frames::{Frame, Kind};
use super::{Beside, Budget, Flood, Price, Prices, flood};

/// Interim answers (1xx) that may come before one answer over HTTP/1.1, at once and per second.
pub const INTERIMS: u64 = 1000;
/// See [`INTERIMS`].
pub const INTERIMS_PER_SECOND: u64 = 100;

const PRICES: Prices = Prices {
    // Each server sends one.
    settings: Price::new(60, 1_000_000),
    // To see whether we are still there. What measures the line by pings sends them behind DATA of ours.
    pings: Price::new(10_000, 200),
    // h2 takes no more than a hundred in the whole life of a connection.
    empties: Price::new(100, 100_000),
    window_updates: Price::new(100_000, 20),
    // Of some use to browsers alone; and a few frames of extensions.
    priorities: Price::new(1000, 10_000),
};

// grpc-go sends a PING behind DATA, one per round trip, and a round trip may be 50 us. A naive server makes room on the
// stream and on the connection for each piece that it reads of it, however small its reads are.
const PINGS_PER_DATA: u64 = 1;
const WINDOW_UPDATES_PER_DATA: u64 = 8;
const BYTES_PER_WINDOW_UPDATE: u64 = 128;

// An answer has a head, perhaps trailers, and before it a 100 and some 103. A request pays for all of them, once the
// next one begins; so those of as many requests as a connection has at once may be owed, twice over.
const HEADS: Price = Price::new(4000, 10_000);
const HEADS_PER_REQUEST: u64 = 16;

// One that answers before all of an upload has come resets the stream behind its answer, and so do gRPC's servers.
const RESETS: Price = Price::new(1000, 10_000);
const RESETS_PER_REQUEST: u64 = 2;

// We reset a stream that its client has left, and again for what still comes when that is forgotten: most often an
// answer that was given up long ago.
const REFUSALS: Price = Price::new(1000, 10_000);
const REFUSALS_PER_REQUEST: u64 = 16;

/// What one backend has done so far, on one connection.
#[derive(Debug, Default)]
pub struct BackendAbuse {
    beside: Beside,
    heads: Budget,
    resets: Budget,
    refusals: Budget,
}

impl BackendAbuse {
    /// A request was begun, which gives the backend something to say.
    pub fn asked(&mut self) {
        self.heads.earn(HEADS_PER_REQUEST * HEADS.each);
        self.resets.earn(RESETS_PER_REQUEST * RESETS.each);
        self.refusals.earn(REFUSALS_PER_REQUEST * REFUSALS.each);
    }

    /// So many bytes of DATA were sent, which it may want to confirm.
    pub fn sent(&mut self, length: u32) {
        let window_updates = WINDOW_UPDATES_PER_DATA + u64::from(length) / BYTES_PER_WINDOW_UPDATE;
        self.beside.pings.earn(PINGS_PER_DATA * PRICES.pings.each);
        self.beside.window_updates.earn(window_updates * PRICES.window_updates.each);
    }

    /// A stream was reset by us, at `now` in milliseconds.
    pub fn refused(&mut self, now: u64) -> Option<Flood> {
        flood(self.refusals.spend(REFUSALS.each, REFUSALS.depth, now.saturating_mul(1000)), Flood::RefusedStreams)
    }

    /// Takes note of a frame that came from the backend, at `now` in milliseconds.
    pub fn note(&mut self, frame: Frame, now: u64) -> Option<Flood> {
        let Frame::Begins { kind, flags, length, .. } = frame else { return None };
        let at = now.saturating_mul(1000);
        let (budget, price, of) = match kind {
            Kind::Headers => (&mut self.heads, HEADS, Flood::Interims),
            Kind::Reset => (&mut self.resets, RESETS, Flood::Resets),
            _ => return self.beside.note(kind, flags, length, at, &PRICES),
        };
        // A block of headers begins anew.
        let _never = self.beside.note(kind, flags, length, at, &PRICES);
        flood(budget.spend(price.each, price.depth, at), of)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::frames::{ACK, END_STREAM};
    use super::*;

    fn begins(kind: Kind, flags: u8, length: u32) -> Frame {
        Frame::Begins { kind, flags, stream: 1, length }
    }

    #[test]
    fn every_cheap_frame_has_an_end() {
        for (frame, count, of) in [
            (begins(Kind::Settings, 0, 6), 60, Flood::Settings),
            (begins(Kind::Settings, ACK, 0), 6000, Flood::Settings),
            (begins(Kind::Ping, 0, 8), 10_000, Flood::Pings),
            (begins(Kind::Data, 0, 0), 100, Flood::EmptyFrames),
            (begins(Kind::WindowUpdate, 0, 4), 100_000, Flood::WindowUpdates),
            (begins(Kind::Priority, 0, 5), 1000, Flood::Priorities),
            (begins(Kind::Unknown(0x77), 0, 0), 1000, Flood::Priorities),
            (begins(Kind::Headers, 0x4, 8), 4000, Flood::Interims),
            (begins(Kind::Reset, 0, 4), 1000, Flood::Resets),
            (begins(Kind::Continuation, 0, 8), 72, Flood::Continuations),
        ] {
            let mut abuse = BackendAbuse::default();
            let taken = (0..1_000_000).take_while(|_| abuse.note(frame, 5000).is_none()).count();
            assert_eq!((taken, abuse.note(frame, 5000)), (count, Some(of)), "{frame:?}");
        }
    }

    #[test]
    fn answers_to_what_was_asked_are_no_flood() {
        let mut abuse = BackendAbuse::default();
        // All at one moment: nothing but the requests pays.
        for _ in 0..100_000 {
            abuse.asked();
            for _ in 0..HEADS_PER_REQUEST {
                assert_eq!(abuse.note(begins(Kind::Headers, 0x4, 8), 0), None);
            }
            assert_eq!(abuse.note(begins(Kind::Data, END_STREAM, 0), 0), None);
            for _ in 0..RESETS_PER_REQUEST {
                assert_eq!(abuse.note(begins(Kind::Reset, 0, 4), 0), None);
            }
        }
    }

    #[test]
    fn what_a_hundred_requests_wait_for_may_come_at_once() {
        let mut abuse = BackendAbuse::default();
        for _ in 0..100 * HEADS_PER_REQUEST {
            assert_eq!(abuse.note(begins(Kind::Headers, 0x4, 8), 0), None);
        }
    }

    #[test]
    fn confirmations_of_what_was_sent_are_no_flood() {
        let mut abuse = BackendAbuse::default();
        for _ in 0..1_000_000 {
            abuse.sent(16 * 1024);
            assert_eq!(abuse.note(begins(Kind::Ping, 0, 8), 0), None);
            for _ in 0..WINDOW_UPDATES_PER_DATA + 16 * 1024 / BYTES_PER_WINDOW_UPDATE {
                assert_eq!(abuse.note(begins(Kind::WindowUpdate, 0, 4), 0), None);
            }
        }
    }

    #[test]
    fn streams_that_clients_leave_are_no_flood_of_the_backends() {
        let mut abuse = BackendAbuse::default();
        for _ in 0..100_000 {
            abuse.asked();
            for _ in 0..REFUSALS_PER_REQUEST {
                assert_eq!(abuse.refused(0), None);
            }
        }
        abuse.asked();
        let refused = (0..1_000_000).take_while(|_| abuse.refused(0).is_none()).count();
        assert_eq!((refused, abuse.refused(0)), (1000, Some(Flood::RefusedStreams)));
    }

    #[test]
    fn nothing_is_saved_up_for_a_flood() {
        let mut abuse = BackendAbuse::default();
        for _ in 0..1_000_000 {
            abuse.asked();
            abuse.sent(1);
        }
        for (frame, count) in [(begins(Kind::Headers, 0x4, 8), 4000), (begins(Kind::Ping, 0, 8), 10_000)] {
            let taken = (0..1_000_000).take_while(|_| abuse.note(frame, 0).is_none()).count();
            assert_eq!(taken, count, "{frame:?}");
        }
    }
}
