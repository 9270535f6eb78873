//! Where may a crash or a mistake be put? Places that a test can name, to end the process there as `kill -9` would, or
//! a task as a panic does.
//!
//! `BGPROXY_FAILPOINT=PLACE` kills there, `BGPROXY_FAILPOINT=PLACE:FILE` panics there as long as the file exists. In
//! debug builds only; a release build has none of it.

/// Ends the process or the task here, if a test asked for it.
#[cfg(debug_assertions)]
pub fn reach(place: &str) {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<String> = LazyLock::new(|| std::env::var("BGPROXY_FAILPOINT").unwrap_or_default());
    if let Some((chosen, file)) = CHOSEN.split_once(':') {
        assert!(chosen != place || !std::path::Path::new(file).exists(), "a test asked for it");
    } else if *CHOSEN == place {
        let me = rustix::process::getpid();
        // A signal that was sent to oneself and cannot be caught: nothing comes after it.
        let _unreachable = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn reach(_place: &str) {}
