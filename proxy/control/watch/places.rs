//! Which directories must be watched so that nothing can happen to a set of paths unseen.
//!
//! A file's own watch would be lost with the first rename over it. So its directory is watched, the directory of every
//! symlink on the way to it (whose swap leads elsewhere), and where the way ends early the last directory there is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tracing::warn;

use super::Notifier;

/// As many symlinks as the kernel follows.
const LINKS: usize = 40;

/// A directory's device and inode.
type Id = (u64, u64);

/// Directories whose watches are made anew at once.
const AT_ONCE: usize = 256;

/// The directories watched now.
pub(super) struct Places {
    notifier: Notifier,
    event: Arc<Notify>,
    inotify: Option<RecommendedWatcher>,
    /// By device and inode: the kernel has one watch for a directory, whatever the number of names that lead to it,
    /// and to end the watch of one name would end them all.
    armed: HashMap<Id, PathBuf>,
    /// Those that [`Places::rearm`] has still to come to.
    tour: Vec<Id>,
    warned: bool,
}

/// The kernel's events, as a permit to look: one however many they are, so no flood can fill a queue here.
pub(super) fn notifier(event: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |found: notify::Result<notify::Event>| {
        if !found.is_ok_and(|found| is_ours(&found.kind)) {
            event.notify_one();
        }
    })
}

/// Our own looks open and close files in the watched directories; each would call for the next.
pub(super) fn is_ours(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(how) if *how != AccessKind::Close(AccessMode::Write))
}

impl Places {
    pub(super) fn new(notifier: Notifier, event: Arc<Notify>) -> Places {
        Places { notifier, event, inotify: None, armed: HashMap::new(), tour: Vec::new(), warned: false }
    }

    /// Watches what these paths need now, and nothing else.
    pub(super) fn arm<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        let mut needed = HashMap::new();
        let mut walk = Walk::default();
        let different: HashSet<&Path> = paths.collect();
        for path in different {
            for place in walk.places(path) {
                if let Some(id) = walk.id(&place) {
                    needed.insert(id, place);
                }
            }
        }
        self.disarm(|id, place| needed.get(id) != Some(place));
        needed.retain(|id, _| !self.armed.contains_key(id));
        for (id, place) in needed {
            if self.watch(&place) {
                self.armed.insert(id, place);
            }
        }
    }

    /// The same, trusting nothing: a watch can be gone without a trace (a directory removed and made again with the
    /// same number, or renamed, upon which `notify` forgets what is below it). Where there are many, some each time.
    pub(super) fn rearm<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        if self.tour.is_empty() {
            self.tour.extend(self.armed.keys());
        }
        let now: HashSet<Id> = self.tour.drain(self.tour.len().saturating_sub(AT_ONCE)..).collect();
        self.disarm(|id, _| now.contains(id));
        self.arm(paths);
    }

    fn disarm(&mut self, gone: impl Fn(&Id, &PathBuf) -> bool) {
        let inotify = &mut self.inotify;
        self.armed.retain(|id, place| {
            let gone = gone(id, place);
            if gone && let Some(inotify) = inotify {
                // The kernel has ended it already where the directory is gone.
                let _ = inotify.unwatch(place);
            }
            !gone
        });
    }

    fn watch(&mut self, place: &Path) -> bool {
        let inotify = match &mut self.inotify {
            Some(inotify) => Ok(inotify),
            none => (self.notifier)(self.event.clone()).map(|inotify| none.insert(inotify)),
        };
        let available = inotify.is_ok();
        let Err(fault) = inotify.and_then(|inotify| inotify.watch(place, RecursiveMode::NonRecursive)) else {
            return true;
        };
        // A directory that has just gone or may not be read says nothing about the others.
        let only_here = available && matches!(fault.kind, ErrorKind::PathNotFound | ErrorKind::Io(_));
        if !only_here && !self.warned {
            self.warned = true;
            warn!(
                error = %fault,
                "inotify is not available, files are looked at every 2 seconds only, \
                 see fs.inotify.max_user_instances and fs.inotify.max_user_watches"
            );
        }
        false
    }
}

/// What is found on the way to some paths; each name is looked at once, however many paths lead over it.
#[derive(Default)]
struct Walk(HashMap<PathBuf, Step>);

/// What a name is.
enum Step {
    Directory(Id),
    /// A symlink, and where it leads if it can be read.
    Link(Option<PathBuf>),
    /// Something else, or nothing.
    End,
}

impl Walk {
    /// The directories where a path can change its meaning: walked as the kernel walks it, one name at a time.
    fn places(&mut self, path: &Path) -> Vec<PathBuf> {
        let mut places = Vec::new();
        let mut at = PathBuf::from("/");
        let mut ahead = names(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            match self.step(&next) {
                Step::Link(target) if links < LINKS => {
                    links += 1;
                    places.push(at.clone());
                    let Some(target) = target else { break };
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    for name in names(target).into_iter().rev() {
                        ahead.push_front(name);
                    }
                }
                Step::Directory(_) if !ahead.is_empty() => at = next,
                // The last name, or the first one that leads nowhere.
                _ => {
                    places.push(at);
                    break;
                }
            }
        }
        places
    }

    fn step(&mut self, path: &Path) -> &Step {
        // Not by `entry`, which would want a path of its own for each of the many that are known.
        if !self.0.contains_key(path) {
            let step = match fs::symlink_metadata(path) {
                Ok(found) if found.is_symlink() => Step::Link(fs::read_link(path).ok()),
                Ok(found) if found.is_dir() => Step::Directory((found.dev(), found.ino())),
                _ => Step::End,
            };
            self.0.insert(path.to_owned(), step);
        }
        self.0.get(path).unwrap_or(&Step::End)
    }

    /// Which directory this is.
    fn id(&mut self, place: &Path) -> Option<Id> {
        match self.step(place) {
            Step::Directory(id) => Some(*id),
            Step::Link(_) | Step::End => None,
        }
    }
}

/// The places of one path.
#[cfg(test)]
pub(super) fn places(path: &Path) -> Vec<PathBuf> {
    Walk::default().places(path)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}
