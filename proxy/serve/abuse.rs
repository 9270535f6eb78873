//! Does whoever speaks HTTP/2 with us flood us? Each cheap frame that costs us work is paid from a budget. Pure: no
//! I/O.
//!
//! A request is bounded by everything that bounds requests. What is bounded here is what comes beside requests, where a
//! few bytes make us work. The budgets are far above what any known client or backend ([`backend`]) does, and far below
//! what hurts: the most that passes unseen costs one worker some percent of its time.

pub mod backend;

use std::fmt;

use super::frames::{ACK, END_STREAM, Frame, Kind};

/// What a client, or a backend, does too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Begins streams and takes them back (CVE-2023-44487).
    Resets,
    /// SETTINGS, each of which we must confirm (CVE-2019-9515).
    Settings,
    /// PINGs, each of which we must answer (CVE-2019-9512).
    Pings,
    /// A block of headers that goes on and on (CVE-2024-27316).
    Continuations,
    /// Frames of a body without a byte of it (CVE-2019-9518).
    EmptyFrames,
    /// Room for bodies, a byte at a time (CVE-2019-9511).
    WindowUpdates,
    /// Advice (CVE-2019-9513), and frames that say nothing to us.
    Priorities,
    /// Streams that had to be refused: too many headers, malformed ones.
    RefusedStreams,
    /// Answers that are asked for and not taken (CVE-2019-9517).
    Stalls,
    /// Heads that are no answer yet (1xx), of a backend.
    Interims,
}

impl Flood {
    /// Every one there is.
    pub const ALL: [Flood; 10] = [
        Flood::Resets,
        Flood::Settings,
        Flood::Pings,
        Flood::Continuations,
        Flood::EmptyFrames,
        Flood::WindowUpdates,
        Flood::Priorities,
        Flood::RefusedStreams,
        Flood::Stalls,
        Flood::Interims,
    ];

    /// Its name in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Flood::Resets => "h2_reset_flood",
            Flood::Settings => "h2_settings_flood",
            Flood::Pings => "h2_ping_flood",
            Flood::Continuations => "h2_continuation_flood",
            Flood::EmptyFrames => "h2_empty_frame_flood",
            Flood::WindowUpdates => "h2_window_update_flood",
            Flood::Priorities => "h2_priority_flood",
            Flood::RefusedStreams => "h2_refused_stream_flood",
            Flood::Stalls => "h2_stall_flood",
            Flood::Interims => "h2_interim_flood",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for Flood {}

/// Streams older than this are not what a reset flood is made of: as many as may be open at once, once a second.
const OLD: u64 = 1000;

// A stream taken back young costs 20 ms of the budget, and one that begins pays 10 ms back. So who cancels no more than
// half of what it asks for is never hurt: a gRPC client that hedges, a map that is dragged. Who cancels everything has
// some 500 streams at once (five pages of a hundred images) and 100 a second after that. Envoy has the same 500, the
// same half and the same second of age.
const RESETS: Depth = Depth(6_000_000);
const RESET: u64 = 20_000;
const OPENED: u64 = 10_000;
// A deadline that passed. Not free: a stream that has long ended can be reset again and again.
const RESET_OLD: u64 = RESET / 10;

const PRICES: Prices = Prices {
    // Clients send one SETTINGS, and those that measure the line some more in the first seconds.
    settings: Price::new(60, 1_000_000),
    // grpc-go sends one per round trip while it downloads: 5,000 a second on a line of 0.2 ms.
    pings: Price::new(10_000, 200),
    // Some clients write an empty piece where they flush; nobody flushes nothing more often than this.
    empties: Price::new(100, 100_000),
    // A naive client sends two for each frame of DATA, and downloads 3 Gbit/s in frames of 16 KiB.
    window_updates: Price::new(100_000, 20),
    // Browsers send some for each stream, and one when a picture scrolls into view.
    priorities: Price::new(1000, 10_000),
};

// A browser whose cookies have grown too large is refused for every image of a page.
const REFUSALS: Depth = Depth(200 * REFUSAL);
const REFUSAL: u64 = 100_000;

// A phone in a tunnel comes back to nothing; it has not asked for dozens of things meanwhile.
const STALLS: Depth = Depth(32 * STALL);
const STALL: u64 = 10_000_000;

/// How far one may run ahead of time, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Depth(u64);

/// What a frame costs.
#[derive(Clone, Copy, Debug)]
struct Price {
    each: u64,
    depth: Depth,
}

impl Price {
    /// So many at once, and one in so many microseconds.
    const fn new(at_once: u64, each: u64) -> Price {
        Price { each, depth: Depth(at_once * each) }
    }
}

/// What the frames cost that either side may send beside requests and answers.
#[derive(Debug)]
struct Prices {
    settings: Price,
    pings: Price,
    empties: Price,
    window_updates: Price,
    priorities: Price,
}

// We send few SETTINGS ourselves, so that confirmations are fewer still; they cost nothing but the reading.
const SETTING_ACKS: u64 = 100;

// The largest block of headers that can be configured, 1 MiB, fills 64 frames of the usual size.
const CONTINUATIONS: u32 = 72;

/// What was spent, as the microsecond at which it will be paid off: time pays, and nothing is saved up.
#[derive(Clone, Copy, Debug, Default)]
struct Budget(u64);

impl Budget {
    /// Whether there was enough.
    fn spend(&mut self, price: u64, depth: Depth, now: u64) -> bool {
        let owed = self.0.saturating_sub(now).saturating_add(price);
        if owed > depth.0 {
            return false;
        }
        self.0 = now.saturating_add(owed);
        true
    }

