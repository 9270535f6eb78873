//! What is one request doing right now? Its claim, its deadlines, its record: born with it, settled when it ends.
//!
//! A worker keeps a list of its flights. Its sweep looks at them every [`super::worker::SWEEP`] instead of setting a
//! timer per request, and a drain's cut looks at them too; both do nothing but [`Flight::condemn`].

mod record;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bgproxy_conf::wire::CutRequest;
use http::{HeaderMap, Method, StatusCode, Uri, request};

use self::record::Noted;
use super::closing::Leave;
use super::conn::Conn;
use super::error::{Failure, Reason};
use super::headers;
use super::pool::{Claim, Lane, Link, Stream};
use super::sleeper::Sleeper;
use super::worker::{Terms, Worker};
use crate::cell::{End, StreamKind};

/// One request in flight.
#[derive(Debug)]
pub struct Flight {
    /// The worker it is on.
    pub worker: Rc<Worker>,
    conn: Rc<Conn>,
    /// Its stream on an HTTP/2 connection; 0 when the connection is all its own.
    stream_id: u32,
    key: Cell<usize>,
    started: Instant,
    head_at: Cell<Option<Instant>>,
    step: Cell<Step>,
    /// When something last moved, in the worker's milliseconds.
    touched: Cell<u64>,
    upload: Cell<Side>,
    download: Cell<Side>,
    verdict: Cell<Option<Reason>>,
    sleeper: Sleeper,
    hold: RefCell<Hold>,
    terms: Cell<Terms>,
    /// Who the client is; the sender until more is known.
    client: Cell<IpAddr>,
    /// When it is to leave, should it be a stream.
    pub leave: Leave,
    method: Method,
    target: Uri,
    status: Cell<StatusCode>,
    reason: Cell<Option<Reason>>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    retries: Cell<u32>,
    ended: Cell<bool>,
    /// What only the access log wants; nothing when there is none.
    noted: RefCell<Option<Box<Noted>>>,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Reaching the backend: `connect` has its own deadline.
    Connecting,
    /// Waiting for the answer's head.
    Waiting,
    /// The answer streams.
    Streaming,
    /// All of it is with the kernel or on its way there.
    Flushing,
}

/// Whom a body waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
    Nobody,
}

/// What a request holds of its backend.
#[derive(Debug)]
enum Hold {
    Nothing,
    Request(Claim),
    Stream(Stream),
}

impl Flight {
    /// Begins a request; the guard ends it.
    pub fn begin(worker: &Rc<Worker>, conn: &Rc<Conn>, head: &request::Parts, stream_id: u32) -> Guard {
        let flight = Rc::new(Flight {
            worker: worker.clone(),
            conn: conn.clone(),
            stream_id,
            key: Cell::new(usize::MAX),
            started: Instant::now(),
            head_at: Cell::new(None),
            step: Cell::new(Step::Connecting),
            touched: Cell::new(worker.now()),
            upload: Cell::new(Side::Nobody),
            download: Cell::new(Side::Nobody),
            verdict: Cell::new(None),
            sleeper: Sleeper::default(),
            hold: RefCell::new(Hold::Nothing),
            terms: Cell::new(Terms::default()),
            client: Cell::new(conn.client().address.ip()),
            leave: Leave::default(),
            method: head.method.clone(),
            target: head.uri.clone(),
            status: Cell::new(StatusCode::OK),
            reason: Cell::new(None),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            retries: Cell::new(0),
            ended: Cell::new(false),
            noted: RefCell::new(worker.logs().then(|| Box::new(Noted::new(head)))),
        });
        flight.key.set(worker.depart(flight.clone()));
        conn.begins();
        Guard(flight)
    }

    // --- what the request does

    /// Who the client is: what the log will say.
    pub fn comes_from(&self, client: IpAddr) {
        self.client.set(client);
    }

    /// Who the client is, as far as that is known.
    pub fn client(&self) -> IpAddr {
        self.client.get()
    }

    /// Claims the backend that a table chose.
    pub fn claim(&self, claim: Claim, terms: Terms) {
        if let Hold::Request(earlier) = self.hold.replace(Hold::Request(claim)) {
            earlier.end(End::Moved);
        }
        self.terms.set(terms);
    }

    /// Its stream on an HTTP/2 connection; 0 when the connection is all its own.
    pub fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// What was agreed with the claim: deadlines, generation.
    pub fn terms(&self) -> Terms {
        self.terms.get()
    }

