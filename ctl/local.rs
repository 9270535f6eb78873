//! What `bgctl` does by itself, without the daemon.

use std::path::Path;

use bgproxy_conf::Config;
use clap::CommandFactory;

use crate::args::Args;
use crate::fault::{Exit, Fault};
use crate::screen;
use crate::words::Paint;

/// Checks a configuration file, in the daemon's own words.
pub(crate) fn check(file: &Path, json: bool) -> Result<Exit, Fault> {
    let loaded = Config::load(file);
    let exit = if loaded.is_ok() { Exit::Done } else { Exit::Refused };
    if json {
        // In the terms of a reload: what it would say to this file.
        let fault = loaded.err().map(|fault| fault.to_string());
        let verdict = serde_json::json!({ "file": file.to_string_lossy(), "ok": fault.is_none(), "fault": fault });
        screen::say_raw(verdict.to_string().as_bytes())?;
        return Ok(exit);
    }
    match loaded {
        Ok(config) => {
            let services: Vec<String> = config.service.keys().map(|name| format!("`{name}`")).collect();
            screen::say(format!("{} is fine: it serves {}\n", file.display(), services.join(", ")))?;
        }
        Err(fault) => {
            let text = match screen::paint_notes() {
                Paint::Ansi => fault.colored(),
                Paint::Plain => fault.to_string(),
            };
            screen::note(&format!("{}\n", text.trim_end()));
        }
    }
    Ok(exit)
}

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Fault> {
    // First into memory, for clap_complete panics when its writer fails, and ours may be a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "bgctl", &mut script);
    screen::say(script)
}
