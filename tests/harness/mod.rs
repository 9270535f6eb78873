//! What a test stands on: real binaries, real sockets, a directory of its own, and waits that have a deadline.
//!
//! - [`Site`]: two real applications (nginx and uwsgi, one per color) with a door before them
//! - [`Pair`]: two scripted backends with a door before them
//! - [`Door`]: bgproxy itself, with its control socket and `bgctl`
//! - [`App`]: the application of one color
//! - [`Fake`]: a backend that follows a script, to the byte, and keeps what it was sent
//! - [`H2c`]: a backend that speaks HTTP/2 in clear
//! - [`Flooder`]: one that writes it frame by frame, and sends what nobody wants
//! - [`Raw`]: a client that sends exactly the bytes it is given
//! - [`RawHttp2`]: one that writes HTTP/2 frame by frame
//! - [`Browser`]: headless Chromium
//! - [`authority`]: certificates of a test's own
//! - [`others`]: nginx and HAProxy as a test wants them, clients and servers in Python
//! - [`strict`]: reads what a backend was sent as the strictest of backends would
//! - [`acme`]: acme2certifier, an authority that gives certificates to whoever proves that a host is its own
//! - [`rogue`]: an authority that means harm, or is out of order
//! - [`Load`]: many keep-alive clients that check and remember every answer, in each protocol ([`load::Plan`])
//! - [`Authority`] signs certificates, [`Trust`] is a client's in it
//! - [`http2::Http2`]: a client that speaks HTTP/2
//!
//! A condition is awaited with [`wait_until`] or [`wait_for`]. No test sleeps and hopes.

pub(crate) mod acme;
pub(crate) mod app;
pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod door;
pub(crate) mod fake;
pub(crate) mod flooder;
pub(crate) mod h2c;
pub(crate) mod hpack;
pub(crate) mod http2;
pub(crate) mod kind;
pub(crate) mod load;
pub(crate) mod others;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod raw_http2;
pub(crate) mod rogue;
pub(crate) mod site;
pub(crate) mod strict;
pub(crate) mod tally;
pub(crate) mod tools;
pub(crate) mod trust;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use app::App;
pub(crate) use authority::Authority;
pub(crate) use browser::Browser;
pub(crate) use door::Door;
pub(crate) use fake::{Act, Fake};
pub(crate) use flooder::Flooder;
pub(crate) use h2c::H2c;
pub(crate) use load::{Kind, Load};
pub(crate) use process::{Output, Process};
pub(crate) use raw::{Raw, Response};
pub(crate) use raw_http2::RawHttp2;
pub(crate) use site::{Pair, Site};
pub(crate) use tools::{need, steady_snapshots};
pub(crate) use trust::Trust;

/// How long anything may take before a test gives up. Generous: it is only ever waited out by a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A test's own directory, removed when it is dropped. Under /tmp whatever `TMPDIR` says, because the path of a unix
/// socket may have 107 bytes at most.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bgproxy-").tempdir_in("/tmp").expect("a directory under /tmp")
}

/// Waits until `condition` holds; panics with `what` when it does not in time.
#[track_caller]
pub(crate) fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()).ok_or(""));
}

/// Waits until `look` finds something and returns it; panics with `what`, and why the last look found nothing, when
/// it does not in time.
#[track_caller]
pub(crate) fn wait_for<T, E: std::fmt::Display>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() >= end => panic!("waited {deadline:?} for {what}; last seen: {why}"),
            Err(_) => pace(pause),
        }
        pause = (pause * 3 / 2).min(Duration::from_millis(8));
    }
}

/// Waits until a number has stopped growing, and returns it.
#[track_caller]
pub(crate) fn settled(mut number: impl FnMut() -> u64) -> u64 {
    let (mut last, mut same) = (0, 0);
    wait_for("a number to settle", DEADLINE, || {
        let now = number();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        if same == 20 { Ok(now) } else { Err(now) }
    })
}

/// What succeeded; otherwise the test fails at the caller's line with `what` and why. (A panic within a closure, as of
/// `unwrap_or_else`, would be told with a line in here.)
#[track_caller]
pub(crate) fn must<T, E: std::fmt::Display>(what: impl std::fmt::Display, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(why) => panic!("{what}: {why}"),
    }
}

/// Lets time pass: between two looks at a condition, and where slowness itself is what a test does to somebody.
#[expect(clippy::disallowed_methods, reason = "the one place; a test that wants to wait uses `wait_until`")]
pub(crate) fn pace(time: Duration) {
    std::thread::sleep(time);
}

/// Says something about a run that went well, such as what was counted. (`eprintln` is kept back then.)
pub(crate) fn tell(text: impl std::fmt::Display) {
    writeln!(std::io::stderr(), "{text}").expect("standard error");
}

/// The text of a file, or why there is none: for messages.
pub(crate) fn text_of(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(why) => format!("({}: {why})", path.display()),
    }
}
