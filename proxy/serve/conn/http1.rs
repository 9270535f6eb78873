//! How is HTTP/1.1 spoken with a client? By hyper, over a socket that keeps book.
//!
//! Between requests the connection is parked: hyper's state and its buffers, some twenty kilobytes, are there only from
//! the first byte of a head until nothing has happened for a while. hyper's own answers to malformed heads are replaced
//! by ours, which say why. A client that begins with the preface of HTTP/2 is handed on, and so is one whose upgrade
//! was answered with 101.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::Version;
use hyper::body::Body as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::body::Body;
use super::super::error::{Reason, of_hyper_status};
use super::super::forward::{self, Answer};
use super::super::incoming::Incoming;
use super::super::socket::ClientSocket;
use super::super::worker::Worker;
use super::flushing::Flushing;
use super::orders::Order;
use super::parting::Parting;
use super::{Conn, Over};

/// hyper's buffers may grow to this, per connection and direction.
const BUFFER: usize = 64 * 1024;

/// What is read of a head before hyper reads.
const FIRST: usize = 8 * 1024;

/// What an HTTP/2 client says first (RFC 9113, section 3.4), as far as hyper needs to read to give up. Whether the rest
/// is right is for h2 to say.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Speaks HTTP/1.1 until it is over.
pub(super) async fn speak(worker: &Rc<Worker>, conn: &Rc<Conn>, mut socket: ClientSocket) -> Over {
    let requests = Cell::new(0_u64);
    loop {
        match parked(worker, conn, &mut socket).await {
            Ok(bytes) => socket.unread(bytes),
            Err(parting) => return Over::Part(socket, parting),
        }
        match Box::pin(exchange(worker, conn, &requests, socket)).await {
            Pause::Over(over) => return over,
            Pause::Park(idle) => socket = idle,
        }
    }
}

/// Waits until the client says something: what it says, or how to part instead.
///
/// Reads into memory that all share. That a socket is said to be readable is not enough: every one that was just
/// accepted is, on the chance that a request came along.
async fn parked(worker: &Worker, conn: &Conn, socket: &mut ClientSocket) -> Result<Bytes, Parting> {
    conn.parks();
    let _parked = worker.clients.parks();
    poll_fn(|cx| {
        let order = conn.obey(cx);
        match order {
            Some(Order::Refuse(reason)) => return Poll::Ready(Err(Parting::Refuse(reason))),
            // There is no answer that could be lost.
            Some(Order::Abort) => return Poll::Ready(Err(Parting::Close)),
            Some(Order::Retire | Order::Leave) | None => {}
        }
        let mut scratch = worker.scratch.borrow_mut();
        // No more than hyper would read first: it is copied.
        let mut buf = ReadBuf::new(&mut scratch[..FIRST]);
        let read = Pin::new(&mut *socket).poll_read(cx, &mut buf);
        // What has come is answered; after `Retire` the answer says `close`.
        if read.is_pending() && order.is_some() {
            return Poll::Ready(Err(Parting::Close));
        }
        Poll::Ready(match ready!(read) {
            Ok(()) if buf.filled().is_empty() => {
                conn.left.set(true);
                Err(Parting::Close)
            }
            Ok(()) => {
                if order == Some(Order::Leave) {
                    conn.stays(worker);
                }
                Ok(Bytes::copy_from_slice(buf.filled()))
            }
            Err(error) => {
                tracing::debug!(client = %conn.client().address, "client connection ended: {error}");
                Err(Parting::Close)
            }
        })
    })
    .await
}

/// What has become of a connection that hyper had.
enum Pause {
    /// Nothing is in progress, and has not been for a while.
    Park(ClientSocket),
    /// HTTP/1.1 is over.
    Over(Over),
}

