//! bgproxy itself: the real binary in a directory of its own, its control socket, and `bgctl`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Instant;

use bgproxy_conf::wire;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::raw::{Body, Raw, Response, Target, request};
use super::tools::{bgctl, bgproxy};
use super::{Authority, DEADLINE, Fake, Output, Process, must, need, temp_dir};

/// What clients call a door over TLS.
pub(crate) const NAME: &str = "portal.example";

/// What the door is started with; see [`Door::builder`].
pub(crate) struct Builder {
    dir: TempDir,
    /// Dotted keys and their values: TOML allows a whole file to be written so.
    settings: BTreeMap<String, Value>,
    text: Option<String>,
    env: Vec<(String, String)>,
    under: Vec<String>,
}

impl Builder {
    /// Sets a key of the configuration, such as `service.portal.drain.deadline` to `"1s"`.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Builder {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// Leaves a key out of the configuration.
    pub(crate) fn unset(mut self, key: &str) -> Builder {
        self.settings.remove(key);
        self
    }

    /// Where a color of service `portal` is: a fake's address or a socket's path.
    pub(crate) fn color(self, color: &str, address: impl AsRef<Path>) -> Builder {
        self.set(&format!("service.portal.backends.{color}"), address.as_ref().to_str().expect("a readable path"))
    }

    /// Fakes as blue and green.
    pub(crate) fn fakes(self, blue: &Fake, green: &Fake) -> Builder {
        self.color("blue", blue.address()).color("green", green.address())
    }

    /// Its first listener speaks TLS, with a certificate for [`NAME`] that this authority signed (in `tls/`); the
    /// second one is in clear.
    pub(crate) fn tls(self, authority: &Authority) -> Builder {
        let certificate = authority.server(&[NAME, "localhost", "127.0.0.1"]).write(&self.dir().join("tls"));
        let listeners = json!([{ "address": "127.0.0.1:0", "tls": true }, { "address": "127.0.0.1:0" }]);
        self.set("listen", listeners).set("certificate", json!([certificate]))
    }

    /// A color gets this long to become ready.
    pub(crate) fn probes_for(self, within: &str) -> Builder {
        self.set("service.portal.ready.timeout", within).set("service.portal.ready.within", within)
    }

    /// Gives the service a live file, at [`Door::live_file`].
    pub(crate) fn live_file(self) -> Builder {
        let file = live_file_in(self.dir.path());
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("a directory for the live file");
        self.set("service.portal.live_file", file.to_str().expect("a readable path"))
    }

    /// The configuration file as it stands.
    pub(crate) fn render(&self) -> String {
        self.text.clone().unwrap_or_else(|| render(&self.settings))
    }

    /// A configuration file that is exactly this, in place of the settings.
    pub(crate) fn text(mut self, text: &str) -> Builder {
        self.text = Some(text.to_owned());
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl fmt::Display) -> Builder {
        self.env.push((key.to_owned(), value.to_string()));
        self
    }

    /// Runs the door by another program that replaces itself with it, such as `["prlimit", "--nofile=64"]`, or
    /// `["setpriv", "--bounding-set=-all"]` to let file modes bind root too.
    pub(crate) fn under(mut self, command: &[&str]) -> Builder {
        self.under = command.iter().map(ToString::to_string).collect();
        self
    }

    /// Its directory: `bgproxy.toml`, `control.sock`, `state/`, `live/portal`, `bgproxy.log`, `access.log`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it and waits until it answers on its control socket.
    #[track_caller]
    pub(crate) fn start(self) -> Door {
        let mut door = self.door();
        door.restart();
        door
    }

    /// Starts it before this fake as blue, the live color.
    #[track_caller]
    pub(crate) fn before(self, blue: impl FnOnce(PathBuf) -> Fake) -> (Door, Fake) {
        let blue = blue(self.dir().join("blue.sock"));
        (self.start(), blue)
    }

    /// Starts it in the belief that it ends by itself; its exit code and what it said.
    #[track_caller]
    pub(crate) fn start_expecting_failure(self) -> Output {
        self.door().start_expecting_failure()
    }