    /// The way to the claimed backend.
    pub fn lane(&self) -> Option<Rc<Lane>> {
        match &*self.hold.borrow() {
            Hold::Nothing => None,
            Hold::Request(claim) => Some(claim.lane.clone()),
            Hold::Stream(stream) => Some(stream.lane.clone()),
        }
    }

    /// The id under which the log knows the request.
    pub fn identify(&self, headers: &HeaderMap) {
        if let Some(noted) = &mut *self.noted.borrow_mut() {
            noted.request_id = headers.get(headers::X_REQUEST_ID).cloned();
        }
    }

    /// A second try.
    pub fn retries(&self) {
        self.retries.set(self.retries.get() + 1);
        if let Some(lane) = self.lane() {
            lane.meter.retried();
        }
    }

    /// Waits for `work`, which reaches the backend.
    ///
    /// # Errors
    /// The reason why waiting is over: a cut.
    pub async fn connecting<T>(&self, work: impl Future<Output = T> + Unpin) -> Result<T, Failure> {
        self.step.set(Step::Connecting);
        self.unless_condemned(work).await
    }

    /// Waits for `work`, which brings the answer's head.
    ///
    /// # Errors
    /// The reason why waiting is over: a deadline, a cut, a broken upload.
    pub async fn waiting<T>(&self, work: impl Future<Output = T> + Unpin) -> Result<T, Failure> {
        self.touch();
        self.step.set(Step::Waiting);
        self.unless_condemned(work).await
    }

