//! How do requests share an HTTP/2 connection to a backend? One stream each, with windows of their own, so that none
//! waits for another's client. A watch ends a connection that the backend floods.

mod io;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, StatusCode, request, response};
use hyper::body::{Body as _, Frame, SizeHint};

use self::io::{Watch, Watched};
use super::super::body::Upload;
use super::super::error::{Failure, Reason};
use super::super::headers;
use super::super::incoming::Recv;
use super::super::pump::Pump;
use super::super::wear::LEFT;
use super::io::{BackendIo, Wire};
use super::link::{Lost, Task};
use super::shelf::Birth;

/// Streams at once on one connection; a backend may allow fewer. Then another connection is opened.
const STREAMS: usize = 100;

/// What a backend may send on one stream before the client has taken it.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all streams together: as much as they can have. Were it less, a few clients that do not read their
/// answers would hold up everybody else's.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;

/// An answer's head may be this large, uncompressed.
const HEAD: u32 = 64 * 1024;

/// For so long h2 remembers that a stream was left and more of its answer may be on its way. What comes for one that it
/// has forgotten is reset anew.
const REMEMBERED: Duration = Duration::from_secs(5);

/// What h2 spares for small pieces of bodies, which cost it more than they carry: those that nobody has taken yet, for
/// as long as they are not put together ([`super::super::crumbs`]), and for good those that came too late.
const SPARE: usize = 128 * 1024 * 1024;

/// How long a backend that has sent all bytes of an answer may take to say that these were all.
const END: Duration = Duration::from_secs(1);

/// What h2 holds per stream of a request's body that the backend does not take.
const SEND_BUFFER: usize = 64 * 1024;

/// An HTTP/2 connection that requests share.
#[derive(Debug)]
pub(super) struct Shared {
    sender: RefCell<SendRequest<Bytes>>,
    streams: Cell<usize>,
    /// When its last exchange was complete, in the worker's milliseconds.
    rested: Cell<u64>,
    wire: Rc<Wire>,
    watch: Rc<Watch>,
    birth: Birth,
    _task: Task,
}

impl Shared {
    /// Begins HTTP/2 on a new connection, and waits until the backend has said what it allows. Why the connection was
    /// ended, if that was because the backend floods it, is told to `flooded`.
    ///
    /// # Errors
    /// [`Reason::BackendMalformed`] when it speaks something else, others when it closes.
    pub(super) async fn begin(
        io: BackendIo,
        birth: Birth,
        flooded: impl FnOnce(&Failure) + 'static,
    ) -> Result<Shared, Failure> {
        let wire = io.wire.clone();
        let watch = Rc::new(Watch::new());
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(LEFT)
            .reset_stream_duration(REMEMBERED)
            // Over its whole life; the watch has a budget for them that time fills.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SPARE)
            .enable_push(false)
            // None until the backend's first SETTINGS; that is how their arrival is seen.
            .initial_max_send_streams(0)
            .handshake(Watched::new(io, &watch))
            .await;
        let failure = |error| failure(&watch, &wire, error);
        let (sender, mut connection) = handshake.map_err(failure)?;
        poll_fn(|cx| match watch.lets(|| Pin::new(&mut connection).poll(cx)) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(Reason::BackendClosed.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(failure(error))),
            Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        // Its end is seen by its streams, and by whoever wants to open another.
        let task = Task::spawn({
            let (watch, wire) = (watch.clone(), wire.clone());
            async move {
                let ended = poll_fn(|cx| watch.lets(|| Pin::new(&mut connection).poll(cx))).await;
                if let Some(failure) = ended.err().map(|error| self::failure(&watch, &wire, error))
                    && failure.reason == Reason::BackendFlood
                {
                    flooded(&failure);
                }
            }
        });
        Ok(Shared {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            rested: Cell::new(0),
            wire,
            watch,
            birth,
            _task: task,
        })
    }

    /// Whether it may carry new streams: it is open, the backend has not sent GOAWAY, nobody retired it, and it is not
    /// worn out.
    pub(super) fn is_usable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.birth.is_past()
            && !self.watch.is_worn_out()
            && !matches!(self.sender.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether one more stream fits.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.sender.borrow().current_max_send_streams().min(STREAMS)
    }

    /// Whether it carries a stream.
    pub(super) fn is_busy(&self) -> bool {
        self.streams.get() > 0
    }

    /// When its last exchange was complete.
    pub(super) fn rested(&self) -> u64 {
        self.rested.get()
    }
}

/// One stream's place on a shared connection.
#[derive(Debug)]
pub(super) struct Seat(Rc<Shared>);

impl Seat {
    /// Takes a place.
    pub(super) fn new(shared: &Rc<Shared>) -> Seat {
        shared.streams.set(shared.streams.get() + 1);
        Seat(shared.clone())
    }

