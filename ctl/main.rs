//! `bgctl` tells a running bgproxy which color is live: arguments -> call -> exit code.
//!
//! | file | answers |
//! |---|---|
//! | `args.rs` | what can be typed, and the help for it |
//! | `verbs.rs`, `look.rs`, `change.rs` | what each verb calls, in order |
//! | `local.rs` | what needs no daemon |
//! | `client.rs`, `sse.rs` | how the daemon is called |
//! | `render.rs`, `words.rs` | what people read |
//! | `screen.rs` | where it is written, and what a terminal gets on top |
//! | `fault.rs` | how it ends badly, and with which exit code |

mod args;
mod change;
mod client;
mod fault;
mod local;
mod look;
mod render;
mod screen;
mod sse;
mod verbs;
mod words;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use args::Args;
use client::Client;
use fault::{Exit, Fault};
use verbs::Run;

fn main() -> anyhow::Result<ExitCode> {
    let Args { verb, global } = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let run = Run { client: Client::new(global.socket.clone()), global };
    let exit = runtime.block_on(async {
        match in_time(&run, &verb).await {
            Ok(exit) => exit,
            Err(fault) => tell(&run, &verb, &fault).await,
        }
    });
    Ok(ExitCode::from(exit as u8))
}

async fn in_time(run: &Run, verb: &args::Verb) -> Result<Exit, Fault> {
    let Some(limit) = run.global.timeout else { return run.verb(verb).await };
    match tokio::time::timeout(limit, run.verb(verb)).await {
        Ok(ended) => ended,
        Err(_) => Err(Fault::Deadline {
            title: format!("not done within {}", humantime::format_duration(limit)),
            detail: run.at_deadline(verb).await,
            hint: verb.mutates().then(|| "the daemon may still be at it; `bgctl status` shows".into()),
        }),
    }
}

/// Says on standard error what went wrong; scripts also get the daemon's own words where they look for answers.
async fn tell(run: &Run, verb: &args::Verb, fault: &Fault) -> Exit {
    let exit = fault.exit();
    if exit == Exit::Done {
        return exit;
    }
    if let Fault::Problem { raw, .. } = fault
        && run.global.json
    {
        // Nobody may read it there; the exit code says the rest.
        let _ = screen::say_raw(raw);
    }
    let hint = run.hint(verb, fault).await;
    screen::note(&render::fault(fault, hint.as_deref(), screen::paint_notes()));
    exit
}
