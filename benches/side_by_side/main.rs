//! What does a request cost? CPU per request of bgproxy, nginx and HAProxy in front of the same backend, one after
//! the other in turns, so that whatever else the machine does hurts them alike.
//!
//! `cargo bench --bench side_by_side -- --rounds 5 --seconds 10` (or `make bench ARGS="..."`). CPU is what the kernel
//! charged to the proxy's processes and threads, user and system, divided by the requests (or handshakes) that the load
//! got answered; requests per second and latency depend on what the load and the backend leave of the cores.
//! `--load` measures only some loads; `--also PATH` lets another build of bgproxy take part.
#![expect(clippy::print_stdout, reason = "a table for people")]

mod load;
mod process;
mod proxies;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use load::{Load, Loads};
use process::{Running, machine, need};
use proxies::{Certificate, Site};
use table::Row;

#[derive(Debug, Parser)]
struct Arguments {
    /// How often each proxy has its turn, per load
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long a turn is
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Only this load (may be repeated)
    #[arg(long, value_enum)]
    load: Vec<Load>,
    /// Another build of bgproxy (may be repeated)
    #[arg(long, value_name = "PATH")]
    also: Vec<PathBuf>,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { rounds, seconds, load, also, .. }: Arguments) -> anyhow::Result<()> {
    let chosen: Vec<Load> = Load::ALL.into_iter().filter(|one| load.is_empty() || load.contains(one)).collect();
    let loads = Loads::new(&chosen)?;
    let nginx = need("nginx", "nginx-light")?;
    let dir = tempfile::Builder::new().prefix("bgproxy-bench-").tempdir_in("/tmp")?;
    let dir = dir.path();
    let backend = Running::nginx(&nginx, dir, "backend", &proxies::backend_conf(dir)?)?;
    // An older build may not know of TLS, and needs not where nobody asks for it.
    let certificate = if chosen.iter().any(|load| load.is_secure()) { Some(Certificate::new(dir)?) } else { None };
    let site = Site { dir, certificate: certificate.as_ref() };

    let ours = PathBuf::from(env!("CARGO_BIN_EXE_bgproxy"));
    let mut proxies = Vec::new();
    for (index, program) in std::iter::once(&ours).chain(&also).enumerate() {
        proxies.push(proxies::bgproxy(&site, program, index)?);
    }
    proxies.push(proxies::nginx(&site, &nginx)?);
    match need("haproxy", "haproxy") {
        Ok(haproxy) => proxies.push(proxies::haproxy(&site, &haproxy)?),
        Err(missing) => println!("without HAProxy: {missing}"),
    }
    println!("{}", machine());
    println!("backend: nginx, 1 worker, on a unix socket, 200 and a body of 612 bytes");
    for proxy in &proxies {
        println!("{}: {}", proxy.name, proxy.essentials);
    }
    println!("{rounds} rounds of {seconds} s, in turns; medians, and the least and the most of all rounds");

    for load in chosen {
        let mut rows: Vec<Row> = proxies.iter().map(|proxy| Row::new(&proxy.name)).collect();
        for proxy in &proxies {
            loads.turn(load, proxy, 1)?;
        }
        for round in 0..rounds as usize {
            for index in 0..proxies.len() {
                // Each round begins with another one.
                let index = (index + round) % proxies.len();
                rows[index].turns.push(loads.turn(load, &proxies[index], seconds)?);
            }
        }
        print!("\n{}:\n{}", load.essentials(), table::show(load.unit(), &rows));
    }
    drop((proxies, backend));
    Ok(())
}
