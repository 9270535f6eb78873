//! Are the targets met? bgproxy's medians against those of whom each target names.

use serde::Serialize;

use crate::metric::Metric;
use crate::participants::{Kind, Participant};
use crate::rounds::{Entry, Outcome};
use crate::row::{Against, Target};

/// What became of one target in one row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    pub(crate) target: Target,
    /// The participant that it is against, if any.
    pub(crate) against: Option<String>,
    /// What must be compared with `must` and `aim`: a ratio of medians, or a median.
    pub(crate) value: f64,
    pub(crate) must: bool,
    pub(crate) aim: bool,
}

/// All that can be told; where bgproxy or its counterpart has not taken part there is nothing to tell.
pub(crate) fn verdicts(outcome: &Outcome, participants: &[Participant]) -> Vec<Verdict> {
    outcome.about.targets.iter().filter_map(|target| verdict(*target, outcome, participants)).collect()
}

fn verdict(target: Target, outcome: &Outcome, participants: &[Participant]) -> Option<Verdict> {
    let kind = |entry: &Entry| participants.get(entry.participant).map(|one| one.who.kind);
    let metric = target.metric;
    let ours = outcome.entries.iter().find(|entry| kind(entry) == Some(Kind::Bgproxy))?.spread(metric)?.median;
    let only = |wanted| outcome.entries.iter().find(|entry| kind(entry) == Some(wanted));
    let other = match target.against {
        Against::Nothing => None,
        Against::Better => Some(better(metric, outcome, participants)?),
        Against::Nginx => Some(only(Kind::Nginx)?),
        Against::Alone => Some(only(Kind::Alone)?),
    };
    let value = match other {
        Some(other) => ours / other.spread(metric)?.median,
        None => ours,
    };
    Some(Verdict {
        target,
        against: other.and_then(|other| Some(participants.get(other.participant)?.who.name.clone())),
        value,
        must: target.reached(value, target.must),
        aim: target.reached(value, target.aim),
    })
}

/// The better of nginx and HAProxy.
pub(crate) fn better<'o>(metric: Metric, outcome: &'o Outcome, participants: &[Participant]) -> Option<&'o Entry> {
    let rival = |entry: &&Entry| participants.get(entry.participant).is_some_and(|one| one.who.kind.is_rival());
    let rivals = outcome.entries.iter().filter(rival);
    let mut known: Vec<(f64, &Entry)> =
        rivals.filter_map(|entry| Some((entry.spread(metric)?.median, entry))).collect();
    known.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let best = if metric.less_is_better() { known.first() } else { known.last() };
    best.map(|(_, entry)| *entry)
}
