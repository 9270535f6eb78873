//! Who fetches certificates from an authority, and renews them in time? The keeper: one task that asks for one
//! certificate after the other, and tells the switchboard what came of it.
//!
//! `wanted` is what the configuration asks for, `charge` what is known about one host; `order` is one certificate's
//! way, over `https`; `renewal` says when it is time, by the clock on the wall, which is looked at again and again
//! because it may be set; `kept` is what is on disk, `fault` what went wrong, and `caught` a mistake of ours.
//!
//! A certificate that cannot be renewed stays in use, and is asked for again, more seldom each time, over restarts too,
//! if the authority was asked at all: what is wrong on our own side somebody may have mended. A reload that somebody
//! asks for, or that changes what is wanted, tries at once, unless it was the authority that put us off. A try before
//! its time makes no pause longer.

mod caught;
mod charge;
mod fault;
mod https;
mod kept;
mod order;
mod renewal;
mod wanted;

use std::future::{Future, pending};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::wire::{AcmeStatus, What};
use bgproxy_conf::{Acme, Host};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::certificates::{now, written};
use super::failpoint;
use super::operate::News;
use crate::certificates::Certificate;
use crate::challenges::Challenges;
use caught::caught;
use charge::{Charge, Tries};
use fault::{Failed, Fault};
use kept::{Fetched, Kept, Pem, Setback, Setbacks};
use order::{Authority, Wish, on_disk};
pub use wanted::Wanted;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// How long one certificate may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// An authority that was not reached when it was asked for its suggestions is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// After a mistake of ours: what fails at once may fail again and again.
const PAUSE: Duration = Duration::from_secs(60);

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
    failure: Option<Failure>,
}

/// The keeper failed, and has not been once around since then.
#[derive(Debug)]
struct Failure {
    /// So often.
    times: u32,
    /// When it goes on.
    next: String,
}

/// What a try that did not fail came to.
enum Came {
    /// There is a certificate, in use and on disk.
    Through,
    /// A reload came between.
    Unwanted,
}

impl Keeper {
    /// A keeper of what is wanted, with what was fetched before into this state directory; and where it is told when
    /// something else is wanted.
    pub fn new(wanted: Wanted, state_dir: &Path, challenges: Arc<Challenges>) -> (Keeper, watch::Sender<Wanted>) {
        let (tell, changes) = watch::channel(wanted.clone());
        let kept = Kept::new(state_dir);
        let keeper = Keeper { wanted, changes, kept, challenges, charges: Vec::new(), failure: None };
        (keeper.begun(), tell)
    }

    /// The certificates that there are, each with its path.
    pub fn certificates(&self) -> Vec<(PathBuf, Certificate)> {
        let fetched = |charge: &Charge| Some((self.path(charge), charge.fetched.as_ref()?.certificate.clone()));
        self.charges.iter().filter_map(fetched).collect()
    }

    /// Keeps them until nobody wants any more. A mistake of ours costs a pause, and nothing of what is known.
    pub(super) async fn run(mut self, news: mpsc::UnboundedSender<News>) {
        while caught(self.look_after(&news)).await.is_err() {
            self.fail(&news);
            self.rest().await;
        }
    }

    /// Tells that nothing is done until the pause is over.
    fn fail(&mut self, news: &mpsc::UnboundedSender<News>) {
        let fault = Failed::from(Fault::Panic).told();
        tracing::error!("no certificate is renewed now: {fault}");
        let times = self.failure.take().map_or(0, |failure| failure.times).saturating_add(1);
        self.failure = Some(Failure { times, next: written(now() + PAUSE.as_secs()) });
        for charge in &self.charges {
            let cert = self.path(charge).display().to_string();
            let _ended = news.send(News::Told(What::Certificate { cert, fault: Some(fault.clone()) }));
        }
        self.report(news, None);
    }

    /// The pause, unless somebody asks for a reload.
    async fn rest(&mut self) {
        let _over = timeout(PAUSE, self.changes.changed()).await;
    }

    async fn look_after(&mut self, news: &mpsc::UnboundedSender<News>) {
        // A reload during a pause has nobody else who sees it.
        self.take_over();
        self.report(news, None);
        loop {
            failpoint::reach("acme_keeper");
            for at in 0..self.charges.len() {
                if self.ask_for_suggestion(at).await {
                    self.report(news, None);
                }
                self.renew(at, news).await;
                // What is wanted now may be another list.
                if self.changes.has_changed().unwrap_or(true) {
                    break;
                }
            }
            if self.failure.take().is_some() {
                self.report(news, None);
            }
            tokio::select! {
                () = sleep(self.until_next()) => {}
                changed = self.changes.changed() => match changed {
                    Ok(()) => {
                        self.take_over();
                        self.report(news, None);
                    }
                    Err(_gone) => return,
                },
            }
        }
    }

