//! Keep-alive clients that send one request after another, check every answer and remember which color gave it.
//!
//! Nothing is ever retried: a request that got no right answer is a failure, and stays one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::raw::{Raw, Response, Target, request};
use super::{DEADLINE, pace, wait_for};

/// A load ends by itself after this, whatever its test does.
const LONGEST: Duration = Duration::from_secs(300);

/// One kind of request, to be answered by the application of [`App`](super::App).
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The page that names its color.
    Index,
    /// The style sheet, from nginx alone.
    Static,
    /// A body of so many random bytes with a `Content-Length`, digested by the application.
    Post(usize),
    /// The same in chunks.
    PostChunked(usize),
    /// An answer of so many bytes.
    Big(usize),
}

impl Kind {
    /// What real clients mix.
    pub(crate) fn mixed() -> Vec<Kind> {
        use Kind::*;
        vec![Index, Post(100), Static, Index, PostChunked(5_000), Big(40_000), Index, Post(70_000)]
    }
}

/// One request and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// The color that answered, when there was an answer.
    pub(crate) color: Option<Arc<str>>,
    pub(crate) sent: Instant,
    pub(crate) done: Instant,
    /// What was wrong.
    pub(crate) fault: Option<String>,
}

/// A running load.
pub(crate) struct Load {
    connections: Vec<Arc<Mutex<Vec<Done>>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Begins `connections` connections, each of which goes through `mix` again and again, each from another place.
    pub(crate) fn start(to: impl Into<Target>, connections: usize, mix: Vec<Kind>) -> Load {
        Load::bounded(to, connections, mix, usize::MAX)
    }

    /// The same, with at most `requests` requests per connection.
    pub(crate) fn bounded(to: impl Into<Target>, connections: usize, mix: Vec<Kind>, requests: usize) -> Load {
        Load::begin(to.into(), connections, mix, requests, Duration::ZERO)
    }

    /// Without end, and with up to `think` between an answer and the next request: as much concurrency, but the
    /// machine has time for other things, such as starting `bgctl` two hundred times.
    pub(crate) fn thinking(to: impl Into<Target>, connections: usize, mix: Vec<Kind>, think: Duration) -> Load {
        Load::begin(to.into(), connections, mix, usize::MAX, think)
    }

    fn begin(to: Target, connections: usize, mix: Vec<Kind>, requests: usize, think: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let lists: Vec<Arc<Mutex<Vec<Done>>>> = (0..connections).map(|_| Arc::default()).collect();
        let threads = lists
            .iter()
            .enumerate()
            .map(|(number, list)| {
                let (to, mix, list, stop) = (to.clone(), mix.clone(), Arc::clone(list), Arc::clone(&stop));
                let body = move || Caller { to, mix, number, list, stop, think, open: None }.call(requests);
                std::thread::Builder::new().stack_size(256 * 1024).spawn(body).expect("a thread")
            })
            .collect();
        Load { connections: lists, threads, stop }
    }

    /// Requests ended so far, per connection.
    pub(crate) fn progress(&self) -> Vec<usize> {
        self.connections.iter().map(|list| list.lock().expect("no panic").len()).collect()
    }

    /// Requests failed so far.
    pub(crate) fn failed(&self) -> usize {
        let failed = |list: &Arc<Mutex<Vec<Done>>>| {
            list.lock().expect("no panic").iter().filter(|done| done.fault.is_some()).count()
        };
        self.connections.iter().map(failed).sum()
    }

    /// Waits until every connection has ended a request that it sent after this call.
    #[track_caller]
    pub(crate) fn wait_round(&self) {
        let since = Instant::now();
        self.wait_each("a request", |done| done.sent >= since);
    }

    /// Waits until every connection has had an answer from `color` to a request that it sent after this call.
    #[track_caller]
    pub(crate) fn wait_round_of(&self, color: &str) {
        let since = Instant::now();
        self.wait_each(color, |done| done.sent >= since && done.color.as_deref() == Some(color));
    }

    /// Waits until any connection has had an answer from `color` to a request that it sent after this call.
    #[track_caller]
    pub(crate) fn wait_answer_of(&self, color: &str) {
        let since = Instant::now();
        wait_for(&format!("an answer of {color}"), DEADLINE, || {
            let hit = |done: &Done| done.sent >= since && done.color.as_deref() == Some(color);
            let any = self.connections.iter().any(|list| newest(list, since).iter().any(hit));
            any.then_some(()).ok_or("none")
        });
    }

    #[track_caller]
    fn wait_each(&self, what: &str, hit: impl Fn(&Done) -> bool) {
        let since = Instant::now();
        wait_for(&format!("{what} on every connection"), DEADLINE, || {
            let lacking = |list: &&Arc<Mutex<Vec<Done>>>| !newest(list, since).iter().any(&hit);
            match self.connections.iter().filter(lacking).count() {
                0 => Ok(()),
                count => Err(format!("{count} of {} lack it, {} requests failed", self.threads.len(), self.failed())),
            }
        });
    }

