//! What do others want of a connection? That it ends, in one of four ways; its own task does so when it is woken.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use super::super::error::Reason;
use super::super::worker::Worker;
use super::{Conn, Phase};

/// What others want of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// End after the current answers.
    Retire,
    /// The head came too slowly: say so and end.
    Refuse(Reason),
    /// Another client needs the place: end, unless there is something to do.
    Leave,
    /// End now, in the middle of whatever it is.
    Abort,
}

impl Order {
    /// One that was given is not replaced by a lighter one.
    fn weight(self) -> u8 {
        match self {
            Order::Leave => 0,
            Order::Retire => 1,
            Order::Refuse(_) => 2,
            Order::Abort => 3,
        }
    }
}

impl Conn {
    /// Ends the connection now.
    pub fn abort(&self) {
        self.give(Order::Abort);
    }

    /// Ends the connection after its current answers; an idle one now, or when its client has been told.
    pub fn retire(&self, now: u64) {
        if self.retired.get().is_none() {
            self.retired.set(Some(now));
        }
        self.give(Order::Retire);
    }

    /// Has it leave to make room, if it is still idle since then.
    pub fn leaves_for_another(&self, since: u64) -> bool {
        let idle = self.phase.get() != Phase::Busy && self.since.get() == since && !self.leaving.get();
        if idle {
            self.leaving.set(true);
            self.give(Order::Leave);
        }
        idle
    }

    /// It stays, because its client has just asked.
    pub(super) fn stays(&self, worker: &Worker) {
        self.leaving.set(false);
        worker.stays();
    }

    pub(super) fn give(&self, order: Order) {
        if self.order.get().is_none_or(|given| given.weight() <= order.weight()) {
            self.order.set(Some(order));
        }
        self.sleeper.wake();
    }

    /// What others want, for the task that asks now and is woken when they want something.
    pub(super) fn obey(&self, cx: &Context<'_>) -> Option<Order> {
        self.sleeper.remember(cx);
        self.order.take()
    }

    /// Waits for `work`, unless the connection is to end; the order is then what comes instead.
    pub(super) async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Result<T, Order> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.obey(cx) {
            Some(order @ (Order::Abort | Order::Leave | Order::Refuse(_))) => Poll::Ready(Err(order)),
            // There is nothing yet that could be finished, or something that retires by itself.
            Some(Order::Retire) | None => work.as_mut().poll(cx).map(|done| {
                if self.retired.get().is_some() {
                    self.give(Order::Retire);
                }
                Ok(done)
            }),
        })
        .await
    }
}
