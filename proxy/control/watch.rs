//! What changed on disk: says when the *content* of a watched file, or the *identity* of a watched socket, is another
//! one than before, and never when it is not.
//!
//! The kernel's events (inotify) only say when to look; what is reported comes from looking alone. So a lost event, a
//! flood of them, a filesystem that has none or a bind mount whose events go elsewhere cost at most the two seconds to
//! the next look of its own, and an event without a change is no change. A difference is reported when two looks 50 ms
//! apart agree on it: a file that is being written is seen empty, then in part, then whole, and only the last is news.

mod places;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bgproxy_conf::{Color, ServiceName};
use notify::RecommendedWatcher;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use places::Places;

/// After an event, this long without another one before a look.
const QUIET: Duration = Duration::from_millis(50);

/// After the first event of a flood, a look at the latest.
const LATE: Duration = Duration::from_millis(250);

/// Two looks this far apart must agree.
const STABLE: Duration = Duration::from_millis(50);

/// A look without any event.
const EVERY: Duration = Duration::from_secs(2);

/// Larger files are unreadable to us: no configuration, live file or certificate comes near it.
const LARGEST: u64 = 1024 * 1024;

/// Changes that may wait for their reader; then the watcher waits too, and the next look finds what came meanwhile.
const QUEUE: usize = 64;

/// What a watched path is to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The configuration file.
    Config,
    /// A service's live file.
    LiveFile(ServiceName),
    /// A color's socket.
    Socket(ServiceName, Color),
    /// A file of a certificate or of its key, which several pairs may share.
    Certificate(PathBuf),
    /// A page for requests that fail, which several statuses may share.
    Page(PathBuf),
}

/// What about a path is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The bytes in it.
    Content,
    /// Which file it is.
    Identity,
}

/// What a look at a path saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing is there.
    Missing,
    /// Something is there that cannot be read, and why.
    Unreadable(String),
    /// These bytes.
    Content(Vec<u8>),
    /// This file.
    Identity {
        /// Its device.
        dev: u64,
        /// Its inode.
        ino: u64,
        /// When it was made, where the filesystem knows: a new socket often gets the number of the one just removed.
        born: Option<SystemTime>,
    },
}

/// A path to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// What it is to its owner.
    pub key: Key,
    /// Where it is; symlinks are followed.
    pub path: PathBuf,
    /// What about it.
    pub what: What,
    /// What its owner has seen there already; only something else is news.
    pub seen: Seen,
}

/// A watched path shows something else than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is to its owner.
    pub key: Key,
    /// Where it is.
    pub path: PathBuf,
    /// What is there now.
    pub seen: Seen,
}

/// The owner's end of the watching task, which ends when this is dropped.
// Not `Clone`: the task's life is this value's life.
#[derive(Debug)]
pub struct Watcher {
    set: watch::Sender<Vec<Watched>>,
    known: mpsc::UnboundedSender<(Key, Seen)>,
    task: JoinHandle<()>,
    _alive: oneshot::Sender<()>,
}

/// How the kernel's events are had; tests put one in that has none.
type Notifier = fn(Arc<Notify>) -> notify::Result<RecommendedWatcher>;

/// A watched path and how far the news about it is.
struct Entry {
    watched: Watched,
    /// Seen once, but not yet twice.
    unsure: Option<(Seen, Instant)>,
}

/// What the task owns.
struct Task {
    entries: Vec<Entry>,
    /// Where in `entries` a key is.
    index: HashMap<Key, usize>,
    places: Places,
    changes: mpsc::Sender<Change>,
}

/// Looks at a path once, as the watcher does. For whoever needs to know before anything can have changed.
pub fn look(path: &Path, what: What) -> Seen {
    let seen = match what {
        What::Content => content(path),
        What::Identity => fs::metadata(path).map(|file| Seen::Identity {
            dev: file.dev(),
            ino: file.ino(),
            born: file.created().ok(),
        }),
    };
    seen.unwrap_or_else(|fault| match fault.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Seen::Missing,
        _ => Seen::Unreadable(fault.to_string()),
    })
}

