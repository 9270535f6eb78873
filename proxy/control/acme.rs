//! Who fetches certificates from an authority, and renews them in time? The keeper: one task that asks for one
//! certificate after the other, and tells the switchboard what came of it.
//!
//! `order` is one certificate's way, over `https`; `renewal` says when it is time, by the clock on the wall, which
//! is looked at again and again because it may be set; `kept` is what is on disk, and `fault` what went wrong. A
//! certificate that cannot be renewed stays in use, and a host without one has no other use of this task than to ask
//! again, more seldom each time. A reload asks at once, unless it was the authority that put us off.

mod fault;
mod https;
mod kept;
mod order;
mod renewal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::wire::AcmeStatus;
use bgproxy_conf::{Acme, Challenge, Config, Host};
use instant_acme::ChallengeType;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::certificates::{now, written};
use super::operate::News;
use crate::certificates::Certificate;
use crate::challenges::Challenges;
use fault::Fault;
use kept::{Fetched, Kept};
use order::{Authority, Wish};
use renewal::Window;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// How long one certificate may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// An authority that was not reached when it was asked for its suggestions is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// What is wanted; another one after each reload.
#[derive(Debug, Clone)]
pub struct Wanted {
    config: Acme,
    /// Where an authority can look.
    by_request: bool,
    by_handshake: bool,
}

impl Wanted {
    /// What this configuration wants.
    pub fn of(config: &Config) -> Wanted {
        let can = |challenge| config.listen.iter().any(|listen| listen.answers(challenge));
        Wanted {
            config: config.acme.clone(),
            by_request: can(Challenge::Http01),
            by_handshake: can(Challenge::TlsAlpn01),
        }
    }

    /// Where both ways are open, by turns.
    fn challenge(&self, failures: u32) -> ChallengeType {
        let by_handshake = match self.config.challenge {
            Challenge::Http01 => false,
            Challenge::TlsAlpn01 => true,
            Challenge::Auto => self.by_handshake && (!self.by_request || failures % 2 == 1),
        };
        if by_handshake { ChallengeType::TlsAlpn01 } else { ChallengeType::Http01 }
    }
}

/// What the switchboard is told: all that there is, each time.
#[derive(Debug)]
pub struct Report {
    /// The certificates to be in use, each with its path.
    pub certificates: Vec<(PathBuf, Certificate)>,
    /// Every host.
    pub status: Vec<AcmeStatus>,
    /// What came of a try, if this is about one.
    pub tried: Option<Tried>,
}

/// What came of a try.
#[derive(Debug)]
pub struct Tried {
    /// The certificate's path.
    pub path: PathBuf,
    /// None when there is a new one.
    pub fault: Option<String>,
}

/// The task that keeps certificates.
#[derive(Debug)]
pub struct Keeper {
    wanted: Wanted,
    changes: watch::Receiver<Wanted>,
    kept: Kept,
    challenges: Arc<Challenges>,
    charges: Vec<Charge>,
}

/// A host, and the certificate that is kept for it.
#[derive(Debug)]
struct Charge {
    host: Host,
    fetched: Option<Fetched>,
    /// When it is to be renewed, in seconds since 1970.
    renew_at: u64,
    /// What the authority suggested last.
    window: Option<Window>,
    /// When the authority is asked for its suggestion.
    ask_at: Instant,
    /// In a row.
    failures: u32,
    /// After a failure: nothing is tried before this.
    try_at: Option<Instant>,
    /// Whether it was the authority that said so.
    put_off: bool,
    fault: Option<String>,
}

/// Why a try failed, and how long the authority wants to be left alone.
struct Failed {
    fault: Fault,
    put_off: Option<Duration>,
}

impl Keeper {
    /// A keeper of what is wanted, with what was fetched before into this state directory; and where it is told when
    /// something else is wanted.
    pub fn new(wanted: Wanted, state_dir: &Path, challenges: Arc<Challenges>) -> (Keeper, watch::Sender<Wanted>) {
        let (tell, changes) = watch::channel(wanted.clone());
        let mut keeper = Keeper { wanted, changes, kept: Kept::new(state_dir), challenges, charges: Vec::new() };
        keeper.take_over();
        (keeper, tell)
    }

    /// The certificates that there are, each with its path.
    pub fn certificates(&self) -> Vec<(PathBuf, Certificate)> {
        let fetched = |charge: &Charge| Some((self.path(charge), charge.fetched.as_ref()?.certificate.clone()));
        self.charges.iter().filter_map(fetched).collect()
    }

