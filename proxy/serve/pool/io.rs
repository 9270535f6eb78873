//! How are a backend's sockets opened, read and written? They keep book: retries are decided by what they saw.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bgproxy_conf::Address;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::super::gather::poll_write_parts;
use crate::descriptors;

/// What happened on a backend's socket since the connection was made.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Bytes the socket took.
    pub(super) written: Cell<u64>,
    /// Bytes that came back.
    pub(super) read: Cell<u64>,
    /// Whether the backend reset the connection, or was gone when we wrote.
    pub(super) reset: Cell<bool>,
}

impl Wire {
    /// A request begins: what came before it is history.
    pub(super) fn begin(&self) {
        self.written.set(0);
        self.read.set(0);
    }
}

/// A backend's socket that keeps book.
#[derive(Debug)]
pub(super) struct BackendIo {
    pub(super) stream: BackendStream,
    pub(super) wire: Rc<Wire>,
}

/// A backend's socket.
#[derive(Debug)]
pub enum BackendStream {
    /// On this host.
    Unix(UnixStream),
    /// Anywhere.
    Tcp(TcpStream),
}

/// Connects within this time.
pub(super) async fn connect(address: &Address, within: Duration) -> io::Result<BackendStream> {
    open_unkept(address, within).await.inspect_err(descriptors::note)
}

async fn open_unkept(address: &Address, within: Duration) -> io::Result<BackendStream> {
    let stream = open(address, within).await?;
    let is_kept = match &stream {
        BackendStream::Unix(stream) => descriptors::is_kept(stream),
        BackendStream::Tcp(stream) => descriptors::is_kept(stream),
    };
    // As if the kernel had none.
    if is_kept { Err(Errno::MFILE.into()) } else { Ok(stream) }
}

async fn open(address: &Address, within: Duration) -> io::Result<BackendStream> {
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
    /// Whether the backend has neither said anything nor closed the connection.
    pub(super) fn is_quiet(&self) -> bool {
        // One byte is enough to see. Asked for without a task: whose turn it is, and how long it has been, is of no
        // concern here.
        let mut byte = [0];
        let read = match &self.stream {
            BackendStream::Unix(stream) => stream.try_read(&mut byte),
            BackendStream::Tcp(stream) => stream.try_read(&mut byte),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the backend has closed the connection with part of what we sent unread. That only a unix socket tells: a
    /// reset by TCP may come from anywhere, and whatever was read before.
    pub(super) fn left_unread(&self) -> bool {
        self.wire.reset.get() && matches!(self.stream, BackendStream::Unix(_))
    }

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
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
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
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = poll_write_parts(Pin::new(&mut self.stream), cx, bufs);
        self.written(result, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            BackendStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            BackendStream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            BackendStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have nothing to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            BackendStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            BackendStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
