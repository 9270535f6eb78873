//! One worker: one thread, one current-thread runtime; its sockets, its lanes, its numbers, its mailbox.
//!
//! `accept` takes clients in, `shed` turns away those that ask for too much, and `room` finds who leaves when the house
//! is full; `sweep` ends what waits for too long, `mail` does what control asks for, up to the end.

mod accept;
mod clock;
mod mail;
mod room;
mod shed;
mod sweep;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use http::{HeaderValue, request};
use slab::Slab;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::room::RECLAIMED;
pub use self::shed::Crowded;
use super::access::{Line, Lines};
use super::conn::Conn;
use super::error::Reason;
use super::flight::{Flight, Guard};
use super::headers;
use super::limits::buckets::Buckets;
use super::limits::{Limiter, Turned};
use super::listen::Manner;
use super::meter::{Clients, Meter, Meters};
use super::pool::{Claim, Lane, Stock};
use crate::challenges::Challenges;
use crate::mail::Letter;
use crate::pages::Pages;
use crate::table::{Backend, Destination, Table};
use clock::Clock;

/// How often a worker looks for what has waited too long. A deadline is never early, and at most two of these late; an
/// idle connection to one of very many backends up to a second.
pub const SWEEP: Duration = Duration::from_millis(100);

/// What a tunnel passes at once, and what a connection reads that has no buffer of its own.
const SCRATCH: usize = 32 * 1024;

/// With more warm HTTP/1.1 connections than this, idle ones are parked at once, but for those that send one request
/// after the other: many that come together for one request would each leave a hole of twenty kilobytes in the heap.
const WARM: usize = 32;

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its number, from 0.
    pub id: usize,
    /// How many workers there are.
    pub workers: usize,
    /// Its listening sockets, one per address, and how clients are received there.
    pub sockets: Vec<(std::net::TcpListener, Manner)>,
    /// Where the newest table is.
    pub table: Arc<ArcSwap<Table>>,
    /// What authorities find that look whether a host is ours.
    pub challenges: Arc<Challenges>,
    /// Its mail.
    pub mailbox: mpsc::Receiver<Letter>,
    /// Where its numbers are read.
    pub meters: Arc<Meters>,
    /// What all workers count together.
    pub limiter: Arc<Limiter>,
    /// Where its access log goes, if there is one.
    pub access: Option<Lines>,
}

/// One worker. Everything in it stays on its thread.
#[derive(Debug)]
pub struct Worker {
    id: usize,
    workers: usize,
    /// Numbers about requests that no service is to blame for.
    pub nowhere: Arc<Meter>,
    /// Numbers about client connections.
    pub clients: Arc<Clients>,
    /// What authorities find that look whether a host is ours.
    pub challenges: Arc<Challenges>,
    meters: Arc<Meters>,
    table: RefCell<Cache<Arc<ArcSwap<Table>>, Arc<Table>>>,
    lanes: RefCell<Vec<Option<Rc<Lane>>>>,
    /// The lanes that have connections to look after.
    stock: Rc<Stock>,
    /// The table that the last sweep saw. Weak, not to keep an old one.
    compared: RefCell<Weak<Table>>,
    conns: RefCell<Slab<Rc<Conn>>>,
    flights: RefCell<Slab<Rc<Flight>>>,
    limits: Cell<Limits>,
    limiter: Arc<Limiter>,
    /// There while requests are limited.
    buckets: RefCell<Option<Arc<Buckets>>>,
    /// What was turned away since the last sweep.
    turned: Cell<Turned>,
    /// Who leaves next.
    victims: RefCell<room::Victims>,
    access: Option<RefCell<Lines>>,
    clock: Clock,
    /// Where bytes are read into for whoever has no buffer of its own, so that idle ones cost nothing: tunnels, parked
    /// connections, clients that are parted from.
    pub scratch: RefCell<Box<[u8]>>,
    /// HTTP/1.1 connections that are not parked.
    warm: Cell<usize>,
    /// Told when a connection ends: somebody may be waiting to accept the next, or for the last.
    ended: Notify,
    /// Accepting is over: for whoever waits for it, and for whoever asks at each request, which must not take a lock.
    stop: CancellationToken,
    stopping: Cell<bool>,
}

