//! One worker: one thread, one current-thread runtime; its sockets, its lanes, its numbers, its mailbox.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Cache};
use http::{HeaderValue, request};
use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::{Line, Lines};
use super::closing;
use super::conn::{self, Conn};
use super::error::Reason;
use super::flight::{Flight, Guard};
use super::headers;
use super::listen::Manner;
use super::meter::{Clients, Meter, Meters};
use super::pool::{Claim, Lane};
use super::probe;
use crate::mail::{Close, Closing, Cut, Letter, Pace};
use crate::table::{Backend, Destination, Table};

/// How often a worker looks for what has waited too long. A deadline is never early, and at most two of these late.
pub const SWEEP: Duration = Duration::from_millis(100);

/// After a stop, idle connections get this long to send what is already on its way to us (hyper would close them
/// with bytes in the kernel's buffers).
const QUIET: Duration = Duration::from_millis(500);

/// What a tunnel passes at once.
const SCRATCH: usize = 32 * 1024;

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
    /// Its mail.
    pub mailbox: mpsc::Receiver<Letter>,
    /// Where its numbers are read.
    pub meters: Arc<Meters>,
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
    meters: Arc<Meters>,
    table: RefCell<Cache<Arc<ArcSwap<Table>>, Arc<Table>>>,
    lanes: RefCell<Vec<Option<Rc<Lane>>>>,
    conns: RefCell<Slab<Rc<Conn>>>,
    flights: RefCell<Slab<Rc<Flight>>>,
    limits: Cell<Limits>,
    access: Option<RefCell<Lines>>,
    born: Instant,
    now: Cell<u64>,
    /// Where bytes of tunnels are read into: they stay nowhere, so that idle tunnels cost nothing.
    pub scratch: RefCell<Box<[u8]>>,
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
    /// Bytes of a request head.
    pub header_size: usize,
    /// Milliseconds for a request head.
    pub header_time: u64,
    /// Milliseconds between two requests.
    pub idle_time: u64,
    /// Bytes of a request body.
    pub body_size: u64,
}

impl Limits {
    fn new(limits: &bgproxy_conf::Limits, workers: usize) -> Limits {
        Limits {
            connections: limits.connections.div_ceil(workers),
            header_size: usize::try_from(limits.header_size.get()).unwrap_or(usize::MAX),
            header_time: millis(limits.header_time),
            idle_time: millis(limits.idle_time),
            body_size: if limits.body_size.get() == 0 { u64::MAX } else { limits.body_size.get() },
        }
    }
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
        let mut table = Cache::new(parts.table);
        let limits = Limits::new(&table.load().limits, parts.workers);
        let worker = Rc::new(Worker {
            id: parts.id,
            workers: parts.workers,
            nowhere: parts.meters.of(&None, parts.id),
            clients: parts.meters.clients(),
            meters: parts.meters,
            table: RefCell::new(table),
            lanes: RefCell::default(),
            conns: RefCell::default(),
            flights: RefCell::default(),
            limits: Cell::new(limits),
            access: parts.access.map(RefCell::new),
            born: Instant::now(),
            now: Cell::new(0),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            ended: Notify::new(),
            stop: CancellationToken::new(),
            stopping: Cell::new(false),
        });
        let mut accepting = JoinSet::new();
        for (listener, manner) in listeners {
            accepting.spawn_local(accept(worker.clone(), listener, manner));
        }
        tokio::select! {
            () = worker.clone().read_mail(parts.mailbox, accepting) => Ok(()),
            // A door whose deadlines nobody watches is not to be left open.
            () = sweep(worker.clone()) => Err(io::Error::other("nobody watches the deadlines any more")),
        }
    })
}