    /// A door that has not been started.
    pub(crate) fn door(self) -> Door {
        let config = self.render();
        let door = Door {
            dir: self.dir,
            settings: self.settings,
            env: self.env,
            under: self.under,
            args: Vec::new(),
            process: None,
            taken: None,
        };
        std::fs::create_dir_all(door.state_dir()).expect("a directory for the state");
        door.write_config(&config);
        door
    }
}

/// A door, running or not. Its directory lives as long as it does, over any number of restarts.
pub(crate) struct Door {
    settings: BTreeMap<String, Value>,
    env: Vec<(String, String)>,
    under: Vec<String>,
    args: Vec<String>,
    process: Option<Process>,
    /// The ports it took, as it says itself.
    taken: Option<(SocketAddr, SocketAddr)>,
    // Last, so that it is removed when nobody uses it any more.
    dir: TempDir,
}

impl Door {
    /// One service, `portal`, for every host, with blue and green at sockets that do not exist unless
    /// [`Builder::color`] says where they are; two workers, free ports, quick probes.
    pub(crate) fn builder() -> Builder {
        let dir = temp_dir();
        let path = |name: &str| Value::from(dir.path().join(name).to_str().expect("a readable path"));
        let settings = [
            ("workers", json!(2)),
            ("listen", json!([{ "address": "127.0.0.1:0" }])),
            ("control.socket", path("control.sock")),
            ("admin.address", json!("127.0.0.1:0")),
            ("state.dir", path("state")),
            ("log.level", json!("debug")),
            ("log.access", path("access.log")),
            ("service.portal.backends.blue", path("blue.sock")),
            ("service.portal.backends.green", path("green.sock")),
            ("service.portal.ready.passes", json!(1)),
            ("service.portal.ready.interval", json!("20ms")),
            // Not asked behind a test's back: fakes count what they hear.
            ("service.portal.ready.watch", json!("0s")),
        ];
        let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Builder { dir, settings, text: None, env: Vec::new(), under: Vec::new() }
    }

    // === its places ===

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir().join("bgproxy.toml")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir().join("control.sock")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// The newest record of service `portal`, or the one before it with `.previous`.
    pub(crate) fn state_file(&self, suffix: &str) -> PathBuf {
        self.state_dir().join(format!("portal.json{suffix}"))
    }

    pub(crate) fn access_log(&self) -> PathBuf {
        self.dir().join("access.log")
    }

    /// The service's live file; used when the builder was told [`Builder::live_file`].
    pub(crate) fn live_file(&self) -> PathBuf {
        live_file_in(self.dir())
    }

