//! One request, as readable steps: see who asks, and how often, refuse, send elsewhere, route, claim, rewrite, send
//! (once more where that is safe), rewrite back, stream; or open a tunnel.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header, request, response};
use hyper::body::Body as _;
use hyper::{Request, Response};

use super::answer::{self, Asked};
use super::body::{Body, Source, Upload};
use super::conn::Conn;
use super::error::{Failure, Reason};
use super::flight::{Flight, Guard};
use super::headers::{self, Recipient, Sender};
use super::incoming::Incoming;
use super::pool::{BackendStream, Link, Lost, Purpose};
use super::retry::{self, Attempt};
use super::tunnel::Tunnel;
use super::worker::{Routed, Worker};
use crate::cell::StreamKind;

/// What a client gets.
#[derive(Debug)]
pub enum Answer {
    /// An answer.
    Response(Response<Body>),
    /// An answer's head, and bytes both ways from then on.
    Tunnel(Response<()>, Box<Tunnel>),
}

/// Answers a request, which came on this stream of an HTTP/2 connection (0 on any other). Never fails, always records.
pub async fn forward(worker: &Rc<Worker>, conn: &Rc<Conn>, request: Request<Incoming>, stream: u32) -> Answer {
    let (head, body) = request.into_parts();
    let is_http2 = head.version == Version::HTTP_2;
    let guard = Flight::begin(worker, conn, &head, stream);
    let mut response = match exchange(worker, conn, &guard, head, body).await {
        Ok(Outcome::Passes(Exchange { head, link })) => Response::from_parts(head, Body::streaming(link, guard)),
        Ok(Outcome::Redirects(location)) => {
            guard.redirects();
            own(conn, guard, answer::redirect(location)).await
        }
        Ok(Outcome::Upgrades(Upgrade { head, backend, ahead, is_websocket, body })) => {
            let tunnel = Tunnel::new(guard, backend, ahead, is_websocket, body);
            return Answer::Tunnel(Response::from_parts(head, ()), Box::new(tunnel));
        }
        Ok(Outcome::Proves(text)) => {
            guard.proves();
            own(conn, guard, Response::new(text)).await
        }
        Err(failure) => {
            guard.complain(&failure);
            guard.answered(failure.reason);
            let (accept, request_id) = (guard.take_accept(), guard.request_id());
            let asked = Asked { accept: accept.as_ref(), request_id: request_id.as_ref() };
            let response = answer::to(failure.reason, &worker.pages(), &asked);
            own(conn, guard, response).await
        }
    };
    if is_http2 {
        response.headers_mut().remove(header::CONNECTION);
    } else if worker.is_stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Answer::Response(response)
}

/// An answer of ours. It may come before the request's body has, of which nobody wants the rest.
async fn own(conn: &Conn, guard: Guard, response: Response<Bytes>) -> Response<Body> {
    if !conn.is_heard() {
        // hyper sees that before it sees the answer: it reads what is there of the body and, if that is not all, says
        // `Connection: close`. Otherwise a client could take it for one on which its next request may be sent.
        tokio::task::yield_now().await;
    }
    response.map(|text| Body::own(text, guard))
}

/// What becomes of a request.
enum Outcome {
    Passes(Exchange),
    Redirects(HeaderValue),
    /// An authority looks whether the host is ours, and finds this.
    Proves(Bytes),
    Upgrades(Upgrade),
}

/// A backend's answer, ready to be streamed.
struct Exchange {
    head: response::Parts,
    link: Link,
}

/// A backend's 101, and what follows it.
struct Upgrade {
    head: response::Parts,
    backend: BackendStream,
    ahead: Bytes,
    is_websocket: bool,
    /// The client's half, where it is a stream of its own.
    body: Incoming,
}

