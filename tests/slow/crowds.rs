//! What do crowds of slow clients cost everybody else? A thousand of slowhttptest's in each of its modes, and ten
//! thousand idle connections over TLS, alone and beside those, while a normal client asks and `bgctl status` is asked.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::Socket;

use crate::harness::door::{Metrics, NAME};
use crate::harness::others::nginx;
use crate::harness::raw::request;
use crate::harness::{Authority, DEADLINE, Door, Process, Raw, Trust, need, pace, tell, wait_for, wait_until};

/// What a normal client waits at most, but for the odd one, and `bgctl status`.
const ANSWERED: Duration = Duration::from_millis(50);
const STATUS: Duration = Duration::from_millis(100);

/// How many slow clients are a crowd, how long one stays that nobody gives up, and how long one may take at most.
const CROWD: f64 = 1000.0;
const STAY: Duration = Duration::from_secs(7);
const COMING: Duration = Duration::from_secs(120);

/// The machine has other things to do than these tests, and that is no fault of the door's. So the same is asked of a
/// door that has no crowd before it, what it takes there is allowed for, and one bad moment is.
const TRIES: usize = 3;

/// One crowd at a time: each takes what there is of the machine.
static TURN: Mutex<()> = Mutex::new(());

/// What those wait who are no part of a crowd.
#[derive(Default)]
struct Waits {
    answers: Vec<Duration>,
    status: Vec<Duration>,
}

/// A normal client of one door.
struct Normal<'a> {
    door: &'a Door,
    address: SocketAddr,
    kept: Raw,
    waits: Waits,
}

impl<'a> Normal<'a> {
    fn of(door: &'a Door) -> Normal<'a> {
        let address = door.listener(door.status().listen.len() - 1);
        Normal { door, address, kept: Raw::connect(address), waits: Waits::default() }
    }

    /// Asks for a page, by the connection that it keeps and by a new one in turn.
    fn ask(&mut self, page: &str) {
        let (ask, begun) = (request("GET", page, &[], b""), Instant::now());
        let mut new = (self.waits.answers.len() % 2 == 1).then(|| Raw::connect(self.address));
        let answer = new.as_mut().unwrap_or(&mut self.kept).send(&ask).response();
        self.waits.answers.push(begun.elapsed());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn ask_status(&mut self) {
        let begun = Instant::now();
        self.door.bgctl(&["status"]).ok();
        self.waits.status.push(begun.elapsed());
    }

    fn waited(mut self) -> Waits {
        self.waits.answers.sort();
        self.waits.status.sort();
        self.waits
    }
}

/// What normal clients wait at two doors while `while_` holds: at the one with a crowd before it, and at the calm one.
fn both(crowded: &Door, calm: &Door, page: &str, mut while_: impl FnMut() -> bool) -> (Waits, Waits) {
    let (mut crowded, mut calm, mut asked) = (Normal::of(crowded), Normal::of(calm), Instant::now());
    while while_() {
        let ask_status = asked.elapsed() > Duration::from_millis(200);
        for client in [&mut crowded, &mut calm] {
            client.ask(page);
            if ask_status {
                client.ask_status();
                asked = Instant::now();
            }
        }
        pace(Duration::from_millis(5));
    }
    (crowded.waited(), calm.waited())
}

impl Waits {
    /// Whether they are short for a machine on which those others are what one waits without a crowd.
    fn are_short(&self, calm: &Waits) -> bool {
        quantile(&self.answers, 0.99) <= ANSWERED + 2 * quantile(&calm.answers, 0.99)
            && quantile(&self.status, 0.75) <= STATUS + 2 * quantile(&calm.status, 0.75)
    }
}

impl std::fmt::Display for Waits {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, all, most) in [("answers", &self.answers, 0.99), ("`bgctl status`", &self.status, 0.75)] {
            let [half, most_of_all, max] = [0.5, most, 1.0].map(|part| quantile(all, part).as_secs_f64() * 1000.0);
            let percent = most * 100.0;
            write!(to, "{} {what}: p50 {half:.1}, p{percent:.0} {most_of_all:.1}, max {max:.1} ms; ", all.len())?;
        }
        Ok(())
    }
}

/// The wait that this part of all did not exceed.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// One of slowhttptest's modes: what it asks for, and how.
struct Mode {
    name: &'static str,
    target: &'static str,
    options: &'static [&'static str],
}

