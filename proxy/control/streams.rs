//! When do an old color's streams end? They keep running for a while after the switch, and are then closed one by one.

use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::wire::{CloseStreamsReply, What};
use bgproxy_conf::{Color, ServiceName, Streams};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::operate::Switchboard;
use super::switchboard::Refusal;
use crate::mail::{Close, Closing, Mailboxes, Pace};
use crate::table::Backend;

/// Which streams somebody wants ended.
#[derive(Debug)]
pub struct CloseStreams {
    /// Of this service,
    pub service: ServiceName,
    /// of this color,
    pub color: Color,
    /// evenly over this time, or else over what the configuration says.
    pub over: Option<Duration>,
    /// Who asks.
    pub by: String,
}

/// The streams of one color that was live, from the fence on.
#[derive(Debug)]
pub struct Old {
    /// The color's backend.
    pub from: Arc<Backend>,
    /// The generation that made another color live.
    pub generation: u64,
    /// How long they may go on, and how fast they are ended.
    pub policy: Streams,
}

impl Old {
    /// Closes them when their time is over, and once more when the drain ends later than that: until then requests may
    /// become streams. `tell` hears what came of it.
    pub async fn close(self, mail: &Mailboxes, mut drained: oneshot::Receiver<()>, tell: impl Fn(Closing)) {
        let time = sleep_until(Instant::now() + self.policy.keep.get());
        tokio::pin!(time);
        let is_drained = tokio::select! {
            biased;
            // However the drain ended, nothing becomes a stream after it.
            _ended = &mut drained => { time.await; true }
            () = &mut time => false,
        };
        let Old { from, generation, policy } = self;
        let pace = Pace { over: policy.spread.get(), per_second: policy.per_second };
        let close = Close { slot: from.slot, before: generation, pace };
        tell(mail.close_streams(close).await);
        if !is_drained {
            let _ended = drained.await;
            tell(mail.close_streams(close).await);
        }
    }
}

impl Switchboard {
    /// The color is in use again: whoever still has a stream there is left in peace.
    pub(super) fn keep_streams(&mut self, backend: &Backend) {
        if let Some(closing) = self.closings.remove(&(backend.service.clone(), backend.color.clone())) {
            closing.abort();
        }
        let (mail, slot) = (self.mail.clone(), backend.slot);
        tokio::task::spawn_local(async move { mail.keep_streams(slot).await });
    }

    /// Begins to watch over the streams of a color that was live.
    pub(super) fn close_old_streams(&mut self, key: (ServiceName, Color), old: Old, drained: oneshot::Receiver<()>) {
        self.closings.retain(|_, closing| !closing.is_finished());
        let (mail, teller, (service, color)) = (self.mail.clone(), self.teller(), key.clone());
        let tell = move |closing: Closing| {
            if let Some(what) = closing_streams(&color, closing, "streams.keep") {
                teller(service.clone(), what);
            }
        };
        let closing = tokio::task::spawn_local(async move { old.close(&mail, drained, tell).await });
        if let Some(earlier) = self.closings.insert(key, closing) {
            earlier.abort();
        }
    }

    /// Closes streams because somebody asked for it.
    pub(super) fn close_streams(
        &mut self,
        close: CloseStreams,
        reply: oneshot::Sender<Result<CloseStreamsReply, Refusal>>,
    ) {
        let CloseStreams { service, color, over, by } = close;
        if let Err(refusal) = self.find(&service, &color) {
            return drop(reply.send(Err(refusal)));
        }
        let policy = self.config.service.get(&service).map(|config| config.streams.clone()).unwrap_or_default();
        let slot = self.registry.find(&service, &color).map(|backend| backend.slot);
        let (mail, teller) = (self.mail.clone(), self.teller());
        tokio::task::spawn_local(async move {
            let pace = Pace { over: over.unwrap_or(policy.spread.get()), per_second: policy.per_second };
            let closing = match slot {
                // Whatever generation they are of.
                Some(slot) => mail.close_streams(Close { slot, before: u64::MAX, pace }).await,
                None => Closing::default(),
            };
            if let Some(what) = closing_streams(&color, closing, &by) {
                teller(service.clone(), what);
            }
            let (closing, seconds) = (closing.streams, closing.within.as_secs_f64());
            let _gone = reply.send(Ok(CloseStreamsReply { service, color, closing, seconds }));
        });
    }
}

/// What is told when streams are being closed; of none there is nothing to tell.
fn closing_streams(color: &Color, closing: Closing, by: &str) -> Option<What> {
    let Closing { streams, within } = closing;
    let (color, seconds, by) = (color.clone(), within.as_secs_f64(), by.to_owned());
    (streams > 0).then_some(What::ClosingStreams { color, streams, seconds, by })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bgproxy_conf::Seconds;
    use tokio::time::sleep;

    use super::*;
    use crate::mail::Letter;
    use crate::table::tests::backend;

    /// When letters came, and what was told, while a drain of this many seconds went on.
    async fn closed(keep: u64, drain: u64) -> Vec<(&'static str, u64)> {
        let (mail, mut mailboxes) = Mailboxes::new(1);
        let began = Instant::now();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = {
            let seen = seen.clone();
            move |what| seen.lock().expect("unpoisoned").push((what, began.elapsed().as_secs()))
        };
        let letters = note.clone();
        tokio::spawn(async move {
            while let Some(letter) = mailboxes[0].recv().await {
                let Letter::CloseStreams(close, reply) = letter else { panic!("{letter:?}") };
                assert_eq!(
                    (close.slot, close.before, close.pace.over, close.pace.per_second),
                    (3, 7, Duration::from_secs(60), 5)
                );
                letters("letter");
                reply.send(Closing { streams: 1, within: Duration::ZERO }).expect("somebody waits");
            }
        });
        let from = backend(3, "blue", 1);
        let policy = Streams { keep: Seconds::new(keep), per_second: 5, ..Streams::default() };
        let (end, drained) = oneshot::channel();
        tokio::spawn(async move {
            sleep(Duration::from_secs(drain)).await;
            let _gone = end.send(());
        });
        Old { from, generation: 7, policy }.close(&mail, drained, |_| note("told")).await;
        let seen = seen.lock().expect("unpoisoned");
        seen.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_closed_when_their_time_is_over() {
        assert_eq!(closed(60, 1).await, [("letter", 60), ("told", 60)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_a_stream_in_a_longer_drain_is_closed_after_it() {
        assert_eq!(closed(10, 30).await, [("letter", 10), ("told", 10), ("letter", 30), ("told", 30)]);
    }
}
