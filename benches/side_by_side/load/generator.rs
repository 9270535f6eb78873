//! How is latency measured under a rate that does not give way? Every request has its time on a schedule, and its
//! latency runs from then, whether or not a connection was free.
//!
//! A client that waits for an answer before it sends the next request sends less while a proxy stands still, and so
//! leaves out just what ought to be seen (coordinated omission). One thread, plain sockets, epoll, and a timer of the
//! kernel's: it takes little of the cores that the proxies need.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use super::address::{Address, head};
use super::outcome::{Failed, Outcome, Seen};
use super::talk::{Heard, Talk};

/// Beyond the schedule's end: how long requests that are late may take.
const LEEWAY: Duration = Duration::from_secs(5);

/// As `nice` has it.
const PRECEDENCE: i32 = -19;

/// The timer among the events; the others are connections.
const TIMER: u64 = u64::MAX;

/// How often requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As soon as there is a connection: what the proxy can do.
    Full,
    /// So many per second, whatever comes of it.
    Fixed(f64),
}

/// What is to be sent.
pub(crate) struct Plan<'p> {
    pub(crate) to: &'p Address,
    pub(crate) connections: usize,
    pub(crate) talk: &'p Talk,
    pub(crate) pace: Pace,
    pub(crate) time: Duration,
}

/// Does as planned, in a thread of its own.
pub(crate) fn generate(plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    let body = || {
        if matches!(plan.pace, Pace::Fixed(_)) {
            // Of this thread only: it must be on time whoever else wants the cores. Where that is not allowed, it is
            // late more often, as it tells.
            let _denied = rustix::process::setpriority_process(None, PRECEDENCE);
        }
        Generator::new(plan)?.run()
    };
    std::thread::scope(|scope| scope.spawn(body).join().map_err(|_| anyhow!("the generator has panicked"))?)
}

struct Generator<'p> {
    plan: &'p Plan<'p>,
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// Those that wait for a request, the longest first.
    idle: VecDeque<usize>,
    start: Instant,
    outcome: Outcome,
    random: fastrand::Rng,
    buffer: Vec<u8>,
}

struct Connection {
    socket: socket2::Socket,
    state: State,
    heard: Heard,
}

#[derive(Clone, Copy)]
enum State {
    Connecting,
    Idle {
        since: Instant,
    },
    Asked {
        due: Instant,
        sent: Instant,
        /// Which of the requests, and how much of it the kernel has taken.
        ask: usize,
        taken: usize,
    },
}

