//! What does a worker do when control asks? Confirm, probe, cut, close streams, retire connections; and stop, in steps.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::closing;
use super::super::error::Reason;
use super::super::flight::Flight;
use super::super::probe;
use super::Worker;
use crate::mail::{Close, Closing, Cut, Letter, Pace};

/// After a stop, idle connections get this long to send what is already on its way to us (hyper would close them
/// with bytes in the kernel's buffers).
const QUIET: Duration = Duration::from_millis(500);

/// After a stop, streams are told to leave within this time. Not longer: whoever was told comes back to a closed door.
const FAREWELLS: Duration = Duration::from_secs(1);

impl Worker {
    /// Reads letters until the one that says stop, and stops.
    pub(super) async fn read_mail(self: Rc<Self>, mut mailbox: mpsc::Receiver<Letter>, accepting: JoinSet<()>) {
        while let Some(letter) = mailbox.recv().await {
            match letter {
                Letter::Fence(reply) => {
                    let _gone = reply.send(());
                }
                Letter::Probe(question, reply) => {
                    let (lane, now) = (self.lane(&question.backend), self.now());
                    tokio::task::spawn_local(async move {
                        let _gone = reply.send(probe::ask(&lane, &question, now).await);
                    });
                }
                Letter::Cut(slot, before, reply) => {
                    let _gone = reply.send(self.cut(slot, before));
                }
                Letter::CloseStreams(close, reply) => {
                    let _gone = reply.send(self.close_streams(&close));
                }
                Letter::KeepStreams(slot) => {
                    let flights = self.flights.borrow();
                    let streams = flights.iter().map(|(_, flight)| flight).filter(|flight| flight.streams(slot));
                    streams.for_each(|flight| flight.leave.set_due(None));
                }
                Letter::Retire(slot) => {
                    if let Some(Some(lane)) = self.lanes.borrow().get(slot) {
                        lane.retire();
                    }
                }
                Letter::Stop(within) => return self.finish(within, accepting).await,
            }
        }
    }

    /// The color may get requests again by the time the letter is read: those are of a newer generation.
    fn cut(&self, slot: usize, before: u64) -> Cut {
        let mut cut = Cut::default();
        let flights = self.flights.borrow();
        let overdue = flights
            .iter()
            .map(|(_, flight)| flight)
            .filter(|flight| flight.claims(slot) && flight.terms().generation < before);
        for flight in overdue {
            if flight.becomes_download() {
                cut.streams += 1;
            } else if flight.condemn(Reason::DrainCut) {
                // One that has failed already, of a deadline of its own, is not cut.
                cut.requests.push(flight.to_cut());
            }
        }
        cut
    }

    fn close_streams(&self, close: &Close) -> Closing {
        let flights = self.flights.borrow();
        let mut streams: Vec<&Rc<Flight>> = flights
            .iter()
            .map(|(_, flight)| flight)
            .filter(|flight| flight.streams(close.slot) && flight.terms().generation < close.before)
            .filter(|flight| !flight.leaving())
            .collect();
        self.dismiss(&mut streams, close.pace)
    }

    /// Gives these streams a time to leave, the oldest first. What would end sooner by an earlier letter is left to
    /// that.
    fn dismiss(&self, streams: &mut [&Rc<Flight>], pace: Pace) -> Closing {
        let now = self.clock.exactly();
        streams.sort_by_key(|flight| flight.started());
        let times: Vec<u64> = closing::times(streams.len(), pace, self.id, self.workers)
            .map(|time| now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
            .collect();
        let Some(last) = times.last().copied() else { return Closing::default() };
        if !streams.iter().all(|flight| flight.leave.due().is_some_and(|due| due <= last)) {
            streams.iter().zip(times).for_each(|(flight, time)| flight.leave.set_due(Some(time)));
        }
        let last = streams.iter().filter_map(|flight| flight.leave.due()).max().unwrap_or(last);
        Closing { streams: streams.len() as u64, within: Duration::from_millis(last.saturating_sub(now)) }
    }

    /// Stops in three steps: accept nothing more and say `Connection: close`; end idle connections, and streams one by
    /// one; cut what is left.
    async fn finish(&self, within: Duration, accepting: JoinSet<()>) {
        let deadline = tokio::time::Instant::now() + within;
        self.stopping.set(true);
        self.stop.cancel();
        // Until whoever is in the kernel's queues has been taken, none open does not mean none left.
        accepting.join_all().await;
        if self.empty_before(tokio::time::Instant::now() + QUIET.min(within)).await {
            return;
        }
        self.conns.borrow().iter().for_each(|(_, conn)| conn.retire(self.now()));
        {
            let flights = self.flights.borrow();
            let mut streams: Vec<_> = flights.iter().map(|(_, flight)| flight).collect();
            streams.retain(|flight| flight.stream().is_some());
            self.dismiss(&mut streams, Pace { over: FAREWELLS.min(within / 2), per_second: u32::MAX });
        }
        if self.empty_before(deadline).await {
            return;
        }
        let left = self.flights.borrow().len();
        tracing::warn!(worker = self.id, requests = left, "shutdown deadline passed, cutting what is left");
        for (_, flight) in self.flights.borrow().iter() {
            flight.condemn(Reason::ShutdownCut);
        }
        if !self.empty_before(deadline + QUIET).await {
            self.conns.borrow().iter().for_each(|(_, conn)| conn.abort());
            self.empty_before(deadline + 2 * QUIET).await;
        }
    }

    /// Waits until no connection is open; false when the deadline comes first.
    async fn empty_before(&self, deadline: tokio::time::Instant) -> bool {
        loop {
            let ended = self.ended.notified();
            if self.conns.borrow().is_empty() {
                return true;
            }
            if tokio::time::timeout_at(deadline, ended).await.is_err() {
                return self.conns.borrow().is_empty();
            }
        }
    }
}
