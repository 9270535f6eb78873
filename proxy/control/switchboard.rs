//! What follows from what? Every decision about where requests go, as a pure `step(event) -> effects`.
//!
//! Nothing here waits, reads a clock or does I/O, so a test can drive it through any order of events; the loop that
//! runs the effects is in [`super::operate`]. The order of a switch's effects is the law of ARCHITECTURE.md,
//! section 5: probe, persist, publish, fence, reply; then drain, receipt.

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bgproxy_conf::wire::{Action, HistoryEntry, ProbeReport, Receipt, What};
use bgproxy_conf::{Color, ServiceName};

use super::state::Record;

/// Names one command until its reply.
pub type CommandId = u64;

/// Everything the switchboard knows.
#[derive(Debug, Default, Clone)]
pub struct Board {
    /// Every service.
    pub services: BTreeMap<ServiceName, Entry>,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its colors.
    pub colors: Vec<Color>,
    /// What is in force; on disk it is at least as new.
    pub record: Record,
    /// The command being carried out: one at a time.
    pub pending: Option<Pending>,
    /// Colors that were live and finish what they began, with the generation that ended their term.
    pub draining: BTreeMap<Color, u64>,
    /// The record changed while a command's was being saved; it is saved after that.
    unsaved: bool,
    /// The live file does not say what is live; it is written when no command is pending.
    unwritten: bool,
}

/// A command being carried out.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Whose reply it is.
    pub id: CommandId,
    /// What was asked.
    pub command: Command,
    /// The color it is about.
    pub to: Color,
    /// How far it is.
    pub stage: Stage,
    /// What will be in force.
    next: Record,
}

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The color is being asked whether it is ready.
    Probing,
    /// The new record is being saved.
    Persisting,
    /// The new table is published; workers are confirming.
    Fencing,
}

/// What an operator, a file or a signal asks of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Switch, rollback or preview.
    pub action: Action,
    /// The color; a rollback knows it by itself.
    pub to: Option<Color>,
    /// Do not ask whether it is ready.
    pub force: bool,
    /// Refuse unless this color is live.
    pub expect_live: Option<Color>,
    /// Refuse unless this is the generation.
    pub expect_generation: Option<u64>,
    /// Who asks, for log and history.
    pub by: String,
    /// When, likewise.
    pub at: String,
    /// The text of the live file that asks, if it does.
    pub file: Option<String>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody asks something.
    Commanded(CommandId, ServiceName, Command),
    /// The color has answered often enough, or not in time.
    Probed(CommandId, ServiceName, Result<(), Option<ProbeReport>>),
    /// Whoever asked left before the color was ready.
    Abandoned(CommandId, ServiceName),
    /// The command's record is on disk, or why not.
    Persisted(CommandId, ServiceName, Result<(), String>),
    /// Every worker has passed the fence.
    Fenced(CommandId, ServiceName),
    /// A drain has ended.
    Drained(ServiceName, Receipt),
    /// The live file was written, or read and found to say what is so already.
    FileSeen(ServiceName, String),
    /// The live file is gone, or does not say what is live though nobody asks for another color.
    FileAmiss(ServiceName),
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Ask the color until it is ready; answer with [`Event::Probed`].
    Probe(CommandId, ServiceName, Color),
    /// Save the record; answer with [`Event::Persisted`] if a command waits for it.
    Persist(Option<CommandId>, ServiceName, Record),
    /// The color gets requests again: end its drain before it can cut anything.
    Resume(ServiceName, Color),
    /// Make a table of what is in force and let workers see it.
    Publish,
    /// Have every worker confirm; answer with [`Event::Fenced`].
    Fence(CommandId, ServiceName),
    /// Tell the asker.
    Reply(CommandId, Result<Done, Refusal>),
    /// Wait for the old color's requests; answer with [`Event::Drained`].
    Drain {
        /// The service.
        service: ServiceName,
        /// The color that was live.
        from: Color,
        /// The color that is.
        to: Color,
        /// The generation that made it so.
        generation: u64,
    },
    /// Let the live file say what is live.
    WriteLiveFile(ServiceName, Color),
    /// Tell whoever listens.
    Tell(ServiceName, What),
}