impl<'p> Generator<'p> {
    fn new(plan: &'p Plan<'p>) -> anyhow::Result<Generator<'p>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let mut connections = Vec::new();
        for index in 0..plan.connections {
            let mut socket = plan.to.connect()?;
            if let Some(greeting) = &plan.talk.greeting {
                socket.write_all(greeting)?;
                let head = head(&mut socket)?;
                ensure!(head.starts_with("HTTP/1.1 101"), "no tunnel: {head}");
            }
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            let state = State::Idle { since: Instant::now() };
            connections.push(Connection { socket, state, heard: Heard::default() });
        }
        let histogram = || Histogram::new_with_bounds(1, 100_000_000_000, 3).context("a histogram");
        let outcome = Outcome {
            latency: histogram()?,
            late: histogram()?,
            sent: 0,
            answered: 0,
            failed: Failed::default(),
            renewed: 0,
            elapsed: Duration::ZERO,
            seen: Vec::new(),
        };
        let (idle, start, random) = ((0..plan.connections).collect(), Instant::now(), fastrand::Rng::with_seed(1));
        let buffer = vec![0; 32 * 1024];
        Ok(Generator { plan, epoll, timer, connections, idle, start, outcome, random, buffer })
    }

    fn run(mut self) -> anyhow::Result<Outcome> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(1024);
        let end = self.start + self.plan.time;
        loop {
            let next = self.send_what_is_due()?;
            let asked = self.connections.len() - self.idle.len();
            if (next.is_none() && asked == 0) || Instant::now() > end + LEEWAY {
                break;
            }
            // A free connection waits for the schedule; else an answer has to come first.
            self.wake_at(next.unwrap_or(end + LEEWAY))?;
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match { event.data }.u64() {
                    TIMER => {
                        let mut times = [0; 8];
                        // Nothing to read when it was set anew since.
                        let _expired = rustix::io::read(&self.timer, &mut times);
                    }
                    index => self.happened(index as usize)?,
                }
            }
        }
        self.outcome.elapsed = self.start.elapsed();
        let asked = self.connections.iter().filter(|one| matches!(one.state, State::Asked { .. })).count();
        self.outcome.failed.late += asked as u64 + self.total().map_or(0, |total| total - self.outcome.sent);
        Ok(self.outcome)
    }

    /// How many requests are on the schedule.
    fn total(&self) -> Option<u64> {
        match self.plan.pace {
            Pace::Full => None,
            Pace::Fixed(rate) => Some((rate * self.plan.time.as_secs_f64()) as u64),
        }
    }

    /// The time of the next request on the schedule; none when there is none any more.
    fn next_due(&self) -> Option<Instant> {
        match self.plan.pace {
            Pace::Full => Some(Instant::now()).filter(|now| *now < self.start + self.plan.time),
            Pace::Fixed(rate) => Some(self.start + Duration::from_secs_f64(self.outcome.sent as f64 / rate))
                .filter(|_| Some(self.outcome.sent) < self.total()),
        }
    }

    /// Sends; returns when there will be something to send, if only a connection is free.
    fn send_what_is_due(&mut self) -> anyhow::Result<Option<Instant>> {
        while let Some(due) = self.next_due() {
            let now = Instant::now();
            let Some(index) = self.idle.front().copied().filter(|_| due <= now) else {
                return Ok(Some(if self.idle.is_empty() { now + LEEWAY } else { due }));
            };
            self.idle.pop_front();
            let connection = &mut self.connections[index];
            // One that became free too late is the proxy's fault.
            if matches!(connection.state, State::Idle { since } if since < due) {
                self.outcome.late.record((now - due).as_nanos() as u64)?;
            }
            let ask = self.random.usize(..self.plan.talk.asks.len());
            connection.heard.clear();
            connection.state = State::Asked { due, sent: now, ask, taken: 0 };
            self.outcome.sent += 1;
            self.send(index)?;
        }
        Ok(None)
    }

    fn wake_at(&self, when: Instant) -> anyhow::Result<()> {
        let left = when.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Something happened on a connection.
    fn happened(&mut self, index: usize) -> anyhow::Result<()> {
        match self.connections[index].state {
            State::Connecting => {
                if let Some(error) = self.connections[index].socket.take_error()? {
                    bail!("cannot connect again: {error}");
                }
                self.listen(index, false)?;
                self.rest(index);
                Ok(())
            }
            State::Asked { ask, taken, .. } if taken < self.plan.talk.asks[ask].len() => {
                self.send(index)?;
                self.receive(index)
            }
            State::Idle { .. } | State::Asked { .. } => self.receive(index),
        }
    }

    fn rest(&mut self, index: usize) {
        self.connections[index].state = State::Idle { since: Instant::now() };
        self.idle.push_back(index);
    }

    /// Whether to be told when the kernel takes more, beside when there is something to read.
    fn listen(&self, index: usize, and_more: bool) -> anyhow::Result<()> {
        let more = if and_more { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(index as u64);
        epoll::modify(&self.epoll, &self.connections[index].socket, data, epoll::EventFlags::IN | more)?;
        Ok(())
    }

    fn send(&mut self, index: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let State::Asked { ask, taken, .. } = &mut connection.state else { return Ok(()) };
        let bytes = &self.plan.talk.asks[*ask];
        let first = *taken == 0;
        match (&connection.socket).write(&bytes[*taken..]) {
            Ok(count) => *taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Closed; reading says so too.
            Err(_) => return Ok(()),
        }
        let whole = *taken == bytes.len();
        if first && whole { Ok(()) } else { self.listen(index, !whole) }
    }

    fn receive(&mut self, index: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let bytes = match (&connection.socket).read(&mut self.buffer) {
            Ok(count) => &self.buffer[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(_reset) => &[],
        };
        let State::Asked { due, sent, .. } = connection.state else {
            if !bytes.is_empty() {
                bail!("bytes that nobody asked for: {}", bytes.escape_ascii());
            }
            self.idle.retain(|idle| *idle != index);
            self.outcome.renewed += 1;
            return self.renew(index);
        };
        if bytes.is_empty() {
            let counter = &mut self.outcome.failed;
            *(if connection.heard.is_empty() { &mut counter.unanswered } else { &mut counter.cut }) += 1;
            return self.renew(index);
        }
        let Some(answer) = connection.heard.hear(bytes, self.plan.talk)? else { return Ok(()) };
        let done = Instant::now();
        if answer.is_well {
            self.outcome.answered += 1;
            self.outcome.latency.record((done - due).as_nanos() as u64)?;
        } else {
            self.outcome.failed.refused += 1;
        }
        if let Some(color) = answer.color.filter(|_| self.plan.talk.tells_color) {
            self.outcome.seen.push(Seen { sent, done, color });
        }
        if answer.is_last {
            return self.renew(index);
        }
        self.rest(index);
        Ok(())
    }

    /// A new connection in the place of one that has ended.
    fn renew(&mut self, index: usize) -> anyhow::Result<()> {
        if self.plan.talk.greeting.is_some() {
            bail!("a tunnel ended");
        }
        let socket = self.plan.to.begin()?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), flags)?;
        // The old one is dropped, and leaves epoll thereby.
        self.connections[index] = Connection { socket, state: State::Connecting, heard: Heard::default() };
        Ok(())
    }
}
