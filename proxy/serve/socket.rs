//! What do a client's bytes pass through? A TCP socket, in clear or under TLS.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::gather::poll_write_parts;

/// A client's connection, as HTTP sees it.
#[derive(Debug)]
pub enum ClientSocket {
    /// In clear.
    Clear(Plain),
    /// Under TLS; boxed, because it is twenty times as large.
    Tls(Box<Secure>),
}

/// A client's TCP socket.
#[derive(Debug)]
pub struct Plain {
    tcp: TcpStream,
    /// What was read from it already and is for the next reader.
    ahead: Bytes,
}

/// A client's TCP socket under TLS.
#[derive(Debug)]
pub struct Secure {
    tls: TlsStream<Plain>,
    /// The same in clear.
    ahead: Bytes,
}

impl Plain {
    /// A socket of which `ahead` has been read already.
    pub fn new(tcp: TcpStream, ahead: Bytes) -> Plain {
        Plain { tcp, ahead }
    }
}

impl From<TlsStream<Plain>> for ClientSocket {
    fn from(tls: TlsStream<Plain>) -> ClientSocket {
        ClientSocket::Tls(Box::new(Secure { tls, ahead: Bytes::new() }))
    }
}

impl ClientSocket {
    /// Puts back what was read and is for the next reader.
    pub fn unread(&mut self, bytes: Bytes) {
        // Nothing can be a part of something large, too, and would keep it.
        if bytes.is_empty() {
            return;
        }
        let ahead = match self {
            ClientSocket::Clear(socket) => &mut socket.ahead,
            ClientSocket::Tls(stream) => &mut stream.ahead,
        };
        *ahead = if ahead.is_empty() { bytes } else { [bytes, mem::take(ahead)].concat().into() };
    }

    /// The socket underneath.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            ClientSocket::Clear(socket) => &socket.tcp,
            ClientSocket::Tls(stream) => &stream.tls.get_ref().0.tcp,
        }
    }

    /// What was agreed on by TLS.
    pub fn tls(&self) -> Option<&ServerConnection> {
        match self {
            ClientSocket::Clear(_) => None,
            ClientSocket::Tls(stream) => Some(stream.tls.get_ref().1),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if take(&mut self.ahead, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

/// Reads what was read already; false when that is nothing.
fn take(ahead: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    let bytes = ahead.len().min(buf.remaining());
    if bytes == 0 {
        return false;
    }
    buf.put_slice(&ahead.split_to(bytes));
    true
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_parts(Pin::new(&mut self.tcp), cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have nothing to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_read(cx, buf),
            ClientSocket::Tls(stream) => match take(&mut stream.ahead, buf) {
                true => Poll::Ready(Ok(())),
                false => Pin::new(&mut stream.tls).poll_read(cx, buf),
            },
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_write(cx, buf),
            ClientSocket::Tls(stream) => Pin::new(&mut stream.tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            ClientSocket::Tls(stream) => Pin::new(&mut stream.tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_flush(cx),
            ClientSocket::Tls(stream) => Pin::new(&mut stream.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_shutdown(cx),
            ClientSocket::Tls(stream) => Pin::new(&mut stream.tls).poll_shutdown(cx),
        }
    }
}
