//! What did each participant show in each row? A panel for each row, with its own scale from zero, and a bar for each
//! participant: the median; the thin line is from the least to the most of all rounds.

use super::canvas::{Canvas, GRAY, INK, LINE, Side, color};
use super::short;
use crate::metric::Metric;
use crate::participants::Kind;
use crate::results::{Measured, Results, Shown};
use crate::rounds::Spread;

/// One picture.
pub(super) struct Picture {
    title: &'static str,
    note: &'static str,
    /// The first is the bar; the others are marks behind it, on the same scale.
    metrics: &'static [Metric],
}

pub(super) const CPU: Picture = Picture {
    title: "CPU microseconds of the proxy, less is better",
    note: "user + system of all its threads and processes, per request (or handshake, message); median, least and most",
    metrics: &[Metric::Cpu],
};

pub(super) const RATE: Picture = Picture {
    title: "Throughput at saturation, more is better",
    note: "per second, on cores that proxy, backend and load share; median of all rounds, least and most",
    metrics: &[Metric::Rate],
};

pub(super) const LATENCY: Picture = Picture {
    title: "Latency in milliseconds, less is better",
    note: "bar: p50; marks: p99, and p99.9 where it was measured; medians of all rounds",
    metrics: &[Metric::P50, Metric::P99, Metric::P999],
};

pub(super) const MEMORY: Picture = Picture {
    title: "Memory, less is better",
    note: "MiB of all its processes (PSS), or KiB for each connection; median of all rounds, least and most",
    metrics: &[Metric::Each, Metric::Memory],
};

const WIDTH: f64 = 1080.0;
const COLUMNS: usize = 2;
const GAP: f64 = 36.0;
const MARGIN: f64 = 28.0;
const NAMES: f64 = 172.0;
/// Room for the number at a bar's end.
const NUMBER: f64 = 104.0;
const STEP: f64 = 21.0;
const THICK: f64 = 13.0;
const HEAD: f64 = 26.0;
const TOP: f64 = 74.0;

/// None where no row has measured it.
pub(super) fn draw(results: &Results, picture: &Picture) -> Option<String> {
    let rows: Vec<(&Shown, &[Metric])> =
        results.rows.iter().filter_map(|row| Some((row, metrics(row, picture)?))).collect();
    if rows.is_empty() {
        return None;
    }
    let mut canvas = Canvas::new();
    canvas.bold(MARGIN, 34.0, 18.0, Side::Right, picture.title);
    canvas.text(MARGIN, 54.0, 12.0, GRAY, Side::Right, picture.note);
    let width = (WIDTH - 2.0 * MARGIN - GAP * (COLUMNS - 1) as f64) / COLUMNS as f64;
    // Each panel goes where there is most room left.
    let mut ends = [TOP; COLUMNS];
    for (row, metrics) in rows {
        let column = if ends[1] < ends[0] { 1 } else { 0 };
        let x = MARGIN + column as f64 * (width + GAP);
        ends[column] += panel(&mut canvas, (x, ends[column], width), row, metrics) + 20.0;
    }
    Some(canvas.finish(WIDTH, ends.into_iter().fold(0.0, f64::max)))
}

/// What this row has of them. Memory is what some rows are about, and for the others a mere by-product.
fn metrics<'p>(row: &Shown, picture: &'p Picture) -> Option<&'p [Metric]> {
    let has = |metric: &Metric| row.participants.iter().any(|one| one.metrics.contains_key(metric));
    if picture.metrics == MEMORY.metrics {
        let wanted = |metric: &&Metric| has(metric) && row.about.targets.iter().any(|target| target.metric == **metric);
        return picture.metrics.iter().find(wanted).map(std::slice::from_ref);
    }
    picture.metrics.first().filter(|metric| has(metric)).map(|_| picture.metrics)
}

/// Returns how high it is.
fn panel(canvas: &mut Canvas, (x, y, width): (f64, f64, f64), row: &Shown, metrics: &[Metric]) -> f64 {
    canvas.bold(x, y + 14.0, 13.0, Side::Right, &row.about.title);
    let values = |one: &Measured| -> Vec<(Metric, Spread)> {
        metrics.iter().filter_map(|metric| Some((*metric, one.metrics.get(metric)?.spread))).collect()
    };
    let whiskers = metrics.len() == 1;
    let end = |spread: &Spread| if whiskers { spread.most } else { spread.median };
    let all = row.participants.iter().flat_map(values);
    let most = all.map(|(_, spread)| end(&spread)).fold(f64::MIN_POSITIVE, f64::max);
    let (left, span) = (x + NAMES, width - NAMES - NUMBER);
    let mut top = y + HEAD;
    for one in &row.participants {
        let middle = top + THICK / 2.0;
        let ours = matches!(one.kind, Kind::Bgproxy | Kind::Other);
        let name = name(one);
        canvas.text(left - 8.0, middle + 4.0, 12.0, if ours { INK } else { GRAY }, Side::Left, &name);
        let values = values(one);
        let at = |value: f64| left + value / most * span;
        let mut reach = left;
        for (index, (_, spread)) in values.iter().enumerate() {
            let spot = at(spread.median);
            if index == 0 {
                canvas.bar(left, top, spot - left, THICK, color(one.kind));
            } else {
                canvas.line((at(values[index - 1].1.median), middle), (spot, middle), color(one.kind), 1.5);
                canvas.line((spot, top + 1.0), (spot, top + THICK - 1.0), color(one.kind), 2.5);
            }
            if whiskers {
                canvas.line((at(spread.least), middle), (at(spread.most), middle), INK, 1.2);
            }
            reach = reach.max(at(end(spread)));
        }
        let numbers: Vec<String> = values.iter().map(|(metric, spread)| short(spread.median, *metric)).collect();
        canvas.text(reach + 6.0, middle + 4.0, 11.5, INK, Side::Right, &numbers.join(" / "));
        top += STEP;
    }
    canvas.line((left, y + HEAD - 4.0), (left, top - STEP + THICK + 4.0), LINE, 1.0);
    top - y
}

/// Without the commit, which is too long for a picture.
fn name(one: &Measured) -> String {
    let outside = one.name.split(" (").map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
    let name: String = outside.collect();
    if one.kind == Kind::Other { format!("other {name}") } else { name }
}
