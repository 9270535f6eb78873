//! What passes after a 101? Bytes both ways, until both sides have had enough, or the tunnel is told to leave.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::flight::Guard;
use super::incoming::Incoming;
use super::pool::BackendStream;
use super::websocket::{self, Boundary};

/// A websocket client is told to come back; browsers then do so by themselves (RFC 6455, section 7.4.1).
const GOING_AWAY: u16 = 1001;

/// How long a client may take to answer that.
const ANSWER_TAKES: Duration = Duration::from_secs(2);

/// Pieces passed in a row before other connections get their turn.
const TURN: usize = 16;

/// A connection that has become two ways for bytes.
#[derive(Debug)]
pub struct Tunnel {
    guard: Guard,
    backend: BackendStream,
    /// What the backend has sent behind its 101 already.
    ahead: Bytes,
    /// Where its frames end; none for what is no websocket.
    frames: Option<Boundary>,
    /// The client's half of an HTTP/2 stream.
    incoming: Option<Incoming>,
}

impl Tunnel {
    /// A tunnel to this backend, which has said `ahead` already.
    pub fn new(guard: Guard, backend: BackendStream, ahead: Bytes, is_websocket: bool, incoming: Incoming) -> Tunnel {
        let frames = is_websocket.then(Boundary::new);
        Tunnel { guard, backend, ahead, frames, incoming: Some(incoming) }
    }

    /// What a client sends on an HTTP/2 stream; there once.
    pub fn client_half(&mut self) -> Option<Incoming> {
        self.incoming.take()
    }

    /// Passes bytes until it is over; the client has sent `ahead` already.
    pub async fn run(self: Box<Self>, mut client: impl AsyncRead + AsyncWrite + Unpin, ahead: Bytes) {
        let Tunnel { guard, mut backend, ahead: from_backend, frames, .. } = *self;
        let mut up = Way::new(ahead);
        let mut down = Way::new(from_backend);
        let mut farewell = Farewell { frames, stage: Stage::Staying };
        farewell.passes(&down.held);
        let passed = poll_fn(|cx| {
            if guard.condemned(cx).is_some() {
                return Poll::Ready(Ok(()));
            }
            if guard.poll_leaving(cx).is_ready() {
                farewell.begin(&mut down);
            }
            if farewell.poll_over(cx, up.is_shut()).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut scratch = guard.worker.scratch.borrow_mut();
            let sent = up.poll(cx, &mut client, &mut backend, &mut scratch, |piece, way| {
                guard.received(piece.len() as u64);
                way.hold(piece);
            })?;
            let came = down.poll(cx, &mut backend, &mut client, &mut scratch, |piece, way| {
                guard.sent(farewell.pass(piece, way) as u64);
            })?;
            match sent.is_ready() && came.is_ready() {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        });
        let passed: io::Result<()> = passed.await;
        if let Err(error) = passed {
            tracing::debug!("tunnel broke: {error}");
        } else if farewell.was_said() {
            // An HTTP/2 stream that ends without this would be reset.
            let _as_far_as_it_goes =
                poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_shutdown(cx).is_ready())).await;
        }
        guard.finish();
    }
}

/// One way of a tunnel. Nothing is allocated while it is idle.
#[derive(Debug)]
struct Way {
    /// What was read and not taken yet.
    held: Vec<u8>,
    taken: usize,
    /// The reader has said its last.
    ended: bool,
    /// And the writer was told.
    shut: bool,
}

impl Way {
    fn new(ahead: Bytes) -> Way {
        Way { held: ahead.into(), taken: 0, ended: false, shut: false }
    }