/// A command that was carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The generation now.
    pub generation: u64,
    /// Live before.
    pub from: Color,
    /// Live now.
    pub to: Color,
    /// Preview now.
    pub preview: Color,
    /// False when it was so already.
    pub changed: bool,
}

/// Why a command was not carried out; nothing changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// There is no such service; the ones there are.
    UnknownService(ServiceName, Vec<ServiceName>),
    /// There is no such color; the ones there are.
    UnknownColor(Color, Vec<Color>),
    /// No color was live before.
    NoPrevious,
    /// Another command is being carried out: what, to where.
    Busy(Action, Color),
    /// Another color is live than expected: which.
    OtherLive(Color),
    /// Another generation than expected: which.
    OtherGeneration(u64),
    /// The color is not ready: its last answer.
    Unready(Color, Option<ProbeReport>),
    /// Whoever asked left before the color was ready.
    Abandoned,
    /// The new state could not be saved: why.
    NotSaved(String),
}

/// Why a configuration cannot come into force now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It has no such color, which is live.
    LiveIsGone(Color),
    /// A command is being carried out.
    Busy,
}

impl Entry {
    /// A service with what is on disk.
    pub fn new(colors: Vec<Color>, record: Record) -> Entry {
        Entry { colors, record, pending: None, draining: BTreeMap::new(), unsaved: false, unwritten: false }
    }

    /// Whether the color may still get requests from a table that is not everywhere yet, or finishes what it got.
    pub fn is_unsettled(&self, color: &Color) -> bool {
        self.draining.contains_key(color)
            || self.pending.as_ref().is_some_and(|pending| pending.stage == Stage::Fencing)
    }

    /// Takes the colors of another configuration; `moves` when requests go elsewhere by it, which makes a new
    /// generation. True when there is a new record: it must be saved before it is in force.
    ///
    /// # Errors
    /// [`Unfit`]: the configuration cannot come into force now.
    pub fn reload(&mut self, colors: Vec<Color>, moves: bool) -> Result<bool, Unfit> {
        if !colors.contains(&self.record.live) {
            return Err(Unfit::LiveIsGone(self.record.live.clone()));
        }
        self.colors = colors;
        if !moves {
            return Ok(false);
        }
        if self.pending.is_some() {
            return Err(Unfit::Busy);
        }
        if !self.colors.contains(&self.record.preview) {
            self.record.preview = self.record.live.clone();
        }
        self.record.previous = self.record.previous.take().filter(|color| self.colors.contains(color));
        self.record.generation += 1;
        Ok(true)
    }

    fn refusal(&self, command: &Command) -> Option<Refusal> {
        if let Some(pending) = &self.pending {
            return Some(Refusal::Busy(pending.command.action, pending.to.clone()));
        }
        if let Some(color) = &command.expect_live
            && *color != self.record.live
        {
            return Some(Refusal::OtherLive(self.record.live.clone()));
        }
        match command.expect_generation {
            Some(generation) if generation != self.record.generation => {
                Some(Refusal::OtherGeneration(self.record.generation))
            }
            _ => None,
        }
    }

    fn destination(&self, command: &Command) -> Result<Color, Refusal> {
        let color = command.to.clone().or_else(|| self.record.previous.clone()).ok_or(Refusal::NoPrevious)?;
        if self.colors.contains(&color) { Ok(color) } else { Err(Refusal::UnknownColor(color, self.colors.clone())) }
    }

    fn is_so_already(&self, action: Action, to: &Color) -> bool {
        match action {
            Action::Switch | Action::Rollback => *to == self.record.live,
            Action::Preview => *to == self.record.preview,
        }
    }

