//! What is measured in a turn?

use serde::Serialize;

/// One kind of number. The order is that of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// CPU microseconds per unit: user and system, of all processes and threads of the proxy.
    Cpu,
    /// Units per second.
    Rate,
    /// Latency in milliseconds.
    P50,
    P99,
    P999,
    Max,
    /// What a switch takes to be seen, in milliseconds: the median of many, and the slowest.
    Took,
    Slowest,
    /// p99 of latency while something happens, divided by that of a quiet run; and p99.9.
    Slowdown,
    Slowdown999,
    /// Switches of which nothing was seen before the next one.
    Unseen,
    /// Requests served by a color that was no longer to serve any.
    Stale,
    /// Milliseconds from the beginning of the process to its first answer.
    Start,
    /// Milliseconds from a new configuration to its effect.
    Reload,
    /// KiB of memory for one more connection.
    Each,
    /// MiB of memory of all processes.
    Memory,
    /// MiB more at the worst moment than before.
    Grown,
    /// CPU seconds in all.
    Used,
    /// Units that failed.
    Failed,
    /// Units per second that were asked for: a schedule, not a result.
    Asked,
}

impl Metric {
    /// The head of its column, for rows that count `unit`s.
    pub(crate) fn label(self, unit: &str) -> String {
        match self {
            Metric::Cpu => format!("CPU us/{unit}"),
            Metric::Rate => format!("{unit}s/s"),
            Metric::P50 => "p50 ms".to_owned(),
            Metric::P99 => "p99 ms".to_owned(),
            Metric::P999 => "p99.9 ms".to_owned(),
            Metric::Max => "max ms".to_owned(),
            Metric::Took => "took ms".to_owned(),
            Metric::Slowest => "slowest ms".to_owned(),
            Metric::Slowdown => "p99 / quiet".to_owned(),
            Metric::Slowdown999 => "p99.9 / quiet".to_owned(),
            Metric::Unseen => "unseen".to_owned(),
            Metric::Stale => "stale".to_owned(),
            Metric::Start => "start ms".to_owned(),
            Metric::Reload => "reload ms".to_owned(),
            Metric::Memory => "memory MiB".to_owned(),
            Metric::Grown => "MiB more".to_owned(),
            Metric::Used => "CPU s".to_owned(),
            Metric::Each => format!("KiB/{unit}"),
            Metric::Failed => "failed".to_owned(),
            Metric::Asked => "asked for/s".to_owned(),
        }
    }

    pub(crate) fn less_is_better(self) -> bool {
        self != Metric::Rate
    }

    /// Digits after the point that mean something.
    pub(crate) fn digits(self) -> usize {
        match self {
            Metric::Cpu
            | Metric::Memory
            | Metric::Grown
            | Metric::Took
            | Metric::Slowest
            | Metric::Start
            | Metric::Reload => 1,
            Metric::Rate | Metric::Asked | Metric::Failed | Metric::Unseen | Metric::Stale => 0,
            Metric::P50 | Metric::P99 | Metric::P999 | Metric::Max | Metric::Each | Metric::Used => 2,
            Metric::Slowdown | Metric::Slowdown999 => 2,
        }
    }
}

/// What one turn of one participant has shown.
pub(crate) type Turn = Vec<(Metric, f64)>;
