//! Who takes part? bgproxy, its rivals, and what shows how low the cost could be; each as its manual recommends it.

mod alone;
mod bgproxy;
mod caddy;
mod haproxy;
mod nginx;
pub(crate) mod ourselves;
mod relay;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::process::{Running, need, version};
use crate::site::{HOST, Site};

/// A program that can take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) kind: Kind,
    /// With its version, and what sets it apart.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) setup: Setup,
}

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Bgproxy,
    /// Another build of it.
    Other,
    Nginx,
    Haproxy,
    Caddy,
    /// hyper and tokio, and nothing of ours.
    Alone,
    /// Bytes passed on: the floor.
    Relay,
}

/// How it is configured where that is not the same in all rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) workers: u32,
    /// Whether it writes an access log, to a file.
    pub(crate) log: bool,
    /// Whether it limits the requests of each address, more generously than anybody asks.
    pub(crate) limited: bool,
    /// How many services there are, all with the same sockets.
    pub(crate) services: u32,
    /// The socket of a backend that takes websockets, at `/echo`.
    pub(crate) echo: Option<PathBuf>,
    /// Whether it is to be switched or reloaded while it runs, and has what that takes.
    pub(crate) changing: bool,
}

/// The usual one.
impl Default for Setup {
    fn default() -> Setup {
        Setup { workers: 2, log: false, limited: false, services: 1, echo: None, changing: false }
    }
}

/// One that runs; dropping it ends it.
pub(crate) struct Participant {
    pub(crate) who: Who,
    pub(crate) process: Running,
    /// Where it listens in clear, with HTTP/1.1.
    pub(crate) clear: SocketAddr,
    /// Where it listens in clear, with HTTP/2 by prior knowledge.
    pub(crate) h2c: Option<SocketAddr>,
    /// Where it listens with TLS, HTTP/1.1 and HTTP/2.
    pub(crate) secure: Option<SocketAddr>,
    /// Everything it has.
    pub(crate) home: PathBuf,
    /// The file that it was started with, or the command where there is none.
    pub(crate) config: String,
}

/// Everybody whose program is there, and what is missing.
pub(crate) fn everybody(site: &Site, door: &Path, also: &[PathBuf]) -> anyhow::Result<(Vec<Who>, Vec<String>)> {
    let mut all = vec![Who::new(Kind::Bgproxy, door.to_owned())];
    all.extend(also.iter().map(|program| Who::new(Kind::Other, program.clone())));
    all.push(Who::new(Kind::Nginx, site.nginx.clone()));
    let mut missing = Vec::new();
    for (kind, program) in [(Kind::Haproxy, "haproxy"), (Kind::Caddy, "caddy")] {
        match need(program, program) {
            Ok(program) => all.push(Who::new(kind, program)),
            Err(error) => missing.push(format!("without {program}: {error:#}")),
        }
    }
    let ourselves = std::env::current_exe()?;
    all.extend([Kind::Alone, Kind::Relay].map(|kind| Who::new(kind, ourselves.clone())));
    let logging: Vec<Who> = all.iter().filter(|who| who.kind.is_whole()).map(Who::with_log).collect();
    let limited: Vec<Who> = all.iter().filter(|who| who.kind.is_ours()).map(Who::with_limit).collect();
    all.extend(logging);
    all.extend(limited);
    Ok((all, missing))
}

impl Kind {
    /// Whom bgproxy is compared with: nginx and HAProxy.
    pub(crate) fn is_rival(self) -> bool {
        matches!(self, Kind::Nginx | Kind::Haproxy)
    }

    /// Whether it is a build of bgproxy.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Kind::Bgproxy | Kind::Other)
    }

    /// Whether it is a whole proxy: with TLS, HTTP/2, an access log.
    pub(crate) fn is_whole(self) -> bool {
        !matches!(self, Kind::Alone | Kind::Relay)
    }

    /// Whether it lets people say how many workers or threads it has, and how many services.
    pub(crate) fn has_workers(self) -> bool {
        matches!(self, Kind::Bgproxy | Kind::Other | Kind::Nginx | Kind::Haproxy)
    }
}

impl Who {
    fn new(kind: Kind, program: PathBuf) -> Who {
        let name = match kind {
            Kind::Bgproxy => version(&program, "--version"),
            Kind::Other => format!("{} ({})", version(&program, "--version"), program.display()),
            Kind::Nginx => version(&program, "-v").replace("nginx version: nginx/", "nginx "),
            Kind::Haproxy => {
                let version = version(&program, "-v").replace("HAProxy version", "HAProxy");
                version.split(['-', '+']).next().unwrap_or_default().to_owned()
            }
            Kind::Caddy => format!("Caddy {}", version(&program, "version")),
            Kind::Alone => "hyper alone".to_owned(),
            Kind::Relay => "relay of bytes".to_owned(),
        };
        Who { kind, name, program, setup: Setup::default() }
    }

    /// The same program, set up otherwise.
    pub(crate) fn with(&self, setup: Setup) -> Who {
        Who { setup, ..self.clone() }
    }

    fn with_log(&self) -> Who {
        let name = format!("{}, access log", self.name);
        Who { name, setup: Setup { log: true, ..self.setup.clone() }, ..self.clone() }
    }

    fn with_limit(&self) -> Who {
        let name = format!("{}, requests limited by address", self.name);
        Who { name, setup: Setup { limited: true, ..self.setup.clone() }, ..self.clone() }
    }

    /// Whether it is set up as its manual recommends it: without an access log or limits by address.
    pub(crate) fn is_usual(&self) -> bool {
        !self.setup.log && !self.setup.limited
    }

    /// Starts it as `self.setup` says.
    pub(crate) fn start(&self, site: &Site) -> anyhow::Result<Participant> {
        let started = match self.kind {
            Kind::Bgproxy | Kind::Other => bgproxy::start(self, site),
            Kind::Nginx => nginx::start(self, site),
            Kind::Haproxy => haproxy::start(self, site),
            Kind::Caddy => caddy::start(self, site),
            Kind::Alone => ourselves::start(self, site, "alone"),
            Kind::Relay => ourselves::start(self, site, "relay"),
        };
        let mut participant = started.with_context(|| format!("cannot start {}", self.name))?;
        let clear = participant.clear;
        participant.process.wait_for(|| answer(clear)).with_context(|| format!("{} does not answer", self.name))?;
        Ok(participant)
    }
}

impl Participant {
    /// Where it listens with TLS.
    pub(crate) fn secure(&self) -> anyhow::Result<SocketAddr> {
        self.secure.with_context(|| format!("{} has no TLS here", self.who.name))
    }

    /// Where it listens for HTTP/2 in clear.
    pub(crate) fn h2c(&self) -> anyhow::Result<SocketAddr> {
        self.h2c.with_context(|| format!("{} has no HTTP/2 in clear here", self.who.name))
    }
}

/// Where something listens.
pub(crate) trait Place: Copy {
    type Stream: Read + Write;
    fn connect(self) -> io::Result<Self::Stream>;
}

impl Place for SocketAddr {
    type Stream = TcpStream;

    fn connect(self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(stream)
    }
}

impl Place for &Path {
    type Stream = UnixStream;

    fn connect(self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(self)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(stream)
    }
}

/// Whether a GET is answered with 200 there.
pub(crate) fn answer(place: impl Place) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = place.connect()?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
