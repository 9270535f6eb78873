//! When is a color drained? Waits for its claims after the fence, cuts what is left at the deadline, writes the
//! receipt.

use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::Color;
use bgproxy_conf::wire::{DrainOutcome, Receipt};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::mail::{Cut, Mailboxes};
use crate::table::Backend;

/// How often the cells are summed: a few loads, and a drain is this exact.
const LOOK: Duration = Duration::from_millis(10);

/// Cut requests that a receipt names; it is kept in the state file.
const NAMED: usize = 100;

/// A cut request ends when its task notices, which is now; this is for a worker that is held up.
const CUT_TAKES: Duration = Duration::from_secs(5);

/// How a drain ended, as metrics and log call it.
pub fn label(outcome: DrainOutcome) -> &'static str {
    match outcome {
        DrainOutcome::Drained => "drained",
        DrainOutcome::Cut => "cut",
        DrainOutcome::Resumed => "resumed",
    }
}

/// One drain, beginning with a complete fence.
#[derive(Debug)]
pub struct Drain {
    /// The backend of the color that was live.
    pub from: Arc<Backend>,
    /// The color that is.
    pub to: Color,
    /// The generation that made it so.
    pub generation: u64,
    /// Requests the old color had finished when its term began.
    pub served_before: u64,
    /// How long its requests may take.
    pub deadline: Duration,
    /// Cancelled when the old color gets requests again.
    pub resumed: CancellationToken,
}

