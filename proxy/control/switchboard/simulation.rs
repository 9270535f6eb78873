//! Does every order of events keep the laws? A simulated world around [`Board::step`], and dice.
//!
//! The world is as slow, as late and as unreliable as the real one may be: workers see a table when they like but no
//! later than a fence says, the disk is slow and fails, news waits in queues, askers leave, scripts write into live
//! files, configurations change, and the daemon is killed between any two effects and boots again. After every step
//! the laws of ARCHITECTURE.md, sections 5 to 7, are checked; at the end the world comes to rest and must be whole.
//!
//! A failure prints its seed and the story that led to it. `BGPROXY_SIM_SEED=N` runs that one again,
//! `BGPROXY_SIM_CASES=N` runs more of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bgproxy_conf::wire::{Action, DrainOutcome, Receipt, What};
use bgproxy_conf::{Color, ServiceName};
use fastrand::Rng;

use super::super::live_file::{self, Meaning, Reader, Todo};
use super::super::state::Record;
use super::super::watch::Seen;
use super::{Board, Command, CommandId, Effect, Entry, Event, Stage};

/// Worlds per test run.
const CASES: u64 = 1500;

/// Things that happen in one world before it comes to rest.
const STEPS: usize = 250;

/// The last so many lines of a story are told.
const TOLD: usize = 60;

#[test]
fn the_laws_hold_in_any_order_of_events() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("BGPROXY_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BGPROXY_SIM_CASES").unwrap_or(CASES),
    };
    let mut seen = BTreeMap::new();
    for seed in seeds {
        let mut world = World::new(seed);
        let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
        if let Err(panic) = lived {
            let story = &world.story[world.story.len().saturating_sub(TOLD)..];
            eprintln!("{}\nagain: BGPROXY_SIM_SEED={seed} cargo test --lib simulation", story.join("\n"));
            resume_unwind(panic);
        }
        for (what, times) in world.seen {
            *seen.entry(what).or_insert(0) += times;
        }
    }
    // A simulation in which nothing happens proves nothing.
    if number("BGPROXY_SIM_SEED").is_none() {
        for what in [
            "switched",
            "previewed",
            "unchanged",
            "busy",
            "unready",
            "abandoned",
            "not_saved",
            "other_live",
            "drained",
            "cut",
            "resumed",
            "late cut",
            "crash",
            "reload",
            "file switch",
            "stale news",
            "lost save",
        ] {
            assert!(seen.get(what).is_some_and(|times| *times >= 20), "{what} hardly ever happened: {seen:?}");
        }
    }
}

/// What one table says of one service.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    generation: u64,
    live: (Color, u64),
    preview: (Color, u64),
}

/// One request that holds a claim.
#[derive(Debug)]
struct Request {
    worker: usize,
    slot: u64,
    generation: u64,
    version: usize,
}

#[derive(Debug, Clone)]
enum Letter {
    Fence(usize),
    Cut(usize),
}

/// A fence under way: sent when this version was the newest.
#[derive(Debug)]
struct Fence {
    id: CommandId,
    service: ServiceName,
    version: usize,
    unanswered: usize,
}

/// As in drain.rs.
#[derive(Debug)]
struct Drain {
    service: ServiceName,
    from: Color,
    to: Color,
    generation: u64,
    slot: u64,
    resumed: bool,
    /// The first version after the resume.
    resumed_at: usize,
    at: DrainAt,
}

#[derive(Debug, PartialEq)]
enum DrainAt {
    Waiting,
    /// So many workers have not answered the cut yet.
    Cutting(usize),
    Cut,
    Over,
}

#[derive(Debug)]
struct Saving {
    service: ServiceName,
    record: Record,
    id: Option<CommandId>,
}

/// A live file, and the watcher's memory of it.
#[derive(Debug, Default, Clone)]
struct File {
    text: Option<String>,
    /// Whether we wrote it.
    ours: bool,
    known: Option<String>,
}

#[derive(Debug)]
struct News {
    service: ServiceName,
    text: Option<String>,
}

