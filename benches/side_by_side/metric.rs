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
    /// What one operation takes, in milliseconds: a start, a reload, a switch.
    Took,
    /// Percentile of latency while something happens, divided by that of a quiet run.
    Slowdown,
    /// MiB of memory of all processes.
    Memory,
    /// KiB of memory for one more connection.
    Each,
    /// Units that failed.
    Failed,
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
            Metric::Slowdown => "p99 / quiet".to_owned(),
            Metric::Memory => "memory MiB".to_owned(),
            Metric::Each => format!("KiB/{unit}"),
            Metric::Failed => "failed".to_owned(),
        }
    }

    pub(crate) fn less_is_better(self) -> bool {
        self != Metric::Rate
    }

    /// Digits after the point that mean something.
    pub(crate) fn digits(self) -> usize {
        match self {
            Metric::Cpu | Metric::Memory | Metric::Took => 1,
            Metric::Rate | Metric::Failed => 0,
            Metric::P50 | Metric::P99 | Metric::P999 | Metric::Max | Metric::Slowdown | Metric::Each => 2,
        }
    }
}

/// What one turn of one participant has shown.
pub(crate) type Turn = Vec<(Metric, f64)>;
