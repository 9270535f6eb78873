//! How does this worker reach a backend? One lane per backend: its idle connections, its claims, its numbers.
//!
//! A lane never leaves its worker's thread, and neither do its connections: hyper's connection would wake the wrong
//! runtime. Connecting over a unix socket is cheap, so a pool per worker loses nothing.

use std::cell::{Cell as StdCell, RefCell};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bgproxy_conf::Address;
use http::Version;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use super::body::Upload;
use super::error::Failure;
use super::incoming::Incoming;
use super::meter::Meter;
use crate::cell::{Cell, End, StreamKind};
use crate::table::Backend;

/// hyper's buffers may grow to this, per connection and direction.
const BUFFER: usize = 64 * 1024;

/// This worker's way to one backend.
#[derive(Debug)]
pub struct Lane {
    /// The backend.
    pub backend: Arc<Backend>,
    /// This worker's numbers about it.
    pub meter: Arc<Meter>,
    worker: usize,
    idle: RefCell<Vec<Link>>,
    /// Grows when connections made before are not to be used again.
    era: StdCell<u32>,
    /// When trouble was last logged, in the worker's milliseconds, and how much was not since.
    warned: StdCell<Option<u64>>,
    unsaid: StdCell<u64>,
}

impl Lane {
    /// A lane without connections.
    pub fn new(backend: Arc<Backend>, meter: Arc<Meter>, worker: usize) -> Lane {
        Lane {
            backend,
            meter,
            worker,
            idle: RefCell::default(),
            era: StdCell::default(),
            warned: StdCell::default(),
            unsaid: StdCell::default(),
        }
    }

    /// Notes when the oldest of its streams began, in milliseconds since the epoch.
    pub fn set_oldest(&self, began: u64) {
        self.cell().set_oldest(began);
    }

    fn cell(&self) -> &Cell {
        &self.backend.cells[self.worker]
    }

    /// The newest idle connection that is ready for a request.
    pub fn reuse(&self) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        let mut index = idle.len();
        while index > 0 {
            index -= 1;
            if idle[index].sender.is_ready() {
                return Some(idle.remove(index));
            }
            // One that is neither has not noticed yet that its last exchange is over.
            if idle[index].sender.is_closed() {
                idle.remove(index);
            }
        }
        None
    }

    /// Keeps a connection whose exchange is complete, unless there are `most` already.
    pub fn keep(&self, mut link: Link, most: usize, now: u64) {
        let mut idle = self.idle.borrow_mut();
        let usable = !link.spent && link.era == self.era.get() && !link.sender.is_closed();
        if usable && idle.len() < most {
            link.idle_since = now;
            idle.push(link);
        }
    }

    /// Closes connections that have been idle since before `since`.
    pub fn expire(&self, since: u64) {
        self.idle.borrow_mut().retain(|link| link.idle_since >= since && !link.sender.is_closed());
    }

    /// Closes every idle connection, and each that is in use now after its exchange.
    pub fn retire(&self) {
        self.era.set(self.era.get().wrapping_add(1));
        self.idle.borrow_mut().clear();
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// A [`Failure`] that tells every errno apart.
    pub async fn connect(&self, within: Duration) -> Result<Link, Failure> {
        let era = self.era.get();
        let stream = connect(&self.backend.address, within).await.map_err(|error| {
            let failure = Failure::connect(error);
            self.meter.connect_failed(failure.reason);
            failure
        })?;
        self.meter.connected();
        let wire = Rc::new(Wire::default());
        let io = TokioIo::new(BackendIo { stream, wire: wire.clone() });
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(io)
            .await
            .map_err(|error| Failure::exchange(error, false))?;
        // The connection's end is seen by whoever uses the sender; the task itself has nothing to tell.
        let task = tokio::task::spawn_local(async move { drop(connection.await) }).abort_handle();
        Ok(Link { sender, wire, task, idle_since: 0, spent: false, era })
    }

    /// Logs trouble with this backend, at most once a second: what thousands of requests suffer is one line.
    pub fn complain(&self, failure: &Failure, now: u64) {
        if self.warned.get().is_some_and(|last| now < last + 1000) {
            self.unsaid.set(self.unsaid.get() + 1);
            return;
        }
        self.warned.set(Some(now));
        tracing::warn!(
            service = %self.backend.service,
            color = %self.backend.color,
            address = %self.backend.address,
            reason = failure.reason.label(),
            unlogged_before = self.unsaid.replace(0),
            "backend failed: {failure}"
        );
    }
}

/// A request's hold on one backend, from routing to the last byte. Counted in when made, counted out when dropped.
#[derive(Debug)]
pub struct Claim {
    /// The way to the backend.
    pub lane: Rc<Lane>,
    end: StdCell<End>,
}

