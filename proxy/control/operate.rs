//! How is what was decided carried out? One task owns the switchboard, feeds it events and runs its effects.
//!
//! Effects are begun in the order the switchboard gave them. What takes time (probing, saving, fencing, draining)
//! runs beside the loop and comes back as an event, so that one service's drain never keeps another's switch waiting.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bgproxy_conf::wire::{AcmeStatus, ProbeReport, Receipt, Reload, What};
use bgproxy_conf::{Color, Config, Control, ServiceName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::acme::{Keeper, Report, Wanted};
use super::certificates::Pairs;
use super::desk::{Ask, Asker, Desk};
use super::drain::Drain;
use super::events::Events;
use super::failpoint;
use super::live_file::{self, Reader};
use super::pages::PageFiles;
use super::registry::Registry;
use super::report::About;
use super::save::{Saving, save_in_order};
use super::state::{Record, Store};
use super::streams::Old;
use super::switchboard::{Board, Command, CommandId, Effect, Entry, Event, Refusal};
use super::watch::{Change, Key, Seen, Watcher};
use crate::mail::Mailboxes;
use crate::table::{Backend, Service, Table};

/// How often colors are looked at that nobody asked about.
pub(super) const ROUND: Duration = Duration::from_secs(1);

/// News from the tasks beside the loop.
#[derive(Debug)]
pub(super) enum News {
    Event(Event),
    Probed(ServiceName, Color, ProbeReport),
    Happened(ServiceName, What),
    Kept(Report),
    Told(What),
}

/// What the switchboard is made of.
#[derive(Debug)]
pub struct Parts {
    /// The configuration in force.
    pub config: Config,
    /// Where it was read; none for the built-in default.
    pub config_path: Option<PathBuf>,
    /// What state files and live files said at start.
    pub board: Board,
    /// The certificates in use.
    pub pairs: Pairs,
    /// Who fetches others, and where it is told which.
    pub keeper: (Keeper, watch::Sender<Wanted>),
    /// The error pages in use.
    pub pages: PageFiles,
    /// Every backend.
    pub registry: Registry,
    /// Where tables are published.
    pub table: Arc<ArcSwap<Table>>,
    /// The workers.
    pub mail: Mailboxes,
    /// Where records are saved.
    pub store: Arc<Store>,
    /// Who is told.
    pub events: Arc<Events>,
    /// What does not change while the daemon runs.
    pub about: About,
    /// Who may do what; a reload replaces it.
    pub rules: Arc<ArcSwap<Control>>,
    /// How long a shutdown may take; a reload replaces it.
    pub shutdown: Arc<ArcSwap<Duration>>,
}

/// The task that carries out what the switchboard decides.
#[derive(Debug)]
pub struct Switchboard {
    pub(super) config: Config,
    pub(super) config_path: Option<PathBuf>,
    pub(super) board: Board,
    pub(super) pairs: Pairs,
    pub(super) wanted: watch::Sender<Wanted>,
    keeper: JoinHandle<()>,
    /// The hosts whose certificates are fetched.
    pub(super) acme: Vec<AcmeStatus>,
    pub(super) pages: PageFiles,
    pub(super) registry: Registry,
    table: Arc<ArcSwap<Table>>,
    pub(super) mail: Mailboxes,
    pub(super) store: Arc<Store>,
    pub(super) events: Arc<Events>,
    pub(super) about: About,
    pub(super) rules: Arc<ArcSwap<Control>>,
    pub(super) shutdown: Arc<ArcSwap<Duration>>,
    asks: mpsc::Receiver<Ask>,
    news: mpsc::UnboundedReceiver<News>,
    /// For the tasks beside the loop; there are only as many as there are commands and colors.
    pub(super) telling: mpsc::UnboundedSender<News>,
    /// Unbounded, because a decision must not wait for the disk; there is at most one record per command and drain.
    saving: mpsc::UnboundedSender<Saving>,
    saver: JoinHandle<()>,
    pub(super) watcher: Watcher,
    changes: mpsc::Receiver<Change>,
    next_command: CommandId,
    pub(super) askers: HashMap<CommandId, Asker>,
    pub(super) receipts: Vec<(ServiceName, u64, oneshot::Sender<Receipt>)>,
    /// Answers in a row so far, of the service that is being probed.
    pub(super) passed: HashMap<ServiceName, Rc<Cell<u32>>>,
    /// Deadline and end of each drain.
    pub(super) drains: HashMap<(ServiceName, Color), (Instant, CancellationToken)>,
    /// The task that closes each old color's streams, while it has something to do.
    pub(super) closings: HashMap<(ServiceName, Color), JoinHandle<()>>,
    /// Requests each color had finished when it became live.
    pub(super) served_before: HashMap<(ServiceName, Color), u64>,
    pub(super) reports: HashMap<(ServiceName, Color), ProbeReport>,
    /// When each color was last asked outside of a switch.
    pub(super) asked: HashMap<(ServiceName, Color), Instant>,
    pub(super) live_faults: HashMap<ServiceName, String>,
    pub(super) live_files: HashMap<ServiceName, Reader>,
    pub(super) last_reload: Option<Reload>,
    pub(super) tally: Arc<super::metrics::Tally>,
}

impl Switchboard {
    /// A switchboard, and the desk where it is asked; must be made on a local runtime.
    pub fn new(parts: Parts, tally: Arc<super::metrics::Tally>) -> (Switchboard, Desk) {
        let (desk, asks) = Desk::open();
        let (telling, news) = mpsc::unbounded_channel();
        let (watcher, changes) = Watcher::start();
        let (saving, queue) = mpsc::unbounded_channel();
        let saver = tokio::task::spawn_local(save_in_order(parts.store.clone(), queue));
        tally.expiry(parts.pairs.expiry());
        let Parts {
            config,
            config_path,
            board,
            pairs,
            keeper,
            pages,
            registry,
            table,
            mail,
            store,
            events,
            about,
            rules,
            shutdown,
        } = parts;
        let (keeper, wanted) = keeper;
        let keeper = tokio::task::spawn_local(keeper.run(telling.clone()));
        let switchboard = Switchboard {
            config,
            config_path,
            board,
            pairs,
            wanted,
            keeper,
            acme: Vec::new(),
            pages,
            registry,
            table,
            mail,
            store,
            events,
            about,
            rules,
            shutdown,
            asks,
            news,
            telling,
            saving,
            saver,
            watcher,
            changes,
            next_command: 0,
            askers: HashMap::new(),
            receipts: Vec::new(),
            passed: HashMap::new(),
            drains: HashMap::new(),
            closings: HashMap::new(),
            served_before: HashMap::new(),
            reports: HashMap::new(),
            asked: HashMap::new(),
            live_faults: HashMap::new(),
            live_files: HashMap::new(),
            last_reload: None,
            tally,
        };
        (switchboard, desk)
    }

    /// Runs until nobody can ask any more.
    pub async fn run(mut self) {
        self.rewatch();
        self.read_live_files(|_| true);
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => break,
                },
                Some(news) = self.news.recv() => match news {
                    News::Event(event) => self.step(event),
                    News::Probed(service, color, report) => self.note(service, color, report),
                    News::Happened(service, what) => self.tell(service, what),
                    News::Kept(report) => self.certificates_kept(report),
                    News::Told(what) => self.events.tell(None, what),
                },
                Some(change) = self.changes.recv() => self.changed(change).await,
                () = sleep_until(self.pairs.due().unwrap_or_else(Instant::now)), if self.pairs.due().is_some() => {
                    self.certificates_due();
                }
                _ = rounds.tick() => self.look_around(),
                // Its end is not asked for before ours.
                _ = &mut self.saver => panic!("nobody saves records any more"),
            }
        }
        // What was decided is saved before the daemon ends.
        let Switchboard { saving, saver, keeper, .. } = self;
        // What it has fetched and not kept is fetched again.
        keeper.abort();
        drop(saving);
        if let Err(error) = saver.await {
            tracing::error!("cannot save what happened: {error}");
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // An asker that has gone does not want the reply.
        match ask {
            Ask::Command(service, command, asker) => self.command(service, command, Some(asker)),
            Ask::Receipt(service, generation, reply) => self.receipt(service, generation, reply),
            Ask::Probe(service, color, reply) => self.probe_for(&service, &color, reply),
            Ask::Idle(service, color, reply) => drop(reply.send(self.idle(&service, &color))),
            Ask::CloseStreams(close, reply) => self.close_streams(close, reply),
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::History(reply) => drop(reply.send(self.history())),
            Ask::Reload(reply) => {
                let reload = self.reload(true).await;
                drop(reply.send(reload));
            }
        }
    }

    /// Asks the switchboard; without an asker the reply is only told and logged.
    pub(super) fn command(&mut self, service: ServiceName, command: Command, asker: Option<Asker>) {
        self.next_command += 1;
        let id = self.next_command;
        if let Some(asker) = asker {
            self.askers.insert(id, asker);
        }
        self.step(Event::Commanded(id, service, command));
    }

    pub(super) fn step(&mut self, event: Event) {
        for effect in self.board.step(event) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Probe(id, service, color) => self.probe(id, service, &color),
            Effect::Persist(id, service, record) => self.persist(id, service, record),
            Effect::Resume(service, color) => {
                if let Some((_, resumed)) = self.drains.remove(&(service, color)) {
                    resumed.cancel();
                }
            }
            Effect::Publish => {
                failpoint::reach("before_publish");
                self.publish();
                failpoint::reach("after_publish");
            }
            Effect::Fence(id, service) => {
                let (mail, telling) = (self.mail.clone(), self.telling.clone());
                tokio::task::spawn_local(async move {
                    mail.fence().await;
                    let _ended = telling.send(News::Event(Event::Fenced(id, service)));
                });
            }
            Effect::Reply(id, result) => {
                failpoint::reach("before_reply");
                if let Some(asker) = self.askers.remove(&id) {
                    let _gone = asker.reply.send(result);
                }
                failpoint::reach("after_reply");
            }
            Effect::Drain { service, from, to, generation } => self.drain(service, from, to, generation),
            Effect::WriteLiveFile(service, color) => self.write_live_file(service, &color),
            Effect::Tell(service, what) => self.tell(service, what),
        }
    }

    // --- effects

    fn persist(&mut self, id: Option<CommandId>, service: ServiceName, record: Record) {
        failpoint::reach("before_persist");
        let saved = self.save(vec![(service.clone(), record)]);
        let telling = self.telling.clone();
        tokio::task::spawn_local(async move {
            let result = saved.await.unwrap_or_else(|_ended| Err("bgproxy is shutting down".to_owned()));
            match id {
                Some(id) => {
                    let _ended = telling.send(News::Event(Event::Persisted(id, service, result)));
                }
                None => {
                    if let Err(fault) = result {
                        tracing::error!(%service, "cannot save what happened: {fault}");
                    }
                }
            }
        });
    }

    /// Puts records into the queue for the disk: what is queued later is newer.
    pub(super) fn save(&self, records: Vec<(ServiceName, Record)>) -> oneshot::Receiver<Result<(), String>> {
        let (saved, result) = oneshot::channel();
        // A queue that has ended drops `saved`, which the receiver sees.
        let _ended = self.saving.send(Saving { records, saved });
        result
    }

    /// Makes the table of what is in force and lets the workers see it.
    pub fn publish(&mut self) {
        let published = self.table.load_full();
        let mut services = Vec::with_capacity(self.board.services.len());
        let mut used_again = Vec::new();
        for (name, entry) in &self.board.services {
            let Some(config) = self.config.service.get(name) else { continue };
            let backends: Vec<_> =
                config.backends.iter().map(|(color, config)| self.registry.backend(name, color, config)).collect();
            let find = |color: &Color| backends.iter().find(|backend| backend.color == *color).cloned();
            let (Some(live), Some(preview)) = (find(&entry.record.live), find(&entry.record.preview)) else {
                // The switchboard lets no such record come into force.
                tracing::error!(service = %name, "no backend for the live color, the service is left out");
                continue;
            };
            let before = published.service(name);
            if before.is_none_or(|before| before.live.color != live.color) {
                self.served_before.insert((name.clone(), live.color.clone()), live.sum().finished);
            }
            if let Some(before) = before {
                let was_idle = |used: &&Arc<Backend>| ![before.live.slot, before.preview.slot].contains(&used.slot);
                used_again.extend([&live, &preview].into_iter().filter(was_idle).cloned());
            }
            let generation = entry.record.generation;
            // Of ten thousand services a switch changes one.
            let same = |before: &&Arc<Service>| {
                let is = |a: &[Arc<Backend>], b: &[Arc<Backend>]| a.iter().map(|a| a.id).eq(b.iter().map(|b| b.id));
                (before.generation, before.live.id, before.preview.id) == (generation, live.id, preview.id)
                    && is(&before.backends, &backends)
                    && before.config == *config
            };
            services.push(before.filter(same).cloned().unwrap_or_else(|| {
                Arc::new(Service {
                    name: name.clone(),
                    generation,
                    live: live.clone(),
                    preview: preview.clone(),
                    backends: backends.clone(),
                    config: config.clone(),
                })
            }));
        }
        let table = Table::new(services, self.config.limits.clone(), self.config.trusted.clone());
        self.table.store(Arc::new(table.with_pages(self.pages.pages())));
        used_again.iter().for_each(|backend| self.keep_streams(backend));
    }

    /// Waits until every worker has seen the table.
    pub(super) async fn fence(&self) {
        self.mail.fence().await;
    }

    fn drain(&mut self, service: ServiceName, from: Color, to: Color, generation: u64) {
        let Some(backend) = self.registry.find(&service, &from).cloned() else { return };
        let deadline = self.config.service.get(&service).map_or(Duration::ZERO, |config| config.drain.deadline.get());
        let resumed = CancellationToken::new();
        let key = (service.clone(), from.clone());
        self.drains.insert(key.clone(), (Instant::now() + deadline, resumed.clone()));
        let served_before = self.served_before.get(&key).copied().unwrap_or(0);
        let policy = self.config.service.get(&service).map(|config| config.streams.clone()).unwrap_or_default();
        let old = Old { from: backend.clone(), generation, policy };
        let drain = Drain { from: backend, to, generation, served_before, deadline, resumed };
        let (end, drained) = oneshot::channel();
        self.close_old_streams(key, old, drained);
        let (mail, telling) = (self.mail.clone(), self.telling.clone());
        tokio::task::spawn_local(async move {
            let receipt = drain.run(&mail).await;
            let _unheard = end.send(());
            let _ended = telling.send(News::Event(Event::Drained(service, receipt)));
        });
    }

    pub(super) fn write_live_file(&mut self, service: ServiceName, color: &Color) {
        let Some(path) = self.config.service.get(&service).and_then(|config| config.live_file.clone()) else { return };
        let Some(entry) = self.board.services.get(&service) else { return };
        let reader = self.live_files.entry(service.clone()).or_default();
        if !reader.may_write(entry, color, &live_file::look(&path)) {
            return;
        }
        failpoint::reach("before_live_file");
        match live_file::write(&path, color) {
            Ok(text) => {
                reader.wrote();
                self.live_faults.remove(&service);
                self.watcher.knows(Key::LiveFile(service.clone()), Seen::Content(text.clone().into_bytes()));
                self.step(Event::FileSeen(service, text));
            }
            Err(error) => self.live_file_fault(service, format!("cannot be written: {error}")),
        }
        failpoint::reach("after_live_file");
    }

    pub(super) fn live_file_fault(&mut self, service: ServiceName, fault: String) {
        if self.live_faults.get(&service) != Some(&fault) {
            self.live_faults.insert(service.clone(), fault.clone());
            self.tell(service, What::LiveFile { fault });
        }
    }

    // --- asks

    fn receipt(&mut self, service: ServiceName, generation: u64, reply: oneshot::Sender<Receipt>) {
        let entry = self.board.services.get(&service);
        let history = entry.map(|entry| entry.record.history.iter());
        let item = history.and_then(|mut items| items.find(|item| item.generation == generation));
        match item.and_then(|item| item.receipt.clone()) {
            Some(receipt) => drop(reply.send(receipt)),
            // Of a service that a reload has removed there may be no drain left to wait for.
            None if entry.is_some() || self.drains.keys().any(|(draining, _)| *draining == service) => {
                self.receipts.push((service, generation, reply));
            }
            None => {}
        }
    }

    /// That there is such a color.
    pub(super) fn find(&self, service: &ServiceName, color: &Color) -> Result<&Entry, Refusal> {
        let entry = self.board.services.get(service).ok_or_else(|| self.board.unknown(service.clone()))?;
        if entry.colors.contains(color) {
            Ok(entry)
        } else {
            Err(Refusal::UnknownColor(color.clone(), entry.colors.clone()))
        }
    }
}