    /// Takes up where the process before us ended.
    fn begun(mut self) -> Keeper {
        if self.wanted.config.hosts.is_empty() {
            return self;
        }
        if let Err(fault) = self.kept.open() {
            let fault = Fault::State(fault);
            tracing::error!(hint = fault.hint(), "no certificate can be fetched: {}", fault.told());
        }
        let mut setbacks = self.kept.setbacks();
        self.take_over();
        for charge in &mut self.charges {
            let setback = setbacks.remove(charge.host.name());
            let pause = charge.resume(setback.filter(|setback| setback.directory == self.wanted.config.directory));
            if let Some((pause, Setback { fault, .. })) = pause.zip(charge.setback.as_ref()) {
                let next = until(pause);
                tracing::warn!(host = %charge.host, next, "no new certificate before the restart: {fault}");
            }
        }
        self
    }

    /// Makes what is wanted now one's own.
    fn take_over(&mut self) {
        let wanted = self.changes.borrow_and_update().clone();
        let hurries = wanted.hurries(&self.wanted);
        let charge = |host: &Host| {
            let held = self.charges.iter().find(|charge| charge.host == *host).cloned();
            let mut charge = held.unwrap_or_else(|| Charge::new(host.clone(), self.kept.certificate(host.name())));
            if hurries {
                charge.hurry(&wanted.config.directory);
            }
            charge
        };
        self.charges = wanted.config.hosts.iter().map(charge).collect();
        self.wanted = wanted;
    }

    fn path(&self, charge: &Charge) -> PathBuf {
        self.kept.path(charge.host.name())
    }

    /// Until something is to be done; never long, because the clock may be set.
    fn until_next(&self) -> Duration {
        self.charges.iter().map(Charge::until_next).min().unwrap_or(LOOK).clamp(Duration::from_secs(1), LOOK)
    }

    /// Asks the authority when it wants the certificate to be renewed, if it is time to ask; true when that is news.
    async fn ask_for_suggestion(&mut self, at: usize) -> bool {
        let charge = &mut self.charges[at];
        let Some(certificate) = charge.fetched_from(&self.wanted.config.directory) else {
            charge.ask_at = Instant::now() + LOOK;
            return false;
        };
        if Instant::now() < charge.ask_at {
            return false;
        }
        let (config, kept, certificate) = (&self.wanted.config, &self.kept, certificate.clone());
        let suggestion = in_time(async {
            let authority = Authority::meet_again(config, kept, &Arc::default()).await?;
            let Some(authority) = authority else { return Ok(None) };
            authority.suggestion(&certificate).await.map(Some)
        });
        let host = charge.host.name();
        match caught(suggestion).await.flatten() {
            Ok(Some((window, ask_again))) => {
                charge.ask_at = Instant::now() + renewal::asking(ask_again);
                if let Some(renew_at) = charge.suggested(window) {
                    let renew_at = written(renew_at);
                    tracing::info!(host = %charge.host, renew_at, "the authority suggests when to renew");
                    return true;
                }
            }
            // Nobody knows us there: the next order introduces us.
            Ok(None) => charge.ask_at = Instant::now() + renewal::asking(None),
            Err(fault) => {
                tracing::debug!(host, "the authority suggests nothing: {}", fault.told());
                // Whoever does not reach it for one host does not for another.
                let again = Instant::now() + ASK_AGAIN.mul_f64(0.8 + 0.4 * fastrand::f64());
                self.charges.iter_mut().for_each(|charge| charge.ask_at = charge.ask_at.max(again));
            }
        }
        false
    }

    /// Sees to it that there is a certificate, if it is time to, and tells what came of it.
    async fn renew(&mut self, at: usize, news: &mpsc::UnboundedSender<News>) {
        let directory = self.wanted.config.directory.clone();
        if !self.charges[at].is_due(&directory) {
            return;
        }
        // A new certificate forgets them.
        let before = self.charges[at].tries();
        let tried = caught(self.try_once(at, before, news)).await.map_err(Failed::from).flatten();
        let charge = &mut self.charges[at];
        let mut told = None;
        match tried {
            Ok(Came::Through) => charge.settle(),
            Ok(Came::Unwanted) => tracing::info!(host = %charge.host, "this certificate is not asked for any more"),
            Err(failed) => {
                let next = until(charge.set_back(charge.setback(&failed, before, &directory)));
                let (host, hint, fault) = (&charge.host, failed.hint(), failed.fault.told());
                match (&charge.fetched, failed.fault.is_afterwards()) {
                    (_, true) => tracing::error!(%host, next, hint, "{fault}"),
                    (Some(_), _) => {
                        tracing::warn!(%host, next, hint, "no new certificate, the old one stays in use: {fault}")
                    }
                    (None, _) => tracing::error!(%host, next, hint, "no certificate: {fault}"),
                }
                if !failed.fault.is_afterwards() {
                    let fault = charge.setback.as_ref().map(|setback| setback.fault.clone());
                    told = Some(Tried { path: self.path(&self.charges[at]), fault });
                }
            }
        }
        if let Err(fault) = self.remember(None).await {
            tracing::warn!(hint = fault.hint(), "a restart would not know what failed last: {}", fault.told());
        }
        self.report(news, told);
    }

