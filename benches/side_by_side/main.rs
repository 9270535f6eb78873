//! What does a request cost? bgproxy beside nginx, HAProxy and Caddy in front of the same backend, one after the other
//! in turns, so that whatever else the machine does hurts them alike.
//!
//! `cargo bench --bench side_by_side -- --quick` (or `make bench ARGS="--quick"`); docs/benchmarks.md says the rest.
#![expect(clippy::print_stdout, reason = "a table for people")]

mod certificate;
mod echo;
mod levers;
mod load;
mod metric;
mod participants;
mod plot;
mod process;
mod results;
mod rounds;
mod row;
mod rows;
mod site;
mod table;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;

use participants::Participant;
use participants::ourselves::{self, Part};
use process::{machine, open_many_files};
use results::Results;
use row::{About, Row};
use site::Site;

#[derive(Debug, Parser)]
struct Arguments {
    /// How often each participant has its turn, per row
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long a turn is [default: 2, and 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Only this row (may be repeated)
    #[arg(long, value_name = "ID")]
    row: Vec<String>,
    /// Only the few rows that say most
    #[arg(long)]
    quick: bool,
    /// Says which rows there are
    #[arg(long)]
    list: bool,
    /// The bgproxy that is measured; cargo's own for a bench has features that only tests need
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_bgproxy"))]
    door: PathBuf,
    /// Another build of bgproxy (may be repeated)
    #[arg(long, value_name = "PATH")]
    also: Vec<PathBuf>,
    /// Writes all that was measured into this file
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Writes it into benches/results/NAME.json, and the plots beside it
    #[arg(long, value_name = "NAME")]
    save: Option<String>,
    #[command(subcommand)]
    part: Option<Part>,
    /// Is the backend of websockets on this socket, and nothing else
    #[arg(long, value_name = "SOCKET", hide = true)]
    echo: Option<PathBuf>,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(part) => ourselves::play(part),
        None => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(socket) = &arguments.echo {
        return echo::serve(socket);
    }
    let rows = chosen(arguments)?;
    if arguments.list {
        for about in rows.iter().map(|row| row.about()) {
            println!("{:<18} {}{}", about.id, about.title, if about.quick { " (quick)" } else { "" });
        }
        return Ok(());
    }
    open_many_files()?;
    let site = Site::new()?;
    let (everybody, missing) = participants::everybody(&site, &arguments.door, &arguments.also)?;
    println!("{}", machine());
    for missing in missing {
        println!("{missing}");
    }
    let wanted = everybody.iter().filter(|who| rows.iter().any(|row| row.takes(who)));
    let participants = wanted.map(|who| who.start(&site)).collect::<anyhow::Result<Vec<Participant>>>()?;
    for participant in &participants {
        println!("\n--- {}\n{}", participant.who.name, participant.config.trim_end());
    }
    let Arguments { rounds, quick, .. } = *arguments;
    let seconds = arguments.seconds.unwrap_or(if quick { 1 } else { 2 });
    println!("\n{rounds} rounds of {seconds} s, in turns; medians, and the least and the most");
    println!("ratio: to the better of nginx and HAProxy, of the column before it");
    let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
    for row in &rows {
        match rounds::play(row.as_ref(), &site, &participants, rounds, seconds) {
            Ok(outcome) => {
                print!("{}", table::show(&outcome, &participants));
                outcomes.push(outcome);
            }
            // What the other rows have shown is not to be measured once more.
            Err(error) => {
                println!("\n{}: not measured: {error:#}", row.about().id);
                failed.push(row.about().id);
            }
        }
    }
    print!("{}", table::summary(&outcomes, &participants));
    keep(arguments, &Results::new(&outcomes, &participants, rounds, seconds))?;
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

/// Writes what is asked for.
fn keep(arguments: &Arguments, results: &Results) -> anyhow::Result<()> {
    if let Some(file) = &arguments.json {
        results.write(file)?;
    }
    if let Some(name) = &arguments.save {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        std::fs::create_dir_all(&dir)?;
        results.write(&dir.join(format!("{name}.json")))?;
        plot::write(results, &dir, name)?;
        println!("\nkept in {}", dir.join(name).display());
    }
    Ok(())
}

/// The rows that are asked for.
fn chosen(arguments: &Arguments) -> anyhow::Result<Vec<Box<dyn Row>>> {
    let all = rows::all();
    let ids: Vec<&str> = all.iter().map(|row| row.about().id).collect();
    if let Some(unknown) = arguments.row.iter().find(|id| !ids.contains(&id.as_str())) {
        bail!("there is no row `{unknown}`; there are {}", ids.join(", "));
    }
    let wanted = |about: About| match arguments.row.as_slice() {
        [] => about.quick || !arguments.quick,
        named => named.iter().any(|id| id == about.id),
    };
    Ok(all.into_iter().filter(|row| wanted(row.about())).collect())
}
