//! How is one request exchanged with a backend? Over a link: an HTTP/1.1 connection, or one stream of an HTTP/2
//! connection that it shares with others. Who has a link need not know which.

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, request, response};
use hyper::body::{Frame, SizeHint};
use tokio::task::AbortHandle;

use super::super::body::Upload;
use super::super::error::{Failure, Reason};
use super::http1::Http1;
use super::http2::{Http2, Seat};
use super::io::{BackendIo, BackendStream};
use super::shelf::{Birth, Shelf};

/// What a new connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Requests and answers.
    Exchange,
    /// One request that asks for an upgrade; after a 101 the socket itself is wanted ([`Link::into_raw`]).
    Upgrade,
}

/// What has one request answered. Dropping it in the middle ends the exchange: an HTTP/1.1 connection closes, an
/// HTTP/2 stream is reset.
#[derive(Debug)]
pub struct Link {
    protocol: Protocol,
    birth: Birth,
    /// Where it is kept afterwards; gone when its client is.
    pub(super) shelf: Weak<Shelf>,
    pub(super) idle_since: u64,
}

#[derive(Debug)]
enum Protocol {
    Http1(Box<Http1>),
    Http2(Http2),
}

/// A request that got no answer: why, and how far it came.
#[derive(Debug)]
pub struct Lost {
    /// Why.
    pub failure: Failure,
    /// Bytes of it that the socket took; none when the backend said that it did not look at it.
    pub written: u64,
    /// Bytes of an answer that came back.
    pub read: u64,
    /// Whether the backend reset the connection with part of this request unread.
    pub reset: bool,
    /// What was asked, to ask it again.
    pub request: Option<Box<request::Parts>>,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Task(AbortHandle);

impl Task {
    /// Begins the work, on this thread.
    pub(super) fn spawn(work: impl Future<Output = ()> + 'static) -> Task {
        Task(tokio::task::spawn_local(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// HTTP/1.1 on a new connection.
    pub(super) fn http1(io: BackendIo, birth: Birth, shelf: &Rc<Shelf>, purpose: Purpose) -> Link {
        let protocol = Protocol::Http1(Box::new(Http1::new(io, purpose)));
        Link { protocol, birth, shelf: Rc::downgrade(shelf), idle_since: 0 }
    }

    /// One stream of a shared connection.
    pub(super) fn http2(seat: Seat, shelf: &Rc<Shelf>) -> Link {
        let birth = seat.birth().clone();
        Link { protocol: Protocol::Http2(Http2::new(seat)), birth, shelf: Rc::downgrade(shelf), idle_since: 0 }
    }

    /// Sends a request and waits for the answer's head. The answer may come before the request's body is all sent.
    ///
    /// # Errors
    /// Why there is none, and what [`super::super::retry`] wants to know about it.
    pub fn send(&mut self, request: Request<Upload>) -> impl Future<Output = Result<response::Parts, Lost>> + Unpin {
        match &mut self.protocol {
            Protocol::Http1(connection) => connection.begin(request),
            Protocol::Http2(stream) => stream.begin(request),
        }
        // What is known of the request is kept by the connection: whoever waits need not carry it.
        poll_fn(|cx| match &mut self.protocol {
            Protocol::Http1(connection) => connection.poll_answer(cx),
            Protocol::Http2(stream) => stream.poll_answer(cx),
        })
    }

    /// The next frame of the answer's body.
    ///
    /// # Errors
    /// [`Reason::BackendTruncated`], or [`Reason::BackendFlood`].
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match &mut self.protocol {
            Protocol::Http1(connection) => connection.poll_frame(cx),
            Protocol::Http2(stream) => stream.poll_frame(cx),
        }
    }

    /// Whether the answer's body is over.
    pub fn is_end_stream(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(connection) => connection.is_end_stream(),
            Protocol::Http2(stream) => stream.is_end_stream(),
        }
    }

    /// How much is to come of the answer's body.
    pub fn size_hint(&self) -> SizeHint {
        match &self.protocol {
            Protocol::Http1(connection) => connection.size_hint(),
            Protocol::Http2(stream) => stream.size_hint(),
        }
    }

    /// The backend's socket, and what was read from it behind the 101. Only for a link that was opened for
    /// [`Purpose::Upgrade`] and whose answer was a 101; then it comes at once.
    ///
    /// # Errors
    /// [`Reason::BackendMalformed`] when it was not.
    pub fn into_raw(self) -> Result<(BackendStream, Bytes), Failure> {
        match self.protocol {
            Protocol::Http1(connection) => connection.into_raw(),
            Protocol::Http2(_) => Err(Reason::BackendMalformed.into()),
        }
    }

    /// Whether its connection is not to be used again.
    pub(super) fn is_past(&self) -> bool {
        self.birth.is_past()
    }

    /// Looks whether an HTTP/1.1 connection can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(connection) => connection.is_ready(),
            Protocol::Http2(_) => false,
        }
    }