    /// Keeps them until nobody wants any more.
    pub(super) async fn run(mut self, news: mpsc::UnboundedSender<News>) {
        self.report(&news, None);
        loop {
            for at in 0..self.charges.len() {
                if self.ask_for_suggestion(at).await {
                    self.report(&news, None);
                }
                self.renew(at, &news).await;
                // What is wanted now may be another list.
                if self.changes.has_changed().unwrap_or(true) {
                    break;
                }
            }
            tokio::select! {
                () = sleep(self.until_next()) => {}
                changed = self.changes.changed() => match changed {
                    Ok(()) => {
                        self.take_over();
                        self.report(&news, None);
                    }
                    Err(_gone) => return,
                },
            }
        }
    }

    /// Makes what is wanted now one's own.
    fn take_over(&mut self) {
        let wanted = self.changes.borrow_and_update().clone();
        let moves = wanted.config.directory != self.wanted.config.directory;
        self.wanted = wanted;
        let mut before = std::mem::take(&mut self.charges);
        for host in &self.wanted.config.hosts {
            let held = before.iter().position(|charge| charge.host == *host).map(|at| before.swap_remove(at));
            let mut charge = held.unwrap_or_else(|| Charge::new(host.clone(), self.kept.certificate(host.name())));
            // It was another authority that put us off, or none.
            if moves || !charge.put_off {
                charge.try_at = None;
            }
            self.charges.push(charge);
        }
    }

    fn path(&self, charge: &Charge) -> PathBuf {
        self.kept.path(charge.host.name())
    }

    /// Until something is to be done; never long, because the clock may be set.
    fn until_next(&self) -> Duration {
        let (seconds, instant) = (now(), Instant::now());
        let until = |charge: &Charge| {
            let until_ask = charge.ask_at.saturating_duration_since(instant);
            let until_try = charge.try_at.map(|at| at.saturating_duration_since(instant));
            let until_renewal = Duration::from_secs(charge.renew_at.saturating_sub(seconds));
            until_try.unwrap_or(until_renewal).min(until_ask)
        };
        self.charges.iter().map(until).min().unwrap_or(LOOK).clamp(Duration::from_secs(1), LOOK)
    }

    /// Asks the authority when it wants the certificate to be renewed, if it is time to ask; true when that is news.
    async fn ask_for_suggestion(&mut self, at: usize) -> bool {
        let config = &self.wanted.config;
        let charge = &mut self.charges[at];
        let Some(fetched) = charge.fetched.as_ref().filter(|fetched| fetched.directory == config.directory) else {
            charge.ask_at = Instant::now() + LOOK;
            return false;
        };
        if Instant::now() < charge.ask_at {
            return false;
        }
        let suggestion = async {
            let authority = Authority::meet_again(config, &self.kept, &Arc::default()).await?;
            let Some(authority) = authority else { return Ok(None) };
            authority.suggestion(&fetched.certificate).await.map(Some)
        };
        let (host, suggestion) = (charge.host.name(), suggestion.await);
        match suggestion {
            Ok(Some((window, ask_again))) => {
                charge.ask_at = Instant::now() + renewal::asking(ask_again);
                // Picked once, or the dice would be rolled until they say now.
                if charge.window != Some(window) {
                    charge.window = Some(window);
                    let Certificate { not_before, not_after, .. } = fetched.certificate;
                    charge.renew_at = window.pick(fastrand::f64()).min(renewal::latest(not_before, not_after));
                    let renew_at = written(charge.renew_at);
                    tracing::info!(host, renew_at, "the authority suggests when to renew");
                    return true;
                }
            }
            // Nobody knows us there: the next order introduces us.
            Ok(None) => charge.ask_at = Instant::now() + renewal::asking(None),
            Err(fault) => {
                tracing::debug!(host, "the authority suggests nothing: {fault}");
                // Whoever does not reach it for one host does not for another.
                let again = Instant::now() + ASK_AGAIN.mul_f64(0.8 + 0.4 * fastrand::f64());
                self.charges.iter_mut().for_each(|charge| charge.ask_at = charge.ask_at.max(again));
            }
        }
        false
    }

