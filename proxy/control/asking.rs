//! Who wants to know whether a color is ready? A command before it goes on, a caller, the rounds. Whatever is answered
//! is noted.

use std::cell::Cell;
use std::rc::Rc;

use bgproxy_conf::wire::{ProbeReport, What};
use bgproxy_conf::{Color, ServiceName};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::operate::{News, Switchboard};
use super::probe;
use super::switchboard::{CommandId, Event, Refusal};
use crate::mail::Question;

impl Switchboard {
    /// Asks a color until it is ready, before a command goes on.
    pub(super) fn probe(&mut self, id: CommandId, service: ServiceName, color: &Color) {
        let passed = Rc::new(Cell::new(0));
        self.passed.insert(service.clone(), passed.clone());
        let (mail, telling) = (self.mail.clone(), self.telling.clone());
        let question = self.question(&service, color);
        let ready = self.config.service.get(&service).map(|config| config.ready.clone());
        // A live file goes nowhere; whoever calls may.
        let left = self.askers.get(&id).map(|asker| asker.left.clone()).unwrap_or_default();
        let color = color.clone();
        tokio::task::spawn_local(async move {
            let note = |report: &ProbeReport| {
                let _ended = telling.send(News::Probed(service.clone(), color.clone(), report.clone()));
            };
            let asking = async {
                // The board and the configuration know the same colors; if they ever do not, the command still ends.
                let (question, ready) = question.zip(ready).ok_or(None)?;
                probe::until_ready(&mail, &question, &ready, &passed, note).await
            };
            let event = match left.run_until_cancelled(asking).await {
                Some(result) => Event::Probed(id, service, result),
                None => Event::Abandoned(id, service),
            };
            let _ended = telling.send(News::Event(event));
        });
    }

    fn question(&self, service: &ServiceName, color: &Color) -> Option<Question> {
        let backend = self.registry.find(service, color)?;
        Some(probe::question(self.config.service.get(service)?, backend))
    }

    /// Asks a color once, for a caller.
    pub(super) fn probe_for(
        &mut self,
        service: &ServiceName,
        color: &Color,
        reply: oneshot::Sender<Result<ProbeReport, Refusal>>,
    ) {
        if let Err(refusal) = self.find(service, color) {
            return drop(reply.send(Err(refusal)));
        }
        let asked = self.ask_once(service, color);
        tokio::task::spawn_local(async move {
            // Without an answer the worker has ended, and so will the asker's connection.
            if let Some(report) = asked.await.ok().flatten() {
                let _gone = reply.send(Ok(report));
            }
        });
    }

    /// Asks a color once, beside the loop; the answer is noted too.
    pub(super) fn ask_once(&mut self, service: &ServiceName, color: &Color) -> oneshot::Receiver<Option<ProbeReport>> {
        let (done, result) = oneshot::channel();
        self.asked.insert((service.clone(), color.clone()), Instant::now());
        let Some(question) = self.question(service, color) else { return result };
        // No switch comes of it, so it leaves no connection behind: with thousands of colors those would be all that
        // the process may have open.
        let question = Question { pool: 0, ..question };
        let (mail, telling) = (self.mail.clone(), self.telling.clone());
        let (service, color) = (service.clone(), color.clone());
        tokio::task::spawn_local(async move {
            let report = mail.probe(fastrand::usize(..), question).await;
            if let Some(report) = report.clone() {
                let _ended = telling.send(News::Probed(service, color, report));
            }
            let _gone = done.send(report);
        });
        result
    }

    /// Remembers a probe's answer; tells when it is another one than before.
    pub(super) fn note(&mut self, service: ServiceName, color: Color, probe: ProbeReport) {
        let before = self.reports.insert((service.clone(), color.clone()), probe.clone());
        let is_news = match &before {
            Some(before) => before.ready != probe.ready || before.reason != probe.reason,
            None => true,
        };
        if is_news && self.find(&service, &color).is_ok() {
            self.tell(service, What::Readiness { color, probe });
        }
    }
}
