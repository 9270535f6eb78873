//! How are handshakes made? By a client of our own: no tool makes them full and counts them one by one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::Done;
use crate::process::PATIENCE;
use crate::site::HOST;

/// Handshakes at once.
pub(crate) const NEWCOMERS: usize = 8;

/// New connections, few at once, each with a full handshake and a request that is the last.
pub(crate) fn run(address: SocketAddr, authority: RootCertStore, time: Duration) -> anyhow::Result<Done> {
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
    let mut stream = connector.connect(ServerName::try_from(HOST)?, tcp).await?;
    let (_, connection) = stream.get_ref();
    ensure!(connection.handshake_kind() == Some(HandshakeKind::Full), "not a full handshake");
    ensure!(connection.protocol_version() == Some(ProtocolVersion::TLSv1_3), "not TLS 1.3");
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(2048);
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered with 200: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
