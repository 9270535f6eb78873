//! How does a worker take clients in? One at a time when there is room for him, and at a stop whoever has queued
//! already.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};

use super::super::conn;
use super::super::limits::badges::Badge;
use super::super::listen::Manner;
use super::Worker;
use super::shed::Crowded;
use crate::descriptors;

/// After running out of descriptors: trying at once would spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts clients on one socket until the worker stops.
pub(super) async fn accept(worker: Rc<Worker>, listener: TcpListener, manner: Rc<Manner>) {
    let mut exhausted = false;
    while let Some(accepted) = worker.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, client)) => {
                let Some((stream, badge)) = worker.let_in(stream, client, &manner) else { continue };
                let stream = match worker.settle(stream, &mut exhausted).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%client, %error, "cannot take a client in");
                        continue;
                    }
                };
                if worker.is_full() {
                    // Also served if the worker stops meanwhile: he is connected as far as he can tell.
                    worker.stop.run_until_cancelled(worker.room()).await;
                }
                conn::serve(worker.clone(), stream, client, manner.clone(), badge);
            }
            Err(error) if is_client_noise(&error) => tracing::debug!("a client left while connecting: {error}"),
            Err(error) => {
                descriptors::note(&error);
                say(&mut exhausted, &error);
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
            // State is still to be saved, and those who wait for an end are to be told of it.
            Ok((stream, _)) if descriptors::is_kept(&stream) => return Err(Errno::MFILE.into()),
            Ok((stream, client)) => {
                stream.set_nonblocking(true)?;
                let stream = TcpStream::from_std(stream)?;
                if let Some((stream, badge)) = worker.let_in(stream, client, manner) {
                    conn::serve(worker.clone(), stream, client, manner.clone(), badge);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_client_noise(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells that descriptors have run out, once for each time that they do.
fn say(exhausted: &mut bool, error: &io::Error) {
    if !std::mem::replace(exhausted, true) {
        tracing::warn!("cannot accept clients: {error}");
    }
}

fn is_client_noise(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

impl Worker {
    /// A client's socket, at a descriptor that is not kept for others: while there is none, whoever is idle leaves for
    /// him, and he waits. At a stop he is served at any.
    async fn settle(&self, mut stream: TcpStream, exhausted: &mut bool) -> io::Result<TcpStream> {
        if !descriptors::is_kept(&stream) {
            *exhausted = false;
            return Ok(stream);
        }
        let none = Errno::MFILE.into();
        say(exhausted, &none);
        while descriptors::is_kept(&stream) && !self.stop.is_cancelled() {
            descriptors::note(&none);
            let ended = self.ended.notified();
            self.make_room();
            // What has come free may be a backend's, or another worker's.
            let _free = tokio::time::timeout(PAUSE, ended).await;
            // To the lowest that is free by now.
            stream = TcpStream::from_std(stream.into_std()?.try_clone()?)?;
        }
        Ok(stream)
    }

    /// A client's socket and his badge; none when his address has too many, and he has been turned away.
    fn let_in(&self, stream: TcpStream, client: SocketAddr, manner: &Manner) -> Option<(TcpStream, Option<Badge>)> {
        // A PROXY header is to say first who he is.
        if manner.proxy_header {
            return Some((stream, None));
        }
        match self.badge(client.ip()) {
            Ok(badge) => Some((stream, badge)),
            Err(crowded) => {
                self.clients.turned_away(Crowded::LABEL);
                tracing::debug!(%client, reason = Crowded::LABEL, "connection turned away");
                crowded.close(stream);
                None
            }
        }
    }
}
