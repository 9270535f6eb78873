//! How does a client of our own connect?

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::process::PATIENCE;

/// Where a proxy or the backend listens.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// A connection that waits, but not forever.
    pub(crate) fn connect(&self) -> anyhow::Result<Socket> {
        let (socket, address) = self.socket()?;
        socket.connect_timeout(&address, PATIENCE).with_context(|| format!("cannot connect to {self:?}"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// A connection that has begun to be made; it never waits.
    pub(crate) fn begin(&self) -> anyhow::Result<Socket> {
        let (socket, address) = self.socket()?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                Err(error).with_context(|| format!("cannot connect to {self:?}"))
            }
            _ => Ok(socket),
        }
    }

    fn socket(&self) -> anyhow::Result<(Socket, SockAddr)> {
        let (domain, address) = match self {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        Ok((socket, address))
    }
}

/// Reads the head of an answer, and nothing of what follows.
pub(crate) fn head(from: &mut impl Read) -> anyhow::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 16384, "a head without an end");
        from.read_exact(&mut byte).with_context(|| format!("after `{}`", head.escape_ascii()))?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}
