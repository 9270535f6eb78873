//! Does a fence make a zero a true zero? The real [`Cell`](crate::cell::Cell), run through every order that the memory
//! model allows (loom), with workers that claim and a switchboard that publishes, fences, sums, and stops the backend.
//!
//! The table is one number that workers read relaxed, as `arc_swap::Cache` reads its pointer; a letter and its
//! answer are flags with the release and acquire of a channel.
//! What a request does with its backend is a read of a loom `UnsafeCell`, and stopping the backend is a write: loom
//! fails when the two are not ordered one after the other, so "nobody uses it any more" is proven and not hoped for.

/// The cells as they are.
#[path = "."]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "a part of it, a second time, for the model alone"
)]
mod real {
    pub(super) mod atomic {
        pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
    }
    #[path = "../cell.rs"]
    pub(super) mod cell;
}

/// The cells as they were if every access were relaxed.
#[path = "."]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "a part of it, a second time, for the model alone"
)]
mod relaxed {
    pub(super) mod atomic {
        pub(super) use loom::sync::atomic::AtomicU64;

        pub(super) struct Ordering;

        #[expect(non_upper_case_globals, reason = "stands for the real one")]
        impl Ordering {
            pub(in super::super) const Relaxed: loom::sync::atomic::Ordering = loom::sync::atomic::Ordering::Relaxed;
            pub(in super::super) const Acquire: loom::sync::atomic::Ordering = Ordering::Relaxed;
            pub(in super::super) const Release: loom::sync::atomic::Ordering = Ordering::Relaxed;
        }
    }
    #[path = "../cell.rs"]
    pub(super) mod cell;
}

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

const BLUE: usize = 0;
const GREEN: usize = 1;

/// What the model needs of a cell.
trait Ledger: Default + Send + Sync + 'static {
    fn claim(&self);
    fn finish(&self);
    /// Claimed ever, and in flight now.
    fn read(cells: &[Self]) -> (u64, u64);
}

macro_rules! ledger {
    ($cells:ident) => {
        impl Ledger for $cells::cell::Cell {
            fn claim(&self) {
                self.claim();
            }

            fn finish(&self) {
                self.release($cells::cell::End::Finished);
            }

            fn read(cells: &[Self]) -> (u64, u64) {
                let mut sum = $cells::cell::Sum::default();
                cells.iter().for_each(|cell| cell.add_to(&mut sum));
                (sum.claimed, sum.in_flight())
            }
        }
    };
}
ledger!(real);
ledger!(relaxed);

/// What workers and switchboard share.
struct House<C> {
    /// Which color is live.
    table: AtomicUsize,
    /// Each color's cells, one per worker.
    cells: [Vec<C>; 2],
    /// Each worker's mailbox, for one fence.
    mail: Vec<Mailbox>,
    /// Whether blue's backend has been stopped.
    blue: UnsafeCell<bool>,
}

struct Mailbox {
    sent: AtomicBool,
    answered: Flag,
}

/// Raised once.
struct Flag {
    raised: AtomicBool,
    waiter: Notify,
}

impl Mailbox {
    fn new() -> Mailbox {
        Mailbox { sent: AtomicBool::new(false), answered: Flag::new() }
    }

    /// Answers the fence if it is there.
    fn read(&self) {
        if self.sent.load(Ordering::Acquire) {
            self.answered.raise();
        }
    }
}

impl Flag {
    fn new() -> Flag {
        Flag { raised: AtomicBool::new(false), waiter: Notify::new() }
    }

    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.waiter.notify();
    }

    fn wait(&self) {
        while !self.raised.load(Ordering::Acquire) {
            self.waiter.wait();
        }
    }
}

impl<C: Ledger> House<C> {
    fn new(workers: usize) -> Arc<House<C>> {
        let cells = || (0..workers).map(|_| C::default()).collect();
        Arc::new(House {
            table: AtomicUsize::new(BLUE),
            cells: [cells(), cells()],
            mail: (0..workers).map(|_| Mailbox::new()).collect(),
            blue: UnsafeCell::new(false),
        })
    }

