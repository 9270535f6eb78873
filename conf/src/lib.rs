//! What both binaries agree on: the configuration file ([`Config`]) and the words spoken over the control socket
//! ([`wire`]).
//!
//! The doc comments of [`Config`] and the structs below it are the reference manual of the file; `bgproxy schema`
//! prints them as JSON Schema, and `conf/bgproxy.toml` is the commented example, proved equal to the defaults by a
//! test. Bad values cannot be built ([`types`]), rules between keys live in [`check`] alone, and every fault is shown
//! by one renderer ([`error`]).

pub mod check;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod types;
pub mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use types::{
    Address, Bytes, Color, ErrorStatus, Host, PathPrefix, Principal, Seconds, ServiceName, StatusRanges, UpgradeToken,
    Workers,
};

/// Where the configuration is read from when no `-c` is given.
pub const DEFAULT_PATH: &str = "/etc/bgproxy/bgproxy.toml";

/// The whole configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Worker threads, each with its own listening sockets and backend connections: `"auto"` (one per core) or a
    /// number. A change needs a restart.
    pub workers: Workers,
    /// The addresses clients connect to. A change needs a restart.
    pub listen: Vec<Listen>,
    /// Certificates of the TLS listeners. A client that names a host gets the one made for it (exact before wildcard),
    /// everybody else the first. New files in their places are in use within a second.
    pub certificate: Vec<Certificate>,
    /// Certificates that bgproxy fetches from an authority, and renews in time (ACME, RFC 8555).
    pub acme: Acme,
    /// The control socket, which `bgctl` talks to.
    pub control: Control,
    /// The HTTP listener for metrics, health and the status page.
    pub admin: Admin,
    /// What survives a restart.
    pub state: State,
    /// Whom we believe about who the client is.
    pub trusted: Trusted,
    /// What one client may cost.
    pub limits: Limits,
    /// Pages in place of those that the door itself answers with, by status: `502 = "/etc/bgproxy/502.html"`. They are
    /// read at the start, at a reload and when they change; `.html`, `.json` or `.txt`, UTF-8, at most 64 KiB each. A
    /// client that asks for another kind of text gets that, built in.
    pub error_pages: BTreeMap<ErrorStatus, PathBuf>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// The operator's log and the access log.
    pub log: Log,
    /// The services, by name. Without any there is one called `default`, for every host, with blue and green at
    /// `/var/run/nginx/{blue,green}/nginx.sock`.
    pub service: BTreeMap<ServiceName, Service>,
}

/// One address clients connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// IP address and port, such as `"0.0.0.0:80"` or `"[::]:80"`. Port 0 takes a free one (`bgctl status` shows it).
    pub address: SocketAddr,
    /// TLS 1.2 and 1.3 with the certificates of `[[certificate]]` and `[acme]`; HTTP/2 for clients that ask for it
    /// (ALPN).
    #[serde(default)]
    pub tls: bool,
    /// PEM file of the authorities whose client certificates are demanded here, with `tls` only. Backends are told the
    /// verified subject in `X-Client-Cert-Subject`.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Answers every request with 308 to `https://`, except `/.well-known/acme-challenge/`; without `tls` only.
    #[serde(default)]
    pub redirect_https: bool,
    /// HTTP/2 in clear for clients that begin with it (prior knowledge); without `tls` only.
    #[serde(default = "yes")]
    pub h2c: bool,
    /// Whether connections begin with a PROXY protocol header (version 1 or 2), which says who the client is:
    /// `"off"` or `"required"`. It is taken from `trusted.proxies` only; others are turned away.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
}

/// Whether connections begin with a PROXY protocol header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// None does.
    #[default]
    Off,
    /// Every one does.
    Required,
}

/// A certificate and its private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file: the certificate, then those that lead to its authority.
    pub cert: PathBuf,
    /// PEM file: its private key (PKCS #8, SEC 1 or PKCS #1), which nobody but the daemon's user should be able to
    /// read.
    pub key: PathBuf,
}