    /// When the connection was made.
    pub(super) fn birth(&self) -> &Birth {
        &self.0.birth
    }

    /// An exchange is complete.
    pub(super) fn rest(&self, now: u64) {
        self.0.rested.set(now);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// One stream. h2 resets it (CANCEL) when all that holds a part of it is dropped before its end.
#[derive(Debug)]
pub(super) struct Http2 {
    /// The stream; before the seat, so that it ends first.
    state: State,
    seat: Seat,
}

/// Where a stream stands.
enum State {
    New,
    /// The request is on its way, or the answer is.
    Waiting(Pin<Box<dyn Future<Output = Result<Answer, Lost>>>>),
    /// The answer's body passes.
    Answered {
        body: Recv,
        /// Sends what is left of the request's body.
        _pump: Option<Task>,
    },
}

/// An answer.
struct Answer {
    head: response::Parts,
    body: Recv,
    pump: Option<Task>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::New => "New",
            State::Waiting(_) => "Waiting",
            State::Answered { .. } => "Answered",
        })
    }
}

impl Http2 {
    /// A stream that is opened by the request it is to carry.
    pub(super) fn new(seat: Seat) -> Http2 {
        Http2 { state: State::New, seat }
    }

    /// Its place on the connection.
    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Begins a request; it leaves while its answer is waited for.
    pub(super) fn begin(&mut self, request: Request<Upload>) {
        self.state = State::Waiting(Box::pin(exchange(self.seat.0.clone(), request)));
    }

    /// Sends the request and waits for the answer's head.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, Lost>> {
        let State::Waiting(exchange) = &mut self.state else {
            return Poll::Ready(Err(Reason::Internal.into()));
        };
        let Answer { head, body, pump } = ready!(exchange.as_mut().poll(cx))?;
        self.state = State::Answered { body, _pump: pump };
        Poll::Ready(Ok(head))
    }

    /// The next frame of the answer's body.
    ///
    /// # Errors
    /// [`Reason::BackendTruncated`]: it breaks off. [`Reason::BackendFlood`]: the connection had to be ended.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let State::Answered { body, .. } = &mut self.state else { return Poll::Ready(None) };
        let Shared { watch, wire, .. } = &*self.seat.0;
        let broken = |error: h2::Error| match failure(watch, wire, error) {
            flooded if flooded.reason == Reason::BackendFlood => flooded,
            other => Failure { reason: Reason::BackendTruncated, ..other },
        };
        body.poll_frame(cx).map_err(broken)
    }

    /// Lets the stream of a whole answer end. Where its end is behind its last byte it is waited for, or the backend
    /// would be told that its client had left.
    pub(super) fn leave(self) {
        let Http2 { state: State::Answered { mut body, .. }, seat } = self else { return };
        let mut poll_end = move |cx: &mut Context<'_>| {
            // Trailers may come, for which it is too late.
            while let Some(Ok(_late)) = ready!(body.poll_frame(cx)) {}
            Poll::Ready(())
        };
        // Most often it came together with the last byte.
        if poll_end(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::task::spawn_local(async move {
                let _never = tokio::time::timeout(END, poll_fn(poll_end)).await;
                drop(seat);
            });
        }
    }

    /// Whether the answer's body is over.
    pub(super) fn is_end_stream(&self) -> bool {
        matches!(&self.state, State::Answered { body, .. } if body.is_end_stream())
    }

    /// How much is to come of the answer's body.
    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Answered { body, .. } => body.size_hint(),
            State::New | State::Waiting(_) => SizeHint::default(),
        }
    }
}

