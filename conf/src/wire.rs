//! What the control socket speaks: the JSON of every request, reply and event of `/v1`, shared by daemon and `bgctl`.
//!
//! Times are RFC 3339 in UTC, durations are seconds as numbers. Fields are only ever added; readers ignore what they
//! do not know.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{Color, Host, ServiceName};

/// `GET /v1/status`: everything an operator wants to see at one glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version and commit of the daemon, as `bgproxy --version` prints them.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// When it started.
    pub started: String,
    /// Worker threads.
    pub workers: usize,
    /// Addresses clients connect to, with the port really taken.
    pub listen: Vec<String>,
    /// Address of the admin listener, with the port really taken.
    pub admin: String,
    /// Path of the configuration file; none when the built-in default runs.
    pub config: Option<String>,
    /// The last reload, if there was one.
    pub last_reload: Option<Reload>,
    /// Client connections open now.
    pub connections: u64,
    /// How near clients are to the door's limits, and what was refused because of them lately.
    #[serde(default)]
    pub limits: LimitsStatus,
    /// The certificates in use, in the order of the configuration; those that bgproxy fetched come last.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// The hosts whose certificates bgproxy fetches by itself, in the order of the configuration.
    #[serde(default)]
    pub acme: Vec<AcmeStatus>,
    /// Every service, by name.
    pub services: BTreeMap<ServiceName, ServiceStatus>,
}

/// How near clients are to the door's limits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LimitsStatus {
    /// Client connections that may be open: `limits.connections`.
    pub connections: u64,
    /// What was refused in the last 60 seconds.
    pub last_minute: Refused,
    /// Whether a connection found no descriptor in the last 60 seconds, of those that clients and backends may have.
    pub out_of_descriptors: bool,
}

impl LimitsStatus {
    /// Whether there is nothing to look at, with so many connections open: nothing was refused lately, and of ten
    /// places more than one is free.
    pub fn is_calm(&self, open: u64) -> bool {
        !self.is_near(open) && self.last_minute == Refused::default() && !self.out_of_descriptors
    }

    /// Whether nearly all places are taken. (An older daemon does not say how many there are.)
    pub fn is_near(&self, open: u64) -> bool {
        self.connections > 0 && open.saturating_mul(10) >= self.connections.saturating_mul(9)
    }
}

/// What was refused because of limits, by the reasons that metrics and logs use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Refused {
    /// Requests answered with 429.
    pub rate_limited: u64,
    /// Connections reset because their address had too many.
    pub too_many_connections: u64,
    /// Idle connections closed because others needed their places.
    pub reclaimed: u64,
    /// The newest address that asked for too much or had too many.
    pub address: Option<String>,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateStatus {
    /// Path of the certificate, as configured.
    pub cert: String,
    /// The names it is made for.
    pub names: Vec<String>,
    /// When it expires.
    pub not_after: String,
    /// Whole days until then; negative when it has expired.
    pub days_left: i64,
    /// What is wrong with the files on disk, if anything; the certificate is the one from before.
    pub fault: Option<String>,
}

impl CertificateStatus {
    /// A certificate with fewer days left than this is spoken about: in the log, and by bgctl. A good client of an
    /// authority has replaced it by then.
    pub const DAYS_CALM: i64 = 21;
}

/// A host whose certificate bgproxy fetches by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AcmeStatus {
    /// The host.
    pub host: Host,
    /// Path of its certificate, as `certificates` has it when there is one.
    pub cert: String,
    /// Whether there is one, in use.
    pub in_use: bool,
    /// When the next one is asked for, if not at once.
    pub next: Option<String>,
    /// Tries that failed since the last one that did not.
    pub failures: u32,
    /// Why the last try failed.
    pub fault: Option<String>,
}

/// `GET /v1/services/{s}`: one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Grows by one with every change of where the service's requests go.
    pub generation: u64,
    /// The color that serves everybody.
    pub live: Color,
    /// The color that testers reach; equals live outside a deployment.
    pub preview: Color,
    /// The color that was live before: where `rollback` leads.
    pub previous: Option<Color>,
    /// What is going on right now.
    pub phase: Phase,
    /// Every color.
    pub colors: BTreeMap<Color, ColorStatus>,
    /// The live file, when there is one.
    pub live_file: Option<LiveFileStatus>,
}

/// What is going on in a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Phase {
    /// Nothing: one color is live and nothing drains.
    Steady,
    /// A switch asks the color whether it is ready.
    Probing {
        /// The color that shall become live.
        to: Color,
        /// Answers in a row so far.
        passed: u32,
        /// Answers in a row needed.
        passes: u32,
    },
    /// A switch is being saved, published and fenced: a matter of milliseconds.
    Switching {
        /// The color that becomes live.
        to: Color,
    },
    /// The switch is done; an old color's requests are finishing.
    Draining {
        /// The color that drains.
        from: Color,
        /// Requests left.
        left: u64,
        /// Streams left.
        streams: u64,
        /// Seconds until what is left is cut.
        deadline_in: f64,
    },
}

