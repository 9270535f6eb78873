//! What does the control socket answer? HTTP and JSON over a unix socket; the JSON is in [`bgproxy_conf::wire`].
//!
//! Every call is checked by who the kernel says is calling; every mutation leaves one audit line in the log.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, TryFromFloatSecsError};

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bgproxy_conf::wire::{
    Action, CloseStreamsRequest, Event, IdleReply, PreviewRequest, ProbeRequest, Problem, RollbackRequest, SwitchReply,
    SwitchRequest,
};
use bgproxy_conf::{Color, Control, ServiceName};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

use super::caller::{Caller, Wants};
use super::desk::{Ask, Desk, Gone};
use super::events::Events;
use super::openapi;
use super::streams::CloseStreams;
use super::switchboard::{Command, Refusal};
use crate::clock;
use crate::family::Page;

/// A long poll looks this often.
const LOOK: Duration = Duration::from_millis(50);

/// The longest a long poll lasts; whoever wants to wait longer asks again.
const LONGEST_POLL: u64 = 3600;

/// The largest body of a request; a true one has some hundred bytes.
const LARGEST: usize = 64 * 1024;

/// How long it may take to arrive.
const BODY: Duration = Duration::from_secs(10);

/// How much of it the audit line shows.
const ASKED: usize = 200;

/// What handlers need.
#[derive(Debug, Clone)]
pub struct Api {
    /// Who carries things out.
    pub desk: Desk,
    /// What happened.
    pub events: Arc<Events>,
    /// The metrics page.
    pub page: Arc<Page>,
    /// Who may do what; replaced by a reload.
    pub control: Arc<ArcSwap<Control>>,
    /// Places for those who follow what happens; none where each user has places of his own.
    pub followers: Option<Arc<Semaphore>>,
    /// Cancelled when the daemon goes down: streams end then.
    pub ending: CancellationToken,
}

/// What stands in a path, if that is text.
type InPath<T> = Result<Path<T>, PathRejection>;

/// Everything below `/v1`, and the metrics.
pub fn router(api: Api) -> Router {
    viewing(Router::new())
        .route("/v1/services/{service}", get(service))
        .route("/v1/services/{service}/switch", post(switch))
        .route("/v1/services/{service}/rollback", post(rollback))
        .route("/v1/services/{service}/preview", post(preview))
        .route("/v1/services/{service}/probe", post(probe))
        .route("/v1/services/{service}/close-streams", post(close_streams))
        .route("/v1/services/{service}/drain/{color}", get(drain))
        .route("/v1/reload", post(reload))
        .route("/v1/openapi.json", get(async || Json(openapi::document())))
        .fallback(async || fault(StatusCode::NOT_FOUND, "not_found", "there is no such path; see /v1/openapi.json"))
        .method_not_allowed_fallback(async || {
            fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has other methods")
        })
        .layer(axum::middleware::from_fn_with_state(api.clone(), authorize))
        .with_state(api)
}

/// What the admin listener shows as well.
pub fn viewing(router: Router<Api>) -> Router<Api> {
    router
        .route("/v1/status", get(status))
        .route("/v1/history", get(history))
        .route("/v1/events", get(events))
        .route("/metrics", get(metrics))
}