    async fn unless_condemned<T>(&self, mut work: impl Future<Output = T> + Unpin) -> Result<T, Failure> {
        poll_fn(|cx| {
            if let Some(reason) = self.verdict.get() {
                return Poll::Ready(Err(reason.into()));
            }
            match Pin::new(&mut work).poll(cx) {
                Poll::Ready(done) => match self.verdict.get() {
                    // The work failed because of the verdict; the verdict is the truth.
                    Some(reason) => Poll::Ready(Err(reason.into())),
                    None => Poll::Ready(Ok(done)),
                },
                Poll::Pending => {
                    self.sleeper.remember(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Why it is to end, for a task that asks now and is woken when it is to.
    pub fn condemned(&self, cx: &Context<'_>) -> Option<Reason> {
        self.sleeper.remember(cx);
        self.verdict.get()
    }

    /// The client is sent elsewhere, by ourselves.
    pub fn redirects(&self) {
        self.head_at.set(Some(Instant::now()));
        self.status.set(StatusCode::PERMANENT_REDIRECT);
        self.step.set(Step::Streaming);
    }

    /// An authority finds what it looks for, with ourselves.
    pub fn proves(&self) {
        self.head_at.set(Some(Instant::now()));
        self.status.set(StatusCode::OK);
        self.step.set(Step::Streaming);
    }

    /// The answer's head is here.
    pub fn answers(&self, status: StatusCode, headers: &HeaderMap) {
        self.head_at.set(Some(Instant::now()));
        self.status.set(status);
        self.step.set(Step::Streaming);
        self.touch();
        if headers::is_event_stream(headers) {
            self.becomes_stream(StreamKind::Events);
        }
    }

    /// From now on it is a stream: counted apart, and ended after a switch when its time is over.
    pub fn becomes_stream(&self, kind: StreamKind) {
        let hold = match self.hold.replace(Hold::Nothing) {
            Hold::Request(claim) => Hold::Stream(claim.into_stream(kind)),
            other => other,
        };
        self.hold.replace(hold);
        // The streams that there were have been told already when the door began to close.
        if self.worker.is_stopping() && kind != StreamKind::Download {
            self.leave.set_due(Some(self.worker.now()));
        }
    }

    /// What kind of stream it is, if it is one.
    pub fn stream(&self) -> Option<StreamKind> {
        match &*self.hold.borrow() {
            Hold::Stream(stream) => Some(stream.kind),
            Hold::Nothing | Hold::Request(_) => None,
        }
    }

    /// Bytes of the request's body passed.
    pub fn received(&self, bytes: u64) {
        self.bytes_in.set(self.bytes_in.get() + bytes);
        self.touch();
    }

    /// The request's body is wanted: it waits for the client, or for the backend to take what came.
    pub fn uploads(&self, for_client: bool) {
        self.wait_for(&self.upload, if for_client { Side::Client } else { Side::Backend });
    }

    /// The request's body is complete.
    pub fn uploaded(&self) {
        self.upload.set(Side::Nobody);
        self.conn.heard();
    }

    /// Bytes of the answer's body passed.
    pub fn sent(&self, bytes: u64) {
        self.bytes_out.set(self.bytes_out.get() + bytes);
        self.touch();
    }

    /// The answer's body waits for the backend, or for the client to take what came.
    pub fn awaits_backend(&self, backend: bool) {
        self.wait_for(&self.download, if backend { Side::Backend } else { Side::Client });
    }

    /// Trouble with the backend, for the operator.
    pub fn complain(&self, failure: &Failure) {
        if failure.reason.blames_backend()
            && let Some(lane) = self.lane()
        {
            lane.complain(failure, self.worker.now());
        }
    }

    fn wait_for(&self, body: &Cell<Side>, side: Side) {
        if body.replace(side) != side {
            // How long the other side took is not held against this one.
            self.touch();
        }
    }

    /// Something moved.
    pub fn touch(&self) {
        self.touched.set(self.worker.now());
    }

    // --- what is done to it

    /// Ends the request for this reason: with an answer while none has begun, else by breaking the message. False when
    /// it is condemned already.
    pub fn condemn(&self, reason: Reason) -> bool {
        if self.verdict.get().is_some() {
            return false;
        }
        self.verdict.set(Some(reason));
        if reason == Reason::ClientTimeout {
            self.conn.stalls();
        }
        if self.step.get() == Step::Flushing && self.stream_id != 0 {
            self.conn.condemns(self.stream_id);
        } else if matches!(self.step.get(), Step::Streaming | Step::Flushing) && self.stream_id == 0 {
            self.conn.abort();
        } else {
            self.sleeper.wake();
        }
        true
    }

    /// At a drain's deadline an answer that has begun goes on as a stream; false when it is none.
    pub fn becomes_download(&self) -> bool {
        let answers = self.head_at.get().is_some() && matches!(self.step.get(), Step::Streaming | Step::Flushing);
        let goes_on = answers && self.verdict.get().is_none();
        if goes_on {
            self.becomes_stream(StreamKind::Download);
        }
        goes_on
    }

    /// Tells the stream to leave: it ends as soon as that does the least harm.
    pub fn leave(&self) {
        self.leave.tell(self.worker.now());
    }

    /// Whether it has been told to leave.
    pub fn leaving(&self) -> bool {
        self.leave.is_told()
    }

    /// Ready when it has been told to leave; until then the asker is woken.
    pub fn poll_leaving(&self, cx: &Context<'_>) -> Poll<()> {
        self.leave.poll(cx)
    }

    /// Whether it has been told to leave so long ago that it must do so at once.
    pub fn is_pressed(&self) -> bool {
        self.leave.is_pressed(self.worker.now())
    }

    /// Tells the stream to leave when that is due, or when it is a tunnel without use; breaks it off if it stays.
    pub fn sweep(&self, now: u64) {
        // Where nothing passes any more there is time for a last word.
        if self.stream() == Some(StreamKind::Tunnel) && self.still(now) > self.terms.get().stream_idle {
            self.reason.set(Some(Reason::TunnelIdle));
            self.leave.tell(now);
        }
        if self.leave.sweep(now) {
            self.condemn(self.reason.get().unwrap_or(Reason::StreamEnded));
        }
    }

    /// For how long nothing has moved.
    fn still(&self, now: u64) -> u64 {
        now.saturating_sub(self.touched.get())
    }

    /// The deadline that has passed, if one has.
    pub fn overdue(&self, now: u64) -> Option<Reason> {
        let terms = self.terms.get();
        let idle = match self.stream() {
            Some(StreamKind::Tunnel) => return None,
            Some(StreamKind::Events) => terms.stream_idle,
            Some(StreamKind::Download) | None => terms.idle,
        };
        let still = self.still(now);
        match self.step.get() {
            // Connecting has its own deadline, in the pool.
            Step::Connecting => None,
            Step::Waiting if self.upload.get() == Side::Client => (still > terms.idle).then_some(Reason::BodyTimeout),
            Step::Waiting => (still > terms.response).then_some(Reason::ResponseTimeout),
            Step::Streaming if self.download.get() == Side::Backend => (still > idle).then_some(Reason::BackendStalled),
            // A client that takes the answer byte by byte empties hyper's buffers for long, and yet takes it.
            Step::Streaming | Step::Flushing => {
                // Of one stream among others, what the connection takes says nothing.
                let still = if self.stream_id == 0 { still.min(now.saturating_sub(self.conn.taken())) } else { still };
                (still > idle).then_some(Reason::ClientTimeout)
            }
        }
    }

    /// Whether it holds a claim on this slot's backend.
    pub fn claims(&self, slot: usize) -> bool {
        matches!(&*self.hold.borrow(), Hold::Request(claim) if claim.lane.backend.slot == slot)
    }

    /// Whether it is a stream of this slot's backend.
    pub fn streams(&self, slot: usize) -> bool {
        matches!(&*self.hold.borrow(), Hold::Stream(stream) if stream.lane.backend.slot == slot)
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The same for a drain's receipt.
    pub fn to_cut(&self) -> CutRequest {
        let mut path = self.target.path_and_query().map_or("*", |target| target.as_str()).to_owned();
        if path.len() > 256 {
            path.truncate(path.floor_char_boundary(256));
        }
        CutRequest { method: self.method.to_string(), path, age: self.started.elapsed().as_secs_f64() }
    }

    // --- its end

    fn end(&self, reason: Option<Reason>) {
        if self.ended.replace(true) {
            return;
        }
        self.worker.arrive(self.key.get());
        self.conn.ends(self.worker.now());
        let reason = self.verdict.get().or(reason);
        self.reason.set(reason);
        if reason.is_some() && self.head_at.get().is_some() {
            self.conn.breaks_off();
        }
        let lane = self.lane();
        let seconds = self.started.elapsed().as_secs_f64();
        let first_byte = self.head_at.get().map(|at| (at - self.started).as_secs_f64());
        if self.head_at.get().is_none()
            && let Some(reason) = reason
        {
            self.status.set(reason.status());
        }
        let meter = lane.as_ref().map_or(&self.worker.nowhere, |lane| &lane.meter);
        meter.request(&self.method, self.status.get(), seconds, first_byte);
        meter.bytes(self.bytes_in.get(), self.bytes_out.get());
        if let Some(reason) = reason {
            meter.failed(reason);
        }
        if let Some(noted) = self.noted.take() {
            self.log(&noted, lane.as_deref(), seconds, first_byte);
        }
        // Last: whoever sees that nothing is in flight finds everything counted.
        match self.hold.replace(Hold::Nothing) {
            Hold::Nothing => {}
            Hold::Request(claim) => claim.end(if reason.is_none() { End::Finished } else { End::Failed }),
            Hold::Stream(stream) if self.leaving() => stream.ended(),
            Hold::Stream(_) => {}
        }
    }
}

/// Whoever has it has the request; dropping it unfinished ends the request as failed: the client went away.
#[derive(Debug)]
pub struct Guard(Rc<Flight>);

impl Guard {
    /// The request itself.
    pub fn flight(&self) -> &Rc<Flight> {
        &self.0
    }

    /// Ends the request as failed for this reason, unless it is condemned already.
    pub fn fail(self, reason: Reason) {
        self.0.end(Some(reason));
    }

    /// Gives a backend connection back for the next request.
    pub fn keep(&self, link: Link) {
        if let Some(lane) = self.0.lane() {
            lane.keep(link, self.0.terms().pool, self.0.worker.now());
        }
    }

    /// Its last byte is with the library that sends it; it ends when that has flushed it to the socket.
    pub fn flush(self) {
        self.0.step.set(Step::Flushing);
        let conn = self.0.conn.clone();
        conn.finishes(self);
    }

    /// Its last byte is with the kernel: the request is done.
    pub fn finish(self) {
        self.0.end(self.0.reason.get());
    }

    /// Answered by ourselves for this reason, which is what its end will say.
    pub fn answered(&self, reason: Reason) {
        self.0.reason.set(Some(reason));
        // The answer is what the verdict comes to. A client that does not take it is condemned for that.
        self.0.verdict.set(None);
        self.0.step.set(Step::Streaming);
        self.0.touch();
        self.0.status.set(reason.status());
    }
}

impl Deref for Guard {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end(self.0.reason.get().or(Some(Reason::ClientGone)));
    }
}
