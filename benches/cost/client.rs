//! Who asks? One client that has one request on its way at a time, so that every run does the same in the same order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::workloads::{Manner, Workload};

/// The name in the certificate.
pub(super) const NAME: &str = "bench.test";

/// How long an answer may take; valgrind is some fifty times slower than life.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a door listens, and whom to trust there.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) clear: SocketAddr,
    pub(super) secure: SocketAddr,
    pub(super) authority: CertificateDer<'static>,
}

/// One client with its connection.
pub(super) enum Client<'w> {
    Http1 { workload: &'w Workload, target: Target, connection: Option<Box<dyn Stream>> },
    Http2 { workload: &'w Workload, runtime: Runtime, sender: SendRequest<Bytes> },
}

pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Client<'_> {
    pub(super) fn new<'w>(workload: &'w Workload, target: &Target) -> anyhow::Result<Client<'w>> {
        if workload.manner != Manner::Http2 {
            return Ok(Client::Http1 { workload, target: target.clone(), connection: None });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(target.secure).await?;
            tcp.set_nodelay(true)?;
            let connector = TlsConnector::from(rules(target, b"h2")?);
            let tls = connector.connect(ServerName::try_from(NAME)?, tcp).await?;
            let (sender, connection) = h2::client::handshake(tls).await?;
            // It lives in the runtime, which the client owns; what goes wrong in it, the requests tell.
            tokio::spawn(connection);
            anyhow::Ok(sender)
        })?;
        Ok(Client::Http2 { workload, runtime, sender })
    }

    /// Sends so many requests, each after the answer to the one before, and checks the answers.
    pub(super) fn send(&mut self, number: u32) -> anyhow::Result<()> {
        for _ in 0..number {
            let received = match self {
                Client::Http1 { workload, target, connection } => http1(workload, target, connection)?,
                Client::Http2 { runtime, sender, .. } => {
                    runtime.block_on(async { tokio::time::timeout(PATIENCE, http2(sender)).await? })?
                }
            };
            let (Client::Http1 { workload, .. } | Client::Http2 { workload, .. }) = self;
            ensure!(received == workload.answer, "an answer of {received} bytes, not {}", workload.answer);
        }
        Ok(())
    }
}

fn rules(target: &Target, protocol: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(target.authority.clone())?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

// --- HTTP/1.1

fn connect(manner: Manner, target: &Target) -> anyhow::Result<Box<dyn Stream>> {
    let address = if manner == Manner::Secure { target.secure } else { target.clear };
    let tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    if manner != Manner::Secure {
        return Ok(Box::new(tcp));
    }
    let connection = ClientConnection::new(rules(target, b"http/1.1")?, ServerName::try_from(NAME)?)?;
    Ok(Box::new(StreamOwned::new(connection, tcp)))
}

/// How long the answer's body is.
fn http1(workload: &Workload, target: &Target, kept: &mut Option<Box<dyn Stream>>) -> anyhow::Result<usize> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => connect(workload.manner, target)?,
    };
    stream.write_all(&workload.request)?;
    let mut answer = Vec::with_capacity(64 << 10);
    let mut piece = vec![0; 64 << 10];
    let head = loop {
        let length = stream.read(&mut piece)?;
        ensure!(length > 0, "no answer");
        answer.extend_from_slice(&piece[..length]);
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    ensure!(text.starts_with("http/1.1 200"), "not answered with 200: {text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("no content-length")?.parse()?;
    let mut got = answer.len() - head;
    while got < length {
        let more = stream.read(&mut piece)?;
        ensure!(more > 0, "the answer ends early");
        got += more;
    }
    if workload.manner == Manner::Fresh {
        ensure!(stream.read(&mut piece)? == 0, "more than one answer");
    } else {
        *kept = Some(stream);
    }
    Ok(got)
}

// --- HTTP/2

async fn http2(sender: &mut SendRequest<Bytes>) -> anyhow::Result<usize> {
    let request = http::Request::get(format!("https://{NAME}/")).header("user-agent", "cost").body(())?;
    *sender = sender.clone().ready().await?;
    let (answer, _) = sender.send_request(request, true)?;
    let answer = answer.await?;
    ensure!(answer.status() == 200, "answered with {}", answer.status());
    let mut body = answer.into_body();
    let mut got = 0;
    while let Some(data) = body.data().await {
        let length = data?.len();
        got += length;
        body.flow_control().release_capacity(length)?;
    }
    Ok(got)
}
