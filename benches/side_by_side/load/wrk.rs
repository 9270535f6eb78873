//! How is wrk run? With one thread, as many connections as are busy at once, and every answer a 200.

use std::process::Command;

use anyhow::{Context, ensure};

use super::Done;
use crate::metric::Metric;
use crate::process::need;
use crate::site::HOST;

/// A load of HTTP/1.1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrk {
    pub(crate) connections: u32,
    /// Path of what is asked for.
    pub(crate) path: &'static str,
    /// A script that says what else is different.
    pub(crate) script: Option<&'static str>,
}

impl Wrk {
    /// `base` is `http://127.0.0.1:1234`, say.
    pub(crate) fn run(&self, base: &str, seconds: u32) -> anyhow::Result<Done> {
        let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
        let mut command = Command::new(need("wrk", "wrk")?);
        command.args(["--threads", "1", "--connections", &self.connections.to_string(), "--latency"]);
        command.args(["--timeout", "10s", "--header", &format!("Host: {HOST}")]);
        if let Some(text) = self.script {
            std::fs::write(script.path(), text)?;
            command.arg("--script").arg(script.path());
        }
        let output = command.args(["--duration", &format!("{seconds}s"), &format!("{base}{}", self.path)]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
        let faults = ["Non-2xx", "Socket errors"];
        ensure!(!faults.iter().any(|fault| text.contains(fault)), "not every request was answered with 200:\n{text}");
        parse(&text).with_context(|| format!("wrk says something else than expected:\n{text}"))
    }
}

fn parse(text: &str) -> anyhow::Result<Done> {
    let word = |label: &str| -> anyhow::Result<&str> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim).with_context(|| format!("no `{label}`"))
    };
    let total = text.lines().find_map(|line| line.split_once(" requests in ")).context("no total")?;
    Ok(Done {
        number: total.0.trim().parse()?,
        metrics: vec![
            (Metric::Rate, word("Requests/sec:")?.parse()?),
            (Metric::P50, millis(word("50%")?)?),
            (Metric::P99, millis(word("99%")?)?),
        ],
    })
}

/// `1.23ms`, `456.00us` or `1.20s`, as wrk writes a time.
fn millis(text: &str) -> anyhow::Result<f64> {
    let (number, factor) = match text {
        text if text.ends_with("us") => (text.trim_end_matches("us"), 1e-3),
        text if text.ends_with("ms") => (text.trim_end_matches("ms"), 1.0),
        text => (text.trim_end_matches('s'), 1e3),
    };
    Ok(number.parse::<f64>().with_context(|| format!("`{text}` is no time"))? * factor)
}