/// Certificates that bgproxy fetches from an authority, and renews in time (ACME, RFC 8555). They come after those of
/// `[[certificate]]`, and are kept in `state.dir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    /// Exact hosts, each of which gets a certificate of its own. None is no such certificate.
    pub hosts: Vec<Host>,
    /// Whether you agree to the authority's terms of service, which its directory names; there are no certificates
    /// without that.
    pub terms_agreed: bool,
    /// Where the authority may write to. It is told when an account is made with it, which happens once.
    pub email: Option<String>,
    /// The authority's directory, over HTTPS. Another one than before means new certificates at once.
    pub directory: String,
    /// How the authority sees that a host is ours: `"http-01"` (it asks at the host's port 80), `"tls-alpn-01"` (at its
    /// port 443, by TLS), or `"auto"`: what the listeners allow, and where they allow both, by turns when one fails.
    pub challenge: Challenge,
    /// PEM file of the authorities that sign the directory's own certificate, for a directory that is not public. None
    /// is those that this system trusts.
    pub ca: Option<PathBuf>,
}

/// How an authority sees that a host is ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Challenge {
    /// Whatever the listeners allow.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// By a request in clear (RFC 8555, section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// By a handshake (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Path of the unix socket. A change needs a restart.
    pub socket: PathBuf,
    /// Users and `@groups` that may change things; `"*"` is everybody. Root and the user the daemon runs as always
    /// may. Every call is checked by the kernel's word on who is calling (`SO_PEERCRED`), whatever the file mode.
    pub operators: Vec<Principal>,
    /// Users and `@groups` that may look; operators always may.
    pub viewers: Vec<Principal>,
}

/// The admin listener: `/metrics`, `/healthz`, `/readyz` and the read-only status page. It has no authentication:
/// keep it on loopback or a private network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// IP address and port. A change needs a restart.
    pub address: SocketAddr,
}

/// What survives a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Directory of the state files, one per service; what `[acme]` fetches is below it, in `acme`. A change needs a
    /// restart.
    pub dir: PathBuf,
}

/// Whom we believe about who the client is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trusted {
    /// Address ranges whose `Forwarded`, `X-Forwarded-*` and `X-Real-IP` headers are believed and extended; everybody
    /// else's are replaced.
    #[schemars(with = "Vec<String>")]
    pub proxies: Vec<ipnet::IpNet>,
    /// Whether backends also get the `Forwarded` header of RFC 7239, beside `X-Forwarded-*`.
    pub forwarded: bool,
}

/// What one client may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections open at once, over all workers (each worker takes its equal share). When all are taken, the
    /// one that has been idle for longest is closed for each new one; while none is idle, new ones wait.
    pub connections: usize,
    /// Those of one client address; more are closed at once. `0` is no limit. IPv6 addresses are counted by /64;
    /// `trusted.proxies` are not limited, because many clients share them.
    pub connections_per_address: usize,
    /// Requests of one client address in a second; more are answered 429. `0` is no limit. IPv6 addresses are counted
    /// by /64. Up to 100000.
    pub requests_per_second: u32,
    /// So many requests of an address may come at once after a pause; then the rate holds. `0` is as many as in a
    /// second.
    pub requests_burst: u32,
    /// Client addresses that neither limit counts, by range.
    #[schemars(with = "Vec<String>")]
    pub exempt: Vec<ipnet::IpNet>,
    /// The request head: request line and headers together. Larger ones are answered 431. From 8KiB to 1MiB.
    pub header_size: Bytes,
    /// From the beginning of a connection to the first byte of its first request; then it is closed without a word.
    pub first_byte_time: Seconds,
    /// What comes before HTTP: the PROXY header and the TLS handshake together, and the preface of HTTP/2.
    pub handshake_time: Seconds,
    /// From the first byte of a request head to its last; then 408.
    pub header_time: Seconds,
    /// A connection without a request in progress is closed after this.
    pub idle_time: Seconds,
    /// The request body; larger ones are answered 413. `"0"` is no limit.
    pub body_size: Bytes,
    /// The least of a request's body that must come per second, on average over the time in which the client is waited
    /// for; then 408. Five seconds are granted in advance. `"0"` is no least.
    pub body_rate: Bytes,
    /// The least of an answer that the client must take per second, reckoned the same way; then the answer is broken
    /// off. Tunnels and event streams have `streams.idle` instead. `"0"` is no least.
    pub answer_rate: Bytes,
}

/// How the process ends on SIGTERM or SIGINT (a second signal ends it at once).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long requests in flight may take to finish.
    pub deadline: Seconds,
}

