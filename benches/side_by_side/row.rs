//! What is a row? One workload, which every participant that can do it gets in turns.

use serde::Serialize;

use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Who};
use crate::site::Site;

/// One workload.
pub(crate) trait Row {
    fn about(&self) -> About;

    /// Who takes part: whoever can do it, as its manual recommends it.
    fn takes(&self, who: &Who) -> bool {
        who.is_usual()
    }

    /// Whether a single turn is enough: one that takes long, and begins with a participant started for it.
    fn is_once(&self) -> bool {
        false
    }

    /// One measurement, of about so many seconds. A row that must not see what earlier rows have left behind (memory)
    /// or that wants another configuration starts one of its own with `participant.who`.
    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn>;
}

/// What people are told about a row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct About {
    /// What it is called on command lines and in files; stays as it is.
    pub(crate) id: &'static str,
    pub(crate) title: String,
    /// How it is done, exactly.
    pub(crate) what: String,
    /// What is counted, in the singular.
    pub(crate) unit: &'static str,
    pub(crate) targets: Vec<Target>,
    /// Whether `--quick` has it.
    pub(crate) quick: bool,
}

/// What bgproxy has to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Target {
    pub(crate) metric: Metric,
    pub(crate) against: Against,
    pub(crate) must: f64,
    pub(crate) aim: f64,
}

/// What a target's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Against {
    /// Times the median of the better of nginx and HAProxy.
    Better,
    /// Times the median of nginx.
    Nginx,
    /// Times the median of hyper alone.
    Alone,
    /// The median itself.
    Nothing,
}

impl Target {
    /// CPU as a ratio to the better of nginx and HAProxy, and at least as many units per second at saturation.
    pub(crate) fn cpu_and_rate(must: f64, aim: f64) -> Vec<Target> {
        let better = |metric, must, aim| Target { metric, against: Against::Better, must, aim };
        vec![better(Metric::Cpu, must, aim), better(Metric::Rate, 1.0, 1.3)]
    }

    /// Whether `value`, a median or a ratio of two, is as good as `wanted`.
    pub(crate) fn reached(&self, value: f64, wanted: f64) -> bool {
        if self.metric.less_is_better() { value <= wanted } else { value >= wanted }
    }
}
