//! Whose are the descriptors? Clients and backends may take all but the last ones, which are kept for the control wing:
//! whoever comes with many connections must not keep the door from being switched.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bgproxy_conf::Config;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections of those who look at us or tell us what to do, with some room for probes, records and other files.
const KEPT: u64 = 2 * crate::control::bounded::MOST as u64 + 100;

/// Of few descriptors, one in as many is kept.
const SHARE: u64 = 4;

/// The first one that is kept.
static FIRST_KEPT: AtomicI32 = AtomicI32::new(RawFd::MAX);

/// When a connection last found none. Locked only then, and when somebody looks.
static RAN_OUT: Mutex<Option<Instant>> = Mutex::new(None);

/// Takes as many descriptors as we may have, and keeps some of them. A client and a backend connection each need one.
pub fn raise(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let mut most = limit.maximum;
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
        most = limit.current;
    }
    let Some(most) = most else { return };
    FIRST_KEPT.store(first_kept(most), Ordering::Relaxed);
    let needed = config.limits.connections as u64 * 2 + KEPT;
    if most < needed {
        tracing::warn!(
            most,
            needed,
            "fewer open files are allowed than `limits.connections` may need: raise LimitNOFILE or lower the limit"
        );
    }
}

/// Whether this connection of a client or a backend has a descriptor that is kept for others. The kernel gives the
/// lowest that is free, so there is none below it.
pub fn is_kept(connection: &impl AsFd) -> bool {
    connection.as_fd().as_raw_fd() >= FIRST_KEPT.load(Ordering::Relaxed)
}

/// Takes note when it was for want of a descriptor that a connection of a client or a backend failed.
pub fn note(error: &io::Error) {
    if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
        *RAN_OUT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// Whether a connection of a client or a backend found none within this time.
pub fn ran_out_within(time: Duration) -> bool {
    RAN_OUT.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < time)
}

fn first_kept(most: u64) -> RawFd {
    RawFd::try_from(most - KEPT.min(most / SHARE)).unwrap_or(RawFd::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_few_descriptors_few_are_kept() {
        let kept = |most: u64| most - u64::try_from(first_kept(most)).expect("a number");
        assert_eq!((kept(65_536), kept(1024), kept(64)), (KEPT, 256, 16));
        assert_eq!(first_kept(u64::MAX), RawFd::MAX);
    }
}