/// What was agreed when a request claimed its backend; times in milliseconds where the sweep compares them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// The service's generation.
    pub generation: u64,
    /// Whether it came by a preview host.
    pub preview: bool,
    /// To a connection with the backend.
    pub connect: Duration,
    /// To the answer's head.
    pub response: u64,
    /// Without a byte while a body streams.
    pub idle: u64,
    /// The same for a tunnel or an event stream.
    pub stream_idle: u64,
    /// Idle backend connections kept.
    pub pool: usize,
    /// For how many seconds answers over TLS forbid to come without it.
    pub hsts: Option<u64>,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Routed {
    /// To the backend that it has claimed now; `upgrade` is what the connection shall become.
    Here {
        /// The protocol's name.
        upgrade: Option<HeaderValue>,
    },
    /// To another host of the service.
    Elsewhere(HeaderValue),
}

/// The table's limits, ready for use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Client connections open at once, on this worker.
    pub connections: usize,
    /// Those of one address, over all workers; 0 is no limit.
    pub per_address: usize,
    /// Requests of one address in a second, over all workers; 0 is no limit.
    pub rate: u32,
    /// So many of them at once.
    pub burst: u32,
    /// Bytes of a request head.
    pub header_size: usize,
    /// Milliseconds to the first byte of a connection's first request.
    pub first_byte_time: u64,
    /// Milliseconds for what comes before HTTP.
    pub handshake_time: u64,
    /// Milliseconds for a request head.
    pub header_time: u64,
    /// Milliseconds between two requests.
    pub idle_time: u64,
    /// Bytes of a request body.
    pub body_size: u64,
    /// Bytes of it per second, at least.
    pub body_rate: u64,
    /// Bytes of an answer that a client takes per second, at least.
    pub answer_rate: u64,
}

impl Limits {
    fn new(limits: &bgproxy_conf::Limits, workers: usize) -> Limits {
        Limits {
            connections: limits.connections.div_ceil(workers),
            per_address: limits.connections_per_address,
            rate: limits.requests_per_second,
            burst: if limits.requests_burst == 0 { limits.requests_per_second } else { limits.requests_burst },
            header_size: usize::try_from(limits.header_size.get()).unwrap_or(usize::MAX),
            first_byte_time: millis(limits.first_byte_time),
            handshake_time: millis(limits.handshake_time),
            header_time: millis(limits.header_time),
            idle_time: millis(limits.idle_time),
            body_size: if limits.body_size.get() == 0 { u64::MAX } else { limits.body_size.get() },
            body_rate: limits.body_rate.get(),
            answer_rate: limits.answer_rate.get(),
        }
    }
}

/// Whether a service is for this client.
fn admit(to: &Destination<'_>, guard: &Guard) -> Result<(), Reason> {
    if to.service.admits(guard.client()) { Ok(()) } else { Err(Reason::AddressDenied) }
}

fn millis(seconds: bgproxy_conf::Seconds) -> u64 {
    u64::try_from(seconds.get().as_millis()).unwrap_or(u64::MAX)
}

/// Runs a worker until it is told to stop and has finished what it began.
///
/// # Errors
/// The kernel's, when there is no runtime or a listening socket cannot be polled.
pub fn run(parts: Parts) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(async {
        let mut listeners = Vec::with_capacity(parts.sockets.len());
        for (socket, manner) in parts.sockets {
            listeners.push((TcpListener::from_std(socket)?, Rc::new(manner)));
        }
        let worker = Rc::new(Worker {
            id: parts.id,
            workers: parts.workers,
            nowhere: parts.meters.of(&None, parts.id),
            clients: parts.meters.clients(),
            challenges: parts.challenges,
            meters: parts.meters,
            table: RefCell::new(Cache::new(parts.table)),
            lanes: RefCell::default(),
            stock: Rc::default(),
            compared: RefCell::default(),
            conns: RefCell::default(),
            flights: RefCell::default(),
            limits: Cell::default(),
            limiter: parts.limiter,
            buckets: RefCell::default(),
            turned: Cell::default(),
            victims: RefCell::default(),
            access: parts.access.map(RefCell::new),
            clock: Clock::new(),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            warm: Cell::new(0),
            ended: Notify::new(),
            stop: CancellationToken::new(),
            stopping: Cell::new(false),
        });
        worker.compare();
        let mut accepting = JoinSet::new();
        for (listener, manner) in listeners {
            accepting.spawn_local(accept::accept(worker.clone(), listener, manner));
        }
        tokio::select! {
            () = worker.clone().read_mail(parts.mailbox, accepting) => Ok(()),
            // A door whose deadlines nobody watches is not to be left open.
            () = sweep::sweep(worker.clone()) => Err(io::Error::other("nobody watches the deadlines any more")),
        }
    })
}

