//! What can be tried without an application? Two embedded backends, blue and green, for `bgproxy demo`, with the
//! configuration that puts the door in front of them and the commands worth trying.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bgproxy_conf::{
    Address, Admin, Color, Config, Control, Drain, Host, Limits, Listen, Preview, Ready, Seconds, Service, ServiceName,
    State,
};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The one service of the demo.
const SERVICE: &str = "demo";

/// The host that leads to the preview color; browsers take every name below `localhost` for this machine.
const PREVIEW_HOST: &str = "preview.localhost";

/// The state files' directory, which the daemon wants to find.
const STATE: &str = "state";

/// The longest a request to `/slow` takes.
const SLOWEST: f64 = 60.0;

/// The page that each color shows, with `{...}` to be filled in.
const PAGE: &str = include_str!("demo.html");

/// A fresh private directory for everything the demo keeps; gone when this is dropped.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
}

/// The ports on 127.0.0.1; 0 takes a free one.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Where clients connect.
    pub door: u16,
    /// Where the status page is.
    pub admin: u16,
}

/// The two backends, each on a thread of its own. Dropping it ends them.
#[derive(Debug)]
pub struct Demo {
    backends: Vec<Backend>,
}

#[derive(Debug)]
struct Backend {
    socket: PathBuf,
    ending: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What a backend tells about itself.
#[derive(Debug)]
struct Face {
    color: Color,
    requests: AtomicU64,
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The configuration that puts the door in front of a [`Demo`] started in this [`Home`].
pub fn config(dir: &Path, ports: Ports) -> Config {
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let backend = |color: Color| (color.clone(), bgproxy_conf::Backend::at(Address::Unix(socket(dir, &color))));
    let service = Service {
        backends: BTreeMap::from([backend(Color::blue()), backend(Color::green())]),
        live_file: Some(dir.join("live")),
        preview: Preview { hosts: vec![PREVIEW_HOST.parse::<Host>().expect("a valid host")] },
        // Quick enough that nobody waits, slow enough that the asking is seen.
        ready: Ready {
            path: "/health".into(),
            interval: Seconds::millis(200),
            timeout: Seconds::new(1),
            within: Seconds::new(5),
            watch: Seconds::new(2),
            ..Ready::default()
        },
        drain: Drain { deadline: Seconds::new(20) },
        ..Service::default()
    };
    Config {
        listen: vec![Listen::at(here(ports.door))],
        // Who runs it may operate it; nobody else gets into the directory anyway.
        control: Control { socket: dir.join("control.sock"), operators: Vec::new(), ..Control::default() },
        // Within the open files that a desktop allows.
        limits: Limits { connections: 400, ..Limits::default() },
        admin: Admin { address: here(ports.admin) },
        state: State { dir: dir.join(STATE) },
        service: BTreeMap::from([(SERVICE.parse::<ServiceName>().expect("a valid name"), service)]),
        ..Config::default()
    }
}

/// What to try, for the terminal: `door` and `admin` are the addresses really taken.
pub fn welcome(config: &Config, door: &str, admin: &str) -> String {
    let (bgctl, socket) = (bgctl(), quoted(&config.control.socket));
    let live_file = config.service.values().find_map(|service| service.live_file.as_deref()).map(quoted);
    let live_file = live_file.unwrap_or_default();
    // A function, not an alias: it works in a script too, and every line below stays short enough to read.
    format!(
        "\
the door         http://{door}/
the status page  http://{admin}/

In another terminal:

  bgctl() {{ {bgctl} --socket {socket} \"$@\"; }}

  curl http://{door}/text      # the color that is live
  bgctl status
  bgctl switch green
  curl -s 'http://{door}/slow?seconds=10' & bgctl switch blue      # waits for the slow one
  bgctl prepare green      # for testers:
  curl -H 'Host: {PREVIEW_HOST}' http://{door}/text
  echo green > {live_file}      # a switch, too
  bgctl history
  curl http://{admin}/metrics

Ctrl-C ends it and removes what it made.
"
    )
}

// === impl Home ===

impl Home {
    /// Makes one in the directory for temporary files.
    ///
    /// # Errors
    /// That directory is missing, full or not writable.
    pub fn create() -> io::Result<Home> {
        let path = std::env::temp_dir().join(format!("bgproxy-demo-{:08x}", fastrand::u32(..)));
        // Never an existing directory: somebody else may have put it there, with links in it.
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path).map_err(|error| named(path, error));
        private(&path)?;
        let home = Home { path };
        private(&home.path.join(STATE))?;
        Ok(home)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the demo's directory");
        }
    }
}

// === impl Ports ===

impl Default for Ports {
    fn default() -> Self {
        Ports { door: 8080, admin: 9180 }
    }
}

// === impl Demo ===

impl Demo {
    /// Serves blue and green at `blue.sock` and `green.sock` in this directory.
    ///
    /// # Errors
    /// A socket cannot be made there (its path may have 107 bytes), or a thread cannot be started.
    pub fn start(dir: &Path) -> io::Result<Demo> {
        let backends = [Color::blue(), Color::green()].map(|color| Backend::start(socket(dir, &color), color));
        Ok(Demo { backends: backends.into_iter().collect::<io::Result<_>>()? })
    }

