//! What happens when the configuration is read again? All of it comes into force, or none.

use std::sync::Arc;

use bgproxy_conf::wire::{Reload, What};
use bgproxy_conf::{Color, Config, ServiceName};

use super::acme::Wanted;
use super::boot;
use super::operate::Switchboard;
use super::pages::PageFiles;
use super::switchboard::{Board, Entry, Unfit};
use super::watch::{self, Key};
use crate::{clock, harden};

impl Switchboard {
    /// Reads, checks and builds; any fault keeps what is in force. Somebody asks for it, or a file changed.
    pub(super) async fn reload(&mut self, is_asked: bool) -> Reload {
        let result = self.try_reload(is_asked).await;
        let at = clock::now();
        let reload = match result {
            Ok(needs_restart) => {
                tracing::info!(?needs_restart, "configuration reloaded");
                Reload { at, ok: true, fault: None, needs_restart }
            }
            Err(fault) => {
                tracing::error!("configuration not reloaded, the old one stays in use: {fault}");
                Reload { at, ok: false, fault: Some(fault), needs_restart: Vec::new() }
            }
        };
        self.tally.reloaded(&reload);
        self.last_reload = Some(reload.clone());
        self.events.tell(None, What::Reloaded { reload: reload.clone() });
        reload
    }

    async fn try_reload(&mut self, is_asked: bool) -> Result<Vec<String>, String> {
        let Some(path) = &self.config_path else {
            return Err("bgproxy runs with its built-in configuration; there is no file to read".to_owned());
        };
        // Before it is read: what is put there later is news, whatever was there before.
        self.watcher.knows(Key::Config, watch::look(path, watch::What::Content));
        let config = Config::load(path).map_err(|error| error.to_string())?;
        let (board, changed) = self.build(&config)?;
        harden::guard_keys(&config);
        let pairs = self.pairs.with(&config.certificate).map_err(|fault| format!("{fault}\nhint: {}", fault.hint()))?;
        let pages = PageFiles::load(&config.error_pages).map_err(|fault| fault.in_config(path).to_string())?;
        if !changed.is_empty() {
            let records = changed.iter().map(|name| (name.clone(), board.services[name].record.clone()));
            let saved = self.save(records.collect());
            saved.await.unwrap_or_else(|_ended| Err("bgproxy is shutting down".to_owned()))?;
        }
        let needs_restart = needs_restart(&self.config, &config);
        let live_file = |config: &Config, name: &ServiceName| {
            config.service.get(name).and_then(|service| service.live_file.clone())
        };
        let other_live_file: Vec<_> = config
            .service
            .keys()
            .filter(|name| live_file(&self.config, name) != live_file(&config, name))
            .cloned()
            .collect();
        self.board = board;
        self.pairs.adopt(pairs);
        self.pages = pages;
        self.tally.expiry(self.pairs.expiry());
        self.config = keep_what_needs_restart(config, &self.config);
        self.wanted.send_modify(|wanted| *wanted = Wanted::of(&self.config).after(wanted, is_asked));
        self.rules.store(Arc::new(self.config.control.clone()));
        self.shutdown.store(Arc::new(self.config.shutdown.deadline.get()));
        self.publish();
        let Board { services } = &self.board;
        self.registry
            .retain(|service, color| services.get(service).is_some_and(|entry: &Entry| entry.colors.contains(color)));
        let exists = |(service, color): &(ServiceName, Color)| {
            services.get(service).is_some_and(|entry: &Entry| entry.colors.contains(color))
        };
        self.reports.retain(|key, _| exists(key));
        self.asked.retain(|key, _| exists(key));
        self.served_before.retain(|key, _| exists(key));
        self.passed.retain(|service, _| services.contains_key(service));
        self.live_faults.retain(|service, _| services.contains_key(service) && !other_live_file.contains(service));
        self.live_files.retain(|service, _| services.contains_key(service) && !other_live_file.contains(service));
        self.rewatch();
        // What the watcher saw there first is no news to it.
        self.read_live_files(|service| other_live_file.contains(service));
        self.fence().await;
        Ok(needs_restart)
    }

    /// The board of this configuration, and the services whose requests go elsewhere now.
    fn build(&self, config: &Config) -> Result<(Board, Vec<ServiceName>), String> {
        let mut board = Board::default();
        let mut changed = Vec::new();
        for (name, service) in &config.service {
            let Some(before) = self.board.services.get(name) else {
                let (entry, is_new) =
                    boot::entry(name, service, &self.store, None).map_err(|error| error.to_string())?;
                if is_new {
                    changed.push(name.clone());
                }
                board.services.insert(name.clone(), entry);
                continue;
            };
            let mut entry = before.clone();
            let colors = service.backends.keys().cloned().collect();
            let moves = routes_differ(self.config.service.get(name), service);
            if entry.reload(colors, moves).map_err(|unfit| told(name, &unfit))? {
                changed.push(name.clone());
            }
            board.services.insert(name.clone(), entry);
        }
        if let Some((name, _)) = self
            .board
            .services
            .iter()
            .find(|(name, entry)| entry.pending.is_some() && !board.services.contains_key(*name))
        {
            return Err(told(name, &Unfit::Busy));
        }
        Ok((board, changed))
    }
}

fn told(name: &ServiceName, unfit: &Unfit) -> String {
    match unfit {
        Unfit::LiveIsGone(live) => {
            format!("service `{name}`: `{live}` is live, it must stay in `service.{name}.backends`")
        }
        Unfit::Busy => format!("service `{name}`: a command is being carried out, try again after it"),
    }
}

/// Whether requests go elsewhere than before.
fn routes_differ(before: Option<&bgproxy_conf::Service>, after: &bgproxy_conf::Service) -> bool {
    before.is_none_or(|before| {
        (&before.hosts, &before.paths, &before.preview, &before.backends)
            != (&after.hosts, &after.paths, &after.preview, &after.backends)
    })
}

/// Keys whose new value waits for a restart.
fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let log = |config: &Config| config.log.clone();
    [
        ("workers", old.workers != new.workers),
        ("listen", old.listen != new.listen),
        ("control.socket", old.control.socket != new.control.socket),
        ("admin.address", old.admin != new.admin),
        ("state.dir", old.state != new.state),
        ("log", log(old) != log(new)),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key.to_owned())
    .collect()
}

/// So that the next comparison is with what really runs.
fn keep_what_needs_restart(new: Config, old: &Config) -> Config {
    Config {
        workers: old.workers,
        listen: old.listen.clone(),
        admin: old.admin.clone(),
        state: old.state.clone(),
        log: old.log.clone(),
        control: bgproxy_conf::Control { socket: old.control.socket.clone(), ..new.control.clone() },
        ..new
    }
}
