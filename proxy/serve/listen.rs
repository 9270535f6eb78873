//! Where do clients connect? One SO_REUSEPORT socket per worker and address, bound before anything is served.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per socket; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Bytes of an answer that the kernel keeps for a client beyond what is on its way to it. Without a bound it is
/// megabytes for each client that stops reading, until there is no memory for anybody's connection; and of what a slow
/// client takes, it tells when half of that has left, and not before.
const UNSENT: u32 = 128 * 1024;

/// How clients are received on one address.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// With TLS, configured so.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether a client may begin with HTTP/2 without having been asked (in clear only).
    pub h2c: bool,
    /// Whether connections begin with a PROXY header.
    pub proxy_header: bool,
    /// Every request is sent to https, on this port.
    pub redirect_https: Option<u16>,
}

/// One address, with a socket for each worker.
#[derive(Debug)]
pub struct Listener {
    /// The address really taken: a port of 0 has become one.
    pub address: SocketAddr,
    /// One socket per worker.
    pub sockets: Vec<TcpListener>,
    /// How clients are received there.
    pub manner: Manner,
}

/// Binds an address once for each worker.
///
/// # Errors
/// The kernel's: the port is taken, not permitted, or the address is not this host's.
pub fn bind(address: SocketAddr, workers: usize, manner: Manner) -> io::Result<Listener> {
    if address.port() != 0 {
        // SO_REUSEPORT would let us share the port with another process of ours, half of the requests each; a socket
        // without it is refused while anybody listens.
        drop(socket(address, false)?);
    }
    let first = socket(address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(socket(address, true)?);
    }
    Ok(Listener { address, sockets, manner })
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Inherited by every connection: small answers must not wait for an acknowledgement.
    socket.set_tcp_nodelay(true)?;
    // Inherited too.
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 3, Manner::default()).expect("a free port");
        assert_eq!(listener.sockets.len(), 3);
        for socket in &listener.sockets {
            assert_eq!(socket.local_addr().expect("an address"), listener.address);
        }
    }

    #[test]
    fn a_port_that_another_door_listens_on_is_taken() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, Manner::default()).expect("a free port");
        let error = bind(listener.address, 1, Manner::default()).expect_err("a taken port");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
