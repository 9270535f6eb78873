//! One client connection: who it is, its protocol, its waits, its end.
//!
//! `receive` learns who the client is and takes off TLS, then `http1` or `http2` speaks, then a tunnel may follow.
//! What the libraries that speak do not know of is here: the connection keeps book of what moves, so that the worker's
//! sweep can end those on which nothing does (by `orders`), and a request ends when its last byte has left the
//! libraries' buffers (until then it is `flushing`).

mod flushing;
mod http1;
mod http2;
mod orders;
mod parting;
mod receive;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use tokio::net::TcpStream;

use super::error::Reason;
use super::headers;
use super::limits::badges::Badge;
use super::listen::Manner;
use super::pool::Own;
use super::sleeper::Sleeper;
use super::socket::ClientSocket;
use super::tunnel::Tunnel;
use super::worker::{Limits, SWEEP, Worker};
use flushing::Flushing;
use orders::Order;
use parting::{LINGER, Parting, part};

/// Whoever comes back within this many milliseconds sends one request after the other.
const LIVELY: u64 = 200;

/// Who is at the other end, as the connection itself tells.
#[derive(Debug)]
pub struct Client {
    /// The client's address: the socket's, or what a trusted proxy's PROXY header says; IPv4 where it is one.
    pub address: SocketAddr,
    /// The same as a header value.
    pub ip: HeaderValue,
    /// Whether it came by TLS.
    pub secure: bool,
    /// The subject of its verified certificate.
    pub subject: Option<HeaderValue>,
    /// Whether nobody knows who it is: a PROXY header came that does not say. Its own word counts for nothing.
    pub unknown: bool,
}

/// What the worker knows of one client connection.
#[derive(Debug)]
pub struct Conn {
    /// How its listener receives clients.
    pub manner: Rc<Manner>,
    /// The address at the other end of the socket, and ours.
    from: SocketAddr,
    to: SocketAddr,
    client: OnceCell<Client>,
    /// It counts among its address's connections, while those are counted.
    badge: RefCell<Option<Badge>>,
    /// Its own connections to backends that are told who the client is.
    own: OnceCell<Own>,
    /// Whether it carries several requests at once (HTTP/2).
    several: Cell<bool>,
    /// Requests begun and not yet at their last frame.
    busy: Cell<u32>,
    /// When an upload was last found waiting for its backend, in the worker's milliseconds: over HTTP/2 it may fill the
    /// window that all of them share.
    clogged: Cell<Option<u64>>,
    /// Requests whose last frame is in the library's buffers.
    flushing: RefCell<Vec<Flushing>>,
    /// HTTP/2 streams to end in the middle, of requests whose last frame waits for the client.
    condemned: RefCell<Vec<u32>>,
    /// Answers given up lately because the client took nothing of them.
    stalled: Cell<u32>,
    phase: Cell<Phase>,
    /// A request has come to its head's end.
    asked: Cell<bool>,
    /// It was chosen to leave, because there is no room for another.
    leaving: Cell<bool>,
    /// When the phase began, in the worker's milliseconds.
    since: Cell<u64>,
    /// When a head of HTTP/2 began that has not come to its end; nothing else can come before it does.
    opening: Cell<Option<u64>>,
    order: Cell<Option<Order>>,
    /// When it was told to retire, in the worker's milliseconds.
    retired: Cell<Option<u64>>,
    sleeper: Sleeper,
    /// The client has closed its side.
    left: Cell<bool>,
    /// The client said that nothing follows the current request, and nothing of that is to come.
    silent: Cell<bool>,
    /// The current request is HTTP/1.0, whose answers may end with the connection.
    old: Cell<bool>,
    /// An answer broke off.
    broken: Cell<bool>,
    /// When the client last took a byte, in the worker's milliseconds.
    taken: Cell<u64>,
    /// How many bytes it has taken.
    written: Cell<u64>,
    /// The status of hyper's own answer, which we kept from the client.
    muted: Cell<Option<u16>>,
    /// hyper has read what there was and flushed what it had.
    still: Cell<bool>,
    /// The body of an HTTP/1.1 request has not come to its end: what follows is no head, whatever it looks like.
    unheard: Cell<bool>,
    /// It was idle for a moment only: one request follows the other.
    lively: Cell<bool>,
    /// Whether what requests need is held for it.
    parking: Cell<Parking>,
    /// What follows the 101 that is being sent.
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What comes before HTTP: a PROXY header, TLS, the preface of HTTP/2.
    Receiving,
    /// Before its first request.
    New,
    /// Between requests.
    Idle,
    /// A head has begun to arrive.
    Head,
    /// Requests are in progress.
    Busy,
    /// HTTP is over, and the client is let read what was said last.
    Parting,
}

