//! How does a worker take clients in? One at a time while there is room, and at a stop whoever has queued already.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::super::conn;
use super::super::listen::Manner;
use super::Worker;

/// Accepts clients on one socket until the worker stops.
pub(super) async fn accept(worker: Rc<Worker>, listener: TcpListener, manner: Rc<Manner>) {
    /// After running out of descriptors: trying at once would spin.
    const PAUSE: Duration = Duration::from_millis(50);
    let mut exhausted = false;
    while let Some(accepted) = worker.stop.run_until_cancelled(worker.next_client(&listener)).await {
        match accepted {
            Ok((stream, client)) => {
                exhausted = false;
                conn::serve(worker.clone(), stream, client, manner.clone());
            }
            Err(error) if is_client_noise(&error) => tracing::debug!("a client left while connecting: {error}"),
            Err(error) => {
                if !exhausted {
                    tracing::warn!("cannot accept clients: {error}");
                }
                exhausted = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    if let Err(error) = accept_queued(&worker, listener, &manner) {
        tracing::warn!("cannot accept the clients that were in the queue: {error}");
    }
}

/// Whoever is in the kernel's queue is connected as far as he can tell; closing the socket would reset him.
fn accept_queued(worker: &Rc<Worker>, listener: TcpListener, manner: &Rc<Manner>) -> io::Result<()> {
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(true)?;
                conn::serve(worker.clone(), TcpStream::from_std(stream)?, client, manner.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_client_noise(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_client_noise(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

impl Worker {
    /// The next client, once there is room for one more.
    async fn next_client(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let is_full = || self.conns.borrow().len() >= self.limits().connections;
        loop {
            while is_full() {
                self.ended.notified().await;
            }
            // Asked again when a client comes: the last place may have gone to another listener's meanwhile.
            let next = |cx: &mut Context<'_>| match is_full() {
                true => Poll::Ready(None),
                false => listener.poll_accept(cx).map(Some),
            };
            if let Some(accepted) = poll_fn(next).await {
                return accepted;
            }
        }
    }
}
