//! How is a client's connection closed? So that the client can still read what was sent, as far as it wants to.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::super::answer;
use super::super::error::Reason;
use super::super::socket::ClientSocket;
use super::super::worker::Worker;

/// After the last answer the client gets this long and this many bytes to notice: closing while it still sends would
/// reset the connection and take the answer with it (RFC 9112, section 9.6).
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// More than the kernel usually holds for us (net.ipv4.tcp_rmem): what a flood has sent before it could know.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// How to close a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// At once.
    Close,
    /// Let the client read the last answer.
    Linger,
    /// Answer this, then let the client read it.
    Refuse(Reason),
    /// At once, and with what the kernel still has for the client: so that it does not take a broken answer for a whole
    /// one, or because it takes nothing.
    Reset,
}

/// Closes a connection so that the client can still read what was sent.
pub(super) async fn part(worker: &Worker, mut stream: ClientSocket, parting: Parting) {
    if let Parting::Refuse(reason) = parting {
        worker.nowhere.refused(reason);
        let answer = answer::raw(reason, &worker.pages());
        // A client that does not even take a refusal is not owed one.
        let said = async {
            stream.write_all(&answer).await?;
            stream.flush().await
        };
        let _unwilling = tokio::time::timeout(LINGER, said).await;
    }
    if parting == Parting::Reset {
        let reset = socket2::SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
        debug_assert!(reset.is_ok(), "a socket that cannot be reset: {reset:?}");
        return;
    }
    match parting {
        Parting::Close => say_end(&mut stream).await,
        _ => {
            let _impatient = tokio::time::timeout(LINGER, drain(worker, &mut stream)).await;
        }
    }
}

/// An end that TLS does not tell could be somebody's in between (RFC 8446, section 6.1); in clear the kernel tells it.
/// What the client does not take at once is not waited for.
async fn say_end(stream: &mut ClientSocket) {
    if stream.tls().is_some() {
        let said = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_shutdown(cx)));
        let _unwilling = said.await;
    }
}

/// Says the end and reads what the client still sends, until it has seen it.
async fn drain(worker: &Worker, stream: &mut ClientSocket) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut left = LINGER_BYTES;
    loop {
        // Into memory that all share: a sink of its own would make every connection's task as large, also an idle
        // one's.
        let read = poll_fn(|cx| {
            let mut scratch = worker.scratch.borrow_mut();
            let mut sink = ReadBuf::new(&mut scratch);
            Pin::new(&mut *stream).poll_read(cx, &mut sink).map_ok(|()| sink.filled().len())
        });
        let Ok(bytes @ 1..) = read.await else { break };
        left = left.saturating_sub(bytes);
        if left == 0 {
            break;
        }
    }
}
