//! How does it all begin and end? Wires everything from top to bottom: takes what the host may refuse, starts the
//! workers, then the control wing, waits for a signal, and takes it all down again.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use bgproxy_conf::{Color, Config, Listen, ProxyProtocol, check};
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::certificates::Certificates;
use crate::challenges::Challenges;
use crate::control::acme::{Keeper, Wanted};
use crate::control::admin::{self, Readiness};
use crate::control::api::{self, Api};
use crate::control::boot;
use crate::control::bounded::Bounded;
use crate::control::caller::{self, Caller};
use crate::control::certificates::{self, Pairs, Unusable};
use crate::control::desk::{Ask, Desk};
use crate::control::events::Events;
use crate::control::http;
use crate::control::metrics::{ControlMetrics, Tally};
use crate::control::operate::{Parts, Switchboard};
use crate::control::pages::PageFiles;
use crate::control::registry::Registry;
use crate::control::report::About;
use crate::control::socket::ControlSocket;
use crate::control::state::Store;
use crate::family::Page;
use crate::mail::Mailboxes;
use crate::serve::access::{AccessLog, AccessWriterHandle};
use crate::serve::limits::Limiter;
use crate::serve::listen::{self, Listener, Manner};
use crate::serve::meter::Meters;
use crate::serve::metrics::ServingMetrics;
use crate::serve::{tls, worker};
use crate::table::Table;
use crate::{VERSION, clock, descriptors, harden};

/// After the deadline of a shutdown, workers get this long to notice.
const GRACE: Duration = Duration::from_secs(3);

