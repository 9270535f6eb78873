//! What may one address cost? Its connections and its requests are counted over all workers, while there are limits.
//!
//! The only memory that workers share while they serve: [`badges`], touched when a connection begins and ends, and
//! [`buckets`], one line of cache for each request. Without limits nobody touches either.

pub mod badges;
pub mod buckets;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bgproxy_conf::wire::Refused;

use self::badges::Badges;
use self::buckets::Buckets;

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
    pub badges: Arc<Badges>,
    /// Weak: a table is there while a worker uses it. Locked when a limit changes.
    buckets: Mutex<Weak<Buckets>>,
    /// Locked ten times a second by each worker, and when somebody looks.
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

impl Turned {
    fn add(&mut self, other: Turned) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.reclaimed += other.reclaimed;
        self.last = other.last.or(self.last);
    }

    fn is_none(&self) -> bool {
        self.connections + self.requests + self.reclaimed == 0
    }
}

/// When operators were told last, and what has become of clients since.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    since: Turned,
    lately: Lately,
}

/// What has become of clients in the last minute, each second of it with when it began; the oldest first.
#[derive(Debug, Default)]
struct Lately(VecDeque<(Instant, Turned)>);

impl Lately {
    const LONG: Duration = Duration::from_secs(60);

    fn add(&mut self, turned: Turned, now: Instant) {
        self.forget(now);
        match self.0.back_mut() {
            Some((begun, second)) if now.saturating_duration_since(*begun) < Duration::from_secs(1) => {
                second.add(turned)
            }
            _ => self.0.push_back((now, turned)),
        }
    }

    fn sum(&mut self, now: Instant) -> Turned {
        self.forget(now);
        let mut sum = Turned::default();
        self.0.iter().for_each(|(_, turned)| sum.add(*turned));
        sum
    }

    fn forget(&mut self, now: Instant) {
        while self.0.front().is_some_and(|(begun, _)| now.saturating_duration_since(*begun) >= Lately::LONG) {
            self.0.pop_front();
        }
    }
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

    /// Tells operators what was turned away: at once, and then every ten seconds, over all workers, for as long as
    /// there is something to tell.
    pub fn tell(&self, turned: Turned, now: Instant) {
        if let Some(Turned { connections, requests, reclaimed, last }) = self.due(turned, now) {
            let last = last.map(tracing::field::display);
            tracing::warn!(
                refused_connections = connections,
                refused_requests = requests,
                reclaimed,
                last,
                hint = "see `limits` in the configuration, and `limits.exempt` for addresses that you know",
                "limits were reached, since the last such line"
            );
        }
    }

    /// What is to be told now, of this and of what was not told before.
    fn due(&self, turned: Turned, now: Instant) -> Option<Turned> {
        const EVERY: Duration = Duration::from_secs(10);
        let mut told = self.told();
        if !turned.is_none() {
            told.lately.add(turned, now);
        }
        told.since.add(turned);
        if told.since.is_none() || told.at.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.since))
    }

    /// What was refused in the last minute, for whoever looks now.
    pub fn lately(&self, now: Instant) -> Refused {
        let Turned { connections, requests, reclaimed, last } = self.told().lately.sum(now);
        Refused {
            rate_limited: requests,
            too_many_connections: connections,
            reclaimed,
            address: last.map(|address| address.to_string()),
        }
    }

    /// A panic elsewhere does not make a count wrong.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
