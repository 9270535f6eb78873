//! HTTP/1.1 over the control socket: one connection per call, each with a deadline unless the daemon rules it.

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bgproxy_conf::wire::Problem;
use bgproxy_conf::{Color, ServiceName};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::fault::Fault;
use crate::sse;

/// How long the daemon may take over an answer that costs it nothing.
const QUICK: Duration = Duration::from_secs(10);

/// The largest answer taken; a status of a hundred services is a hundredth of it.
const LARGEST: usize = 16 << 20;

/// Where to call.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// An answer, read and as it came.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// What it says.
    pub(crate) value: T,
    /// The same, byte for byte.
    pub(crate) raw: Bytes,
}

/// What can be called.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Everything.
    Status,
    /// One service.
    Service(&'a ServiceName),
    /// A command to a service: `switch`, `rollback`, `preview`, `probe` or `close-streams`.
    Command(&'a ServiceName, &'static str),
    /// The long poll until a color is idle, or so many seconds have passed.
    Drain(&'a ServiceName, &'a Color, u64),
    /// What happened, to one service or to all.
    History(Option<&'a ServiceName>),
    /// What happens, to one service or to all.
    Events(Option<&'a ServiceName>),
    /// Reading the configuration again.
    Reload,
}

/// What an event stream brings.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The daemon has begun to tell.
    Opened,
    /// Something has happened: this, as JSON.
    Event(String),
}

impl fmt::Display for Target<'_> {
    // Nothing is percent-encoded: the alphabet of names and colors has nothing that would need it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Status => f.write_str("/v1/status"),
            Target::Service(service) => write!(f, "/v1/services/{service}"),
            Target::Command(service, command) => write!(f, "/v1/services/{service}/{command}"),
            Target::Drain(service, color, seconds) => {
                write!(f, "/v1/services/{service}/drain/{color}?timeout={seconds}")
            }
            Target::History(None) => f.write_str("/v1/history"),
            Target::History(Some(service)) => write!(f, "/v1/history?service={service}"),
            Target::Events(None) => f.write_str("/v1/events"),
            Target::Events(Some(service)) => write!(f, "/v1/events?service={service}"),
            Target::Reload => f.write_str("/v1/reload"),
        }
    }
}