async fn exchange(
    worker: &Rc<Worker>,
    conn: &Conn,
    guard: &Guard,
    mut head: request::Parts,
    body: Incoming,
) -> Result<Outcome, Failure> {
    let sender = sender(worker, conn);
    // First of all, so that the log names the client of a refused request too.
    let client = headers::client(&head, &sender, |address| worker.trusts(address));
    guard.comes_from(client);
    worker.take_token(client, guard.started())?;
    headers::refuse(&head)?;
    // Whatever service the host belongs to, if any, and before anybody is sent to TLS.
    if let Some(token) = headers::challenge(headers::path(&head))
        && let Some(text) = worker.challenges.to_request(token)
        && matches!(head.method, Method::GET | Method::HEAD)
    {
        return Ok(Outcome::Proves(text));
    }
    let secure = headers::is_secure(&head, &sender);
    if let Some(port) = conn.manner.redirect_https
        && !secure
        && let Some(location) = headers::redirect_https(&head, port)?
    {
        return Ok(Outcome::Redirects(location));
    }
    refuse_too_large(worker, &body)?;
    let wanted = match worker.claim(guard, &head, secure)? {
        Routed::Here { upgrade } => upgrade,
        Routed::Elsewhere(location) => return Ok(Outcome::Redirects(location)),
    };

    let is_http2 = head.version == Version::HTTP_2;
    if let Some(token) = wanted {
        let key = if is_http2 { headers::begin_upgrade(&mut head, &token) } else { None };
        headers::to_backend(&mut head, &sender, client, Some(token.clone()));
        guard.identify(&head.headers);
        // Boxed, as all that few requests come to: what a request needs at most, every request has to carry.
        return Box::pin(upgrade(worker, conn, guard, head, body, Wanted { token, key, is_http2 })).await;
    }
    let is_last = headers::to_backend(&mut head, &sender, client, None);
    guard.identify(&head.headers);
    let upload = Source::new(body, guard.flight(), worker.limits().body_size);
    if is_last && upload.is_none() {
        conn.falls_silent();
    }
    if is_http2 && upload.is_some() && headers::is_grpc(&head.headers) {
        guard.converses();
    }
    let (head, link) = send(worker, conn, guard, head, &upload, Purpose::Exchange).await?;
    passes(conn, guard, head, link, is_http2)
}

/// Who is at the other end, and whether its word counts.
fn sender<'c>(worker: &Worker, conn: &'c Conn) -> Sender<'c> {
    let client = conn.client();
    let address = client.address.ip();
    Sender {
        address,
        text: &client.ip,
        trusted: !client.unknown && worker.trusts(address),
        secure: client.secure,
        subject: client.subject.as_ref(),
        forwarded: worker.says_forwarded(),
    }
}

/// A length that is known to be too much is refused before anybody is bothered.
fn refuse_too_large(worker: &Worker, body: &Incoming) -> Result<(), Reason> {
    match body.size_hint().exact() {
        Some(length) if length > worker.limits().body_size => Err(Reason::BodyTooLarge),
        _ => Ok(()),
    }
}

/// The backend's answer as the client gets it.
fn passes(
    conn: &Conn,
    guard: &Guard,
    mut head: response::Parts,
    link: Link,
    is_http2: bool,
) -> Result<Outcome, Failure> {
    // Nobody asked for a change of protocol, and there is no sixth class of statuses (RFC 9110, section 15).
    if head.status == StatusCode::SWITCHING_PROTOCOLS || head.status.as_u16() >= 600 {
        return Err(Reason::BackendMalformed.into());
    }
    headers::to_client(&mut head, &recipient(conn, guard, is_http2));
    guard.answers(head.status, &head.headers);
    Ok(Outcome::Passes(Exchange { head, link }))
}

fn recipient(conn: &Conn, guard: &Guard, is_http2: bool) -> Recipient {
    let terms = guard.terms();
    Recipient { http2: is_http2, preview: terms.preview, hsts: terms.hsts.filter(|_| conn.client().secure) }
}

/// What a client wants its connection or stream to become.
struct Wanted {
    token: HeaderValue,
    /// The key that we made for a client that has none.
    key: Option<HeaderValue>,
    is_http2: bool,
}

