//! How does this worker reach a backend? One lane per backend: its idle connections, its claims, its numbers.
//!
//! A lane never leaves its worker's thread, and neither do its connections: they are `Rc`s, and cost no lock.
//! Connecting over a unix socket is cheap, so a pool per worker loses nothing.

mod http1;
mod http2;
mod io;
mod link;
mod shelf;
mod stock;

use std::cell::{Cell as StdCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgproxy_conf::Protocol;
use tokio::io::AsyncWriteExt;

use self::http2::Shared;
use self::io::{BackendIo, Wire};
use self::shelf::{Era, Shelf};
use super::error::{Failure, Reason};
use super::meter::Meter;
use super::proxy_protocol;
use crate::cell::{Cell, End, StreamKind};
use crate::table::Backend;

#[cfg(any(test, fuzzing))]
pub(crate) use self::http1::fuzz;
pub use self::io::BackendStream;
pub use self::link::{Link, Lost, Purpose};
pub use self::shelf::Own;
pub use self::stock::Stock;

/// This worker's way to one backend.
#[derive(Debug)]
pub struct Lane {
    /// The backend.
    pub backend: Arc<Backend>,
    /// This worker's numbers about it.
    pub meter: Arc<Meter>,
    worker: usize,
    shelf: Rc<Shelf>,
    /// Clients' own shelves: looked after here, so that what is on them ends when it would end on ours.
    owned: RefCell<Vec<Weak<Shelf>>>,
    /// Ends when connections made before are not to be used again.
    era: Era,
    /// The worker's lanes that have connections to look after, and whether this is one of them.
    stock: Rc<Stock>,
    is_in_stock: StdCell<bool>,
    me: Weak<Lane>,
    /// When trouble was last logged, and how much was not since.
    warned: StdCell<Option<Instant>>,
    unsaid: StdCell<u64>,
}

impl Lane {
    /// A lane without connections.
    pub fn new(backend: Arc<Backend>, meter: Arc<Meter>, worker: usize, stock: Rc<Stock>) -> Rc<Lane> {
        Rc::new_cyclic(|me| Lane {
            backend,
            meter,
            worker,
            shelf: Rc::default(),
            owned: RefCell::default(),
            era: Era::default(),
            stock,
            is_in_stock: StdCell::default(),
            me: me.clone(),
            warned: StdCell::default(),
            unsaid: StdCell::default(),
        })
    }

    /// From now on there may be something to look after.
    fn enters_stock(&self) {
        if !self.is_in_stock.replace(true) {
            self.stock.add(self.me.clone());
        }
    }

    /// Whether there still is.
    fn stays_in_stock(&self) -> bool {
        self.is_in_stock.set(!self.shelf.is_empty() || !self.owned.borrow().is_empty());
        self.is_in_stock.get()
    }

    /// Notes when the oldest of its streams began, in milliseconds since the epoch.
    pub fn set_oldest(&self, began: u64) {
        self.cell().set_oldest(began);
    }

    fn cell(&self) -> &Cell {
        &self.backend.cells[self.worker]
    }

    /// Where connections for a client wait; for a question of our own there is no client. Nobody looks at a shelf again
    /// that nobody owns.
    fn shelf(&self, own: Option<&Own>) -> Rc<Shelf> {
        match own {
            _ if !self.backend.send_proxy => self.shelf.clone(),
            Some(own) => own.shelf(self.backend.slot, self.backend.id, |new| {
                self.owned.borrow_mut().push(new);
                self.enters_stock();
            }),
            None => Rc::default(),
        }
    }

    /// A connection that is ready for a request: the newest idle one, or a stream of a shared one.
    pub fn reuse(&self, own: Option<&Own>) -> Option<Link> {
        let shelf = self.shelf(own);
        match self.backend.protocol {
            Protocol::Http1 => shelf.take(),
            Protocol::H2c => shelf.join().map(|seat| Link::http2(seat, &shelf)),
        }
    }

    /// Keeps a connection whose exchange is complete, unless there are `most` idle ones already.
    pub fn keep(&self, link: Link, most: usize, now: u64) {
        if let Some(shelf) = link.shelf.upgrade() {
            shelf.put(link, most, now);
            self.enters_stock();
        }
    }

    /// Closes connections that have been idle for more than `most` milliseconds.
    pub fn expire(&self, now: u64, most: u64) {
        self.shelf.expire(now, most);
        self.owned.borrow_mut().retain(|shelf| shelf.upgrade().inspect(|shelf| shelf.expire(now, most)).is_some());
    }

    /// Closes every idle connection, and each that is in use now after its exchange.
    pub fn retire(&self) {
        self.era.end();
        self.shelf.clear();
        self.owned.borrow().iter().filter_map(Weak::upgrade).for_each(|shelf| shelf.clear());
    }

    /// A connection made now: opened for this request, or, where requests share, since the last one failed.
    ///
    /// # Errors
    /// A [`Failure`] that tells every errno apart.
    pub async fn connect(&self, within: Duration, own: Option<&Own>, purpose: Purpose) -> Result<Link, Failure> {
        let shelf = self.shelf(own);
        let link = match self.backend.protocol {
            Protocol::Http1 => {
                let birth = self.era.birth();
                let io = self.open(within, own).await?;
                return Ok(Link::http1(io, birth, &shelf, purpose));
            }
            Protocol::H2c => tokio::time::timeout(within, self.share(&shelf, within, own)).await,
        };
        link.unwrap_or_else(|_elapsed| {
            self.meter.connect_failed(Reason::ConnectTimeout);
            Err(Reason::ConnectTimeout.into())
        })
    }

    /// A stream of a shared connection, which is opened if need be.
    async fn share(&self, shelf: &Rc<Shelf>, within: Duration, own: Option<&Own>) -> Result<Link, Failure> {
        let mut again = true;
        loop {
            if let Some(seat) = shelf.join() {
                return Ok(Link::http2(seat, shelf));
            }
            let Some(_turn) = shelf.turn().await else { continue };
            let birth = self.era.birth();
            let io = self.open(within, own).await?;
            let me = self.me.clone();
            let flooded = move |failure: &Failure| {
                if let Some(lane) = me.upgrade() {
                    lane.meter.connect_failed(failure.reason);
                    lane.complain(failure);
                }
            };
            match Shared::begin(io, birth, flooded).await {
                Ok(shared) => {
                    self.enters_stock();
                    return Ok(Link::http2(shelf.share(shared), shelf));
                }
                // A backend that restarts drops whoever waits in its queue; nothing was asked of it yet.
                Err(gone) if again && matches!(gone.reason, Reason::BackendClosed | Reason::BackendReset) => {
                    again = false
                }
                Err(failure) => {
                    self.meter.connect_failed(failure.reason);
                    return Err(failure);
                }
            }
        }
    }

    /// Connects, and says who the client is where the backend wants to know.
    async fn open(&self, within: Duration, own: Option<&Own>) -> Result<BackendIo, Failure> {
        let stream = io::connect(&self.backend.address, within).await.map_err(|error| {
            let failure = Failure::connect(error);
            self.meter.connect_failed(failure.reason);
            failure
        })?;
        self.meter.connected();
        let mut io = BackendIo { stream, wire: Rc::new(Wire::default()) };
        if self.backend.send_proxy {
            let header = match own {
                Some(own) => proxy_protocol::encode(own.client, own.server),
                None => proxy_protocol::local().to_vec(),
            };
            // The first bytes on a new socket: they fit.
            io.write_all(&header).await.map_err(Failure::connect)?;
        }
        Ok(io)
    }

    /// Logs trouble with this backend, at most once a second: what thousands of requests suffer is one line.
    pub fn complain(&self, failure: &Failure) {
        let now = Instant::now();
        if self.warned.get().is_some_and(|last| now < last + Duration::from_secs(1)) {
            self.unsaid.set(self.unsaid.get() + 1);
            return;
        }
        self.warned.set(Some(now));
        tracing::warn!(
            service = %self.backend.service,
            color = %self.backend.color,
            address = %self.backend.address,
            reason = failure.reason.label(),
            unlogged_before = self.unsaid.replace(0),
            "backend failed: {failure}"
        );
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Clients may still keep connections to a backend that is gone.
        self.retire();
    }
}

/// A request's hold on one backend, from routing to the last byte. Counted in when made, counted out when dropped.
#[derive(Debug)]
pub struct Claim {
    /// The way to the backend.
    pub lane: Rc<Lane>,
    end: StdCell<End>,
}

impl Claim {
    /// Counts a request in. There must be no `.await` between looking into the table and this (ARCHITECTURE.md 6).
    pub fn new(lane: Rc<Lane>) -> Claim {
        lane.cell().claim();
        Claim { lane, end: StdCell::new(End::Failed) }
    }

    /// Ends the claim this way instead of as failed.
    pub fn end(self, end: End) {
        self.end.set(end);
    }

    /// From now on this is a stream, counted apart.
    pub fn into_stream(self, kind: StreamKind) -> Stream {
        let lane = self.lane.clone();
        self.end(End::Stream(kind));
        Stream { lane, kind, ended: StdCell::new(false) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.lane.cell().release(self.end.get());
    }
}

/// A stream's hold on one backend.
#[derive(Debug)]
pub struct Stream {
    /// The way to the backend.
    pub lane: Rc<Lane>,
    /// What it is.
    pub kind: StreamKind,
    ended: StdCell<bool>,
}

impl Stream {
    /// It had been told to leave when it ended.
    pub fn ended(&self) {
        self.ended.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.lane.cell().close_stream(self.kind, self.ended.get());
    }
}
