//! What failed? Every way a request can fail, with its status, its name and its Proxy-Status: decided here alone.
//!
//! The name ([`Reason::label`]) is the same in the answer's `Proxy-Status` details, the access log, the metrics and
//! docs/failures.md.

use std::fmt;
use std::io;

use http::StatusCode;

use super::incoming::Broken;

/// One row per reason: its name, the status answered, the error type of RFC 9209 (section 2.3), one sentence.
macro_rules! reasons {
    ($($reason:ident = $label:literal, $status:literal, $proxy_error:literal, $sentence:literal;)*) => {
        /// Why a request was not answered by a backend, or not to the end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $sentence] $reason,)*
        }

        impl Reason {
            /// Every reason, in the order of their declaration.
            pub const ALL: [Reason; [$($label),*].len()] = [$(Reason::$reason),*];

            fn facts(self) -> (&'static str, u16, &'static str, &'static str) {
                match self {
                    $(Reason::$reason => ($label, $status, $proxy_error, $sentence),)*
                }
            }
        }
    };
}

reasons! {
    // The client's doing.
    HeadMalformed = "head_malformed", 400, "http_request_error", "the request head is malformed";
    HeadTooLarge = "head_too_large", 431, "http_request_error", "the request head is too large";
    TargetTooLong = "target_too_long", 414, "http_request_error", "the request target is too long";
    HeadTimeout = "head_timeout", 408, "http_request_error", "the request head came too slowly";
    HostMissing = "host_missing", 400, "http_request_error", "the Host header is missing";
    HostInvalid = "host_invalid", 400, "http_request_error", "the Host header is not a host";
    HostSeveral = "host_several", 400, "http_request_error", "there is more than one Host header";
    HostsDiffer = "hosts_differ", 400, "http_request_error", "the target's authority and the Host header differ";
    TargetInvalid = "target_invalid", 400, "http_request_error", "the request target is not a path";
    MethodRefused = "method_refused", 405, "http_request_denied", "the method is not served here";
    UpgradeRefused = "upgrade_refused", 501, "http_request_denied", "the protocol is not served here";
    CodingUnknown = "coding_unknown", 501, "http_request_error", "the transfer coding is not supported";
    ExpectationUnknown = "expectation_unknown", 417, "http_request_error", "the expectation cannot be met";
    BodyTooLarge = "body_too_large", 413, "http_request_error", "the request body is too large";
    BodyMalformed = "body_malformed", 400, "http_request_error", "the request body is malformed";
    BodyTimeout = "body_timeout", 408, "http_request_error", "the request body came too slowly";
    ClientTimeout = "client_timeout", 499, "http_request_error", "the client took the answer too slowly";
    ClientGone = "client_gone", 499, "http_request_error", "the client went away";
    RateLimited = "rate_limited", 429, "http_request_denied", "there are too many requests from this address";
    AddressDenied = "address_denied", 403, "http_request_denied", "this address is not served here";
    // Nobody's.
    NoRoute = "no_route", 404, "destination_not_found", "no service is configured for this address";
    TunnelIdle = "tunnel_idle", 499, "connection_read_timeout", "nothing passed through the tunnel for too long";
    // The backend's.
    SocketMissing = "socket_missing", 502, "destination_unavailable", "the backend's socket does not exist";
    SocketRefused = "socket_refused", 502, "connection_refused", "nobody listens on the backend";
    SocketDenied = "socket_denied", 502, "destination_unavailable", "no permission to connect to the backend";
    BacklogFull = "backlog_full", 503, "connection_limit_reached", "the backend's backlog is full";
    ConnectFailed = "connect_failed", 502, "destination_unavailable", "connecting failed";
    ConnectTimeout = "connect_timeout", 504, "connection_timeout", "connecting took too long";
    BackendReset = "backend_reset", 502, "connection_terminated", "the backend reset the connection before answering";
    BackendClosed = "backend_closed", 502, "connection_terminated", "the backend closed the connection before answering";
    BackendMalformed = "backend_malformed", 502, "http_protocol_error", "the backend's answer is malformed";
    BackendFlood = "backend_flood", 502, "http_protocol_error", "the backend sends what nobody wants, without end";
    BackendTruncated = "backend_truncated", 502, "http_response_incomplete", "the backend's answer broke off";
    BackendStalled = "backend_stalled", 504, "connection_read_timeout", "the backend's answer stopped flowing";
    ResponseTimeout = "response_timeout", 504, "http_response_timeout", "the backend took too long to answer";
    // Ours.
    DrainCut = "drain_cut", 503, "connection_terminated", "the request outlived the drain's deadline";
    StreamEnded = "stream_ended", 503, "connection_terminated", "the stream's time was over after a switch";
    ShutdownCut = "shutdown_cut", 503, "connection_terminated", "the request outlived the shutdown's deadline";
    Internal = "internal", 500, "proxy_internal_error", "bgproxy failed; please report it";
}

