//! What does a request cost in hyper and tokio alone? Passes requests on as they are, over kept connections: without
//! routes, metrics, claims, limits, deadlines, or a header of its own.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixStream};
use tokio::task::spawn_local;

/// Backend connections between two requests, and those whose answer is still on its way.
type Kept = RefCell<Vec<SendRequest<Incoming>>>;

pub(super) async fn serve(listener: TcpListener, socket: &Path) -> anyhow::Result<()> {
    let kept = Rc::new(Kept::default());
    loop {
        let (client, _) = listener.accept().await?;
        let (kept, socket) = (kept.clone(), socket.to_owned());
        spawn_local(async move {
            let service = service_fn(move |request| forward(kept.clone(), socket.clone(), request));
            // An end that is not a good one ends it, too; the load tells if it should not have been.
            let _ended = server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
        });
    }
}

async fn forward(kept: Rc<Kept>, socket: PathBuf, request: Request<Incoming>) -> anyhow::Result<Response<Incoming>> {
    let mut sender = match take(&kept) {
        Some(sender) => sender,
        None => {
            let stream = TokioIo::new(UnixStream::connect(socket).await?);
            let (sender, connection) = client::conn::http1::Builder::new().handshake(stream).await?;
            spawn_local(connection);
            sender
        }
    };
    let answer = sender.send_request(request).await?;
    kept.borrow_mut().push(sender);
    Ok(answer)
}

/// The last one used whose answer is over.
fn take(kept: &Kept) -> Option<SendRequest<Incoming>> {
    let mut kept = kept.borrow_mut();
    kept.retain(|sender| !sender.is_closed());
    let last = kept.iter().rposition(SendRequest::is_ready)?;
    Some(kept.swap_remove(last))
}
