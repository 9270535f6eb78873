//! What may a request cost? The numbers that were committed, with as much more as two runs of the same build differ by.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// How they are made when they change on purpose.
const ACCEPT: &str = "make cost ARGS=--accept";

/// System calls that wait: how often they return depends on time, not on the work.
const WAITS: [&str; 2] = ["epoll_wait", "futex"];

/// What is seldom is not the request's: ten times a second the door looks at its deadlines.
const SELDOM: f64 = 0.1;

/// One of the numbers that are compared.
struct Number {
    what: &'static str,
    of: fn(&Cost) -> f64,
    /// By how much it may be more than the baseline: more than two runs of one build differ by. A share of it...
    share: f64,
    /// ...and what a few requests at the edges add.
    edge: f64,
    /// How many digits are shown.
    digits: usize,
}

/// Bodies that come in pieces: how many pieces is a matter of who is faster, backend, door or client.
const IN_PIECES: &str = "1 MiB";

/// How many times as much slack requests with such bodies have.
const MORE: f64 = 6.0;

const NUMBERS: [Number; 3] = [
    Number { what: "instructions", of: |cost| cost.instructions, share: 0.03, edge: 0.0, digits: 0 },
    Number { what: "allocations", of: |cost| cost.allocations, share: 0.01, edge: 0.5, digits: 1 },
    Number { what: "system calls", of: Cost::work, share: 0.01, edge: 0.2, digits: 1 },
];

/// What requests cost.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Costs {
    /// Compiler, valgrind and C library have their part in the numbers.
    made_with: Vec<String>,
    /// By the workload's name.
    workloads: BTreeMap<String, Cost>,
}

/// What one request costs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cost {
    instructions: f64,
    allocations: f64,
    /// Each system call by its name.
    syscalls: BTreeMap<String, f64>,
}

impl Cost {
    /// From what so many requests cost.
    pub(super) fn new(number: u32, instructions: u64, allocations: u64, syscalls: &BTreeMap<String, u64>) -> Cost {
        let each = |count: u64| count as f64 / f64::from(number);
        let hundredths = |count| (each(count) * 100.0).round() / 100.0;
        let syscalls = syscalls.iter().filter(|(_, count)| each(**count) >= SELDOM);
        Cost {
            instructions: each(instructions).round(),
            allocations: hundredths(allocations),
            syscalls: syscalls.map(|(name, count)| (name.clone(), hundredths(*count))).collect(),
        }
    }

    /// All system calls that do not wait.
    fn work(&self) -> f64 {
        self.syscalls.iter().filter(|(name, _)| !WAITS.contains(&name.as_str())).map(|(_, count)| count).sum()
    }
}

impl Costs {
    pub(super) fn new(workloads: BTreeMap<String, Cost>) -> Costs {
        let made_with = ["rustc", "valgrind", "ldd"].map(|program| {
            let output = Command::new(program).arg("--version").output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            text.lines().next().unwrap_or_default().to_owned()
        });
        Costs { made_with: made_with.into(), workloads }
    }

    pub(super) fn read(file: &Path) -> anyhow::Result<Costs> {
        let text = fs::read_to_string(file).with_context(|| format!("no {}: run `{ACCEPT}`", file.display()))?;
        serde_json::from_str(&text).with_context(|| file.display().to_string())
    }

    pub(super) fn write(&self, file: &Path) -> anyhow::Result<()> {
        Ok(fs::write(file, serde_json::to_string_pretty(self)? + "\n")?)
    }
}

/// What the comparison says: a table, remarks below it, and whether everything costs no more than it may.
pub(super) struct Verdict {
    pub(super) text: String,
    pub(super) good: bool,
}

pub(super) fn compare(now: &Costs, baseline: &Costs) -> Verdict {
    let mut verdict = Verdict { text: String::new(), good: true };
    let mut remarks = String::new();
    let width = now.workloads.keys().map(String::len).max().unwrap_or(0);
    let heads = NUMBERS.map(|number| format!("{:^27}", number.what));
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(verdict.text, "{:width$}  {}", "per request", heads.join("   "));
    let _ =
        writeln!(verdict.text, "{:width$}{}", "", format!("  {:>9}{:>9}{:>10}", "now", "baseline", "change").repeat(3));
    for (name, cost) in &now.workloads {
        let before = baseline.workloads.get(name);
        if before.is_none() {
            verdict.good = false;
            let _ = writeln!(remarks, "{name}: not in the baseline");
        }
        let _ = write!(verdict.text, "{name:width$}");
        for Number { what, of, share, edge, digits } in NUMBERS {
            let (now, before) = (of(cost), before.map_or(of(cost), of));
            let slack = (before * share + edge) * if name.ends_with(IN_PIECES) { MORE } else { 1.0 };
            let change = if digits == 0 {
                format!("{:+.1} %", (now / before - 1.0) * 100.0)
            } else {
                format!("{:+.1}", now - before)
            };
            let _ = write!(verdict.text, "  {now:>9.digits$}{before:>9.digits$}{change:>10}");
            if now > before + slack {
                verdict.good = false;
                let _ = writeln!(remarks, "{name}: {what} {change}, more than the {slack:.digits$} that are let pass");
            } else if now < before - slack {
                let _ = writeln!(remarks, "{name}: {what} {change}; `{ACCEPT}` makes it the new baseline");
            }
        }
        verdict.text.push('\n');
    }
    let gone = baseline.workloads.keys().filter(|name| !now.workloads.contains_key(*name));
    for name in gone {
        verdict.good = false;
        let _ = writeln!(remarks, "{name}: in the baseline, but no longer measured");
    }
    if !verdict.good {
        let _ =
            writeln!(remarks, "if that is the price of something wanted: `{ACCEPT}`, and say in the commit what for");
    }
    if now.made_with != baseline.made_with && !remarks.is_empty() {
        let _ =
            writeln!(remarks, "the baseline was made with {:?}, this run with {:?}", baseline.made_with, now.made_with);
    }
    let _ = writeln!(verdict.text, "\nsystem calls by name (those that wait are not compared):");
    for (name, cost) in &now.workloads {
        let calls: Vec<String> = cost.syscalls.iter().map(|(call, count)| format!("{call} {count:.1}")).collect();
        let _ = writeln!(verdict.text, "{name:width$}  {}", calls.join(", "));
    }
    if !remarks.is_empty() {
        verdict.text.push('\n');
        verdict.text.push_str(&remarks);
    }
    verdict
}