    /// The record that will be in force.
    fn next(&self, service: &ServiceName, command: &Command, to: &Color) -> Record {
        let mut next = self.record.clone();
        next.generation += 1;
        next.preview = to.clone();
        let mut from = self.record.preview.clone();
        if command.action != Action::Preview {
            from = std::mem::replace(&mut next.live, to.clone());
            next.previous = Some(from.clone());
        }
        if let Some(text) = &command.file {
            next.file_seen = Some(text.clone());
        }
        next.remember(HistoryEntry {
            at: command.at.clone(),
            service: service.clone(),
            generation: next.generation,
            action: command.action,
            from,
            to: to.clone(),
            forced: command.force,
            by: command.by.clone(),
            receipt: None,
        });
        next
    }

    fn done(&self, from: Color, changed: bool) -> Done {
        let Record { generation, live, preview, .. } = self.record.clone();
        Done { generation, from, to: live, preview, changed }
    }

    /// Saves the record in force, now or when the command that is being saved is.
    fn save(&mut self, service: &ServiceName) -> Option<Effect> {
        if self.pending.as_ref().is_some_and(|pending| pending.stage == Stage::Persisting) {
            self.unsaved = true;
            return None;
        }
        self.unsaved = false;
        Some(Effect::Persist(None, service.clone(), self.record.clone()))
    }

    /// Writes the live file if it is to be written, now or when the pending command has ended.
    // The record being saved says what the file said when the command began. Were the file written meanwhile and the
    // daemon killed before the table is published, its restart would take our own text for somebody's command.
    fn write_file(&mut self, service: &ServiceName) -> Option<Effect> {
        if !self.unwritten || self.pending.is_some() {
            return None;
        }
        self.unwritten = false;
        Some(Effect::WriteLiveFile(service.clone(), self.record.live.clone()))
    }
}

impl Pending {
    /// The color that was live before this command.
    fn from<'a>(&'a self, entry: &'a Entry) -> &'a Color {
        match self.command.action {
            Action::Preview => &entry.record.live,
            _ => entry.record.previous.as_ref().unwrap_or(&entry.record.live),
        }
    }
}

impl Board {
    /// That there is no such service.
    pub fn unknown(&self, service: ServiceName) -> Refusal {
        Refusal::UnknownService(service, self.services.keys().cloned().collect())
    }

