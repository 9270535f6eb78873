//! When is a color drained? Waits for its claims after the fence, cuts what is left at the deadline, writes the
//! receipt.

use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::Color;
use bgproxy_conf::wire::{CutRequest, DrainOutcome, Receipt};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::cell::Sum;
use crate::mail::Mailboxes;
use crate::table::Backend;

/// How often the cells are summed: a few loads, and a drain is this exact.
const LOOK: Duration = Duration::from_millis(10);

/// Cut requests that a receipt names; it is kept in the state file.
const NAMED: usize = 100;

/// A cut request ends when its task notices, which is now; this is for a worker that is held up.
const CUT_TAKES: Duration = Duration::from_secs(5);

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
    /// Cancelled when the old color is live again.
    pub resumed: CancellationToken,
}

impl Drain {
    /// Waits until the color is drained, cut or live again.
    pub async fn run(self, mail: &Mailboxes) -> Receipt {
        let began = Instant::now();
        let before = self.from.sum();
        let mut cut = Vec::new();
        let outcome = match timeout_at(began + self.deadline, self.empty_or_resumed()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                cut = mail.cut(self.from.slot).await;
                // What is not gone by now is reported as what it is: still in flight.
                let _late = timeout_at(Instant::now() + CUT_TAKES, self.empty_or_resumed()).await;
                DrainOutcome::Cut
            }
        };
        if outcome != DrainOutcome::Resumed {
            mail.retire(self.from.slot).await;
        }
        let cut_total = cut.len() as u64;
        cut.sort_by(|a: &CutRequest, b| b.age.total_cmp(&a.age));
        cut.truncate(NAMED);
        let after = self.from.sum();
        let Sum { finished, failed, moved, .. } = before;
        Receipt {
            generation: self.generation,
            from: self.from.color.clone(),
            to: self.to,
            outcome,
            served: after.finished.saturating_sub(self.served_before),
            in_flight: before.in_flight(),
            finished: after.finished - finished,
            moved: after.moved - moved,
            failed: (after.failed - failed).saturating_sub(cut_total),
            cut_total,
            cut,
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