/// One color of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ColorStatus {
    /// Where it is: a socket path or `host:port`.
    pub address: String,
    /// What it is right now.
    pub role: Role,
    /// The newest probe's answer; none before the first.
    pub ready: Option<ProbeReport>,
    /// Requests in flight.
    pub in_flight: u64,
    /// Streams open: what may go on long after a switch.
    pub streams: u64,
    /// The same by kind.
    #[serde(default)]
    pub streams_by_kind: StreamsByKind,
    /// The age of the oldest of them in seconds, once that is known.
    #[serde(default)]
    pub oldest_stream: Option<f64>,
    /// Requests finished since the daemon started.
    pub finished: u64,
    /// Requests failed since the daemon started.
    pub failed: u64,
}

/// Streams by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamsByKind {
    /// Tunnels: what was upgraded, such as websockets.
    pub tunnels: u64,
    /// Event streams.
    pub events: u64,
    /// Answers that outlived a drain's deadline.
    pub downloads: u64,
}

/// What a color is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Serves everybody.
    Live,
    /// Serves testers.
    Preview,
    /// Was live and finishes what it began.
    Draining,
    /// Neither.
    Idle,
}

/// The state of a service's live file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveFileStatus {
    /// Its path.
    pub path: String,
    /// What is wrong with it, if anything: nonsense content, not writable.
    pub fault: Option<String>,
}

/// One answered (or failed) probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeReport {
    /// Whether the color may go live.
    pub ready: bool,
    /// When it was asked.
    pub at: String,
    /// HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// Why it is unready: the stable name that metrics and logs use too, such as `socket_missing`.
    pub reason: Option<String>,
    /// The same for people: errno, status, the first bytes of the answer.
    pub detail: Option<String>,
    /// Seconds it took.
    pub seconds: f64,
}

/// `POST /v1/services/{s}/switch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchRequest {
    /// The color to make live.
    pub to: Color,
    /// Do not ask whether it is ready.
    #[serde(default)]
    pub force: bool,
    /// Reply after the drain, with the receipt, instead of after the fence.
    #[serde(default)]
    pub wait: bool,
    /// Refuse unless this color is live.
    #[serde(default)]
    pub expect_live: Option<Color>,
    /// Refuse unless this is the service's generation.
    #[serde(default)]
    pub expect_generation: Option<u64>,
}

/// `POST /v1/services/{s}/rollback`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackRequest {
    /// Do not ask whether the color is ready.
    pub force: bool,
    /// Reply after the drain.
    pub wait: bool,
    /// Refuse unless this color is live.
    pub expect_live: Option<Color>,
    /// Refuse unless this is the service's generation.
    pub expect_generation: Option<u64>,
}

/// `POST /v1/services/{s}/preview`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// The color testers shall reach.
    pub color: Color,
    /// Do not ask whether it is ready.
    #[serde(default)]
    pub force: bool,
    /// Refuse unless this is the service's generation.
    #[serde(default)]
    pub expect_generation: Option<u64>,
}

/// `POST /v1/services/{s}/probe`: asks a color once whether it is ready. Answered by a [`ProbeReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeRequest {
    /// The color to ask.
    pub color: Color,
}

/// The reply to switch, rollback and preview. It is a promise: after it no new request reaches the old color.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SwitchReply {
    /// The service.
    pub service: ServiceName,
    /// Its generation now.
    pub generation: u64,
    /// The live color before.
    pub from: Color,
    /// The live color now.
    pub to: Color,
    /// The preview color now.
    pub preview: Color,
    /// False when it was so already and nothing changed.
    pub changed: bool,
    /// Seconds from the command to the fence's end.
    pub seconds: f64,
    /// The receipt of the drain, when the reply waited for it.
    pub receipt: Option<Receipt>,
}

/// What a drain reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The generation whose publication started the drain.
    pub generation: u64,
    /// The color that drained.
    pub from: Color,
    /// The color that became live.
    pub to: Color,
    /// How the drain ended.
    pub outcome: DrainOutcome,
    /// Requests the old color answered during its term as live, up to the end of the drain.
    pub served: u64,
    /// Requests in flight on the old color when the fence was complete.
    pub in_flight: u64,
    /// Those of them that finished.
    pub finished: u64,
    /// Those of them that the new color took over: their first try had reached nobody.
    pub moved: u64,
    /// Those of them that failed by themselves: client gone, backend trouble.
    pub failed: u64,
    /// How many of them were cut at the deadline.
    pub cut_total: u64,
    /// Which: the oldest 100 of them.
    pub cut: Vec<CutRequest>,
    /// Answers that had begun at the deadline: they go on, as streams.
    #[serde(default)]
    pub streams_kept: u64,
    /// Streams still open on the old color.
    pub streams_left: u64,
    /// Seconds from the fence to the end of the drain.
    pub seconds: f64,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainOutcome {
    /// Nothing was cut: every request has ended, or goes on as a stream.
    Drained,
    /// The deadline passed; requests without an answer were cut.
    Cut,
    /// The color became live or preview again before it was drained.
    Resumed,
}

