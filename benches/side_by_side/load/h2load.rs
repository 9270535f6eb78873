//! How is h2load run? With one thread and few connections that many streams share, and every answer a 200.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, ensure};

use super::Done;
use crate::process::need;
use crate::site::HOST;

/// Connections, and streams on each.
pub(crate) const CONNECTIONS: u32 = 8;
pub(crate) const STREAMS: u32 = 32;

/// Seconds more than it was told, after which it is ended.
const PATIENCE: u32 = 30;

/// Small GETs by HTTP/2, by TLS or in clear with prior knowledge.
pub(crate) fn run(address: SocketAddr, secure: bool, seconds: u32) -> anyhow::Result<Done> {
    let log = tempfile::NamedTempFile::new()?;
    let (scheme, protocol) = if secure { ("https", "h2") } else { ("http", "h2c") };
    // Debian 12's may not come back from `--duration` when a server has closed on it.
    let output = Command::new("timeout")
        .arg((seconds + PATIENCE).to_string())
        .arg(need("h2load", "nghttp2-client")?)
        .args(["--threads", "1", "--clients", &CONNECTIONS.to_string()])
        .args(["--max-concurrent-streams", &STREAMS.to_string(), "--npn-list", "h2"])
        .args(["--duration", &seconds.to_string(), &format!("--connect-to={address}"), "--log-file"])
        .arg(log.path())
        .arg(format!("{scheme}://{HOST}/"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "h2load ({}): {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains(&format!("Application protocol: {protocol}\n")), "not {protocol}:\n{text}");
    let mut times = Vec::new();
    for line in fs::read_to_string(log.path())?.lines() {
        // When it began, the status, and how many microseconds it took.
        let mut columns = line.split('\t').skip(1);
        let (status, time) = (columns.next(), columns.next());
        ensure!(status == Some("200"), "not every request was answered with 200: `{line}`\n{text}");
        times.push(time.context("no time")?.parse::<f64>()? / 1e3);
    }
    Done::of(times, seconds.into())
}
