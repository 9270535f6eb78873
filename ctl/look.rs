//! The verbs that look: status, is-live, probe, events, history.

use bgproxy_conf::Color;
use bgproxy_conf::wire::{History, ProbeReport, ProbeRequest, ServiceStatus, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::client::{Heard, Target};
use crate::fault::{Exit, Fault};
use crate::screen::{self, Page};
use crate::verbs::{RETRY, Run};
use crate::{render, words};

impl Run {
    /// `status`.
    pub(crate) async fn status(&self) -> Result<(), Fault> {
        screen::say(self.page().await?)
    }

    async fn page(&self) -> Result<String, Fault> {
        let (text, raw) = match &self.global.service {
            None => {
                let status = self.client.get::<Status>(Target::Status).await?;
                (render::status(&status.value, screen::paint()), status.raw)
            }
            Some(name) => {
                let service = self.client.get::<ServiceStatus>(Target::Service(name)).await?;
                (render::service(name, &service.value, screen::paint()), service.raw)
            }
        };
        Ok(if self.global.json { String::from_utf8_lossy(&screen::line(&raw)).into_owned() } else { text })
    }

    /// `status --watch`.
    pub(crate) async fn watch(&self) -> Result<(), Fault> {
        // Before the page opens: a daemon that cannot be reached at all is an error like any other.
        let mut text = self.page().await?;
        let mut page = Page::open()?;
        let redraw = async {
            loop {
                page.show(&text)?;
                sleep(RETRY).await;
                text = match self.page().await {
                    Ok(text) => text,
                    // A daemon that restarts is what somebody may be watching for.
                    Err(fault @ (Fault::Unreachable { .. } | Fault::Lost { .. })) => {
                        render::fault(&fault, None, screen::paint())
                    }
                    Err(fault) => return Err(fault),
                };
            }
        };
        tokio::select! {
            () = interrupted() => Ok(()),
            () = screen::reader_gone() => Ok(()),
            ended = redraw => ended,
        }
    }

    /// `is-live`.
    pub(crate) async fn is_live(&self, color: &Color, verbose: bool) -> Result<Exit, Fault> {
        let service = self.service().await?;
        let status = self.client.get::<ServiceStatus>(Target::Service(&service)).await?;
        let ServiceStatus { live, colors, .. } = &status.value;
        if self.global.json {
            screen::say_raw(&status.raw)?;
        }
        if !colors.contains_key(color) {
            // Not a silent no: a cron job with a typing error would never run, and nobody would know.
            return Err(Fault::Refused {
                title: format!(
                    "there is no color `{color}`; service `{service}` has {}",
                    words::listed(colors.keys().map(Color::as_str))
                ),
                detail: None,
                hint: words::did_you_mean(color.as_str(), colors.keys().map(Color::as_str)),
            });
        }
        let yes = live == color;
        if verbose {
            let not = if yes { String::new() } else { format!(", not {color}") };
            screen::note(&format!("{live} is live{not}\n"));
        }
        Ok(if yes { Exit::Done } else { Exit::Refused })
    }

    /// `probe`.
    pub(crate) async fn probe(&self, color: &Color) -> Result<Exit, Fault> {
        let service = self.service().await?;
        let target = Target::Command(&service, "probe");
        let probe = self.client.post::<ProbeReport>(target, &ProbeRequest { color: color.clone() }).await?;
        self.answer(&probe.raw, || render::probed(color, &probe.value, screen::paint()))?;
        Ok(if probe.value.ready { Exit::Done } else { Exit::Refused })
    }

    /// `history`.
    pub(crate) async fn history(&self) -> Result<(), Fault> {
        let only = self.global.service.as_ref();
        let history = self.client.get::<History>(Target::History(only)).await?;
        self.answer(&history.raw, || render::history(&history.value, only, screen::paint()))
    }

    /// `events`.
    pub(crate) async fn events(&self) -> Result<(), Fault> {
        tokio::select! {
            () = screen::reader_gone() => Ok(()),
            ended = self.follow() => ended,
        }
    }

    async fn follow(&self) -> Result<(), Fault> {
        let target = Target::Events(self.global.service.as_ref());
        let paint = screen::paint();
        let (mut last, mut connected, mut away) = (String::new(), false, false);
        loop {
            let hear = |heard| match heard {
                Heard::Opened => {
                    if away {
                        screen::note("the daemon is back\n");
                    }
                    (connected, away) = (true, false);
                    Ok(())
                }
                Heard::Event(json) if self.global.json => screen::say_raw(json.as_bytes()),
                Heard::Event(json) => screen::say(render::event(&json, paint)),
            };
            match self.client.events(target, &mut last, hear).await {
                Ok(()) | Err(Fault::Lost { .. }) => {}
                Err(Fault::Unreachable { .. }) if connected => {}
                Err(fault) => return Err(fault),
            }
            if !away {
                screen::note("the daemon went away, waiting for it\n");
                away = true;
            }
            sleep(RETRY).await;
        }
    }
}

/// Waits for the signals that end a watch.
async fn interrupted() {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        }
        // Then they still end the process, only without restoring the screen.
        _ => std::future::pending().await,
    }
}
