//! What makes the loads? wrk and h2load; clients of our own for what they cannot do: a schedule, handshakes, idle
//! HTTP/2 connections, websockets.

pub(crate) mod address;
pub(crate) mod flood;
pub(crate) mod generator;
pub(crate) mod h2load;
pub(crate) mod handshakes;
pub(crate) mod http2;
pub(crate) mod outcome;
pub(crate) mod talk;
pub(crate) mod wrk;

use anyhow::Context;

use crate::metric::{Metric, Turn};
use crate::participants::Participant;

/// What a load got done.
pub(crate) struct Done {
    pub(crate) number: f64,
    /// Rate, percentiles.
    pub(crate) metrics: Turn,
}

impl Done {
    /// From the time that each one took, in milliseconds, and for how long there was load.
    pub(crate) fn of(mut times: Vec<f64>, seconds: f64) -> anyhow::Result<Done> {
        times.sort_by(f64::total_cmp);
        let number = times.len() as f64;
        let at = |share: f64| times.get((number * share) as usize).copied().context("nothing was answered");
        let metrics = vec![(Metric::Rate, number / seconds), (Metric::P50, at(0.5)?), (Metric::P99, at(0.99)?)];
        Ok(Done { number, metrics })
    }
}

/// A load with what the kernel charges to the proxy meanwhile, and what the proxy holds in the end.
pub(crate) fn charged(of: &Participant, load: impl FnOnce() -> anyhow::Result<Done>) -> anyhow::Result<Turn> {
    let before = of.process.cpu()?;
    let Done { number, metrics } = load()?;
    let used = of.process.cpu()? - before;
    let mut turn = vec![(Metric::Cpu, used / number * 1e6)];
    turn.extend(metrics);
    turn.push((Metric::Memory, of.process.memory()?));
    Ok(turn)
}
