//! What is known about one host? Its certificate, when it is to be renewed, and what came of the last try that failed.

use std::path::PathBuf;
use std::time::Duration;

use bgproxy_conf::Host;
use bgproxy_conf::wire::AcmeStatus;
use tokio::time::Instant;

use super::fault::Failed;
use super::kept::{Fetched, Pem, Setback};
use super::renewal::{self, Window};
use crate::certificates::Certificate;
use crate::control::certificates::{now, written};

/// A process that has lived so long, up to twice, was not started in vain.
const SETTLED: Duration = Duration::from_secs(60);

/// A host, and the certificate that is kept for it.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    /// The host.
    pub(super) host: Host,
    /// Its certificate, if there is one.
    pub(super) fetched: Option<Fetched>,
    /// The same, as long as it is not on disk.
    pub(super) unkept: Option<Pem>,
    /// When it is to be renewed, in seconds since 1970.
    renew_at: u64,
    /// What the authority suggested last.
    window: Option<Window>,
    /// When the authority is asked for its suggestion.
    pub(super) ask_at: Instant,
    /// What came of the last try, if it failed.
    pub(super) setback: Option<Setback>,
    /// Then nothing is tried before this.
    try_at: Option<Instant>,
    /// The next try is before its time.
    is_hurried: bool,
}

/// Tries that failed before the next one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tries {
    /// In a row.
    pub(super) failures: u32,
    /// So many of them before their time, the next one included.
    hurried: u32,
}

impl Charge {
    /// A host with its certificate.
    pub(super) fn new(host: Host, fetched: Option<Fetched>) -> Charge {
        let renew_at = fetched.as_ref().map_or(0, |fetched| {
            renewal::two_thirds(fetched.certificate.not_before, fetched.certificate.not_after, fastrand::f64())
        });
        let ask_at = Instant::now();
        Charge {
            host,
            fetched,
            unkept: None,
            renew_at,
            window: None,
            ask_at,
            setback: None,
            try_at: None,
            is_hurried: false,
        }
    }

    /// Takes up what failed before the process began; how long until the next try, if anything did. What the authority
    /// was not asked for is tried at once.
    pub(super) fn resume(&mut self, setback: Option<Setback>) -> Option<Duration> {
        // Whoever is started again and again does not ask each time.
        self.ask_at = Instant::now() + SETTLED.mul_f64(1.0 + fastrand::f64());
        // With another certificate than then, it went well after all.
        let setback = setback.filter(|setback| setback.not_after == self.not_after())?;
        let is_held = setback.asked;
        let pause = self.set_back(setback);
        if is_held {
            return Some(pause);
        }
        (self.try_at, self.is_hurried) = (None, true);
        Some(Duration::ZERO)
    }

    /// Somebody asks for it, or wants something else: what failed is tried at once, unless it is this authority that
    /// wants to be left alone.
    pub(super) fn hurry(&mut self, directory: &str) {
        match &self.setback {
            Some(setback) if setback.directory != directory => self.settle(),
            Some(setback) if setback.put_off => {}
            _ => (self.try_at, self.is_hurried) = (None, self.setback.is_some()),
        }
    }

    /// The certificate, if this authority gave it.
    pub(super) fn fetched_from(&self, directory: &str) -> Option<&Certificate> {
        let fetched = self.fetched.as_ref().filter(|fetched| fetched.directory == directory)?;
        Some(&fetched.certificate)
    }

    /// Whether a certificate is to be asked for now.
    pub(super) fn is_due(&self, directory: &str) -> bool {
        if self.try_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        self.setback.is_some() || self.fetched_from(directory).is_none() || self.is_stale()
    }

    /// Whether it is time to renew the certificate.
    pub(super) fn is_stale(&self) -> bool {
        self.renew_at <= now()
    }

    /// There is a new certificate. What failed before it is another matter.
    pub(super) fn renewed(&mut self, fetched: Fetched, unkept: Pem) {
        *self = Charge { unkept: Some(unkept), ..Charge::new(self.host.clone(), Some(fetched)) };
    }

