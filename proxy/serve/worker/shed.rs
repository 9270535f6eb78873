//! Whom does a worker turn away? Clients whose address has more connections or asks for more than it may.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::super::conn::Conn;
use super::super::error::Reason;
use super::super::limits::badges::Badge;
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
    /// Puts a new table's limits into force.
    pub(super) fn adopt(&self, limits: Limits) {
        let before = self.limits.replace(limits);
        // Also where the rate is the same as before: workers that have seen another one in between share another table.
        self.buckets.replace(self.limiter.buckets(limits.rate));
        if before.per_address > 0 || limits.per_address > 0 {
            self.conns.borrow().iter().for_each(|(_, conn)| self.recount(conn));
        }
    }

    /// Takes a token from this client's bucket, where requests are limited.
    ///
    /// # Errors
    /// [`Reason::RateLimited`]: there is none.
    pub fn take_token(&self, client: IpAddr, now: Instant) -> Result<(), Reason> {
        let buckets = self.buckets.borrow();
        let Some(buckets) = &*buckets else { return Ok(()) };
        if self.exempts(client) || buckets.take(client.into(), self.limits.get().burst, now) {
            return Ok(());
        }
        let turned = self.turned.get();
        self.turned.set(Turned { requests: turned.requests + 1, last: Some(client), ..turned });
        Err(Reason::RateLimited)
    }

    /// A badge for one more connection of this client, where they are counted.
    ///
    /// # Errors
    /// [`Crowded`].
    pub fn badge(&self, client: IpAddr) -> Result<Option<Badge>, Crowded> {
        let most = self.limits.get().per_address;
        if most == 0 || !self.counts(client) {
            return Ok(None);
        }
        if let Some(badge) = self.limiter.badges.take(client.into(), most) {
            return Ok(Some(badge));
        }
        let turned = self.turned.get();
        self.turned.set(Turned { connections: turned.connections + 1, last: Some(client), ..turned });
        Err(Crowded)
    }

    /// Counts a connection that has begun under other limits, or counts it no more.
    fn recount(&self, conn: &Rc<Conn>) {
        // One that has yet to say whose it is will be asked for its badge then.
        let Some(client) = conn.known() else { return };
        let counts = self.limits.get().per_address > 0 && self.counts(client);
        if counts != conn.has_badge() {
            // Whoever is in may stay.
            let badge = if counts { self.limiter.badges.take(Block::from(client), usize::MAX) } else { None };
            conn.wears(badge);
        }
    }

    /// Whether this client's connections are counted: those of a proxy are not one client's.
    fn counts(&self, client: IpAddr) -> bool {
        !self.trusts(client) && !self.exempts(client)
    }

    fn exempts(&self, client: IpAddr) -> bool {
        self.table.borrow_mut().load().exempts(client)
    }

    /// Looks after what all workers count together: tells operators what was turned away since the last sweep, and
    /// tidies the buckets.
    pub(super) fn sweep_limits(&self) {
        let now = Instant::now();
        self.limiter.tell(self.turned.take(), now);
        if let Some(buckets) = &*self.buckets.borrow() {
            buckets.tidy(self.limits.get().burst, now);
        }
    }
}
