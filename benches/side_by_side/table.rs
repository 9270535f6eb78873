//! What is printed? Per row a table: medians of all turns, the least and the most, and what became of the targets; in
//! the end all targets together.

use std::fmt::Write as _;

use crate::metric::Metric;
use crate::participants::Participant;
use crate::rounds::{Entry, Outcome, Spread};
use crate::row::Against;
use crate::targets::{Verdict, better, verdicts};

/// One row's table.
pub(crate) fn show(outcome: &Outcome, participants: &[Participant]) -> String {
    let mut metrics: Vec<Metric> = outcome.entries.iter().flat_map(Entry::metrics).collect();
    metrics.sort();
    metrics.dedup();
    // What the first target is about says most, or else the first column; next to it is how it compares.
    let chief = outcome.about.targets.first().map(|target| target.metric).filter(|metric| metrics.contains(metric));
    let chief = chief.or(metrics.first().copied());
    let best = chief.and_then(|chief| better(chief, outcome, participants)?.spread(chief));
    let place = 2 + metrics.iter().position(|metric| Some(*metric) == chief).unwrap_or_default();
    let mut head = vec![String::new()];
    head.extend(metrics.iter().map(|metric| metric.label(outcome.about.unit)));
    if best.is_some() {
        head.insert(place, "ratio".to_owned());
    }
    let mut lines = vec![head];
    for entry in &outcome.entries {
        let mut line = vec![participants[entry.participant].who.name.clone()];
        let cells = metrics.iter().map(|&metric| (entry.spread(metric), metric));
        line.extend(cells.map(|(spread, metric)| spread.map_or("-".to_owned(), |spread| cell(&spread, metric))));
        if let Some(best) = best {
            let ours = chief.and_then(|chief| entry.spread(chief));
            let ratio = ours.map(|ours| ours.median / best.median).filter(|ratio| ratio.is_finite());
            line.insert(place, ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
        }
        lines.push(line);
    }
    let mut text = format!("\n{}: {}\n{}\n", outcome.about.id, outcome.about.title, outcome.about.what);
    text += &aligned(&lines);
    for verdict in verdicts(outcome, participants) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "target: {}", sentence(&verdict, outcome.about.unit));
    }
    text
}

/// All targets of all rows.
pub(crate) fn summary(outcomes: &[Outcome], participants: &[Participant]) -> String {
    let mut lines = vec![["row", "metric", "against", "", "must", "aim", ""].map(str::to_owned).to_vec()];
    for outcome in outcomes {
        for verdict in verdicts(outcome, participants) {
            lines.push(vec![
                outcome.about.id.to_owned(),
                verdict.target.metric.label(outcome.about.unit),
                verdict.against.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{:.2}", verdict.value),
                verdict.target.must.to_string(),
                verdict.target.aim.to_string(),
                word(&verdict).to_owned(),
            ]);
        }
    }
    format!(
        "\nTargets of bgproxy; values are ratios of medians where there is somebody to compare with:\n{}",
        aligned(&lines)
    )
}

fn word(verdict: &Verdict) -> &'static str {
    match (verdict.must, verdict.aim) {
        (_, true) => "aim met",
        (true, false) => "met",
        (false, false) => "MISSED",
    }
}

fn sentence(verdict: &Verdict, unit: &str) -> String {
    let target = &verdict.target;
    let bound = if target.metric.less_is_better() { "at most" } else { "at least" };
    let to = match (&verdict.against, target.against) {
        (Some(name), Against::Better) => format!(" to {name}, the better one"),
        (Some(name), _) => format!(" to {name}"),
        (None, _) => String::new(),
    };
    format!(
        "{}{to} {bound} {} (aim: {}): {:.2}, {}",
        target.metric.label(unit),
        target.must,
        target.aim,
        verdict.value,
        word(verdict)
    )
}

fn cell(Spread { median, least, most }: &Spread, metric: Metric) -> String {
    let digits = metric.digits();
    format!("{median:.digits$} ({least:.digits$}-{most:.digits$})")
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
