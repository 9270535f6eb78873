//! What does a request cost? CPU per request of bgproxy, nginx and HAProxy in front of the same backend, one after
//! the other in turns, so that whatever else the machine does hurts them alike.
//!
//! `cargo bench --bench side_by_side -- --rounds 5 --seconds 10` (or `make bench ARGS="..."`). CPU is what the kernel
//! charged to the proxy's processes and threads, user and system, divided by the requests that wrk got answered;
//! requests per second and latency depend on what wrk and the backend leave of the cores.
#![expect(clippy::print_stdout, reason = "a table for people")]

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

const CONNECTIONS: u32 = 64;

/// Ticks per second of the times in `/proc/PID/stat`: 100 on every Linux that Rust runs on, whatever its own clock.
const USER_HZ: f64 = 100.0;

/// How long a program may take to begin or end.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
struct Arguments {
    /// How often each proxy has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long a turn is
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { rounds, seconds, .. }: &Arguments) -> anyhow::Result<()> {
    let wrk = need("wrk", "wrk")?;
    let nginx = need("nginx", "nginx-light")?;
    let dir = tempfile::Builder::new().prefix("bgproxy-bench-").tempdir_in("/tmp")?;
    let dir = dir.path();
    let backend = Running::nginx(&nginx, dir, "backend", &backend_conf(dir))?;

    let mut proxies = vec![bgproxy(dir)?, nginx_proxy(&nginx, dir)?];
    match need("haproxy", "haproxy") {
        Ok(haproxy) => proxies.push(haproxy_proxy(&haproxy, dir)?),
        Err(missing) => println!("without HAProxy: {missing}"),
    }
    println!("{}", machine());
    println!("backend: nginx, 1 worker, on a unix socket, 200 and a body of 612 bytes");
    for proxy in &proxies {
        println!("{}: {}", proxy.name, proxy.essentials);
    }
    println!("wrk: {CONNECTIONS} connections, 1 thread; {rounds} rounds of {seconds} s, in turns\n");

    for proxy in &proxies {
        proxy.turn(&wrk, 1)?;
    }
    for round in 0..*rounds as usize {
        for index in 0..proxies.len() {
            // Each round begins with another one.
            let index = (index + round) % proxies.len();
            let turn = proxies[index].turn(&wrk, *seconds)?;
            proxies[index].turns.push(turn);
        }
    }
    print!("{}", table(&proxies));
    drop((proxies, backend));
    Ok(())
}

// --- who takes part

struct Proxy {
    name: String,
    essentials: &'static str,
    address: SocketAddr,
    process: Running,
    turns: Vec<Turn>,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// CPU microseconds per request.
    cpu: f64,
    /// Requests per second.
    rate: f64,
    /// Latency in milliseconds.
    p50: f64,
    p99: f64,
    /// Memory in MiB when it ended, all processes.
    memory: f64,
}

fn backend_conf(dir: &Path) -> String {
    // As large as nginx's own welcome page.
    let body = format!("{}\n", "x".repeat(611));
    fs::write(dir.join("index.html"), body).expect("a page");
    let dir = dir.display();
    format!("worker_processes 1;\nserver {{ listen unix:{dir}/backend.sock; location / {{ root {dir}; }} }}")
}

fn bgproxy(dir: &Path) -> anyhow::Result<Proxy> {
    let (address, admin) = (free_address()?, free_address()?);
    fs::create_dir(dir.join("state"))?;
    let here = dir.display();
    let config = format!(
        "workers = 2\nlisten = [{{ address = \"{address}\" }}]\nadmin.address = \"{admin}\"\n\
         control.socket = \"{here}/control.sock\"\nstate.dir = \"{here}/state\"\n\
         limits.connections = 1000\nservice.bench.backends.blue = \"{here}/backend.sock\"\n"
    );
    let file = dir.join("bgproxy.toml");
    fs::write(&file, config)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgproxy"));
    let process = Running::start(command.arg("-c").arg(file), dir, "bgproxy")?;
    let name = format!("bgproxy {}", env!("CARGO_PKG_VERSION"));
    Proxy::new(name, "2 workers, no access log, defaults otherwise", address, process)
}