/// Lets pass who may; writes down who changed what.
async fn authorize(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let mutates = request.method() != Method::GET && request.method() != Method::HEAD;
    let wants = if mutates { Wants::Operate } else { Wants::View };
    if !mutates && caller.may(wants, &api.control.load()) {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    let mut audit = Audit { path, caller, asked: String::new(), outcome: None, failed: false };
    if !audit.caller.may(wants, &api.control.load()) {
        audit.outcome = Some(StatusCode::FORBIDDEN);
        let key = if mutates { "operators" } else { "viewers" };
        let title = format!("not permitted: {} is not among `control.{key}`", audit.caller);
        return fault(StatusCode::FORBIDDEN, "forbidden", &title);
    }
    // What was asked is part of who did what, so it is read here, and read again by whoever carries it out.
    let (head, body) = request.into_parts();
    let Ok(body) = timeout(BODY, axum::body::to_bytes(body, LARGEST)).await else {
        audit.outcome = Some(StatusCode::REQUEST_TIMEOUT);
        return fault(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the request did not come to its end");
    };
    let Ok(body) = body else {
        audit.outcome = Some(StatusCode::PAYLOAD_TOO_LARGE);
        return fault(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "no request is as large as this");
    };
    audit.asked = String::from_utf8_lossy(&body).chars().take(ASKED).collect();
    let response = next.run(Request::from_parts(head, body.into())).await;
    audit.outcome = Some(response.status());
    audit.failed = response.extensions().get::<Failed>().is_some();
    response
}

/// Marks an answer that says that what was asked for was tried and did not go well, as a reload's does.
#[derive(Debug, Clone)]
struct Failed;

/// One line for each mutation, and for each look that was refused, whatever came of it. Written when dropped: a
/// caller who hangs up drops the handler, but what he asked for may be carried out all the same.
struct Audit {
    caller: Caller,
    path: String,
    asked: String,
    outcome: Option<StatusCode>,
    failed: bool,
}

impl Drop for Audit {
    fn drop(&mut self) {
        let Audit { caller, path, asked, outcome, failed } = self;
        let (by, uid, gid) = (caller.to_string(), caller.uid, caller.gid);
        match outcome.map(|status| status.as_u16()) {
            Some(outcome @ 403) => {
                tracing::warn!(target: "bgproxy::audit", by, uid, gid, path, outcome, "audit");
            }
            Some(_) if *failed => {
                tracing::info!(target: "bgproxy::audit", by, uid, gid, path, asked, outcome = "failed", "audit");
            }
            Some(outcome) => tracing::info!(target: "bgproxy::audit", by, uid, gid, path, asked, outcome, "audit"),
            None => {
                tracing::info!(target: "bgproxy::audit", by, uid, gid, path, asked, outcome = "hung up", "audit");
            }
        }
    }
}

// --- looking

async fn status(State(api): State<Api>) -> Result<Response, Fault> {
    Ok(Json(api.desk.ask(Ask::Status).await?).into_response())
}

async fn service(State(api): State<Api>, path: InPath<String>) -> Result<Response, Fault> {
    let name = service_name(&path?)?;
    let mut status = api.desk.ask(Ask::Status).await?;
    let known: Vec<_> = status.services.keys().cloned().collect();
    match status.services.remove(&name) {
        Some(service) => Ok(Json(service).into_response()),
        None => Err(Refusal::UnknownService(name, known).into()),
    }
}

#[derive(Debug, Deserialize)]
struct Filter {
    service: Option<String>,
}

async fn history(State(api): State<Api>, filter: Result<Query<Filter>, QueryRejection>) -> Result<Response, Fault> {
    let Query(filter) = filter?;
    let mut history = api.desk.ask(Ask::History).await?;
    if let Some(name) = filter.service {
        history.entries.retain(|entry| entry.service.as_str() == name);
    }
    Ok(Json(history).into_response())
}

async fn metrics(State(api): State<Api>) -> Response {
    // Elsewhere: of ten thousand services it is a large page, and who switches one must not wait for it.
    let page = api.page.clone();
    let made = tokio::task::spawn_blocking(move || page.text().map_err(|error| error.to_string())).await;
    match made.unwrap_or_else(|panicked| Err(panicked.to_string())) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no metrics", Some(error)),
    }
}

async fn events(
    State(api): State<Api>,
    filter: Result<Query<Filter>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let Query(filter) = filter?;
    let place = api.followers.map(Semaphore::try_acquire_owned).transpose().map_err(|_full| Fault::Followers)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let (missed, news) = api.events.follow(last);
    // An id without data, so that whoever has heard nothing yet can still come back to here.
    let here = last.unwrap_or_else(|| api.events.last_id());
    let first = stream::iter([Ok(sse::Event::default().id(here.to_string()))]);
    let missed = stream::iter(missed);
    // One who is too slow misses events, and sees it by the ids.
    let news = BroadcastStream::new(news).filter_map(async |event| event.ok());
    let wanted = move |event: &Event| match (&filter.service, &event.service) {
        (Some(wanted), Some(service)) => service.as_str() == wanted,
        _ => true,
    };
    let stream = missed.chain(news).filter(move |event| std::future::ready(wanted(event))).map(to_sse);
    let ending = api.ending.clone();
    let until = async move {
        ending.cancelled().await;
        // Held until here, or until the follower is gone.
        drop(place);
    };
    let stream = first.chain(stream).take_until(until);
    Ok(respond_with(stream))
}

fn respond_with(stream: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static) -> Response {
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(stream).keep_alive(keep_alive)).into_response()
}

