//! What is done that nobody asked for? Looks around once a round, and follows what changes on disk: the configuration,
//! live files, certificates, error pages, backends' sockets.

use std::path::Path;

use bgproxy_conf::wire::{Action, What};
use bgproxy_conf::{Address, Color, ServiceName};

use super::acme::{Report, Tried};
use super::certificates::Outcome;
use super::live_file::{self, Meaning, Reader, Todo};
use super::operate::{ROUND, Switchboard};
use super::switchboard::{Command, Entry, Event};
use super::watch::{self, Change, Key, Seen, Watched};
use crate::clock;

/// So many colors are asked in one round without a thought.
const FEW: usize = 256;

/// How many colors are asked in one round at most, where `per_round` come due in one on average: thousands that came
/// due together, at a start, would keep coming together, and each time the clients' requests would wait behind them.
fn at_once(per_round: f64) -> usize {
    FEW.max((per_round * 1.25).ceil() as usize)
}

impl Switchboard {
    /// Asks every color that has not been asked for a while, and looks at the live files and at what expires.
    pub(super) fn look_around(&mut self) {
        self.look_at_live_files(|_| true, Reader::round);
        self.pairs.warn_of_expiry();
        let (mut due, mut per_round) = (Vec::new(), 0.0);
        for (service, config) in &self.config.service {
            let every = config.ready.watch.get();
            if every.is_zero() {
                continue;
            }
            for color in config.backends.keys() {
                per_round += ROUND.div_duration_f64(every);
                let key = (service.clone(), color.clone());
                let asked = self.asked.get(&key).copied();
                if asked.is_none_or(|asked| asked.elapsed() >= every) {
                    due.push((asked, key));
                }
            }
        }
        // Who has waited longest is first; who was never asked, before everybody.
        due.sort();
        due.truncate(at_once(per_round));
        for (_, (service, color)) in due {
            // The answer comes as news.
            drop(self.ask_once(&service, &color));
        }
    }

    /// Watches what the configuration in force names.
    pub(super) fn rewatch(&mut self) {
        let mut watched = Vec::new();
        if let Some(path) = &self.config_path {
            watched.push(Watched::new(Key::Config, path, watch::What::Content));
        }
        watched.extend(self.pairs.watched());
        watched.extend(self.pages.watched());
        for (name, config) in &self.config.service {
            if let Some(path) = &config.live_file {
                watched.push(Watched::new(Key::LiveFile(name.clone()), path, watch::What::Content));
            }
            for (color, backend) in &config.backends {
                if let Address::Unix(path) = &backend.address {
                    watched.push(Watched::new(Key::Socket(name.clone(), color.clone()), path, watch::What::Identity));
                }
            }
        }
        self.watcher.set(watched);
    }

    /// What live files say at start, or when they are new to us: one that changed while nobody looked is a command.
    pub(super) fn read_live_files(&mut self, wanted: impl Fn(&ServiceName) -> bool) {
        self.look_at_live_files(wanted, Reader::begin);
    }

    fn look_at_live_files(
        &mut self,
        wanted: impl Fn(&ServiceName) -> bool,
        consider: impl Fn(&mut Reader, &Entry, Meaning) -> Todo,
    ) {
        let files = self.config.service.iter().filter(|(name, _)| wanted(name));
        let files: Vec<_> =
            files.filter_map(|(name, config)| Some((name.clone(), config.live_file.clone()?))).collect();
        for (service, path) in files {
            let Some(entry) = self.board.services.get(&service) else { continue };
            let todo = consider(self.live_files.entry(service.clone()).or_default(), entry, live_file::look(&path));
            self.heed(service, todo);
        }
    }

    pub(super) async fn changed(&mut self, change: Change) {
        match change.key {
            Key::Config => {
                tracing::info!(path = %change.path.display(), "the configuration file changed");
                self.reload(false).await;
            }
            Key::LiveFile(service) => self.live_file_changed(service, &change.path, &change.seen),
            Key::Socket(service, color) => self.socket_changed(service, color, &change.seen).await,
            Key::Certificate(path) => {
                let outcomes = self.pairs.changed(&path, change.seen);
                self.certificates_changed(outcomes);
            }
            Key::Page(path) => self.page_changed(&path, change.seen),
        }
    }

