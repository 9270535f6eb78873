//! Whom to wake? The task that asked last; all on one thread, so without an atomic.

use std::cell::RefCell;
use std::task::{Context, Waker};

/// A task that waits for something that happens elsewhere on its thread.
#[derive(Debug, Default)]
pub struct Sleeper(RefCell<Option<Waker>>);

impl Sleeper {
    /// It is this task from now on.
    pub fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.0.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Wakes it; it asks again when it is to be woken again.
    pub fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}