    fn is_shut(&self) -> bool {
        self.shut
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Passes on what there is; ready when the reader has ended and the writer knows.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
        mut pass: impl FnMut(&[u8], &mut Way),
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            while let Some(rest @ [_, ..]) = self.held.get(self.taken..) {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.taken += written;
            }
            if self.held.capacity() > 0 {
                self.held = Vec::new();
                self.taken = 0;
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(&mut *from).poll_read(cx, &mut buf)? {
                Poll::Ready(()) if buf.filled().is_empty() => self.ended = true,
                Poll::Ready(()) => pass(buf.filled(), self),
                Poll::Pending => {
                    // Also where nothing was written: this is how a stream tells that the client has given it up.
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// How a tunnel ends that is told to leave: a websocket client gets a close frame, between two frames of the backend's.
#[derive(Debug)]
struct Farewell {
    frames: Option<Boundary>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nobody has told it.
    Staying,
    /// A frame has to end first. One that does not is broken off by the worker's sweep.
    Waiting,
    /// The client knows, and what the backend says is for nobody.
    Said(Pin<Box<Sleep>>),
    /// There is nothing to say.
    Over,
}

impl Farewell {
    /// Takes note of bytes that pass to the client.
    fn passes(&mut self, bytes: &[u8]) {
        if let Some(frames) = &mut self.frames {
            frames.feed(bytes);
        }
    }

    fn begin(&mut self, down: &mut Way) {
        if !matches!(self.stage, Stage::Staying) {
            return;
        }
        self.stage = match &self.frames {
            None => Stage::Over,
            // The backend has said it already.
            Some(frames) if frames.closed() => Stage::Said(sleep(ANSWER_TAKES)),
            Some(frames) if frames.at_boundary() => say(down),
            Some(_) => Stage::Waiting,
        };
    }

    /// Passes on what the client is still to get of this piece; tells how many bytes that is.
    fn pass(&mut self, piece: &[u8], down: &mut Way) -> usize {
        let piece = match (&self.stage, &self.frames) {
            (Stage::Staying, _) => piece,
            (Stage::Waiting, Some(frames)) => &piece[..frames.until_boundary(piece)],
            _ => &[],
        };
        self.passes(piece);
        down.hold(piece);
        if matches!(self.stage, Stage::Waiting)
            && let Some(frames) = &self.frames
            && frames.at_boundary()
        {
            self.stage = if frames.closed() { Stage::Said(sleep(ANSWER_TAKES)) } else { say(down) };
        }
        piece.len()
    }

    fn was_said(&self) -> bool {
        matches!(self.stage, Stage::Said(_))
    }

    fn poll_over(&mut self, cx: &mut Context<'_>, client_has_left: bool) -> Poll<()> {
        match &mut self.stage {
            Stage::Staying | Stage::Waiting => Poll::Pending,
            Stage::Said(_) if client_has_left => Poll::Ready(()),
            Stage::Said(patience) => patience.as_mut().poll(cx),
            Stage::Over => Poll::Ready(()),
        }
    }
}

fn say(down: &mut Way) -> Stage {
    down.hold(&websocket::close_frame(GOING_AWAY, "going away"));
    Stage::Said(sleep(ANSWER_TAKES))
}

fn sleep(time: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(time))
}

/// An HTTP/2 stream as two ways for bytes (RFC 8441).
#[derive(Debug)]
pub struct StreamIo {
    sender: SendStream<Bytes>,
    incoming: Option<Incoming>,
    /// What came and was not read yet.
    held: Bytes,
}

impl StreamIo {
    /// A stream of which one half is for sending, the other arrives.
    pub fn new(sender: SendStream<Bytes>, incoming: Option<Incoming>) -> StreamIo {
        StreamIo { sender, incoming, held: Bytes::new() }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.held.is_empty() {
            let Some(incoming) = &mut this.incoming else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(incoming).poll_frame(cx)) {
                Some(frame) => this.held = frame.map_err(io::Error::other)?.into_data().unwrap_or_default(),
                None => this.incoming = None,
            }
        }
        let piece = this.held.split_to(this.held.len().min(buf.remaining()));
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.sender.reserve_capacity(buf.len());
        while self.sender.capacity() == 0 {
            match ready!(self.sender.poll_capacity(cx)) {
                Some(granted) => granted.map(drop).map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let bytes = buf.len().min(self.sender.capacity());
        let piece = Bytes::copy_from_slice(&buf[..bytes]);
        Poll::Ready(self.sender.send_data(piece, false).map(|()| bytes).map_err(io::Error::other))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // h2 does, in the connection's task. But nobody else would see that the client has reset the stream, as long as
        // the backend takes nothing of what came before.
        match self.sender.poll_reset(cx) {
            Poll::Ready(reset) => Poll::Ready(Err(io::Error::other(reset.map_or_else(|error| error, h2::Error::from)))),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sender.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