fn to_sse(event: Event) -> Result<sse::Event, Infallible> {
    let json = serde_json::to_value(&event).unwrap_or_default();
    let kind = json.get("kind").and_then(|kind| kind.as_str()).unwrap_or("event").to_owned();
    Ok(sse::Event::default().id(event.id.to_string()).event(kind).data(json.to_string()))
}

#[derive(Debug, Deserialize)]
struct Patience {
    timeout: Option<u64>,
}

/// Answers when the color is idle, when it cannot become so by waiting, or when the time is up.
async fn drain(
    State(api): State<Api>,
    path: InPath<(String, String)>,
    patience: Result<Query<Patience>, QueryRejection>,
) -> Result<Response, Fault> {
    let (Query(patience), Path((service, color))) = (patience?, path?);
    let (service, color) = (service_name(&service)?, color_name(&color)?);
    let deadline = Instant::now() + Duration::from_secs(patience.timeout.unwrap_or(0).min(LONGEST_POLL));
    loop {
        let reply: IdleReply = api.desk.ask(|reply| Ask::Idle(service.clone(), color.clone(), reply)).await??;
        let hopeless = matches!(reply.role, bgproxy_conf::wire::Role::Live | bgproxy_conf::wire::Role::Preview);
        if reply.idle || hopeless || Instant::now() >= deadline || api.ending.is_cancelled() {
            return Ok(Json(reply).into_response());
        }
        sleep(LOOK).await;
    }
}

// --- changing

async fn switch(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    path: InPath<String>,
    body: Bytes,
) -> Result<Response, Fault> {
    let SwitchRequest { to, force, wait, expect_live, expect_generation } = json(&body)?;
    let command = command(Action::Switch, Some(to), force, &caller);
    carry_out(&api, path, Command { expect_live, expect_generation, ..command }, wait).await
}

async fn rollback(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    path: InPath<String>,
    body: Bytes,
) -> Result<Response, Fault> {
    let request = if body.is_empty() { RollbackRequest::default() } else { json(&body)? };
    let RollbackRequest { force, wait, expect_live, expect_generation } = request;
    let command = command(Action::Rollback, None, force, &caller);
    carry_out(&api, path, Command { expect_live, expect_generation, ..command }, wait).await
}

async fn preview(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    path: InPath<String>,
    body: Bytes,
) -> Result<Response, Fault> {
    let PreviewRequest { color, force, expect_generation } = json(&body)?;
    let command = command(Action::Preview, Some(color), force, &caller);
    carry_out(&api, path, Command { expect_generation, ..command }, false).await
}

fn command(action: Action, to: Option<Color>, force: bool, caller: &Caller) -> Command {
    Command {
        action,
        to,
        force,
        expect_live: None,
        expect_generation: None,
        by: caller.to_string(),
        at: clock::now(),
        file: None,
    }
}

async fn carry_out(api: &Api, path: InPath<String>, command: Command, wait: bool) -> Result<Response, Fault> {
    let service = service_name(&path?)?;
    let began = std::time::Instant::now();
    let switches = command.action != Action::Preview;
    let done = api.desk.command(service.clone(), command).await??;
    let seconds = began.elapsed().as_secs_f64();
    let receipt = if wait && switches && done.changed {
        let generation = done.generation;
        // Without one (the daemon goes down, the service is gone) it is switched all the same, which is what counts.
        api.desk.ask(|reply| Ask::Receipt(service.clone(), generation, reply)).await.ok()
    } else {
        None
    };
    let reply = SwitchReply {
        service,
        generation: done.generation,
        from: done.from,
        to: done.to,
        preview: done.preview,
        changed: done.changed,
        seconds,
        receipt,
    };
    Ok(Json(reply).into_response())
}

async fn probe(State(api): State<Api>, path: InPath<String>, body: Bytes) -> Result<Response, Fault> {
    let service = service_name(&path?)?;
    let ProbeRequest { color } = json(&body)?;
    let report = api.desk.ask(|reply| Ask::Probe(service, color, reply)).await??;
    Ok(Json(report).into_response())
}

async fn close_streams(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    path: InPath<String>,
    body: Bytes,
) -> Result<Response, Fault> {
    let service = service_name(&path?)?;
    let CloseStreamsRequest { color, over } = json(&body)?;
    let over = over.map(Duration::try_from_secs_f64).transpose().map_err(Fault::Over)?;
    let close = CloseStreams { service, color, over, by: caller.to_string() };
    let reply = api.desk.ask(|reply| Ask::CloseStreams(close, reply)).await??;
    Ok(Json(reply).into_response())
}