    /// The first address clients connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.taken.expect("the door has started").0
    }

    /// The address of another listener, by its place in the configuration.
    #[track_caller]
    pub(crate) fn listener(&self, number: usize) -> SocketAddr {
        let listen = self.status().listen;
        must(format_args!("listener {number} of {listen:?}"), listen[number].parse())
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.taken.expect("the door has started").1
    }

    // === its life ===

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the door runs")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the door runs").pid()
    }

    /// Starts it anew over the same directory; one that runs is told to end first. Its ports change.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        if self.process.is_some() {
            self.terminate();
        }
        self.spawn();
        self.wait_started();
    }

    /// Starts it and does not wait, for a test in which it does not get far.
    #[track_caller]
    pub(crate) fn spawn(&mut self) {
        assert!(self.process.is_none(), "the door runs already");
        self.process = Some(Process::start("bgproxy", &mut self.command(), &self.dir().join("bgproxy.log")));
    }

    /// Waits until it answers on its control socket, and learns its ports.
    #[track_caller]
    pub(crate) fn wait_started(&mut self) {
        let control = self.control();
        let pid = self.pid();
        let status: wire::Status = self.process().wait_for("the first status", || {
            let answer = Raw::try_get(control.as_path(), "/v1/status").map_err(|why| why.to_string())?;
            let status: wire::Status = serde_json::from_slice(&answer.body)
                .map_err(|why| format!("{why} in status {}: {}", answer.status, answer.text()))?;
            if status.pid == pid { Ok(status) } else { Err(format!("pid {} answers, not {pid}", status.pid)) }
        });
        let listen = status.listen.first().expect("a listener");
        self.taken = Some((must(listen, listen.parse()), must(&status.admin, status.admin.parse())));
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.take().expect("the door runs").terminate()
    }

    pub(crate) fn kill9(&mut self) {
        self.process.take().expect("the door runs").kill9();
    }

    /// Waits until it ends by itself, as at a failpoint.
    #[track_caller]
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        self.process.take().expect("the door runs").wait_end(DEADLINE)
    }

    /// Memory that it has, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the door's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[track_caller]
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process().signal(signal);
    }

    /// An environment variable for the next start, or none.
    pub(crate) fn set_env(&mut self, key: &str, value: Option<&str>) {
        self.env.retain(|(name, _)| name != key);
        self.env.extend(value.map(|value| (key.to_owned(), value.to_owned())));
    }

    /// Arguments for the next starts, such as `--assume-live`.
    pub(crate) fn set_args(&mut self, args: &[&str]) {
        self.args = args.iter().map(ToString::to_string).collect();
    }

    /// Starts it in the belief that it ends by itself; what it said.
    #[track_caller]
    pub(crate) fn start_expecting_failure(&self) -> Output {
        Output::of(&mut self.command(), self.dir())
    }

    /// Changes a key and replaces the configuration file, as an editor does: by rename.
    pub(crate) fn configure(&mut self, key: &str, value: impl Into<Value>) {
        self.settings.insert(key.to_owned(), value.into());
        self.write_config(&render(&self.settings));
    }

    /// Leaves out the keys that begin so, and replaces the configuration file.
    pub(crate) fn forget(&mut self, prefix: &str) {
        self.settings.retain(|key, _| !key.starts_with(prefix));
        self.write_config(&render(&self.settings));
    }

    /// Replaces the configuration file by this text.
    pub(crate) fn write_config(&self, text: &str) {
        let new = self.dir().join("bgproxy.toml.new");
        std::fs::write(&new, text).expect("the new configuration");
        std::fs::rename(&new, self.config()).expect("the configuration");
    }

    /// All it has logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        super::text_of(&self.dir().join("bgproxy.log"))
    }

    /// Waits until its log holds this text.
    #[track_caller]
    pub(crate) fn wait_log(&self, text: &str) {
        super::wait_until(&format!("{text:?} in the log"), DEADLINE, || self.log().contains(text));
    }

    // === its clients ===

    /// A client's connection.
    #[track_caller]
    pub(crate) fn connect(&self) -> Raw {
        Raw::connect(self.addr())
    }

    /// One GET by a client on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        Raw::get(self.addr(), path)
    }

    // === its control socket ===

    /// GET on the control socket.
    #[track_caller]
    pub(crate) fn call(&self, path: &str) -> Reply {
        Reply(Raw::get(self.control(), path))
    }

    /// POST on the control socket.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: Value) -> Reply {
        let headers = [("Content-Type", "application/json"), ("Connection", "close")];
        Reply(Raw::ask(self.control(), &request("POST", path, &headers, body.to_string().as_bytes())))
    }

    #[track_caller]
    pub(crate) fn status(&self) -> wire::Status {
        self.call("/v1/status").parsed()
    }

    /// The status of service `portal`.
    #[track_caller]
    pub(crate) fn portal(&self) -> wire::ServiceStatus {
        self.call("/v1/services/portal").parsed()
    }

    /// The live color of service `portal`.
    #[track_caller]
    pub(crate) fn live(&self) -> String {
        self.portal().live.to_string()
    }

    /// Switches service `portal`; returns after the fence.
    #[track_caller]
    pub(crate) fn switch(&self, to: &str) -> wire::SwitchReply {
        self.post("/v1/services/portal/switch", json!({ "to": to })).parsed()
    }

    /// Switches service `portal` and waits for the drain; its receipt.
    #[track_caller]
    pub(crate) fn switch_and_drain(&self, to: &str) -> wire::Receipt {
        let reply: wire::SwitchReply =
            self.post("/v1/services/portal/switch", json!({ "to": to, "wait": true })).parsed();
        must(format_args!("generation {}", reply.generation), reply.receipt.ok_or("no receipt"))
    }

    #[track_caller]
    pub(crate) fn history(&self) -> Vec<wire::HistoryEntry> {
        self.call("/v1/history").parsed::<wire::History>().entries
    }

    /// The event stream from now on, or from after `last_id`.
    #[track_caller]
    pub(crate) fn events(&self, last_id: Option<u64>) -> Events {
        Events::open(self.control(), last_id)
    }

    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        let answer = Raw::get(self.control(), "/metrics");
        assert_eq!(answer.status, 200, "/metrics: {}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// Waits until it is at rest, which the end of every client must bring: no connection, request or stream is open,
    /// and the books balance. Returns the metrics then. (A client that has not been answered may not have come yet.)
    #[track_caller]
    pub(crate) fn quiet(&self) -> Metrics {
        super::wait_for("the door to be at rest", DEADLINE, || {
            let metrics = self.metrics();
            let of = |name: &str| metrics.sum(name, &[]);
            let open = ["bgproxy_connections_open", "bgproxy_requests_in_flight", "bgproxy_streams_open"];
            if let Some(name) = open.into_iter().find(|name| of(name) != 0.0) {
                return Err(format!("{name} is {}", of(name)));
            }
            let (claimed, ended) = (of("bgproxy_claims_total"), of("bgproxy_claims_ended_total"));
            if claimed == ended { Ok(()) } else { Err(format!("{claimed} claims, {ended} ended")) }
        });
        // One page is not of one moment: what ended while it was made may be missing in a part of it.
        self.metrics()
    }

    /// Runs `bgctl` against it, without a terminal.
    #[track_caller]
    pub(crate) fn bgctl(&self, args: &[&str]) -> Output {
        Output::of(&mut self.bgctl_command(args), self.dir())
    }

    /// Runs `bgproxy` with these arguments in its own directory.
    #[track_caller]
    pub(crate) fn bgproxy(&self, args: &[&str]) -> Output {
        let mut command = Command::new(bgproxy());
        Output::of(command.args(args).current_dir(self.dir()).env_remove("BGPROXY_LOG"), self.dir())
    }

    /// Runs `bgctl` on a terminal of 80 columns; what it shows there is `stdout`.
    #[track_caller]
    pub(crate) fn bgctl_on_terminal(&self, args: &[&str]) -> Output {
        let line = format!("stty cols 80 rows 24; exec {} {}", bgctl().display(), args.join(" "));
        let mut command = Command::new(need("script"));
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        command.env("BGCTL_SOCKET", self.control()).env("TERM", "xterm").env_remove("NO_COLOR");
        Output::of(&mut command, self.dir())
    }

    /// `bgctl` to be started in another way.
    pub(crate) fn bgctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bgctl());
        command.args(args).env("BGCTL_SOCKET", self.control());
        command
    }

    fn command(&self) -> Command {
        let mut command = match self.under.split_first() {
            Some((program, args)) => {
                let mut command = Command::new(need(program));
                command.args(args).arg(bgproxy());
                command
            }
            None => Command::new(bgproxy()),
        };
        // A developer's own setting would change what the tests read in the log.
        command.env_remove("BGPROXY_LOG");
        command
            .arg("run")
            .arg("-c")
            .arg(self.config())
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

fn live_file_in(dir: &Path) -> PathBuf {
    dir.join("live").join("portal")
}

/// Dotted keys as TOML.
fn render(settings: &BTreeMap<String, Value>) -> String {
    settings.iter().map(|(key, value)| format!("{key} = {}\n", literal(value))).collect()
}

/// A JSON value as TOML says it: the same, but for tables (and null, which TOML has not).
fn literal(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key} = {}", literal(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        plain => plain.to_string(),
    }
}

