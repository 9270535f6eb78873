//! What does a request cost? bgproxy beside nginx, HAProxy and Caddy in front of the same backend, one after the other
//! in turns, so that whatever else the machine does hurts them alike.
//!
//! `cargo bench --bench side_by_side -- --quick` (or `make bench ARGS="--quick"`); docs/benchmarks.md says the rest.
#![expect(clippy::print_stdout, reason = "a table for people")]

mod certificate;
mod load;
mod metric;
mod participants;
mod process;
mod rounds;
mod row;
mod rows;
mod site;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;

use participants::Participant;
use process::machine;
use row::Row;
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
    /// Another build of bgproxy (may be repeated)
    #[arg(long, value_name = "PATH")]
    also: Vec<PathBuf>,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let rows = chosen(arguments)?;
    if arguments.list {
        for about in rows.iter().map(|row| row.about()) {
            println!("{:<18} {}{}", about.id, about.title, if about.quick { " (quick)" } else { "" });
        }
        return Ok(());
    }
    let site = Site::new()?;
    let (everybody, missing) = participants::everybody(&site, &arguments.also);
    println!("{}", machine());
    for missing in missing {
        println!("{missing}");
    }
    let wanted = everybody.iter().filter(|who| rows.iter().any(|row| row.takes(who)));
    let participants = wanted.map(|who| who.start(&site)).collect::<anyhow::Result<Vec<Participant>>>()?;
    for participant in &participants {
        println!("\n--- {}\n{}", participant.who.name, participant.config.trim_end());
    }
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 1 } else { 2 });
    println!("\n{} rounds of {seconds} s, in turns; medians, and the least and the most", arguments.rounds);
    for row in &rows {
        let outcome = rounds::play(row.as_ref(), &site, &participants, arguments.rounds, seconds)?;
        print!("{}", table::show(&outcome, &participants));
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
    let wanted = |row: &Box<dyn Row>| {
        let about = row.about();
        let named = arguments.row.is_empty() || arguments.row.iter().any(|id| id == about.id);
        named && (about.quick || !arguments.quick)
    };
    Ok(all.into_iter().filter(wanted).collect())
}
