//! Does an HTTP/2 client flood us? Each cheap frame that costs us work is paid from a budget. Pure: no I/O.
//!
//! A request is bounded by everything that bounds requests. What is bounded here is what comes beside requests, where a
//! few bytes make us work. The budgets are far above what any known client does, and far below what hurts: the most
//! that passes unseen costs one worker some percent of its time.

use super::frames::{ACK, END_STREAM, Frame, Kind};

/// What a client does too much of.
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
}

impl Flood {
    /// Every one there is.
    pub const ALL: [Flood; 9] = [
        Flood::Resets,
        Flood::Settings,
        Flood::Pings,
        Flood::Continuations,
        Flood::EmptyFrames,
        Flood::WindowUpdates,
        Flood::Priorities,
        Flood::RefusedStreams,
        Flood::Stalls,
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
        }
    }
}

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

// Clients send one SETTINGS, and those that measure the line some more in the first seconds. We send few ourselves,
// so that confirmations are fewer still; they cost nothing but the reading.
const SETTINGS: Depth = Depth(60 * SETTING);
const SETTING: u64 = 1_000_000;
const SETTING_ACK: u64 = SETTING / 100;

// grpc-go sends one per round trip while it downloads: 5,000 a second on a line of 0.2 ms.
const PINGS: Depth = Depth(10_000 * PING);
const PING: u64 = 200;
const PING_ACK: u64 = PING;

// The largest block of headers that can be configured, 1 MiB, fills 64 frames of the usual size.
const CONTINUATIONS: u32 = 72;

// Some clients write an empty piece where they flush; nobody flushes nothing more often than this.
const EMPTIES: Depth = Depth(100 * EMPTY);
const EMPTY: u64 = 100_000;

// A naive client sends two for each frame of DATA, and downloads 3 Gbit/s in frames of 16 KiB.
const WINDOW_UPDATES: Depth = Depth(100_000 * WINDOW_UPDATE);
const WINDOW_UPDATE: u64 = 20;

// Browsers send some for each stream, and one when a picture scrolls into view.
const PRIORITIES: Depth = Depth(1000 * PRIORITY);
const PRIORITY: u64 = 10_000;

// A browser whose cookies have grown too large is refused for every image of a page.
const REFUSALS: Depth = Depth(200 * REFUSAL);
const REFUSAL: u64 = 100_000;

// A phone in a tunnel comes back to nothing; it has not asked for dozens of things meanwhile.
const STALLS: Depth = Depth(32 * STALL);
const STALL: u64 = 10_000_000;

/// How far a client may run ahead of time, in microseconds.
struct Depth(u64);

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

/// What one client has done so far, on one connection.
#[derive(Debug, Default)]
pub struct Abuse {
    resets: Budget,
    settings: Budget,
    pings: Budget,
    empties: Budget,
    window_updates: Budget,
    priorities: Budget,
    refusals: Budget,
    stalls: Budget,
    continuations: u32,
    ages: Ages,
}

impl Abuse {
    /// Takes note of a frame that came from the client, at `now` in milliseconds.
    pub fn note(&mut self, frame: Frame, now: u64) -> Option<Flood> {
        let Frame::Begins { kind, flags, stream, length } = frame else { return None };
        let at = now.saturating_mul(1000);
        let ack = flags & ACK != 0;
        match kind {
            Kind::Data if empty(flags, length) => flood(self.empties.spend(EMPTY, EMPTIES, at), Flood::EmptyFrames),
            // Of bodies, the windows say how much there may be.
            Kind::Data => None,
            Kind::Headers => {
                self.continuations = 0;
                if self.ages.opens(stream, now) {
                    self.resets.earn(OPENED);
                }
                None
            }
            Kind::Continuation => {
                self.continuations = self.continuations.saturating_add(1);
                flood(self.continuations <= CONTINUATIONS, Flood::Continuations)
            }
            Kind::Reset => {
                let price = if self.ages.old(stream, now) { RESET_OLD } else { RESET };
                flood(self.resets.spend(price, RESETS, at), Flood::Resets)
            }
            Kind::Settings => {
                let price = if ack { SETTING_ACK } else { SETTING };
                flood(self.settings.spend(price, SETTINGS, at), Flood::Settings)
            }
            Kind::Ping => {
                let price = if ack { PING_ACK } else { PING };
                flood(self.pings.spend(price, PINGS, at), Flood::Pings)
            }
            Kind::WindowUpdate => {
                flood(self.window_updates.spend(WINDOW_UPDATE, WINDOW_UPDATES, at), Flood::WindowUpdates)
            }
            Kind::Priority | Kind::PriorityUpdate | Kind::GoAway | Kind::PushPromise | Kind::Unknown(_) => {
                flood(self.priorities.spend(PRIORITY, PRIORITIES, at), Flood::Priorities)
            }
        }
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
