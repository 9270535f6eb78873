//! What may be asked of a worker: the messages the control wing puts into its mailbox.
//!
//! A worker is one thread, so it answers a letter between two requests' steps, never within one. That makes the
//! answer to a [`Letter::Fence`] a promise: every request this worker takes from now on sees the table published
//! before the fence was sent, and every earlier request has already claimed its backend.

use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::wire::{CutRequest, ProbeReport};
use tokio::sync::{mpsc, oneshot};

use crate::table::Backend;

/// One message to a worker.
#[derive(Debug)]
pub enum Letter {
    /// Answer when every earlier request has claimed.
    Fence(oneshot::Sender<()>),
    /// Ask a backend one question, the way a request would be sent.
    Probe(Question, oneshot::Sender<ProbeReport>),
    /// Cut every request that claimed this slot's backend before this generation, and answer with what was cut.
    Cut(usize, u64, oneshot::Sender<Cut>),
    /// End the streams that this asks for, and answer with how many that will be.
    CloseStreams(Close, oneshot::Sender<Closing>),
    /// Let the streams of this slot's backend go on: it is in use again.
    KeepStreams(usize),
    /// Close the idle connections to this slot's backend: it drained, or its socket is another one now.
    Retire(usize),
    /// Stop accepting, finish what is in flight within this time, then end.
    Stop(Duration),
}

/// What a drain's deadline did.
#[derive(Debug, Default)]
pub struct Cut {
    /// Requests that were cut.
    pub requests: Vec<CutRequest>,
    /// Answers that had begun: they go on as streams.
    pub streams: u64,
}

/// Which streams are to be ended.
#[derive(Debug, Clone, Copy)]
pub struct Close {
    /// Those of this slot's backend,
    pub slot: usize,
    /// that claimed it before this generation.
    pub before: u64,
    /// How fast.
    pub pace: Pace,
}

/// How fast streams are ended.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Evenly over this time,
    pub over: Duration,
    /// and at most so many in one second, over all workers.
    pub per_second: u32,
}

/// What came of a [`Close`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// Streams that will be ended.
    pub streams: u64,
    /// When the last of them will be told.
    pub within: Duration,
}

/// A question to a backend.
#[derive(Debug, Clone)]
pub struct Question {
    /// Whom to ask.
    pub backend: Arc<Backend>,
    /// Path and query of the GET.
    pub path: String,
    /// The Host header.
    pub host: String,
    /// Statuses that count as ready.
    pub expect: bgproxy_conf::StatusRanges,
    /// How long the answer's head may take, connecting included.
    pub timeout: Duration,
    /// Idle connections that may be kept.
    pub pool: usize,
}

/// All workers' mailboxes.
#[derive(Debug, Clone)]
pub struct Mailboxes(Arc<[mpsc::Sender<Letter>]>);

/// How many letters a mailbox holds; a full one makes the sender wait, never the worker.
const LETTERS: usize = 256;

impl Mailboxes {
    /// Mailboxes for this many workers, and the ends they read from.
    pub fn new(workers: usize) -> (Mailboxes, Vec<mpsc::Receiver<Letter>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(LETTERS)).unzip();
        (Mailboxes(senders.into()), receivers)
    }

    /// Waits until every worker has passed a fence.
    ///
    /// A worker that has ended takes no more requests, so its silence is an answer too.
    pub async fn fence(&self) {
        let answers = self.ask_all(Letter::Fence).await;
        for answer in answers {
            let _ended = answer.await;
        }
    }

    /// Cuts every request that claimed this slot's backend before this generation; what came of it, over all workers.
    pub async fn cut(&self, slot: usize, before: u64) -> Cut {
        let mut all = Cut::default();
        for answer in self.ask_all(|reply| Letter::Cut(slot, before, reply)).await {
            let Cut { requests, streams } = answer.await.unwrap_or_default();
            all.requests.extend(requests);
            all.streams += streams;
        }
        all
    }

    /// Has streams ended; how many, over all workers.
    pub async fn close_streams(&self, close: Close) -> Closing {
        let mut all = Closing::default();
        for answer in self.ask_all(|reply| Letter::CloseStreams(close, reply)).await {
            let Closing { streams, within } = answer.await.unwrap_or_default();
            all.streams += streams;
            all.within = all.within.max(within);
        }
        all
    }

    /// Lets the streams of this slot's backend go on.
    pub async fn keep_streams(&self, slot: usize) {
        for mailbox in self.0.iter() {
            let _ended = mailbox.send(Letter::KeepStreams(slot)).await;
        }
    }

    /// Closes the idle connections to this slot's backend.
    pub async fn retire(&self, slot: usize) {
        for mailbox in self.0.iter() {
            let _ended = mailbox.send(Letter::Retire(slot)).await;
        }
    }

    /// Has one worker ask a backend; `turn` picks the worker. None when that worker has ended.
    pub async fn probe(&self, turn: usize, question: Question) -> Option<ProbeReport> {
        let (reply, answer) = oneshot::channel();
        let mailbox = &self.0[turn % self.0.len()];
        mailbox.send(Letter::Probe(question, reply)).await.ok()?;
        answer.await.ok()
    }

    /// Tells every worker to stop.
    pub async fn stop(&self, within: Duration) {
        for mailbox in self.0.iter() {
            let _ended = mailbox.send(Letter::Stop(within)).await;
        }
    }

    async fn ask_all<T>(&self, letter: impl Fn(oneshot::Sender<T>) -> Letter) -> Vec<oneshot::Receiver<T>> {
        let mut answers = Vec::with_capacity(self.0.len());
        for mailbox in self.0.iter() {
            let (reply, answer) = oneshot::channel();
            // A closed mailbox drops the reply, which answers at once.
            let _ended = mailbox.send(letter(reply)).await;
            answers.push(answer);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fence_is_complete_when_the_last_worker_has_answered() {
        let (mail, mut mailboxes) = Mailboxes::new(2);
        let fence = tokio::spawn(async move { mail.fence().await });
        let answer = async |mailbox: &mut mpsc::Receiver<Letter>| {
            let Some(Letter::Fence(reply)) = mailbox.recv().await else { panic!("no fence") };
            reply.send(()).expect("somebody waits");
        };
        answer(&mut mailboxes[1]).await;
        tokio::task::yield_now().await;
        assert!(!fence.is_finished());
        answer(&mut mailboxes[0]).await;
        fence.await.expect("complete");
    }

    #[tokio::test]
    async fn a_worker_that_ends_has_passed_every_fence() {
        let (mail, mut mailboxes) = Mailboxes::new(2);
        drop(mailboxes.pop());
        let fence = tokio::spawn(async move { mail.fence().await });
        let letter = mailboxes[0].recv().await;
        assert!(matches!(letter, Some(Letter::Fence(_))));
        drop((letter, mailboxes));
        fence.await.expect("complete");
    }
}