/// The operator's log and the access log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, the last two of bgproxy itself only; also a filter such as
    /// `info,bgproxy::control=debug,h2=debug`. The environment variable `BGPROXY_LOG` wins. A change needs a restart.
    pub level: String,
    /// How the operator's log (standard error) is written. A change needs a restart.
    pub format: LogFormat,
    /// The access log: `"off"`, `"stdout"` or the path of a file (reopened when it is renamed away). A change needs
    /// a restart.
    pub access: AccessLog,
    /// How a line of the access log is written. A change needs a restart.
    pub access_format: AccessFormat,
}

/// How the operator's log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object per line.
    Json,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To this file.
    File(PathBuf),
}

/// How a line of the access log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// One JSON object per request.
    Json,
    /// The "combined" format of Apache and nginx.
    Combined,
}

/// A named application with its colors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Hosts served: exact (`portal.example.com`) or everything below a domain (`*.example.com`). None is every host
    /// that no other service names.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Path prefixes served, on segment boundaries: `/a` serves `/a` and `/a/b`, not `/ab`. The longest one wins,
    /// within the most specific host.
    #[serde(default = "Service::default_paths")]
    pub paths: Vec<PathPrefix>,
    /// Where each color is: the path of a unix socket, or `host:port`; or a table with `socket` and what is special.
    pub backends: BTreeMap<Color, Backend>,
    /// The color that is live when there is no state file yet. Required unless there is a color called `blue`.
    #[serde(default = "Service::default_first")]
    pub first: Color,
    /// A file that holds the live color's name. Scripts read it; writing another color into it is a switch command.
    #[serde(default)]
    pub live_file: Option<PathBuf>,
    /// Hosts that lead testers to the preview color.
    #[serde(default)]
    pub preview: Preview,
    /// The question a color must answer before it may go live.
    #[serde(default)]
    pub ready: Ready,
    /// What happens to requests in flight on the color that was live.
    #[serde(default)]
    pub drain: Drain,
    /// How long each step of a request may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Idle connections kept open to each backend.
    #[serde(default)]
    pub pool: Pool,
    /// Protocols that a client may upgrade its connection to; other requests for an upgrade are served without one, and
    /// so are all those that go to a backend that speaks h2c: an upgrade is a matter of HTTP/1.1.
    #[serde(default = "Service::default_upgrades")]
    pub upgrades: Vec<UpgradeToken>,
    /// What happens to tunnels, event streams and long downloads after a switch.
    #[serde(default)]
    pub streams: Streams,
    /// Answers over TLS say `Strict-Transport-Security` for this long, such as `"180d"`; browsers then never come
    /// without TLS again.
    #[serde(default)]
    pub hsts: Option<Seconds>,
    /// Requests for the service's other hosts are sent here with 308; the preview's hosts are not.
    #[serde(default)]
    pub canonical_host: Option<Host>,
    /// Client addresses that are served, by range; none is all of them. Others are answered 403.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<ipnet::IpNet>,
    /// Client addresses that are answered 403 whatever `allow` says, by range.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<ipnet::IpNet>,
}

/// One color's backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(into = "BackendForm")]
#[schemars(with = "BackendForm")]
pub struct Backend {
    /// Where it listens.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether its connections begin with a PROXY protocol header (version 2) that says who the client is.
    pub send_proxy: bool,
}

/// What a backend speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in clear, by prior knowledge: what gRPC needs.
    H2c,
}

/// The two ways to write a backend.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
enum BackendForm {
    /// The path of a unix socket, or `host:port`.
    Address(Address),
    /// The same with what is special about it.
    Table(BackendTable),
}

/// A backend with what is special about it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BackendTable {
    /// The path of a unix socket, or `host:port`.
    socket: Address,
    /// What it speaks: `"http1"` or `"h2c"` (HTTP/2 in clear, as gRPC servers do).
    #[serde(default)]
    protocol: Protocol,
    /// Begin each connection with a PROXY protocol header (version 2) that says who the client is; connections to it
    /// are then not shared between clients.
    #[serde(default)]
    send_proxy: bool,
}

/// Hosts that lead testers to the preview color.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Preview {
    /// Hosts, as in `service.NAME.hosts`. Answers get `Cache-Control: no-store` and `X-Robots-Tag: noindex`.
    pub hosts: Vec<Host>,
}

