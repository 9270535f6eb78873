//! What does the access log say of a request? What was noted when it began, and what it has come to.

use std::time::SystemTime;

use http::{HeaderValue, Version, header, request};

use super::super::access::Line;
use super::super::error::Reason;
use super::super::pool::Lane;
use super::Flight;

/// What only the record wants to know of a request's head.
#[derive(Debug)]
pub(super) struct Noted {
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    pub(super) request_id: Option<HeaderValue>,
}

impl Noted {
    /// Takes it down before the head goes on.
    pub(super) fn new(head: &request::Parts) -> Noted {
        let copy = |name| head.headers.get(name).cloned();
        Noted {
            version: head.version,
            host: match head.uri.authority() {
                Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
                None => copy(header::HOST),
            },
            user_agent: copy(header::USER_AGENT),
            referer: copy(header::REFERER),
            request_id: None,
        }
    }
}

impl Flight {
    /// Writes it down.
    pub(super) fn log(&self, noted: &Noted, lane: Option<&Lane>, seconds: f64, first_byte: Option<f64>) {
        fn bytes(value: &Option<HeaderValue>) -> Option<&[u8]> {
            value.as_ref().map(HeaderValue::as_bytes)
        }
        let target = self.target.path_and_query().map_or("*", |target| target.as_str());
        self.worker.log(&Line {
            time: SystemTime::now() - self.started.elapsed(),
            client: self.client.get(),
            method: self.method.as_str(),
            host: bytes(&noted.host).unwrap_or_default(),
            target: target.as_bytes(),
            protocol: match noted.version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2.0",
                _ => "HTTP/1.1",
            },
            status: self.status.get().as_u16(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            seconds,
            first_byte,
            service: lane.map(|lane| lane.backend.service.as_str()),
            color: lane.map(|lane| lane.backend.color.as_str()),
            generation: lane.map(|_| self.terms.get().generation),
            reason: self.reason.get().map(Reason::label),
            retries: self.retries.get(),
            request_id: bytes(&noted.request_id),
            user_agent: bytes(&noted.user_agent),
            referer: bytes(&noted.referer),
        });
    }
}
