//! How does a demo backend run? On a thread of its own, with a unix socket, until it is dropped.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bgproxy_conf::Color;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::named;
use super::page::Face;

/// One color. Dropping it ends its connections, its thread and its socket.
#[derive(Debug)]
pub(super) struct Backend {
    socket: PathBuf,
    ending: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

// === impl Backend ===

impl Backend {
    /// Serves this color at this socket.
    pub(super) fn start(socket: PathBuf, color: Color) -> io::Result<Backend> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(&socket).map_err(|error| named(&socket, error))?
        };
        let mut backend = Backend { socket, ending: CancellationToken::new(), thread: None };
        let ending = backend.ending.clone();
        let thread = std::thread::Builder::new().name(format!("demo-{color}"));
        backend.thread = Some(thread.spawn(move || run(&runtime, listener, color, ending))?);
        Ok(backend)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.ending.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(socket = %self.socket.display(), "a demo backend panicked");
        }
        // Gone already when the whole directory was removed first.
        let _ = fs::remove_file(&self.socket);
    }
}

fn run(runtime: &Runtime, listener: UnixListener, color: Color, ending: CancellationToken) {
    let face = Arc::new(Face::new(color));
    runtime.block_on(async {
        // Dropped at the end, which ends the connections that are left; tunnels end with the runtime.
        let mut connections = JoinSet::new();
        let _ended = ending.run_until_cancelled(accept(listener, face, &mut connections)).await;
    });
}

async fn accept(listener: UnixListener, face: Arc<Face>, connections: &mut JoinSet<()>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, face.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, color = %face.color(), "demo backend: cannot accept");
                // Out of descriptors: it would fail again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: UnixStream, face: Arc<Face>) {
    let service = service_fn(|request| {
        let face = face.clone();
        async move { Ok::<_, Infallible>(face.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%error, color = %face.color(), "demo backend: a connection ended early");
    }
}