/// The question a color must answer before it may go live: a GET sent the way a request is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ready {
    /// Path and query asked for.
    pub path: String,
    /// The Host header. None is the service's first exact host, or `localhost`.
    pub host: Option<String>,
    /// Statuses that count as ready, such as `"200-399"` or `"200,204"`.
    pub expect: StatusRanges,
    /// Answers in a row that make a color ready.
    pub passes: u32,
    /// Between two questions.
    pub interval: Seconds,
    /// How long one answer may take.
    pub timeout: Seconds,
    /// How long a switch waits for a color to become ready.
    pub within: Seconds,
    /// How often each color is asked outside of a switch, for `bgctl status`, metrics and alarms only; it never takes
    /// a color out of service. `"0s"` is never.
    pub watch: Seconds,
}

/// What happens to requests in flight on the color that was live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long they may take to finish; then a request without an answer is cut, and an answer that has begun goes on
    /// as a stream.
    pub deadline: Seconds,
}

/// How long each step of a request may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To a connection with the backend, tries while its backlog is full included; then 503 or 504.
    pub connect: Seconds,
    /// From the last byte of the request to the response head; then 504.
    pub response: Seconds,
    /// No byte in either direction while a body streams; tunnels and event streams have `streams.idle` for that.
    pub idle: Seconds,
}

/// Idle connections kept open to each backend, per worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Most idle connections kept.
    pub size: usize,
    /// An idle connection is closed after this. Keep it below the backend's own limit (nginx: `keepalive_timeout`,
    /// 75s).
    pub idle: Seconds,
}

/// What happens to tunnels, event streams and long downloads after a switch: they are not requests, and keep running
/// for a while; then they are ended one by one, so that clients come back, to the new color, without a storm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// How long they keep running after the switch.
    pub keep: Seconds,
    /// Then they are ended evenly over this long.
    pub spread: Seconds,
    /// At most so many are ended in one second, even if that takes longer.
    pub per_second: u32,
    /// A tunnel or an event stream without a byte in either direction is closed after this.
    pub idle: Seconds,
}

impl Config {
    /// Reads, parses and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or is wrong somewhere; its `Display` shows where and what to do.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::unreadable(path, source))?;
        Config::parse(&text, path)
    }

    /// Parses and checks the text of a configuration file; `path` is only for the messages.
    ///
    /// # Errors
    /// [`ConfigError`], as [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|fault| ConfigError::syntax(path, text, &fault))?;
        if config.service.is_empty() {
            config.service = Config::default().service;
        }
        check::check(&config, text, path)?;
        Ok(config)
    }

    /// The JSON Schema (2020-12) of the file, for editors.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Config).to_value()
    }
}

impl Default for Config {
    fn default() -> Self {
        let name = ServiceName::try_from("default".to_owned()).expect("a valid name");
        Config {
            workers: Workers::Auto,
            listen: vec![Listen::at(SocketAddr::from(([0, 0, 0, 0], 80)))],
            certificate: Vec::new(),
            acme: Acme::default(),
            control: Control::default(),
            admin: Admin::default(),
            state: State::default(),
            trusted: Trusted::default(),
            limits: Limits::default(),
            error_pages: BTreeMap::new(),
            shutdown: Shutdown::default(),
            log: Log::default(),
            service: BTreeMap::from([(name, Service::default())]),
        }
    }
}

impl Listen {
    /// A listener in clear with nothing special.
    pub fn at(address: SocketAddr) -> Listen {
        Listen {
            address,
            tls: false,
            client_ca: None,
            redirect_https: false,
            h2c: true,
            proxy_protocol: ProxyProtocol::Off,
        }
    }
}

fn yes() -> bool {
    true
}