    /// What follows from this event.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Commanded(id, service, command) => self.commanded(id, service, command),
            Event::Probed(id, service, result) => self.probed(id, service, result),
            Event::Abandoned(id, service) => self.abandoned(id, service),
            Event::Persisted(id, service, result) => self.persisted(id, service, result),
            Event::Fenced(id, service) => self.fenced(id, service),
            Event::Drained(service, receipt) => self.drained(service, receipt),
            Event::FileSeen(service, text) => self.file_seen(service, text),
            Event::FileAmiss(service) => self.file_amiss(service),
        }
    }

    fn commanded(&mut self, id: CommandId, service: ServiceName, command: Command) -> Vec<Effect> {
        if !self.services.contains_key(&service) {
            return vec![Effect::Reply(id, Err(self.unknown(service)))];
        }
        let Some(entry) = self.services.get_mut(&service) else { return Vec::new() };
        let to = match entry.destination(&command).and_then(|to| match entry.refusal(&command) {
            Some(refusal) => Err(refusal),
            None => Ok(to),
        }) {
            Ok(to) => to,
            Err(refusal) => return refuse(id, service, entry, &command, refusal),
        };
        if entry.is_so_already(command.action, &to) {
            let mut effects = vec![Effect::Reply(id, Ok(entry.done(entry.record.live.clone(), false)))];
            if let Some(text) = command.file {
                entry.record.file_seen = Some(text);
                effects.extend(entry.save(&service));
            }
            return effects;
        }
        let next = entry.next(&service, &command, &to);
        let force = command.force;
        let stage = if force { Stage::Persisting } else { Stage::Probing };
        entry.pending = Some(Pending { id, command, to: to.clone(), stage, next: next.clone() });
        if force {
            vec![Effect::Persist(Some(id), service, next)]
        } else {
            vec![Effect::Tell(service.clone(), What::Probing { to: to.clone() }), Effect::Probe(id, service, to)]
        }
    }

    fn probed(&mut self, id: CommandId, service: ServiceName, result: Result<(), Option<ProbeReport>>) -> Vec<Effect> {
        let Some((entry, mut pending)) = self.take(&service, id, Stage::Probing) else { return Vec::new() };
        match result {
            Ok(()) => {
                // What happened meanwhile (a receipt, a look at the live file) belongs into the new record too.
                pending.next = entry.next(&service, &pending.command, &pending.to);
                pending.stage = Stage::Persisting;
                let next = pending.next.clone();
                entry.pending = Some(pending);
                vec![Effect::Persist(Some(id), service, next)]
            }
            Err(report) => {
                let refusal = Refusal::Unready(pending.to, report);
                refuse(id, service, entry, &pending.command, refusal)
            }
        }
    }

    fn abandoned(&mut self, id: CommandId, service: ServiceName) -> Vec<Effect> {
        let Some((entry, pending)) = self.take(&service, id, Stage::Probing) else { return Vec::new() };
        refuse(id, service, entry, &pending.command, Refusal::Abandoned)
    }

    fn persisted(&mut self, id: CommandId, service: ServiceName, result: Result<(), String>) -> Vec<Effect> {
        let Some((entry, mut pending)) = self.take(&service, id, Stage::Persisting) else { return Vec::new() };
        if let Err(fault) = result {
            let mut effects = Vec::new();
            if entry.unsaved {
                // Before the live file is written, which makes a newer record.
                effects.extend(entry.save(&service));
            }
            effects.extend(refuse(id, service, entry, &pending.command, Refusal::NotSaved(fault)));
            return effects;
        }
        let before = std::mem::replace(&mut entry.record, pending.next.clone());
        entry.catch_up(before, pending.command.file.is_some());
        let mut effects = Vec::new();
        // Testers' requests are requests too: a color that gets new ones never drains.
        if entry.draining.remove(&pending.to).is_some() {
            effects.push(Effect::Resume(service.clone(), pending.to.clone()));
        }
        pending.stage = Stage::Fencing;
        entry.pending = Some(pending);
        effects.push(Effect::Publish);
        if entry.unsaved {
            effects.extend(entry.save(&service));
        }
        effects.push(Effect::Fence(id, service));
        effects
    }

    fn fenced(&mut self, id: CommandId, service: ServiceName) -> Vec<Effect> {
        let Some((entry, pending)) = self.take(&service, id, Stage::Fencing) else { return Vec::new() };
        let from = pending.from(entry).clone();
        let done = entry.done(from.clone(), true);
        let (generation, to, by) = (done.generation, done.to.clone(), pending.command.by.clone());
        let mut effects = vec![Effect::Reply(id, Ok(done))];
        if pending.command.action == Action::Preview {
            effects.push(Effect::Tell(service.clone(), What::Previewed { generation, color: pending.to, by }));
            effects.extend(entry.write_file(&service));
            return effects;
        }
        let told = What::Switched { generation, from: from.clone(), to: to.clone(), by };
        effects.push(Effect::Tell(service.clone(), told));
        entry.draining.insert(from.clone(), generation);
        effects.push(Effect::Drain { service: service.clone(), from, to, generation });
        entry.unwritten = true;
        effects.extend(entry.write_file(&service));
        effects
    }

    fn drained(&mut self, service: ServiceName, receipt: Receipt) -> Vec<Effect> {
        let Some(entry) = self.services.get_mut(&service) else {
            // Removed meanwhile; whoever waits for the receipt is told all the same.
            return vec![Effect::Tell(service, What::Drained(receipt))];
        };
        if entry.draining.get(&receipt.from) == Some(&receipt.generation) {
            entry.draining.remove(&receipt.from);
        }
        let of = |entry: &&mut HistoryEntry| entry.generation == receipt.generation;
        if let Some(item) = entry.record.history.iter_mut().rev().find(of) {
            item.receipt = Some(receipt.clone());
        }
        let mut effects: Vec<_> = entry.save(&service).into_iter().collect();
        effects.push(Effect::Tell(service, What::Drained(receipt)));
        effects
    }

    fn file_seen(&mut self, service: ServiceName, text: String) -> Vec<Effect> {
        let Some(entry) = self.services.get_mut(&service) else { return Vec::new() };
        if entry.record.file_seen.as_ref() == Some(&text) {
            return Vec::new();
        }
        entry.record.file_seen = Some(text);
        entry.save(&service).into_iter().collect()
    }

    fn file_amiss(&mut self, service: ServiceName) -> Vec<Effect> {
        let Some(entry) = self.services.get_mut(&service) else { return Vec::new() };
        entry.unwritten = true;
        entry.write_file(&service).into_iter().collect()
    }

    /// The service and its pending command, if it is this one at this stage: late news is dropped.
    fn take(&mut self, service: &ServiceName, id: CommandId, stage: Stage) -> Option<(&mut Entry, Pending)> {
        let entry = self.services.get_mut(service)?;
        let pending = entry.pending.take_if(|pending| pending.id == id && pending.stage == stage)?;
        Some((entry, pending))
    }
}

