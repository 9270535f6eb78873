//! What becomes of certificates on disk, and of those that were fetched? A pair (a certificate and its private key) is
//! in use from the start, and from then on in the form in which its files last fitted together.
//!
//! What is read is what the watcher has seen stand still, so no half of a file is taken for a whole one. The two files
//! of a pair are replaced one after the other: when they do not fit, the second one may be on its way.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bgproxy_conf::Certificate as Files;
use bgproxy_conf::wire::CertificateStatus;
use rustls::RootCertStore;
use tokio::time::Instant;

use super::watch::{self, Key, Seen, Watched};
use crate::certificates::{self, Certificate, Certificates, Chain, Fault};

/// Files that do not fit together have this long before it is called a fault.
const PATIENCE: Duration = Duration::from_secs(1);

const DAY: u64 = 24 * 60 * 60;

/// How often the log says that a certificate expires soon.
const WARN_EVERY: Duration = Duration::from_secs(DAY);

/// The last second that can be written as RFC 3339.
const LAST_SECOND: u64 = 253_402_300_799;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Nothing is there.
    #[error("{}: there is no such file", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("{}: it cannot be read ({why})", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// It can be read, and is of no use.
    #[error("{}: {fault}", path.display())]
    Faulty {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
}

impl Unusable {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Unusable::Missing(_) => "put it there, or correct the path in the configuration",
            Unusable::Unreadable { .. } => {
                "the user that bgproxy runs as must be able to read it and to enter the directories on the way"
            }
            Unusable::Faulty { fault, .. } => fault.hint(),
        }
    }
}

/// The pairs of the configuration in force.
#[derive(Default)]
pub struct Pairs {
    pairs: Vec<Pair>,
    /// Those that an authority gave us (see [`super::acme`]): they change when we write them, so nobody watches their
    /// files.
    fetched: Vec<Pair>,
    /// What the files were last seen to be; pairs may share them.
    files: BTreeMap<PathBuf, Seen>,
    certificates: Arc<Certificates>,
}

#[derive(Clone)]
struct Pair {
    files: Files,
    in_use: Certificate,
    /// What is wrong with the files now.
    fault: Option<String>,
    /// When files that do not fit are called a fault.
    complain_at: Option<Instant>,
    /// With fewer days left than this it is spoken about.
    calm: i64,
    /// When the log last said that it expires.
    warned: Option<Instant>,
}

/// What became of a pair whose files changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Path of the certificate, as configured.
    pub cert: PathBuf,
    /// None when it is in use.
    pub fault: Option<String>,
}