/// What the control socket answered.
#[derive(Debug)]
pub(crate) struct Reply(pub(crate) Response);

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }

    /// The body as JSON, whatever the status.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        self.0.json()
    }

    /// The answer of a call that succeeded.
    #[track_caller]
    pub(crate) fn parsed<T: serde::de::DeserializeOwned>(&self) -> T {
        assert_eq!(self.0.status, 200, "refused: {}", self.0.text());
        must(self.0.text(), serde_json::from_slice(&self.0.body))
    }

    /// What is wrong, of a call that was refused.
    #[track_caller]
    pub(crate) fn problem(&self) -> wire::Problem {
        assert!(self.0.status >= 400, "status {}, no problem: {}", self.0.status, self.0.text());
        assert_eq!(self.0.header("content-type"), Some("application/problem+json"));
        must(self.0.text(), serde_json::from_slice(&self.0.body))
    }
}

/// An open event stream.
pub(crate) struct Events {
    raw: Raw,
    body: Body,
    /// Text that is not a whole event yet.
    text: String,
}

impl Events {
    #[track_caller]
    pub(crate) fn open(at: impl Into<Target>, last_id: Option<u64>) -> Events {
        Events::open_path(at, "/v1/events", last_id)
    }

    /// With a query, such as `/v1/events?service=api`.
    #[track_caller]
    pub(crate) fn open_path(at: impl Into<Target>, path: &str, last_id: Option<u64>) -> Events {
        let last_id = last_id.map(|id| id.to_string());
        let mut headers = vec![("Accept", "text/event-stream")];
        headers.extend(last_id.as_deref().map(|id| ("Last-Event-ID", id)));
        let mut raw = Raw::connect(at);
        raw.send(request("GET", path, &headers, b""));
        let (head, body) = raw.head();
        assert_eq!((head.status, head.fields.get("content-type")), (200, Some("text/event-stream")));
        Events { raw, body, text: String::new() }
    }

