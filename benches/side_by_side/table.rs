//! What is printed? Per row a table: medians of all turns, the least and the most, and what became of the targets.

use std::fmt::Write as _;

use crate::metric::Metric;
use crate::participants::Participant;
use crate::rounds::{Entry, Outcome, Spread};

/// One row's table.
pub(crate) fn show(outcome: &Outcome, participants: &[Participant]) -> String {
    let mut metrics: Vec<Metric> = outcome.entries.iter().flat_map(Entry::metrics).collect();
    metrics.sort();
    metrics.dedup();
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(metrics.iter().map(|metric| metric.label(outcome.about.unit)));
    for entry in &outcome.entries {
        let mut line = vec![participants[entry.participant].who.name.clone()];
        line.extend(
            metrics.iter().map(|&metric| entry.spread(metric).map_or("-".to_owned(), |spread| cell(&spread, metric))),
        );
        lines.push(line);
    }
    format!("\n{}: {}\n{}\n{}", outcome.about.id, outcome.about.title, outcome.about.what, aligned(&lines))
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
