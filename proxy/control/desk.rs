//! Where is the switchboard asked, and what may it be asked?

use bgproxy_conf::wire::{CloseStreamsReply, History, IdleReply, ProbeReport, Receipt, Reload, Status};
use bgproxy_conf::{Color, ServiceName};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::streams::CloseStreams;
use super::switchboard::{Command, Done, Refusal};

/// Asks that may wait for the loop; then the askers wait.
const QUEUE: usize = 256;

/// What may be asked of the switchboard; the reply goes into the sender.
#[derive(Debug)]
pub enum Ask {
    /// Carry this out.
    Command(ServiceName, Command, Asker),
    /// The receipt of the drain that this generation began, when it is there.
    Receipt(ServiceName, u64, oneshot::Sender<Receipt>),
    /// Ask a color once whether it is ready.
    Probe(ServiceName, Color, oneshot::Sender<Result<ProbeReport, Refusal>>),
    /// Whether a color is idle.
    Idle(ServiceName, Color, oneshot::Sender<Result<IdleReply, Refusal>>),
    /// End a color's streams.
    CloseStreams(CloseStreams, oneshot::Sender<Result<CloseStreamsReply, Refusal>>),
    /// Everything at one glance.
    Status(oneshot::Sender<Status>),
    /// What happened.
    History(oneshot::Sender<History>),
    /// Read the configuration again.
    Reload(oneshot::Sender<Reload>),
}

/// Who waits for a command's reply.
#[derive(Debug)]
pub struct Asker {
    pub(super) reply: oneshot::Sender<Result<Done, Refusal>>,
    /// Cancelled when nobody waits any more.
    pub(super) left: CancellationToken,
}

/// Where the switchboard is asked: cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Desk(mpsc::Sender<Ask>);

/// The switchboard has ended: the daemon is going down.
#[derive(Debug, thiserror::Error)]
#[error("bgproxy is shutting down")]
pub struct Gone;

impl Desk {
    /// A desk, and where what is asked there comes out.
    pub(super) fn open() -> (Desk, mpsc::Receiver<Ask>) {
        let (sender, asks) = mpsc::channel(QUEUE);
        (Desk(sender), asks)
    }

    /// One where nobody is asked any more.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn deserted() -> Desk {
        Desk::open().0
    }

    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.map_err(|_closed| Gone)?;
        answer.await.map_err(|_closed| Gone)
    }

    /// Has a command carried out. Dropping the future abandons it, as long as it is still being probed.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn command(&self, service: ServiceName, command: Command) -> Result<Result<Done, Refusal>, Gone> {
        let left = CancellationToken::new();
        let _leaving = left.clone().drop_guard();
        self.ask(|reply| Ask::Command(service, command, Asker { reply, left })).await
    }
}