impl Drain {
    /// Waits until the color is drained, cut or resumed.
    pub async fn run(self, mail: &Mailboxes) -> Receipt {
        let began = Instant::now();
        let before = self.from.sum();
        let mut at_deadline = Cut::default();
        let outcome = match timeout_at(began + self.deadline, self.empty_or_resumed()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                at_deadline = mail.cut(self.from.slot, self.generation).await;
                // What is not gone by now is reported as what it is: still in flight.
                let late = timeout_at(Instant::now() + CUT_TAKES, self.empty_or_resumed()).await;
                // The deadline may find that the last request has just finished, or answers that go on as streams only.
                if at_deadline.requests.is_empty() && late == Ok(DrainOutcome::Drained) {
                    DrainOutcome::Drained
                } else {
                    DrainOutcome::Cut
                }
            }
        };
        if outcome != DrainOutcome::Resumed {
            mail.retire(self.from.slot).await;
        }
        let Cut { requests: mut cut, streams: streams_kept } = at_deadline;
        let cut_total = cut.len() as u64;
        cut.sort_by(|a, b| b.age.total_cmp(&a.age));
        cut.truncate(NAMED);
        let after = self.from.sum();
        let in_flight = before.in_flight();
        // A request that becomes a stream is counted as finished; one that became it at the deadline is told apart.
        let finished = (after.finished - before.finished).saturating_sub(streams_kept);
        let moved = after.moved - before.moved;
        let failed = match outcome {
            // A cut request fails sooner or later, but it is told as cut.
            DrainOutcome::Cut => in_flight.saturating_sub(finished + moved + cut_total + streams_kept),
            DrainOutcome::Drained | DrainOutcome::Resumed => after.failed - before.failed,
        };
        Receipt {
            generation: self.generation,
            from: self.from.color.clone(),
            to: self.to,
            outcome,
            served: after.finished.saturating_sub(self.served_before + streams_kept),
            in_flight,
            finished,
            moved,
            failed,
            cut_total,
            cut,
            streams_kept,
            streams_left: after.streams,
            seconds: began.elapsed().as_secs_f64(),
        }
    }

    async fn empty_or_resumed(&self) -> DrainOutcome {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let empty = async {
            while self.from.sum().in_flight() > 0 {
                looks.tick().await;
            }
        };
        match self.resumed.run_until_cancelled(empty).await {
            Some(()) => DrainOutcome::Drained,
            None => DrainOutcome::Resumed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bgproxy_conf::wire::CutRequest;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;
    use crate::cell::{End, StreamKind, Sum};
    use crate::mail::Letter;
    use crate::table::tests::{backend, color};

    const SLOT: usize = 3;
    const GENERATION: u64 = 7;

    /// Two simulated workers on one backend, and the letters they got.
    struct House {
        mail: Mailboxes,
        blue: Arc<Backend>,
        letters: Arc<Mutex<Vec<&'static str>>>,
    }

    impl House {
        /// Workers that do as they are told; a cut takes this long to show in the cells.
        fn new(cut_takes: Duration) -> House {
            House::with_answers(cut_takes, 0)
        }

        /// The same; of what is in flight on each at the deadline, so many have an answer.
        fn with_answers(cut_takes: Duration, answers: u64) -> House {
            let (mail, mailboxes) = Mailboxes::new(2);
            let blue = backend(SLOT, "blue", 2);
            let letters = Arc::new(Mutex::new(Vec::new()));
            for (worker, mailbox) in mailboxes.into_iter().enumerate() {
                tokio::spawn(work(worker, mailbox, blue.clone(), letters.clone(), cut_takes, answers));
            }
            House { mail, blue, letters }
        }

        fn claim(&self, worker: usize, times: usize) {
            (0..times).for_each(|_| self.blue.cells[worker].claim());
        }

        fn release_after(&self, wait: Duration, worker: usize, end: End) {
            let blue = self.blue.clone();
            tokio::spawn(async move {
                sleep(wait).await;
                blue.cells[worker].release(end);
            });
        }

        fn drain(&self) -> Drain {
            Drain {
                from: self.blue.clone(),
                to: color("green"),
                generation: GENERATION,
                served_before: 0,
                deadline: Duration::from_secs(30),
                resumed: CancellationToken::new(),
            }
        }

        fn letters(&self) -> Vec<&'static str> {
            self.letters.lock().expect("unpoisoned").clone()
        }
    }

    async fn work(
        worker: usize,
        mut mailbox: mpsc::Receiver<Letter>,
        blue: Arc<Backend>,
        letters: Arc<Mutex<Vec<&'static str>>>,
        cut_takes: Duration,
        answers: u64,
    ) {
        while let Some(letter) = mailbox.recv().await {
            match letter {
                Letter::Cut(slot, before, reply) => {
                    assert_eq!((slot, before), (SLOT, GENERATION));
                    letters.lock().expect("unpoisoned").push("cut");
                    let mut own = Sum::default();
                    blue.cells[worker].add_to(&mut own);
                    let age = |n: u64| n as f64 + worker as f64 / 10.0;
                    let cut = |n| CutRequest { method: "GET".to_owned(), path: format!("/{worker}"), age: age(n) };
                    let streams = answers.min(own.in_flight());
                    (0..streams).for_each(|_| blue.cells[worker].release(End::Stream(StreamKind::Download)));
                    let left = own.in_flight() - streams;
                    let requests = (0..left).map(cut).collect();
                    reply.send(Cut { requests, streams }).expect("somebody waits");
                    let blue = blue.clone();
                    tokio::spawn(async move {
                        sleep(cut_takes).await;
                        (0..left).for_each(|_| blue.cells[worker].release(End::Failed));
                    });
                }
                Letter::Retire(slot) => {
                    assert_eq!(slot, SLOT);
                    letters.lock().expect("unpoisoned").push("retire");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// In flight, finished, moved, failed, cut; after proving that they add up.
    fn numbers(receipt: &Receipt) -> (u64, u64, u64, u64, u64) {
        let Receipt { in_flight, finished, moved, failed, cut_total, streams_kept, .. } = *receipt;
        assert_eq!(in_flight, finished + moved + failed + cut_total + streams_kept, "{receipt:?}");
        (in_flight, finished, moved, failed, cut_total)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_color_without_requests_is_drained_at_once() {
        let house = House::new(Duration::ZERO);
        let receipt = Drain { deadline: Duration::ZERO, ..house.drain() }.run(&house.mail).await;
        assert_eq!((receipt.outcome, numbers(&receipt)), (DrainOutcome::Drained, (0, 0, 0, 0, 0)));
        assert!(receipt.seconds < 0.001);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_every_request_however_it_ends() {
        let house = House::new(Duration::ZERO);
        house.claim(0, 2);
        house.claim(1, 2);
        house.release_after(seconds(1), 0, End::Finished);
        house.release_after(seconds(2), 1, End::Moved);
        house.release_after(seconds(3), 0, End::Failed);
        house.release_after(seconds(4), 1, End::Finished);
        let receipt = house.drain().run(&house.mail).await;
        assert_eq!((receipt.outcome, numbers(&receipt)), (DrainOutcome::Drained, (4, 2, 1, 1, 0)));
        assert!((4.0..4.1).contains(&receipt.seconds), "{}", receipt.seconds);
        assert_eq!((receipt.generation, receipt.from, receipt.to), (GENERATION, color("blue"), color("green")));
        tokio::task::yield_now().await;
        assert_eq!(house.letters(), ["retire", "retire"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_deadline_is_cut_and_named_oldest_first() {
        let house = House::new(Duration::from_millis(20));
        house.claim(0, 3);
        house.claim(1, 2);
        house.release_after(seconds(1), 0, End::Finished);
        house.release_after(seconds(2), 1, End::Failed);
        let receipt = house.drain().run(&house.mail).await;
        assert_eq!((receipt.outcome, numbers(&receipt)), (DrainOutcome::Cut, (5, 1, 0, 1, 3)));
        let ages: Vec<_> = receipt.cut.iter().map(|cut| cut.age).collect();
        assert_eq!(ages, [1.0, 0.1, 0.0]);
        assert!((30.0..30.1).contains(&receipt.seconds), "{}", receipt.seconds);
        tokio::task::yield_now().await;
        assert_eq!(house.letters(), ["cut", "cut", "retire", "retire"]);
    }

    /// Those that had failed by themselves were missing from the receipt.
    #[tokio::test(start_paused = true)]
    async fn a_cut_request_that_does_not_end_counts_as_cut_and_hides_no_other() {
        let house = House::new(seconds(1000));
        house.claim(0, 3);
        house.release_after(seconds(1), 0, End::Failed);
        let receipt = house.drain().run(&house.mail).await;
        assert_eq!((receipt.outcome, numbers(&receipt)), (DrainOutcome::Cut, (3, 0, 0, 1, 2)));
        assert!((35.0..35.1).contains(&receipt.seconds), "{}", receipt.seconds);
    }

    #[tokio::test(start_paused = true)]
    async fn a_color_that_gets_requests_again_is_neither_cut_nor_retired() {
        let house = House::new(Duration::ZERO);
        house.claim(0, 2);
        house.release_after(seconds(1), 0, End::Finished);
        let drain = house.drain();
        let resumed = drain.resumed.clone();
        tokio::spawn(async move {
            sleep(seconds(10)).await;
            resumed.cancel();
        });
        let receipt = drain.run(&house.mail).await;
        assert_eq!((receipt.outcome, receipt.in_flight, receipt.finished), (DrainOutcome::Resumed, 2, 1));
        sleep(seconds(100)).await;
        assert!(house.letters().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receipt_names_a_hundred_and_counts_all() {
        let house = House::new(Duration::ZERO);
        house.claim(1, 150);
        let receipt = house.drain().run(&house.mail).await;
        assert_eq!(numbers(&receipt), (150, 0, 0, 0, 150));
        assert_eq!((receipt.cut.len(), receipt.cut[0].age), (NAMED, 149.1));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_counted_and_do_not_hold_a_drain() {
        let house = House::new(Duration::ZERO);
        house.claim(0, 2);
        house.blue.cells[0].release(End::Stream(StreamKind::Events));
        house.release_after(seconds(1), 0, End::Stream(StreamKind::Tunnel));
        let receipt = house.drain().run(&house.mail).await;
        assert_eq!((receipt.outcome, numbers(&receipt)), (DrainOutcome::Drained, (1, 1, 0, 0, 0)));
        assert_eq!(receipt.streams_left, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_have_begun_go_on_as_streams_at_the_deadline() {
        let house = House::with_answers(Duration::ZERO, 2);
        house.claim(0, 3);
        house.claim(1, 1);
        house.release_after(seconds(1), 0, End::Failed);
        house.claim(1, 1);
        house.release_after(seconds(1), 1, End::Finished);
        let receipt = house.drain().run(&house.mail).await;
        assert_eq!((receipt.outcome, numbers(&receipt)), (DrainOutcome::Drained, (5, 1, 0, 1, 0)));
        assert_eq!((receipt.streams_kept, receipt.streams_left, receipt.served), (3, 3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn beside_answers_that_go_on_requests_without_one_are_cut() {
        let house = House::with_answers(Duration::ZERO, 1);
        house.claim(0, 3);
        house.release_after(seconds(1), 0, End::Failed);
        let receipt = house.drain().run(&house.mail).await;
        assert_eq!((receipt.outcome, numbers(&receipt)), (DrainOutcome::Cut, (3, 0, 0, 1, 1)));
        assert_eq!((receipt.streams_kept, receipt.streams_left), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn served_counts_from_the_beginning_of_the_term() {
        let house = House::new(Duration::ZERO);
        house.claim(0, 10);
        (0..9).for_each(|_| house.blue.cells[0].release(End::Finished));
        house.release_after(seconds(1), 0, End::Finished);
        let receipt = Drain { served_before: 4, ..house.drain() }.run(&house.mail).await;
        assert_eq!(receipt.served, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn workers_that_have_ended_hold_nothing() {
        let house = House::new(Duration::ZERO);
        house.claim(0, 1);
        let (mail, mailboxes) = Mailboxes::new(2);
        drop(mailboxes);
        let receipt = house.drain().run(&mail).await;
        assert_eq!((receipt.outcome, receipt.cut_total), (DrainOutcome::Cut, 0));
    }
}