    async fn try_once(&mut self, at: usize, before: Tries, news: &mpsc::UnboundedSender<News>) -> Result<Came, Failed> {
        let charge = &self.charges[at];
        if charge.unkept.is_some() {
            // What was given is not asked for a second time: authorities count.
            self.keep(at).await?;
            return Ok(Came::Through);
        }
        let host = charge.host.clone();
        let directory = &self.wanted.config.directory;
        // Whoever cannot write this could not keep the certificate either.
        let begun = charge.setback(&Failed::from(Fault::BrokenOff), before, directory);
        self.remember(Some((&host, begun))).await.map_err(Failed::before_asking)?;
        let wish = Wish {
            host: host.name().to_owned(),
            challenge: self.wanted.challenge(before.failures),
            replaces: charge.fetched_from(directory).cloned(),
        };
        tracing::info!(%host, challenge = wish.called(), "asking the authority for a certificate");
        let (fetched, pem) = tokio::select! {
            result = in_time(fetch(&self.wanted.config, &wish, &self.challenges, &self.kept)) => result?,
            () = self.other_wish(&host) => return Ok(Came::Unwanted),
        };
        let not_after = written(fetched.certificate.not_after);
        self.charges[at].renewed(fetched, pem);
        failpoint::reach("acme_before_keep");
        let kept = self.keep(at).await;
        failpoint::reach("acme_after_keep");
        tracing::info!(%host, not_after, "the authority gave a certificate, which is in use now");
        self.report(news, Some(Tried { path: self.path(&self.charges[at]), fault: None }));
        kept?;
        self.ask_for_suggestion(at).await;
        // To ask at once would be to ask for ever.
        if self.charges[at].is_stale() { Err(Fault::Stale.into()) } else { Ok(Came::Through) }
    }

    /// Until a reload wants this host's certificate no more, or in another way.
    async fn other_wish(&self, host: &Host) {
        let mut changes = self.changes.clone();
        if changes.wait_for(|new| !self.wanted.agrees(new, host)).await.is_err() {
            // Nobody is there to want anything; who ended will end us.
            pending().await
        }
    }

    /// Puts a certificate on disk that is not there yet.
    async fn keep(&mut self, at: usize) -> Result<(), Fault> {
        let charge = &mut self.charges[at];
        let Some(pem) = charge.unkept.clone() else { return Ok(()) };
        let (kept, host) = (self.kept.clone(), charge.host.name().to_owned());
        let kept = on_disk(move || Ok(kept.keep(&host, &pem)?)).await;
        kept.map_err(|fault| Fault::Unkept(Box::new(fault)))?;
        charge.unkept = None;
        Ok(())
    }

    /// Puts on disk what failed last, and that which fails if we do not live to see its end.
    async fn remember(&self, begun: Option<(&Host, Setback)>) -> Result<(), Fault> {
        let setback = |charge: &Charge| Some((charge.host.name().to_owned(), charge.setback.clone()?));
        let mut setbacks: Setbacks = self.charges.iter().filter_map(setback).collect();
        setbacks.extend(begun.map(|(host, setback)| (host.name().to_owned(), setback)));
        let kept = self.kept.clone();
        on_disk(move || Ok(kept.keep_setbacks(&setbacks)?)).await
    }

    fn report(&self, news: &mpsc::UnboundedSender<News>, tried: Option<Tried>) {
        let mut status: Vec<_> = self.charges.iter().map(|charge| charge.status(self.path(charge))).collect();
        if let Some(Failure { times, next }) = &self.failure {
            for host in &mut status {
                host.failures = host.failures.saturating_add(*times);
                (host.next, host.fault) = (Some(next.clone()), Some(Failed::from(Fault::Panic).told()));
            }
        }
        let _ended = news.send(News::Kept(Report { certificates: self.certificates(), status, tried }));
    }
}

/// Lets it run, but not for ever.
async fn in_time<T, E: From<Fault>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_late| Err(Fault::Late(PATIENCE.as_secs()).into()))
}

async fn fetch(
    config: &Acme,
    wish: &Wish,
    challenges: &Arc<Challenges>,
    kept: &Kept,
) -> Result<(Fetched, Pem), Failed> {
    let notes = Arc::default();
    let result = async {
        let authority = Authority::meet(config, kept, &notes).await?;
        match authority.fetch(wish, challenges).await {
            Err(fault) if fault.is_of_account() => {
                let told = fault.told();
                tracing::warn!(directory = config.directory, "the authority does not know us any more: {told}");
                let authority = Authority::introduce(config, kept, &notes).await?;
                authority.fetch(wish, challenges).await
            }
            result => result,
        }
    };
    result.await.map_err(|fault| Failed { fault, asked: notes.asked(), put_off: notes.put_off() })
}

/// A pause as people read it.
fn until(pause: Duration) -> String {
    if pause.is_zero() {
        return "now".to_owned();
    }
    humantime::format_duration(Duration::from_secs(pause.as_secs())).to_string()
}

#[cfg(test)]
mod tests;