/// A request that was cut at the drain's deadline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CutRequest {
    /// Its method.
    pub method: String,
    /// Its target, at most 256 bytes of it.
    pub path: String,
    /// Its age in seconds.
    pub age: f64,
}

/// `GET /v1/services/{s}/drain/{color}`: answered when the color is idle, or after `timeout` seconds (query).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IdleReply {
    /// True when the color is neither live nor preview and has no request and no stream.
    pub idle: bool,
    /// What it is.
    pub role: Role,
    /// Requests in flight.
    pub in_flight: u64,
    /// Streams open.
    pub streams: u64,
}

/// `POST /v1/services/{s}/close-streams`: ends the streams of a color that are open now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseStreamsRequest {
    /// The color.
    pub color: Color,
    /// Evenly over so many seconds; left out, the service's `streams.spread`.
    #[serde(default)]
    pub over: Option<f64>,
}

/// The reply: from now on they are told to leave, one by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloseStreamsReply {
    /// The service.
    pub service: ServiceName,
    /// The color.
    pub color: Color,
    /// How many streams will end.
    pub closing: u64,
    /// Seconds until the last of them is told; more than asked for where `streams.per_second` allows no less.
    pub seconds: f64,
}

/// `GET /v1/history`: what happened, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// At most 50 entries per service.
    pub entries: Vec<HistoryEntry>,
}

/// One command and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// When it was decided.
    pub at: String,
    /// The service.
    pub service: ServiceName,
    /// The generation it made.
    pub generation: u64,
    /// What was asked.
    pub action: Action,
    /// Live (for a preview: preview) before.
    pub from: Color,
    /// Live (for a preview: preview) after.
    pub to: Color,
    /// Whether the probe was skipped.
    pub forced: bool,
    /// Who asked, such as `uid 1000 (deploy) pid 4711` or `live file`.
    pub by: String,
    /// The receipt, once the drain has ended.
    pub receipt: Option<Receipt>,
}

/// What can be asked of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Make another color live.
    Switch,
    /// Make the previous color live.
    Rollback,
    /// Let testers reach another color.
    Preview,
}

/// `POST /v1/reload`, and what the last reload did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reload {
    /// When.
    pub at: String,
    /// Whether the new configuration is in use.
    pub ok: bool,
    /// What is wrong with it otherwise; the old one stays in use.
    pub fault: Option<String>,
    /// Keys that changed and take effect only after a restart.
    pub needs_restart: Vec<String>,
}

/// One event of `GET /v1/events` (SSE: `id` is [`Event::id`], `event` is the kind, `data` is this as JSON).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Grows by one; send it as `Last-Event-ID` to go on from there.
    pub id: u64,
    /// When.
    pub at: String,
    /// The service it is about, if it is about one.
    pub service: Option<ServiceName>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A switch began to ask the color.
    Probing {
        /// The color asked.
        to: Color,
    },
    /// A switch was refused or failed; nothing changed.
    Refused {
        /// The stable name of why.
        reason: String,
        /// For people.
        detail: String,
        /// Who asked.
        by: String,
    },
    /// A color became live; the fence is complete.
    Switched {
        /// The new generation.
        generation: u64,
        /// Live before.
        from: Color,
        /// Live now.
        to: Color,
        /// Who asked.
        by: String,
    },
    /// The preview color changed.
    Previewed {
        /// The new generation.
        generation: u64,
        /// The preview color now.
        color: Color,
        /// Who asked.
        by: String,
    },
    /// A drain ended.
    Drained(Receipt),
    /// Streams of a color are being ended, one by one.
    ClosingStreams {
        /// The color.
        color: Color,
        /// How many.
        streams: u64,
        /// Seconds until the last of them is told.
        seconds: f64,
        /// Who asked; `streams.keep` when their time was over.
        by: String,
    },
    /// A color's readiness changed.
    Readiness {
        /// The color.
        color: Color,
        /// The probe that showed it.
        probe: ProbeReport,
    },
    /// A backend's socket is another one than before: a new container, or gone.
    Socket {
        /// The color.
        color: Color,
        /// True when there is a socket now.
        present: bool,
    },
    /// The live file holds nonsense, or cannot be written.
    LiveFile {
        /// What is wrong.
        fault: String,
    },
    /// The files of a certificate are other ones than before.
    Certificate {
        /// Path of the certificate, as configured.
        cert: String,
        /// None when they are in use now; otherwise what is wrong with them: what was in use stays so.
        fault: Option<String>,
    },
    /// The configuration was read again.
    Reloaded {
        /// What the reload did. Not spread out like the others: its `at` would collide with the event's own.
        reload: Reload,
    },
}

/// Every error reply, as RFC 9457 problem details (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// The stable name of what is wrong, such as `unknown_color` or `unready`.
    pub reason: String,
    /// One line for people.
    pub title: String,
    /// More for people: what was found, what to do.
    pub detail: Option<String>,
    /// The last probe, when `reason` is `unready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeReport>,
}

#[cfg(test)]
mod tests;