fn nginx_proxy(nginx: &Path, dir: &Path) -> anyhow::Result<Proxy> {
    let address = free_address()?;
    let here = dir.display();
    let config = format!(
        "worker_processes 2;\n\
         upstream backend {{ server unix:{here}/backend.sock; keepalive {CONNECTIONS}; keepalive_requests 1000000; }}\n\
         server {{ listen {address} reuseport; keepalive_requests 1000000;\n\
         location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id; }} }}"
    );
    let process = Running::nginx(nginx, dir, "proxy", &config)?;
    let name = version(nginx, "-v").replace("nginx version: nginx/", "nginx ");
    Proxy::new(name, "2 workers, reuseport, upstream keepalive, the same five headers, no access log", address, process)
}

fn haproxy_proxy(haproxy: &Path, dir: &Path) -> anyhow::Result<Proxy> {
    let address = free_address()?;
    let here = dir.display();
    let config = format!(
        "global\n nbthread 2\n maxconn 1000\n\
         defaults\n mode http\n timeout connect 2s\n timeout client 60s\n timeout server 60s\n\
         frontend door\n bind {address}\n unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid\n unique-id-header X-Request-Id\n\
         default_backend blue\n\
         backend blue\n http-reuse always\n option forwardfor\n http-request set-header X-Real-IP %[src]\n\
         http-request set-header X-Forwarded-Proto http\n http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         server blue unix@{here}/backend.sock\n"
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config)?;
    let process = Running::start(Command::new(haproxy).arg("-db").arg("-f").arg(file), dir, "haproxy")?;
    let name =
        version(haproxy, "-v").split(['-', '+']).next().unwrap_or_default().replace("HAProxy version", "HAProxy");
    Proxy::new(name, "2 threads, http-reuse always, the same five headers, no log", address, process)
}

impl Proxy {
    fn new(name: String, essentials: &'static str, address: SocketAddr, mut process: Running) -> anyhow::Result<Proxy> {
        process.wait_for(|| answers(address)).with_context(|| format!("{name} does not answer"))?;
        Ok(Proxy { name, essentials, address, process, turns: Vec::new() })
    }

    fn turn(&self, wrk: &Path, seconds: u32) -> anyhow::Result<Turn> {
        let before = self.process.cpu()?;
        let output = Command::new(wrk)
            .args(["--threads", "1", "--connections", &CONNECTIONS.to_string(), "--latency"])
            .args(["--duration", &format!("{seconds}s"), &format!("http://{}/", self.address)])
            .output()?;
        let used = self.process.cpu()? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(
            !text.contains("Non-2xx") && !text.contains("Socket errors"),
            "{}: not every request was answered with 200:\n{text}",
            self.name
        );
        let words = |label: &str| -> anyhow::Result<&str> {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
            line.map(str::trim).with_context(|| format!("no `{label}` in what wrk says:\n{text}"))
        };
        let total = text.lines().find_map(|line| line.split_once(" requests in ")).context("no total")?;
        let requests: f64 = total.0.trim().parse()?;
        Ok(Turn {
            cpu: used / requests * 1e6,
            rate: words("Requests/sec:")?.parse()?,
            p50: millis(words("50%")?)?,
            p99: millis(words("99%")?)?,
            memory: self.process.memory()?,
        })
    }
}

/// `1.23ms`, `456.00us` or `1.20s`, as wrk writes a time.
fn millis(text: &str) -> anyhow::Result<f64> {
    let (number, factor) = match text {
        text if text.ends_with("us") => (text.trim_end_matches("us"), 1e-3),
        text if text.ends_with("ms") => (text.trim_end_matches("ms"), 1.0),
        text => (text.trim_end_matches('s'), 1e3),
    };
    Ok(number.parse::<f64>().with_context(|| format!("`{text}` is no time"))? * factor)
}

// --- processes