    /// Routes and claims, as `Worker::claim` does.
    fn claim(&self, worker: usize) -> usize {
        let color = self.table.load(Ordering::Relaxed);
        self.cells[color][worker].claim();
        color
    }

    /// Does what the request is there for, and ends the claim.
    fn serve(&self, worker: usize, color: usize) {
        if color == BLUE {
            #[expect(unsafe_code, reason = "loom checks at run time that nobody writes meanwhile")]
            let stopped = self.blue.with(|blue| unsafe { *blue });
            assert!(!stopped, "a request reached a backend that had been stopped");
        }
        self.cells[color][worker].finish();
    }

    /// One thread: takes requests, and reads its mail between their steps.
    fn work(&self, worker: usize, requests: usize) {
        let mailbox = &self.mail[worker];
        for _ in 0..requests {
            let color = self.claim(worker);
            mailbox.read();
            self.serve(worker, color);
        }
        // A worker that has ended takes no more requests: its silence is an answer too.
        mailbox.answered.raise();
    }

    /// Publishes green, has all workers confirm, and stops blue if nobody uses it.
    fn switch(&self, fences: bool) -> u64 {
        self.table.store(GREEN, Ordering::Release);
        if fences {
            self.mail.iter().for_each(|mailbox| mailbox.sent.store(true, Ordering::Release));
            self.mail.iter().for_each(|mailbox| mailbox.answered.wait());
        }
        let (claimed, in_flight) = C::read(&self.cells[BLUE]);
        if in_flight == 0 {
            #[expect(unsafe_code, reason = "loom checks at run time that nobody reads meanwhile")]
            self.blue.with_mut(|blue| unsafe { *blue = true });
        }
        claimed
    }
}

/// Runs workers and a switchboard in every order.
fn model<C: Ledger>(workers: usize, requests: usize, preemptions: Option<usize>, fences: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        let house = House::<C>::new(workers);
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let house = house.clone();
                thread::spawn(move || house.work(worker, requests))
            })
            .collect();
        let claimed = house.switch(fences);
        for thread in threads {
            thread.join().expect("a worker");
        }
        let (in_the_end, in_flight) = C::read(&house.cells[BLUE]);
        assert_eq!(in_flight, 0);
        assert!(!fences || claimed == in_the_end, "blue was claimed after the fence");
    });
}

#[test]
fn after_the_fence_a_zero_stays_zero() {
    model::<real::cell::Cell>(1, 2, None, true);
}

#[test]
fn after_the_fence_of_two_workers_a_zero_stays_zero() {
    model::<real::cell::Cell>(2, 1, Some(2), true);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_fence_a_request_meets_a_stopped_backend() {
    model::<real::cell::Cell>(1, 2, None, false);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn with_relaxed_cells_a_zero_does_not_say_that_the_work_is_done() {
    model::<relaxed::cell::Cell>(1, 2, None, true);
}

/// Beginnings read before ends would miss it: the other one's end cancels its beginning.
#[test]
fn a_request_in_flight_is_never_overlooked() {
    loom::model(|| {
        let cell = Arc::new(real::cell::Cell::default());
        cell.claim();
        let worker = thread::spawn({
            let cell = cell.clone();
            move || {
                cell.claim();
                cell.release(real::cell::End::Finished);
            }
        });
        let mut sum = real::cell::Sum::default();
        cell.add_to(&mut sum);
        assert!(sum.in_flight() >= 1);
        worker.join().expect("a worker");
    });
}

#[test]
fn a_request_that_becomes_a_stream_is_one_of_both_at_every_moment() {
    loom::model(|| {
        let cell = Arc::new(real::cell::Cell::default());
        cell.claim();
        let worker = thread::spawn({
            let cell = cell.clone();
            move || cell.release(real::cell::End::Stream(real::cell::StreamKind::Events))
        });
        let mut sum = real::cell::Sum::default();
        cell.add_to(&mut sum);
        assert!(sum.in_flight() + sum.streams >= 1);
        worker.join().expect("a worker");
    });
}
