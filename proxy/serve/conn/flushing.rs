//! Which requests have their last frame with the library that sends it, and wait for it to leave?

use bytes::Bytes;
use h2::SendStream;

use super::super::flight::Guard;
use super::Conn;

/// A request whose last frame is with the library that sends it.
#[derive(Debug)]
pub(super) struct Flushing {
    pub(super) guard: Guard,
    /// Its HTTP/2 stream, by which it can still be ended.
    stream: Option<SendStream<Bytes>>,
}

impl Flushing {
    fn is(&self, stream: u32) -> bool {
        self.guard.stream_id() == stream
    }
}

impl Conn {
    /// A request's last frame is with the library that sends it.
    pub fn finishes(&self, guard: Guard) {
        self.flushing.borrow_mut().push(Flushing { guard, stream: None });
    }

    /// Ends an HTTP/2 stream whose last frame waits for the client. Later, in its own task: the request goes with it.
    pub fn condemns(&self, stream: u32) {
        self.condemned.borrow_mut().push(stream);
        self.sleeper.wake();
    }

    /// Keeps the sending half of a stream whose last frame is with h2, so that it can still be reset.
    pub(super) fn holds(&self, stream: u32, sender: SendStream<Bytes>) {
        if let Some(flushing) = self.flushing.borrow_mut().iter_mut().find(|flushing| flushing.is(stream)) {
            flushing.stream = Some(sender);
        }
    }

    /// The last frame of this stream has left.
    pub(super) fn flushed(&self, stream: u32) {
        if let Some(Flushing { guard, .. }) = self.no_longer_flushing(stream) {
            guard.finish();
        }
    }

    /// The last frame of this stream will never leave.
    pub(super) fn lost(&self, stream: u32) {
        drop(self.no_longer_flushing(stream));
    }

    /// The client takes bytes of what is left of this stream.
    pub(super) fn moves(&self, stream: u32, bytes: u32) {
        if let Some(flushing) = self.flushing.borrow().iter().find(|flushing| flushing.is(stream)) {
            flushing.guard.flushed(bytes);
        }
    }

    /// Ends the streams that others have condemned.
    pub(super) fn reset_condemned(&self) {
        for stream in self.condemned.take() {
            if let Some(Flushing { stream: Some(mut sender), .. }) = self.no_longer_flushing(stream) {
                sender.send_reset(h2::Reason::INTERNAL_ERROR);
            }
        }
    }

    fn no_longer_flushing(&self, stream: u32) -> Option<Flushing> {
        let mut flushing = self.flushing.borrow_mut();
        let at = flushing.iter().position(|flushing| flushing.is(stream))?;
        Some(flushing.swap_remove(at))
    }
}