/// In place, on a thread that serves other tasks too: a live file has a dozen bytes, a configuration or a
/// certificate a few thousand, so reading them takes less than handing the work to another thread. Hence the bound.
fn content(path: &Path) -> io::Result<Seen> {
    // Not to block on a pipe in which nobody writes.
    let file = File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(Seen::Unreadable("not a regular file".into()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Ok(Seen::Unreadable("larger than 1 MiB".into()));
    }
    Ok(Seen::Content(bytes))
}

// === impl Watched ===

impl Watched {
    /// Watches a path from now on: looks at it, and reports what differs from that.
    pub fn new(key: Key, path: impl Into<PathBuf>, what: What) -> Watched {
        let path = path.into();
        let seen = look(&path, what);
        Watched { key, path, what, seen }
    }
}

// === impl Watcher ===

impl Watcher {
    /// Starts the task on the current runtime, with nothing to watch.
    pub fn start() -> (Watcher, mpsc::Receiver<Change>) {
        Watcher::start_with(places::notifier)
    }

    fn start_with(notifier: Notifier) -> (Watcher, mpsc::Receiver<Change>) {
        let (set, sets) = watch::channel(Vec::new());
        let (sender, changes) = mpsc::channel(QUEUE);
        // Unbounded, for its sender must not wait; there is no more in it than files that were written.
        let (known, knowing) = mpsc::unbounded_channel();
        let (alive, gone) = oneshot::channel();
        let task = tokio::spawn(async move {
            // Dropped in the midst of whatever it waits for, a full queue included.
            tokio::select! {
                _ = gone => {}
                () = Task::run(sets, knowing, sender, notifier) => {}
            }
        });
        (Watcher { set, known, task, _alive: alive }, changes)
    }

    /// Replaces what is watched. A path watched before, under the same key, goes on from what was last reported about
    /// it; a new one starts from its [`Watched::seen`]. Changes of a path that is watched no more may still be queued.
    pub fn set(&self, watched: Vec<Watched>) {
        self.set.send_replace(watched);
    }

    /// Tells that the owner has changed this path himself, to this: only something else is news. Without it, what was
    /// there before could be put there again, before the next look, and be taken for no change.
    pub fn knows(&self, key: Key, seen: Seen) {
        // A task that has ended looks no more.
        let _ended = self.known.send((key, seen));
    }

    /// Ends the task and waits for its end.
    pub async fn stop(self) {
        let Watcher { set, known, task, _alive } = self;
        drop((set, known, _alive));
        // A panic in there was told by the panic hook.
        let _ = task.await;
    }
}

// === impl Task ===

impl Task {
    async fn run(
        mut sets: watch::Receiver<Vec<Watched>>,
        mut knowing: mpsc::UnboundedReceiver<(Key, Seen)>,
        changes: mpsc::Sender<Change>,
        notifier: Notifier,
    ) {
        let event = Arc::new(Notify::new());
        let mut task =
            Task { entries: Vec::new(), index: HashMap::new(), places: Places::new(notifier, event.clone()), changes };
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first unanswered event, and when it is to be answered.
        let mut flood: Option<(Instant, Instant)> = None;
        loop {
            let due = flood.map(|(_, due)| due).into_iter().chain(task.sure_at()).min();
            tokio::select! {
                biased;
                set = sets.changed() => {
                    if set.is_err() {
                        return;
                    }
                    task.replace(sets.borrow_and_update().clone());
                    // Before the look, so that a change after it is an event.
                    task.places.arm(task.entries.iter().map(|entry| entry.watched.path.as_path()));
                }
                Some((key, seen)) = knowing.recv() => task.know(&key, seen),
                _ = every.tick() => {
                    task.places.rearm(task.entries.iter().map(|entry| entry.watched.path.as_path()));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    flood = flood.filter(|&(_, due)| due > Instant::now());
                    task.places.arm(task.entries.iter().map(|entry| entry.watched.path.as_path()));
                }
                () = event.notified() => {
                    let now = Instant::now();
                    let first = flood.map_or(now, |(first, _)| first);
                    flood = Some((first, (now + QUIET).min(first + LATE)));
                    continue;
                }
            }
            if task.look().await.is_err() {
                return;
            }
        }
    }

    fn replace(&mut self, set: Vec<Watched>) {
        let before = std::mem::take(&mut self.entries).into_iter();
        let name = |watched: &Watched| (watched.key.clone(), watched.path.clone());
        let mut before: HashMap<_, Entry> = before.map(|entry| (name(&entry.watched), entry)).collect();
        let goes_on = |watched: Watched| match before.remove(&name(&watched)) {
            Some(entry) if entry.watched.what == watched.what => entry,
            _ => Entry { watched, unsure: None },
        };
        self.entries = set.into_iter().map(goes_on).collect();
        self.index.clear();
        for (at, entry) in self.entries.iter().enumerate() {
            self.index.entry(entry.watched.key.clone()).or_insert(at);
        }
    }

    fn know(&mut self, key: &Key, seen: Seen) {
        if let Some(entry) = self.index.get(key).and_then(|at| self.entries.get_mut(*at)) {
            entry.watched.seen = seen;
            entry.unsure = None;
        }
    }

    /// When the first thing seen once may be seen for the second time.
    fn sure_at(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.unsure.as_ref()).map(|(_, at)| *at + STABLE).min()
    }

    async fn look(&mut self) -> Result<(), mpsc::error::SendError<Change>> {
        for entry in &mut self.entries {
            if let Some(change) = entry.look() {
                self.changes.send(change).await?;
            }
        }
        Ok(())
    }
}

// === impl Entry ===

impl Entry {
    fn look(&mut self) -> Option<Change> {
        let Watched { key, path, what, seen: known } = &mut self.watched;
        let seen = look(path, *what);
        if seen == *known {
            self.unsure = None;
            return None;
        }
        let now = Instant::now();
        match &self.unsure {
            Some((once, at)) if *once == seen => {
                if now < *at + STABLE {
                    return None;
                }
                self.unsure = None;
                known.clone_from(&seen);
                Some(Change { key: key.clone(), path: path.clone(), seen })
            }
            _ => {
                self.unsure = Some((seen, now));
                None
            }
        }
    }
}
