//! What comes before HTTP? A PROXY header that says who the client is, and TLS, within one deadline.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::super::error::Reason;
use super::super::proxy_protocol::{self, Parsed};
use super::super::socket::{ClientSocket, Plain};
use super::super::tls::{self, HandshakeFailure};
use super::super::worker::{Crowded, RECLAIMED, Worker};
use super::orders::Order;
use super::{Client, Conn, Phase};

/// A connection failed before a request could: the names stand in docs/failures.md.
struct Fault {
    label: &'static str,
    source: Option<io::Error>,
}

/// Learns who the client is; none when the connection is not worth going on with, which is counted and logged.
pub(super) async fn receive(worker: &Worker, conn: &Conn, tcp: TcpStream) -> Option<ClientSocket> {
    if conn.phase.get() != Phase::Receiving {
        return Some(ClientSocket::Clear(Plain::new(tcp, Bytes::new())));
    }
    match Box::pin(try_receive(worker, conn, tcp)).await {
        Ok(stream) if stream.tls().is_some_and(tls::was_challenge) => {
            tracing::debug!(client = %conn.from, "an authority looked whether a host is ours");
            None
        }
        Ok(stream) => {
            conn.enters(Phase::New, worker.now());
            Some(stream)
        }
        Err(Fault { label, source }) => {
            // That one is counted where its place is given up.
            if label != RECLAIMED {
                worker.clients.failed(label);
            }
            let error = source.as_ref().map(tracing::field::display);
            tracing::debug!(client = %conn.from, reason = label, error, "connection turned away");
            None
        }
    }
}

async fn try_receive(worker: &Worker, conn: &Conn, mut tcp: TcpStream) -> Result<ClientSocket, Fault> {
    let (mut address, mut unknown) = (conn.from, false);
    let mut ahead = Bytes::new();
    if conn.manner.proxy_header {
        let header = conn.unless_ended(proxy_header(worker, conn, &mut tcp)).await;
        let header = header.unwrap_or_else(|order| Err(ended(order, "proxy_header_timeout")))?;
        (address, unknown) = (header.0.unwrap_or(address), header.0.is_none());
        ahead = header.1;
        match worker.badge(address.ip()) {
            Ok(badge) => conn.wears(badge),
            Err(crowded) => {
                crowded.close(tcp);
                return Err(Fault { label: Crowded::LABEL, source: None });
            }
        }
    }
    let socket = Plain::new(tcp, ahead);
    let Some(config) = &conn.manner.tls else {
        conn.client.get_or_init(|| Client { unknown, ..Client::new(address, None) });
        return Ok(ClientSocket::Clear(socket));
    };
    let handshake = conn.unless_ended(TlsAcceptor::from(config.clone()).accept(socket)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => ClientSocket::from(stream),
        Ok(Err(error)) => return Err(Fault { label: HandshakeFailure::of(&error).label(), source: Some(error) }),
        Err(order) => return Err(ended(order, HandshakeFailure::Timeout.label())),
    };
    worker.clients.shook_hands();
    conn.client.get_or_init(|| Client { unknown, ..Client::new(address, stream.tls()) });
    Ok(stream)
}

fn ended(order: Order, timeout: &'static str) -> Fault {
    let label = match order {
        Order::Refuse(_) => timeout,
        Order::Leave => RECLAIMED,
        Order::Abort | Order::Retire => Reason::ShutdownCut.label(),
    };
    Fault { label, source: None }
}

/// Reads the PROXY header: who the client is, if it says, and what came behind it.
async fn proxy_header(worker: &Worker, conn: &Conn, tcp: &mut TcpStream) -> Result<(Option<SocketAddr>, Bytes), Fault> {
    if !worker.trusts(conn.from.ip()) {
        return Err(Fault { label: "proxy_header_untrusted", source: None });
    }
    let mut bytes = BytesMut::with_capacity(256);
    loop {
        match proxy_protocol::parse(&bytes) {
            Parsed::Header { length, source } => return Ok((source, bytes.split_off(length).freeze())),
            Parsed::Invalid(what) => {
                let source = Some(io::Error::new(io::ErrorKind::InvalidData, what));
                return Err(Fault { label: "proxy_header_malformed", source });
            }
            Parsed::Incomplete => match tcp.read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) => return Err(Fault { label: "proxy_header_missing", source: None }),
                Err(error) => return Err(Fault { label: "proxy_header_missing", source: Some(error) }),
            },
        }
    }
}
