//! How long does a request take when it does not wait for others? At a rate that leaves every proxy half of its time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::load::address::Address;
use crate::load::generator::{Pace, Plan, generate};
use crate::load::outcome::Outcome;
use crate::load::talk::Talk;
use crate::metric::{Metric, Turn};
use crate::participants::{Kind, Participant, Who};
use crate::row::{About, Against, Row, Target};
use crate::site::Site;

const CONNECTIONS: usize = 64;

/// How long somebody is asked for as much as it can.
const SATURATED: Duration = Duration::from_secs(1);

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![Box::new(Latency { own: true, peaks: Mutex::default() }), Box::new(Latency::default())]
}

#[derive(Default)]
struct Latency {
    /// Whether half of its own peak is asked of each, or half of the lowest.
    own: bool,
    /// Requests per second, by name; at first of all, in the turns that do not count.
    peaks: Mutex<BTreeMap<String, f64>>,
}

impl Row for Latency {
    fn about(&self) -> About {
        let whose = if self.own { "its own peak (measured just before)" } else { "the lowest peak of all" };
        let better = |metric| Target { metric, against: Against::Better, must: 1.0, aim: 0.8 };
        About {
            id: if self.own { "latency-own" } else { "latency-same" },
            title: format!("latency at half of {}", if self.own { "its own peak" } else { "the lowest peak" }),
            what: format!(
                "HTTP/1.1 keep-alive in clear, 612 bytes, {CONNECTIONS} connections, open loop at half of {whose}; \
                 from the time on the schedule to the last byte"
            ),
            unit: "request",
            targets: vec![better(Metric::P99), better(Metric::P999)],
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.is_whole()
    }

    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let to = Address::Tcp(participant.clear);
        let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !peaks.contains_key(&participant.who.name);
        if is_first || self.own {
            let outcome = load(&to, Pace::Full, SATURATED)?.all_answered()?;
            peaks.insert(participant.who.name.clone(), outcome.rate());
        }
        let lowest = peaks.values().copied().fold(f64::INFINITY, f64::min);
        let peak = if self.own { peaks[&participant.who.name] } else { lowest };
        if !is_first && participant.who.kind == Kind::Bgproxy {
            println!("{}", floor(site, peak / 2.0)?);
        }
        let outcome = load(&to, Pace::Fixed(peak / 2.0), Duration::from_secs(seconds.into()))?;
        Ok(vec![
            (Metric::Asked, peak / 2.0),
            (Metric::P50, outcome.millis(0.5)),
            (Metric::P99, outcome.millis(0.99)),
            (Metric::P999, outcome.millis(0.999)),
            (Metric::Max, outcome.millis(1.0)),
            (Metric::Failed, outcome.failed.all() as f64),
        ])
    }
}

fn load(to: &Address, pace: Pace, time: Duration) -> anyhow::Result<Outcome> {
    generate(&Plan { to, connections: CONNECTIONS, talk: &Talk::small(), pace, time })
}

/// What is measured where there is no proxy, and how well the generator keeps its schedule.
fn floor(site: &Site, rate: f64) -> anyhow::Result<String> {
    let outcome = load(&Address::Unix(site.socket("blue")), Pace::Fixed(rate), SATURATED)?.all_answered()?;
    let late = |share| outcome.late.value_at_quantile(share) as f64 / 1e3;
    Ok(format!(
        "floor: the backend itself at {rate:.0}/s: p50 {:.2} ms, p99 {:.2}, p99.9 {:.2}, most {:.2}; \
         the generator sends late by {:.0} us (p50), {:.0} (p99), {:.0} (p99.9)",
        outcome.millis(0.5),
        outcome.millis(0.99),
        outcome.millis(0.999),
        outcome.millis(1.0),
        late(0.5),
        late(0.99),
        late(0.999),
    ))
}
