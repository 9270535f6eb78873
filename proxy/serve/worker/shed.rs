//! Whom does a worker turn away? Clients whose address has more connections or asks for more than it may.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::super::conn::Conn;
use super::super::error::Reason;
use super::super::limits::seats::Seat;
use super::super::limits::{Block, Turned};
use super::{Limits, Worker};

/// A client's address has as many connections as it may have.
#[derive(Debug)]
pub struct Crowded;

impl Crowded {
    /// Its name in docs/failures.md.
    pub const LABEL: &str = "too_many_connections";

    /// Closes the connection in the cheapest way: by a reset, after which nobody has to remember it.
    pub fn close(self, stream: TcpStream) {
        let reset = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        debug_assert!(reset.is_ok(), "a socket that cannot be reset: {reset:?}");
    }
}

impl Worker {
    /// Puts limits into force.
    pub(super) fn adopt(&self, limits: Limits) {
        let before = self.limits.replace(limits);
        if before.rate != limits.rate {
            self.buckets.replace(self.limiter.buckets(limits.rate));
        }
        if (before.per_address == 0) != (limits.per_address == 0) {
            self.conns.borrow().iter().for_each(|(_, conn)| self.reseat(conn));
        }
    }

    /// Whether this client may ask once more.
    ///
    /// # Errors
    /// [`Reason::RateLimited`].
    pub fn admit(&self, client: IpAddr, now: Instant) -> Result<(), Reason> {
        if self.limits.get().rate == 0 {
            return Ok(());
        }
        self.admit_limited(client, now)
    }

    fn admit_limited(&self, client: IpAddr, now: Instant) -> Result<(), Reason> {
        let buckets = self.buckets.borrow();
        let Some(buckets) = &*buckets else { return Ok(()) };
        if self.exempts(client) || buckets.take(client.into(), self.limits.get().burst, now) {
            return Ok(());
        }
        let turned = self.turned.get();
        self.turned.set(Turned { requests: turned.requests + 1, last: Some(client), ..turned });
        Err(Reason::RateLimited)
    }

    /// A seat for one more connection of this client, where they are counted.
    ///
    /// # Errors
    /// [`Crowded`].
    pub fn seat(&self, client: IpAddr) -> Result<Option<Seat>, Crowded> {
        let most = self.limits.get().per_address;
        if most == 0 || !self.counts(client) {
            return Ok(None);
        }
        if let Some(seat) = self.limiter.seats.take(client.into(), most) {
            return Ok(Some(seat));
        }
        let turned = self.turned.get();
        self.turned.set(Turned { connections: turned.connections + 1, last: Some(client), ..turned });
        Err(Crowded)
    }

    /// Counts a connection that has begun under other limits, or counts it no more.
    fn reseat(&self, conn: &Rc<Conn>) {
        let client = conn.known().filter(|client| self.limits.get().per_address > 0 && self.counts(*client));
        // Whoever is in may stay.
        conn.sits(client.and_then(|client| self.limiter.seats.take(Block::from(client), usize::MAX)));
    }

    /// Whether this client's connections are counted: those of a proxy are not one client's.
    fn counts(&self, client: IpAddr) -> bool {
        !self.trusts(client) && !self.exempts(client)
    }

    fn exempts(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.table.borrow_mut().load().limits.exempt.iter().any(|range| range.contains(&client))
    }

    /// Tells operators what was turned away since the last sweep.
    pub(super) fn tell_turned(&self) {
        let turned = self.turned.take();
        if turned.connections + turned.requests + turned.reclaimed > 0 {
            self.limiter.tell(turned);
        }
    }
}