/// Whether what requests need is held for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parking {
    /// It is.
    Warm,
    /// It is, and has not been used for a while.
    Due,
    /// Nothing is held but the socket: over HTTP/1.1.
    Parked,
}

impl Client {
    fn new(address: SocketAddr, stream: Option<&rustls::ServerConnection>) -> Client {
        let ip = address.ip().to_canonical();
        Client {
            address: SocketAddr::new(ip, address.port()),
            ip: headers::text(ip),
            secure: stream.is_some(),
            subject: stream.and_then(super::tls::subject),
            unknown: false,
        }
    }
}

impl Conn {
    /// A connection that was just accepted, from there and to this address of ours.
    pub fn new(from: SocketAddr, to: SocketAddr, manner: Rc<Manner>, now: u64) -> Conn {
        let receives = manner.tls.is_some() || manner.proxy_header;
        Conn {
            manner,
            from,
            to,
            client: OnceCell::new(),
            badge: RefCell::default(),
            own: OnceCell::new(),
            several: Cell::new(false),
            busy: Cell::new(0),
            clogged: Cell::new(None),
            flushing: RefCell::default(),
            condemned: RefCell::default(),
            stalled: Cell::new(0),
            phase: Cell::new(if receives { Phase::Receiving } else { Phase::New }),
            asked: Cell::new(false),
            leaving: Cell::new(false),
            since: Cell::new(now),
            opening: Cell::new(None),
            order: Cell::new(None),
            retired: Cell::new(None),
            sleeper: Sleeper::default(),
            left: Cell::new(false),
            silent: Cell::new(false),
            old: Cell::new(false),
            broken: Cell::new(false),
            taken: Cell::new(now),
            written: Cell::new(0),
            muted: Cell::new(None),
            still: Cell::new(false),
            unheard: Cell::new(false),
            lively: Cell::new(false),
            parking: Cell::new(Parking::Warm),
            tunnel: RefCell::default(),
        }
    }

    /// Who the client is; before that is known, who connected.
    pub fn client(&self) -> &Client {
        self.client.get_or_init(|| Client::new(self.from, None))
    }

    /// Its own connections to backends that are told who the client is.
    pub fn own(&self) -> &Own {
        self.own.get_or_init(|| Own::new(self.client().address, self.to))
    }

    /// The client's address, unless a PROXY header is still to say it.
    pub fn known(&self) -> Option<IpAddr> {
        let known = self.client.get().map(|client| client.address.ip());
        known.or_else(|| (!self.manner.proxy_header).then(|| self.from.ip()))
    }

    /// Whether it is counted.
    pub fn has_badge(&self) -> bool {
        self.badge.borrow().is_some()
    }

    /// It is counted, or is not any more.
    pub fn wears(&self, badge: Option<Badge>) {
        self.badge.replace(badge);
    }

    /// Whether its client has asked, and since when it is idle, which is since it began if he has not asked to the end.
    /// None while it is in use.
    pub fn idle(&self) -> Option<(bool, u64)> {
        let since = self.since.get();
        match self.phase.get() {
            Phase::Busy => None,
            Phase::Idle => Some((self.asked.get(), since)),
            Phase::Receiving | Phase::New | Phase::Head | Phase::Parting => Some((false, since)),
        }
    }

