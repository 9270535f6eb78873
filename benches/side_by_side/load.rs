//! What is asked of the proxies? Many small GETs by HTTP/1.1 in clear and by TLS, by HTTP/2, or one per handshake.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::process::{PATIENCE, need};
use super::proxies::{NAME, Proxy};
use super::table::Turn;

/// Connections of HTTP/1.1.
pub(super) const CONNECTIONS: u32 = 64;

/// Connections of HTTP/2, and streams on each.
const SHARED: u32 = 8;
const STREAMS: u32 = 32;

/// Handshakes at once.
const NEWCOMERS: usize = 8;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// HTTP/1.1 in clear
    Clear,
    /// HTTP/1.1 by TLS
    TlsH1,
    /// HTTP/2 by TLS
    TlsH2,
    /// New connections with a full TLS handshake
    Handshake,
}

impl Load {
    pub(super) const ALL: [Load; 4] = [Load::Clear, Load::TlsH1, Load::TlsH2, Load::Handshake];

    pub(super) fn is_secure(self) -> bool {
        self != Load::Clear
    }

    /// What is counted.
    pub(super) fn unit(self) -> &'static str {
        if self == Load::Handshake { "handshake" } else { "request" }
    }

    pub(super) fn essentials(self) -> String {
        match self {
            Load::Clear => format!("in clear, HTTP/1.1 keep-alive (wrk, {CONNECTIONS} connections)"),
            Load::TlsH1 => format!("TLS, HTTP/1.1 keep-alive (wrk, {CONNECTIONS} connections)"),
            Load::TlsH2 => format!("TLS, HTTP/2 (h2load, {SHARED} connections x {STREAMS} streams)"),
            Load::Handshake => format!(
                "full TLS 1.3 handshakes, ECDSA P-256, X25519, nothing resumed, one small GET each ({NEWCOMERS} at once)"
            ),
        }
    }
}

/// What makes the loads.
pub(super) struct Loads {
    wrk: Option<PathBuf>,
    h2load: Option<PathBuf>,
}

impl Loads {
    pub(super) fn new(chosen: &[Load]) -> anyhow::Result<Loads> {
        let wanted = |loads: &[Load], program, package| -> anyhow::Result<Option<PathBuf>> {
            if loads.iter().any(|load| chosen.contains(load)) { need(program, package).map(Some) } else { Ok(None) }
        };
        Ok(Loads {
            wrk: wanted(&[Load::Clear, Load::TlsH1], "wrk", "wrk")?,
            h2load: wanted(&[Load::TlsH2], "h2load", "nghttp2-client")?,
        })
    }

    /// One measurement.
    pub(super) fn turn(&self, load: Load, proxy: &Proxy, seconds: u32) -> anyhow::Result<Turn> {
        let before = proxy.process.cpu()?;
        let done = match load {
            Load::Clear => wrk(self.wrk.as_deref(), &format!("http://{}/", proxy.clear), seconds),
            Load::TlsH1 => wrk(self.wrk.as_deref(), &format!("https://{}/", proxy.secure()?.0), seconds),
            Load::TlsH2 => h2load(self.h2load.as_deref(), proxy.secure()?.0, seconds),
            Load::Handshake => {
                let (address, certificate) = proxy.secure()?;
                handshakes(*address, certificate.authority()?, Duration::from_secs(seconds.into()))
            }
        };
        let Done { number, rate, p50, p99 } = done.with_context(|| format!("{}, {}", proxy.name, load.essentials()))?;
        let used = proxy.process.cpu()? - before;
        Ok(Turn { cpu: used / number * 1e6, rate, p50, p99, memory: proxy.process.memory()? })
    }
}

/// What a load got done.
struct Done {
    number: f64,
    /// Per second.
    rate: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
}

impl Done {
    /// From the time that each one took, in milliseconds.
    fn of(mut times: Vec<f64>, seconds: f64) -> anyhow::Result<Done> {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().context("nothing was answered");
        Ok(Done { number: times.len() as f64, rate: times.len() as f64 / seconds, p50: at(0.5)?, p99: at(0.99)? })
    }
}

// --- HTTP/1.1

fn wrk(wrk: Option<&Path>, url: &str, seconds: u32) -> anyhow::Result<Done> {
    let output = Command::new(wrk.context("no wrk")?)
        .args(["--threads", "1", "--connections", &CONNECTIONS.to_string(), "--latency"])
        .args(["--duration", &format!("{seconds}s"), url])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "not every request was answered with 200:\n{text}"
    );
    let words = |label: &str| -> anyhow::Result<&str> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim).with_context(|| format!("no `{label}` in what wrk says:\n{text}"))
    };
    let total = text.lines().find_map(|line| line.split_once(" requests in ")).context("no total")?;
    Ok(Done {
        number: total.0.trim().parse()?,
        rate: words("Requests/sec:")?.parse()?,
        p50: millis(words("50%")?)?,
        p99: millis(words("99%")?)?,
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

// --- HTTP/2

fn h2load(h2load: Option<&Path>, address: SocketAddr, seconds: u32) -> anyhow::Result<Done> {
    let log = tempfile::NamedTempFile::new()?;
    let output = Command::new(h2load.context("no h2load")?)
        .args(["--threads", "1", "--clients", &SHARED.to_string(), "--max-concurrent-streams", &STREAMS.to_string()])
        .args(["--duration", &seconds.to_string(), "--npn-list", "h2", "--log-file"])
        .arg(log.path())
        .arg(format!("https://{address}/"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "h2load: {text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains("Application protocol: h2\n"), "not HTTP/2:\n{text}");
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

// --- handshakes

/// New connections, few at once, each with a full handshake and a request that is the last.
fn handshakes(address: SocketAddr, authority: RootCertStore, time: Duration) -> anyhow::Result<Done> {
    // What the others' OpenSSL has: bgproxy would prefer X25519MLKEM768, which costs more.
    let provider =
        rustls::crypto::CryptoProvider { kx_groups: vec![kx_group::X25519], ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(authority)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let start = Instant::now();
        let mut newcomers = JoinSet::new();
        for _ in 0..NEWCOMERS {
            let connector = connector.clone();
            newcomers.spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < time {
                    let began = Instant::now();
                    tokio::time::timeout(PATIENCE, newcomer(&connector, address)).await??;
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
                anyhow::Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(newcomer) = newcomers.join_next().await {
            times.extend(newcomer??);
        }
        Done::of(times, start.elapsed().as_secs_f64())
    })
}

async fn newcomer(connector: &TlsConnector, address: SocketAddr) -> anyhow::Result<()> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let mut stream = connector.connect(ServerName::try_from(NAME)?, tcp).await?;
    let (_, connection) = stream.get_ref();
    ensure!(connection.handshake_kind() == Some(HandshakeKind::Full), "not a full handshake");
    ensure!(connection.protocol_version() == Some(ProtocolVersion::TLSv1_3), "not TLS 1.3");
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(2048);
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered with 200: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
