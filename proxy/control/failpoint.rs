//! Where may a crash or a mistake be put? Places that a test can name, to end the process there as `kill -9` would, or
//! a task as a panic does.
//!
//! `BGPROXY_FAILPOINT=NAME` works in debug builds only; a release build has none of it.

/// Ends the process here, if a test asked for it.
pub fn reach(place: &str) {
    if is_chosen(place) {
        let me = rustix::process::getpid();
        // A signal that was sent to oneself and cannot be caught: nothing comes after it.
        let _unreachable = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    }
}

/// Panics here, if a test asked for it.
pub fn fail(place: &str) {
    assert!(!is_chosen(place), "a test asked for it");
}

#[cfg(debug_assertions)]
fn is_chosen(place: &str) -> bool {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("BGPROXY_FAILPOINT").ok());
    CHOSEN.as_deref() == Some(place)
}

#[cfg(not(debug_assertions))]
fn is_chosen(_place: &str) -> bool {
    false
}