impl Client {
    /// A client of the daemon that listens on `socket`.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Client { socket }
    }

    /// Asks for something that is there to be seen.
    pub(crate) async fn get<T: DeserializeOwned>(&self, target: Target<'_>) -> Result<Answer<T>, Fault> {
        let call = Call { method: Method::GET, path: target.to_string() };
        let limit = match target {
            Target::Drain(_, _, seconds) => QUICK + Duration::from_secs(seconds),
            _ => QUICK,
        };
        match tokio::time::timeout(limit, self.exchange(&call, None, collect)).await {
            Ok(reply) => call.read(reply?),
            Err(_) => Err(Fault::Deadline {
                title: format!("the daemon did not answer {call} within {} s", limit.as_secs()),
                detail: None,
                hint: Some("is it overloaded or stopped? (systemctl status bgproxy)".into()),
            }),
        }
    }

    /// Asks for a change, or for a question to a backend; how long that takes is the daemon's to say.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        target: Target<'_>,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Fault> {
        let call = Call { method: Method::POST, path: target.to_string() };
        let body = serde_json::to_vec(body).map_err(|fault| call.odd(fault.to_string()))?;
        let reply = self.exchange(&call, Some(body.into()), collect).await?;
        call.read(reply)
    }

    /// Reads an event stream until it ends, from the event after `last` on, and moves `last` along.
    pub(crate) async fn events(
        &self,
        target: Target<'_>,
        last: &mut String,
        mut hear: impl FnMut(Heard) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let call = Call { method: Method::GET, path: target.to_string() };
        let from = HeaderValue::from_str(last).ok().filter(|_| !last.is_empty());
        let follow = async |response: Response<Incoming>| {
            if response.status() != StatusCode::OK {
                let reply = collect(response).await.map_err(|source| call.lost(source))?;
                return call.read::<serde::de::IgnoredAny>(reply).map(|_| ());
            }
            hear(Heard::Opened)?;
            let mut body = response.into_body();
            let mut parser = sse::Parser::default();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|source| call.lost(source.into()))?;
                let Some(bytes) = frame.data_ref() else { continue };
                for event in parser.push(bytes).map_err(|why| call.odd(why.to_string()))? {
                    hear(Heard::Event(event))?;
                }
                if !parser.last_id().is_empty() {
                    parser.last_id().clone_into(last);
                }
            }
            Ok(())
        };
        let mut request = call.request(None)?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(from) = from {
            request.headers_mut().insert("last-event-id", from);
        }
        self.send(&call, request, follow).await?
    }

    async fn exchange<T>(
        &self,
        call: &Call,
        body: Option<Bytes>,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Cause>,
    ) -> Result<T, Fault> {
        let request = call.request(body)?;
        self.send(call, request, read).await?.map_err(|source| call.lost(source))
    }

    async fn send<T>(
        &self,
        call: &Call,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(Response<Incoming>) -> T,
    ) -> Result<T, Fault> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| Fault::Unreachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| call.lost(source.into()))?;
        let talk = async move {
            let response = sender.send_request(request).await.map_err(|source| call.lost(source.into()))?;
            Ok(read(response).await)
        };
        // The connection is driven beside the talk, in the same task: when the talk is over or given up, both are gone.
        let (mut talk, connection) = (pin!(talk), pin!(connection));
        tokio::select! {
            biased;
            done = &mut talk => done,
            // The talk hears of the connection's end by itself, after it has read what came before.
            _ = connection => talk.await,
        }
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// One call, as messages name it.
struct Call {
    method: Method,
    path: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Call {
    fn request(&self, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, Fault> {
        let request = Request::builder().method(&self.method).uri(&self.path).header(header::HOST, "bgproxy");
        let request = match body {
            Some(_) => request.header(header::CONTENT_TYPE, "application/json"),
            None => request,
        };
        request.body(Full::new(body.unwrap_or_default())).map_err(|fault| self.odd(fault.to_string()))
    }

    fn read<T: DeserializeOwned>(&self, (status, raw): (StatusCode, Bytes)) -> Result<Answer<T>, Fault> {
        if status.is_success() {
            return match serde_json::from_slice(&raw) {
                Ok(value) => Ok(Answer { value, raw }),
                Err(fault) => Err(self.odd(fault.to_string())),
            };
        }
        match serde_json::from_slice(&raw) {
            Ok(problem) => Err(Fault::Problem { problem: Box::<Problem>::new(problem), raw }),
            Err(_) => Err(self.odd(status.to_string())),
        }
    }

    fn lost(&self, source: Cause) -> Fault {
        Fault::Lost { call: self.to_string(), mutates: self.method == Method::POST, source }
    }

    fn odd(&self, why: String) -> Fault {
        Fault::Odd { call: self.to_string(), why }
    }
}

async fn collect(response: Response<Incoming>) -> Result<(StatusCode, Bytes), Cause> {
    let (head, body) = response.into_parts();
    Ok((head.status, Limited::new(body, LARGEST).collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_paths_of_the_api() {
        let (portal, blue) = ("portal".parse().unwrap(), Color::blue());
        for (target, path) in [
            (Target::Status, "/v1/status"),
            (Target::Service(&portal), "/v1/services/portal"),
            (Target::Command(&portal, "switch"), "/v1/services/portal/switch"),
            (Target::Drain(&portal, &blue, 5), "/v1/services/portal/drain/blue?timeout=5"),
            (Target::History(None), "/v1/history"),
            (Target::History(Some(&portal)), "/v1/history?service=portal"),
            (Target::Events(None), "/v1/events"),
            (Target::Events(Some(&portal)), "/v1/events?service=portal"),
            (Target::Reload, "/v1/reload"),
        ] {
            assert_eq!(target.to_string(), path);
        }
    }

    #[test]
    fn an_error_that_is_no_problem_document_is_told_by_its_status() {
        let call = Call { method: Method::GET, path: "/v1/status".into() };
        let reply = (StatusCode::NOT_FOUND, Bytes::from_static(b"not here"));
        let fault = call.read::<Problem>(reply).unwrap_err();
        assert_eq!(fault.to_string(), "cannot make sense of the daemon's answer to GET /v1/status: 404 Not Found");
    }
}
