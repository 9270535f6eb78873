//! What makes the loads? wrk, h2load, and what they cannot do.

pub(crate) mod wrk;

use crate::metric::{Metric, Turn};
use crate::participants::Participant;

/// What a load got done.
pub(crate) struct Done {
    pub(crate) number: f64,
    /// Rate, percentiles.
    pub(crate) metrics: Turn,
}

/// A load with what the kernel charges to the proxy meanwhile.
pub(crate) fn charged(of: &Participant, load: impl FnOnce() -> anyhow::Result<Done>) -> anyhow::Result<Turn> {
    let before = of.process.cpu()?;
    let Done { number, metrics } = load()?;
    let used = of.process.cpu()? - before;
    let mut turn = vec![(Metric::Cpu, used / number * 1e6)];
    turn.extend(metrics);
    turn.push((Metric::Memory, of.process.memory()?));
    Ok(turn)
}