    /// A request has begun.
    pub fn begins(&self) {
        self.asked.set(true);
        self.busy.set(self.busy.get() + 1);
        self.phase.set(Phase::Busy);
        self.parking.set(Parking::Warm);
    }

    /// A request has ended, one way or another.
    pub fn ends(&self, now: u64) {
        self.busy.set(self.busy.get().saturating_sub(1));
        // HTTP/1.1 still has to flush.
        if self.several.get() && self.busy.get() == 0 {
            self.rest(now);
        }
    }

    /// How many requests are in progress.
    pub fn busy(&self) -> u32 {
        self.busy.get()
    }

    /// An upload waits for its backend.
    pub fn clogs(&self, now: u64) {
        self.clogged.set(Some(now));
    }

    /// Whether one did at the last two sweeps.
    pub fn is_clogged(&self, now: u64) -> bool {
        const LATELY: u64 = 2 * SWEEP.as_millis() as u64;
        self.clogged.get().is_some_and(|clogged| now.saturating_sub(clogged) <= LATELY)
    }

    /// When the client last took a byte: the kernel, for it.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// How many bytes it has taken.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    fn takes(&self, bytes: usize, now: u64) {
        self.taken.set(now);
        self.written.set(self.written.get() + bytes as u64);
    }

    /// The request's body has come to its end.
    pub fn heard(&self) {
        self.unheard.set(false);
    }

    /// Whether it has, over HTTP/1.1, or there is none.
    pub fn is_heard(&self) -> bool {
        !self.unheard.get()
    }

    /// The client has said all that it will say on this connection.
    pub fn falls_silent(&self) {
        self.silent.set(true);
    }

    /// An answer that had begun will not be completed.
    pub fn breaks_off(&self) {
        self.broken.set(true);
    }

    /// An answer is given up because the client takes nothing of it.
    pub fn stalls(&self) {
        self.stalled.set(self.stalled.get() + 1);
    }

    /// What was asked for by an upgrade, once the answer has left.
    fn continues(&self, tunnel: Box<Tunnel>) {
        self.tunnel.replace(Some(tunnel));
    }

    /// Ends it if it has been waiting for the client for too long.
    pub fn sweep(&self, now: u64, limits: &Limits) {
        let age = now.saturating_sub(self.since.get());
        if self.opening.get().is_some_and(|since| now.saturating_sub(since) > limits.header_time) {
            self.give(Order::Refuse(Reason::HeadTimeout));
        }
        match self.phase.get() {
            // An HTTP/2 client is told, and gets a while to close.
            Phase::Idle if self.several.get() => match self.retired.get() {
                Some(told) if now.saturating_sub(told).min(age) > LINGER.as_millis() as u64 => self.give(Order::Abort),
                None if age > limits.idle_time => self.retire(now),
                _ => self.cools(age),
            },
            Phase::New if age > limits.first_byte_time => self.give(Order::Abort),
            Phase::Idle if age > limits.idle_time => self.give(Order::Abort),
            Phase::Idle => self.cools(age),
            Phase::Receiving if age > limits.handshake_time => self.give(Order::Refuse(Reason::HeadTimeout)),
            Phase::Head if age > limits.header_time => self.give(Order::Refuse(Reason::HeadTimeout)),
            Phase::Receiving | Phase::New | Phase::Head | Phase::Busy | Phase::Parting => {}
        }
    }

    /// Idle for so long: what it does not need for that is to be given up.
    fn cools(&self, age: u64) {
        if age > 0 && self.parking.get() == Parking::Warm {
            self.parking.set(Parking::Due);
            self.sleeper.wake();
        }
    }

    fn arrived(&self, now: u64) {
        if matches!(self.phase.get(), Phase::New | Phase::Idle) {
            self.enters(Phase::Head, now);
        }
    }

    /// HTTP is over.
    fn parts(&self, now: u64) {
        // What was wanted of it has come to pass.
        self.order.set(None);
        self.enters(Phase::Parting, now);
    }

    fn enters(&self, phase: Phase, now: u64) {
        self.phase.set(phase);
        self.since.set(now);
    }

    /// Nothing is in progress from now on.
    fn rest(&self, now: u64) {
        self.enters(Phase::Idle, now);
    }

    /// Whether an HTTP/1.1 connection may be parked: nothing is in progress, nothing is on its way, and it has been so
    /// for a while; or other connections are warm, and it is unlikely to be used soon.
    fn may_park(&self, crowded: bool) -> bool {
        (self.is_unused() || crowded && !self.lively.get())
            && self.phase.get() == Phase::Idle
            && self.still.get()
            && !self.unheard.get()
            && self.busy.get() == 0
            && self.flushing.borrow().is_empty()
    }

    /// Whether it has been idle for a while.
    fn is_unused(&self) -> bool {
        self.parking.get() == Parking::Due
    }

    /// Nothing is held for it from now on.
    fn parks(&self) {
        self.parking.set(Parking::Parked);
    }

    /// The client says something; not for the first time, if it is `used`.
    fn unparks(&self, used: bool, now: u64) {
        self.parking.set(Parking::Warm);
        self.still.set(false);
        self.lively.set(used && now.saturating_sub(self.since.get()) <= LIVELY);
    }
}