impl Entry {
    /// Carries over what came while the new record was being saved: receipts, a look at the live file.
    fn catch_up(&mut self, before: Record, file_asked: bool) {
        for item in before.history.into_iter().filter(|item| item.receipt.is_some()) {
            if let Some(kept) = self.record.history.iter_mut().find(|kept| kept.generation == item.generation) {
                kept.receipt = item.receipt;
            }
        }
        if !file_asked {
            self.record.file_seen = before.file_seen;
        }
    }
}

/// Nothing changes; the asker is told, and a live file that asked goes back to the truth.
fn refuse(id: CommandId, service: ServiceName, entry: &mut Entry, command: &Command, refusal: Refusal) -> Vec<Effect> {
    let told =
        What::Refused { reason: refusal.reason().to_owned(), detail: refusal.to_string(), by: command.by.clone() };
    let mut effects = vec![Effect::Reply(id, Err(refusal)), Effect::Tell(service.clone(), told)];
    entry.unwritten |= command.file.is_some();
    effects.extend(entry.write_file(&service));
    effects
}

impl Refusal {
    /// The stable name.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::UnknownService(..) => "unknown_service",
            Refusal::UnknownColor(..) => "unknown_color",
            Refusal::NoPrevious => "no_previous",
            Refusal::Busy(..) => "busy",
            Refusal::OtherLive(_) => "other_live",
            Refusal::OtherGeneration(_) => "other_generation",
            Refusal::Unready(..) => "unready",
            Refusal::Abandoned => "abandoned",
            Refusal::NotSaved(_) => "not_saved",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::UnknownService(name, known) => write!(f, "there is no service `{name}`; {}", there_are(known)),
            Refusal::UnknownColor(color, colors) => {
                write!(f, "there is no color `{color}`; {}", there_are(colors))
            }
            Refusal::NoPrevious => write!(f, "no other color has been live yet"),
            Refusal::Busy(action, color) => {
                write!(f, "another command is being carried out: {} `{color}`", verb(*action))
            }
            Refusal::OtherLive(color) => write!(f, "not as expected: `{color}` is live"),
            Refusal::OtherGeneration(generation) => write!(f, "not as expected: the generation is {generation}"),
            Refusal::Unready(color, None) => write!(f, "`{color}` did not answer in time"),
            Refusal::Unready(color, Some(report)) => {
                write!(f, "`{color}` is not ready: {}", report.detail.as_deref().unwrap_or("no detail"))
            }
            Refusal::Abandoned => write!(f, "whoever asked left before the color was ready"),
            Refusal::NotSaved(fault) => write!(f, "the new state could not be saved: {fault}"),
        }
    }
}

/// What there is to choose from.
fn there_are(names: &[impl std::fmt::Display]) -> String {
    let mut names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.pop() {
        None => "there is none".to_owned(),
        Some(only) if names.is_empty() => format!("there is {only}"),
        Some(last) => format!("there are {} and {last}", names.join(", ")),
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Switch => "switch to",
        Action::Rollback => "roll back to",
        Action::Preview => "preview",
    }
}
