//! How a command ends badly: its exit code, and what standard error says.

use std::io;
use std::path::PathBuf;

use bgproxy_conf::Color;
use bgproxy_conf::wire::Problem;
use bytes::Bytes;

/// The exit codes, the same for every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; the answer is yes.
    Done = 0,
    /// Refused or failed; the answer is no.
    Refused = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon cannot be reached, or went away before it answered.
    Unreachable = 3,
    /// A deadline passed.
    Deadline = 4,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The daemon said no.
    #[error("{}", .problem.title)]
    Problem {
        /// What it said.
        problem: Box<Problem>,
        /// The same, byte for byte.
        raw: Bytes,
    },
    /// We say no.
    #[error("{title}")]
    Refused {
        /// What is wrong.
        title: String,
        /// What was found.
        detail: Option<String>,
        /// What to do.
        hint: Option<String>,
    },
    /// The command line does not fit this daemon.
    #[error("{title}")]
    Usage {
        /// What is wrong.
        title: String,
        /// What to do.
        hint: String,
    },
    /// Nobody took the call.
    #[error("{}", unreachable(.socket, .source))]
    Unreachable {
        /// Where we called.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody took the call and hung up before the answer was complete.
    #[error("the daemon went away before it answered {call}")]
    Lost {
        /// Method and path.
        call: String,
        /// Whether the call was to change something.
        mutates: bool,
        /// What broke.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not one that this version understands.
    #[error("cannot make sense of the daemon's answer to {call}: {why}")]
    Odd {
        /// Method and path.
        call: String,
        /// What is odd about it.
        why: String,
    },
    /// Live was switched, and then the daemon went away.
    #[error("the daemon went away while {color} was draining; the switch itself is done")]
    Undrained {
        /// The color that was live before.
        color: Color,
        /// How it went away.
        source: Box<Fault>,
    },
    /// A deadline passed.
    #[error("{title}")]
    Deadline {
        /// What did not happen in time.
        title: String,
        /// What is known instead.
        detail: Option<String>,
        /// What to do.
        hint: Option<String>,
    },
    /// Our own output cannot be written.
    #[error("cannot write the answer: {0}")]
    Output(#[source] io::Error),
}

impl Fault {
    /// The exit code it ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            // `bgctl status | head -1`: the reader has what it wanted.
            Fault::Output(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Fault::Problem { .. } | Fault::Refused { .. } | Fault::Odd { .. } | Fault::Output(_) => Exit::Refused,
            Fault::Usage { .. } => Exit::Usage,
            Fault::Unreachable { .. } | Fault::Lost { .. } | Fault::Undrained { .. } => Exit::Unreachable,
            Fault::Deadline { .. } => Exit::Deadline,
        }
    }

    /// What to do about it, where that is known without asking the daemon.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Fault::Refused { hint, .. } | Fault::Deadline { hint, .. } => hint.clone(),
            Fault::Usage { hint, .. } => Some(hint.clone()),
            Fault::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("`--socket PATH` or BGCTL_SOCKET names another one".into()),
                io::ErrorKind::ConnectionRefused => Some("is bgproxy running? (systemctl status bgproxy)".into()),
                io::ErrorKind::PermissionDenied => {
                    Some("try `sudo`; or let `namei -l` show which directory above it keeps you out".into())
                }
                _ => None,
            },
            Fault::Lost { mutates: true, .. } => {
                Some("the outcome is unknown; `bgctl status` tells, once the daemon is back".into())
            }
            Fault::Undrained { .. } => Some("`bgctl status` tells the rest, once the daemon is back".into()),
            Fault::Odd { .. } => Some("are bgctl and bgproxy of the same version? (`bgctl --version`)".into()),
            _ => None,
        }
    }
}

fn unreachable(socket: &std::path::Path, source: &io::Error) -> String {
    let path = socket.display();
    match source.kind() {
        io::ErrorKind::NotFound => {
            format!("no control socket at {path}: is bgproxy running? (systemctl status bgproxy)")
        }
        io::ErrorKind::ConnectionRefused => format!("nobody listens on {path} (stale socket)"),
        io::ErrorKind::PermissionDenied => format!("no permission to open {path}"),
        // A unix socket whose backlog is full says EAGAIN at once instead of letting us wait.
        io::ErrorKind::WouldBlock => format!("the daemon does not take calls on {path} (its queue is full)"),
        _ => format!("cannot open {path}: {source}"),
    }
}
