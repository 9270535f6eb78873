//! What becomes of a body that comes over HTTP/2 in crumbs, faster than it is taken? They are put together.
//!
//! h2 keeps each frame of a body for itself until its reader comes, at some hundred bytes beside what is in it. So it
//! ends a connection, with all that is on it, where a few thousand small ones wait: of a gRPC client that sends its
//! messages all at once, or for a single reader of events who stalls. Before that, what waits is moved into one buffer
//! for each body. The windows bound it, as before: no room is given for what nobody has taken.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use slab::Slab;

use super::frames::Frame;
use super::wear::{Wear, missing};

/// What may be [`missing`] of small pieces, over all bodies of a connection, before somebody looks.
const MANY: usize = 64 * 1024;

/// As much is passed on at once of what was put together.
const PIECE: usize = 16 * 1024;

/// The bodies that arrive on one HTTP/2 connection.
#[derive(Debug, Default)]
pub struct Crumbs {
    /// What was missing of small frames since they were last put together.
    missing: Cell<usize>,
    bodies: RefCell<Slab<Rc<RefCell<Waiting>>>>,
    wear: RefCell<Wear>,
}

/// One body that arrives.
#[derive(Debug)]
pub struct Arriving(Option<Listed>);

/// One of which more is to come, and where it is listed.
#[derive(Debug)]
struct Listed {
    waiting: Rc<RefCell<Waiting>>,
    crumbs: Rc<Crumbs>,
    key: usize,
}

/// What waits of it, here before there.
#[derive(Debug)]
struct Waiting {
    gathered: BytesMut,
    /// What h2 said behind that: the end, or that it broke off.
    last: Option<Option<h2::Error>>,
    stream: RecvStream,
    /// Whom h2 wakes.
    reader: Option<Waker>,
}

impl Crumbs {
    /// Takes note of a frame that came.
    pub fn came(&self, frame: Frame) {
        let missing = missing(frame);
        if missing > 0 {
            self.missing.set(self.missing.get() + missing);
            self.wear.borrow_mut().came(frame);
        }
    }

    /// A stream is taken back.
    pub fn leaves(&self, stream: u32) {
        self.wear.borrow_mut().leaves(stream);
    }

    /// What is gone for good of what h2 spares for small pieces.
    pub fn spent(&self) -> usize {
        self.wear.borrow().spent()
    }

    /// Whether half of the empty pieces that h2 bears have come.
    pub fn has_many_empties(&self) -> bool {
        self.wear.borrow().has_many_empties()
    }

    /// Whether it is time to put them together, before h2 reads more.
    pub fn are_many(&self) -> bool {
        self.missing.get() >= MANY
    }

    /// Puts together what still waits, if it is time to. Readers have had their turn. h2 must be at rest.
    pub fn gather(&self) {
        if self.are_many() {
            self.missing.set(0);
            self.bodies.borrow().iter().for_each(|(_, body)| body.borrow_mut().gather());
        }
    }

    /// Lists a body that begins to arrive.
    pub fn list(self: &Rc<Crumbs>, stream: RecvStream) -> Arriving {
        // As most requests have none.
        if stream.is_end_stream() {
            return Arriving(None);
        }
        let waiting = Waiting { gathered: BytesMut::new(), last: None, stream, reader: None };
        let waiting = Rc::new(RefCell::new(waiting));
        let key = self.bodies.borrow_mut().insert(waiting.clone());
        Arriving(Some(Listed { waiting, crumbs: self.clone(), key }))
    }
}

impl Arriving {
    /// The next piece. Whoever asks has passed the one before on: the window opens as fast as bytes leave.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let Some(Listed { waiting, .. }) = &self.0 else { return Poll::Ready(None) };
        waiting.borrow_mut().poll_data(cx)
    }

    /// What comes behind the last piece.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<http::HeaderMap>, h2::Error>> {
        let Some(Listed { waiting, .. }) = &self.0 else { return Poll::Ready(Ok(None)) };
        waiting.borrow_mut().stream.poll_trailers(cx)
    }

    /// Whether it is over.
    pub fn is_end_stream(&self) -> bool {
        let Some(Listed { waiting, .. }) = &self.0 else { return true };
        let waiting = waiting.borrow();
        waiting.gathered.is_empty() && waiting.stream.is_end_stream()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let waiting = self.waiting.borrow();
        if !waiting.stream.is_end_stream() {
            // From now on h2 charges for good what comes of it.
            self.crumbs.leaves(waiting.stream.stream_id().as_u32());
        }
        self.crumbs.bodies.borrow_mut().try_remove(self.key);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.gathered.is_empty() {
            // h2 gives back the room of what it still has itself. Where the stream has ended there is none to be had.
            let _none = self.stream.flow_control().release_capacity(self.gathered.len());
        }
    }
}

impl Waiting {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let data = if self.gathered.is_empty() {
            let polled = match self.last.take() {
                Some(last) => Poll::Ready(last.map(Err)),
                None => self.stream.poll_data(cx),
            };
            match polled {
                Poll::Ready(Some(Ok(data))) => data,
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => {
                    self.reader.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
                    return Poll::Pending;
                }
            }
        } else {
            let piece = self.gathered.len().min(PIECE);
            let data = self.gathered.split_to(piece).freeze();
            if self.gathered.is_empty() {
                // Its memory ends with its pieces.
                self.gathered = BytesMut::new();
            }
            data
        };
        self.stream.flow_control().release_capacity(data.len())?;
        Poll::Ready(Some(Ok(data)))
    }

    fn gather(&mut self) {
        if self.last.is_some() {
            return;
        }
        // Where nothing waits, h2 takes whom we name for the one to wake, in place of whoever was named before.
        let mut cx = Context::from_waker(self.reader.as_ref().unwrap_or(Waker::noop()));
        while let Poll::Ready(polled) = self.stream.poll_data(&mut cx) {
            match polled {
                Some(Ok(data)) => self.gathered.extend_from_slice(&data),
                Some(Err(error)) => self.last = Some(Some(error)),
                None => self.last = Some(None),
            }
            if self.last.is_some() {
                return;
            }
        }
    }
}
