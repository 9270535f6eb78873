//! How does a body leave by HTTP/2? As fast as the other side opens its window, never more than a buffer ahead.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::{Body, Frame};

/// A body on its way into an HTTP/2 stream, towards a client or a backend.
#[derive(Debug)]
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// What the window did not take yet.
    held: Bytes,
}

/// A body that did not pass.
#[derive(Debug)]
pub enum Stopped<E> {
    /// The body itself broke off; the stream is reset.
    Body(E),
    /// The receiver does not want it, or is gone.
    Receiver(h2::Error),
}

impl<E> From<h2::Error> for Stopped<E> {
    fn from(error: h2::Error) -> Self {
        Stopped::Receiver(error)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Pump<B> {
    /// Sends this body, which must not be at its end already.
    pub fn new(body: B, stream: SendStream<Bytes>) -> Pump<B> {
        Pump { body, stream, held: Bytes::new() }
    }

    /// Goes on until the last frame is with h2.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped<B::Error>>> {
        loop {
            if !self.held.is_empty() {
                ready!(self.poll_held(cx))?;
                if self.held.is_empty() && self.body.is_end_stream() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(Stopped::Receiver(reset.map_or_else(|error| error, h2::Error::from))));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if self.take(frame)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(Err(error)) => {
                    // Never an end: that would pass a part off as the whole.
                    self.reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Stopped::Body(error)));
                }
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// How many bytes wait for the window.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }

    /// Ends the stream in the middle.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// The body and the stream, when there is nothing left to pass, or no use in it.
    pub fn into_parts(self) -> (B, SendStream<Bytes>) {
        (self.body, self.stream)
    }

    /// True when it was the last frame.
    fn take(&mut self, frame: Frame<Bytes>) -> Result<bool, h2::Error> {
        match frame.into_data() {
            Ok(data) if data.is_empty() && self.body.is_end_stream() => {
                self.stream.send_data(data, true)?;
                Ok(true)
            }
            Ok(data) => {
                self.held = data;
                Ok(false)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    self.stream.send_trailers(trailers)?;
                    Ok(true)
                }
                // There is no third kind of frame.
                Err(_other) => Ok(false),
            },
        }
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.stream.reserve_capacity(self.held.len());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(granted) => {
                    granted?;
                }
                // The stream has ended.
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
        let piece = self.held.split_to(self.held.len().min(self.stream.capacity()));
        let last = self.held.is_empty() && self.body.is_end_stream();
        Poll::Ready(self.stream.send_data(piece, last))
    }
}
