//! What is one request doing right now? Its claim, its deadlines, its record: born with it, settled when it ends.
//!
//! A worker keeps a list of its flights. Its sweep looks at them every [`super::worker::SWEEP`] instead of setting a
//! timer per request, and a drain's cut looks at them too; both do nothing but [`Flight::condemn`].

mod deadlines;
mod guard;
mod record;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bgproxy_conf::wire::CutRequest;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request};

pub use self::guard::Guard;

use self::deadlines::{Pace, Side, Step};
use self::record::Noted;
use super::closing::Leave;
use super::conn::Conn;
use super::error::{Failure, Reason};
use super::headers;
use super::pool::{Claim, Lane, Stream};
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
    /// Whom the bodies wait for, and the client's accounts with them.
    upload: Cell<Side>,
    download: Cell<Side>,
    upload_pace: Cell<Pace>,
    download_pace: Cell<Pace>,
    conversation: Cell<bool>,
    /// Of an HTTP/2 stream: bytes of the answer that wait for the window, and that have left after the last was sent.
    held_back: Cell<u64>,
    flushed: Cell<u64>,
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
    /// What kind of text the client would read, should the request fail before its answer's head is here.
    accept: RefCell<Option<HeaderValue>>,
    status: Cell<StatusCode>,
    reason: Cell<Option<Reason>>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    retries: Cell<u32>,
    ended: Cell<bool>,
    /// What only the access log wants; nothing when there is none.
    noted: RefCell<Option<Box<Noted>>>,
}

/// Milliseconds in which a client takes nothing of an answer to a request that no service has.
const UNCLAIMED: u64 = 10_000;

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
            upload_pace: Cell::new(Pace::at(0)),
            download_pace: Cell::new(Pace::at(if stream_id == 0 { conn.written() } else { 0 })),
            conversation: Cell::new(false),
            held_back: Cell::new(0),
            flushed: Cell::new(0),
            verdict: Cell::new(None),
            sleeper: Sleeper::default(),
            hold: RefCell::new(Hold::Nothing),
            terms: Cell::new(Terms { idle: UNCLAIMED, ..Terms::default() }),
            client: Cell::new(conn.client().address.ip()),
            leave: Leave::default(),
            method: head.method.clone(),
            target: head.uri.clone(),
            accept: RefCell::new(head.headers.get(header::ACCEPT).cloned()),
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

    /// The id under which the log knows it, if it does.
    pub fn request_id(&self) -> Option<HeaderValue> {
        self.noted.borrow().as_ref()?.request_id.clone()
    }

    /// What kind of text the client would read instead of an answer.
    pub fn take_accept(&self) -> Option<HeaderValue> {
        self.accept.take()
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
        // It would keep the buffer that the request came in for as long as the answer streams.
        drop(self.accept.take());
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

    /// Trouble with the backend, for the operator.
    pub fn complain(&self, failure: &Failure) {
        if failure.reason.blames_backend()
            && let Some(lane) = self.lane()
        {
            lane.complain(failure);
        }
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