/// Accepts clients on one socket until the worker stops.
async fn accept(worker: Rc<Worker>, listener: TcpListener, manner: Rc<Manner>) {
    /// After running out of descriptors: trying at once would spin.
    const PAUSE: Duration = Duration::from_millis(50);
    let mut exhausted = false;
    while let Some(accepted) = worker.stop.run_until_cancelled(worker.next_client(&listener)).await {
        match accepted {
            Ok((stream, client)) => {
                exhausted = false;
                conn::serve(worker.clone(), stream, client, manner.clone());
            }
            Err(error) if is_client_noise(&error) => tracing::debug!("a client left while connecting: {error}"),
            Err(error) => {
                if !exhausted {
                    tracing::warn!("cannot accept clients: {error}");
                }
                exhausted = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    if let Err(error) = accept_queued(&worker, listener, &manner) {
        tracing::warn!("cannot accept the clients that were in the queue: {error}");
    }
}

/// Whoever is in the kernel's queue is connected as far as he can tell; closing the socket would reset him.
fn accept_queued(worker: &Rc<Worker>, listener: TcpListener, manner: &Rc<Manner>) -> io::Result<()> {
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(true)?;
                conn::serve(worker.clone(), TcpStream::from_std(stream)?, client, manner.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_client_noise(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_client_noise(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Looks again and again for what has waited too long.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.sweep();
    }
}

impl Worker {
    /// The next client, once there is room for one more.
    async fn next_client(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let is_full = || self.conns.borrow().len() >= self.limits().connections;
        loop {
            while is_full() {
                self.ended.notified().await;
            }
            // Asked again when a client comes: the last place may have gone to another listener's meanwhile.
            let next = |cx: &mut Context<'_>| match is_full() {
                true => Poll::Ready(None),
                false => listener.poll_accept(cx).map(Some),
            };
            if let Some(accepted) = poll_fn(next).await {
                return accepted;
            }
        }
    }

    /// Milliseconds since the worker began, as of the last sweep.
    pub fn now(&self) -> u64 {
        self.now.get()
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

    /// Whether it finishes what it began and takes nothing new.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Routes a request and claims the backend, without an `.await` in between: a fence (see [`crate::mail`]) falls
    /// before or after this, never into it. `secure` tells how the client came.
    ///
    /// # Errors
    /// [`Reason::NoRoute`], or that the service does not do what is asked of the connection.
    pub fn claim(&self, guard: &Guard, head: &request::Parts, secure: bool) -> Result<Routed, Reason> {
        let mut table = self.table.borrow_mut();
        let to = table.load().destination(headers::host(head), headers::path(head)).ok_or(Reason::NoRoute)?;
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
    /// [`Reason::NoRoute`].
    pub fn claim_again(&self, guard: &Guard, host: &str, path: &str) -> Result<(), Reason> {
        let mut table = self.table.borrow_mut();
        let to = table.load().destination(host, path).ok_or(Reason::NoRoute)?;
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
                let lane = Rc::new(Lane::new(backend.clone(), self.meters.of(&owner, self.id), self.id));
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

    /// Milliseconds since the worker began.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn sweep(&self) {
        let now = self.elapsed();
        self.now.set(now);
        let limits = Limits::new(&self.table.borrow_mut().load().limits, self.workers);
        self.limits.set(limits);
        // What is stamped between two sweeps is stamped with the earlier one: nobody is charged for time he did not have.
        let charged = now.saturating_sub(SWEEP.as_millis() as u64);
        for conn in self.conns.borrow().iter().map(|(_, conn)| conn) {
            conn.sweep(charged, limits.idle_time, limits.header_time);
        }
        for flight in self.flights.borrow().iter().map(|(_, flight)| flight) {
            if let Some(reason) = flight.overdue(charged) {
                flight.condemn(reason);
            }
            flight.sweep(now);
        }
        self.note_oldest();
        self.sweep_lanes(now);
        if let Some(lines) = &self.access {
            lines.borrow_mut().flush();
        }
    }

    /// Notes for each backend when its oldest stream began, for those who look from outside.
    fn note_oldest(&self) {
        let mut oldest: Vec<(Rc<Lane>, Instant)> = Vec::new();
        for (_, flight) in self.flights.borrow().iter().filter(|(_, flight)| flight.stream().is_some()) {
            let Some(lane) = flight.lane() else { continue };
            match oldest.iter_mut().find(|(known, _)| known.backend.slot == lane.backend.slot) {
                Some((_, began)) => *began = flight.started().min(*began),
                None => oldest.push((lane, flight.started())),
            }
        }
        for (lane, began) in oldest {
            let began = SystemTime::now() - began.elapsed();
            let since = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            lane.set_oldest(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        }
    }

    /// Closes backend connections that have been idle for too long, and forgets backends that no table names.
    fn sweep_lanes(&self, now: u64) {
        let mut table = self.table.borrow_mut();
        let table = table.load();
        for lane in self.lanes.borrow_mut().iter_mut() {
            let Some(kept) = lane else { continue };
            match table.owner(&kept.backend) {
                Some(service) => kept.expire(now.saturating_sub(millis(service.config.pool.idle))),
                None => *lane = None,
            }
        }
    }

    async fn read_mail(self: Rc<Self>, mut mailbox: mpsc::Receiver<Letter>, accepting: JoinSet<()>) {
        while let Some(letter) = mailbox.recv().await {
            match letter {
                Letter::Fence(reply) => {
                    let _gone = reply.send(());
                }
                Letter::Probe(question, reply) => {
                    let (lane, now) = (self.lane(&question.backend), self.now());
                    tokio::task::spawn_local(async move {
                        let _gone = reply.send(probe::ask(&lane, &question, now).await);
                    });
                }
                Letter::Cut(slot, before, reply) => {
                    let _gone = reply.send(self.cut(slot, before));
                }
                Letter::CloseStreams(close, reply) => {
                    let _gone = reply.send(self.close_streams(&close));
                }
                Letter::KeepStreams(slot) => {
                    let flights = self.flights.borrow();
                    let streams = flights.iter().map(|(_, flight)| flight).filter(|flight| flight.streams(slot));
                    streams.for_each(|flight| flight.leave.set_due(None));
                }
                Letter::Retire(slot) => {
                    if let Some(Some(lane)) = self.lanes.borrow().get(slot) {
                        lane.retire();
                    }
                }
                Letter::Stop(within) => return self.finish(within, accepting).await,
            }
        }
    }

    /// The color may get requests again by the time the letter is read: those are of a newer generation.
    fn cut(&self, slot: usize, before: u64) -> Cut {
        let mut cut = Cut::default();
        let flights = self.flights.borrow();
        let overdue = flights
            .iter()
            .map(|(_, flight)| flight)
            .filter(|flight| flight.claims(slot) && flight.terms().generation < before);
        for flight in overdue {
            if flight.becomes_download() {
                cut.streams += 1;
            } else if flight.condemn(Reason::DrainCut) {
                // One that has failed already, of a deadline of its own, is not cut.
                cut.requests.push(flight.to_cut());
            }
        }
        cut
    }

    fn close_streams(&self, close: &Close) -> Closing {
        let flights = self.flights.borrow();
        let mut streams: Vec<&Rc<Flight>> = flights
            .iter()
            .map(|(_, flight)| flight)
            .filter(|flight| flight.streams(close.slot) && flight.terms().generation < close.before)
            .filter(|flight| !flight.leaving())
            .collect();
        self.dismiss(&mut streams, close.pace)
    }

    /// Gives these streams a time to leave, the oldest first. What would end sooner by an earlier letter is left to that.
    fn dismiss(&self, streams: &mut [&Rc<Flight>], pace: Pace) -> Closing {
        let now = self.elapsed();
        streams.sort_by_key(|flight| flight.started());
        let times: Vec<u64> = closing::times(streams.len(), pace, self.id, self.workers)
            .map(|time| now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
            .collect();
        let Some(last) = times.last().copied() else { return Closing::default() };
        if !streams.iter().all(|flight| flight.leave.due().is_some_and(|due| due <= last)) {
            streams.iter().zip(times).for_each(|(flight, time)| flight.leave.set_due(Some(time)));
        }
        let last = streams.iter().filter_map(|flight| flight.leave.due()).max().unwrap_or(last);
        Closing { streams: streams.len() as u64, within: Duration::from_millis(last.saturating_sub(now)) }
    }

    /// Stops in three steps: accept nothing more and say `Connection: close`; end idle connections, and streams one by
    /// one; cut what is left.
    async fn finish(&self, within: Duration, accepting: JoinSet<()>) {
        let deadline = tokio::time::Instant::now() + within;
        self.stopping.set(true);
        self.stop.cancel();
        // Until whoever is in the kernel's queues has been taken, none open does not mean none left.
        accepting.join_all().await;
        if self.empty_before(tokio::time::Instant::now() + QUIET.min(within)).await {
            return;
        }
        self.conns.borrow().iter().for_each(|(_, conn)| conn.retire(self.now()));
        {
            let flights = self.flights.borrow();
            let mut streams: Vec<_> = flights.iter().map(|(_, flight)| flight).collect();
            streams.retain(|flight| flight.stream().is_some());
            self.dismiss(&mut streams, Pace { over: within / 2, per_second: u32::MAX });
        }
        if self.empty_before(deadline).await {
            return;
        }
        let left = self.flights.borrow().len();
        tracing::warn!(worker = self.id, requests = left, "shutdown deadline passed, cutting what is left");
        for (_, flight) in self.flights.borrow().iter() {
            flight.condemn(Reason::ShutdownCut);
        }
        if !self.empty_before(deadline + QUIET).await {
            self.conns.borrow().iter().for_each(|(_, conn)| conn.abort());
            self.empty_before(deadline + 2 * QUIET).await;
        }
    }

    /// Waits until no connection is open; false when the deadline comes first.
    async fn empty_before(&self, deadline: tokio::time::Instant) -> bool {
        loop {
            let ended = self.ended.notified();
            if self.conns.borrow().is_empty() {
                return true;
            }
            if tokio::time::timeout_at(deadline, ended).await.is_err() {
                return self.conns.borrow().is_empty();
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(lines) = &self.access {
            lines.borrow_mut().flush();
        }
    }
}
