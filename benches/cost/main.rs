//! What does a request cost in exact numbers? Instructions, allocations and system calls of bgproxy per request,
//! compared with what was committed: a slow change is seen where the clock of a busy machine cannot show it.
//!
//! `make cost`; `make cost ARGS=--accept` writes the numbers into benches/cost/baseline.json instead.
#![expect(clippy::print_stdout, reason = "a table for people")]

mod backend;
mod baseline;
mod client;
mod count;
mod door;
mod workloads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use clap::Parser;

use baseline::{Cost, Costs};
use workloads::{House, Workload};

#[derive(Debug, Parser)]
struct Arguments {
    /// Make what is measured the new baseline
    #[arg(long)]
    accept: bool,
    /// Leave callgrind's files in this directory, for callgrind_annotate
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let began = Instant::now();
    let temporary = tempfile::Builder::new().prefix("bgproxy-cost-").tempdir_in("/tmp")?;
    let dir = match &arguments.keep {
        // The door wants absolute paths.
        Some(dir) => &std::path::absolute(dir)?,
        None => temporary.path(),
    };
    let all = Workload::all();
    let mut costs = BTreeMap::new();
    for (house, name) in House::ALL {
        let some: Vec<&Workload> = all.iter().filter(|workload| workload.house == house).collect();
        let home = |tool: &str| dir.join(format!("{tool}-{name}"));
        let profiles = count::profiles(&home("callgrind"), house, &some)?;
        let syscalls = count::syscalls(&home("strace"), house, &some)?;
        for ((workload, profile), calls) in some.iter().zip(profiles).zip(syscalls) {
            let cost = Cost::new(workload.number, profile.instructions, profile.allocations, &calls);
            ensure!(costs.insert(workload.name.to_owned(), cost).is_none(), "two are called {}", workload.name);
        }
    }
    let now = Costs::new(costs);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cost/baseline.json");
    if arguments.accept {
        now.write(&file)?;
    }
    let verdict = baseline::compare(&now, &Costs::read(&file)?);
    print!("{}", verdict.text);
    let word = if verdict.good { "ok" } else { "FAILED" };
    println!("cost: {word}, {} workloads in {:.0} s", all.len(), began.elapsed().as_secs_f64());
    Ok(verdict.good)
}