const HEADS: Mode = Mode { name: "-H", target: "/page", options: &["-i", "1", "-x", "24"] };
const BODIES: Mode = Mode { name: "-B", target: "/upload", options: &["-i", "1", "-x", "10", "-s", "8192"] };
const RANGES: Mode = Mode { name: "-R", target: "/big", options: &["-a", "1", "-b", "1500"] };
const READERS: Mode =
    Mode { name: "-X", target: "/big", options: &["-w", "64", "-y", "512", "-n", "1", "-z", "32", "-k", "1"] };

impl Mode {
    /// A thousand clients that come within three seconds.
    fn attack(&self, address: SocketAddr, log: &Path) -> Process {
        let (mut command, url) = (Command::new(need("slowhttptest")), format!("http://{address}{}", self.target));
        command.args(["-c", "1000", "-r", "400", "-l", "300", "-p", "3", "-u", &url, self.name]).args(self.options);
        Process::start("slowhttptest", &mut command, log)
    }
}

/// What all of them ask.
fn backend(dir: &Path, socket: &Path) -> Process {
    std::fs::write(dir.join("page"), "a page\n").unwrap();
    std::fs::File::create(dir.join("big")).unwrap().set_len(64 << 20).unwrap();
    let (root, at) = (dir.display(), socket.display());
    // An upload is read to its end before anybody is asked: what nginx does before an application.
    let server = format!(
        "server {{ listen unix:{at} backlog=1024; client_max_body_size 0; location / {{ root {root}; }}\n\
         location /upload {{ proxy_pass http://unix:{at}:/page; }} }}"
    );
    nginx(dir, &server, socket)
}

/// A thousand of slowhttptest's clients, in one of its modes: until each of them has been given up for this reason, or
/// for a while where they are soon answered and come again.
#[track_caller]
fn crowd(mode: &Mode, given_up: Option<&str>) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Half of the time that there is by default, and a tenth: nobody shall wait for a test for a minute.
    let builder = Door::builder().set("limits.header_time", "5s").set("service.portal.timeouts.idle", "6s");
    let dir = builder.dir().to_owned();
    let socket = dir.join("blue.sock");
    let _blue = backend(&dir, &socket);
    let (door, calm) = (builder.start(), Door::builder().color("blue", &socket).start());
    for attempt in 1..=TRIES {
        let attack = || mode.attack(door.addr(), &dir.join(format!("slow-{attempt}.log")));
        let (begun, mut attacker, before) = (Instant::now(), attack(), door.metrics());
        let (mut most, mut kernel, mut looked, mut over) = (0.0_f64, 0, Instant::now(), false);
        let (waits, without) = both(&door, &calm, "/page", || {
            if looked.elapsed() > Duration::from_millis(500) {
                looked = Instant::now();
                let now = door.metrics();
                most = most.max(now.sum("bgproxy_connections_open", &[]));
                kernel = kernel.max(kernel_memory());
                over = match given_up {
                    Some(reason) => failures(&now, reason) - failures(&before, reason) >= CROWD,
                    None => begun.elapsed() > STAY && requests(&now) - requests(&before) >= CROWD,
                };
            }
            if attacker.ended().is_some() {
                attacker = attack();
            }
            !over && begun.elapsed() < COMING
        });
        let took = begun.elapsed().as_secs_f64();
        attacker.terminate();
        let left = Instant::now();
        let after = door.quiet();
        let came = requests(&after) - requests(&before) - waits.answers.len() as f64;
        let ended = after.by("bgproxy_request_failures_total", "reason");
        tell(format_args!(
            "slowhttptest {}: {came:.0} requests in {took:.1} s, at most {most:.0} connections at once, none {:.1} s \
             after the last; failed: {ended:?}; {waits}{} KiB resident, {kernel} KiB in the kernel. Without a crowd: \
             {without}",
            mode.name,
            left.elapsed().as_secs_f64(),
            door.resident(),
        ));
        // On a machine that is too busy for all of them to come, the first have been given up before the last is here.
        let is_crowd = over && (given_up.is_none() || most >= 0.9 * CROWD);
        // What they send after that is no request of theirs.
        assert!(!ended.contains_key("head_malformed"), "{ended:?}");
        // Unbounded, readers that do not read take all that there is: two gigabytes on a host with 24.
        assert!(kernel < 1024 * 1024, "{kernel} KiB");
        if is_crowd && waits.are_short(&without) {
            return;
        }
        assert!(is_crowd || attempt < TRIES, "there was no crowd: {}", attacker.log());
        assert!(attempt < TRIES, "normal clients waited: {waits}");
    }
}

