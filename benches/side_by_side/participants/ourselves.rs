//! How does this program take part itself? Started once more, with the part that it plays and where; then each worker
//! is a thread with its own listening socket and runtime, as in bgproxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, anyhow};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::{Participant, Who, alone, free_address, relay};
use crate::process::Running;
use crate::site::Site;

/// What this program can be beside the one that measures.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Part {
    /// Passes bytes on
    #[command(hide = true)]
    Relay(Task),
    /// Passes requests on with hyper, and does nothing else
    #[command(hide = true)]
    Alone(Task),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Task {
    address: SocketAddr,
    socket: PathBuf,
    workers: u32,
}

pub(super) fn start(who: &Who, site: &Site, part: &str) -> anyhow::Result<Participant> {
    let clear = free_address()?;
    let home = site.home(part)?;
    let workers = who.setup.workers;
    let mut command = Command::new(&who.program);
    command.arg(part).arg(clear.to_string()).arg(site.socket("blue")).arg(workers.to_string());
    let config = format!("side_by_side {part} {clear} {} {workers}\n", site.socket("blue").display());
    let process = Running::start(&mut command, &home, part)?;
    Ok(Participant { who: who.clone(), process, clear, h2c: None, secure: None, home, config })
}

/// Until it is ended.
pub(crate) fn play(part: &Part) -> anyhow::Result<()> {
    let (Part::Relay(task) | Part::Alone(task)) = part;
    let worker = || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let listener = listen(task.address)?;
            match part {
                Part::Relay(task) => relay::serve(listener, &task.socket).await,
                Part::Alone(task) => alone::serve(listener, &task.socket).await,
            }
        })
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..task.workers).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker has panicked"))?)
    })
}

/// A socket of a worker's own; what is accepted there sends at once.
fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into()).context("cannot listen")
}
