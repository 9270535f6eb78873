//! What does the process give up before it serves anybody? New privileges, files that others can read, and core dumps
//! where keys are; whatever the service manager takes from it besides.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use bgproxy_conf::Config;
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// What others are kept from unless we say otherwise: everything.
const OTHERS: u32 = 0o077;

/// The umask that the process was started with: what it forbids stays forbidden.
static INHERITED: AtomicU32 = AtomicU32::new(0);

/// Gives it up. To be called before there are other threads: they inherit it.
///
/// What the kernel refuses is logged, and no reason not to serve: an old kernel, or a sandbox that has taken the call
/// away, which is stricter than we are.
pub fn harden(config: &Config) {
    let inherited = umask(Mode::from_raw_mode(OTHERS));
    INHERITED.store(inherited.as_raw_mode(), Ordering::Relaxed);
    // We start no program; whoever makes us start one shall not get more by it than we have.
    tell("new privileges are possible", rustix::thread::set_no_new_privs(true));
    guard_keys(config);
}

/// Keeps the keys of this configuration where they are, from now on. To be called before they are read.
pub fn guard_keys(config: &Config) {
    if holds_keys(config) {
        // Where cores go to a program, the limit alone does not keep them back. The price: but for root, nobody can
        // look into the process any more (ptrace, /proc/PID/fd), not even its own user.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        tell("core dumps are possible", setrlimit(Resource::Core, none));
        tell("core dumps are possible", set_dumpable_behavior(DumpableBehavior::NotDumpable));
    }
}

/// Whether there is anything that a core dump must not show.
fn holds_keys(config: &Config) -> bool {
    let serves_tls = config.listen.iter().any(|listen| listen.tls);
    serves_tls || !config.certificate.is_empty() || !config.acme.hosts.is_empty()
}

fn tell(what: &str, result: rustix::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(error = %io::Error::from(error), "not hardened: {what}");
    }
}

/// The permissions of a file of ours that others may use, as far as the umask that we were started with allows it. To
/// be set: creating a file with a mode cannot get past our own umask.
pub fn permissions(mode: u32) -> Permissions {
    Permissions::from_mode(mode & !INHERITED.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use bgproxy_conf::Listen;

    use super::*;

    #[test]
    fn keys_are_where_tls_is() {
        let mut config = Config::default();
        assert!(!holds_keys(&config));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 443));
        config.listen = vec![Listen::at(address), Listen { tls: true, ..Listen::at(address) }];
        assert!(holds_keys(&config));
        config.listen.pop();
        assert!(!holds_keys(&config));
        config.acme.hosts = vec!["a.example.com".parse().expect("a host")];
        assert!(holds_keys(&config));
    }
}