async fn reload(State(api): State<Api>) -> Result<Response, Fault> {
    let reload = api.desk.ask(Ask::Reload).await?;
    let ok = reload.ok;
    let mut response = Json(reload).into_response();
    if !ok {
        response.extensions_mut().insert(Failed);
    }
    Ok(response)
}

// --- what goes wrong

/// Why a call was not answered as wished.
#[derive(Debug)]
enum Fault {
    Gone,
    Refused(Refusal),
    NoService { title: String },
    NoColor { title: String, why: String },
    Body(serde_json::Error),
    Over(TryFromFloatSecsError),
    Followers,
    Path(PathRejection),
    Query(QueryRejection),
}

impl From<PathRejection> for Fault {
    fn from(rejection: PathRejection) -> Self {
        Fault::Path(rejection)
    }
}

impl From<QueryRejection> for Fault {
    fn from(rejection: QueryRejection) -> Self {
        Fault::Query(rejection)
    }
}

impl From<Gone> for Fault {
    fn from(_: Gone) -> Self {
        Fault::Gone
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Fault::Refused(refusal)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        match self {
            Fault::Gone => fault(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "bgproxy is shutting down"),
            Fault::NoService { title } => fault(StatusCode::NOT_FOUND, "unknown_service", &title),
            Fault::NoColor { title, why } => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_color", &title, Some(why))
            }
            Fault::Body(error) => {
                problem(StatusCode::BAD_REQUEST, "bad_request", "the request's JSON is wrong", Some(error.to_string()))
            }
            Fault::Over(error) => {
                let detail = Some(format!("`over`: {error}"));
                problem(StatusCode::BAD_REQUEST, "bad_request", "the request's JSON is wrong", detail)
            }
            Fault::Followers => {
                let title = "as many follow events here as may; the control socket has places of its own";
                fault(StatusCode::SERVICE_UNAVAILABLE, "too_many_followers", title)
            }
            Fault::Path(rejection) => {
                let detail = Some(rejection.body_text());
                problem(StatusCode::BAD_REQUEST, "bad_request", "the request's path is wrong", detail)
            }
            Fault::Query(rejection) => {
                let detail = Some(rejection.body_text());
                problem(StatusCode::BAD_REQUEST, "bad_request", "the request's query is wrong", detail)
            }
            Fault::Refused(refusal) => refused(&refusal),
        }
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::UnknownService(..) => StatusCode::NOT_FOUND,
        Refusal::UnknownColor(..) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::NoPrevious | Refusal::Busy(..) => StatusCode::CONFLICT,
        Refusal::OtherLive(_) | Refusal::OtherGeneration(_) => StatusCode::PRECONDITION_FAILED,
        Refusal::Unready(..) | Refusal::Abandoned => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::NotSaved(_) => StatusCode::INSUFFICIENT_STORAGE,
    };
    let probe = match refusal {
        Refusal::Unready(_, probe) => probe.clone(),
        _ => None,
    };
    let detail = match refusal {
        Refusal::NotSaved(_) => Some("nothing changed; mend the state directory and try again".to_owned()),
        _ => None,
    };
    let problem = Problem {
        status: status.as_u16(),
        reason: refusal.reason().to_owned(),
        title: refusal.to_string(),
        detail,
        probe,
    };
    answer(status, &problem)
}

fn fault(status: StatusCode, reason: &str, title: &str) -> Response {
    problem(status, reason, title, None)
}

fn problem(status: StatusCode, reason: &str, title: &str, detail: Option<String>) -> Response {
    let (reason, title) = (reason.to_owned(), title.to_owned());
    answer(status, &Problem { status: status.as_u16(), reason, title, detail, probe: None })
}

fn answer(status: StatusCode, problem: &Problem) -> Response {
    let text = serde_json::to_string(problem).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], text).into_response()
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(Fault::Body)
}

fn service_name(text: &str) -> Result<ServiceName, Fault> {
    let unknown = |_invalid| Fault::NoService { title: format!("there is no service `{text}`") };
    ServiceName::try_from(text.to_owned()).map_err(unknown)
}

fn color_name(text: &str) -> Result<Color, Fault> {
    Color::try_from(text.to_owned())
        .map_err(|invalid| Fault::NoColor { title: format!("there is no color `{text}`"), why: invalid.to_string() })
}