struct World {
    dice: Rng,
    story: Vec<String>,
    seen: BTreeMap<&'static str, u64>,

    // The daemon: gone with a crash.
    board: Board,
    readers: BTreeMap<ServiceName, Reader>,
    tables: Vec<BTreeMap<ServiceName, Shown>>,
    /// The newest version each worker has certainly seen.
    workers: Vec<usize>,
    mail: Vec<VecDeque<Letter>>,
    requests: Vec<Request>,
    slots: BTreeMap<(ServiceName, Color), u64>,
    fences: Vec<Fence>,
    probes: Vec<(CommandId, ServiceName)>,
    drains: Vec<Drain>,
    /// As `Switchboard::drains`: which drain a resume ends.
    current: BTreeMap<(ServiceName, Color), usize>,
    saving: VecDeque<Saving>,
    events: VecDeque<Event>,
    news: VecDeque<News>,
    asked: BTreeMap<CommandId, (ServiceName, Command)>,

    // The world: stays.
    disk: BTreeMap<ServiceName, Record>,
    files: BTreeMap<ServiceName, File>,
    next: u64,

    // What must be true.
    /// Every routing that ever was on disk.
    persisted: BTreeSet<(ServiceName, u64, Color, Color)>,
    /// The newest routing that workers could see, over crashes.
    published: BTreeMap<ServiceName, (u64, Color, Color)>,
    /// The generation that a success reply promised.
    promised: BTreeMap<ServiceName, u64>,
    /// A save that no command waits for failed, and none came after it.
    unsaved: BTreeSet<ServiceName>,
    receipts: Vec<(ServiceName, Receipt)>,
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("a name")
}

fn color(text: &str) -> Color {
    text.parse().expect("a color")
}

fn colors(of: &[&str]) -> Vec<Color> {
    of.iter().map(|text| color(text)).collect()
}