impl Pairs {
    /// Reads the pairs of a configuration, and puts them in use.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub fn load(wanted: &[Files]) -> Result<Pairs, Unusable> {
        let mut pairs = Pairs::default().with(wanted)?;
        pairs.publish();
        Ok(pairs)
    }

    /// The pairs of another configuration, not in use yet. Those that are in use stay as they are; the others are read.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub fn with(&self, wanted: &[Files]) -> Result<Pairs, Unusable> {
        let (certificates, fetched) = (self.certificates.clone(), self.fetched.clone());
        let mut new = Pairs { certificates, fetched, ..Pairs::default() };
        for files in wanted {
            if let Some(held) = self.pairs.iter().find(|pair| pair.files == *files) {
                for path in [&files.cert, &files.key] {
                    let seen = self.files.get(path).cloned();
                    new.files.entry(path.clone()).or_insert_with(|| seen.unwrap_or(Seen::Missing));
                }
                new.pairs.push(held.clone());
                continue;
            }
            for path in [&files.cert, &files.key] {
                new.files.insert(path.clone(), watch::look(path, watch::What::Content));
            }
            let in_use = read(files, &new.files)?;
            warn_if_readable_by_everybody(&files.key);
            new.pairs.push(Pair::new(files.clone(), in_use));
        }
        Ok(new)
    }

    /// Puts these in use, in place of all that were fetched before; each with the path where it is kept.
    pub fn fetched(&mut self, certificates: Vec<(PathBuf, Certificate)>) {
        let before = std::mem::take(&mut self.fetched);
        let pair = |(path, in_use): (PathBuf, Certificate)| {
            let held = before.iter().find(|pair| pair.files.cert == path && pair.in_use.leaf() == in_use.leaf());
            held.cloned().unwrap_or_else(|| Pair::fetched(path, in_use))
        };
        self.fetched = certificates.into_iter().map(pair).collect();
        self.publish();
    }

    /// Puts these in use instead.
    pub fn adopt(&mut self, new: Pairs) {
        *self = new;
        self.publish();
    }

    /// Where handshakes look.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    fn publish(&mut self) {
        self.certificates.replace(self.all().map(|pair| &pair.in_use));
    }

    /// Those of the configuration first: where both have one for a name, it is the operator's that counts.
    fn all(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().chain(&self.fetched)
    }

    /// What must be watched.
    pub fn watched(&self) -> impl Iterator<Item = Watched> {
        self.files.iter().map(|(path, seen)| Watched {
            key: Key::Certificate(path.clone()),
            path: path.clone(),
            what: watch::What::Content,
            // Not another look: what came since the first one is news.
            seen: seen.clone(),
        })
    }

    /// A file is another one: pairs that fit together are in use when this returns.
    pub fn changed(&mut self, path: &Path, seen: Seen) -> Vec<Outcome> {
        // News of a file that has just been taken out of the configuration.
        let Some(known) = self.files.get_mut(path) else { return Vec::new() };
        *known = seen;
        let mut outcomes = Vec::new();
        for pair in self.pairs.iter_mut().filter(|pair| pair.files.cert == path || pair.files.key == path) {
            match read(&pair.files, &self.files) {
                Ok(certificate) => outcomes.push(pair.replace(certificate)),
                // A key comes alone first, and what fitted is in use meanwhile.
                Err(_) => {
                    pair.complain_at.get_or_insert_with(|| Instant::now() + PATIENCE);
                }
            }
        }
        if !outcomes.is_empty() {
            self.publish();
        }
        outcomes
    }

    /// When [`Pairs::complain`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        self.pairs.iter().filter_map(|pair| pair.complain_at).min()
    }

    /// The pairs that did not come to fit in time, unless that has been told already.
    pub fn complain(&mut self) -> Vec<Outcome> {
        let now = Instant::now();
        let due = self.pairs.iter_mut().filter(|pair| pair.complain_at.is_some_and(|at| at <= now));
        due.filter_map(|pair| {
            pair.complain_at = None;
            // Every change was looked at when it came, so it still does not fit.
            let unusable = read(&pair.files, &self.files).err()?;
            let fault = format!("{unusable}; {}", unusable.hint());
            let told = pair.fault.replace(fault.clone());
            (told.as_ref() != Some(&fault)).then(|| Outcome { cert: pair.files.cert.clone(), fault: Some(fault) })
        })
        .collect()
    }

    /// Says once a day which certificates expire soon.
    pub fn warn_of_expiry(&mut self) {
        let now = now();
        for pair in self.pairs.iter_mut().chain(&mut self.fetched) {
            let left = days_left(pair.in_use.not_after, now);
            if left >= pair.calm || pair.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
                continue;
            }
            pair.warned = Some(Instant::now());
            let (cert, not_after) = (pair.files.cert.display(), written(pair.in_use.not_after));
            if left < 0 {
                tracing::error!(%cert, not_after, "certificate has expired");
            } else {
                tracing::warn!(%cert, not_after, days_left = left, "certificate expires soon");
            }
        }
    }

    /// Path of each certificate, and when it expires, in seconds since 1970.
    pub fn expiry(&self) -> impl Iterator<Item = (String, u64)> {
        self.all().map(|pair| (pair.files.cert.display().to_string(), pair.in_use.not_after))
    }

    /// Each of them for people.
    pub fn status(&self) -> Vec<CertificateStatus> {
        let now = now();
        let status = |pair: &Pair| CertificateStatus {
            cert: pair.files.cert.display().to_string(),
            names: pair.in_use.names.clone(),
            not_after: written(pair.in_use.not_after),
            days_left: days_left(pair.in_use.not_after, now),
            fault: pair.fault.clone(),
        };
        self.all().map(status).collect()
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the files: one of each two is a secret.
        f.debug_struct("Pairs").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl Pair {
    fn new(files: Files, in_use: Certificate) -> Pair {
        let calm = CertificateStatus::DAYS_CALM;
        Pair { files, in_use, fault: None, complain_at: None, calm, warned: None }
    }

    /// One that should have been renewed when a third of its time was left, however long that is.
    fn fetched(path: PathBuf, in_use: Certificate) -> Pair {
        let quarter = in_use.not_after.saturating_sub(in_use.not_before) / DAY / 4;
        let calm = i64::try_from(quarter).unwrap_or(i64::MAX).min(CertificateStatus::DAYS_CALM);
        Pair { calm, ..Pair::new(Files { cert: path.clone(), key: path }, in_use) }
    }

    fn replace(&mut self, certificate: Certificate) -> Outcome {
        // As one that was never warned about: it may expire soon as well.
        *self = Pair::new(self.files.clone(), certificate);
        warn_if_readable_by_everybody(&self.files.key);
        Outcome { cert: self.files.cert.clone(), fault: None }
    }
}

/// Reads the authorities of a listener's client certificates.
///
/// # Errors
/// [`Unusable`].
pub fn authorities(path: &Path) -> Result<RootCertStore, Unusable> {
    let seen = watch::look(path, watch::What::Content);
    certificates::authorities(content(path, Some(&seen))?).map_err(|fault| faulty(path, fault))
}

fn read(pair: &Files, files: &BTreeMap<PathBuf, Seen>) -> Result<Certificate, Unusable> {
    let chain = content(&pair.cert, files.get(&pair.cert))?;
    let chain = Chain::parse(chain).map_err(|fault| faulty(&pair.cert, fault))?;
    let key = content(&pair.key, files.get(&pair.key))?;
    chain.with_key(key).map_err(|fault| faulty(&pair.key, fault))
}

fn content<'a>(path: &Path, seen: Option<&'a Seen>) -> Result<&'a [u8], Unusable> {
    let path = || path.to_owned();
    match seen {
        Some(Seen::Content(bytes)) => Ok(bytes),
        Some(Seen::Unreadable(why)) => Err(Unusable::Unreadable { path: path(), why: why.clone() }),
        Some(Seen::Missing | Seen::Identity { .. }) | None => Err(Unusable::Missing(path())),
    }
}

fn faulty(path: &Path, fault: Fault) -> Unusable {
    Unusable::Faulty { path: path.to_owned(), fault }
}

fn warn_if_readable_by_everybody(key: &Path) {
    // It has just been read; if it is gone again, the watcher tells.
    let Ok(file) = std::fs::metadata(key) else { return };
    if file.permissions().mode() & 0o004 != 0 {
        tracing::warn!(
            key = %key.display(),
            "everybody on this host can read the private key: `chmod o-rwx` it, and think of a new one"
        );
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whole days; below zero from the moment on in which it expires.
fn days_left(not_after: u64, now: u64) -> i64 {
    let days = |seconds: u64| i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
    match not_after.checked_sub(now) {
        Some(left) => days(left),
        None => -1 - days(now - not_after),
    }
}

/// A second as people read it.
pub(super) fn written(second: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_secs(second.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests;
