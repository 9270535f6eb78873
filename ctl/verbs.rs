//! What each verb does: its calls, in order, and how it ends.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use bgproxy_conf::wire::{IdleReply, Phase, RollbackRequest, ServiceStatus, Status, SwitchRequest};
use bgproxy_conf::{Color, ServiceName};
use tokio::time::{sleep, timeout};

use crate::args::{Change, Global, Verb};
use crate::client::{Client, Target};
use crate::fault::{Exit, Fault};
use crate::screen::{self, Line};
use crate::{local, render, words};

/// Between two looks at the daemon, where nothing tells us that something has changed.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// Between two tries of a thing that may succeed later.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// One run of `bgctl`.
#[derive(Debug)]
pub(crate) struct Run {
    /// The daemon.
    pub(crate) client: Client,
    /// The options of every verb.
    pub(crate) global: Global,
}

impl Run {
    /// Does what `verb` says.
    pub(crate) async fn verb(&self, verb: &Verb) -> Result<Exit, Fault> {
        match verb {
            Verb::Status { watch: false } => self.status().await,
            Verb::Status { watch: true } => self.watch().await,
            Verb::Switch { color, change } => {
                let Change { force, no_wait, expect_live, expect_generation } = change;
                let request = |wait| SwitchRequest {
                    to: color.clone(),
                    force: *force,
                    wait,
                    expect_live: expect_live.clone(),
                    expect_generation: *expect_generation,
                };
                self.change("switch", *no_wait, request).await
            }
            Verb::Rollback { change } => {
                let Change { force, no_wait, expect_live, expect_generation } = change;
                let request = |wait| RollbackRequest {
                    force: *force,
                    wait,
                    expect_live: expect_live.clone(),
                    expect_generation: *expect_generation,
                };
                self.change("rollback", *no_wait, request).await
            }
            Verb::Prepare { color, within } => self.prepare(color, *within).await,
            Verb::WaitIdle { color } => self.wait_idle(color).await,
            Verb::CloseStreams { color, over } => self.close_streams(color, *over).await,
            Verb::IsLive { color, verbose } => return self.is_live(color, *verbose).await,
            Verb::Probe { color } => return self.probe(color).await,
            Verb::Events => self.events().await,
            Verb::History => self.history().await,
            Verb::Reload => self.reload().await,
            Verb::Check { file } => return local::check(file, self.global.json),
            Verb::Completions { shell } => local::completions(*shell),
        }?;
        Ok(Exit::Done)
    }

    /// What to do about `fault`, asking the daemon for its names where one was mistyped.
    pub(crate) async fn hint(&self, verb: &Verb, fault: &Fault) -> Option<String> {
        let Fault::Problem { problem, .. } = fault else { return fault.hint() };
        let typed_service = self.global.service.as_ref();
        let status: Status = match problem.reason.as_str() {
            "unknown_color" | "unknown_service" => self.client.get(Target::Status).await.ok()?.value,
            _ => return None,
        };
        if problem.reason == "unknown_service" {
            return words::did_you_mean(typed_service?.as_str(), status.services.keys().map(ServiceName::as_str));
        }
        let service = match typed_service {
            Some(name) => status.services.get(name)?,
            None => status.services.values().next()?,
        };
        words::did_you_mean(verb.color()?.as_str(), service.colors.keys().map(Color::as_str))
    }

    /// What is known when `--timeout` has passed.
    pub(crate) async fn at_deadline(&self, verb: &Verb) -> Option<String> {
        match verb {
            Verb::WaitIdle { color } => {
                // The daemon may be the reason, so it does not get much time to tell.
                let left = timeout(RETRY, async {
                    let service = self.service().await?;
                    self.client.get::<IdleReply>(Target::Drain(&service, color, 0)).await
                });
                Some(render::waiting(color, &left.await.ok()?.ok()?.value))
            }
            _ => None,
        }
    }

    // === helpers ===

    /// The service meant: the one named, or else the only one.
    pub(crate) async fn service(&self) -> Result<ServiceName, Fault> {
        if let Some(name) = &self.global.service {
            return Ok(name.clone());
        }
        let status = self.client.get::<Status>(Target::Status).await?.value;
        let mut names = status.services.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(Fault::Usage {
                title: format!(
                    "which service? there are {}",
                    words::listed(status.services.keys().map(ServiceName::as_str))
                ),
                hint: "name it with `-s NAME`".into(),
            }),
        }
    }

    /// Prints an answer: as it came, or for people.
    pub(crate) fn answer(&self, raw: &[u8], text: impl FnOnce() -> String) -> Result<(), Fault> {
        if self.global.json { screen::say_raw(raw) } else { screen::say(text()) }
    }

    /// Waits for `call`, and shows meanwhile what is going on in the service, if somebody looks.
    pub(crate) async fn beside<T>(&self, service: &ServiceName, call: impl Future<Output = T>) -> T {
        if !screen::shows_progress() {
            return call.await;
        }
        let (mut call, mut show) = (pin!(call), pin!(self.show(service)));
        tokio::select! {
            biased;
            done = &mut call => done,
            never = &mut show => match never {},
        }
    }

    async fn show(&self, service: &ServiceName) -> Infallible {
        let mut line = Line::default();
        let mut most = 0;
        loop {
            // What takes less is done before it can be read.
            sleep(LOOK).await;
            // Whether the daemon is well is for the call to say.
            let Ok(status) = self.client.get::<ServiceStatus>(Target::Service(service)).await else { continue };
            if let Phase::Draining { left, .. } = status.value.phase {
                most = most.max(left);
            }
            if let Some(text) = render::progress(&status.value.phase, most) {
                line.show(&text);
            }
        }
    }
}
