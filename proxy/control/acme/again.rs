//! What if the keeper itself fails? That is told, and it begins anew, from what is on disk.

use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

/// Until it begins anew: what fails at once may fail again and again.
pub(super) const PAUSE: Duration = Duration::from_secs(60);

/// Lets what this begins run until it ends by itself, and begins it anew each time that a mistake of ours ends it.
pub(super) async fn whenever_it_fails<F: Future<Output = ()> + 'static>(
    mut begin: impl FnMut() -> F,
    mut tell: impl FnMut(&JoinError),
) {
    loop {
        // Ended with whoever waits here.
        let mut alone = JoinSet::new();
        alone.spawn_local(begin());
        match alone.join_next().await {
            Some(Err(panicked)) => tell(&panicked),
            Some(Ok(())) | None => return,
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn what_fails_is_told_and_begun_anew_after_a_while_until_it_ends() {
        let (begun, mut begins, mut told) = (tokio::time::Instant::now(), 0, 0);
        let begin = || {
            begins += 1;
            let fails = begins < 3;
            async move { assert!(!fails, "a mistake") }
        };
        whenever_it_fails(begin, |_| told += 1).await;
        assert_eq!((begins, told, begun.elapsed()), (3, 2, 2 * PAUSE));
    }
}
