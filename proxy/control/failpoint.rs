//! Where may a crash be put? Places that a test can name, to end the process there as `kill -9` would.
//!
//! `BGPROXY_FAILPOINT=NAME` works in debug builds only; a release build has none of it.

/// Ends the process here, if a test asked for it.
#[cfg(debug_assertions)]
pub fn reach(place: &str) {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("BGPROXY_FAILPOINT").ok());
    if CHOSEN.as_deref() == Some(place) {
        let me = rustix::process::getpid();
        // A signal that was sent to oneself and cannot be caught: nothing comes after it.
        let _unreachable = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    }
}

/// Does nothing.
#[cfg(not(debug_assertions))]
pub fn reach(_place: &str) {}
