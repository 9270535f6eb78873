//! Keep-alive clients that send one request after another, check every answer and remember which color gave it.
//!
//! Nothing is ever retried: a request that got no right answer is a failure, and stays one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http2::{Http2, runtime};
pub(crate) use super::kind::Kind;
use super::kind::{Ask, Check, prepare};
use super::raw::{Raw, Response, Target};
pub(crate) use super::tally::{Done, SwitchSeen, Tally};
use super::trust::Trust;
use super::{DEADLINE, pace, wait_for};

/// A load ends by itself after this, whatever its test does.
const LONGEST: Duration = Duration::from_secs(300);

/// What the clients of a load speak.
#[derive(Debug, Clone)]
pub(crate) enum Speaks {
    Http1,
    TlsHttp1(Trust),
    TlsHttp2(Trust),
    /// HTTP/2 in clear, by prior knowledge.
    H2c,
}

/// What a load is to be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    to: Target,
    mix: Vec<Kind>,
    connections: usize,
    speaks: Speaks,
    streams: usize,
    requests: usize,
    think: Duration,
    renew: usize,
}

impl Plan {
    /// `connections` connections in HTTP/1.1, each of which goes through `mix` again and again, each from another
    /// place.
    pub(crate) fn new(to: impl Into<Target>, connections: usize, mix: Vec<Kind>) -> Plan {
        Plan {
            to: to.into(),
            mix,
            connections,
            speaks: Speaks::Http1,
            streams: 1,
            requests: usize::MAX,
            think: Duration::ZERO,
            renew: usize::MAX,
        }
    }

    pub(crate) fn speaks(mut self, speaks: Speaks) -> Plan {
        self.speaks = speaks;
        self
    }

    /// So many requests at once on each connection, over HTTP/2.
    pub(crate) fn streams(mut self, streams: usize) -> Plan {
        self.streams = streams;
        self
    }

    /// At most so many requests, of each connection or stream slot.
    pub(crate) fn requests(mut self, requests: usize) -> Plan {
        self.requests = requests;
        self
    }

    /// Up to `think` between an answer and the next request: as much concurrency, but the machine has time for other
    /// things, such as starting `bgctl` two hundred times.
    pub(crate) fn think(mut self, think: Duration) -> Plan {
        self.think = think;
        self
    }

    /// A new connection after so many requests.
    pub(crate) fn renew(mut self, requests: usize) -> Plan {
        self.renew = requests;
        self
    }

    /// Begins.
    pub(crate) fn start(self) -> Load {
        let slots = match self.speaks {
            Speaks::Http1 | Speaks::TlsHttp1(_) => 1,
            Speaks::TlsHttp2(_) | Speaks::H2c => self.streams,
        };
        let plan = Arc::new(self);
        let stop = Arc::new(AtomicBool::new(false));
        let lists: Vec<Arc<Mutex<Vec<Done>>>> = (0..plan.connections * slots).map(|_| Arc::default()).collect();
        let mut callers = lists.iter().enumerate().map(|(number, list)| Caller {
            plan: Arc::clone(&plan),
            number,
            turn: 0,
            end: Instant::now() + LONGEST,
            random: fastrand::Rng::with_seed(number as u64),
            colors: Vec::new(),
            list: Arc::clone(list),
            stop: Arc::clone(&stop),
        });
        let threads = (0..plan.connections)
            .map(|_| {
                let plan = Arc::clone(&plan);
                let callers: Vec<Caller> = callers.by_ref().take(slots).collect();
                let body = move || match &plan.speaks {
                    Speaks::Http1 => callers.into_iter().for_each(|caller| call(caller, None)),
                    Speaks::TlsHttp1(trust) => callers.into_iter().for_each(|caller| call(caller, Some(trust))),
                    Speaks::TlsHttp2(trust) => call_at_once(&plan, callers, Some(trust)),
                    Speaks::H2c => call_at_once(&plan, callers, None),
                };
                std::thread::Builder::new().stack_size(1024 * 1024).spawn(body).expect("a thread")
            })
            .collect();
        Load { connections: lists, threads, stop }
    }
}

/// A running load.
pub(crate) struct Load {
    /// Over HTTP/2: of each stream slot.
    connections: Vec<Arc<Mutex<Vec<Done>>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Begins `connections` connections in HTTP/1.1, each of which goes through `mix` again and again, each from
    /// another place. [`Plan`] begins others.
    pub(crate) fn start(to: impl Into<Target>, connections: usize, mix: Vec<Kind>) -> Load {
        Plan::new(to, connections, mix).start()
    }

