//! How does a request leave? Its head and what there is of its body in one write, the rest as it comes.

use std::cell::RefCell;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request;
use hyper::body::Body as _;
use tokio::io::AsyncWrite;

use super::super::super::body::Upload;
use super::super::super::error::{Failure, Reason};
use super::super::super::headers;
use super::super::io::BackendIo;
use super::Broken;
use super::head;

/// A request on its way to the backend.
#[derive(Debug)]
pub(super) struct Sending {
    socket: Rc<RefCell<BackendIo>>,
    /// The head as written. It stays when it has left, for a second try.
    head: Vec<u8>,
    /// How much of it has left.
    head_sent: usize,
    /// What stands before a piece of the body.
    before: Vec<u8>,
    before_sent: usize,
    data: Bytes,
    /// What stands behind a piece.
    after: &'static [u8],
    upload: Upload,
    left: Left,
    /// Which trailers the head announced: no other is sent.
    trailers: Vec<HeaderName>,
}

/// What was not given to us yet of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    Chunks,
    Nothing,
}

impl Sending {
    /// Nothing yet.
    pub(super) fn new(socket: Rc<RefCell<BackendIo>>) -> Sending {
        Sending {
            socket,
            head: Vec::new(),
            head_sent: 0,
            before: Vec::new(),
            before_sent: 0,
            data: Bytes::new(),
            after: b"",
            upload: Upload::default(),
            left: Left::Nothing,
            trailers: Vec::new(),
        }
    }

    /// Begins a request. Whatever its method, a body is framed: by its length, or else in chunks.
    pub(super) fn begin(&mut self, head: &mut request::Parts, upload: Upload) {
        self.left = match head.headers.get(header::CONTENT_LENGTH).and_then(headers::length) {
            _ if upload.is_end_stream() => {
                // From a first try, which did not know yet that there is nothing to come.
                head.headers.remove(header::TRANSFER_ENCODING);
                Left::Nothing
            }
            Some(length) => Left::Bytes(length),
            None => {
                head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                self.trailers = announced(&head.headers);
                Left::Chunks
            }
        };
        self.head.clear();
        head::write(head, &mut self.head);
        self.head_sent = 0;
        self.upload = upload;
    }

    /// Gives up what only a request in progress needs.
    pub(super) fn cools(&mut self) {
        (self.head, self.before, self.trailers) = Default::default();
    }

    /// The head, as it was written.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Whether all of it has left.
    pub(super) fn is_over(&self) -> bool {
        self.left == Left::Nothing && self.is_sent()
    }

    /// Sends as much as there is, and as the socket takes. Ready when all of it has left.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.left != Left::Nothing && self.data.is_empty() && self.after.is_empty() {
                match Pin::new(&mut self.upload).poll_frame(cx) {
                    Poll::Ready(frame) => self.take(frame)?,
                    Poll::Pending if self.is_sent() => return Poll::Pending,
                    // The head does not wait for the body.
                    Poll::Pending => {}
                }
            }
            if !self.is_sent() {
                ready!(self.poll_write(cx))?;
            } else if self.is_over() {
                // It holds what the client sent, for a second try.
                self.upload = Upload::default();
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn take(&mut self, frame: Option<Result<hyper::body::Frame<Bytes>, Failure>>) -> Result<(), Broken> {
        self.before.clear();
        self.before_sent = 0;
        let frame = match frame.transpose().map_err(Broken::Upload)? {
            Some(frame) => frame,
            None => return self.end(&HeaderMap::new()),
        };
        match frame.into_data() {
            Ok(data) => {
                match &mut self.left {
                    Left::Bytes(left) => {
                        let rest =
                            left.checked_sub(data.len() as u64).ok_or(Broken::Upload(Reason::Internal.into()))?;
                        *left = rest;
                    }
                    Left::Chunks if !data.is_empty() => {
                        self.before.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                        self.after = b"\r\n";
                    }
                    Left::Chunks | Left::Nothing => {}
                }
                self.data = data;
                if self.left == Left::Bytes(0) {
                    self.left = Left::Nothing;
                } else if self.left == Left::Chunks && self.upload.is_end_stream() {
                    self.left = Left::Nothing;
                    self.after = if self.after.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
                }
                Ok(())
            }
            Err(frame) => self.end(&frame.into_trailers().unwrap_or_default()),
        }
    }

    /// The body is over.
    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Broken> {
        match self.left {
            // Less than was promised must not pass for the whole.
            Left::Bytes(1..) => return Err(Broken::Upload(Reason::ClientGone.into())),
            Left::Chunks => {
                self.before.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().filter(|(name, _)| self.trailers.contains(name)) {
                    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                        self.before.extend_from_slice(part);
                    }
                }
                self.after = b"\r\n";
            }
            Left::Bytes(0) | Left::Nothing => {}
        }
        self.left = Left::Nothing;
        Ok(())
    }

    fn is_sent(&self) -> bool {
        self.parts().iter().all(|part| part.is_empty())
    }

    /// What has to leave, in order.
    fn parts(&self) -> [&[u8]; 4] {
        let head = self.head.get(self.head_sent..).unwrap_or_default();
        let before = self.before.get(self.before_sent..).unwrap_or_default();
        [head, before, &self.data, self.after]
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut socket = self.socket.borrow_mut();
        let parts = self.parts();
        let written = Pin::new(&mut *socket).poll_write_vectored(cx, &parts.map(IoSlice::new));
        let mut written = ready!(written).map_err(Broken::Io)?;
        drop(socket);
        if written == 0 {
            return Poll::Ready(Err(Broken::Io(std::io::ErrorKind::WriteZero.into())));
        }
        let mut of = |part: usize| {
            let some = part.min(written);
            written -= some;
            some
        };
        let [head, before, data, after] = parts.map(|part| of(part.len()));
        self.head_sent += head;
        self.before_sent += before;
        self.data.advance(data);
        self.after = &self.after[after..];
        Poll::Ready(Ok(()))
    }
}

fn announced(head: &HeaderMap) -> Vec<HeaderName> {
    let names = head.get_all(header::TRAILER).iter().flat_map(headers::tokens);
    names.filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}