/// Lets hyper speak until it is over, or until the connection has become idle.
async fn exchange(worker: &Rc<Worker>, conn: &Rc<Conn>, requests: &Cell<u64>, socket: ClientSocket) -> Pause {
    conn.unparks(requests.get() > 0, worker.now());
    let _warm = worker.warms();
    let io = TokioIo::new(Io { socket, conn: conn.clone(), worker: worker.clone() });
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        requests.set(requests.get() + 1);
        conn.old.set(request.version() == Version::HTTP_10);
        conn.unheard.set(!request.body().is_end_stream());
        async move {
            Ok::<_, Infallible>(match forward::forward(worker, conn, request.map(Incoming::Http1), 0).await {
                Answer::Response(response) => response,
                Answer::Tunnel(response, tunnel) => {
                    conn.continues(tunnel);
                    response.map(|()| Body::none())
                }
            })
        }
    });
    let header_size = worker.limits().header_size;
    let mut http = http1::Builder::new()
        .max_buf_size(BUFFER.max(header_size))
        .max_header_size(header_size)
        .serve_connection(io, service);
    let parting = poll_fn(|cx| {
        match conn.obey(cx) {
            Some(Order::Abort) => return Poll::Ready(Some(Parting::Close)),
            Some(Order::Refuse(reason)) => return Poll::Ready(Some(Parting::Refuse(reason))),
            // Between two requests there is no answer that could be lost.
            Some(Order::Retire | Order::Leave) if conn.busy.get() == 0 => return Poll::Ready(Some(Parting::Close)),
            Some(Order::Leave) => conn.stays(worker),
            // hyper would put a `close` into a 101.
            Some(Order::Retire) if conn.tunnel.borrow().is_some() => {}
            Some(Order::Retire) => Pin::new(&mut http).graceful_shutdown(),
            None => {}
        }
        // `Io` ignores hyper's shutdown of the socket: how to part is decided here.
        if let Poll::Ready(result) = Pin::new(&mut http).poll(cx) {
            return Poll::Ready(Some(parting(conn, result)));
        }
        if !conn.may_park(worker.is_crowded()) {
            return Poll::Pending;
        }
        // hyper has the last word: where nothing is in progress it ends at once, and touches nothing.
        Pin::new(&mut http).graceful_shutdown();
        match Pin::new(&mut http).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(result) => Poll::Ready(Some(parting(conn, result))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    // Ends what was still going on, also what would only have had to leave hyper's buffers.
    let http = http.into_parts();
    let mut socket = http.io.into_inner().socket;
    let Some(parting) = parting else {
        // The beginning of a next head may have come with the request before. Empty lines are none (RFC 9112, section
        // 2.2).
        let mut ahead = http.read_buf;
        let empty = ahead.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        ahead.advance(empty);
        socket.unread(ahead);
        return Pause::Park(socket);
    };
    drop(conn.flushing.take());
    Pause::Over(over(conn, socket, http.read_buf, parting, requests.get()))
}

/// What is left to do when hyper has ended, with these bytes unused.
fn over(conn: &Conn, mut socket: ClientSocket, unused: Bytes, parting: Parting, requests: u64) -> Over {
    if let Some(tunnel) = conn.tunnel.take()
        && parting == Parting::Linger
    {
        return Over::Tunnel(socket, unused, tunnel);
    }
    // What a client does not take, the kernel would keep for it for minutes, megabytes of it.
    if conn.stalled.get() > 0 || conn.broken.get() && conn.old.get() {
        return Over::Part(socket, Parting::Reset);
    }
    // hyper leaves this one unanswered, and its bytes with us.
    let broke_off = matches!(parting, Parting::Linger | Parting::Refuse(Reason::HeadMalformed));
    if broke_off && unused.starts_with(PREFACE) {
        // Only as the first word: later on, somebody before us may have taken it for something else.
        let welcome = conn.manner.h2c && socket.tls().is_none() && requests == 0;
        return match welcome {
            true => {
                socket.unread(unused);
                Over::Http2(socket)
            }
            false => Over::Part(socket, Parting::Refuse(Reason::HeadMalformed)),
        };
    }
    // There is nothing on its way that would have to be read before the client has its answer.
    let is_silent = parting == Parting::Linger && conn.silent.get() && unused.is_empty();
    Over::Part(socket, if is_silent { Parting::Close } else { parting })
}

fn parting(conn: &Conn, result: Result<(), hyper::Error>) -> Parting {
    match result {
        Err(error) if error.is_parse() => match conn.muted.get() {
            Some(status) => Parting::Refuse(of_hyper_status(status)),
            // It went out with an earlier answer that was still in hyper's buffers.
            None => Parting::Linger,
        },
        Err(error) => {
            tracing::debug!(client = %conn.client().address, "client connection ended: {error}");
            Parting::Close
        }
        Ok(()) if conn.left.get() => Parting::Close,
        // The client may be sending: the rest of a body, or a next request.
        Ok(()) => Parting::Linger,
    }
}

/// A client's socket that keeps book.
struct Io {
    socket: ClientSocket,
    conn: Rc<Conn>,
    worker: Rc<Worker>,
}

impl Io {
    /// Takes hyper's own answer out of the way; true when it did. Ours, with its reason, follows in `part`.
    fn mute(&self, first: &[u8]) -> bool {
        // hyper writes although no request is being answered: its own answer to a head it cannot read.
        if self.conn.busy.get() > 0 {
            return false;
        }
        if self.conn.muted.get().is_none() {
            let status = first.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            self.conn.muted.set(Some(status.unwrap_or(400)));
        }
        true
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes @ 1..)) = result {
            self.conn.takes(bytes, self.worker.now());
        }
        result
    }

    fn flushed(&self) {
        if self.conn.flushing.borrow().is_empty() {
            return;
        }
        for Flushing { guard, .. } in self.conn.flushing.take() {
            guard.finish();
        }
        if self.conn.busy.get() == 0 {
            self.conn.rest(self.worker.now());
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.conn.still.set(result.is_pending());
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
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
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
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when its buffers are empty: the moment at which an answer is with the kernel.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(cx);
        match result {
            Poll::Ready(Ok(())) => self.flushed(),
            _ => self.conn.still.set(false),
        }
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