    /// Ends both: cuts what is left, joins the threads, removes the sockets.
    pub fn stop(self) {
        drop(self.backends);
    }
}

// === impl Backend ===

impl Backend {
    fn start(socket: PathBuf, color: Color) -> io::Result<Backend> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(&socket).map_err(|error| named(&socket, error))?
        };
        let mut backend = Backend { socket, ending: CancellationToken::new(), thread: None };
        let ending = backend.ending.clone();
        let thread = std::thread::Builder::new().name(format!("demo-{color}"));
        backend.thread = Some(thread.spawn(move || run(&runtime, listener, color, ending))?);
        Ok(backend)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.ending.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(socket = %self.socket.display(), "a demo backend panicked");
        }
        // Gone already when the whole directory was removed first.
        let _ = fs::remove_file(&self.socket);
    }
}

fn run(runtime: &Runtime, listener: UnixListener, color: Color, ending: CancellationToken) {
    let face = Arc::new(Face { color, requests: AtomicU64::new(0) });
    runtime.block_on(async {
        // Dropped at the end, which ends the connections that are left.
        let mut connections = JoinSet::new();
        let _ended = ending.run_until_cancelled(accept(listener, face, &mut connections)).await;
    });
}

async fn accept(listener: UnixListener, face: Arc<Face>, connections: &mut JoinSet<()>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, face.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, color = %face.color, "demo backend: cannot accept");
                // Out of descriptors: it would fail again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: UnixStream, face: Arc<Face>) {
    let service = service_fn(|request| {
        let face = face.clone();
        async move { Ok::<_, Infallible>(face.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, color = %face.color, "demo backend: a connection ended early");
    }
}

// === impl Face ===

impl Face {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let mut response = match (method.as_str(), request.uri().path()) {
            ("GET", "/") => answer("text/html; charset=utf-8", self.page(request.headers(), count)),
            ("GET", "/text") => text(StatusCode::OK, format!("{}\n", self.color)),
            ("GET", "/health") => text(StatusCode::OK, "ready\n".to_owned()),
            ("GET", "/slow") => self.slow(request.uri().query()).await,
            ("GET", "/events") => self.events(),
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
fn slow_seconds(query: Option<&str>) -> Option<Duration> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let seconds = pairs.find(|(key, _)| *key == "seconds").map_or(Ok(10.0), |(_, value)| value.parse::<f64>()).ok()?;
    // `clamp` lets NaN through, and a duration cannot be made of it.
    (!seconds.is_nan()).then(|| Duration::from_secs_f64(seconds.clamp(0.0, SLOWEST)))
}

fn text(status: StatusCode, words: String) -> Response<Body> {
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

fn socket(dir: &Path, color: &Color) -> PathBuf {
    dir.join(format!("{color}.sock"))
}

/// The error with the path in it: `io::Error` alone does not say which.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display()))
}

/// How a shell function of that name finds `bgctl`: beside this binary, or through cargo (which builds only what it
/// runs), or by its name, which must not mean the function again.
fn bgctl() -> String {
    let beside = std::env::current_exe().unwrap_or_default().with_file_name("bgctl");
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&on_path).any(|dir| dir.join("bgctl") == beside) {
        return "command bgctl".to_owned();
    }
    if beside.exists() {
        quoted(&beside)
    } else if std::env::var_os("CARGO").is_some() {
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        format!("cargo run --quiet {profile}--bin bgctl --")
    } else {
        "command bgctl".to_owned()
    }
}

/// The path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(plain) { path.into_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    fn started() -> (tempfile::TempDir, Demo) {
        let dir = tempfile::tempdir().expect("a directory");
        let demo = Demo::start(dir.path()).expect("a demo");
        (dir, demo)
    }

    fn sent(dir: &Path, color: &str, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(dir.join(format!("{color}.sock"))).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
        stream.write_all(request.as_bytes()).expect("written");
        stream
    }

    /// The whole answer to one request on a connection of its own.
    fn ask(dir: &Path, color: &str, line: &str, more: &str) -> String {
        let request = format!("{line} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n{more}");
        let mut answer = String::new();
        sent(dir, color, &request).read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn get(dir: &Path, color: &str, path: &str) -> String {
        ask(dir, color, &format!("GET {path}"), "\r\n")
    }

    #[test]
    fn each_color_says_its_name() {
        let (dir, _demo) = started();
        for color in ["blue", "green"] {
            let answer = get(dir.path(), color, "/text");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains(&format!("x-color: {color}\r\n")), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{color}\n")), "{answer}");
        }
    }

    #[test]
    fn a_color_is_ready_when_asked() {
        let (dir, _demo) = started();
        assert!(get(dir.path(), "green", "/health").starts_with("HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn everything_else_is_not_found() {
        let (dir, _demo) = started();
        for line in ["GET /no", "POST /text", "GET /echo", "DELETE /"] {
            let answer = ask(dir.path(), "blue", line, "\r\n");
            assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{line}: {answer}");
            assert!(answer.contains("x-color: blue\r\n"), "{line}: {answer}");
        }
    }

    #[test]
    fn a_head_has_no_body() {
        let (dir, _demo) = started();
        let answer = ask(dir.path(), "blue", "HEAD /text", "\r\n");
        assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn the_page_shows_color_count_and_headers() {
        let (dir, _demo) = started();
        get(dir.path(), "green", "/text");
        let answer = ask(dir.path(), "green", "GET /", "X-Request-Id: abc-1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
        for part in ["<body class=\"green\">", "request 2 of", "<dd>abc-1</dd>", "<dd>192.0.2.7</dd>", "<dd>-</dd>"] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
        assert!(!["{color}", "{count}", "{rows}"].iter().any(|blank| answer.contains(blank)), "{answer}");
    }

    #[test]
    fn what_a_client_sends_stays_text_on_the_page() {
        let (dir, _demo) = started();
        let answer = ask(dir.path(), "blue", "GET /", "X-Request-Id: <script>&{color}\r\n\r\n");
        assert!(answer.contains("<dd>&lt;script&gt;&amp;{color}</dd>"), "{answer}");
    }

    #[test]
    fn a_slow_answer_takes_its_time() {
        let (dir, _demo) = started();
        let began = Instant::now();
        let answer = get(dir.path(), "blue", "/slow?seconds=0.3");
        assert!(answer.ends_with("blue after 0.3 s\n"), "{answer}");
        assert!(began.elapsed() >= Duration::from_millis(300));
        assert!(get(dir.path(), "blue", "/slow?seconds=soon").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn slow_has_its_bounds() {
        let seconds = |query| slow_seconds(query).map(|wait| wait.as_secs_f64());
        assert_eq!(seconds(None), Some(10.0));
        assert_eq!(seconds(Some("a=b&seconds=2.5")), Some(2.5));
        assert_eq!(seconds(Some("seconds=1e300")), Some(60.0));
        assert_eq!(seconds(Some("seconds=-1")), Some(0.0));
        assert_eq!((seconds(Some("seconds=NaN")), seconds(Some("seconds="))), (None, None));
    }

    #[test]
    fn events_come_one_by_one() {
        let (dir, _demo) = started();
        let stream = sent(dir.path(), "green", "GET /events HTTP/1.1\r\nHost: demo\r\n\r\n");
        let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
        assert!(lines.by_ref().any(|line| line == "content-type: text/event-stream"));
        assert!(lines.by_ref().any(|line| line == "id: 1"));
        assert_eq!(lines.next().as_deref(), Some("data: green"));
        assert!(lines.any(|line| line == "id: 2"));
    }

    #[test]
    fn an_echo_is_what_was_said() {
        let (dir, _demo) = started();
        let said = "Content-Type: text/x-said\r\nContent-Length: 5\r\n\r\nhallo";
        let answer = ask(dir.path(), "blue", "POST /echo", said);
        assert!(answer.contains("content-type: text/x-said\r\n") && answer.contains("hallo"), "{answer}");
    }

    #[test]
    fn stopping_ends_connections_and_removes_the_sockets() {
        let (dir, demo) = started();
        let mut waiting = sent(dir.path(), "blue", "GET /slow?seconds=60 HTTP/1.1\r\nHost: demo\r\n\r\n");
        // Answered, so the backend has accepted: what waits is on a connection, not in the backlog.
        get(dir.path(), "blue", "/text");
        let began = Instant::now();
        demo.stop();
        assert_eq!(waiting.read(&mut [0; 1]).expect("the end"), 0);
        assert!(began.elapsed() < Duration::from_secs(10), "the threads are joined at once");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn a_socket_in_the_way_is_named() {
        let (dir, _demo) = started();
        let error = Demo::start(dir.path()).expect_err("taken").to_string();
        assert!(error.contains("blue.sock"), "{error}");
        assert!(get(dir.path(), "blue", "/text").ends_with("blue\n"), "the first one goes on");
    }

    #[test]
    fn a_home_is_private_and_goes() {
        let home = Home::create().expect("a home");
        let path = home.path().to_owned();
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        fs::write(path.join("live"), "blue\n").expect("written");
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn the_configuration_leads_to_the_sockets_and_is_right() {
        let config = config(Path::new("/tmp/d"), Ports { door: 0, admin: 1 });
        bgproxy_conf::check::check(&config, "", Path::new("demo.toml")).expect("right");
        let service = &config.service[SERVICE];
        assert_eq!(service.backends[&Color::green()].address.to_string(), "/tmp/d/green.sock");
        assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:0");
        assert_eq!(config.admin.address.to_string(), "127.0.0.1:1");
    }

    #[test]
    fn the_welcome_names_the_addresses_really_taken() {
        let config = config(Path::new("/tmp/it's here"), Ports::default());
        let text = welcome(&config, "127.0.0.1:4001", "127.0.0.1:4002");
        assert!(text.contains("curl http://127.0.0.1:4001/text"), "{text}");
        assert!(text.contains("curl http://127.0.0.1:4002/metrics"), "{text}");
        assert!(text.contains(r#"--socket '/tmp/it'\''s here/control.sock' "$@"; }"#), "{text}");
        assert!(text.contains(r"echo green > '/tmp/it'\''s here/live'"), "{text}");
    }
}
