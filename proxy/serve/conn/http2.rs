//! How is HTTP/2 spoken with a client? By h2, over a stream that watches the frames go by.
//!
//! All requests of a connection are answered in its one task, so that they and what they hold end with it. The frames
//! tell what h2 does not: when a request's last byte has left, and whether the client floods.

mod io;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Body as _;

use self::io::{Book, Io};
use super::super::abuse::Flood;
use super::super::body::Body;
use super::super::error::Reason as Cause;
use super::super::forward::{self, Answer};
use super::super::incoming::{Incoming, Recv};
use super::super::pump::{Pump, Stopped};
use super::super::socket::ClientSocket;
use super::super::tunnel::StreamIo;
use super::super::worker::Worker;
use super::orders::Order;
use super::parting::Parting;
use super::{Conn, Phase};

/// Requests of one connection at once; more are refused, which clients take as "later".
const STREAMS: u32 = 128;
/// Bytes of one upload that may be on their way before somebody takes them, and of all uploads of a connection: one
/// that nobody takes must not keep the others waiting.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 1024 * 1024;
/// What h2 spares for small pieces of uploads that nobody has taken yet, in bytes of memory beside theirs, for as long
/// as they are not put together ([`super::super::crumbs`]), and for good those that come when nobody wants them any
/// more.
const SPARE: usize = 4 * 1024 * 1024;
/// Bytes of one answer that may wait for the client's window.
const SEND_BUFFER: usize = 64 * 1024;

/// How long a client that is turned away may take to read why.
const FAREWELL: Duration = Duration::from_millis(500);

/// Speaks HTTP/2 until it is over.
pub(super) async fn speak(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    stream: ClientSocket,
) -> Option<(ClientSocket, Parting)> {
    conn.several.set(true);
    conn.enters(Phase::Receiving, worker.now());
    let book = Rc::new(Book::default());
    let io = Io::new(worker, conn, &book, stream);
    let ended = exchange(worker, conn, &book, io).await;
    drop(conn.flushing.take());
    let parting = match ended {
        Ok(()) if conn.left.get() || conn.leaving.get() => Parting::Close,
        Ok(()) => Parting::Linger,
        Err(Ended { label, source }) => {
            if let Some(label) = label {
                worker.clients.failed(label);
            }
            let error = source.as_ref().map(tracing::field::display);
            tracing::debug!(client = %conn.client().address, reason = label, error, "client connection ended");
            if label.is_some() { Parting::Linger } else { Parting::Close }
        }
    };
    Some((book.stream()?, parting))
}

/// A connection ended otherwise than by being over.
struct Ended {
    /// What it did, when it did something that is counted.
    label: Option<&'static str>,
    source: Option<h2::Error>,
}

impl From<Flood> for Ended {
    fn from(flood: Flood) -> Self {
        Ended { label: Some(flood.label()), source: None }
    }
}

impl From<h2::Error> for Ended {
    fn from(error: h2::Error) -> Self {
        // h2 has limits of its own, and has told the client.
        let calm = error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
        Ended { label: calm.then_some("h2_flood"), source: Some(error) }
    }
}

async fn exchange(worker: &Rc<Worker>, conn: &Rc<Conn>, book: &Book, io: Io) -> Result<(), Ended> {
    let header_size = u32::try_from(worker.limits().header_size).unwrap_or(u32::MAX);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SPARE)
        .max_header_list_size(header_size)
        // A line that stood still brings requests and their cancellations at once; `Abuse` tells that from a flood.
        .max_pending_accept_reset_streams(STREAMS as usize)
        .enable_connect_protocol();
    // Boxed, because what is held for it would be held for as long as the connection lasts.
    let mut h2 = match conn.unless_ended(Box::pin(builder.handshake::<_, Bytes>(io))).await {
        Ok(h2) => h2?,
        Err(Order::Refuse(_)) => return Err(Ended { label: Some("h2_preface_timeout"), source: None }),
        Err(_) => return Ok(()),
    };
    conn.rest(worker.now());
    // There while there are requests: even without one it is as large as all that a request needs, ten kilobytes.
    let mut requests: Option<FuturesUnordered<_>> = None;
    let mut is_worn_out = false;
    let ended = poll_fn(|cx| {
        match conn.obey(cx) {
            Some(Order::Abort) => return Poll::Ready(Ok(())),
            Some(Order::Refuse(_)) => {
                return Poll::Ready(Err(Ended { label: Some("h2_head_timeout"), source: None }));
            }
            Some(Order::Leave) if conn.busy.get() == 0 => {
                // Said once: what the client does not take at once is not waited for.
                h2.abrupt_shutdown(Reason::NO_ERROR);
                let _unwilling = h2.poll_closed(cx);
                return Poll::Ready(Ok(()));
            }
            Some(Order::Leave) => conn.stays(worker),
            Some(Order::Retire) => h2.graceful_shutdown(),
            None => {}
        }
        conn.reset_condemned();
        loop {
            // Before h2, so that what they have to say leaves at once.
            if let Some(requests) = &mut requests {
                while let Poll::Ready(Some(())) = Pin::new(&mut *requests).poll_next(cx) {}
            }
            book.crumbs.gather();
            if !is_worn_out && book.crumbs.spent() > SPARE / 2 {
                // What is on it ends well, and the client opens another one.
                is_worn_out = true;
                h2.graceful_shutdown();
            }
            let accepted = h2.poll_accept(cx);
            book.settle(conn);
            let request = match accepted {
                Poll::Ready(Some(request)) => request?,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => match book.flood(conn, worker.now()) {
                    Some(flood) => return Poll::Ready(Err(flood.into())),
                    None => {
                        if conn.is_unused() && requests.as_ref().is_some_and(FuturesUnordered::is_empty) {
                            requests = None;
                        }
                        return Poll::Pending;
                    }
                },
            };
            book.accepted();
            requests.get_or_insert_with(FuturesUnordered::new).push(answer(worker, conn, book, request));
        }
    })
    .await;
    drop(requests);
    if matches!(ended, Err(Ended { source: None, .. })) {
        h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let said = poll_fn(|cx| {
            book.crumbs.gather();
            h2.poll_closed(cx)
        });
        // One that does not even read this is not waited for.
        let _unwilling = tokio::time::timeout(FAREWELL, said).await;
    }
    ended
}