    /// Until something is to be done.
    pub(super) fn until_next(&self) -> Duration {
        let instant = Instant::now();
        let until_ask = self.ask_at.saturating_duration_since(instant);
        let until_try = self.try_at.map(|at| at.saturating_duration_since(instant));
        until_try.unwrap_or_else(|| Duration::from_secs(self.renew_at.saturating_sub(now()))).min(until_ask)
    }

    /// The authority suggests when to renew: that moment, if it is another one than before.
    pub(super) fn suggested(&mut self, window: Window) -> Option<u64> {
        let certificate = &self.fetched.as_ref()?.certificate;
        // Picked once, or the dice would be rolled until they say now.
        if self.window == Some(window) {
            return None;
        }
        let latest = renewal::latest(certificate.not_before, certificate.not_after);
        self.window = Some(window);
        self.renew_at = window.pick(fastrand::f64()).min(latest);
        Some(self.renew_at)
    }

    /// What is remembered of a try that failed, after so many others.
    pub(super) fn setback(&self, failed: &Failed, before: Tries, directory: &str) -> Setback {
        let failures = before.failures.saturating_add(1);
        // Who hurries us does not make us wait longer afterwards.
        let pause = renewal::pause(failures.saturating_sub(before.hurried), failed.put_off, fastrand::f64());
        let since = now();
        Setback {
            directory: directory.to_owned(),
            not_after: self.not_after(),
            failures,
            hurried: before.hurried,
            since,
            until: since.saturating_add(pause.as_secs()),
            asked: failed.asked,
            put_off: failed.put_off.is_some(),
            fault: failed.told(),
        }
    }

    /// The last try failed; how long until the next one.
    pub(super) fn set_back(&mut self, setback: Setback) -> Duration {
        let left = renewal::left(setback.since, setback.until, now());
        self.try_at = Some(Instant::now() + left);
        self.setback = Some(setback);
        self.is_hurried = false;
        left
    }

    /// The last try did not fail.
    pub(super) fn settle(&mut self) {
        (self.setback, self.try_at, self.is_hurried) = (None, None, false);
    }

    /// What failed before the next try.
    pub(super) fn tries(&self) -> Tries {
        let tries = |setback: &Setback| Tries {
            failures: setback.failures,
            hurried: setback.hurried.saturating_add(u32::from(self.is_hurried)),
        };
        self.setback.as_ref().map_or_else(Tries::default, tries)
    }

    fn not_after(&self) -> Option<u64> {
        Some(self.fetched.as_ref()?.certificate.not_after)
    }

    /// For people; its certificate is at this path.
    pub(super) fn status(&self, path: PathBuf) -> AcmeStatus {
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
            failures: self.tries().failures,
            fault: self.setback.as_ref().map(|setback| setback.fault.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::acme::fault::Fault;

    const DIRECTORY: &str = "https://authority.test/directory";

    /// Each save of the configuration doubled the pause.
    #[test]
    fn a_try_before_its_time_counts_and_makes_no_pause_longer() {
        let mut charge = Charge::new("a.test".parse().expect("a host"), None);
        let mut fail = |is_hurried: bool| {
            if is_hurried {
                charge.hurry(DIRECTORY);
            }
            let setback = charge.setback(&Failed::from(Fault::BrokenOff), charge.tries(), DIRECTORY);
            let pause = charge.set_back(setback).as_secs_f64() / 60.0;
            (charge.tries().failures, pause)
        };
        for (at, (is_hurried, usual)) in
            [(false, 5.0), (true, 5.0), (true, 5.0), (false, 10.0), (true, 10.0), (false, 20.0)].into_iter().enumerate()
        {
            let (failures, pause) = fail(is_hurried);
            assert_eq!(failures as usize, at + 1);
            assert!((usual * 0.79..=usual * 1.21).contains(&pause), "{at}: {pause}");
        }
    }
}