impl Reason {
    /// The stable name.
    pub fn label(self) -> &'static str {
        self.facts().0
    }

    /// The status answered while no answer has begun; 499 is for the log only.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.facts().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The error type of RFC 9209, section 2.3.
    pub fn proxy_error(self) -> &'static str {
        self.facts().2
    }

    /// One sentence for people.
    pub fn sentence(self) -> &'static str {
        self.facts().3
    }

    /// Whether the client may sensibly try again in a moment.
    pub fn retry_after(self) -> Option<&'static str> {
        // However low the limit, an address gets at least one more request each second.
        matches!(self, Reason::RateLimited | Reason::BacklogFull | Reason::DrainCut | Reason::ShutdownCut)
            .then_some("1")
    }

    /// Whether the client's connection cannot be trusted to be between two requests any more.
    pub fn closes(self) -> bool {
        !matches!(self.status().as_u16(), 403 | 404 | 429 | 502 | 503 | 504)
    }

    /// Whether the backend is to blame, which operators want to hear about.
    pub fn blames_backend(self) -> bool {
        (Reason::SocketMissing as u8..=Reason::ResponseTimeout as u8).contains(&(self as u8))
    }
}

/// A failed request: why, and the error underneath if there was one.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// The error underneath.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Failure { reason, source: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.sentence())?;
        match &self.source {
            Some(source) => write!(f, ": {}", Chain(source.as_ref())),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// An error with all its causes on one line.
struct Chain<'e>(&'e (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

impl Failure {
    /// Connecting to a backend failed: every errno of a unix or TCP socket has its own meaning.
    pub fn connect(error: io::Error) -> Failure {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => Reason::SocketMissing,
            io::ErrorKind::ConnectionRefused => Reason::SocketRefused,
            io::ErrorKind::PermissionDenied => Reason::SocketDenied,
            // A full unix backlog answers EAGAIN at once.
            io::ErrorKind::WouldBlock => Reason::BacklogFull,
            io::ErrorKind::TimedOut => Reason::ConnectTimeout,
            _ => Reason::ConnectFailed,
        };
        Failure { reason, source: Some(error.into()) }
    }

    /// Sending a request by HTTP/2, or waiting for the answer's head, failed; `reset` tells what the socket saw.
    pub fn exchange_http2(error: h2::Error, reset: bool) -> Failure {
        let reason = if error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
            // h2 has limits of its own, and has told the backend.
            Reason::BackendFlood
        } else if error.is_library() {
            Reason::BackendMalformed
        } else if error.is_reset() || (error.is_io() && reset) {
            Reason::BackendReset
        } else if error.is_io() || error.is_go_away() {
            Reason::BackendClosed
        } else {
            // Not the wire's doing: h2 did not like what it was asked to send.
            Reason::Internal
        };
        Failure { reason, source: Some(error.into()) }
    }
}

impl Reason {
    /// Why a request's body broke off: it is malformed, or the client left in the middle of it.
    pub fn of_upload(error: &Broken) -> Reason {
        if error.is_malformed() { Reason::BodyMalformed } else { Reason::ClientGone }
    }
}

/// Which client error hyper's own answer (which we replace) stood for.
pub fn of_hyper_status(status: u16) -> Reason {
    match status {
        431 => Reason::HeadTooLarge,
        414 => Reason::TargetTooLong,
        _ => Reason::HeadMalformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, HashSet};

    #[test]
    fn every_reason_is_listed_once_and_has_a_name_of_its_own() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{} is out of order", reason.label());
        }
        assert_eq!(Reason::Internal as usize + 1, Reason::ALL.len());
    }

    #[test]
    fn the_failures_page_names_every_reason_with_its_status() {
        let page = include_str!("../../docs/failures.md");
        for reason in Reason::ALL {
            let row = format!("| `{}` | {} |", reason.label(), reason.status().as_u16());
            assert!(page.contains(&row), "docs/failures.md lacks the row {row}");
        }
    }

    #[test]
    fn the_configuration_knows_every_status_that_is_answered() {
        let answered: BTreeSet<u16> = Reason::ALL.iter().map(|reason| reason.status().as_u16()).collect();
        let known: BTreeSet<u16> = bgproxy_conf::check::ANSWERED.into_iter().chain([499]).collect();
        assert_eq!(answered, known);
    }

    #[test]
    fn unix_errors_are_told_apart() {
        let of = |errno: rustix::io::Errno| Failure::connect(io::Error::from_raw_os_error(errno.raw_os_error())).reason;
        assert_eq!(of(rustix::io::Errno::NOENT), Reason::SocketMissing);
        assert_eq!(of(rustix::io::Errno::CONNREFUSED), Reason::SocketRefused);
        assert_eq!(of(rustix::io::Errno::ACCESS), Reason::SocketDenied);
        assert_eq!(of(rustix::io::Errno::AGAIN), Reason::BacklogFull);
        assert_eq!(of(rustix::io::Errno::TIMEDOUT), Reason::ConnectTimeout);
        assert_eq!(of(rustix::io::Errno::MFILE), Reason::ConnectFailed);
    }
}
