//! One client connection: its protocol, its waits, its end.
//!
//! hyper speaks HTTP/1.1; what hyper does not know of is here: the socket keeps book of what moves (`Io`), so that
//! the worker's sweep can end connections that do not, a request ends when its last byte left hyper's buffers, and
//! hyper's own answers to malformed heads are replaced by ours, which say why.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderValue, Version};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::error::{Reason, of_hyper_status};
use super::flight::Guard;
use super::forward;
use super::incoming::Incoming;
use super::pool::Own;
use super::worker::Worker;

/// hyper's buffers may grow to this, per connection and direction.
const BUFFER: usize = 64 * 1024;

/// After the last answer the client gets this long and this many bytes to notice: closing while it still sends would
/// reset the connection and take the answer with it (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// What the worker knows of one client connection.
#[derive(Debug)]
pub struct Conn {
    /// The client's address.
    pub client: SocketAddr,
    /// The same as a header value.
    pub ip: HeaderValue,
    /// Its own connections to backends, where it has some.
    own: Own,
    /// Requests begun and not yet at their last frame.
    busy: Cell<u32>,
    /// Requests whose last frame is in hyper's buffers.
    flushing: RefCell<Vec<Guard>>,
    phase: Cell<Phase>,
    /// When the phase began, in the worker's milliseconds.
    since: Cell<u64>,
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
    /// The status of hyper's own answer, which we kept from the client.
    muted: Cell<Option<u16>>,
    /// The client has closed its side.
    left: Cell<bool>,
    /// The current request is HTTP/1.0, whose answers may end with the connection.
    old: Cell<bool>,
    /// An answer broke off.
    broken: Cell<bool>,
    /// When the client last took a byte, in the worker's milliseconds.
    taken: Cell<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// A head has begun to arrive.
    Head,
    /// Requests are in progress.
    Busy,
}

/// What others want of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// End after the current answer.
    Retire,
    /// The head came too slowly: say so and end.
    Refuse(Reason),
    /// End now, in the middle of whatever it is.
    Abort,
}

impl Conn {
    /// A connection that was just accepted, on this address of ours.
    pub fn new(client: SocketAddr, server: SocketAddr, now: u64) -> Conn {
        Conn {
            client,
            own: Own::new(client, server),
            // An address is always a valid header value.
            ip: HeaderValue::from_str(&client.ip().to_canonical().to_string())
                .unwrap_or(HeaderValue::from_static("unknown")),
            busy: Cell::new(0),
            flushing: RefCell::default(),
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            order: Cell::new(None),
            waker: RefCell::default(),
            muted: Cell::new(None),
            left: Cell::new(false),
            old: Cell::new(false),
            broken: Cell::new(false),
            taken: Cell::new(now),
        }
    }

    /// Its own connections to backends.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// A request has begun.
    pub fn begins(&self) {
        self.busy.set(self.busy.get() + 1);
        self.phase.set(Phase::Busy);
    }

    /// A request has ended, one way or another.
    pub fn ends(&self) {
        self.busy.set(self.busy.get().saturating_sub(1));
    }

    /// When the client last took a byte.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// An answer that had begun will not be completed.
    pub fn breaks_off(&self) {
        self.broken.set(true);
    }

    /// A request's last frame is with hyper.
    pub fn finishes(&self, guard: Guard) {
        self.flushing.borrow_mut().push(guard);
    }

    /// Ends the connection now.
    pub fn abort(&self) {
        self.give(Order::Abort);
    }

    /// Ends the connection after its current answer; an idle one now.
    pub fn retire(&self) {
        self.give(Order::Retire);
    }

    /// Ends it if it has been waiting for the client for too long (limits in milliseconds).
    pub fn sweep(&self, now: u64, idle_limit: u64, head_limit: u64) {
        let age = now.saturating_sub(self.since.get());
        match self.phase.get() {
            Phase::Idle if age > idle_limit => self.give(Order::Abort),
            Phase::Head if age > head_limit => self.give(Order::Refuse(Reason::HeadTimeout)),
            _ => {}
        }
    }

    fn give(&self, order: Order) {
        self.order.set(Some(order));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// hyper writes although no request is being answered: its own answer to a head it cannot read.
    fn is_hypers_own_answer(&self) -> bool {
        self.busy.get() == 0
    }

    fn arrived(&self, now: u64) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.since.set(now);
        }
    }

    fn flushed(&self, now: u64) {
        if self.flushing.borrow().is_empty() {
            return;
        }
        for guard in self.flushing.take() {
            guard.finish();
        }
        if self.busy.get() == 0 {
            self.phase.set(Phase::Idle);
            self.since.set(now);
        }
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
        self.worker.disconnect(self.key);
    }
}

/// Carries one client connection from accept to close, in a task of its own. Its place is taken at once, so that
/// whoever accepts next knows how many there are.
pub fn serve(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr) {
    // Only a socket that is broken does not know its address; nobody will hear of this one.
    let server = stream.local_addr().unwrap_or(client);
    let conn = Rc::new(Conn::new(client, server, worker.now()));
    let place = Place { key: worker.connect(conn.clone()), conn, worker };
    tokio::task::spawn_local(async move {
        let (stream, parting) = speak(&place.worker, &place.conn, stream).await;
        part(&place.worker, stream, parting).await;
    });
}