/// How many requests have failed for this reason.
fn failures(metrics: &Metrics, reason: &str) -> f64 {
    metrics.sum("bgproxy_request_failures_total", &[("reason", reason)])
}

/// How many requests there have been, those included of which no head came.
fn requests(metrics: &Metrics) -> f64 {
    metrics.sum("bgproxy_requests_total", &[])
}

/// Memory that the kernel uses for TCP, in KiB.
fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages: u64 = line.rsplit_once("mem ").unwrap().1.trim().parse().unwrap();
    pages * 4
}

#[test]
fn a_thousand_slow_heads_cost_the_others_nothing() {
    crowd(&HEADS, Some("head_timeout"));
}

#[test]
fn a_thousand_slow_bodies_cost_the_others_nothing() {
    crowd(&BODIES, Some("body_timeout"));
}

#[test]
fn a_thousand_absurd_ranges_cost_the_others_nothing() {
    crowd(&RANGES, None);
}

#[test]
fn a_thousand_slow_readers_cost_the_others_nothing() {
    crowd(&READERS, Some("client_timeout"));
}

#[test]
fn ten_thousand_idle_connections_over_tls_cost_memory_and_nothing_else() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let authority = Authority::new();
    let builder = Door::builder().tls(&authority);
    // None of them shall leave before the last has come.
    let builder = builder.set("limits.idle_time", "10m").set("limits.first_byte_time", "10m");
    let (dir, socket) = (builder.dir().to_owned(), builder.dir().join("blue.sock"));
    let _blue = backend(&dir, &socket);
    let door = builder.start();
    let count = open_files().saturating_sub(2_000).min(10_000) as usize;
    let before = door.resident();
    let begun = Instant::now();
    let idle = idle_over_tls(&door, &Trust::of(&authority, NAME).resuming(), count);
    let took = begun.elapsed();
    let parked = wait_for("all of them to be parked", DEADLINE, || {
        let parked = door.metrics().sum("bgproxy_connections_parked", &[]);
        if parked >= count as f64 { Ok(parked) } else { Err(format!("{parked} are")) }
    });
    let resident = door.resident();
    let each = (resident - before) as f64 / count as f64;
    tell(format_args!(
        "{parked:.0} idle connections over TLS, open after {:.1} s: {each:.1} KiB each, {resident} KiB resident in all",
        took.as_secs_f64(),
    ));
    assert!(each < 32.0, "{each:.1} KiB for each");
    let calm = Door::builder().color("blue", &socket).start();
    for beside in [None, Some(HEADS), Some(BODIES), Some(RANGES), Some(READERS)] {
        for attempt in 1..=TRIES {
            let attacker =
                beside.as_ref().map(|mode| mode.attack(door.listener(1), &dir.join(format!("{}.log", mode.name))));
            let begun = Instant::now();
            let (waits, without) = both(&door, &calm, "/page", || begun.elapsed() < Duration::from_secs(4));
            tell(format_args!(
                "{count} idle over TLS, and slowhttptest {}: {} KiB resident, {} KiB in the kernel; {waits}Without a crowd: \
                 {without}",
                beside.as_ref().map_or("none", |mode| mode.name),
                door.resident(),
                kernel_memory()
            ));
            if let Some(mut attacker) = attacker {
                attacker.terminate();
            }
            if waits.are_short(&without) {
                break;
            }
            assert!(attempt < TRIES, "normal clients waited: {waits}");
        }
    }
    wait_until("all of them, and nobody else, to be there", DEADLINE, || {
        door.metrics().sum("bgproxy_connections_open", &[]) == count as f64
    });
    drop(idle);
    door.quiet();
}

/// How many files this process and its children may open.
fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

/// Connections that have shaken hands and asked once; only the sockets are kept, for TLS has no more to say.
fn idle_over_tls(door: &Door, trust: &Trust, count: usize) -> Vec<Socket> {
    const THREADS: usize = 4;
    let connect = |_| {
        let mut client = Raw::connect_tls(door.addr(), trust);
        assert_eq!(client.send(request("GET", "/page", &[], b"")).response().status, 200);
        client.into_socket()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|part| scope.spawn(move || (part..count).step_by(THREADS).map(connect).collect()))
            .collect();
        threads.into_iter().flat_map(|thread| -> Vec<Socket> { thread.join().unwrap() }).collect()
    })
}