/// Sends a request and waits for the answer's head. 1xx answers are passed over, but for the 100 that the request's
/// body may be waiting for.
async fn exchange(shared: Rc<Shared>, request: Request<Upload>) -> Result<Answer, Lost> {
    let (head, body) = request.into_parts();
    let again = copy(&head);
    try_exchange(&shared, head, body).await.map_err(|lost| Lost { request: Some(Box::new(again)), ..lost })
}

async fn try_exchange(shared: &Shared, mut head: request::Parts, mut body: Upload) -> Result<Answer, Lost> {
    let before = shared.wire.written.get();
    let lost = |error| lost(shared, error, before);
    headers::to_http2_backend(&mut head)?;
    let is_head = head.method == Method::HEAD;
    let mut open = body.gate_opener();
    let mut pump = None;
    let whole = body.is_end_stream();
    // A sender of its own: two requests through one would wait for each other.
    let mut sender = shared.sender.borrow().clone();
    shared.watch.asked();
    let (mut answer, stream) = sender.send_request(Request::from_parts(head, ()), whole).map_err(lost)?;
    if !whole {
        let mut rest = Pump::new(body, stream);
        pump = Some(Task::spawn(async move {
            // Told elsewhere: a body that breaks off condemns its request, a backend that wants no more of it
            // answers or resets the stream.
            let _told = poll_fn(|cx| rest.poll(cx)).await;
        }));
    }
    let response = poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            if interim.status() == StatusCode::CONTINUE
                && let Some(open) = open.take()
            {
                let _gone = open.send(());
            }
        }
        Pin::new(&mut answer).poll(cx)
    });
    let (head, mut stream) = response.await.map_err(lost)?.into_parts();
    if is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        // Some end such an answer with an empty frame. The end is waited for: nobody reads a body that cannot be.
        while let Some(data) = stream.data().await {
            data.map_err(lost)?;
        }
    }
    let body = Recv::new(&shared.watch.crumbs, stream, &head.headers);
    Ok(Answer { head, body, pump })
}

/// A second copy of a request's head: two allocations, the names and values are shared.
fn copy(head: &request::Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}

/// A request that cannot be sent.
impl From<Reason> for Lost {
    fn from(reason: Reason) -> Lost {
        Lost { failure: reason.into(), written: 0, read: 0, reset: false, request: None }
    }
}

/// What is known of a request that got no answer on its stream.
fn lost(shared: &Shared, error: h2::Error, before: u64) -> Lost {
    let left_alone = was_left_alone(&error);
    // The connection is done for, or will be; those made with it may be too. A second try gets a new one.
    if left_alone || error.is_go_away() || error.is_io() {
        shared.birth.end_era();
    }
    Lost {
        // What others wrote in the meantime counts too: nothing is nothing of ours as well.
        written: if left_alone { 0 } else { shared.wire.written.get() - before },
        // An answer came, but none that can be read. Where the whole connection is ended, it was another's.
        read: u64::from(error.is_library() && error.is_reset()),
        // What the backend left unread may have been somebody else's.
        reset: false,
        failure: failure(&shared.watch, &shared.wire, error),
        request: None,
    }
}

/// Why there is no answer, or no connection.
fn failure(watch: &Watch, wire: &Wire, error: h2::Error) -> Failure {
    match watch.failure() {
        Some(flooded) if error.is_io() => flooded,
        _ => Failure::exchange_http2(error, wire.reset.get()),
    }
}

/// Whether the backend said that nobody acted on the request (RFC 9113, section 8.7): REFUSED_STREAM, or a GOAWAY that
/// names an earlier stream as the last one; h2 lets streams up to that one go on.
fn was_left_alone(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}
