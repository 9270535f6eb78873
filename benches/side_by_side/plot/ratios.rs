//! Which targets does bgproxy reach? A line for each: where it is, where it must be, and where it aims.

use super::canvas::{Canvas, GRAY, INK, LINE, Side};
use crate::results::Results;
use crate::row::Against;

const WIDTH: f64 = 1080.0;
const MARGIN: f64 = 28.0;
const LEFT: f64 = 470.0;
const RIGHT: f64 = 940.0;
const TOP: f64 = 98.0;
const STEP: f64 = 24.0;
/// The scale is of logarithms: half as much is as far from the middle as twice as much.
const LEAST: f64 = 0.25;
const MOST: f64 = 4.0;

const GOOD: &str = "#1a7f37";
const FAIR: &str = "#bf8700";
const BAD: &str = "#cf222e";

/// None without a target that is a ratio.
pub(super) fn draw(results: &Results) -> Option<String> {
    let mut canvas = Canvas::new();
    canvas.bold(MARGIN, 34.0, 18.0, Side::Right, "bgproxy and its targets");
    canvas.text(
        MARGIN,
        54.0,
        12.0,
        GRAY,
        Side::Right,
        "ratio of medians; left of the tick is better (rates: turned over); tick: must, ring: aim; \
         green: aim met, yellow: met, red: missed",
    );
    let verdicts = || results.rows.iter().flat_map(|row| row.verdicts.iter().map(move |verdict| (row, verdict)));
    let ratios = verdicts().filter(|(_, verdict)| verdict.target.against != Against::Nothing);
    let mut y = TOP;
    for (row, verdict) in ratios {
        let target = &verdict.target;
        // Less is better everywhere on this scale.
        let turned = |value: f64| if target.metric.less_is_better() { value } else { 1.0 / value };
        let (value, must, aim) = (turned(verdict.value), turned(target.must), turned(target.aim));
        let fill = match (verdict.must, verdict.aim) {
            (_, true) => GOOD,
            (true, false) => FAIR,
            (false, false) => BAD,
        };
        let against = verdict.against.as_deref().unwrap_or_default();
        let metric = target.metric.label(row.about.unit);
        canvas.text(MARGIN, y + 4.0, 12.0, INK, Side::Right, &row.about.id.replace('-', " "));
        canvas.text(MARGIN + 150.0, y + 4.0, 12.0, GRAY, Side::Right, &format!("{metric} to {against}"));
        canvas.line((at(1.0), y), (at(value), y), fill, 3.0);
        canvas.line((at(must), y - 8.0), (at(must), y + 8.0), INK, 2.0);
        canvas.dot(at(aim), y, 4.5, INK);
        canvas.dot(at(aim), y, 3.0, "#ffffff");
        canvas.dot(at(value), y, 6.0, fill);
        canvas.text(RIGHT + 24.0, y + 4.0, 12.0, fill, Side::Right, &format!("{:.2}", verdict.value));
        y += STEP;
    }
    if y == TOP {
        return None;
    }
    let mut whole = Canvas::new();
    for mark in [0.25, 0.5, 1.0, 2.0, 4.0] {
        whole.line((at(mark), TOP - 14.0), (at(mark), y - STEP + 14.0), LINE, if mark == 1.0 { 1.6 } else { 0.8 });
        whole.text(at(mark), TOP - 20.0, 11.0, GRAY, Side::Middle, &format!("{mark}"));
    }
    whole.append(canvas);
    Some(whole.finish(WIDTH, y + 8.0))
}

/// Where a ratio is; what is off the scale is at its end, and its number says how far.
fn at(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    LEFT + share * (RIGHT - LEFT)
}
