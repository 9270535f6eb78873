//! How do bodies pass? Frame by frame, never collected; [`Upload`] towards the backend, [`Body`] towards the client.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::closing::Ending;
use super::error::{Failure, Reason};
use super::flight::{Flight, Guard};
use super::headers;
use super::incoming::Incoming;
use super::pool::Link;
use super::retry;
use crate::cell::StreamKind;

/// How much of a request body is kept for a second try.
const KEPT: usize = 64 * 1024;

/// How long a client that asked first (`Expect: 100-continue`) waits for the backend's word before its body is asked
/// for anyway; RFC 9110, section 10.1.1 lets a client give up waiting too.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request's body on its way to the backend.
#[derive(Debug, Default)]
pub struct Upload {
    source: Option<Rc<Source>>,
    /// Bytes already given to this connection.
    replayed: usize,
    gate: Option<Gate>,
}

/// The client's side of an upload; survives a connection that turned out dead.
#[derive(Debug)]
pub struct Source {
    incoming: RefCell<Incoming>,
    flight: Rc<Flight>,
    kept: RefCell<Vec<u8>>,
    /// Bytes the client may still send.
    allowance: Cell<u64>,
    size: SizeHint,
    /// Some of it passed that is not kept.
    gone: Cell<bool>,
    ended: Cell<bool>,
}

impl Source {
    /// A body that may be `allowance` bytes long; None when there is none.
    pub fn new(incoming: Incoming, flight: &Rc<Flight>, allowance: u64) -> Option<Rc<Source>> {
        if incoming.is_end_stream() {
            return None;
        }
        Some(Rc::new(Source {
            size: incoming.size_hint(),
            incoming: RefCell::new(incoming),
            flight: flight.clone(),
            kept: RefCell::default(),
            allowance: Cell::new(allowance),
            gone: Cell::new(false),
            ended: Cell::new(false),
        }))
    }

    /// What is left for a second try.
    pub fn left(&self) -> retry::Body {
        if self.gone.get() { retry::Body::Gone } else { retry::Body::Kept }
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        let Some(data) = frame.data_ref() else {
            // Trailers come once.
            self.gone.set(true);
            return;
        };
        let mut kept = self.kept.borrow_mut();
        if self.gone.get() || kept.len() + data.len() > KEPT {
            self.gone.set(true);
            *kept = Vec::new();
        } else {
            // Copied, because a frame is a slice of hyper's buffer and pins all of it: kilobytes for each byte of a
            // client that sends one at a time.
            kept.extend_from_slice(data);
        }
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.flight.uploads(true);
        let Some(frame) = ready!(Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx)) else {
            self.end();
            return Poll::Ready(None);
        };
        self.flight.uploads(false);
        let mut frame = frame.map_err(|error| {
            let reason = Reason::of_upload(&error);
            self.flight.condemn(reason);
            Failure { reason, source: Some(error.into()) }
        })?;
        if let Some(trailers) = frame.trailers_mut() {
            headers::trailers_to_backend(trailers);
        }
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        let Some(allowance) = self.allowance.get().checked_sub(size) else {
            self.flight.condemn(Reason::BodyTooLarge);
            return Poll::Ready(Some(Err(Reason::BodyTooLarge.into())));
        };
        self.allowance.set(allowance);
        self.flight.received(size);
        self.keep(&frame);
        if self.incoming.borrow().is_end_stream() {
            self.end();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn end(&self) {
        self.ended.set(true);
        self.flight.uploaded();
    }
}

impl Upload {
    /// The body of one try; `asks_first` keeps it back until the backend asks for it.
    pub fn new(source: Option<Rc<Source>>, asks_first: bool) -> Upload {
        Upload { source, replayed: 0, gate: asks_first.then(Gate::new) }
    }

    /// What tells a body that is kept back that the backend wants it, by being used. Dropped unused it means an answer:
    /// no 100 may go before that.
    pub fn gate_opener(&mut self) -> Option<oneshot::Sender<()>> {
        self.gate.as_mut()?.open.take()
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        let Some(source) = self.source.clone() else {
            return Poll::Ready(None);
        };
        let again = Bytes::copy_from_slice(source.kept.borrow().get(self.replayed..).unwrap_or_default());
        if !again.is_empty() {
            self.replayed += again.len();
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        if source.ended.get() {
            return Poll::Ready(None);
        }
        let next = ready!(source.poll_next(cx));
        self.replayed = source.kept.borrow().len();
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            None => true,
            Some(source) => source.ended.get() && self.replayed >= source.kept.borrow().len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            None => SizeHint::with_exact(0),
            Some(source) => source.size,
        }
    }
}

/// Keeps a body back until the backend asks for it: polling it is what makes hyper send the client its 100.
#[derive(Debug)]
struct Gate {
    /// What opens it, until it is taken.
    open: Option<oneshot::Sender<()>>,
    /// None once the backend has answered without having asked.
    opened: Option<oneshot::Receiver<()>>,
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    /// A closed gate.
    fn new() -> Gate {
        let (open, opened) = oneshot::channel();
        Gate { open: Some(open), opened: Some(opened), patience: Box::pin(tokio::time::sleep(PATIENCE)) }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(opened) = &mut self.opened
            && let Poll::Ready(asked) = Pin::new(opened).poll(cx)
        {
            if asked.is_ok() {
                return Poll::Ready(());
            }
            self.opened = None;
        }
        // Also for a backend that answers first and then wants the body; by then hyper sends no 100 any more.
        self.patience.as_mut().poll(cx)
    }
}

/// A response's body on its way to the client. Its end, on whatever path, ends the request.
#[derive(Debug)]
pub struct Body {
    inner: Inner,
    /// Where an event stream stands, which may end between two events.
    events: Option<Ending>,
    /// None once the request's end was told.
    guard: Option<Guard>,
}

#[derive(Debug)]
enum Inner {
    /// Our own answer.
    Own(Option<Bytes>),
    /// The backend's.
    Backend(Option<Link>),
    /// The backend's, which has broken off.
    Broken(Option<Failure>),
}

/// What a body says when it is asked for its next frame.
type Next = Option<Result<Frame<Bytes>, Failure>>;

impl Body {
    /// Our own answer.
    pub fn own(text: Bytes, guard: Guard) -> Body {
        Body { inner: Inner::Own(Some(text).filter(|text| !text.is_empty())), events: None, guard: Some(guard) }
    }