/// How long each part of the control wing may take to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Panics since the start.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// What `bgproxy run` was told.
pub struct Options {
    /// The configuration.
    pub config: Config,
    /// Where it was read; none for the built-in default.
    pub config_path: Option<PathBuf>,
    /// What to take for live, whatever the state files say.
    pub assume_live: Option<Color>,
    /// What to change where an address is refused: a key of the configuration, or a flag.
    pub named: fn(Place<'_>) -> &'static str,
    /// Called once, when the door is open, with the addresses really taken.
    pub opened: Box<dyn FnOnce(&About)>,
}

/// An address of our own, which the host may refuse.
#[derive(Debug, Clone, Copy)]
pub enum Place<'c> {
    /// Where clients connect.
    Listener(&'c Listen),
    /// Where metrics and the status page are.
    Admin,
}

/// The key of the configuration that says where this is.
pub fn key(place: Place<'_>) -> &'static str {
    match place {
        Place::Listener(_) => "`listen`",
        Place::Admin => "`admin.address`",
    }
}

/// What to do about an error, for a line of its own below it.
#[derive(Debug)]
pub struct Hint(pub String);

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the front door until a signal ends it.
///
/// # Errors
/// One error that says what the host refused and what to do.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let Options { config, config_path, assume_live, named, opened } = options;
    count_panics();
    harden::harden(&config);
    descriptors::raise(&config);
    for name in caller::unknown_names(&config.control) {
        tracing::warn!(name, "in `control.operators` or `control.viewers`: this host has no such user or group");
    }
    let store = Store::open(&config.state.dir)?;
    let control_socket = ControlSocket::bind(&config.control.socket)?;
    let workers = config.workers.count();
    let challenges = Arc::new(Challenges::default());
    let keeper = Keeper::new(Wanted::of(&config), &config.state.dir, challenges.clone());
    let mut pairs = unless_unusable(Pairs::load(&config.certificate))?;
    pairs.fetched(keeper.0.certificates());
    let tls = handshakes(&config, pairs.certificates(), &challenges)?;
    let pages = error_pages(&config, config_path.as_deref())?;
    let listeners = bind_listeners(&config, workers, tls, named)?;
    let admin_socket = bind_admin(&config, named)?;
    let board = boot::boot(&config, &store, assume_live.as_ref())?;
    let access = AccessLog::open(&config.log.access, config.log.access_format)?;

    let table = Arc::new(ArcSwap::from_pointee(Table::new(Vec::new(), config.limits.clone(), config.trusted.clone())));
    let (mail, mailboxes) = Mailboxes::new(workers);
    let meters = Arc::new(Meters::default());
    let limiter = Arc::new(Limiter::default());
    let events = Arc::new(Events::default());
    let tally = Arc::new(Tally::default());
    tally.started();
    let about = About {
        version: VERSION.to_owned(),
        started: clock::now(),
        workers,
        listen: listeners.iter().map(|listener| listener.address.to_string()).collect(),
        admin: admin_socket.local_addr()?.to_string(),
        connections: {
            let meters = meters.clone();
            Arc::new(move || meters.connections().1)
        },
        refused: {
            let limiter = limiter.clone();
            Arc::new(move || limiter.lately(Instant::now()))
        },
    };
    let page = Arc::new(Page::new(vec![
        Box::new(ServingMetrics {
            meters: meters.clone(),
            table: table.clone(),
            losses: access.as_ref().map(|(log, _)| log.losses()),
        }),
        Box::new(ControlMetrics {
            tally: tally.clone(),
            table: table.clone(),
            version: VERSION.to_owned(),
            panics: || PANICS.load(Ordering::Relaxed),
        }),
    ]));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let rules = Arc::new(ArcSwap::from_pointee(config.control.clone()));
        let shutdown = Arc::new(ArcSwap::from_pointee(config.shutdown.deadline.get()));
        let parts = Parts {
            registry: Registry::new(workers),
            table: table.clone(),
            mail: mail.clone(),
            store: Arc::new(store),
            events: events.clone(),
            about: about.clone(),
            rules: rules.clone(),
            shutdown: shutdown.clone(),
            board,
            pairs,
            keeper,
            pages,
            config,
            config_path,
        };
        let (mut switchboard, desk) = Switchboard::new(parts, tally);
        // Workers never see a door without a table.
        switchboard.publish();
        let (log, writer) = access.unzip();
        let (ended, mut endings) = mpsc::unbounded_channel();
        let shared = Shared { table, challenges, meters, limiter };
        let threads = start_workers(listeners, mailboxes, &shared, &log, &ended)?;
        drop((log, ended));
        let mut operating = tokio::task::spawn_local(switchboard.run());

        let ending = CancellationToken::new();
        let api = Api { desk: desk.clone(), events, page, control: rules, followers: None, ending: ending.clone() };
        let readiness = Readiness::default();
        let control = serve_control(control_socket.listener()?, api.clone(), ending.clone());
        let admin = serve_admin(admin_socket, api, readiness.clone(), ending.clone())?;
        readiness.set(true);
        tracing::info!(version = VERSION, workers, listen = ?about.listen, admin = about.admin, "the door is open");
        opened(&about);

        let why = wait_for_the_end(&mut signals, &mut endings, &mut operating, &desk).await;
        readiness.set(false);
        let within = **shutdown.load();
        tracing::info!(why = %why, deadline = ?within, "closing the door");
        mail.stop(within).await;
        let closed = close(&mut signals, &mut endings, threads.len(), within).await;
        ending.cancel();
        drop(desk);
        // Whoever asks is answered, what was decided is saved; neither is waited for without end.
        let mut tasks = vec![control, admin];
        if !matches!(why, Why::Control(_)) {
            tasks.push(operating);
        }
        for task in tasks {
            let ender = task.abort_handle();
            if tokio::time::timeout(FAREWELL, task).await.is_err() {
                ender.abort();
            }
        }
        control_socket.remove();
        // Workers that did not end still hold it; it would be waited for in vain.
        if closed && let Some(writer) = writer {
            finish_access_log(writer);
        }
        tracing::info!("closed");
        match (why, closed) {
            (Why::Signal(_), true) => Ok(ExitCode::SUCCESS),
            (Why::Signal(_), false) => Ok(ExitCode::FAILURE),
            (why @ (Why::Worker(_) | Why::Control(_)), _) => Err(anyhow!("{why}")),
        }
    })
}

// --- what the host may refuse

/// Whether the files that a configuration, read here, names could be used.
///
/// # Errors
/// One error that says which file cannot be, and what to do.
pub fn check(config: &Config, path: Option<&Path>) -> anyhow::Result<()> {
    error_pages(config, path)?;
    let pairs = unless_unusable(Pairs::load(&config.certificate))?;
    handshakes(config, pairs.certificates(), &Arc::default())?;
    acme_ca(config, path)
}

