//! How many connections may those who look at us hold? Each takes a descriptor that the door's clients need, and an
//! open connection costs its holder nothing.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Connections that one holder may have open at once.
pub const MOST: usize = 256;

/// Connections by whom they are counted against.
type Open = Arc<Mutex<HashMap<u32, usize>>>;

/// A listener that closes at once what comes past the bound.
#[derive(Debug)]
pub struct Bounded<L> {
    listener: L,
    open: Open,
}

impl<L> Bounded<L> {
    /// Bounds this listener.
    pub fn new(listener: L) -> Bounded<L> {
        Bounded { listener, open: Open::default() }
    }
}

/// Whom a connection is counted against.
pub trait Held {
    /// A number that he cannot choose.
    fn holder(&self) -> u32;
}

impl Held for UnixStream {
    /// The user: everybody may open the control socket, and nobody's connections shall keep others out.
    fn holder(&self) -> u32 {
        self.peer_cred().map_or(u32::MAX, |credentials| credentials.uid())
    }
}

impl Held for TcpStream {
    /// All together: addresses are easily had.
    fn holder(&self) -> u32 {
        0
    }
}

impl<L: Listener<Io: Held>> Listener for Bounded<L> {
    type Io = Counted<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await;
            let holder = stream.holder();
            match Place::take(&self.open, holder) {
                Some(place) => return (Counted { stream, _place: place }, address),
                None => tracing::debug!(holder, "closing a connection: its holder has {MOST} already"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    _place: Place,
}

impl<S> Counted<S> {
    /// The connection itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

#[derive(Debug)]
struct Place {
    open: Open,
    holder: u32,
}

impl Place {
    fn take(open: &Open, holder: u32) -> Option<Place> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(holder).or_default();
        if *count == MOST {
            return None;
        }
        *count += 1;
        Some(Place { open: open.clone(), holder })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.holder);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