    /// The next event; comments are passed over.
    #[track_caller]
    pub(crate) fn next(&mut self) -> wire::Event {
        self.next_until(Instant::now() + DEADLINE)
    }

    #[track_caller]
    fn next_until(&mut self, end: Instant) -> wire::Event {
        loop {
            // The stream's own signs of life come more often than a read gives up.
            assert!(Instant::now() < end, "waited {DEADLINE:?} for an event");
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let data: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("data:")).collect();
                let event =
                    if data.is_empty() { None } else { Some(must(block, serde_json::from_str(&data.join("\n")))) };
                self.text = rest.to_owned();
                if let Some(event) = event {
                    return event;
                }
                continue;
            }
            match self.raw.piece(&mut self.body) {
                Ok(Some(piece)) => self.text.push_str(std::str::from_utf8(&piece).expect("UTF-8")),
                Ok(None) => panic!("the event stream ended"),
                Err(why) => panic!("no event: {why}"),
            }
        }
    }

    /// The next event that `wanted` says yes to.
    #[track_caller]
    pub(crate) fn wait(&mut self, wanted: impl Fn(&wire::What) -> bool) -> wire::Event {
        let end = Instant::now() + DEADLINE;
        loop {
            let event = self.next_until(end);
            if wanted(&event.what) {
                return event;
            }
        }
    }
}

/// The page of metrics, by series as it is written: `name{label="value",..}`.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(pub(crate) BTreeMap<String, f64>);

impl Metrics {
    #[track_caller]
    pub(crate) fn parse(page: &str) -> Metrics {
        let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no metric: {line:?}"));
            (series.to_owned(), value.parse().unwrap_or_else(|why| panic!("{why}: {line:?}")))
        });
        Metrics(series.collect())
    }

    /// What a metric comes to for each value of a label.
    pub(crate) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (series, value) in &self.0 {
            let Some((metric, labels)) = series.split_once('{').filter(|(metric, _)| *metric == name) else { continue };
            let mut labels = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
            let of = labels.find(|(key, _)| *key == label).unwrap_or_else(|| panic!("{metric} has no label {label}")).1;
            *sums.entry(of.trim_matches('"').to_owned()).or_default() += value;
        }
        sums
    }

    /// The sum of a metric's series that have all these labels; 0 when there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        self.0
            .iter()
            .filter(|(series, _)| {
                let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
                let labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
                metric == name && wanted.iter().all(|label| labels.contains(&label.as_str()))
            })
            .map(|(_, value)| value)
            .sum()
    }
}
