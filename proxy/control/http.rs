//! How is HTTP spoken with those who look at us, or tell us what to do? By hyper, a task for each connection, as long as
//! they say what they want in time.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bounded::{Bounded, Held};
use super::caller::Caller;

/// How long a connection may be open without a whole head of a request: since it was made, or since the last answer.
/// Nobody shall keep its place for nothing; who asks every now and then comes back.
const HEAD: Duration = Duration::from_secs(20);

/// Answers on all connections until `ending`, and then what has been asked by then. `caller` tells who is at the other
/// end, where that is asked.
pub async fn serve<L: Listener<Io: Held>>(
    mut listener: Bounded<L>,
    app: Router,
    caller: fn(&L::Io) -> Option<Caller>,
    ending: CancellationToken,
) {
    let (app, tasks) = (TowerToHyperService::new(app), TaskTracker::new());
    loop {
        let (io, _address) = tokio::select! {
            accepted = listener.accept() => accepted,
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
            let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = ending.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!("a connection of those who look at us ended: {error}");
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}
