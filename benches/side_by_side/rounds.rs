//! In what order? Everybody has a turn before anybody has the next one, and each round begins with another one.

use anyhow::Context;

use crate::metric::{Metric, Turn};
use crate::participants::Participant;
use crate::row::{About, Row};
use crate::site::Site;

/// What a row has shown.
pub(crate) struct Outcome {
    pub(crate) about: About,
    pub(crate) entries: Vec<Entry>,
}

/// What it has shown of one participant.
pub(crate) struct Entry {
    /// Its place among all participants.
    pub(crate) participant: usize,
    pub(crate) turns: Vec<Turn>,
}

/// Median of all turns, the least and the most.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// So many rounds of one row, after a turn of a second each that does not count.
pub(crate) fn play(
    row: &dyn Row,
    site: &Site,
    participants: &[Participant],
    rounds: u32,
    seconds: u32,
) -> anyhow::Result<Outcome> {
    let takes = |index: &usize| row.takes(&participants[*index].who);
    let mut entries: Vec<Entry> =
        (0..participants.len()).filter(takes).map(|participant| Entry { participant, turns: Vec::new() }).collect();
    let rounds = if row.is_once() { 1 } else { rounds };
    for entry in entries.iter().filter(|_| !row.is_once()) {
        turn(row, site, &participants[entry.participant], 1)?;
    }
    let number = entries.len();
    for round in 0..rounds as usize {
        for index in 0..number {
            let entry = &mut entries[(index + round) % number];
            entry.turns.push(turn(row, site, &participants[entry.participant], seconds)?);
        }
    }
    Ok(Outcome { about: row.about(), entries })
}

fn turn(row: &dyn Row, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
    let turn = row.turn(site, participant, seconds);
    turn.with_context(|| format!("row {}, {}", row.about().id, participant.who.name))
}

impl Entry {
    /// What was measured, in the order of the columns.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let mut all: Vec<Metric> = self.turns.iter().flatten().map(|(metric, _)| *metric).collect();
        all.sort();
        all.dedup();
        all
    }

    pub(crate) fn values(&self, metric: Metric) -> Vec<f64> {
        self.turns.iter().flatten().filter(|(one, _)| *one == metric).map(|(_, value)| *value).collect()
    }

    /// None where it was not measured.
    pub(crate) fn spread(&self, metric: Metric) -> Option<Spread> {
        let mut values = self.values(metric);
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median: (low + high) / 2.0, least, most })
    }
}