/// A door that cannot use it opens all the same, and fetches no certificate.
fn acme_ca(config: &Config, path: Option<&Path>) -> anyhow::Result<()> {
    let Some(ca) = &config.acme.ca else { return Ok(()) };
    match (certificates::authorities(ca), path) {
        (Err(fault), Some(path)) => Err(check::fault(path, &["acme", "ca"], fault.to_string(), fault.hint()).into()),
        (loaded, _) => unless_unusable(loaded).map(drop),
    }
}

fn error_pages(config: &Config, path: Option<&Path>) -> anyhow::Result<PageFiles> {
    PageFiles::load(&config.error_pages).map_err(|fault| match path {
        Some(path) => anyhow::Error::new(fault.in_config(path)),
        None => {
            let hint = Hint(fault.hint().to_owned());
            anyhow::Error::new(fault).context(hint)
        }
    })
}

/// The rules of TLS of each listener that has it, in the order of the configuration.
fn handshakes(
    config: &Config,
    certificates: &Arc<Certificates>,
    challenges: &Arc<Challenges>,
) -> anyhow::Result<Vec<Option<Arc<ServerConfig>>>> {
    let rules = |listen: &Listen| {
        if !listen.tls {
            return Ok(None);
        }
        let authorities = listen.client_ca.as_deref().map(certificates::authorities).transpose();
        let rules = tls::server_config(certificates, challenges, unless_unusable(authorities)?);
        rules.map(Some).with_context(|| format!("cannot listen on {}", listen.address))
    };
    config.listen.iter().map(rules).collect()
}

fn unless_unusable<T>(loaded: Result<T, Unusable>) -> anyhow::Result<T> {
    loaded.map_err(|fault| {
        let hint = Hint(fault.hint().to_owned());
        anyhow::Error::new(fault).context(hint)
    })
}

fn bind_listeners(
    config: &Config,
    workers: usize,
    tls: Vec<Option<Arc<ServerConfig>>>,
    named: fn(Place<'_>) -> &'static str,
) -> anyhow::Result<Vec<Listener>> {
    let bind = |(listen, tls): (&Listen, _)| {
        let address = listen.address;
        let proxy_header = listen.proxy_protocol == ProxyProtocol::Required;
        let manner = Manner { tls, h2c: listen.h2c, proxy_header, redirect_https: None };
        listen::bind(address, workers, manner)
            .map_err(|error| refused(error, "listen on", address, named(Place::Listener(listen))))
    };
    let mut listeners: Vec<Listener> = config.listen.iter().zip(tls).map(bind).collect::<Result<_, _>>()?;
    // Only now is every port known.
    let mut open_to_all =
        listeners.iter().zip(&config.listen).filter(|(_, listen)| listen.tls && listen.client_ca.is_none());
    let https = open_to_all.next().map(|(listener, _)| listener.address.port());
    for (listener, listen) in listeners.iter_mut().zip(&config.listen) {
        listener.manner.redirect_https = https.filter(|_| listen.redirect_https);
    }
    Ok(listeners)
}

fn bind_admin(config: &Config, named: fn(Place<'_>) -> &'static str) -> anyhow::Result<std::net::TcpListener> {
    let address = config.admin.address;
    let listener = std::net::TcpListener::bind(address)
        .map_err(|error| refused(error, "show metrics on", address, named(Place::Admin)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What the kernel said about an address, and what to do.
fn refused(error: io::Error, doing: &str, address: std::net::SocketAddr, key: &str) -> anyhow::Error {
    let port = address.port();
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("find the program that has the port with `ss -ltnp 'sport = :{port}'`, or change {key}")
        }
        io::ErrorKind::PermissionDenied => format!(
            "ports below 1024 need a permission, by `setcap cap_net_bind_service=+ep $(command -v bgproxy)`, \
             `AmbientCapabilities=CAP_NET_BIND_SERVICE` in the unit; or choose another port in {key}"
        ),
        io::ErrorKind::AddrNotAvailable => format!("`ip address` shows the addresses of this host; see {key}"),
        _ => format!("see {key}"),
    };
    anyhow::Error::new(error).context(format!("cannot {doing} {address}")).context(Hint(hint))
}

// --- what runs

/// What all workers have together.
struct Shared {
    table: Arc<ArcSwap<Table>>,
    challenges: Arc<Challenges>,
    meters: Arc<Meters>,
    limiter: Arc<Limiter>,
}

fn start_workers(
    listeners: Vec<Listener>,
    mailboxes: Vec<mpsc::Receiver<crate::mail::Letter>>,
    shared: &Shared,
    log: &Option<AccessLog>,
    ended: &mpsc::UnboundedSender<Result<(), String>>,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let workers = mailboxes.len();
    let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for listener in listeners {
        for (own, socket) in sockets.iter_mut().zip(listener.sockets) {
            own.push((socket, listener.manner.clone()));
        }
    }
    let Shared { table, challenges, meters, limiter } = shared;
    let mut threads = Vec::with_capacity(workers);
    for (id, (sockets, mailbox)) in sockets.into_iter().zip(mailboxes).enumerate() {
        let access = log.as_ref().map(AccessLog::lines);
        let (table, challenges, limiter) = (table.clone(), challenges.clone(), limiter.clone());
        let (meters, ended) = (meters.clone(), ended.clone());
        let parts = worker::Parts { id, workers, sockets, table, challenges, mailbox, meters, limiter, access };
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker::run(parts)));
            let result = match result {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_panic) => Err("it panicked; the log says where".to_owned()),
            };
            // Nobody listens any more when the process is ending anyway.
            let _ending = ended.send(result);
        });
        threads.push(thread.context("cannot start a worker thread")?);
    }
    Ok(threads)
}