/// Answers one request.
async fn answer(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    book: &Book,
    request: (Request<RecvStream>, SendResponse<Bytes>),
) {
    let (request, mut respond) = request;
    let stream = respond.stream_id().as_u32();
    let (head, body) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let body = Incoming::Http2(Recv::new(&book.crumbs, body, &head.headers));
    let answer = {
        let mut forwarded = pin!(forward::forward(worker, conn, Request::from_parts(head, body), stream));
        let answered = poll_fn(|cx| match respond.poll_reset(cx) {
            // The client wants it no more: what is done for it ends here.
            Poll::Ready(_reset) => Poll::Ready(None),
            Poll::Pending => forwarded.as_mut().poll(cx).map(Some),
        });
        answered.await
    };
    let sent = match answer {
        None => Ok(()),
        Some(Answer::Response(response)) => send(conn, stream, &mut respond, response, is_head).await,
        Some(Answer::Tunnel(response, mut tunnel)) => match respond.send_response(response, false) {
            Ok(send) => {
                let io = StreamIo::new(send, tunnel.client_half());
                Box::pin(tunnel.run(io, Bytes::new())).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
    };
    if let Err(error) = sent {
        tracing::debug!(client = %conn.client().address, stream, "answer not sent: {error}");
    }
}

/// Sends an answer until its last frame is with h2.
async fn send(
    conn: &Rc<Conn>,
    stream: u32,
    respond: &mut SendResponse<Bytes>,
    response: Response<Body>,
    is_head: bool,
) -> Result<(), h2::Error> {
    let (mut head, mut body) = response.into_parts();
    // Which hyper does for HTTP/1.1 (RFC 9110, section 6.6.1).
    if let header::Entry::Vacant(entry) = head.headers.entry(header::DATE)
        && let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
    {
        entry.insert(now);
    }
    let flight = body.flight();
    let ends = is_head || body.is_end_stream();
    let sender = match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(sender) => sender,
        Err(error) => {
            body.break_off(if error.is_io() { Cause::ClientGone } else { Cause::Internal });
            return Err(error);
        }
    };
    if ends {
        drop(body);
        conn.holds(stream, sender);
        return Ok(());
    }
    let mut pump = Pump::new(body, sender);
    let pumped = poll_fn(|cx| match flight.as_ref().and_then(|flight| flight.condemned(cx)) {
        Some(_reason) => {
            pump.reset(Reason::INTERNAL_ERROR);
            Poll::Ready(Err(Stopped::Receiver(Reason::INTERNAL_ERROR.into())))
        }
        None => {
            let pumped = pump.poll(cx);
            if let Some(flight) = &flight {
                flight.holds_back(pump.waiting());
            }
            pumped
        }
    })
    .await;
    let (mut body, sender) = pump.into_parts();
    match pumped {
        Ok(()) => {
            drop(body);
            conn.holds(stream, sender);
            Ok(())
        }
        // The body itself has told.
        Err(Stopped::Body(_failure)) => Ok(()),
        Err(Stopped::Receiver(error)) => {
            body.break_off(Cause::ClientGone);
            Err(error)
        }
    }
}
