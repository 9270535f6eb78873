//! Where do connections to a backend wait for their next request? On a shelf: a lane's, for everybody's requests, or
//! one client's own, where connections say who the client is.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use super::http2::{Seat, Shared};
use super::link::Link;

/// A connection that was idle for this long, in milliseconds, needs no buffers.
const COOL: u64 = 1000;

/// Which connections are not to be used again: those of an era that has ended.
#[derive(Debug, Default)]
pub(super) struct Era(Rc<Cell<u32>>);

/// The era a connection was made in.
#[derive(Debug, Clone)]
pub(super) struct Birth {
    now: Rc<Cell<u32>>,
    then: u32,
}

impl Era {
    /// What is made now.
    pub(super) fn birth(&self) -> Birth {
        Birth { now: self.0.clone(), then: self.0.get() }
    }

    /// Ends the era.
    pub(super) fn end(&self) {
        self.0.set(self.0.get().wrapping_add(1));
    }
}

impl Birth {
    /// Whether the era has ended since.
    pub(super) fn is_past(&self) -> bool {
        self.now.get() != self.then
    }

    /// Ends the era, unless somebody did since: connections die together, and each of them would otherwise also take
    /// along those that were made to replace them.
    pub(super) fn end_era(&self) {
        if !self.is_past() {
            self.now.set(self.then.wrapping_add(1));
        }
    }
}

/// Connections to one backend that can be used again.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// HTTP/1.1: between two requests. The newest is last.
    idle: RefCell<Vec<Link>>,
    /// HTTP/2: in use or not. The oldest is first and filled first, so that those that are too many fall idle.
    shared: RefCell<Vec<Rc<Shared>>>,
    /// Somebody is opening a shared connection; whoever else needs one waits for it.
    opening: Cell<bool>,
    opened: Notify,
}

impl Shelf {
    /// The newest idle connection that is ready for a request.
    pub(super) fn take(&self) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        while let Some(link) = idle.pop() {
            if !link.is_past() && link.is_ready() {
                return Some(link);
            }
        }
        None
    }

    /// A place on a shared connection that has room.
    pub(super) fn join(&self) -> Option<Seat> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|shared| shared.is_usable());
        shared.iter().find(|shared| shared.has_room()).map(Seat::new)
    }

    /// Puts a new shared connection here, and takes a place on it.
    pub(super) fn share(&self, shared: Shared) -> Seat {
        let shared = Rc::new(shared);
        self.shared.borrow_mut().push(shared.clone());
        Seat::new(&shared)
    }

    /// Puts a connection back whose exchange is complete, unless there are `most` already.
    pub(super) fn put(&self, mut link: Link, most: usize, now: u64) {
        if let Some(seat) = link.seat() {
            seat.rest(now);
            link.leave();
            let mut room = most;
            self.shared.borrow_mut().retain(|shared| {
                let stays = shared.is_busy() || room > 0;
                room -= usize::from(stays && !shared.is_busy());
                stays
            });
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if !link.is_past() && link.is_ready() && idle.len() < most {
            link.idle_since = now;
            idle.push(link);
        }
    }

    /// Closes connections that have been idle for more than `most` milliseconds; the others give up their buffers after
    /// a while, but not between two requests.
    pub(super) fn expire(&self, now: u64, most: u64) {
        let (since, cool) = (now.saturating_sub(most), now.saturating_sub(COOL));
        self.idle.borrow_mut().retain_mut(|link| {
            if link.idle_since < cool {
                link.cools();
            }
            link.idle_since >= since && !link.is_past() && link.is_ready()
        });
        self.shared.borrow_mut().retain(|shared| shared.is_usable() && (shared.is_busy() || shared.rested() >= since));
    }

    /// Whether there is no connection here.
    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    /// Closes every idle connection; shared ones in use when their last stream ends.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// The turn to open a shared connection. A hundred requests that come at once must not open a hundred.
    pub(super) async fn turn(&self) -> Option<Turn<'_>> {
        let opened = self.opened.notified();
        if self.opening.replace(true) {
            opened.await;
            return None;
        }
        Some(Turn(self))
    }
}

/// The turn to open a shared connection.
pub(super) struct Turn<'s>(&'s Shelf);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

/// One client's own connections, to backends that are told who the client is. They close with the client.
#[derive(Debug)]
pub struct Own {
    /// The client's address.
    pub(super) client: SocketAddr,
    /// The address it connected to.
    pub(super) server: SocketAddr,
    shelves: RefCell<Vec<Held>>,
}

/// One backend's shelf.
#[derive(Debug)]
struct Held {
    slot: usize,
    backend: u64,
    shelf: Rc<Shelf>,
}

impl Own {
    /// None yet, for this client that connected to this address of ours.
    pub fn new(client: SocketAddr, server: SocketAddr) -> Own {
        Own { client, server, shelves: RefCell::default() }
    }

    /// The shelf for this slot's backend; `introduce` gets to know a new one.
    pub(super) fn shelf(&self, slot: usize, backend: u64, introduce: impl FnOnce(Weak<Shelf>)) -> Rc<Shelf> {
        let mut shelves = self.shelves.borrow_mut();
        if let Some(held) = shelves.iter().find(|held| held.backend == backend) {
            return held.shelf.clone();
        }
        // Another backend had the slot before.
        shelves.retain(|held| held.slot != slot);
        let shelf = Rc::<Shelf>::default();
        introduce(Rc::downgrade(&shelf));
        shelves.push(Held { slot, backend, shelf: shelf.clone() });
        shelf
    }
}
