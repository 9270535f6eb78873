//! How is a running participant told to switch, and to read its configuration again? As its operator would.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use crate::load::address::{Address, head};
use crate::load::talk::get;
use crate::participants::{Kind, Participant};
use crate::process::pause_briefly;
use crate::site::HOST;

/// What Caddy's API calls all that has to do with HTTP.
const SERVERS: &str = "/config/apps/http";

/// How long a reload may take that has ten thousand services.
const RELOADED: Duration = Duration::from_secs(120);

/// Those of one participant.
pub(crate) struct Levers<'p> {
    participant: &'p Participant,
    /// Its configuration, and what stands there at first: the service has its socket called blue.
    file: PathBuf,
    text: String,
    /// Caddy: what its API says of the same.
    servers: String,
}

impl<'p> Levers<'p> {
    pub(crate) fn new(participant: &'p Participant) -> anyhow::Result<Levers<'p>> {
        let file = participant.home.join(match participant.who.kind {
            Kind::Bgproxy | Kind::Other => "bgproxy.toml",
            Kind::Nginx => "nginx/nginx.conf",
            Kind::Haproxy => "haproxy.cfg",
            Kind::Caddy => "Caddyfile",
            Kind::Alone | Kind::Relay => bail!("{} has no levers", participant.who.name),
        });
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut levers = Levers { participant, file, text, servers: String::new() };
        if participant.who.kind == Kind::Caddy {
            let answer = levers.admin("GET", "application/json", SERVERS, "")?;
            levers.servers = answer.split_once("\r\n\r\n").context("no body")?.1.to_owned();
        }
        Ok(levers)
    }

    /// Makes another color live; returns when the participant says that it has heard.
    pub(crate) fn switch(&self, color: &str) -> anyhow::Result<()> {
        match self.participant.who.kind {
            Kind::Bgproxy | Kind::Other => {
                let answer = self.control("/v1/services/bench/switch", &format!("{{\"to\":\"{color}\"}}"))?;
                ensure!(answer.starts_with("HTTP/1.1 200"), "not switched: {answer}");
                Ok(())
            }
            Kind::Haproxy => {
                let map = self.participant.home.join("hosts.map");
                let said = self.ask("stats.sock", &format!("set map {} {HOST} {color}\n", map.display()))?;
                ensure!(said.trim().is_empty(), "not switched: {said}");
                Ok(())
            }
            Kind::Caddy => {
                let servers = self.servers.replace("/blue.sock", &format!("/{color}.sock"));
                self.admin("PATCH", "application/json", SERVERS, &servers).map(drop)
            }
            // It has nothing else.
            Kind::Nginx => self.reload(color),
            Kind::Alone | Kind::Relay => bail!("{} cannot switch", self.participant.who.name),
        }
    }

    /// Gives the service the socket of this color in the configuration, and has that read.
    pub(crate) fn reload(&self, color: &str) -> anyhow::Result<()> {
        fs::write(&self.file, self.with_color(color))?;
        match self.participant.who.kind {
            Kind::Bgproxy | Kind::Other => {
                let answer = self.control("/v1/reload", "")?;
                ensure!(answer.contains("\"ok\":true"), "not reloaded: {answer}");
            }
            Kind::Haproxy => self.participant.process.signal(Signal::USR2)?,
            Kind::Caddy => self.admin("POST", "text/caddyfile", "/load", &self.with_color(color)).map(drop)?,
            Kind::Alone | Kind::Relay => bail!("{} cannot reload", self.participant.who.name),
            Kind::Nginx => {
                let mut command = Command::new(&self.participant.who.program);
                let home = self.file.parent().context("a directory")?;
                let output = command.args(["-e", "stderr", "-s", "reload", "-p"]).arg(home).arg("-c").arg(&self.file);
                let output = output.output()?;
                ensure!(output.status.success(), "not reloaded: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(())
    }

    /// Waits until a new client is served by this color.
    pub(crate) fn wait_for(&self, color: &str) -> anyhow::Result<()> {
        let end = Instant::now() + RELOADED;
        while Instant::now() < end {
            if self.color()?.as_deref() == Some(color) {
                return Ok(());
            }
            pause_briefly();
        }
        bail!("{} does not serve {color}", self.participant.who.name)
    }

    /// The color that serves a new client.
    fn color(&self) -> anyhow::Result<Option<String>> {
        let mut socket = Address::Tcp(self.participant.clear).connect()?;
        socket.write_all(&get(HOST))?;
        let head = head(&mut socket)?.to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "not answered with 200: {head}");
        Ok(head.lines().find_map(|line| line.strip_prefix("x-color: ")).map(str::to_owned))
    }

    /// The configuration with the first two sockets swapped, or as it was.
    fn with_color(&self, color: &str) -> String {
        if color == "blue" {
            return self.text.clone();
        }
        let marked = self.text.replacen("/blue.sock", "/\0", 1).replacen("/green.sock", "/blue.sock", 1);
        marked.replacen("/\0", "/green.sock", 1)
    }

    /// What bgproxy's control socket answers.
    fn control(&self, path: &str, body: &str) -> anyhow::Result<String> {
        self.ask("control.sock", &http("POST", "application/json", "localhost", path, body, "1.1"))
    }

    /// What Caddy's API answers. It wants no host on a unix socket, and gives no chunks to HTTP/1.0.
    fn admin(&self, method: &str, kind: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let answer = self.ask("admin.sock", &http(method, kind, "", path, body, "1.0"))?;
        ensure!(answer.starts_with("HTTP/1.0 200"), "{method} {path}: {answer}");
        Ok(answer)
    }

    /// What is answered on one of its sockets.
    fn ask(&self, socket: &str, command: &str) -> anyhow::Result<String> {
        let mut stream = UnixStream::connect(self.participant.home.join(socket))?;
        stream.set_read_timeout(Some(RELOADED))?;
        stream.write_all(command.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// A request that is the last on its connection.
fn http(method: &str, kind: &str, host: &str, path: &str, body: &str, version: &str) -> String {
    format!(
        "{method} {path} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
