//! Which pictures are drawn? CPU, latency, and how bgproxy compares with its targets; as SVG, and by hand: three kinds
//! of marks need no library.

mod bars;
mod canvas;
mod ratios;

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::metric::Metric;
use crate::results::Results;

/// Into `dir`, as `NAME-cpu.svg` and so on.
pub(crate) fn write(results: &Results, dir: &Path, name: &str) -> anyhow::Result<()> {
    let pictures = [
        ("cpu", bars::draw(results, &bars::CPU)),
        ("rate", bars::draw(results, &bars::RATE)),
        ("latency", bars::draw(results, &bars::LATENCY)),
        ("memory", bars::draw(results, &bars::MEMORY)),
        ("targets", ratios::draw(results)),
    ];
    for (kind, picture) in pictures {
        let Some(picture) = picture else { continue };
        let file = dir.join(format!("{name}-{kind}.svg"));
        fs::write(&file, picture).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Three significant digits.
fn short(value: f64, metric: Metric) -> String {
    match value {
        value if metric == Metric::Failed || (100.0..1e4).contains(&value) => format!("{value:.0}"),
        value if value >= 1e4 => format!("{:.1}k", value / 1e3),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
