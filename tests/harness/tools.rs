//! Which programs the tests need, and what to say when one is missing.

use std::path::PathBuf;

/// Where programs are looked for after `PATH`: an ordinary user's does not hold Debian's daemons.
const SYSTEM: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The Debian package of each program that is not called like its package.
const PACKAGES: &[(&str, &str)] = &[
    ("chromedriver", "chromium-driver"),
    ("h2load", "nghttp2-client"),
    ("nghttp", "nghttp2-client"),
    ("nginx", "nginx-light"),
    ("promtool", "prometheus"),
    ("systemd-analyze", "systemd"),
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

/// The bgproxy that is tested: cargo's, or that of another build, whose directory is in `BGPROXY_BUILD`.
pub(crate) fn bgproxy() -> PathBuf {
    built("bgproxy", env!("CARGO_BIN_EXE_bgproxy"))
}

/// And its bgctl.
pub(crate) fn bgctl() -> PathBuf {
    built("bgctl", env!("CARGO_BIN_EXE_bgctl"))
}

fn built(program: &str, by_cargo: &str) -> PathBuf {
    match std::env::var_os("BGPROXY_BUILD") {
        Some(dir) => std::path::absolute(dir).expect("a directory to be in").join(program),
        None => PathBuf::from(by_cargo),
    }
}

/// Debian's Python, which Debian's modules are for; another one may come before it in `PATH`.
#[track_caller]
pub(crate) fn python() -> PathBuf {
    let path = PathBuf::from("/usr/bin/python3");
    assert!(path.is_file(), "{}", missing("python3"));
    path
}

/// The library that shows programs another time than it is.
#[track_caller]
pub(crate) fn faketime() -> PathBuf {
    let dirs = std::fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let mut places = dirs.map(|dir| dir.path().join("faketime/libfaketime.so.1"));
    places.find(|path| path.is_file()).unwrap_or_else(|| panic!("{}", missing("faketime")))
}

/// What a test says when a program is missing.
pub(crate) fn missing(program: &str) -> String {
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
    format!("{program} is not installed: run `apt-get install {package}` (or `tests/install` for all that tests need)")
}

/// From here to the end of the scope, snapshots do not show what differs from run to run.
pub(crate) fn steady_snapshots() -> impl Drop {
    let mut settings = insta::Settings::clone_current();
    for (what, shown) in [
        (r"/tmp/bgproxy-[0-9A-Za-z]{6}", "DIR"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\b(pid|process) \d+", "$1 PID"),
        (r#""pid":\d+"#, r#""pid":PID"#),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r":(\d{4,5})'", ":PORT'"),
        (r"\b\d+(\.\d+)? m?s\b", "TOOK"),
        (r#""(seconds|age)":[0-9.e-]+"#, r#""$1":TOOK"#),
        (r"0\.1\.0( \([0-9a-f]+(-dirty)?\))?", "VERSION"),
        (r"seconds=[0-9.]+", "seconds=TOOK"),
    ] {
        settings.add_filter(what, shown);
    }
    settings.bind_to_scope()
}
