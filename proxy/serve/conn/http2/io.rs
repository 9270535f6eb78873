//! What passes on a client's HTTP/2 connection? Every frame is shown to the book, which is read when h2 is at rest.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::super::abuse::{Abuse, Flood};
use super::super::super::crumbs::Crumbs;
use super::super::super::frames::{END_HEADERS, END_STREAM, Frame, Frames, Kind};
use super::super::super::socket::ClientSocket;
use super::super::super::worker::Worker;
use super::super::Conn;

/// Bytes written by h2 that may wait for those behind them: heads of frames, a short answer.
const HELD: usize = 4 * 1024;

/// What the frames told while h2 was at work: h2 must not be touched from within.
#[derive(Default)]
pub(super) struct Book {
    /// Streams whose last frame has left.
    ended: RefCell<Vec<u32>>,
    /// Streams that the client has reset.
    reset: RefCell<Vec<u32>>,
    /// Streams of which a piece of the body left, and how long it is.
    moved: RefCell<Vec<(u32, u32)>>,
    /// The highest stream that a block of headers began, and the one whose block is not at its end, with when it began.
    highest: Cell<u32>,
    opening: Cell<Option<(u32, u64)>>,
    /// Streams begun by a whole block of headers, and those of them that became requests.
    opened: Cell<u64>,
    accepted: Cell<u64>,
    abuse: RefCell<Abuse>,
    flood: Cell<Option<Flood>>,
    /// The bodies that arrive.
    pub(super) crumbs: Rc<Crumbs>,
    /// The client's stream, when h2 is done with it.
    stream: Cell<Option<ClientSocket>>,
}

impl Book {
    /// A request was accepted.
    pub(super) fn accepted(&self) {
        self.accepted.set(self.accepted.get() + 1);
    }

    /// The client's stream, when h2 is done with it.
    pub(super) fn stream(&self) -> Option<ClientSocket> {
        self.stream.take()
    }

    fn came(&self, frame: Frame, now: u64) {
        self.crumbs.came(frame);
        match frame {
            Frame::Begins { kind: Kind::Headers, stream, .. } if stream > self.highest.get() => {
                self.highest.set(stream);
                self.opening.set(Some((stream, now)));
            }
            Frame::Ended { kind: Kind::Headers | Kind::Continuation, flags, stream }
                if flags & END_HEADERS != 0 && self.opening.get().is_some_and(|(opening, _)| stream == opening) =>
            {
                self.opening.set(None);
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
            Frame::Begins { kind: Kind::Data, stream, length, .. } => self.moved.borrow_mut().push((stream, length)),
            Frame::Ended { kind: Kind::Data | Kind::Headers, flags, stream } if flags & END_STREAM != 0 => {
                self.ended.borrow_mut().push(stream);
            }
            _ => {}
        }
    }

    /// Ends the requests that have ended, and notes which go on, and whether one is about to begin.
    pub(super) fn settle(&self, conn: &Conn) {
        conn.opening.set(self.opening.get().map(|(_, since)| since));
        // The lists keep their memory.
        self.moved.borrow_mut().drain(..).for_each(|(stream, length)| conn.moves(stream, length));
        self.ended.borrow_mut().drain(..).for_each(|stream| conn.flushed(stream));
        self.reset.borrow_mut().drain(..).for_each(|stream| conn.lost(stream));
    }

    /// What the client does too much of; asked when every complete request was accepted.
    pub(super) fn flood(&self, conn: &Conn, now: u64) -> Option<Flood> {
        while self.accepted.get() < self.opened.get() {
            self.accepted.set(self.accepted.get() + 1);
            if let Some(flood) = self.abuse.borrow_mut().refused(now) {
                self.flood.set(Some(flood));
            }
        }
        for _ in 0..conn.stalled.take() {
            if let Some(flood) = self.abuse.borrow_mut().stalled(now) {
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
pub(super) struct Io {
    stream: Option<ClientSocket>,
    read: Frames,
    written: Frames,
    /// A short piece, which leaves together with the next one, or when h2 flushes.
    held: BytesMut,
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    book: Rc<Book>,
}

impl Io {
    /// A stream whose frames go into this book.
    pub(super) fn new(worker: &Rc<Worker>, conn: &Rc<Conn>, book: &Rc<Book>, stream: ClientSocket) -> Io {
        Io {
            stream: Some(stream),
            read: Frames::new(true),
            written: Frames::new(false),
            held: BytesMut::new(),
            worker: worker.clone(),
            conn: conn.clone(),
            book: book.clone(),
        }
    }

    /// Writes what is held and some of `buf`: how much of it.
    fn poll_both(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() || !buf.is_empty() {
            let bufs = [io::IoSlice::new(&self.held), io::IoSlice::new(buf)];
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let bytes = ready!(Pin::new(stream).poll_write_vectored(cx, &bufs))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.conn.takes(bytes, self.worker.now());
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
        if self.book.crumbs.are_many() {
            // Once they are put together.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(self.stream()?.poll_read(cx, buf))?;
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