impl Claim {
    /// Counts a request in. There must be no `.await` between looking into the table and this (ARCHITECTURE.md 6).
    pub fn new(lane: Rc<Lane>) -> Claim {
        lane.cell().claim();
        Claim { lane, end: StdCell::new(End::Failed) }
    }

    /// Ends the claim this way instead of as failed.
    pub fn end(self, end: End) {
        self.end.set(end);
    }

    /// From now on this is a stream, counted apart.
    pub fn into_stream(self, kind: StreamKind) -> Stream {
        let lane = self.lane.clone();
        self.end(End::Stream(kind));
        Stream { lane, kind, ended: StdCell::new(false) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.lane.cell().release(self.end.get());
    }
}

/// A stream's hold on one backend.
#[derive(Debug)]
pub struct Stream {
    /// The way to the backend.
    pub lane: Rc<Lane>,
    /// What it is.
    pub kind: StreamKind,
    ended: StdCell<bool>,
}

impl Stream {
    /// It had been told to leave when it ended.
    pub fn ended(&self) {
        self.ended.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.lane.cell().close_stream(self.kind, self.ended.get());
    }
}

/// One connection to a backend.
#[derive(Debug)]
pub struct Link {
    sender: http1::SendRequest<Upload>,
    wire: Rc<Wire>,
    task: AbortHandle,
    idle_since: u64,
    era: u32,
    /// Not to be used for another request.
    spent: bool,
}

impl Link {
    /// Sends a request and waits for the answer's head.
    ///
    /// # Errors
    /// hyper's error, and the request itself when not even its head was looked at.
    pub async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<Upload>>)> {
        self.wire.written.set(0);
        self.wire.read.set(0);
        let response = self.sender.try_send_request(request).await.map_err(|mut refused| {
            let unsent = refused.take_message();
            (refused.into_error(), unsent)
        })?;
        // hyper would speak HTTP/1.0 on it from now on, and leave out bodies without a length.
        self.spent = response.version() == Version::HTTP_10;
        Ok(response.map(Incoming::Http1))
    }

    /// What happened on the socket since the request was sent.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A connection that is not kept is in an unknown state: an upload may still be waiting in it.
        self.task.abort();
    }
}

/// What happened on a backend's socket during one exchange.
#[derive(Debug, Default)]
pub struct Wire {
    /// Bytes the socket took.
    pub written: StdCell<u64>,
    /// Bytes that came back.
    pub read: StdCell<u64>,
    /// Whether the backend reset the connection, or was gone when we wrote.
    pub reset: StdCell<bool>,
}

/// A backend's socket that keeps book.
struct BackendIo {
    stream: BackendStream,
    wire: Rc<Wire>,
}

enum BackendStream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

async fn connect(address: &Address, within: Duration) -> io::Result<BackendStream> {
    match address {
        Address::Unix(path) => connect_unix(path, within).await.map(BackendStream::Unix),
        Address::Tcp { host, port } => {
            let stream = tokio::time::timeout(within, TcpStream::connect((host.as_str(), *port)))
                .await
                .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
            stream.set_nodelay(true)?;
            Ok(BackendStream::Tcp(stream))
        }
    }
}

/// A unix socket answers at once, also when its backlog is full (EAGAIN), which cannot be waited for: ask again, less
/// and less often, until the time is up.
async fn connect_unix(path: &Path, within: Duration) -> io::Result<UnixStream> {
    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(50);
    let mut started = None;
    let mut pause = SHORTEST;
    loop {
        match UnixStream::connect(path).await {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
                let since = *started.get_or_insert_with(Instant::now);
                if since.elapsed() + pause > within {
                    return Err(full);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
            answer => return answer,
        }
    }
}

impl BackendIo {
    /// A backend may answer and close while we still write. Its answer counts: a failed write is noted and otherwise
    /// taken for done, and the read side tells how it ended.
    fn written(&self, result: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.wire.written.set(self.wire.written.get() + bytes as u64);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) if is_gone(&error) => {
                self.wire.reset.set(true);
                Poll::Ready(Ok(offered))
            }
            other => other,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for BackendIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.stream {
            BackendStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        match &result {
            Poll::Ready(Ok(())) => {
                let bytes = buf.filled().len() - before;
                self.wire.read.set(self.wire.read.get() + bytes as u64);
            }
            Poll::Ready(Err(error)) if is_gone(error) => self.wire.reset.set(true),
            _ => {}
        }
        result
    }
}

impl AsyncWrite for BackendIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            BackendStream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.written(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            BackendStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.written(result, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have nothing to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            BackendStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
