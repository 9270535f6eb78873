//! How does a client's body arrive? Frame by frame, by HTTP/1.1 or HTTP/2: one type for both.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, header};
use hyper::body::{Body, Frame, SizeHint};

use super::crumbs::{Arriving, Crumbs};
use super::headers::length;

/// A body that is arriving.
#[derive(Debug)]
pub enum Incoming {
    /// By HTTP/1.1.
    Http1(hyper::body::Incoming),
    /// By HTTP/2.
    Http2(Recv),
}

/// A body on an HTTP/2 stream.
#[derive(Debug)]
pub struct Recv {
    body: Arriving,
    /// Bytes still to come, where Content-Length says so; h2 sees to it that it tells the truth.
    left: Option<u64>,
    trailing: bool,
}

/// A body broke off.
#[derive(Debug)]
pub enum Broken {
    /// By HTTP/1.1.
    Http1(hyper::Error),
    /// By HTTP/2.
    Http2(h2::Error),
}

impl Recv {
    /// The body of a message with these headers, on a connection whose bodies are listed here.
    pub fn new(crumbs: &Rc<Crumbs>, stream: h2::RecvStream, headers: &HeaderMap) -> Recv {
        let length = headers.get(header::CONTENT_LENGTH).and_then(length);
        let left = if stream.is_end_stream() { Some(0) } else { length };
        Recv { body: crumbs.list(stream), left, trailing: false }
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.trailing {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A backend that has answered to the end and does not want the rest of the request (RFC 9113, section
                // 8.1); h2 tells of that instead of the end.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) && self.left == Some(0) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.trailing = true,
            }
        }
        // Behind the end of a body no error is the body's.
        let trailers = ready!(self.body.poll_trailers(cx)).unwrap_or(None);
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Whether it is over.
    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// How much is to come.
    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or(SizeHint::default(), SizeHint::with_exact)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Incoming::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Broken::Http1),
            Incoming::Http2(body) => body.poll_frame(cx).map_err(Broken::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Http1(body) => body.is_end_stream(),
            Incoming::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Http1(body) => body.size_hint(),
            Incoming::Http2(body) => body.size_hint(),
        }
    }
}

impl Broken {
    /// Whether the sender broke the rules, rather than off.
    pub fn is_malformed(&self) -> bool {
        match self {
            Broken::Http1(error) => {
                matches!(cause(error), Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
            }
            Broken::Http2(error) => error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR),
        }
    }
}

/// The first I/O error among the causes.
fn cause(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = cause.source();
    }
    None
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Http1(error) => error.fmt(f),
            Broken::Http2(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Broken::Http1(error) => error.source(),
            Broken::Http2(error) => error.source(),
        }
    }
}
