//! Why can state not be read or written, and what is to be done?

use std::io;
use std::path::{Path, PathBuf};

use bgproxy_conf::ServiceName;

/// Why state cannot be read or written, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no such directory.
    #[error("state directory `{dir}` does not exist; create it with `install -d -o bgproxy {dir}`", dir = dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// It is something else.
    #[error("`{}` is not a directory; set `state.dir` to one", dir.display())]
    NotADirectory {
        /// The path.
        dir: PathBuf,
    },
    /// We may not write there.
    #[error("cannot write to the state directory `{dir}`, which must belong to the user that bgproxy runs as (`chown bgproxy {dir}`)", dir = dir.display())]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon uses it.
    #[error("state directory `{}` is in use by another bgproxy{}; stop that one, or give this one a `state.dir` of its own", dir.display(), process(*pid))]
    Taken {
        /// The directory.
        dir: PathBuf,
        /// The other's process id, if it wrote one.
        pid: Option<u32>,
    },
    /// The newest record and the one before it are unusable.
    #[error(
        "the state of service `{service}` is damaged: {fault}; {previous_fault}; restore `{}` from a backup, or start once with `--assume-live blue` (the color that shall be live)", path.display()
    )]
    Damaged {
        /// The service.
        service: ServiceName,
        /// The newest record's file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
        /// What is wrong with the one before.
        previous_fault: String,
    },
    /// A file is intact and says what this version does not understand.
    #[error(
        "`{}` {meaning}; start the bgproxy that wrote it, or start this one once with `--assume-live blue` (the color that shall be live)", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What about it is foreign.
        meaning: String,
    },
    /// The kernel refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The new record is in place, but whether it survives a power cut is not certain, and it could not be taken back.
    #[error("cannot make `{}` durable ({}), nor put the record before it back; a restart may see either", path.display(), reason(durable))]
    Torn {
        /// The newest record's file.
        path: PathBuf,
        /// Why it may not be durable.
        durable: Box<StateError>,
        /// Why the old one could not be put back.
        source: Box<StateError>,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// What went wrong, with what the kernel said.
fn reason(fault: &StateError) -> String {
    std::error::Error::source(fault).map_or_else(|| fault.to_string(), |source| format!("{fault}: {source}"))
}

/// The kernel refused to do this with this file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io { action, path: path.to_owned(), source }
}
