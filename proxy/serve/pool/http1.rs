//! How does one request after the other pass over an HTTP/1.1 connection to a backend? In the task of whoever waits for
//! the answer, and by code of our own.
//!
//! hyper's client is made for connections that live in tasks of their own: every request pays for two channels and
//! three wake-ups between the tasks, which is more than reading the answer costs. Here the connection moves only while
//! somebody waits: for an answer's head ([`Http1::poll_answer`]) or for a part of its body ([`Http1::poll_frame`]).
//! Only what is left of a request when its answer comes early has a task of its own: it must pass even while the client
//! takes nothing of the answer.

mod chunked;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod head;
mod sending;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, Version, response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio_util::io::poll_read_buf;

use super::super::abuse::backend::{INTERIMS, INTERIMS_PER_SECOND};
use super::super::body::Upload;
use super::super::error::{Failure, Reason};
use super::io::{BackendIo, BackendStream};
use super::link::{Lost, Purpose, Task};
use chunked::{Chunked, Part};
use head::{Answer, Framing};
use sending::Sending;

/// An answer's head may be this large.
const LARGEST: usize = 64 * 1024 - 1;

/// What is read at once; more, step by step, from a backend that fills that.
const READ: usize = 8 * 1024;
const MOST: usize = 64 * 1024;

/// A read with less room than this is not worth a call.
const ROOM: usize = 1024;

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    socket: Rc<RefCell<BackendIo>>,
    sending: Sending,
    /// The current request's method, and what opens its body where that waits for a 100.
    method: Method,
    gate: Option<oneshot::Sender<()>>,
    /// Sends what is left of the request while the answer passes.
    rest: Option<Task>,
    /// What was read and not yet passed on.
    input: BytesMut,
    /// How much of it was searched in vain for the end of a head, and how much of it was parsed.
    searched: usize,
    parsed: usize,
    /// What is read at once.
    read: usize,
    /// How many 1xx have come before the current answer, and when the first did.
    interims: u32,
    waits_since: Option<Instant>,
    body: Body,
    purpose: Purpose,
    /// Whether another request may follow.
    keeps: bool,
}

/// Where the body of the current answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// There is no answer yet, or it was not read to its end.
    Unknown,
    Length(u64),
    Chunked(Chunked),
    Close,
    Ended,
}

/// Why an exchange did not come to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The backend closed the connection where an answer should have begun.
    Closed,
    /// It did so in the middle of one.
    Truncated,
    /// The socket failed.
    Io(io::Error),
    /// The answer breaks the rules.
    Malformed(&'static str),
    /// There are 1xx without end.
    Flood,
    /// The request itself broke off.
    Upload(Failure),
}

impl Http1 {
    /// Begins on a new socket.
    pub(super) fn new(io: BackendIo, purpose: Purpose) -> Http1 {
        let socket = Rc::new(RefCell::new(io));
        Http1 {
            sending: Sending::new(socket.clone()),
            socket,
            method: Method::GET,
            gate: None,
            rest: None,
            input: BytesMut::new(),
            searched: 0,
            parsed: 0,
            read: READ,
            interims: 0,
            waits_since: None,
            body: Body::Ended,
            purpose,
            keeps: true,
        }
    }

    /// Begins a request; it leaves while its answer is waited for.
    pub(super) fn begin(&mut self, request: Request<Upload>) {
        self.socket.borrow().wire.begin();
        let (mut head, mut upload) = request.into_parts();
        self.gate = upload.gate_opener();
        self.body = Body::Unknown;
        self.sending.begin(&mut head, upload);
        // Whoever knows no later version may close whatever we say.
        self.keeps = head.version == Version::HTTP_11;
        self.method = head.method;
    }