    /// Gives up what an idle HTTP/1.1 connection does not need.
    pub(super) fn cools(&mut self) {
        if let Protocol::Http1(connection) = &mut self.protocol {
            connection.cools();
        }
    }

    /// Gives up what its exchange had of a shared connection.
    pub(super) fn leave(self) {
        if let Protocol::Http2(stream) = self.protocol {
            stream.leave();
        }
    }

    /// Its place on a shared connection, if it has one.
    pub(super) fn seat(&self) -> Option<&Seat> {
        match &self.protocol {
            Protocol::Http1(_) => None,
            Protocol::Http2(stream) => Some(stream.seat()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::io;
    use super::super::shelf::Era;
    use super::*;
    use http::StatusCode;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// Asks for an upgrade over a link of this purpose; the backend answers with these bytes, and then with what it
    /// hears.
    fn upgrade(purpose: Purpose, answer: &'static str, check: impl AsyncFnOnce(StatusCode, Link)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.expect("a runtime").block_on(async {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("backend.sock");
            let listener = UnixListener::bind(&path).expect("a socket");
            tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a byte"));
                }
                stream.write_all(answer.as_bytes()).await.expect("a reader");
                let (mut from, mut to) = stream.split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
            let within = Duration::from_secs(10);
            let stream = io::connect(&bgproxy_conf::Address::Unix(path), within).await.expect("a connection");
            let io = BackendIo { stream, wire: Rc::default() };
            let mut link = Link::http1(io, Era::default().birth(), &Rc::default(), purpose);
            let request = Request::get("/").header("connection", "upgrade").header("upgrade", "x");
            let request = request.body(Upload::default()).expect("a request");
            let response = link.send(request).await.expect("an answer");
            check(response.status, link).await;
        });
    }

    const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nahead";

    #[test]
    fn after_a_101_the_socket_is_handed_over_with_what_came_behind_it() {
        upgrade(Purpose::Upgrade, SWITCHES, async |status, link| {
            assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS);
            let (mut stream, ahead) = link.into_raw().expect("the socket");
            let mut heard = ahead.to_vec();
            stream.write_all(b", hello").await.expect("a reader");
            stream.shutdown().await.expect("half of it ends");
            stream.read_to_end(&mut heard).await.expect("the other half");
            assert_eq!(heard, b"ahead, hello");
        });
    }

    #[test]
    fn a_socket_is_not_handed_over_where_nobody_asked_for_it() {
        upgrade(Purpose::Exchange, SWITCHES, async |_, link| {
            assert_eq!(link.into_raw().expect_err("no socket").reason, Reason::BackendMalformed);
        });
    }

    #[test]
    fn an_upgrade_that_is_declined_leaves_a_connection_that_is_not_used_again() {
        upgrade(Purpose::Upgrade, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", async |status, link| {
            assert_eq!((status, link.is_ready()), (StatusCode::OK, false));
        });
    }
}
