//! The verbs that change something, or wait for a change to be over: switch, rollback, prepare, wait-idle,
//! close-streams, reload.

use std::time::Duration;

use bgproxy_conf::wire::{
    CloseStreamsReply, CloseStreamsRequest, History, IdleReply, Phase, PreviewRequest, Receipt, Reload, Role,
    ServiceStatus, SwitchReply,
};
use bgproxy_conf::{Color, ServiceName};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::client::Target;
use crate::fault::Fault;
use crate::render;
use crate::screen::{self, Line};
use crate::verbs::{LOOK, RETRY, Run};
use crate::words::Paint;

/// How long one long poll waits at the daemon.
const POLL: Duration = Duration::from_secs(10);

impl Run {
    /// `switch` and `rollback`; `request` makes the body, given whether to wait for the drain.
    pub(crate) async fn change<T: Serialize>(
        &self,
        command: &'static str,
        no_wait: bool,
        request: impl Fn(bool) -> T,
    ) -> Result<(), Fault> {
        let service = self.service().await?;
        // Scripts get one answer with everything in it. People hear of the switch when it is done, of the drain later.
        let request = request(self.global.json && !no_wait);
        let call = self.client.post::<SwitchReply>(Target::Command(&service, command), &request);
        let reply = self.beside(&service, call).await?;
        self.answer(&reply.raw, || render::switched(&reply.value, screen::paint()))?;
        if self.global.json || no_wait || !reply.value.changed {
            return Ok(());
        }
        let generation = reply.value.generation;
        let receipt = self.beside(&service, self.receipt(&service, generation)).await;
        match receipt.map_err(|fault| undrained(reply.value.from, fault))? {
            Some(receipt) => screen::say(render::receipt(&receipt, screen::paint())),
            None => {
                screen::note(&format!("there is no receipt of generation {generation}: did the daemon restart?\n"));
                Ok(())
            }
        }
    }

    /// Waits for the receipt of the drain that `generation` began; none if it will never come.
    async fn receipt(&self, service: &ServiceName, generation: u64) -> Result<Option<Receipt>, Fault> {
        // Most drains take milliseconds, so we look soon, and then less and less often.
        let mut pause = LOOK / 20;
        loop {
            // In this order: a drain that ends between the two calls has its receipt in the history.
            let status = self.client.get::<ServiceStatus>(Target::Service(service)).await?.value;
            let history = self.client.get::<History>(Target::History(Some(service))).await?.value;
            let mut entries = history.entries.into_iter();
            let entry = entries.find(|entry| entry.service == *service && entry.generation == generation);
            match entry.map(|entry| entry.receipt) {
                Some(Some(receipt)) => return Ok(Some(receipt)),
                Some(None) if status.phase != Phase::Steady => {}
                // A restart in between, or fifty commands since: nobody will write it anymore.
                _ => return Ok(None),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK);
        }
    }

    /// `prepare`.
    pub(crate) async fn prepare(&self, color: &Color, within: Duration) -> Result<(), Fault> {
        let service = self.service().await?;
        let request = PreviewRequest { color: color.clone(), force: false, expect_generation: None };
        let tries = async {
            loop {
                match self.client.post::<SwitchReply>(Target::Command(&service, "preview"), &request).await {
                    Err(Fault::Problem { problem, .. }) if problem.reason == "unready" => sleep(RETRY).await,
                    ended => return ended,
                }
            }
        };
        if let Ok(reply) = timeout(within, self.beside(&service, tries)).await {
            let reply = reply?;
            return self.answer(&reply.raw, || render::previewed(&reply.value, screen::paint()));
        }
        let status = timeout(RETRY, self.client.get::<ServiceStatus>(Target::Service(&service))).await;
        let probe = status.ok().and_then(|status| status.ok()?.value.colors.remove(color)?.ready);
        Err(Fault::Deadline {
            title: format!("{color} did not become ready within {}", humantime::format_duration(within)),
            detail: probe.filter(|probe| !probe.ready).map(|probe| render::probed(color, &probe, Paint::Plain)),
            hint: None,
        })
    }

    /// `wait-idle`.
    pub(crate) async fn wait_idle(&self, color: &Color) -> Result<(), Fault> {
        let service = self.service().await?;
        let mut line = Line::default();
        let mut poll = Duration::ZERO;
        loop {
            let target = Target::Drain(&service, color, poll.as_secs());
            let reply = self.client.get::<IdleReply>(target).await?;
            if reply.value.idle {
                drop(line);
                return self.answer(&reply.raw, || format!("{color} is idle and may be stopped\n"));
            }
            let what = match reply.value.role {
                Role::Live => Some("live"),
                Role::Preview => Some("the preview"),
                Role::Draining | Role::Idle => None,
            };
            if let Some(what) = what {
                if self.global.json {
                    screen::say_raw(&reply.raw)?;
                }
                return Err(Fault::Refused {
                    title: format!("{color} is {what}, waiting does not make it idle"),
                    detail: None,
                    hint: Some("do not stop it; `bgctl switch` or `bgctl prepare` another color first".into()),
                });
            }
            let text = render::waiting(color, &reply.value);
            if screen::shows_progress() {
                line.show(&text);
                // Somebody who looks wants to see it move.
                poll = RETRY;
            } else {
                if poll.is_zero() {
                    screen::note(&format!("{text}\n"));
                }
                poll = POLL;
            }
            // However early the daemon answers, it is not asked in a frenzy.
            sleep(LOOK).await;
        }
    }

    /// `close-streams`.
    pub(crate) async fn close_streams(&self, color: &Color, over: Option<Duration>) -> Result<(), Fault> {
        let service = self.service().await?;
        let request = CloseStreamsRequest { color: color.clone(), over: over.map(|over| over.as_secs_f64()) };
        let target = Target::Command(&service, "close-streams");
        let reply = self.client.post::<CloseStreamsReply>(target, &request).await?;
        self.answer(&reply.raw, || render::closing(&reply.value))
    }

    /// `reload`.
    pub(crate) async fn reload(&self) -> Result<(), Fault> {
        let reload = self.client.post::<Reload>(Target::Reload, &serde_json::json!({})).await?;
        if reload.value.ok || self.global.json {
            self.answer(&reload.raw, || render::reload(&reload.value, screen::paint()))?;
        }
        if reload.value.ok {
            return Ok(());
        }
        Err(Fault::Refused {
            title: "the reload failed, nothing changed".into(),
            detail: reload.value.fault,
            hint: None,
        })
    }
}

/// What it means that the daemon went away after the switch: less than it would have meant before.
fn undrained(color: Color, fault: Fault) -> Fault {
    match fault {
        Fault::Unreachable { .. } | Fault::Lost { .. } => Fault::Undrained { color, source: Box::new(fault) },
        _ => fault,
    }
}
