//! What does a client cost that does nothing? The memory of one more connection that has asked once, and idles.
//!
//! It is that of the proxy's processes; what the kernel holds for a socket is not in it, and is the same for all.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::Socket;

use crate::echo;
use crate::load::address::{Address, head};
use crate::load::http2;
use crate::load::talk::{Heard, Talk};
use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Setup, Who};
use crate::process::rest_until;
use crate::row::{About, Against, Row, Target};
use crate::site::{HOST, Site};

/// Connections that come and go before, so that what is only needed once is there.
const WARM: usize = 100;

/// How long they idle.
const IDLE: Duration = Duration::from_secs(3);

pub(super) fn all() -> Vec<Box<dyn Row>> {
    let idle = |id, speaks, number, called| -> Box<dyn Row> { Box::new(Idle { id, speaks, number, called }) };
    vec![
        idle("idle-clear", Speaks::Clear, 4000, "HTTP/1.1 in clear"),
        idle("idle-tls", Speaks::Tls, 4000, "HTTP/1.1 by TLS"),
        idle("idle-h2", Speaks::Http2, 1000, "HTTP/2 by TLS"),
        idle("idle-websocket", Speaks::Websocket, 1000, "websocket in clear"),
    ]
}

struct Idle {
    id: &'static str,
    speaks: Speaks,
    number: usize,
    called: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Clear,
    Tls,
    Http2,
    Websocket,
}

impl Row for Idle {
    fn about(&self) -> About {
        let target = Target { metric: Metric::Each, against: Against::Nothing, must: 4.0, aim: 1.0 };
        About {
            id: self.id,
            title: format!("memory per idle connection, {}", self.called),
            what: format!(
                "{} connections, one request each, then {} s of nothing; PSS of all processes, without the kernel's",
                self.number,
                IDLE.as_secs()
            ),
            unit: "connection",
            targets: if matches!(self.speaks, Speaks::Clear | Speaks::Tls) { vec![target] } else { Vec::new() },
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.is_whole()
    }

    fn is_once(&self) -> bool {
        true
    }

    fn turn(&self, site: &Site, participant: &Participant, _: u32) -> anyhow::Result<Turn> {
        let socket = site.home("echo")?.join("echo.sock");
        let _backend = echo::start(&socket)?;
        let participant = participant.who.with(Setup { echo: Some(socket), ..Setup::default() }).start(site)?;
        let caller = Caller::new(self.speaks, site, &participant)?;
        drop(caller.several(WARM)?);
        rest_until(Instant::now() + Duration::from_millis(500));
        let before = participant.process.memory()?;
        let mut held = caller.several(self.number)?;
        rest_until(Instant::now() + IDLE);
        let after = participant.process.memory()?;
        let failed = held.iter_mut().filter_map(|one| one.ask(&caller.talk).err()).collect::<Vec<_>>();
        if let Some(error) = failed.first() {
            println!("{}: {} of {} no longer answered: {error:#}", participant.who.name, failed.len(), self.number);
        }
        Ok(vec![
            (Metric::Each, (after - before) * 1024.0 / self.number as f64),
            (Metric::Memory, after),
            (Metric::Failed, failed.len() as f64),
        ])
    }
}

/// Opens connections.
struct Caller {
    speaks: Speaks,
    to: Address,
    tls: Arc<ClientConfig>,
    talk: Talk,
}

/// An open connection.
struct Held {
    stream: Stream,
    speaks: Speaks,
    /// HTTP/2: the next request's.
    id: u32,
}

enum Stream {
    Clear(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Caller {
    fn new(speaks: Speaks, site: &Site, participant: &Participant) -> anyhow::Result<Caller> {
        let mut tls =
            ClientConfig::builder().with_root_certificates(site.certificate.authority()?).with_no_client_auth();
        tls.alpn_protocols = vec![if speaks == Speaks::Http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let secure = matches!(speaks, Speaks::Tls | Speaks::Http2);
        let to = Address::Tcp(if secure { participant.secure()? } else { participant.clear });
        let talk = if speaks == Speaks::Websocket { Talk::echo(64) } else { Talk::small() };
        Ok(Caller { speaks, to, tls: Arc::new(tls), talk })
    }

    fn several(&self, number: usize) -> anyhow::Result<Vec<Held>> {
        (0..number).map(|index| self.open().with_context(|| format!("connection {}", index + 1))).collect()
    }

    /// A connection that has been used once.
    fn open(&self) -> anyhow::Result<Held> {
        let socket = self.to.connect()?;
        let stream = if matches!(self.speaks, Speaks::Tls | Speaks::Http2) {
            let session = ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from(HOST)?)?;
            Stream::Tls(Box::new(StreamOwned::new(session, socket)))
        } else {
            Stream::Clear(socket)
        };
        let mut held = Held { stream, speaks: self.speaks, id: 1 };
        if self.speaks == Speaks::Http2 {
            http2::begin(&mut held.stream)?;
        }
        if let Some(greeting) = &self.talk.greeting {
            held.stream.write_all(greeting)?;
            let head = head(&mut held.stream)?;
            ensure!(head.starts_with("HTTP/1.1 101"), "no tunnel: {head}");
        }
        held.ask(&self.talk)?;
        Ok(held)
    }
}

impl Held {
    /// One request, or message.
    fn ask(&mut self, talk: &Talk) -> anyhow::Result<()> {
        if self.speaks == Speaks::Http2 {
            self.id += 2;
            return http2::get(&mut self.stream, self.id - 2);
        }
        self.stream.write_all(talk.asks.first().context("nothing to ask")?)?;
        let (mut heard, mut buffer) = (Heard::default(), [0; 4096]);
        loop {
            let count = self.stream.read(&mut buffer)?;
            ensure!(count > 0, "closed");
            if let Some(answer) = heard.hear(&buffer[..count], talk)? {
                ensure!(answer.is_well, "not answered with 200");
                return Ok(());
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Clear(socket) => socket.read(buffer),
            Stream::Tls(session) => session.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Clear(socket) => socket.write(bytes),
            Stream::Tls(session) => session.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Clear(socket) => socket.flush(),
            Stream::Tls(session) => session.flush(),
        }
    }
}