    /// Lets every connection end its request, and counts.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Tally {
        self.end();
        let take = |list: &Arc<Mutex<Vec<Done>>>| std::mem::take(&mut *list.lock().expect("no panic"));
        Tally { connections: self.connections.iter().map(take).collect() }
    }

    /// Waits until a bounded load has sent all it was told to, and counts.
    #[track_caller]
    pub(crate) fn finish(self) -> Tally {
        wait_for("the load's last request", LONGEST, || {
            let running = self.threads.iter().filter(|thread| !thread.is_finished()).count();
            if running == 0 { Ok(()) } else { Err(format!("{running} connections go on: {:?}", self.progress())) }
        });
        self.stop()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("a connection's thread panicked");
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was added at the end of a list since then.
fn newest(list: &Mutex<Vec<Done>>, since: Instant) -> Vec<Done> {
    let list = list.lock().expect("no panic");
    let mut new: Vec<Done> = list.iter().rev().take_while(|done| done.done >= since).cloned().collect();
    new.reverse();
    new
}

/// One connection of a load.
struct Caller {
    to: Target,
    mix: Vec<Kind>,
    number: usize,
    list: Arc<Mutex<Vec<Done>>>,
    stop: Arc<AtomicBool>,
    think: Duration,
    open: Option<Raw>,
}

impl Caller {
    fn call(mut self, requests: usize) {
        let end = Instant::now() + LONGEST;
        let mut random = fastrand::Rng::with_seed(self.number as u64);
        let mut colors: Vec<Arc<str>> = Vec::new();
        for turn in 0..requests {
            if self.stop.load(Ordering::Acquire) || Instant::now() > end {
                return;
            }
            pace(self.think.mul_f64(random.f64()));
            let kind = self.mix[(self.number + turn) % self.mix.len()].clone();
            let (bytes, check) = prepare(&kind, &mut random);
            let sent = Instant::now();
            let (color, fault) = match self.exchange(&bytes) {
                Ok(response) => (response.color().map(|color| known(&mut colors, color)), check(&response).err()),
                Err(why) => (None, Some(why)),
            };
            let done = Instant::now();
            if fault.is_some() {
                self.open = None;
            }
            let fault = fault.map(|why| format!("{kind:?} on connection {}, request {turn}: {why}", self.number));
            self.list.lock().expect("no panic").push(Done { color, sent, done, fault });
        }
    }

    fn exchange(&mut self, bytes: &[u8]) -> Result<Response, String> {
        if self.open.is_none() {
            self.open = Some(Raw::try_connect(&self.to).map_err(|why| why.to_string())?);
        }
        let open = self.open.as_mut().expect("connected");
        let answer = open.try_send(bytes).and_then(|()| open.try_response()).map_err(|why| why.to_string())?;
        if !answer.keeps_alive() {
            self.open = None;
        }
        Ok(answer)
    }
}

/// The same few names again and again: one allocation each.
fn known(colors: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(color) = colors.iter().find(|color| &***color == name) {
        return Arc::clone(color);
    }
    colors.push(name.into());
    colors[colors.len() - 1].clone()
}

type Check = Box<dyn Fn(&Response) -> Result<(), String>>;

/// A request's bytes, and what its answer must be.
fn prepare(kind: &Kind, random: &mut fastrand::Rng) -> (Vec<u8>, Check) {
    match *kind {
        Kind::Index => (
            request("GET", "/", &[], b""),
            Box::new(|answer| {
                let color = expect_ok(answer)?;
                expect_eq("body", answer.text(), format!("{color}\n"))
            }),
        ),
        Kind::Static => (
            request("GET", "/static/style.css", &[], b""),
            Box::new(|answer| {
                expect_ok(answer)?;
                expect_eq("body", answer.body.as_slice(), include_bytes!("../app/static/style.css"))
            }),
        ),
        Kind::Big(size) => (
            request("GET", &format!("/big?bytes={size}"), &[], b""),
            Box::new(move |answer| {
                expect_ok(answer)?;
                expect_eq("length", answer.body.len(), size)?;
                let right = answer.body.iter().zip((0..251u8).cycle()).all(|(is, must)| *is == must);
                expect_eq("every byte right", right, true)
            }),
        ),
        Kind::Post(size) => {
            let body = random_bytes(size, random);
            (request("POST", "/echo?a=1", &[], &body), check_echo(&body))
        }
        Kind::PostChunked(size) => {
            let body = random_bytes(size, random);
            let mut bytes = request("POST", "/echo?a=2", &[("Transfer-Encoding", "chunked")], b"");
            for piece in body.chunks(1_700) {
                bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            (bytes, check_echo(&body))
        }
    }
}

fn check_echo(body: &[u8]) -> Check {
    let (length, digest) = (body.len(), hex(&Sha256::digest(body)));
    Box::new(move |answer| {
        let color = expect_ok(answer)?;
        let said: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|why| why.to_string())?;
        expect_eq("method", &said["method"], &"POST".into())?;
        expect_eq("length", &said["length"], &length.into())?;
        expect_eq("sha256", &said["sha256"], &digest.as_str().into())?;
        expect_eq("color", &said["color"], &color.into())
    })
}

/// The color of an answer that is a 200 with a color.
fn expect_ok(answer: &Response) -> Result<&str, String> {
    if answer.status != 200 {
        return Err(format!("status {} ({}): {}", answer.status, via(answer), answer.text()));
    }
    answer.color().ok_or_else(|| "no X-Color".to_owned())
}

fn via(answer: &Response) -> &str {
    answer.header("proxy-status").unwrap_or("no Proxy-Status")
}

fn expect_eq<T: PartialEq + std::fmt::Debug>(what: &str, is: T, must: T) -> Result<(), String> {
    if is == must { Ok(()) } else { Err(format!("{what} is {is:?}, must be {must:?}")) }
}

fn random_bytes(size: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A switch as its commander saw it.
#[derive(Debug, Clone)]
pub(crate) struct SwitchSeen {
    pub(crate) asked: Instant,
    /// When the reply had come: from here on only `to` may answer.
    pub(crate) replied: Instant,
    pub(crate) to: String,
}

impl SwitchSeen {
    /// Commands a switch and notes when.
    pub(crate) fn during<T>(to: &str, command: impl FnOnce() -> T) -> (SwitchSeen, T) {
        let asked = Instant::now();
        let reply = command();
        (SwitchSeen { asked, replied: Instant::now(), to: to.to_owned() }, reply)
    }
}

/// All that a load has seen.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Per connection, in the order the requests were sent.
    pub(crate) connections: Vec<Vec<Done>>,
}

impl Tally {
    pub(crate) fn total(&self) -> usize {
        self.all().count()
    }

    /// What went wrong, a line each.
    pub(crate) fn faults(&self) -> Vec<&str> {
        self.all().filter_map(|done| done.fault.as_deref()).collect()
    }

    /// Fails the test, with the first faults, if there was any.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let faults = self.faults();
        let first = &faults[..faults.len().min(10)];
        assert!(faults.is_empty(), "{} of {} requests failed:\n{}", faults.len(), self.total(), first.join("\n"));
    }

    /// Answers per color.
    pub(crate) fn by_color(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for color in self.all().filter_map(|done| done.color.as_deref()) {
            *counts.entry(color.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Cuts each connection's answers into terms (runs of one color) and sums the i-th over all connections: how many
    /// requests each term of a live color served, as the clients saw it. To be compared with the drains' receipts.
    ///
    /// # Errors
    /// A connection has another number of terms than the first one, or other colors in them: it was not waited for
    /// between two switches (see [`Load::wait_round`]).
    pub(crate) fn terms(&self) -> Result<Vec<(String, u64)>, String> {
        let mut sums: Option<Vec<(String, u64)>> = None;
        for (number, answers) in self.connections.iter().enumerate() {
            let mut terms: Vec<(String, u64)> = Vec::new();
            for color in answers.iter().filter_map(|done| done.color.as_deref()) {
                match terms.last_mut() {
                    Some((last, count)) if last == color => *count += 1,
                    _ => terms.push((color.to_owned(), 1)),
                }
            }
            let Some(sums) = &mut sums else {
                sums = Some(terms);
                continue;
            };
            let alike = sums.len() == terms.len() && sums.iter().zip(&terms).all(|(a, b)| a.0 == b.0);
            if !alike {
                return Err(format!("connection {number} has {} terms, connection 0 {}", terms.len(), sums.len()));
            }
            for (sum, term) in sums.iter_mut().zip(terms) {
                sum.1 += term.1;
            }
        }
        Ok(sums.unwrap_or_default())
    }

    /// Requests sent after a switch's reply and ended before the next switch was asked for that another color than the
    /// new one answered. There must be none: the reply is a promise.
    pub(crate) fn served_by_the_wrong_color(&self, switches: &[SwitchSeen]) -> Vec<&Done> {
        self.all()
            .filter(|done| {
                let Some(last) = switches.partition_point(|seen| seen.replied <= done.sent).checked_sub(1) else {
                    return false;
                };
                let settled = switches.get(last + 1).is_none_or(|next| done.done <= next.asked);
                settled && done.color.as_deref().is_some_and(|color| color != switches[last].to)
            })
            .collect()
    }

    /// Fails the test when there was any such request.
    #[track_caller]
    pub(crate) fn assert_served_by_the_right_color(&self, switches: &[SwitchSeen]) {
        let wrong = self.served_by_the_wrong_color(switches);
        let Some(first) = wrong.first() else { return };
        let last = switches.iter().rfind(|seen| seen.replied <= first.sent).expect("or it would not be wrong");
        let late = first.sent - last.replied;
        panic!("{} wrong; the first was sent {late:?} after {} went live: {first:?}", wrong.len(), last.to);
    }

    fn all(&self) -> impl Iterator<Item = &Done> {
        self.connections.iter().flatten()
    }
}
