//! How is HTTP/2 spoken with a client? By h2, over a stream that watches the frames go by.
//!
//! All requests of a connection are answered in its one task, so that they and what they hold end with it. The frames
//! tell what h2 does not: when a request's last byte has left, and whether the client floods.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::abuse::{Abuse, Flood};
use super::super::body::Body;
use super::super::error::Reason as Cause;
use super::super::forward::{self, Answer};
use super::super::frames::{END_HEADERS, END_STREAM, Frame, Frames, Kind};
use super::super::incoming::{Incoming, Recv};
use super::super::pump::{Pump, Stopped};
use super::super::socket::ClientSocket;
use super::super::tunnel::StreamIo;
use super::super::worker::Worker;
use super::{Conn, Order, Parting, Phase};

/// Requests of one connection at once; more are refused, which clients take as "later".
const STREAMS: u32 = 128;
/// Bytes of one upload that may be on their way before somebody takes them, and of all uploads of a connection: one
/// that nobody takes must not keep the others waiting.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 1024 * 1024;
/// Bytes of one answer that may wait for the client's window.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes written by h2 that may wait for those behind them: heads of frames, a short answer.
const HELD: usize = 4 * 1024;

/// How long a client that is turned away may take to read why.
const FAREWELL: Duration = Duration::from_millis(500);

/// Speaks HTTP/2 until it is over; `ahead` was read already.
pub(super) async fn speak(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    stream: ClientSocket,
    ahead: Bytes,
) -> Option<(ClientSocket, Parting)> {
    conn.several.set(true);
    conn.phase.set(Phase::Receiving);
    conn.since.set(worker.now());
    let book = Rc::new(Book::default());
    let io = Io {
        stream: Some(stream),
        ahead,
        read: Frames::new(true),
        written: Frames::new(false),
        held: BytesMut::new(),
        worker: worker.clone(),
        conn: conn.clone(),
        book: book.clone(),
    };
    let ended = exchange(worker, conn, &book, io).await;
    drop(conn.flushing.take());
    let parting = match ended {
        Ok(()) if conn.left.get() => Parting::Close,
        Ok(()) => Parting::Linger,
        Err(Ended { label, source }) => {
            if let Some(label) = label {
                worker.clients.failed(label);
            }
            let error = source.as_ref().map(tracing::field::display);
            tracing::debug!(client = %conn.client().address, reason = label, error, "client connection ended");
            if label.is_some() { Parting::Linger } else { Parting::Close }
        }
    };
    Some((book.stream.take()?, parting))
}

/// A connection ended otherwise than by being over.
struct Ended {
    /// What it did, when it did something that is counted.
    label: Option<&'static str>,
    source: Option<h2::Error>,
}

impl From<Flood> for Ended {
    fn from(flood: Flood) -> Self {
        Ended { label: Some(flood.label()), source: None }
    }
}

impl From<h2::Error> for Ended {
    fn from(error: h2::Error) -> Self {
        // h2 has limits of its own, and has told the client.
        let calm = error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
        Ended { label: calm.then_some("h2_flood"), source: Some(error) }
    }
}

async fn exchange(worker: &Rc<Worker>, conn: &Rc<Conn>, book: &Book, io: Io) -> Result<(), Ended> {
    let header_size = u32::try_from(worker.limits().header_size).unwrap_or(u32::MAX);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(header_size)
        // A line that stood still brings requests and their cancellations at once; `Abuse` tells that from a flood.
        .max_pending_accept_reset_streams(STREAMS as usize)
        .enable_connect_protocol();
    let mut h2 = match conn.unless_ended(builder.handshake::<_, Bytes>(io)).await {
        Ok(h2) => h2?,
        Err(Order::Refuse(_)) => return Err(Ended { label: Some("h2_preface_timeout"), source: None }),
        Err(_) => return Ok(()),
    };
    conn.rest(worker.now());
    let mut requests = FuturesUnordered::new();
    let ended = poll_fn(|cx| {
        match conn.obey(cx) {
            Some(Order::Abort | Order::Refuse(_)) => return Poll::Ready(Ok(())),
            Some(Order::Retire) => h2.graceful_shutdown(),
            None => {}
        }
        conn.reset_condemned();
        loop {
            // Before h2, so that what they have to say leaves at once.
            while let Poll::Ready(Some(())) = Pin::new(&mut requests).poll_next(cx) {}
            let accepted = h2.poll_accept(cx);
            book.settle(conn);
            let request = match accepted {
                Poll::Ready(Some(request)) => request?,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => match book.flood(worker.now()) {
                    Some(flood) => return Poll::Ready(Err(flood.into())),
                    None => return Poll::Pending,
                },
            };
            book.accepted.set(book.accepted.get() + 1);
            requests.push(answer(worker, conn, request));
        }
    })
    .await;
    drop(requests);
    if matches!(ended, Err(Ended { source: None, .. })) {
        h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let said = poll_fn(|cx| h2.poll_closed(cx));
        // One that does not even read this is not waited for.
        let _unwilling = tokio::time::timeout(FAREWELL, said).await;
    }
    ended
}

