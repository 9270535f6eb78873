//! Who hears what happened? The log, the metrics and the event stream, each time and in this order; a drain's receipt
//! also whoever waits for it.

use bgproxy_conf::ServiceName;
use bgproxy_conf::wire::{Receipt, What};

use super::drain;
use super::operate::{News, Switchboard};

impl Switchboard {
    /// Tells from a task beside the loop.
    pub(super) fn teller(&self) -> impl Fn(ServiceName, What) + use<> {
        let telling = self.telling.clone();
        move |service, what| {
            let _ended = telling.send(News::Happened(service, what));
        }
    }

    pub(super) fn tell(&mut self, service: ServiceName, what: What) {
        match &what {
            What::Probing { to } => tracing::info!(%service, %to, "asking whether the color is ready"),
            What::Refused { reason, detail, by } => tracing::warn!(%service, reason, by, "refused: {detail}"),
            What::Switched { generation, from, to, by } => {
                tracing::info!(%service, generation, %from, %to, by, "switched");
            }
            What::Previewed { generation, color, by } => {
                tracing::info!(%service, generation, %color, by, "preview changed");
            }
            What::Drained(receipt) => self.drained(&service, receipt),
            What::ClosingStreams { color, streams, seconds, by } => {
                tracing::info!(%service, %color, streams, seconds, by, "closing streams");
            }
            What::Readiness { color, probe } if probe.ready => tracing::info!(%service, %color, "ready"),
            What::Readiness { color, probe } => {
                let live = self.board.services.get(&service).is_some_and(|entry| entry.record.live == *color);
                let (reason, detail) = (probe.reason.as_deref(), probe.detail.as_deref().unwrap_or_default());
                if live {
                    tracing::warn!(%service, %color, reason, "the live color is not ready: {detail}");
                } else {
                    tracing::info!(%service, %color, reason, "not ready: {detail}");
                }
            }
            What::Socket { color, present } => tracing::info!(%service, %color, present, "another socket than before"),
            What::LiveFile { fault } => tracing::warn!(%service, "live file: {fault}"),
            // They are about no service.
            What::Certificate { .. } | What::Reloaded { .. } => {}
        }
        self.tally.count(&service, &what);
        self.events.tell(Some(service), what);
    }

    fn drained(&mut self, service: &ServiceName, receipt: &Receipt) {
        let Receipt {
            generation,
            from,
            outcome,
            in_flight,
            finished,
            failed,
            streams_left,
            seconds,
            cut,
            cut_total,
            streams_kept,
            ..
        } = receipt;
        let outcome = drain::label(*outcome);
        // To the millisecond, which is as exact as anybody cares to read.
        let seconds = (seconds * 1e3).round() / 1e3;
        tracing::info!(
            %service, generation, %from, outcome, in_flight, finished, failed, cut = cut_total, streams_kept, streams_left,
            seconds,
            "drain ended"
        );
        for request in cut {
            tracing::warn!(%service, %from, method = request.method, path = request.path, age = request.age, "cut");
        }
        let key = (service.clone(), from.clone());
        if self.board.services.get(service).is_none_or(|entry| !entry.draining.contains_key(from)) {
            self.drains.remove(&key);
        }
        for (_, _, waiting) in self.receipts.extract_if(.., |(s, g, _)| s == service && g == generation) {
            let _gone = waiting.send(receipt.clone());
        }
    }
}
