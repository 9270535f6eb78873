//! What may one address cost? Its connections and its requests are counted over all workers, while there are limits.
//!
//! The only memory that workers share while they serve: [`seats`], touched when a connection begins and ends, and
//! [`buckets`], one line of cache for each request. Without limits nobody touches either.

pub mod buckets;
pub mod seats;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::buckets::Buckets;
use self::seats::Seats;

/// Whom limits count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Block {
    /// An IPv4 address.
    V4(u32),
    /// The network of an IPv6 address, its first 64 bits: whoever has one address has all of them.
    V6(u64),
}

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Block {
        match address.to_canonical() {
            IpAddr::V4(address) => Block::V4(address.to_bits()),
            IpAddr::V6(address) => Block::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// What all workers count together.
#[derive(Debug, Default)]
pub struct Limiter {
    /// Connections by address.
    pub seats: Arc<Seats>,
    /// Weak: a table is there while a worker uses it. Locked when a limit changes.
    buckets: Mutex<Weak<Buckets>>,
    /// Locked ten times a second by a worker that turns clients away.
    told: Mutex<Told>,
}

/// What has become of clients because of limits.
#[derive(Debug, Default, Clone, Copy)]
pub struct Turned {
    /// Connections closed because their address had too many.
    pub connections: u64,
    /// Requests refused because their address had too many.
    pub requests: u64,
    /// Connections closed to make room.
    pub reclaimed: u64,
    /// The newest address that had too many.
    pub last: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    since: Turned,
}

impl Limiter {
    /// The buckets that workers share for this rate; none where there is no limit.
    pub fn buckets(&self, rate: u32) -> Option<Arc<Buckets>> {
        if rate == 0 {
            return None;
        }
        let mut shared = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buckets) = shared.upgrade().filter(|buckets| buckets.rate() == rate) {
            return Some(buckets);
        }
        let buckets = Arc::new(Buckets::new(rate));
        *shared = Arc::downgrade(&buckets);
        Some(buckets)
    }

    /// Tells operators what was turned away: at once, and then at most every ten seconds, over all workers.
    pub fn tell(&self, turned: Turned) {
        const EVERY: Duration = Duration::from_secs(10);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.since.connections += turned.connections;
        told.since.requests += turned.requests;
        told.since.reclaimed += turned.reclaimed;
        told.since.last = turned.last.or(told.since.last);
        if told.at.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        told.at = Some(Instant::now());
        let Turned { connections, requests, reclaimed, last } = std::mem::take(&mut told.since);
        let last = last.map(tracing::field::display);
        tracing::warn!(connections, requests, reclaimed, last, "limits were reached, since the last such line");
    }
}