/// What is left to do when HTTP is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// Nothing.
    Close,
    /// Let the client read the last answer.
    Linger,
    /// Answer this, then let the client read it.
    Refuse(Reason),
    /// Make sure that the client does not take a broken answer for a whole one.
    Reset,
}

/// Speaks HTTP until it is over.
async fn speak(worker: &Rc<Worker>, conn: &Rc<Conn>, stream: TcpStream) -> (TcpStream, Parting) {
    let io = TokioIo::new(Io { stream, conn: conn.clone(), worker: worker.clone() });
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        conn.old.set(request.version() == Version::HTTP_10);
        async move { Ok::<_, Infallible>(forward::forward(worker, conn, request.map(Incoming::Http1)).await) }
    });
    let header_size = worker.limits().header_size;
    let mut http = http1::Builder::new()
        .max_buf_size(BUFFER.max(header_size))
        .max_header_size(header_size)
        .serve_connection(io, service);
    let parting = poll_fn(|cx| {
        conn.remember(cx);
        match conn.order.take() {
            Some(Order::Abort) => return Poll::Ready(Parting::Close),
            Some(Order::Refuse(reason)) => return Poll::Ready(Parting::Refuse(reason)),
            // Between two requests there is no answer that could be lost.
            Some(Order::Retire) if conn.busy.get() == 0 => return Poll::Ready(Parting::Close),
            Some(Order::Retire) => Pin::new(&mut http).graceful_shutdown(),
            None => {}
        }
        // `Io` ignores hyper's shutdown of the socket: how to part is decided here.
        Pin::new(&mut http).poll(cx).map(|result| conn.parting(result))
    })
    .await;
    // Ends what was still going on, also what would only have had to leave hyper's buffers.
    let http = http.into_parts();
    drop(conn.flushing.take());
    let stream = http.io.into_inner().stream;
    if conn.broken.get() && conn.old.get() {
        return (stream, Parting::Reset);
    }
    // hyper leaves this one unanswered, and its bytes with us.
    let is_http2 = parting == Parting::Linger && http.read_buf.starts_with(b"PRI * HTTP/2.0");
    (stream, if is_http2 { Parting::Refuse(Reason::HeadMalformed) } else { parting })
}

impl Conn {
    fn parting(&self, result: Result<(), hyper::Error>) -> Parting {
        match result {
            Err(error) if error.is_parse() => match self.muted.get() {
                Some(status) => Parting::Refuse(of_hyper_status(status)),
                // It went out with an earlier answer that was still in hyper's buffers.
                None => Parting::Linger,
            },
            Err(error) => {
                tracing::debug!(client = %self.client, "client connection ended: {error}");
                Parting::Close
            }
            Ok(()) if self.left.get() => Parting::Close,
            // The client may be sending: the rest of a body, or a next request.
            Ok(()) => Parting::Linger,
        }
    }
}

/// Closes a connection so that the client can still read what was sent.
async fn part(worker: &Worker, mut stream: TcpStream, parting: Parting) {
    if let Parting::Refuse(reason) = parting {
        worker.nowhere.refused(reason);
        let answer = super::answer::raw(reason);
        // A client that does not even take a refusal is not owed one.
        let _unwilling = tokio::time::timeout(LINGER, stream.write_all(&answer)).await;
    }
    if parting == Parting::Reset {
        let reset = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        debug_assert!(reset.is_ok(), "a socket that cannot be reset: {reset:?}");
        return;
    }
    if parting != Parting::Close && stream.shutdown().await.is_ok() {
        let drained = async {
            let mut sink = [0; 4096];
            let mut left = LINGER_BYTES;
            while let Ok(bytes @ 1..) = stream.read(&mut sink).await {
                left = left.saturating_sub(bytes);
                if left == 0 {
                    break;
                }
            }
        };
        let _impatient = tokio::time::timeout(LINGER, drained).await;
    }
}

/// A client's socket that keeps book.
struct Io {
    stream: TcpStream,
    conn: Rc<Conn>,
    worker: Rc<Worker>,
}

impl Io {
    /// Takes hyper's own answer out of the way; true when it did. Ours, with its reason, follows in [`part`].
    fn mute(&self, first: &[u8]) -> bool {
        if !self.conn.is_hypers_own_answer() {
            return false;
        }
        if self.conn.muted.get().is_none() {
            let status = first.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            self.conn.muted.set(Some(status.unwrap_or(400)));
        }
        true
    }
}

impl Io {
    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = result {
            self.conn.taken.set(self.worker.now());
        }
        result
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.conn.arrived(self.worker.now());
        } else if matches!(result, Poll::Ready(Ok(()))) {
            self.conn.left.set(true);
        }
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.mute(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.mute(bufs.first().map_or(&[], |buf| buf)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when its buffers are empty: the moment at which an answer is with the kernel.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.conn.flushed(self.worker.now());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.conn.flushed(self.worker.now());
        Poll::Ready(Ok(()))
    }
}
