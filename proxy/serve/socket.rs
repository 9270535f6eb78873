//! What do a client's bytes pass through? A TCP socket, in clear or under TLS.

use std::io;
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
    Tls(Box<TlsStream<Plain>>),
}

/// A client's TCP socket.
#[derive(Debug)]
pub struct Plain {
    tcp: TcpStream,
    /// What was read from it already and is for the next reader.
    ahead: Bytes,
}

impl Plain {
    /// A socket of which `ahead` has been read already.
    pub fn new(tcp: TcpStream, ahead: Bytes) -> Plain {
        Plain { tcp, ahead }
    }
}

impl ClientSocket {
    /// The socket underneath.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            ClientSocket::Clear(socket) => &socket.tcp,
            ClientSocket::Tls(stream) => &stream.get_ref().0.tcp,
        }
    }

    /// What was agreed on by TLS.
    pub fn tls(&self) -> Option<&ServerConnection> {
        match self {
            ClientSocket::Clear(_) => None,
            ClientSocket::Tls(stream) => Some(stream.get_ref().1),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() && buf.remaining() > 0 {
            let bytes = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
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
            ClientSocket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_write(cx, buf),
            ClientSocket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            ClientSocket::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_flush(cx),
            ClientSocket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ClientSocket::Clear(socket) => Pin::new(socket).poll_shutdown(cx),
            ClientSocket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