    fn page_changed(&mut self, path: &Path, seen: Seen) {
        match self.pages.changed(path, seen) {
            Ok(()) => {
                self.publish();
                tracing::info!(page = %path.display(), "error page replaced");
            }
            Err(fault) => {
                let page = path.display();
                let hint = "mend it before the next reload, which is refused for it";
                tracing::warn!(%page, hint, "error page not replaced, the old one stays in use: {fault}");
            }
        }
    }

    /// A file of a pair that came alone has waited for the other one long enough.
    pub(super) fn certificates_due(&mut self) {
        let outcomes = self.pairs.complain();
        self.certificates_changed(outcomes);
    }

    fn certificates_changed(&mut self, outcomes: Vec<Outcome>) {
        for Outcome { cert, fault } in outcomes {
            let cert = cert.display().to_string();
            match &fault {
                None => tracing::info!(cert, "certificate replaced"),
                Some(fault) => tracing::warn!(cert, "certificate not replaced, the old one stays in use: {fault}"),
            }
            self.tally.certificate(fault.is_none());
            self.events.tell(None, What::Certificate { cert, fault });
        }
        self.tally.expiry(self.pairs.expiry());
    }

    /// The keeper has fetched a certificate, or has not.
    pub(super) fn certificates_kept(&mut self, report: Report) {
        self.pairs.fetched(report.certificates);
        self.tally.expiry(self.pairs.expiry());
        self.acme = report.status;
        self.tally.acme_failing(self.acme.iter().filter(|host| host.fault.is_some()).count());
        if let Some(Tried { path, fault }) = report.tried {
            self.tally.acme_tried(fault.is_none());
            self.events.tell(None, What::Certificate { cert: path.display().to_string(), fault });
        }
    }

    fn live_file_changed(&mut self, service: ServiceName, path: &Path, seen: &Seen) {
        let Some(entry) = self.board.services.get(&service) else { return };
        let reader = self.live_files.entry(service.clone()).or_default();
        let todo = reader.changed(entry, &live_file::read(seen), live_file::look(path));
        self.heed(service, todo);
    }

    fn heed(&mut self, service: ServiceName, todo: Todo) {
        match todo {
            Todo::Nothing => {}
            Todo::Rest => drop(self.live_faults.remove(&service)),
            Todo::Write => self.step(Event::FileAmiss(service)),
            Todo::Complain(fault) => self.live_file_fault(service, fault),
            Todo::Switch(color, text) => {
                self.live_faults.remove(&service);
                let command = Command {
                    action: Action::Switch,
                    to: Some(color),
                    force: false,
                    expect_live: None,
                    expect_generation: None,
                    by: "live file".to_owned(),
                    at: clock::now(),
                    file: Some(text),
                };
                self.command(service, command, None);
            }
        }
    }

    /// A new socket is a new container: what was connected to the old one is not to be used again.
    async fn socket_changed(&mut self, service: ServiceName, color: Color, seen: &Seen) {
        let present = matches!(seen, Seen::Identity { .. });
        self.tell(service.clone(), What::Socket { color: color.clone(), present });
        if let Some(backend) = self.registry.find(&service, &color) {
            self.mail.retire(backend.slot).await;
        }
        drop(self.ask_once(&service, &color));
    }
}

#[cfg(test)]
mod tests {
    use super::at_once;

    #[test]
    fn thousands_of_colors_are_asked_by_turns() {
        assert_eq!(at_once(0.2), 256);
        // 20,000 colors every ten seconds: all have been asked when eight seconds are over.
        assert_eq!(at_once(2000.0), 2500);
        assert_eq!(at_once(f64::INFINITY), usize::MAX);
    }
}