/// A connection's place among the worker's, given up on whatever way it ends.
struct Place {
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        // A request whose last bytes will never leave also holds the connection that holds it.
        drop(self.conn.flushing.take());
        drop(self.conn.tunnel.take());
        drop(self.conn.badge.take());
        if self.conn.leaving.get() {
            self.worker.left_for_another();
        }
        self.worker.disconnect(self.key);
    }
}

/// Carries one client connection from accept to close, in a task of its own. Its place is taken at once, so that
/// whoever accepts next knows how many there are.
pub fn serve(worker: Rc<Worker>, tcp: TcpStream, from: SocketAddr, manner: Rc<Manner>, badge: Option<Badge>) {
    // Only a socket that is broken does not know its address; nobody will hear of this one.
    let to = tcp.local_addr().unwrap_or(from);
    let conn = Rc::new(Conn::new(from, to, manner, worker.now()));
    conn.wears(badge);
    let place = Place { key: worker.connect(conn.clone()), conn, worker };
    tokio::task::spawn_local(async move { carry(&place.worker, &place.conn, tcp).await });
}

/// What is left to do when HTTP is over.
enum Over {
    /// Close the connection.
    Part(ClientSocket, Parting),
    /// The client speaks HTTP/2.
    Http2(ClientSocket),
    /// A tunnel begins, with what the client has sent for it already.
    Tunnel(ClientSocket, Bytes, Box<Tunnel>),
}

async fn carry(worker: &Rc<Worker>, conn: &Rc<Conn>, tcp: TcpStream) {
    let Some(stream) = receive::receive(worker, conn, tcp).await else { return };
    let over = match stream.tls().and_then(|tls| tls.alpn_protocol()) {
        Some(b"h2") => Over::Http2(stream),
        _ => http1::speak(worker, conn, stream).await,
    };
    // What few connections come to is boxed: an idle one shall be small.
    let (stream, parting) = match over {
        Over::Part(stream, parting) => (stream, parting),
        Over::Http2(stream) => match Box::pin(http2::speak(worker, conn, stream)).await {
            Some(parted) => parted,
            None => return,
        },
        Over::Tunnel(mut stream, ahead, tunnel) => {
            let ended = conn.unless_ended(Box::pin(tunnel.run(&mut stream, ahead))).await;
            (stream, if ended.is_ok() { Parting::Linger } else { Parting::Close })
        }
    };
    if !conn.leaving.get() {
        conn.parts(worker.now());
    }
    // The place may be needed before the client has read all.
    let _ended = conn.unless_ended(Box::pin(part(worker, stream, parting))).await;
}
