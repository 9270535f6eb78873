//! Which programs the tests need, and what to say when one is missing.

use std::path::PathBuf;

/// Where programs are looked for after `PATH`: an ordinary user's does not hold Debian's daemons.
const SYSTEM: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The Debian package of each program that is not called like its package.
const PACKAGES: &[(&str, &str)] = &[
    ("chromedriver", "chromium-driver"),
    ("nginx", "nginx-light"),
    ("promtool", "prometheus"),
    ("uwsgi-core", "uwsgi-core uwsgi-plugin-python3"),
];

/// The path of a program; the test fails with the command that installs it where it is missing.
#[track_caller]
pub(crate) fn need(program: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(SYSTEM.split(':')).map(|dir| PathBuf::from(dir).join(program));
    match places.find(|file| file.is_file()) {
        Some(file) => file,
        None => panic!("{}", missing(program)),
    }
}

/// What a test says when a program is missing.
pub(crate) fn missing(program: &str) -> String {
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
    format!("{program} is not installed: run `apt-get install {package}` (or `tests/install` for all that tests need)")
}
