//! How is HTTP spoken with those who look at us, or tell us what to do? By hyper, a task for each connection, as long
//! as they say in time what they want, and take what they are told.

use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::bounded::{Bounded, Held};
use super::caller::Caller;

/// How long a connection may be open without a whole head of a request: since it was made, or since the last answer.
/// Nobody shall keep its place for nothing; who asks every now and then comes back.
const HEAD: Duration = Duration::from_secs(20);

/// How long somebody may take nothing of what he is told.
const TAKING: Duration = Duration::from_secs(20);

/// Answers on all connections until `ending`, and then what has been asked by then; whoever drops it ends them all.
/// `caller` tells who is at the other end, where that is asked.
pub async fn serve<L: Listener<Io: Held>>(
    mut listener: Bounded<L>,
    app: Router,
    caller: fn(&L::Io) -> Option<Caller>,
    ending: CancellationToken,
) {
    let (app, mut tasks) = (TowerToHyperService::new(app), JoinSet::new());
    loop {
        let (io, _address) = tokio::select! {
            accepted = listener.accept() => accepted,
            // What came of them they have told themselves.
            Some(_ended) = tasks.join_next() => continue,
            () = ending.cancelled() => break,
        };
        let (app, caller, ending) = (app.clone(), caller(io.stream()), ending.clone());
        tasks.spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                if let Some(caller) = &caller {
                    request.extensions_mut().insert(ConnectInfo(caller.clone()));
                }
                app.call(request)
            });
            let mut builder = http1::Builder::new();
            let builder = builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let mut connection = pin!(builder.serve_connection(TokioIo::new(Taking::new(io)), service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = ending.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the daemon broke off");
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// A connection that breaks where nothing is taken of what is to be sent.
struct Taking<S> {
    stream: S,
    /// Until when something must be taken; none while it is.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Taking<S> {
    fn new(stream: S) -> Taking<S> {
        Taking { stream, deadline: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, taken: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.deadline = None;
            return taken;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(TAKING)));
        deadline.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taking<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taking<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Neither waits for the other side, on a socket.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// Serves a page that no socket takes at once, and connects; its directory lasts as long as the test.
    async fn served() -> (tempfile::TempDir, tokio::task::JoinHandle<()>, UnixStream) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sock");
        let listener = Bounded::new(UnixListener::bind(&path).expect("binds"));
        let app = Router::new().route("/", get(async || "x".repeat(16 << 20))).route("/word", get(async || "word"));
        let serving = tokio::spawn(serve(listener, app, |_| None, CancellationToken::new()));
        (dir, serving, UnixStream::connect(path).await.expect("a connection"))
    }

    const ASKS: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    // A place was held for as long as its holder took nothing of an answer.
    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_loses_his_place() {
        let (_dir, _serving, mut client) = served().await;
        client.write_all(ASKS).await.expect("asked");
        sleep(TAKING * 2).await;
        let mut taken = Vec::new();
        // Broken off, or ended early.
        let _broken = client.read_to_end(&mut taken).await;
        assert!(!taken.is_empty() && taken.len() < 16 << 20, "{} bytes", taken.len());
    }

    #[tokio::test]
    async fn who_takes_all_of_an_answer_gets_it() {
        let (_dir, _serving, mut client) = served().await;
        client.write_all(ASKS).await.expect("asked");
        let mut taken = vec![0; 16 << 20];
        client.read_exact(&mut taken).await.expect("all of it");
    }

    // Connections went on after whoever served them had been ended, and kept the daemon from its own end.
    #[tokio::test]
    async fn connections_end_with_whoever_serves_them() {
        let (_dir, serving, mut client) = served().await;
        client.write_all(b"GET /word HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("asked");
        let mut taken = vec![0; 12];
        client.read_exact(&mut taken).await.expect("an answer");
        client.write_all(b"GET / HT").await.expect("half of a head");
        serving.abort();
        let within = tokio::time::timeout(HEAD / 2, client.read_to_end(&mut taken)).await;
        let _closed = within.expect("closed at once");
        assert!(taken.starts_with(b"HTTP/1.1 200") && taken.ends_with(b"word"));
    }
}