    /// Sends the request and waits for the answer's head. The answer may come before the request's body is all sent.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, Lost>> {
        let Answer { head, framing, keeps } = ready!(self.poll_head(cx)).map_err(|broken| self.lost(broken))?;
        self.keeps &= keeps && self.purpose == Purpose::Exchange;
        (self.interims, self.waits_since) = (0, None);
        // No 100 may come behind an answer.
        self.gate = None;
        self.body = match framing {
            Framing::Length(0) => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunked::Size),
            Framing::Close => Body::Close,
        };
        if !self.sending.is_over() {
            self.send_rest();
        }
        Poll::Ready(Ok(head))
    }

    /// The answer's head, while the request is being sent. 1xx answers are passed over, but for the 100 that opens the
    /// request's body.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Broken>> {
        loop {
            let _all = self.sending.poll(cx)?;
            while let Some(answer) = self.read_head()? {
                let status = answer.head.status;
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(answer));
                }
                self.interims += 1;
                let seconds = self.waits_since.get_or_insert_with(Instant::now).elapsed().as_secs();
                if u64::from(self.interims) > INTERIMS + INTERIMS_PER_SECOND * seconds {
                    return Poll::Ready(Err(Broken::Flood));
                }
                if status == StatusCode::CONTINUE
                    && let Some(open) = self.gate.take()
                {
                    let _gone = open.send(());
                }
            }
            match ready!(self.poll_read(cx))? {
                0 if self.input.is_empty() => return Poll::Ready(Err(Broken::Closed)),
                0 => return Poll::Ready(Err(Broken::Truncated)),
                _ => {}
            }
        }
    }

    /// The next head, once all of it has come.
    fn read_head(&mut self) -> Result<Option<Answer>, Broken> {
        let (length, searched) = (self.input.len(), self.searched);
        if length == searched {
            return Ok(None);
        }
        // From a backend that sends it byte by byte it is not parsed byte by byte; but often enough to see that what
        // comes is no head.
        if length >= 2 * self.parsed || has_end(&self.input[searched.saturating_sub(3)..]) {
            if let Some(answer) = head::read(&mut self.input, &self.method)? {
                (self.searched, self.parsed) = (0, 0);
                return Ok(Some(answer));
            }
            self.parsed = length;
        }
        self.searched = length;
        if length > LARGEST { Err(Broken::Malformed("its head is too large")) } else { Ok(None) }
    }

    /// An answer has come that did not wait for the request's end. The rest must pass even while the client takes
    /// nothing of the answer: it may want to be rid of its request first. No other request may follow: what is left of
    /// this one would be taken for its beginning.
    fn send_rest(&mut self) {
        self.keeps = false;
        let mut sending = std::mem::replace(&mut self.sending, Sending::new(self.socket.clone()));
        self.rest = Some(Task::spawn(async move {
            // Whoever reads the answer sees how the connection ends.
            let _broken = poll_fn(|cx| sending.poll(cx)).await;
        }));
    }

    fn lost(&self, broken: Broken) -> Lost {
        let socket = self.socket.borrow();
        Lost {
            written: socket.wire.written.get(),
            read: socket.wire.read.get(),
            reset: socket.left_unread(),
            failure: broken.into_failure(socket.wire.reset.get()),
            request: head::read_back(self.sending.head()).map(Box::new),
        }
    }

    /// The next frame of the answer's body.
    ///
    /// # Errors
    /// [`Reason::BackendTruncated`]: it breaks off, or breaks the rules.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_part(cx).map_err(|broken| Failure { reason: Reason::BackendTruncated, source: Some(broken.into()) })
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            let part = match &mut self.body {
                Body::Ended => return Poll::Ready(None),
                Body::Unknown => return Poll::Ready(Some(Err(Broken::Truncated))),
                Body::Length(_) | Body::Close if self.input.is_empty() => Part::Missing,
                Body::Length(left) => {
                    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                    *left -= bytes as u64;
                    if *left == 0 {
                        self.body = Body::Ended;
                    }
                    Part::Data(self.input.split_to(bytes).freeze())
                }
                Body::Close => Part::Data(self.input.split().freeze()),
                Body::Chunked(chunked) => chunked.next(&mut self.input)?,
            };
            match part {
                Part::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Part::Trailers(trailers) => {
                    self.body = Body::Ended;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Part::End => {
                    self.body = Body::Ended;
                    return Poll::Ready(None);
                }
                Part::Missing => {
                    if ready!(self.poll_read(cx))? == 0 {
                        if self.body != Body::Close {
                            return Poll::Ready(Some(Err(Broken::Truncated)));
                        }
                        self.body = Body::Ended;
                    }
                }
            }
        }
    }

    /// Whether the answer's body is over.
    pub(super) fn is_end_stream(&self) -> bool {
        self.body == Body::Ended
    }

    /// How much is to come of the answer's body.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self.body {
            Body::Ended => SizeHint::with_exact(0),
            Body::Length(left) => SizeHint::with_exact(left),
            Body::Unknown | Body::Chunked(_) | Body::Close => SizeHint::default(),
        }
    }

    /// Reads what has come; 0 bytes are the connection's end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if self.input.capacity() - self.input.len() < ROOM {
            self.input.reserve(self.read);
        }
        let room = self.input.capacity() - self.input.len();
        let mut socket = self.socket.borrow_mut();
        let read = ready!(poll_read_buf(Pin::new(&mut *socket), cx, &mut self.input)).map_err(Broken::Io)?;
        // Whoever fills it has more; but what a few short answers have left of it is easily filled.
        if read == room && room > self.read / 4 {
            self.read = (self.read * 2).min(MOST);
        }
        Poll::Ready(Ok(read))
    }

    /// The socket, and what was read from it behind the 101.
    ///
    /// # Errors
    /// [`Reason::BackendMalformed`] when nobody asked for it.
    pub(super) fn into_raw(self) -> Result<(BackendStream, Bytes), Failure> {
        let Http1 { socket, sending, rest: None, input, purpose: Purpose::Upgrade, .. } = self else {
            return Err(Reason::BackendMalformed.into());
        };
        drop(sending);
        let socket = Rc::into_inner(socket).ok_or(Reason::Internal)?;
        Ok((socket.into_inner().stream, input.freeze()))
    }

    /// Looks whether it can take a request: it is between two, and the backend has neither closed it nor said anything
    /// that nobody asked for.
    pub(super) fn is_ready(&self) -> bool {
        let is_between_two = self.keeps && self.body == Body::Ended && self.input.is_empty() && self.rest.is_none();
        let socket = self.socket.borrow();
        is_between_two && !socket.wire.reset.get() && socket.is_quiet()
    }

    /// Gives up what it does not need while it is idle: its buffers.
    pub(super) fn cools(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.read = READ;
        self.sending.cools();
    }
}

/// Whether a head may end in here.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|bytes| bytes == b"\n\r\n") || bytes.windows(2).any(|bytes| bytes == b"\n\n")
}

impl Broken {
    /// Why there was no answer; `reset` tells what the socket saw.
    fn into_failure(self, reset: bool) -> Failure {
        let reason = match self {
            Broken::Upload(failure) => return failure,
            Broken::Malformed(_) => Reason::BackendMalformed,
            Broken::Flood => Reason::BackendFlood,
            _ if reset => Reason::BackendReset,
            Broken::Closed | Broken::Truncated | Broken::Io(_) => Reason::BackendClosed,
        };
        Failure { reason, source: Some(self.into()) }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Closed => f.write_str("connection closed before an answer"),
            Broken::Truncated => f.write_str("connection closed in the middle of the answer"),
            Broken::Io(error) => error.fmt(f),
            Broken::Malformed(what) => f.write_str(what),
            Broken::Flood => f.write_str("interim answers and none that is final"),
            Broken::Upload(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests;