    fn earn(&mut self, price: u64) {
        self.0 = self.0.saturating_sub(price);
    }
}

/// What one side has sent so far beside requests and answers.
#[derive(Debug, Default)]
struct Beside {
    settings: Budget,
    pings: Budget,
    empties: Budget,
    window_updates: Budget,
    priorities: Budget,
    continuations: u32,
}

impl Beside {
    /// Takes note of the beginning of a frame at `at`, in microseconds. What begins and ends streams is not dear here.
    fn note(&mut self, kind: Kind, flags: u8, length: u32, at: u64, prices: &Prices) -> Option<Flood> {
        let is_ack = flags & ACK != 0;
        let (budget, price, of) = match kind {
            Kind::Data if empty(flags, length) => (&mut self.empties, prices.empties, Flood::EmptyFrames),
            // Of bodies, the windows say how much there may be.
            Kind::Data | Kind::Reset => return None,
            Kind::Headers => {
                self.continuations = 0;
                return None;
            }
            Kind::Continuation => {
                self.continuations = self.continuations.saturating_add(1);
                return flood(self.continuations <= CONTINUATIONS, Flood::Continuations);
            }
            Kind::Settings => {
                let Price { each, depth } = prices.settings;
                let each = if is_ack { each / SETTING_ACKS } else { each };
                (&mut self.settings, Price { each, depth }, Flood::Settings)
            }
            Kind::Ping => (&mut self.pings, prices.pings, Flood::Pings),
            Kind::WindowUpdate => (&mut self.window_updates, prices.window_updates, Flood::WindowUpdates),
            Kind::Priority | Kind::PriorityUpdate | Kind::GoAway | Kind::PushPromise | Kind::Unknown(_) => {
                (&mut self.priorities, prices.priorities, Flood::Priorities)
            }
        };
        flood(budget.spend(price.each, price.depth, at), of)
    }
}

/// What one client has done so far, on one connection.
#[derive(Debug, Default)]
pub struct Abuse {
    beside: Beside,
    resets: Budget,
    refusals: Budget,
    stalls: Budget,
    ages: Ages,
}

impl Abuse {
    /// Takes note of a frame that came from the client, at `now` in milliseconds.
    pub fn note(&mut self, frame: Frame, now: u64) -> Option<Flood> {
        let Frame::Begins { kind, flags, stream, length } = frame else { return None };
        let at = now.saturating_mul(1000);
        if kind == Kind::Reset {
            let price = if self.ages.old(stream, now) { RESET_OLD } else { RESET };
            return flood(self.resets.spend(price, RESETS, at), Flood::Resets);
        }
        if kind == Kind::Headers && self.ages.opens(stream, now) {
            self.resets.earn(OPENED);
        }
        self.beside.note(kind, flags, length, at, &PRICES)
    }

    /// Takes note of a stream that was refused before it was a request, at `now` in milliseconds.
    pub fn refused(&mut self, now: u64) -> Option<Flood> {
        flood(self.refusals.spend(REFUSAL, REFUSALS, now.saturating_mul(1000)), Flood::RefusedStreams)
    }

    /// Takes note of an answer that was given up because the client took nothing of it, at `now` in milliseconds.
    pub fn stalled(&mut self, now: u64) -> Option<Flood> {
        flood(self.stalls.spend(STALL, STALLS, now.saturating_mul(1000)), Flood::Stalls)
    }
}

fn flood(within: bool, flood: Flood) -> Option<Flood> {
    if within { None } else { Some(flood) }
}

/// Whether a DATA frame surely holds nothing: no payload, or the length of a padding alone.
fn empty(flags: u8, length: u32) -> bool {
    const PADDED: u8 = 0x8;
    flags & END_STREAM == 0 && length <= u32::from(flags & PADDED != 0)
}

/// Which streams are old: their numbers grow, so that two marks tell, and no stream is kept in memory.
#[derive(Debug, Default)]
struct Ages {
    /// The highest stream.
    highest: u32,
    /// When it began.
    opened: u64,
    /// What the highest stream was when the mark was set.
    marked: u32,
    /// When that was.
    mark: u64,
    /// What the highest stream was one mark before: at least [`OLD`] ago.
    old: u32,
}

impl Ages {
    /// Whether these HEADERS begin a stream; trailers do not.
    fn opens(&mut self, stream: u32, now: u64) -> bool {
        if stream <= self.highest {
            return false;
        }
        if now.saturating_sub(self.mark) >= OLD {
            self.old = self.marked;
            self.marked = self.highest;
            self.mark = now;
        }
        self.highest = stream;
        self.opened = now;
        true
    }

    fn old(&self, stream: u32, now: u64) -> bool {
        stream <= self.old
            || (stream <= self.marked && now.saturating_sub(self.mark) >= OLD)
            || (stream <= self.highest && now.saturating_sub(self.opened) >= OLD)
    }
}

#[cfg(test)]
mod tests;