    /// Fetches a certificate if it is time to.
    async fn renew(&mut self, at: usize, news: &mpsc::UnboundedSender<News>) {
        let charge = &self.charges[at];
        if !charge.is_due(&self.wanted.config) {
            return;
        }
        let replaces = charge.fetched.as_ref().filter(|fetched| fetched.directory == self.wanted.config.directory);
        let wish = Wish {
            host: charge.host.name().to_owned(),
            challenge: self.wanted.challenge(charge.failures),
            replaces: replaces.map(|fetched| fetched.certificate.clone()),
        };
        let path = self.path(charge);
        tracing::info!(host = wish.host, challenge = wish.called(), "asking the authority for a certificate");
        let result = self.try_once(wish).await;
        let failed = match result {
            Ok(fetched) => {
                let host = self.charges[at].host.clone();
                let not_after = written(fetched.certificate.not_after);
                tracing::info!(%host, not_after, "the authority gave a certificate, which is in use now");
                let failures = self.charges[at].failures;
                self.charges[at] = Charge { failures, ..Charge::new(host, Some(fetched)) };
                self.report(news, Some(Tried { path, fault: None }));
                self.ask_for_suggestion(at).await;
                if !self.charges[at].is_due(&self.wanted.config) {
                    self.charges[at].failures = 0;
                    self.report(news, None);
                    return;
                }
                // To ask at once would be to ask for ever.
                Failed { fault: Fault::Stale, put_off: None }
            }
            Err(failed) => failed,
        };
        let charge = &mut self.charges[at];
        let (in_use, next) = (charge.fetched.is_some(), charge.fail(&failed));
        let (host, fault, hint) = (charge.host.name(), failed.fault.to_string(), failed.fault.hint());
        let next = humantime::format_duration(Duration::from_secs(next.as_secs())).to_string();
        if in_use {
            tracing::warn!(host, next, hint, "no new certificate, the old one stays in use: {fault}");
        } else {
            tracing::error!(host, next, hint, "no certificate: {fault}");
        }
        let fault = self.charges[at].fault.clone();
        self.report(news, Some(Tried { path: self.path(&self.charges[at]), fault }));
    }

    /// One try, on a task of its own: a mistake of ours in it is not the end of the keeper.
    async fn try_once(&self, wish: Wish) -> Result<Fetched, Failed> {
        let (config, kept, challenges) = (self.wanted.config.clone(), self.kept.clone(), self.challenges.clone());
        let mut alone = JoinSet::new();
        alone.spawn_local(timeout(PATIENCE, async move { attempt(&config, &wish, &challenges, &kept).await }));
        let failed = |fault| Err(Failed { fault, put_off: None });
        match alone.join_next().await {
            Some(Ok(Ok(result))) => result,
            Some(Err(panicked)) => failed(Fault::Panic(panicked)),
            Some(Ok(Err(_))) | None => failed(Fault::Late(PATIENCE.as_secs())),
        }
    }

    fn report(&self, news: &mpsc::UnboundedSender<News>, tried: Option<Tried>) {
        let status = |charge: &Charge| charge.status(self.path(charge));
        let report =
            Report { certificates: self.certificates(), status: self.charges.iter().map(status).collect(), tried };
        let _ended = news.send(News::Kept(report));
    }
}

async fn attempt(config: &Acme, wish: &Wish, challenges: &Arc<Challenges>, kept: &Kept) -> Result<Fetched, Failed> {
    let put_off = Arc::default();
    let result = async {
        let authority = Authority::meet(config, kept, &put_off).await?;
        match authority.fetch(wish, challenges, kept).await {
            Err(fault) if fault.is_of_account() => {
                tracing::warn!(directory = config.directory, "the authority does not know us any more: {fault}");
                let authority = Authority::introduce(config, kept, &put_off).await?;
                authority.fetch(wish, challenges, kept).await
            }
            result => result,
        }
    };
    result.await.map_err(|fault| Failed { put_off: put_off.take(), fault })
}

impl Charge {
    fn new(host: Host, fetched: Option<Fetched>) -> Charge {
        let renew_at = fetched.as_ref().map_or(0, |fetched| {
            renewal::two_thirds(fetched.certificate.not_before, fetched.certificate.not_after, fastrand::f64())
        });
        let ask_at = Instant::now();
        Charge { host, fetched, renew_at, window: None, ask_at, failures: 0, try_at: None, put_off: false, fault: None }
    }

    fn is_due(&self, config: &Acme) -> bool {
        if self.try_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        match &self.fetched {
            None => true,
            Some(fetched) => fetched.directory != config.directory || self.renew_at <= now(),
        }
    }

    /// How long until the next try.
    fn fail(&mut self, failed: &Failed) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = renewal::pause(self.failures, failed.put_off, fastrand::f64());
        self.try_at = Some(Instant::now() + pause);
        self.put_off = failed.put_off.is_some();
        self.fault = Some(format!("{}; {}", failed.fault, failed.fault.hint()));
        pause
    }

    fn status(&self, path: PathBuf) -> AcmeStatus {
        let until_try = self.try_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs());
        let next = match (until_try, &self.fetched) {
            (Some(seconds), _) => Some(now() + seconds),
            (None, Some(_)) => Some(self.renew_at),
            (None, None) => None,
        };
        AcmeStatus {
            host: self.host.clone(),
            cert: path.display().to_string(),
            in_use: self.fetched.is_some(),
            next: next.map(written),
            failures: self.failures,
            fault: self.fault.clone(),
        }
    }
}
