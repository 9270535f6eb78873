//! What passes on a backend's HTTP/2 connection? Every frame is watched, before h2 sees it: of one that floods
//! h2 reads nothing more, however much has come.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::super::abuse::Flood;
use super::super::super::abuse::backend::BackendAbuse;
use super::super::super::crumbs::Crumbs;
use super::super::super::error::{Failure, Reason};
use super::super::super::frames::{Frame, Frames, Kind};
use super::super::io::BackendIo;
use super::SPARE;

/// Frames that are read before others have their turn, and how many of them a head counts for: its reader has to come
/// and take it, and it may unpack to 64 KiB.
const TURN: usize = 500;
const HEAD: usize = 10;

/// Whether a backend floods its connection, and how worn that is.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    abuse: RefCell<BackendAbuse>,
    flood: Cell<Option<Flood>>,
    /// What is left of the connection's turn.
    turn: Cell<usize>,
    /// The bodies that arrive.
    pub(super) crumbs: Rc<Crumbs>,
}

impl Watch {
    /// At the beginning of a connection.
    pub(super) fn new() -> Watch {
        Watch {
            began: Instant::now(),
            abuse: RefCell::default(),
            flood: Cell::default(),
            crumbs: Rc::default(),
            turn: Cell::new(TURN),
        }
    }

    /// Lets the connection have its turn.
    pub(super) fn lets<T>(&self, turn: impl FnOnce() -> T) -> T {
        self.crumbs.gather();
        self.turn.set(TURN);
        turn()
    }

    /// A request was begun.
    pub(super) fn asked(&self) {
        self.abuse.borrow_mut().asked();
    }

    /// That the connection was ended because of it, if it was.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.flood.get().map(|flood| Failure { reason: Reason::BackendFlood, source: Some(flood.into()) })
    }

    /// Whether no more requests shall begin on it.
    pub(super) fn is_worn_out(&self) -> bool {
        self.crumbs.spent() > SPARE / 2 || self.crumbs.has_many_empties()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn went(&self, frame: Frame) {
        match frame {
            Frame::Begins { kind: Kind::Data, length, .. } => self.abuse.borrow_mut().sent(length),
            Frame::Begins { kind: Kind::Reset, stream, .. } => {
                self.crumbs.leaves(stream);
                let flood = self.abuse.borrow_mut().refused(self.now());
                self.flood.set(self.flood.get().or(flood));
            }
            _ => {}
        }
    }

    fn came(&self, frame: Frame, now: u64) {
        self.crumbs.came(frame);
        if let Frame::Begins { kind, .. } = frame {
            let weight = if kind == Kind::Headers { HEAD } else { 1 };
            self.turn.set(self.turn.get().saturating_sub(weight));
        }
        let flood = self.abuse.borrow_mut().note(frame, now);
        self.flood.set(self.flood.get().or(flood));
    }
}

/// A backend's socket that shows what passes.
#[derive(Debug)]
pub(super) struct Watched {
    io: BackendIo,
    read: Frames,
    written: Frames,
    watch: Rc<Watch>,
}

impl Watched {
    /// At the beginning of a connection.
    pub(super) fn new(io: BackendIo, watch: &Rc<Watch>) -> Watched {
        Watched { io, read: Frames::new(false), written: Frames::new(true), watch: watch.clone() }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Watched { io, read, watch, .. } = self.get_mut();
        if watch.turn.get() == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(io).poll_read(cx, buf))?;
        let now = watch.now();
        read.feed(&buf.filled()[before..], |frame| watch.came(frame, now));
        match watch.flood.get() {
            Some(flood) => Poll::Ready(Err(io::Error::other(flood))),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Watched { io, written, watch, .. } = self.get_mut();
        let bytes = ready!(Pin::new(io).poll_write_vectored(cx, bufs))?;
        let mut rest = bytes;
        for buf in bufs {
            let (piece, _) = buf.split_at(rest.min(buf.len()));
            written.feed(piece, |frame| watch.went(frame));
            rest -= piece.len();
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