fn serve_control(listener: UnixListener, api: Api, ending: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(http::serve(Bounded::new(listener), api::router(api), |stream| Some(Caller::of(stream)), ending))
}

fn serve_admin(
    listener: std::net::TcpListener,
    api: Api,
    readiness: Readiness,
    ending: CancellationToken,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::from_std(listener)?;
    Ok(tokio::spawn(http::serve(Bounded::new(listener), admin::router(api, readiness), |_| None, ending)))
}

// --- its end

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

/// Why the door closes.
#[derive(Debug)]
enum Why {
    Signal(&'static str),
    Worker(String),
    Control(String),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Signal(name) => f.write_str(name),
            Why::Worker(fault) => write!(f, "a worker ended: {fault}"),
            Why::Control(fault) => write!(f, "the control task ended: {fault}"),
        }
    }
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

type Endings = mpsc::UnboundedReceiver<Result<(), String>>;

/// A door that nobody can switch any more is closed, so that the service manager opens it again.
async fn wait_for_the_end(
    signals: &mut Signals,
    endings: &mut Endings,
    operating: &mut tokio::task::JoinHandle<()>,
    desk: &Desk,
) -> Why {
    loop {
        tokio::select! {
            _ = signals.term.recv() => return Why::Signal("SIGTERM"),
            _ = signals.int.recv() => return Why::Signal("SIGINT"),
            _ = signals.hup.recv() => {
                tracing::info!("SIGHUP: reading the configuration again");
                let desk = desk.clone();
                // Beside the loop: a signal that ends the daemon is heard meanwhile.
                tokio::task::spawn_local(async move {
                    if let Err(gone) = desk.ask(Ask::Reload).await {
                        tracing::warn!("cannot reload: {gone}");
                    }
                });
            }
            ended = &mut *operating => {
                let fault = ended.err().map_or_else(|| "nobody told it to".to_owned(), |error| error.to_string());
                return Why::Control(fault);
            }
            Some(ending) = endings.recv() => {
                return Why::Worker(ending.err().unwrap_or_else(|| "nobody told it to".to_owned()));
            }
        }
    }
}

/// Waits for the workers; false when a second signal or the deadline came first.
async fn close(signals: &mut Signals, endings: &mut Endings, workers: usize, within: Duration) -> bool {
    let all = async {
        for _ in 0..workers {
            if endings.recv().await.is_none() {
                break;
            }
        }
    };
    tokio::select! {
        () = all => true,
        name = signals.end() => {
            tracing::warn!("{name} again: ending at once");
            false
        }
        () = tokio::time::sleep(within + GRACE) => {
            tracing::error!("workers did not end in time");
            false
        }
    }
}

fn finish_access_log(writer: AccessWriterHandle) {
    if !writer.join(GRACE) {
        tracing::warn!("the access log's destination is stuck, its last lines are lost");
    }
}

/// A panic ends one request or task, not the process; it is counted and logged like everything else.
fn count_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        tracing::error!("panic: {panic}; please report it");
    }));
}
