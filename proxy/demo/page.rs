//! What does a demo backend answer? A page with its color on it, and what else shows how the door treats requests.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bgproxy_conf::Color;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};

use super::tunnel;

/// The page that each color shows, with `{...}` to be filled in.
const PAGE: &str = include_str!("page.html");

/// The longest a request to `/slow` takes.
const SLOWEST: f64 = 60.0;

pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// What a backend tells about itself.
#[derive(Debug)]
pub(super) struct Face {
    color: Color,
    requests: AtomicU64,
}

// === impl Face ===

impl Face {
    pub(super) fn new(color: Color) -> Face {
        Face { color, requests: AtomicU64::new(0) }
    }

    pub(super) fn color(&self) -> &Color {
        &self.color
    }

    /// Answers a request, whatever it is.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let mut response = match (method.as_str(), request.uri().path()) {
            ("GET", "/") => answer("text/html; charset=utf-8", self.page(request.headers(), count)),
            ("GET", "/text") => text(StatusCode::OK, format!("{}\n", self.color)),
            ("GET", "/health") => text(StatusCode::OK, "ready\n".to_owned()),
            ("GET", "/slow") => self.slow(request.uri().query()).await,
            ("GET", "/events") => self.events(),
            ("GET", "/tunnel") => tunnel::open(request, self.color.clone()),
            ("POST", "/echo") => echo(request),
            _ => text(StatusCode::NOT_FOUND, format!("{} has nothing here\n", self.color)),
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(color) = HeaderValue::from_str(self.color.as_str()) {
            headers.insert("x-color", color);
        }
        response
    }

    fn page(&self, headers: &HeaderMap, count: u64) -> String {
        let mut rows = String::new();
        for name in ["host", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"] {
            let values: Vec<_> = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
            let shown = if values.is_empty() { "-".to_owned() } else { escaped(&values.join(", ")) };
            // Writing to a String cannot fail.
            let _ = write!(rows, "<dt>{name}</dt><dd>{shown}</dd>");
        }
        // What the client sent goes in last: a `{color}` in it stays what it is.
        PAGE.replace("{color}", self.color.as_str()).replace("{count}", &count.to_string()).replace("{rows}", &rows)
    }

    async fn slow(&self, query: Option<&str>) -> Response<Body> {
        match slow_seconds(query) {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                text(StatusCode::OK, format!("{} after {} s\n", self.color, wait.as_secs_f64()))
            }
            None => text(StatusCode::BAD_REQUEST, "seconds must be a number, such as /slow?seconds=10\n".to_owned()),
        }
    }

    /// One event per second, without end.
    fn events(&self) -> Response<Body> {
        let ticks = stream::unfold(
            (tokio::time::interval(Duration::from_secs(1)), self.color.clone(), 1_u64),
            async |(mut interval, color, n)| {
                interval.tick().await;
                let event = format!("id: {n}\ndata: {color}\n\n");
                Some((Ok(Frame::data(Bytes::from(event))), (interval, color, n + 1)))
            },
        );
        with_type("text/event-stream", StreamBody::new(ticks).boxed_unsync())
    }
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body().boxed_unsync());
    response.headers_mut().extend(kind.map(|kind| (CONTENT_TYPE, kind)));
    response
}

/// How long `/slow` takes: 10 seconds unless it says `seconds=...`; none when that is no number.
pub(super) fn slow_seconds(query: Option<&str>) -> Option<Duration> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let seconds = pairs.find(|(key, _)| *key == "seconds").map_or(Ok(10.0), |(_, value)| value.parse::<f64>()).ok()?;
    // `clamp` lets NaN through, and a duration cannot be made of it.
    (!seconds.is_nan()).then(|| Duration::from_secs_f64(seconds.clamp(0.0, SLOWEST)))
}

pub(super) fn text(status: StatusCode, words: String) -> Response<Body> {
    let mut response = answer("text/plain; charset=utf-8", words);
    *response.status_mut() = status;
    response
}

fn answer(kind: &'static str, words: String) -> Response<Body> {
    with_type(kind, Full::new(Bytes::from(words)).map_err(|never| match never {}).boxed_unsync())
}

fn with_type(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
