//! What if we make a mistake? A panic is a fault like others, and what is known outlives it.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::fault::Fault;

/// Lets it run.
///
/// # Errors
/// [`Fault::Panic`].
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Fault> {
    let mut work = pin!(work);
    let poll = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        // The log has it already.
        Err(_panic) => Poll::Ready(Err(Fault::Panic)),
    });
    poll.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn what_panics_in_the_midst_is_a_fault_and_what_it_borrowed_lives_on() {
        let mut known = Vec::new();
        for fails in [false, true] {
            let known = &mut known;
            let result = caught(async move {
                known.push(1);
                tokio::task::yield_now().await;
                assert!(!fails, "a mistake");
                known.push(2);
            });
            assert_eq!(result.await.is_err(), fails);
        }
        assert_eq!(known, [1, 2, 1]);
    }
}