/// Answers one request.
async fn answer(worker: &Rc<Worker>, conn: &Rc<Conn>, request: (Request<RecvStream>, SendResponse<Bytes>)) {
    let (request, mut respond) = request;
    let stream = respond.stream_id().as_u32();
    let (head, body) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let body = Incoming::Http2(Recv::new(body, &head.headers));
    let forwarded = forward::forward(worker, conn, Request::from_parts(head, body), stream);
    let answer = {
        let mut forwarded = pin!(forwarded);
        let answered = poll_fn(|cx| match respond.poll_reset(cx) {
            // The client wants it no more: what is done for it ends here.
            Poll::Ready(_reset) => Poll::Ready(None),
            Poll::Pending => forwarded.as_mut().poll(cx).map(Some),
        });
        answered.await
    };
    let sent = match answer {
        None => Ok(()),
        Some(Answer::Response(response)) => send(conn, stream, &mut respond, response, is_head).await,
        Some(Answer::Tunnel(response, mut tunnel)) => match respond.send_response(response, false) {
            Ok(send) => {
                let io = StreamIo::new(send, tunnel.client_half());
                Box::pin(tunnel.run(io, Bytes::new())).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
    };
    if let Err(error) = sent {
        tracing::debug!(client = %conn.client().address, stream, "answer not sent: {error}");
    }
}

/// Sends an answer until its last frame is with h2.
async fn send(
    conn: &Rc<Conn>,
    stream: u32,
    respond: &mut SendResponse<Bytes>,
    response: Response<Body>,
    is_head: bool,
) -> Result<(), h2::Error> {
    let (mut head, mut body) = response.into_parts();
    // Which hyper does for HTTP/1.1 (RFC 9110, section 6.6.1).
    if let header::Entry::Vacant(entry) = head.headers.entry(header::DATE)
        && let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
    {
        entry.insert(now);
    }
    let flight = body.flight();
    let ends = is_head || body.is_end_stream();
    let sender = match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(sender) => sender,
        Err(error) => {
            body.break_off(if error.is_io() { Cause::ClientGone } else { Cause::Internal });
            return Err(error);
        }
    };
    if ends {
        drop(body);
        conn.holds(stream, sender);
        return Ok(());
    }
    let mut pump = Pump::new(body, sender);
    let pumped = poll_fn(|cx| match flight.as_ref().and_then(|flight| flight.condemned(cx)) {
        Some(_reason) => {
            pump.reset(Reason::INTERNAL_ERROR);
            Poll::Ready(Err(Stopped::Receiver(Reason::INTERNAL_ERROR.into())))
        }
        None => {
            let waiting = pump.waiting();
            let pumped = pump.poll(cx);
            // A piece that a client takes in many small steps is long on its way, and yet taken.
            if pump.waiting() != waiting
                && let Some(flight) = &flight
            {
                flight.touch();
            }
            pumped
        }
    })
    .await;
    let (mut body, sender) = pump.into_parts();
    match pumped {
        Ok(()) => {
            drop(body);
            conn.holds(stream, sender);
            Ok(())
        }
        // The body itself has told.
        Err(Stopped::Body(_failure)) => Ok(()),
        Err(Stopped::Receiver(error)) => {
            body.break_off(Cause::ClientGone);
            Err(error)
        }
    }
}

/// What the frames told while h2 was at work: h2 must not be touched from within.
#[derive(Default)]
struct Book {
    /// Streams whose last frame has left.
    ended: RefCell<Vec<u32>>,
    /// Streams that the client has reset.
    reset: RefCell<Vec<u32>>,
    /// Streams of which a piece of the body left.
    moved: RefCell<Vec<u32>>,
    /// The highest stream that a block of headers began, and the one whose block is not at its end.
    highest: Cell<u32>,
    opening: Cell<u32>,
    /// Streams begun by a whole block of headers, and those of them that became requests.
    opened: Cell<u64>,
    accepted: Cell<u64>,
    abuse: RefCell<Abuse>,
    flood: Cell<Option<Flood>>,
    /// The client's stream, when h2 is done with it.
    stream: Cell<Option<ClientSocket>>,
}

impl Book {
    fn came(&self, frame: Frame, now: u64) {
        match frame {
            Frame::Begins { kind: Kind::Headers, stream, .. } if stream > self.highest.get() => {
                self.highest.set(stream);
                self.opening.set(stream);
            }
            Frame::Ended { kind: Kind::Headers | Kind::Continuation, flags, stream }
                if flags & END_HEADERS != 0 && stream == self.opening.get() =>
            {
                self.opening.set(0);
                self.opened.set(self.opened.get() + 1);
            }
            Frame::Ended { kind: Kind::Reset, stream, .. } => self.reset.borrow_mut().push(stream),
            _ => {}
        }
        if let Some(flood) = self.abuse.borrow_mut().note(frame, now) {
            self.flood.set(Some(flood));
        }
    }

    fn left(&self, frame: Frame) {
        match frame {
            Frame::Begins { kind: Kind::Data, stream, .. } => self.moved.borrow_mut().push(stream),
            Frame::Ended { kind: Kind::Data | Kind::Headers, flags, stream } if flags & END_STREAM != 0 => {
                self.ended.borrow_mut().push(stream);
            }
            _ => {}
        }
    }

    /// Ends the requests that have ended, and notes which go on.
    fn settle(&self, conn: &Conn) {
        // The lists keep their memory.
        self.moved.borrow_mut().drain(..).for_each(|stream| conn.moves(stream));
        self.ended.borrow_mut().drain(..).for_each(|stream| conn.flushed(stream));
        self.reset.borrow_mut().drain(..).for_each(|stream| conn.lost(stream));
    }

    /// What the client does too much of; asked when every complete request was accepted.
    fn flood(&self, now: u64) -> Option<Flood> {
        while self.accepted.get() < self.opened.get() {
            self.accepted.set(self.accepted.get() + 1);
            if let Some(flood) = self.abuse.borrow_mut().refused(now) {
                self.flood.set(Some(flood));
            }
        }
        self.flood.get()
    }
}

/// A client's stream that shows its frames to the book.
///
/// To h2 it takes one piece at a time, so that h2 puts short answers together instead of writing each by itself: a
/// system call, and a TLS record, for every one.
struct Io {
    stream: Option<ClientSocket>,
    ahead: Bytes,
    read: Frames,
    written: Frames,
    /// A short piece, which leaves together with the next one, or when h2 flushes.
    held: BytesMut,
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    book: Rc<Book>,
}

impl Io {
    /// Writes what is held and some of `buf`: how much of it.
    fn poll_both(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() || !buf.is_empty() {
            let bufs = [io::IoSlice::new(&self.held), io::IoSlice::new(buf)];
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let bytes = ready!(Pin::new(stream).poll_write_vectored(cx, &bufs))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.conn.taken.set(self.worker.now());
            let of_held = bytes.min(self.held.len());
            for piece in [&self.held[..of_held], &buf[..bytes - of_held]] {
                self.written.feed(piece, |frame| self.book.left(frame));
            }
            self.held.advance(of_held);
            if bytes > of_held {
                return Poll::Ready(Ok(bytes - of_held));
            }
        }
        Poll::Ready(Ok(0))
    }

    fn stream(&mut self) -> io::Result<Pin<&mut ClientSocket>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            ready!(self.stream()?.poll_read(cx, buf))?;
        } else {
            let bytes = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(bytes));
        }
        let this = &mut *self;
        let read = &buf.filled()[before..];
        if read.is_empty() {
            this.conn.left.set(true);
        }
        let now = this.worker.now();
        this.read.feed(read, |frame| this.book.came(frame, now));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() + buf.len() > HELD {
            return self.poll_both(cx, buf);
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_both(cx, &[]))?;
        self.stream()?.poll_flush(cx)
    }

    /// How to part is decided by the connection.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.book.stream.set(self.stream.take());
    }
}