impl Worker {
    /// Milliseconds since the worker began, as of the last sweep, in which it was let run: every deadline's clock.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// Whether this address's word on who the client is counts.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.table.borrow_mut().load().trusts(address)
    }

    /// Whether backends also get `Forwarded`.
    pub fn says_forwarded(&self) -> bool {
        self.table.borrow_mut().load().trusted.forwarded
    }

    /// The operator's pages for requests that fail.
    pub fn pages(&self) -> Arc<Pages> {
        self.table.borrow_mut().load().pages.clone()
    }

    /// Whether it finishes what it began and takes nothing new.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Routes a request and claims the backend, without an `.await` in between: a fence (see [`crate::mail`]) falls
    /// before or after this, never into it. `secure` tells how the client came.
    ///
    /// # Errors
    /// [`Reason::NoRoute`], or that the service is not for this client, or does not do what is asked of the connection.
    pub fn claim(&self, guard: &Guard, head: &request::Parts, secure: bool) -> Result<Routed, Reason> {
        let mut table = self.table.borrow_mut();
        let to = table.load().destination(headers::host(head), headers::path(head)).ok_or(Reason::NoRoute)?;
        admit(&to, guard)?;
        let config = &to.service.config;
        if !to.preview
            && let Some(host) = &config.canonical_host
            && let Some(location) = headers::canonical(head, host, secure)
        {
            return Ok(Routed::Elsewhere(location));
        }
        let upgrade = headers::wanted(head, &config.upgrades, to.backend.protocol)?;
        self.hold(guard, &to);
        Ok(Routed::Here { upgrade })
    }

    /// The same for a request that goes out once more.
    ///
    /// # Errors
    /// [`Reason::NoRoute`], or that the service is not for this client any more.
    pub fn claim_again(&self, guard: &Guard, host: &str, path: &str) -> Result<(), Reason> {
        let mut table = self.table.borrow_mut();
        let to = table.load().destination(host, path).ok_or(Reason::NoRoute)?;
        admit(&to, guard)?;
        self.hold(guard, &to);
        Ok(())
    }

    fn hold(&self, guard: &Guard, to: &Destination<'_>) {
        let config = &to.service.config;
        let terms = Terms {
            generation: to.service.generation,
            preview: to.preview,
            connect: config.timeouts.connect.get(),
            response: millis(config.timeouts.response),
            idle: millis(config.timeouts.idle),
            stream_idle: millis(config.streams.idle),
            pool: config.pool.size,
            hsts: config.hsts.map(|hsts| hsts.get().as_secs()),
        };
        guard.claim(Claim::new(self.lane(to.backend)), terms);
    }

    /// This worker's lane to a backend, made when first needed.
    fn lane(&self, backend: &Arc<Backend>) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        if lanes.len() <= backend.slot {
            lanes.resize(backend.slot + 1, None);
        }
        match &lanes[backend.slot] {
            Some(lane) if lane.backend.id == backend.id => lane.clone(),
            _ => {
                let owner = Some((backend.service.clone(), backend.color.clone()));
                let meter = self.meters.of(&owner, self.id);
                let lane = Lane::new(backend.clone(), meter, self.id, self.stock.clone());
                lanes[backend.slot] = Some(lane.clone());
                lane
            }
        }
    }

    /// A connection begins; the key ends it.
    pub fn connect(&self, conn: Rc<Conn>) -> usize {
        self.clients.connected();
        self.conns.borrow_mut().insert(conn)
    }

    /// A connection has ended.
    pub fn disconnect(&self, key: usize) {
        self.conns.borrow_mut().remove(key);
        self.clients.disconnected();
        self.ended.notify_waiters();
    }

    /// A connection is not parked for as long as the guard is there.
    pub fn warms(&self) -> Warm<'_> {
        self.warm.set(self.warm.get() + 1);
        Warm(&self.warm)
    }

    /// Whether so many connections are not parked that idle ones shall be.
    pub fn is_crowded(&self) -> bool {
        self.warm.get() > WARM
    }

    /// A request begins; the key ends it.
    pub fn depart(&self, flight: Rc<Flight>) -> usize {
        self.flights.borrow_mut().insert(flight)
    }

    /// A request has ended.
    pub fn arrive(&self, key: usize) {
        self.flights.borrow_mut().try_remove(key);
    }

    /// Whether requests are written down.
    pub fn logs(&self) -> bool {
        self.access.is_some()
    }

    /// Writes a request down.
    pub fn log(&self, line: &Line<'_>) {
        if let Some(lines) = &self.access {
            lines.borrow_mut().push(line);
        }
    }
}

/// A connection that is not parked.
#[derive(Debug)]
pub struct Warm<'w>(&'w Cell<usize>);

impl Drop for Warm<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(lines) = &self.access {
            lines.borrow_mut().flush();
        }
    }
}