fn meaning(text: &Option<String>) -> Meaning {
    live_file::read(&text.as_ref().map_or(Seen::Missing, |text| Seen::Content(text.clone().into_bytes())))
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Rng::with_seed(seed);
        let mut disk = BTreeMap::new();
        let mut board = Board::default();
        for service in ["portal", "shop"].into_iter().take(dice.usize(1..=2)) {
            let all = ["blue", "green", "red"];
            let colors = colors(&all[..dice.usize(2..=3)]);
            let blue = color("blue");
            let record = Record {
                generation: 1,
                live: blue.clone(),
                preview: blue,
                previous: None,
                file_seen: None,
                history: Vec::new(),
            };
            disk.insert(name(service), record.clone());
            board.services.insert(name(service), Entry::new(colors, record));
        }
        let workers = dice.usize(1..=3);
        let mut world = World {
            dice,
            story: Vec::new(),
            seen: BTreeMap::new(),
            board,
            readers: BTreeMap::new(),
            tables: Vec::new(),
            workers: vec![0; workers],
            mail: vec![VecDeque::new(); workers],
            requests: Vec::new(),
            slots: BTreeMap::new(),
            fences: Vec::new(),
            probes: Vec::new(),
            drains: Vec::new(),
            current: BTreeMap::new(),
            saving: VecDeque::new(),
            events: VecDeque::new(),
            news: VecDeque::new(),
            asked: BTreeMap::new(),
            persisted: BTreeSet::new(),
            published: BTreeMap::new(),
            promised: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            receipts: Vec::new(),
            files: disk.keys().map(|service| (service.clone(), File::default())).collect(),
            disk,
            next: 0,
        };
        world.boot();
        world
    }

    fn live(&mut self) {
        for _ in 0..STEPS {
            self.something();
            self.check();
        }
        self.rest();
    }

    /// Happens as often as the dice say.
    fn something(&mut self) {
        match self.dice.u32(0..100) {
            0..8 => self.ask(),
            8..14 => self.probe_answers(),
            14..15 => self.asker_leaves(),
            15..27 => self.disk_answers(),
            27..40 => self.request_begins(),
            40..48 => self.request_ends(),
            48..62 => self.worker_reads_mail(),
            62..74 => self.drain_looks(),
            74..90 => drop(self.event_arrives()),
            90..93 => self.script_writes(),
            93..95 => self.watcher_looks(),
            95..97 => drop(self.watcher_news_arrives()),
            97..98 => self.round(),
            98 => self.reload(),
            _ if self.dice.u32(0..3) == 0 => self.crash(),
            _ => {}
        }
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        self.dice.choice(of).cloned()
    }

    fn service(&mut self) -> ServiceName {
        let names: Vec<_> = self.disk.keys().cloned().collect();
        self.one(&names).expect("a service")
    }

    fn newest(&self) -> usize {
        self.tables.len() - 1
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // --- what people and scripts do

    fn ask(&mut self) {
        let service = if self.dice.u32(0..50) == 0 { name("nowhere") } else { self.service() };
        let entry = self.board.services.get(&service).cloned();
        let record = entry.as_ref().map(|entry| entry.record.clone());
        let any = self.one(&colors(&["blue", "green", "red", "green", "blue", "pink"])).expect("a color");
        let action = match self.dice.u32(0..10) {
            0..6 => Action::Switch,
            6..8 => Action::Rollback,
            _ => Action::Preview,
        };
        let expects = self.dice.u32(0..6);
        let expect_live = (expects == 0).then(|| any.clone());
        let expect_generation = record.filter(|_| expects == 1).map(|r| r.generation + self.dice.u64(0..2));
        let to = (action != Action::Rollback).then_some(any);
        let command = Command {
            action,
            to,
            force: self.dice.bool(),
            expect_live,
            expect_generation,
            by: "somebody".to_owned(),
            at: String::new(),
            file: None,
        };
        self.command(service, command);
    }

    fn command(&mut self, service: ServiceName, command: Command) {
        let id = self.fresh();
        self.tell(format!("{id} asked of {service}: {command:?}"));
        self.asked.insert(id, (service.clone(), command.clone()));
        self.step(Event::Commanded(id, service, command));
    }

    fn asker_leaves(&mut self) {
        let of_people: Vec<_> = (0..self.probes.len())
            .filter(|at| self.asked.get(&self.probes[*at].0).is_some_and(|(_, command)| command.file.is_none()))
            .collect();
        let Some(at) = self.one(&of_people) else { return };
        let (id, service) = self.probes.remove(at);
        self.tell(format!("the asker of {id} leaves"));
        self.events.push_back(Event::Abandoned(id, service));
    }

    fn script_writes(&mut self) {
        let service = self.service();
        let texts = ["blue\n", "green\n", "red\n", "green", " blue", "nonsense!", ""];
        let text = match self.dice.usize(0..texts.len() + 1) {
            at if at < texts.len() => Some(texts[at].to_owned()),
            _ => None,
        };
        self.tell(format!("a script writes {text:?} into the file of {service}"));
        let file = self.files.get_mut(&service).expect("a file");
        if file.text != text {
            file.ours = false;
        }
        file.text = text;
    }

    // --- what the world does

    fn probe_answers(&mut self) {
        if self.probes.is_empty() {
            return;
        }
        let at = self.dice.usize(0..self.probes.len());
        let (id, service) = self.probes.swap_remove(at);
        let ready = self.dice.u32(0..4) > 0;
        self.tell(format!("the probe of {id} ends: ready {ready}"));
        self.events.push_back(Event::Probed(id, service, if ready { Ok(()) } else { Err(None) }));
    }

    fn disk_answers(&mut self) {
        let works = self.dice.u32(0..6) > 0;
        self.save_next(works);
    }

    /// As `save_in_order` and `Switchboard::persist`.
    fn save_next(&mut self, works: bool) -> bool {
        let Some(Saving { service, record, id }) = self.saving.pop_front() else { return false };
        self.tell(format!("disk: {service} generation {} for {id:?}: {works}", record.generation));
        if works {
            self.on_disk(&service, record);
        } else if id.is_none() {
            self.count("lost save");
            self.unsaved.insert(service.clone());
        }
        if let Some(id) = id {
            let result = if works { Ok(()) } else { Err("disk full".to_owned()) };
            self.events.push_back(Event::Persisted(id, service, result));
        }
        works
    }

    fn on_disk(&mut self, service: &ServiceName, record: Record) {
        let Record { generation, live, preview, .. } = record.clone();
        assert!(generation >= self.disk[service].generation, "the disk went back to generation {generation}");
        self.persisted.insert((service.clone(), generation, live, preview));
        self.disk.insert(service.clone(), record);
        self.unsaved.remove(service);
    }

    fn request_begins(&mut self) {
        let (worker, service) = (self.dice.usize(0..self.workers.len()), self.service());
        // Without a fence a worker may see any table that is not older than what it saw before.
        let version = self.dice.usize(self.workers[worker]..self.tables.len());
        self.workers[worker] = version;
        let Some(shown) = self.tables[version].get(&service).cloned() else { return };
        let tester = self.dice.u32(0..4) == 0;
        let (to, slot) = if tester { shown.preview } else { shown.live };
        let promised = self.promised.get(&service).copied().unwrap_or(0);
        assert!(
            shown.generation >= promised,
            "worker {worker} sends a request to {to} by generation {}, but {promised} was promised",
            shown.generation
        );
        self.requests.push(Request { worker, slot, generation: shown.generation, version });
    }

    fn request_ends(&mut self) {
        if !self.requests.is_empty() {
            let at = self.dice.usize(0..self.requests.len());
            self.requests.swap_remove(at);
        }
    }

    fn worker_reads_mail(&mut self) {
        let worker = self.dice.usize(0..self.workers.len());
        self.read_letter(worker);
    }

    fn read_letter(&mut self, worker: usize) -> bool {
        match self.mail[worker].pop_front() {
            None => return false,
            Some(Letter::Fence(at)) => {
                let fence = &mut self.fences[at];
                self.workers[worker] = self.workers[worker].max(fence.version);
                fence.unanswered -= 1;
                if fence.unanswered == 0 {
                    let (id, service) = (fence.id, fence.service.clone());
                    self.tell(format!("the fence of {id} is complete"));
                    self.events.push_back(Event::Fenced(id, service));
                }
            }
            Some(Letter::Cut(at)) => self.cut(worker, at),
        }
        true
    }

    /// As `Worker::cut`: what claimed before the color's term ended.
    fn cut(&mut self, worker: usize, at: usize) {
        let Drain { slot, generation, resumed, .. } = self.drains[at];
        let newest_at_resume = self.drains[at].resumed_at;
        if resumed {
            self.count("late cut");
        }
        self.requests.retain(|request| {
            let cut = request.worker == worker && request.slot == slot && request.generation < generation;
            // Routed by a table of the color's new term: whoever sent it was promised that it is live.
            let of_the_new_term = resumed && request.version >= newest_at_resume;
            assert!(!cut || !of_the_new_term, "a request of the color's new term is cut");
            !cut
        });
        let DrainAt::Cutting(unanswered) = &mut self.drains[at].at else { return };
        *unanswered -= 1;
        if *unanswered == 0 {
            self.drains[at].at = DrainAt::Cut;
        }
    }

    /// As `Drain::run`, one look at a time.
    fn drain_looks(&mut self) {
        let open: Vec<_> = (0..self.drains.len()).filter(|at| self.drains[*at].at != DrainAt::Over).collect();
        let Some(at) = self.one(&open) else { return };
        let deadline = self.dice.u32(0..5) == 0;
        self.look_at_drain(at, deadline);
    }

    fn look_at_drain(&mut self, at: usize, deadline: bool) {
        let Drain { service, from, generation, slot, resumed, .. } = &self.drains[at];
        let (service, from, generation, slot, resumed) = (service.clone(), from.clone(), *generation, *slot, *resumed);
        let claims = self.requests.iter().filter(|request| request.slot == slot).count();
        let outcome = match self.drains[at].at {
            DrainAt::Waiting if resumed => DrainOutcome::Resumed,
            DrainAt::Waiting if claims == 0 => DrainOutcome::Drained,
            DrainAt::Waiting if deadline => {
                let shown = &self.tables[self.newest()][&service];
                assert!(
                    shown.live.1 != slot && shown.preview.1 != slot,
                    "{from} gets requests by generation {}, and is cut by the drain of {generation}",
                    shown.generation
                );
                self.drains[at].at = DrainAt::Cutting(self.workers.len());
                self.mail.iter_mut().for_each(|mailbox| mailbox.push_back(Letter::Cut(at)));
                return;
            }
            DrainAt::Cut if claims == 0 || resumed || deadline => DrainOutcome::Cut,
            _ => return,
        };
        if outcome == DrainOutcome::Drained {
            for (worker, version) in self.workers.iter().enumerate() {
                for shown in self.tables[*version..].iter().filter_map(|table| table.get(&service)) {
                    let gets = shown.live.1 == slot || shown.preview.1 == slot;
                    assert!(!gets, "{from} is drained, but worker {worker} may still send requests there");
                }
            }
        }
        self.drains[at].at = DrainAt::Over;
        let receipt = Receipt {
            generation,
            from,
            to: self.drains[at].to.clone(),
            outcome,
            served: 0,
            in_flight: 0,
            finished: 0,
            moved: 0,
            failed: 0,
            cut_total: 0,
            cut: Vec::new(),
            streams_kept: 0,
            streams_left: 0,
            seconds: 0.0,
        };
        self.tell(format!("the drain of {service} {} ends: {outcome:?}", receipt.from));
        self.count(match outcome {
            DrainOutcome::Drained => "drained",
            DrainOutcome::Cut => "cut",
            DrainOutcome::Resumed => "resumed",
        });
        self.receipts.push((service.clone(), receipt.clone()));
        self.events.push_back(Event::Drained(service, receipt));
    }

    fn event_arrives(&mut self) -> bool {
        let Some(event) = self.events.pop_front() else { return false };
        self.step(event);
        true
    }

    // --- live files, as in unasked.rs

    fn watcher_looks(&mut self) {
        let service = self.service();
        self.watch(service);
    }

    fn watch(&mut self, service: ServiceName) -> bool {
        let file = self.files.get_mut(&service).expect("a file");
        if file.text == file.known {
            return false;
        }
        file.known = file.text.clone();
        let text = file.text.clone();
        self.tell(format!("the watcher sees {text:?} in the file of {service}"));
        self.news.push_back(News { service, text });
        true
    }

    fn watcher_news_arrives(&mut self) -> bool {
        let Some(News { service, text }) = self.news.pop_front() else { return false };
        let File { text: now, ours, .. } = self.files[&service].clone();
        if now != text {
            self.count("stale news");
        }
        let entry = &self.board.services[&service];
        let reader = self.readers.entry(service.clone()).or_default();
        let todo = reader.changed(entry, &meaning(&text), meaning(&now));
        self.heed(service, todo, ours);
        true
    }

    fn round(&mut self) {
        let service = self.service();
        self.look_at_file(service, Reader::round);
    }

    fn look_at_file(&mut self, service: ServiceName, how: impl Fn(&mut Reader, &Entry, Meaning) -> Todo) {
        let file = self.files[&service].clone();
        let entry = &self.board.services[&service];
        let reader = self.readers.entry(service.clone()).or_default();
        let todo = how(reader, entry, meaning(&file.text));
        self.heed(service, todo, file.ours);
    }

    fn heed(&mut self, service: ServiceName, todo: Todo, ours: bool) {
        match todo {
            Todo::Nothing | Todo::Rest | Todo::Complain(_) => {}
            Todo::Write => self.step(Event::FileAmiss(service)),
            Todo::Switch(to, text) => {
                let live = &self.board.services[&service].record.live;
                assert!(!ours || to == *live, "we take our own `{to}` for a command while {live} is live");
                let command = Command {
                    action: Action::Switch,
                    to: Some(to),
                    force: false,
                    expect_live: None,
                    expect_generation: None,
                    by: "live file".to_owned(),
                    at: String::new(),
                    file: Some(text),
                };
                self.command(service, command);
            }
        }
    }

    fn write_live_file(&mut self, service: ServiceName, to: &Color) {
        let works = self.dice.u32(0..10) > 0;
        let entry = &self.board.services[&service];
        assert!(entry.pending.is_none(), "the file is written in the midst of a command");
        let file = self.files.get_mut(&service).expect("a file");
        let reader = self.readers.entry(service.clone()).or_default();
        let now = meaning(&file.text);
        if !reader.may_write(entry, to, &now) || !works {
            return;
        }
        reader.wrote();
        let text = format!("{to}\n");
        (file.text, file.ours) = (Some(text.clone()), true);
        self.tell(format!("{to} is written into the file of {service}"));
        self.step(Event::FileSeen(service, text));
    }

    // --- the daemon

    fn step(&mut self, event: Event) {
        self.tell(format!("  {event:?}"));
        for effect in self.board.step(event) {
            self.perform(effect);
        }
    }

    /// As `Switchboard::perform`.
    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Probe(id, service, _) => self.probes.push((id, service)),
            Effect::Persist(id, service, record) => self.saving.push_back(Saving { service, record, id }),
            Effect::Resume(service, color) => {
                self.tell(format!("  {service} {color} is resumed"));
                if let Some(at) = self.current.remove(&(service, color)) {
                    self.drains[at].resumed = true;
                    self.drains[at].resumed_at = self.tables.len();
                }
            }
            Effect::Publish => self.publish(),
            Effect::Fence(id, service) => {
                let fence = Fence { id, service, version: self.newest(), unanswered: self.workers.len() };
                self.fences.push(fence);
                let at = self.fences.len() - 1;
                self.mail.iter_mut().for_each(|mailbox| mailbox.push_back(Letter::Fence(at)));
            }
            Effect::Reply(id, result) => self.reply(id, result),
            Effect::Drain { service, from, to, generation } => {
                let slot = self.slots[&(service.clone(), from.clone())];
                self.current.insert((service.clone(), from.clone()), self.drains.len());
                let at = DrainAt::Waiting;
                self.drains.push(Drain { service, from, to, generation, slot, resumed: false, resumed_at: 0, at });
            }
            Effect::WriteLiveFile(service, color) => self.write_live_file(service, &color),
            Effect::Tell(service, What::Drained(receipt)) => {
                let entry = &self.board.services[&service];
                if !entry.draining.contains_key(&receipt.from) {
                    self.current.remove(&(service, receipt.from));
                }
            }
            Effect::Tell(_, What::Switched { .. }) => self.count("switched"),
            Effect::Tell(_, What::Previewed { .. }) => self.count("previewed"),
            Effect::Tell(..) => {}
        }
    }

    fn publish(&mut self) {
        let mut table = BTreeMap::new();
        for (service, entry) in self.board.services.clone() {
            let Record { generation, live, preview, .. } = entry.record.clone();
            let routing = (generation, live.clone(), preview.clone());
            let key = (service.clone(), generation, live.clone(), preview.clone());
            assert!(self.persisted.contains(&key), "published, but not on disk: {key:?}");
            match self.published.get(&service) {
                Some(before) if before.0 == generation => {
                    assert_eq!(*before, routing, "generation {generation} of {service} came twice");
                }
                Some(before) => assert_eq!(before.0 + 1, generation, "generations of {service} grow by one"),
                None => {}
            }
            self.published.insert(service.clone(), routing);
            let slot = |world: &mut World, color: &Color| {
                let fresh = world.fresh();
                (color.clone(), *world.slots.entry((service.clone(), color.clone())).or_insert(fresh))
            };
            let (live, preview) = (slot(self, &live), slot(self, &preview));
            for drain in self.drains.iter().filter(|drain| drain.at == DrainAt::Waiting && !drain.resumed) {
                let gets = drain.slot == live.1 || drain.slot == preview.1;
                assert!(!gets, "{service} {} gets requests again, and still drains", drain.from);
            }
            table.insert(service, Shown { generation, live, preview });
        }
        self.tables.push(table);
    }

    fn reply(&mut self, id: CommandId, result: Result<super::Done, super::Refusal>) {
        self.tell(format!("  reply to {id}: {result:?}"));
        let Some((service, command)) = self.asked.remove(&id) else { panic!("{id} got a second reply") };
        let done = match result {
            Ok(done) => done,
            Err(refusal) => return self.count(refusal.reason()),
        };
        if !done.changed {
            self.count("unchanged");
        } else if command.file.is_some() {
            self.count("file switch");
        }
        if command.action != Action::Preview {
            assert!(command.to.is_none_or(|to| to == done.to), "{id} asked for another color");
        }
        let on_disk = &self.disk[&service];
        assert!(on_disk.generation >= done.generation, "{id} got its reply before the disk's");
        let published = &self.published[&service];
        assert_eq!(published, &(done.generation, done.to, done.preview), "{id} was told what is not published");
        for (worker, version) in self.workers.iter().enumerate() {
            let generation = self.tables[*version][&service].generation;
            assert!(generation >= done.generation, "{id} got its reply before worker {worker} saw the table");
        }
        self.promised.insert(service, done.generation);
    }

    /// As reload.rs: the loop does nothing else meanwhile.
    fn reload(&mut self) {
        let service = self.service();
        let all = colors(&["blue", "green", "red"]);
        let kept = all[..self.dice.usize(2..=3)].to_vec();
        let mut entry = self.board.services[&service].clone();
        match entry.reload(kept.clone(), self.dice.bool()) {
            Err(unfit) => return self.tell(format!("{service} is not reloaded: {unfit:?}")),
            Ok(false) if kept != self.board.services[&service].colors => return,
            Ok(false) => {}
            Ok(true) => {
                self.tell(format!("{service} is reloaded with {kept:?}"));
                while !self.saving.is_empty() {
                    self.disk_answers();
                }
                if self.dice.u32(0..6) == 0 {
                    return;
                }
                self.on_disk(&service, entry.record.clone());
            }
        }
        self.count("reload");
        self.board.services.insert(service.clone(), entry);
        self.publish();
        self.slots.retain(|(of, color), _| *of != service || kept.contains(color));
        for worker in 0..self.workers.len() {
            while self.read_letter(worker) {}
            self.workers[worker] = self.newest();
        }
    }

    /// Killed; what the disk had begun may or may not be there.
    fn crash(&mut self) {
        self.tell("crash".to_owned());
        self.count("crash");
        if self.dice.bool()
            && let Some(Saving { service, record, .. }) = self.saving.pop_front()
        {
            self.on_disk(&service, record);
        }
        self.boot();
    }

    /// As boot.rs and `Switchboard::run`.
    fn boot(&mut self) {
        self.readers.clear();
        self.mail.iter_mut().for_each(VecDeque::clear);
        self.requests.clear();
        self.fences.clear();
        self.probes.clear();
        self.drains.clear();
        self.current.clear();
        self.saving.clear();
        self.events.clear();
        self.news.clear();
        self.asked.clear();
        self.receipts.clear();
        self.unsaved.clear();
        self.slots.clear();
        self.tables.clear();
        self.workers.fill(0);
        for (service, record) in self.disk.clone() {
            let colors = self.board.services[&service].colors.clone();
            assert!(colors.contains(&record.live) && colors.contains(&record.preview), "{record:?}");
            let Record { generation, live, preview, .. } = record.clone();
            self.persisted.insert((service.clone(), generation, live, preview));
            self.board.services.insert(service, Entry::new(colors, record));
        }
        self.publish();
        for service in self.disk.keys().cloned().collect::<Vec<_>>() {
            let file = self.files.get_mut(&service).expect("a file");
            file.known = file.text.clone();
            self.look_at_file(service, Reader::begin);
        }
    }

    // --- what must be true

    fn check(&self) {
        for (service, entry) in &self.board.services {
            let Record { live, preview, previous, generation, .. } = &entry.record;
            for color in [Some(live), Some(preview), previous.as_ref()].into_iter().flatten() {
                assert!(entry.colors.contains(color), "{service} has no {color}");
            }
            assert_ne!(previous.as_ref(), Some(live), "{service}: nothing to go back to");
            assert!(self.disk[service].generation >= *generation, "{service}: in force, but not on disk");
            let waiting: Vec<_> = self.asked.iter().filter(|(_, (of, _))| of == service).map(|(id, _)| *id).collect();
            let pending: Vec<_> = entry.pending.iter().map(|pending| pending.id).collect();
            assert_eq!(waiting, pending, "{service}: those without a reply, and the one being carried out");
            for drain in self.drains.iter().filter(|drain| drain.service == *service) {
                if drain.at != DrainAt::Over && !drain.resumed {
                    let known = entry.draining.get(&drain.from);
                    assert_eq!(known, Some(&drain.generation), "{service}: {} drains, and nobody knows", drain.from);
                }
            }
            for color in entry.draining.keys() {
                assert!(color != live, "{service}: {color} is live and drains");
            }
            if let Some(pending) = &entry.pending {
                let id = pending.id;
                let on_its_way = match pending.stage {
                    Stage::Probing => self.probes.iter().any(|probe| probe.0 == id) || self.is_coming(id),
                    Stage::Persisting => self.saving.iter().any(|s| s.id == Some(id)) || self.is_coming(id),
                    Stage::Fencing => self.fences.iter().any(|fence| fence.id == id),
                };
                assert!(on_its_way, "{service}: nothing will end {id}");
            }
        }
    }

    fn is_coming(&self, id: CommandId) -> bool {
        self.events.iter().any(|event| match event {
            Event::Probed(of, ..) | Event::Abandoned(of, _) | Event::Persisted(of, ..) => *of == id,
            _ => false,
        })
    }

    /// Lets everything end that has begun; then nothing may be amiss.
    fn rest(&mut self) {
        self.tell("--- rest".to_owned());
        let mut quiet = 0;
        for _ in 0..2000 {
            let mut moved = self.event_arrives() | self.watcher_news_arrives();
            moved |= !self.probes.is_empty() | !self.saving.is_empty();
            self.probe_answers();
            self.save_next(true);
            for worker in 0..self.workers.len() {
                moved |= self.read_letter(worker);
            }
            moved |= !self.requests.is_empty();
            self.requests.clear();
            for at in 0..self.drains.len() {
                moved |= self.drains[at].at != DrainAt::Over;
                self.look_at_drain(at, false);
            }
            for service in self.disk.keys().cloned().collect::<Vec<_>>() {
                moved |= self.watch(service.clone());
                self.look_at_file(service, Reader::round);
            }
            self.check();
            quiet = if moved { 0 } else { quiet + 1 };
            // Long enough for a file that fails to be written to be tried again.
            if quiet > 20 {
                return self.check_rest();
            }
        }
        panic!("the world does not come to rest");
    }

    fn check_rest(&self) {
        assert!(self.asked.is_empty(), "without a reply: {:?}", self.asked);
        for (service, entry) in &self.board.services {
            assert!(entry.draining.is_empty(), "{service} drains for ever: {:?}", entry.draining);
            assert!(!entry.is_unsettled(&entry.record.live), "{service} never settles");
            if !self.unsaved.contains(service) {
                assert_eq!(self.disk[service], entry.record, "{service}: the disk says something else");
            }
            match meaning(&self.files[service].text) {
                Meaning::Missing => panic!("{service} has no live file"),
                Meaning::Names(said, _) if entry.colors.contains(&said) => {
                    assert_eq!(said, entry.record.live, "{service}: the live file says something else");
                }
                // Somebody's nonsense stays until the next switch.
                Meaning::Names(..) | Meaning::Nonsense(_) => {}
            }
        }
        for (service, receipt) in &self.receipts {
            let history = &self.board.services[service].record.history;
            if let Some(item) = history.iter().find(|item| item.generation == receipt.generation) {
                assert_eq!(item.receipt.as_ref(), Some(receipt), "{service}: a receipt was lost");
            }
        }
    }
}
