//! What is the state of everything? Puts it together for status, history and the idle gate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bgproxy_conf::wire::{
    ColorStatus, History, HistoryEntry, IdleReply, LimitsStatus, LiveFileStatus, Phase, Refused, Role, ServiceStatus,
    Status, StreamsByKind,
};
use bgproxy_conf::{Color, Service, ServiceName};
use tokio::time::Instant;

use super::operate::Switchboard;
use super::switchboard::{Entry, Refusal, Stage};
use crate::cell::StreamKind;
use crate::descriptors;

/// How long a want of descriptors is shown.
const MINUTE: Duration = Duration::from_secs(60);

/// What does not change while the daemon runs.
#[derive(Clone)]
pub struct About {
    /// Version and commit.
    pub version: String,
    /// When it started.
    pub started: String,
    /// Worker threads.
    pub workers: usize,
    /// Addresses clients connect to.
    pub listen: Vec<String>,
    /// Address of the admin listener.
    pub admin: String,
    /// Counts the client connections open now.
    pub connections: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What was refused in the last minute because of limits.
    pub refused: Arc<dyn Fn() -> Refused + Send + Sync>,
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("About").field("version", &self.version).field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Switchboard {
    /// Everything at one glance.
    pub(super) fn status(&self) -> Status {
        let services = self.board.services.iter();
        Status {
            version: self.about.version.clone(),
            pid: std::process::id(),
            started: self.about.started.clone(),
            workers: self.about.workers,
            listen: self.about.listen.clone(),
            admin: self.about.admin.clone(),
            config: self.config_path.as_ref().map(|path| path.display().to_string()),
            last_reload: self.last_reload.clone(),
            connections: (self.about.connections)(),
            limits: LimitsStatus {
                connections: self.config.limits.connections as u64,
                last_minute: (self.about.refused)(),
                out_of_descriptors: descriptors::ran_out_within(MINUTE),
            },
            certificates: self.pairs.status(),
            acme: self.acme.clone(),
            services: services
                .filter_map(|(name, entry)| Some((name, entry, self.config.service.get(name)?)))
                .map(|(name, entry, config)| (name.clone(), self.service_status(name, entry, config)))
                .collect(),
        }
    }

    fn service_status(&self, name: &ServiceName, entry: &Entry, config: &Service) -> ServiceStatus {
        let colors = config.backends.iter().map(|(color, backend)| {
            let sum = self.registry.find(name, color).map(|known| known.sum()).unwrap_or_default();
            let status = ColorStatus {
                address: backend.address.to_string(),
                role: role(entry, color),
                ready: self.reports.get(&(name.clone(), color.clone())).cloned(),
                in_flight: sum.in_flight(),
                streams: sum.streams,
                streams_by_kind: StreamsByKind {
                    tunnels: sum.streams_by_kind[StreamKind::Tunnel as usize],
                    events: sum.streams_by_kind[StreamKind::Events as usize],
                    downloads: sum.streams_by_kind[StreamKind::Download as usize],
                },
                oldest_stream: sum.oldest.map(age),
                finished: sum.finished,
                failed: sum.failed,
            };
            (color.clone(), status)
        });
        let colors: BTreeMap<Color, ColorStatus> = colors.collect();
        ServiceStatus {
            generation: entry.record.generation,
            live: entry.record.live.clone(),
            preview: entry.record.preview.clone(),
            previous: entry.record.previous.clone(),
            phase: self.phase(name, entry, config, &colors),
            colors,
            live_file: config.live_file.as_ref().map(|path| LiveFileStatus {
                path: path.display().to_string(),
                fault: self.live_faults.get(name).cloned(),
            }),
        }
    }

    fn phase(
        &self,
        name: &ServiceName,
        entry: &Entry,
        config: &Service,
        colors: &BTreeMap<Color, ColorStatus>,
    ) -> Phase {
        match &entry.pending {
            Some(pending) if pending.stage == Stage::Probing => Phase::Probing {
                to: pending.to.clone(),
                passed: self.passed.get(name).map_or(0, |passed| passed.get()),
                passes: config.ready.passes,
            },
            Some(pending) => Phase::Switching { to: pending.to.clone() },
            None => match entry.draining.keys().next() {
                None => Phase::Steady,
                Some(from) => {
                    let deadline = self.drains.get(&(name.clone(), from.clone())).map(|(deadline, _)| *deadline);
                    let left = deadline.map_or(0.0, |at| at.saturating_duration_since(Instant::now()).as_secs_f64());
                    let color = colors.get(from);
                    Phase::Draining {
                        from: from.clone(),
                        left: color.map_or(0, |color| color.in_flight),
                        streams: color.map_or(0, |color| color.streams),
                        deadline_in: left,
                    }
                }
            },
        }
    }

    /// What happened, newest first.
    pub(super) fn history(&self) -> History {
        let entries = self.board.services.values().flat_map(|entry| entry.record.history.iter().cloned());
        let mut entries: Vec<HistoryEntry> = entries.collect();
        entries.sort_by(|a, b| (&b.at, b.generation).cmp(&(&a.at, a.generation)));
        History { entries }
    }

    /// Whether a color is idle, which is what its container's end waits for.
    pub(super) fn idle(&self, service: &ServiceName, color: &Color) -> Result<IdleReply, Refusal> {
        let entry = self.find(service, color)?;
        let sum = self.registry.find(service, color).map(|backend| backend.sum()).unwrap_or_default();
        let role = role(entry, color);
        let quiet = sum.in_flight() == 0 && sum.streams == 0 && !entry.is_unsettled(color);
        let chosen = entry.pending.as_ref().is_some_and(|pending| pending.to == *color);
        Ok(IdleReply {
            idle: role == Role::Idle && quiet && !chosen,
            role,
            in_flight: sum.in_flight(),
            streams: sum.streams,
        })
    }
}

/// Seconds since a time in milliseconds since the epoch.
fn age(began: u64) -> f64 {
    let began = SystemTime::UNIX_EPOCH + Duration::from_millis(began);
    began.elapsed().unwrap_or_default().as_secs_f64()
}

fn role(entry: &Entry, color: &Color) -> Role {
    if *color == entry.record.live {
        Role::Live
    } else if *color == entry.record.preview {
        Role::Preview
    } else if entry.draining.contains_key(color) {
        Role::Draining
    } else {
        Role::Idle
    }
}