    /// Nothing, on behalf of nobody.
    pub fn none() -> Body {
        Body { inner: Inner::Own(None), events: None, guard: None }
    }

    /// The request whose answer it is.
    pub fn flight(&self) -> Option<Rc<Flight>> {
        self.guard.as_ref().map(|guard| guard.flight().clone())
    }

    /// Ends the request as failed: what is left of the answer will not reach the client.
    pub fn break_off(&mut self, reason: Reason) {
        if let Some(guard) = self.guard.take() {
            guard.fail(reason);
        }
    }

    /// A backend's answer, streaming.
    pub fn streaming(link: Link, guard: Guard) -> Body {
        // One with a length could not end early without being broken.
        let events = (guard.stream() == Some(StreamKind::Events)) && link.size_hint().exact().is_none();
        let inner = Inner::Backend(Some(link));
        Body { inner, events: events.then(Ending::default), guard: Some(guard) }
    }

    /// Ends a stream that was told to leave; none while that would be in the middle of an event.
    fn leave(&mut self) -> Option<Next> {
        if let Some(events) = &self.events
            && !events.is_between_events()
            && !self.guard.as_ref()?.is_pressed()
        {
            return None;
        }
        let guard = self.guard.take()?;
        // The backend's connection goes with it: the rest of the answer is still on the way.
        self.inner = Inner::Own(None);
        if self.events.is_some() {
            guard.flush();
            return Some(None);
        }
        // The message must break: a clean end would pass a part off as the whole.
        guard.fail(Reason::StreamEnded);
        Some(Some(Err(Reason::StreamEnded.into())))
    }

    /// The last frame is out: give the connection back, and let the request end with the flush.
    fn settle(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        if let Inner::Backend(link) = &mut self.inner
            && let Some(link) = link.take()
        {
            guard.keep(link);
        }
        guard.flush();
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let this = &mut *self;
        if this.guard.as_ref().is_some_and(|guard| guard.leaving())
            && let Some(end) = this.leave()
        {
            return Poll::Ready(end);
        }
        let Some(guard) = &this.guard else { return Poll::Ready(None) };
        let frame = match &mut this.inner {
            Inner::Own(text) => text.take().map(|text| Ok(Frame::data(text))),
            Inner::Broken(failure) => failure.take().map(Err),
            Inner::Backend(Some(link)) => match link.poll_frame(cx) {
                Poll::Pending => {
                    guard.awaits_backend(true);
                    guard.leave.remember(cx);
                    return Poll::Pending;
                }
                // What came before leaves first. A connection that ends without a byte of an answer looks as if it had
                // been idle, and a client may ask again what the backend has done.
                Poll::Ready(Some(Err(failure))) => {
                    this.inner = Inner::Broken(Some(failure));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(frame) => frame,
            },
            // Given back with the last frame.
            Inner::Backend(None) => None,
        };
        match frame {
            Some(Ok(mut frame)) => {
                guard.awaits_backend(false);
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trailers_to_client(trailers);
                }
                guard.sent(frame.data_ref().map_or(0, Bytes::len) as u64);
                if let (Some(events), Some(data)) = (&mut this.events, frame.data_ref()) {
                    events.passed(data);
                }
                if frame.is_trailers() {
                    // The last frame there is; hyper does not ask for another.
                    this.settle();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(failure)) => {
                // The message must break: a clean end would pass a part off as the whole.
                guard.complain(&failure);
                if let Some(guard) = this.guard.take() {
                    guard.fail(failure.reason);
                }
                Poll::Ready(Some(Err(failure)))
            }
            None => {
                this.settle();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Own(text) => text.is_none(),
            Inner::Backend(link) => link.as_ref().is_none_or(Link::is_end_stream),
            Inner::Broken(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Inner::Backend(link) => link.as_ref().map_or(SizeHint::with_exact(0), Link::size_hint),
            Inner::Broken(_) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // hyper drops a body right after its last byte, where that is known before the end is, and unread where the
        // message may have none (our own text in answer to HEAD); otherwise the client went.
        let is_whole = self.is_end_stream() || self.size_hint().exact() == Some(0);
        if is_whole || matches!(self.inner, Inner::Own(_)) {
            self.settle();
        }
    }
}