/// A program with all its children; dropping it ends them.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(command: &mut Command, dir: &Path, name: &str) -> anyhow::Result<Running> {
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        Ok(Running { child: child.with_context(|| format!("cannot start {name}"))?, log })
    }

    /// nginx with everything it has in `dir/NAME`.
    fn nginx(nginx: &Path, dir: &Path, name: &str, config: &str) -> anyhow::Result<Running> {
        let home = dir.join(name);
        fs::create_dir(&home)?;
        // Started as root its workers would be another user, who cannot enter the directory.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let (main, http) = config.split_once('\n').context("a line for the process, the rest for http")?;
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {kind};"));
        let text = format!(
            "{user} {main} daemon off; pid pid; error_log stderr; worker_rlimit_nofile 4096;\n\
             events {{ worker_connections 2048; }}\n\
             http {{ access_log off; {} keepalive_requests 1000000; default_type text/html;\n{http} }}\n",
            temp.join(" ")
        );
        let file = home.join("nginx.conf");
        fs::write(&file, text)?;
        Running::start(Command::new(nginx).args(["-e", "stderr", "-p"]).arg(&home).arg("-c").arg(file), &home, "nginx")
    }

    fn wait_for(&mut self, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !ready() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                bail!("{}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            pause();
        }
        Ok(())
    }

    /// The process and its children.
    fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = vec![self.child.id()];
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if stat(pid).is_ok_and(|fields| fields[1] == self.child.id().to_string()) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// CPU seconds of all of them and all their threads so far.
    fn cpu(&self) -> anyhow::Result<f64> {
        let mut ticks = 0;
        for pid in self.pids()? {
            let fields = stat(pid)?;
            // utime and stime: fields 14 and 15 of proc(5), of which the first two are left out.
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
        Ok(ticks as f64 / USER_HZ)
    }

    /// MiB of memory of their own.
    fn memory(&self) -> anyhow::Result<f64> {
        let mut kib = 0;
        for pid in self.pids()? {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let lines = text.lines().filter_map(|line| line.strip_prefix("Pss:"));
            kib += lines.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(kib as f64 / 1024.0)
    }
}

/// What `/proc/PID/stat` says after the name, which may hold spaces and parentheses: state, parent, ...
fn stat(pid: u32) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("no name in stat")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nobody to tell.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause();
        }
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Between two looks at something that will be so soon.
#[expect(clippy::disallowed_methods, reason = "nothing tells us when a program listens or ends")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn need(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    let found = places.find_map(|dir| Some(Path::new(dir).join(program)).filter(|file| file.is_file()));
    found.with_context(|| format!("{program} is not installed: run `apt-get install {package}` (or `tests/install`)"))
}

/// The first line of what a program says about its version.
fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("machine: {cores} cores, {}, Linux {}", model.unwrap_or("unknown"), kernel.trim())
}

// --- the table

fn table(proxies: &[Proxy]) -> String {
    let cpu = |proxy: &Proxy| Spread::of(proxy, |turn| turn.cpu);
    let nginx = proxies.iter().find(|proxy| proxy.name.starts_with("nginx")).map(|proxy| cpu(proxy).median);
    let mut rows = vec![
        ["", "CPU us/request", "to nginx", "requests/s", "p50 ms", "p99 ms", "memory MiB"].map(str::to_owned).to_vec(),
    ];
    for proxy in proxies {
        let ratio = nginx.map_or(String::new(), |nginx| format!("{:.2}", cpu(proxy).median / nginx));
        rows.push(vec![
            proxy.name.clone(),
            cpu(proxy).show(1),
            ratio,
            Spread::of(proxy, |turn| turn.rate).show(0),
            Spread::of(proxy, |turn| turn.p50).show(2),
            Spread::of(proxy, |turn| turn.p99).show(2),
            Spread::of(proxy, |turn| turn.memory).show(1),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::from("medians, and the least and the most of all rounds:\n");
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(proxy: &Proxy, value: impl Fn(&Turn) -> f64) -> Spread {
        let mut values: Vec<f64> = proxy.turns.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Spread { median, least: values[0], most: values[values.len() - 1] }
    }

    fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.least, self.most)
    }
}
