//! What is kept of a run? Everything that was measured, and what it was measured with, as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use serde::Serialize;

use crate::metric::Metric;
use crate::participants::{Kind, Participant};
use crate::process::machine;
use crate::rounds::{Outcome, Spread};
use crate::row::About;
use crate::targets::{Verdict, verdicts};

/// One run.
#[derive(Serialize)]
pub(crate) struct Results {
    date: String,
    machine: String,
    rounds: u32,
    seconds: u32,
    pub(crate) participants: Vec<Taken>,
    pub(crate) rows: Vec<Shown>,
}

/// Who took part.
#[derive(Serialize)]
pub(crate) struct Taken {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    workers: u32,
    access_log: bool,
    /// What it was started with.
    config: String,
}

/// What a row has shown.
#[derive(Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    pub(crate) about: About,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) participants: Vec<Measured>,
}

/// What it has shown of one participant.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) metrics: BTreeMap<Metric, Values>,
}

#[derive(Serialize)]
pub(crate) struct Values {
    #[serde(flatten)]
    pub(crate) spread: Spread,
    /// In the order of the rounds.
    turns: Vec<f64>,
}

impl Results {
    pub(crate) fn new(outcomes: &[Outcome], participants: &[Participant], rounds: u32, seconds: u32) -> Results {
        let taken = |one: &Participant| Taken {
            name: one.who.name.clone(),
            kind: one.who.kind,
            workers: one.who.setup.workers,
            access_log: one.who.setup.log,
            config: one.config.clone(),
        };
        Results {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            machine: machine(),
            rounds,
            seconds,
            participants: participants.iter().map(taken).collect(),
            rows: outcomes.iter().map(|outcome| Shown::new(outcome, participants)).collect(),
        }
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Shown {
    fn new(outcome: &Outcome, participants: &[Participant]) -> Shown {
        let measured = outcome.entries.iter().map(|entry| {
            let who = &participants[entry.participant].who;
            let values = |metric| Some((metric, Values { spread: entry.spread(metric)?, turns: entry.values(metric) }));
            let metrics = entry.metrics().into_iter().filter_map(values).collect();
            Measured { name: who.name.clone(), kind: who.kind, metrics }
        });
        Shown {
            about: outcome.about.clone(),
            verdicts: verdicts(outcome, participants),
            participants: measured.collect(),
        }
    }
}