    /// The same, with at most `requests` requests per connection.
    pub(crate) fn bounded(to: impl Into<Target>, connections: usize, mix: Vec<Kind>, requests: usize) -> Load {
        Plan::new(to, connections, mix).requests(requests).start()
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
                count => {
                    Err(format!("{count} of {} lack it, {} requests failed", self.connections.len(), self.failed()))
                }
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

/// One request after another: a connection of HTTP/1.1, or a stream slot of HTTP/2.
struct Caller {
    plan: Arc<Plan>,
    number: usize,
    turn: usize,
    end: Instant,
    random: fastrand::Rng,
    colors: Vec<Arc<str>>,
    list: Arc<Mutex<Vec<Done>>>,
    stop: Arc<AtomicBool>,
}

impl Caller {
    /// How long to think before the next request; none when there is none.
    fn next(&mut self) -> Option<Duration> {
        if self.stop.load(Ordering::Acquire) || Instant::now() > self.end || self.turn == self.plan.requests {
            return None;
        }
        self.turn += 1;
        Some(self.plan.think.mul_f64(self.random.f64()))
    }

    fn kind(&self) -> &Kind {
        &self.plan.mix[(self.number + self.turn) % self.plan.mix.len()]
    }

    fn prepare(&mut self) -> (Ask, Check) {
        let kind = self.kind().clone();
        prepare(&kind, &mut self.random)
    }

    /// Remembers what became of a request; whether it was well.
    fn note(&mut self, sent: Instant, answer: Result<Response, String>, check: &Check) -> bool {
        let done = Instant::now();
        let (color, fault) = match answer {
            Ok(answer) => (answer.color().map(|color| self.known(color)), check(&answer).err()),
            Err(why) => (None, Some(why)),
        };
        let well = fault.is_none();
        let told = |why| format!("{:?} of caller {}, request {}: {why}", self.kind(), self.number, self.turn);
        let fault = fault.map(told);
        self.list.lock().expect("no panic").push(Done { color, sent, done, fault });
        well
    }

    /// The same few names again and again: one allocation each.
    fn known(&mut self, name: &str) -> Arc<str> {
        if let Some(color) = self.colors.iter().find(|color| &***color == name) {
            return Arc::clone(color);
        }
        let color: Arc<str> = name.into();
        self.colors.push(Arc::clone(&color));
        color
    }
}

/// A thread with a connection of HTTP/1.1.
fn call(mut caller: Caller, trust: Option<&Trust>) {
    let mut open: Option<Raw> = None;
    let mut used = 0;
    while let Some(think) = caller.next() {
        pace(think);
        let (ask, check) = caller.prepare();
        let sent = Instant::now();
        let answer = exchange(&caller.plan.to, trust, &mut open, &ask.bytes());
        used += 1;
        let goes_on = answer.as_ref().is_ok_and(Response::keeps_alive);
        if !caller.note(sent, answer, &check) || !goes_on || used == caller.plan.renew {
            open = None;
            used = 0;
        }
    }
}

fn exchange(to: &Target, trust: Option<&Trust>, open: &mut Option<Raw>, bytes: &[u8]) -> Result<Response, String> {
    let connect = || match trust {
        Some(trust) => Raw::try_connect_tls(to, trust),
        None => Raw::try_connect(to),
    };
    if open.is_none() {
        *open = Some(connect().map_err(|why| why.to_string())?);
    }
    let raw = open.as_mut().expect("connected");
    raw.try_send(bytes).and_then(|()| raw.try_response()).map_err(|why| why.to_string())
}

/// A thread with a connection of HTTP/2.
fn call_at_once(plan: &Plan, callers: Vec<Caller>, trust: Option<&Trust>) {
    let shared = tokio::sync::Mutex::new((None, 0));
    let calls = callers.into_iter().map(|caller| call_in_a_slot(plan, caller, trust, &shared));
    runtime().block_on(futures_util::future::join_all(calls));
}

/// The connection that the slots share, and how many requests were sent over it.
type Shared = tokio::sync::Mutex<(Option<Arc<Http2>>, usize)>;

async fn call_in_a_slot(plan: &Plan, mut caller: Caller, trust: Option<&Trust>, shared: &Shared) {
    while let Some(think) = caller.next() {
        tokio::time::sleep(think).await;
        let (ask, check) = caller.prepare();
        let sent = Instant::now();
        let answer = exchange_in_a_slot(plan, trust, shared, &ask).await;
        if !caller.note(sent, answer, &check) {
            *shared.lock().await = (None, 0);
        }
    }
}

async fn exchange_in_a_slot(
    plan: &Plan,
    trust: Option<&Trust>,
    shared: &Shared,
    ask: &Ask,
) -> Result<Response, String> {
    let connection = {
        let mut shared = shared.lock().await;
        if shared.1 == plan.renew || shared.0.as_ref().is_some_and(|open| open.has_ended()) {
            *shared = (None, 0);
        }
        shared.1 += 1;
        match &shared.0 {
            Some(open) => Arc::clone(open),
            None => {
                let open = Arc::new(Http2::connect(&plan.to, trust).await.map_err(|why| why.to_string())?);
                shared.0 = Some(Arc::clone(&open));
                open
            }
        }
    };
    let (head, body) = ask.http2("test");
    connection.ask(head, body).await.map_err(|why| why.to_string())
}