impl Default for Acme {
    fn default() -> Self {
        Acme {
            hosts: Vec::new(),
            terms_agreed: false,
            email: None,
            directory: "https://acme-v02.api.letsencrypt.org/directory".into(),
            challenge: Challenge::Auto,
            ca: None,
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Control {
            socket: "/run/bgproxy/control.sock".into(),
            operators: vec![Principal::User("root".into()), Principal::Group("bgproxy".into())],
            viewers: vec![Principal::Everybody],
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Admin { address: SocketAddr::from(([127, 0, 0, 1], 9180)) }
    }
}

impl Default for State {
    fn default() -> Self {
        State { dir: "/var/lib/bgproxy".into() }
    }
}

impl Default for Trusted {
    fn default() -> Self {
        Trusted { proxies: vec![ipnet::IpNet::from(std::net::IpAddr::from([127, 0, 0, 1]))], forwarded: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 20_000,
            connections_per_address: 0,
            requests_per_second: 0,
            requests_burst: 0,
            exempt: Vec::new(),
            header_size: Bytes::kib(32),
            first_byte_time: Seconds::new(30),
            handshake_time: Seconds::new(10),
            header_time: Seconds::new(10),
            idle_time: Seconds::new(75),
            body_size: Bytes::mib(100),
            body_rate: Bytes::new(240),
            answer_rate: Bytes::new(240),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { deadline: Seconds::new(30) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".into(),
            format: LogFormat::Plain,
            access: AccessLog::Off,
            access_format: AccessFormat::Json,
        }
    }
}

impl Service {
    fn default_paths() -> Vec<PathPrefix> {
        vec![PathPrefix::root()]
    }

    fn default_first() -> Color {
        Color::blue()
    }

    fn default_upgrades() -> Vec<UpgradeToken> {
        vec![UpgradeToken::websocket()]
    }
}

impl Backend {
    /// A backend that speaks HTTP/1.1, with nothing special.
    pub fn at(address: Address) -> Backend {
        Backend { address, protocol: Protocol::Http1, send_proxy: false }
    }
}

impl<'de> Deserialize<'de> for Backend {
    /// By hand, because an untagged enum would lose what is wrong and where.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> serde::de::Visitor<'de> for Form {
            type Value = Backend;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "the path of a unix socket, \"host:port\", or a table such as { socket = \"/run/app.sock\" }",
                )
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Backend, E> {
                text.parse().map(Backend::at).map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Backend, E> {
                // Its own way to say what is wrong with a number.
                let number = serde::de::value::I64Deserializer::<E>::new(number);
                Address::deserialize(number).map(Backend::at)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Backend, A::Error> {
                let form = serde::de::value::MapAccessDeserializer::new(map);
                let BackendTable { socket, protocol, send_proxy } = BackendTable::deserialize(form)?;
                Ok(Backend { address: socket, protocol, send_proxy })
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl From<Backend> for BackendForm {
    fn from(backend: Backend) -> Self {
        let Backend { address: socket, protocol, send_proxy } = backend;
        if protocol == Protocol::Http1 && !send_proxy {
            return BackendForm::Address(socket);
        }
        BackendForm::Table(BackendTable { socket, protocol, send_proxy })
    }
}

impl Default for Service {
    fn default() -> Self {
        Service {
            hosts: Vec::new(),
            paths: Service::default_paths(),
            backends: BTreeMap::from([
                (Color::blue(), Backend::at(Address::Unix("/var/run/nginx/blue/nginx.sock".into()))),
                (Color::green(), Backend::at(Address::Unix("/var/run/nginx/green/nginx.sock".into()))),
            ]),
            first: Service::default_first(),
            live_file: None,
            preview: Preview::default(),
            ready: Ready::default(),
            drain: Drain::default(),
            timeouts: Timeouts::default(),
            pool: Pool::default(),
            upgrades: Service::default_upgrades(),
            streams: Streams::default(),
            hsts: None,
            canonical_host: None,
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }
}

impl Default for Ready {
    fn default() -> Self {
        Ready {
            path: "/".into(),
            host: None,
            expect: StatusRanges::default(),
            passes: 3,
            interval: Seconds::millis(500),
            timeout: Seconds::new(2),
            within: Seconds::new(30),
            watch: Seconds::new(10),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Drain { deadline: Seconds::new(30) }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: Seconds::new(2), response: Seconds::new(60), idle: Seconds::new(60) }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Pool { size: 512, idle: Seconds::new(30) }
    }
}

impl Default for Streams {
    fn default() -> Self {
        Streams { keep: Seconds::new(60), spread: Seconds::new(60), per_second: 200, idle: Seconds::new(3600) }
    }
}

impl From<String> for AccessLog {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" => AccessLog::Off,
            "stdout" => AccessLog::Stdout,
            _ => AccessLog::File(text.into()),
        }
    }
}

impl From<AccessLog> for String {
    fn from(log: AccessLog) -> Self {
        match log {
            AccessLog::Off => "off".into(),
            AccessLog::Stdout => "stdout".into(),
            AccessLog::File(path) => path.display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const EXAMPLE: &str = include_str!("../bgproxy.toml");

    /// The example with its commented-out keys: those follow their `#` without a space.
    fn example_in_full() -> String {
        let uncomment = |line: &'static str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase() || c.is_ascii_digit()) => rest,
            _ => line,
        };
        EXAMPLE.lines().map(uncomment).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_is_the_default() {
        let config = Config::parse(EXAMPLE, Path::new("bgproxy.toml")).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(config, Config::default());
    }

    #[test]
    fn what_the_example_comments_out_is_right_too() {
        let config = Config::parse(&example_in_full(), Path::new("bgproxy.toml"));
        let config = config.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(config.service.keys().map(ServiceName::as_str).collect::<Vec<_>>(), ["default", "portal"]);
    }

    #[test]
    fn the_example_mentions_every_key() {
        let schema = Config::schema();
        let mut known = BTreeSet::new();
        keys_of_schema(&schema, &schema, "", &mut known);
        assert!(known.contains("listen.address") && known.contains("service.*.ready.host"), "{known:#?}");
        let mut mentioned = BTreeSet::new();
        let example: toml::Table = example_in_full().parse().expect("TOML");
        keys_of_example(&toml::Value::Table(example), "", &mut mentioned);
        let forgotten: Vec<_> = known.difference(&mentioned).collect();
        assert!(forgotten.is_empty(), "not in conf/bgproxy.toml: {forgotten:?}");
    }

    #[test]
    fn every_key_of_the_schema_is_described() {
        fn walk(node: &Value, path: &str) {
            if let Some(properties) = node.get("properties").and_then(Value::as_object) {
                for (name, property) in properties {
                    assert!(property.get("description").is_some(), "{path}.{name}");
                }
            }
            if let Some(parts) = node.get("$defs").and_then(Value::as_object) {
                parts.iter().for_each(|(name, part)| walk(part, name));
            }
        }
        walk(&Config::schema(), "Config");
    }

    #[test]
    fn a_written_configuration_reads_back_the_same() {
        for text in [EXAMPLE, &example_in_full()] {
            let config = Config::parse(text, Path::new("bgproxy.toml")).expect("a configuration");
            let written = toml::to_string(&config).expect("TOML");
            assert_eq!(Config::parse(&written, Path::new("written")).expect("a configuration"), config);
        }
    }

    #[test]
    fn a_service_of_ones_own_replaces_the_built_in_one() {
        let config = Config::parse("[service.portal.backends]\nblue = \"/b\"\n", Path::new("x")).expect("right");
        assert_eq!(config.service.keys().map(ServiceName::as_str).collect::<Vec<_>>(), ["portal"]);
        let config = Config::parse("[service]\n", Path::new("x")).expect("right");
        assert_eq!(config, Config::default());
    }

    /// The dotted paths of all keys; `*` stands for the keys of a map.
    fn keys_of_schema(schema: &Value, node: &Value, path: &str, keys: &mut BTreeSet<String>) {
        if let Some(name) = node.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix("#/$defs/")) {
            return keys_of_schema(schema, &schema["$defs"][name], path, keys);
        }
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        for (key, node) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            keys.insert(below(key));
            keys_of_schema(schema, node, &below(key), keys);
        }
        for (_, node) in node.get("patternProperties").and_then(Value::as_object).into_iter().flatten() {
            keys_of_schema(schema, node, &below("*"), keys);
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(node) = node.get(inner).filter(|node| node.is_object()) {
                let path = if inner == "items" { path.to_owned() } else { below("*") };
                keys_of_schema(schema, node, &path, keys);
            }
        }
    }

    /// The same of the example, where every service counts for all of them.
    fn keys_of_example(value: &toml::Value, path: &str, keys: &mut BTreeSet<String>) {
        match value {
            toml::Value::Array(items) => items.iter().for_each(|item| keys_of_example(item, path, keys)),
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if path == "service" { "*" } else { key };
                    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    keys.insert(path.clone());
                    keys_of_example(value, &path, keys);
                }
            }
            _ => {}
        }
    }
}