/// Asks the backend for the upgrade. A tunnel begins after its 101 and not before: until then, what the client sends
/// could be a request (CVE-2026-2833).
async fn upgrade(
    worker: &Rc<Worker>,
    conn: &Conn,
    guard: &Guard,
    head: request::Parts,
    body: Incoming,
    wanted: Wanted,
) -> Result<Outcome, Failure> {
    let Wanted { token, key, is_http2 } = wanted;
    let (mut head, link) = send(worker, conn, guard, head, &None, Purpose::Upgrade).await?;
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        // To an HTTP/2 client every 2xx says that the tunnel is open (RFC 8441, section 5).
        if is_http2 && head.status.is_success() {
            return Err(Reason::BackendMalformed.into());
        }
        return passes(conn, guard, head, link, is_http2);
    }
    if !headers::is_upgraded(&head, &token) {
        return Err(Reason::BackendMalformed.into());
    }
    if is_http2 {
        headers::finish_upgrade(&mut head, key.as_ref())?;
    }
    let (backend, ahead) = link.into_raw()?;
    headers::to_client(&mut head, &recipient(conn, guard, is_http2));
    // Whatever type the 101 says to have.
    guard.becomes_stream(StreamKind::Tunnel);
    guard.answers(head.status, &head.headers);
    let is_websocket = token.as_bytes().eq_ignore_ascii_case(b"websocket");
    Ok(Outcome::Upgrades(Upgrade { head, backend, ahead, is_websocket, body }))
}

/// Sends the request to the claimed backend; once more, on a fresh connection, where no backend can have acted on it.
async fn send(
    worker: &Rc<Worker>,
    conn: &Conn,
    guard: &Guard,
    head: request::Parts,
    upload: &Option<Rc<Source>>,
    purpose: Purpose,
) -> Result<(response::Parts, Link), Failure> {
    // A client that asks first is asked by us when the backend asks.
    let asks_first = upload.is_some() && head.headers.contains_key(header::EXPECT);
    let lane = guard.lane().ok_or(Reason::Internal)?;
    // An upgrade takes its connection with it.
    let idle = if purpose == Purpose::Exchange { lane.reuse(Some(conn.own())) } else { None };
    let mut link = match idle {
        Some(link) => link,
        None => open(conn, guard, purpose).await?,
    };
    let request = Request::from_parts(head, Upload::new(upload.clone(), asks_first));
    let lost = match guard.waiting(link.send(request)).await? {
        Ok(head) => return Ok((head, link)),
        Err(lost) => lost,
    };
    if !may_be_repeated(&lost, upload) {
        return Err(lost.failure);
    }
    drop(link);
    Box::pin(send_again(worker, conn, guard, lost, Upload::new(upload.clone(), asks_first), purpose)).await
}

/// The second try, on a fresh connection.
async fn send_again(
    worker: &Rc<Worker>,
    conn: &Conn,
    guard: &Guard,
    lost: Lost,
    upload: Upload,
    purpose: Purpose,
) -> Result<(response::Parts, Link), Failure> {
    let Some(head) = lost.request else { return Err(lost.failure) };
    tracing::debug!(reason = lost.failure.reason.label(), "sending a request again: {}", lost.failure);
    guard.retries();
    // The color may have changed since.
    worker.claim_again(guard, headers::host(&head), headers::path(&head))?;
    let mut link = open(conn, guard, purpose).await?;
    let request = Request::from_parts(*head, upload);
    let head = guard.waiting(link.send(request)).await?.map_err(|lost| lost.failure)?;
    Ok((head, link))
}

fn may_be_repeated(lost: &Lost, upload: &Option<Rc<Source>>) -> bool {
    let Some(request) = &lost.request else { return false };
    let body = upload.as_ref().map_or(retry::Body::None, |source| source.left());
    let attempt = Attempt { method: &request.method, body, written: lost.written, read: lost.read, reset: lost.reset };
    attempt.may_be_repeated()
}

async fn open(conn: &Conn, guard: &Guard, purpose: Purpose) -> Result<Link, Failure> {
    let lane = guard.lane().ok_or(Reason::Internal)?;
    guard.connecting(Box::pin(lane.connect(guard.terms().connect, Some(conn.own()), purpose))).await?
}
