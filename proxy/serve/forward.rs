//! One request, as readable steps: refuse, route, claim, rewrite, send (once more where that is safe), rewrite back,
//! stream.

use std::rc::Rc;

use http::{HeaderValue, StatusCode, header, request};
use hyper::body::Body as _;
use hyper::{Request, Response};

use super::answer;
use super::body::{Body, Source, Upload};
use super::conn::Conn;
use super::error::{Failure, Reason};
use super::flight::{Flight, Guard};
use super::headers::{self, Recipient, Sender};
use super::incoming::Incoming;
use super::pool::{Link, Lost, Purpose};
use super::retry::{self, Attempt};
use super::worker::Worker;

/// Answers a request. Never fails, always records.
pub async fn forward(worker: &Rc<Worker>, conn: &Rc<Conn>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let guard = Flight::begin(worker, conn, &head);
    let mut response = match exchange(worker, conn, &guard, head, body).await {
        Ok(Exchange { head, body, link, upload }) => {
            Response::from_parts(head, Body::streaming(body, link, upload, guard))
        }
        Err(failure) => {
            guard.complain(&failure);
            guard.answered(failure.reason);
            answer::to(failure.reason).map(|text| Body::own(text, guard))
        }
    };
    if worker.is_stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A backend's answer, ready to be streamed.
struct Exchange {
    head: http::response::Parts,
    body: Incoming,
    link: Link,
    upload: Option<Rc<Source>>,
}

async fn exchange(
    worker: &Rc<Worker>,
    conn: &Conn,
    guard: &Guard,
    mut head: request::Parts,
    body: Incoming,
) -> Result<Exchange, Failure> {
    let address = conn.client.ip().to_canonical();
    let sender = Sender {
        address,
        text: &conn.ip,
        trusted: worker.trusts(address),
        secure: false,
        subject: None,
        forwarded: worker.says_forwarded(),
    };
    // First of all, so that the log names the client of a refused request too.
    let client = headers::client(&head, &sender, |address| worker.trusts(address));
    guard.comes_from(client);
    headers::refuse(&head)?;
    refuse_too_large(worker, &body)?;
    worker.claim(guard, headers::host(&head), headers::path(&head))?;

    let sized = body.size_hint().exact().is_some();
    headers::to_backend(&mut head, &sender, client, sized, None);
    guard.identify(&head.headers);

    let upload = Source::new(body, guard.flight(), worker.limits().body_size);
    let (response, link) = send(worker, conn, guard, head, &upload).await?;
    let (mut head, body) = response.into_parts();
    // We never ask for a change of protocol, and there is no sixth class of statuses (RFC 9110, section 15).
    if head.status == StatusCode::SWITCHING_PROTOCOLS || head.status.as_u16() >= 600 {
        return Err(Reason::BackendMalformed.into());
    }
    let hsts = if sender.secure { guard.hsts() } else { None };
    let recipient = Recipient { http2: false, preview: guard.terms().preview, hsts: hsts.as_ref() };
    headers::to_client(&mut head, &recipient);
    guard.answers(head.status, &head.headers);
    Ok(Exchange { head, body, link, upload })
}

/// A length that is known to be too much is refused before anybody is bothered.
fn refuse_too_large(worker: &Worker, body: &Incoming) -> Result<(), Reason> {
    match body.size_hint().exact() {
        Some(length) if length > worker.limits().body_size => Err(Reason::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Sends the request to the claimed backend; once more, on a fresh connection, where no backend can have acted on it.
async fn send(
    worker: &Rc<Worker>,
    conn: &Conn,
    guard: &Guard,
    head: request::Parts,
    upload: &Option<Rc<Source>>,
) -> Result<(Response<Incoming>, Link), Failure> {
    let again = copy(&head);
    let failure = match try_once(conn, guard, head, upload, true).await {
        Ok(done) => return Ok(done),
        Err(Unanswered { failure, repeat: false }) => return Err(failure),
        Err(Unanswered { failure, repeat: true }) => failure,
    };
    tracing::debug!(reason = failure.reason.label(), "sending a request again: {failure}");
    guard.retries();
    // The color may have changed since.
    worker.claim(guard, headers::host(&again), headers::path(&again))?;
    try_once(conn, guard, again, upload, false).await.map_err(|unanswered| unanswered.failure)
}

/// A request that got no answer.
struct Unanswered {
    failure: Failure,
    repeat: bool,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Unanswered { failure, repeat: false }
    }
}

async fn try_once(
    conn: &Conn,
    guard: &Guard,
    head: request::Parts,
    upload: &Option<Rc<Source>>,
    reuse: bool,
) -> Result<(Response<Incoming>, Link), Unanswered> {
    let lane = guard.lane().ok_or(Failure::from(Reason::Internal))?;
    let method = head.method.clone();
    let own = Some(conn.own());
    let mut link = match reuse.then(|| lane.reuse(own)).flatten() {
        Some(link) => link,
        None => guard.connecting(lane.connect(guard.terms().connect, own, Purpose::Exchange)).await??,
    };
    let request = request(head, upload);
    match guard.waiting(link.send(request)).await? {
        Ok(response) => Ok((response, link)),
        Err(Lost { failure, written, read, reset }) => {
            let body = upload.as_ref().map_or(retry::Body::None, |source| source.left());
            let attempt = Attempt { method: &method, body, written, read, reset };
            Err(Unanswered { repeat: attempt.may_be_repeated(), failure })
        }
    }
}

/// The request as one try sends it.
fn request(head: request::Parts, upload: &Option<Rc<Source>>) -> Request<Upload> {
    let asks_first = upload.is_some() && head.headers.contains_key(header::EXPECT);
    Request::from_parts(head, Upload::new(upload.clone(), asks_first))
}

/// A second copy of a request's head: two allocations, the names and values are shared.
fn copy(head: &request::Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}
