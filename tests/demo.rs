//! `bgproxy demo`: what it prints can be pasted, with TLS too.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Browser, Output, Process, temp_dir, text_of, tools};

/// A demo on free ports, both of its colors ready, with what it has printed.
pub(crate) fn demo(dir: &Path, more: &[&str]) -> (Process, String) {
    let log = dir.join("demo.log");
    let mut command = Command::new(tools::bgproxy());
    command.args(["demo", "--port", "0", "--admin-port", "0"]).args(more).env("TMPDIR", dir);
    let mut demo = Process::start("the demo", &mut command, &log);
    let printed = demo.wait_for("its addresses, and both colors ready", || {
        let text = text_of(&log);
        let ready = |color| text.lines().any(|line| line.contains(" ready ") && line.ends_with(color));
        let told = text.contains("Ctrl-C ends it") && ready("color=blue") && ready("color=green");
        if told { Ok(text) } else { Err("not yet") }
    });
    (demo, printed)
}

/// The address that was printed behind this label.
pub(crate) fn address(printed: &str, label: &str) -> Option<String> {
    let url = printed.lines().find_map(|line| line.strip_prefix(label))?.trim();
    Some(url.split_once("://")?.1.trim_end_matches('/').to_owned())
}

/// The one file of this name that the demo keeps.
fn kept(dir: &Path, name: &str) -> PathBuf {
    let homes = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path().join(name));
    homes.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {name}"))
}

fn bash(dir: &Path, line: &str) -> Output {
    Output::of(Command::new("bash").args(["-c", line]).env("no_proxy", "*"), dir)
}

#[test]
fn the_demo_speaks_tls_and_each_line_it_prints_for_curl_works() {
    let dir = temp_dir();
    let (mut demo, printed) = demo(dir.path(), &["--tls", "--tls-port", "0"]);
    let socket = kept(dir.path(), "control.sock");
    let bgctl = |verb: &str| {
        let bgctl = tools::bgctl();
        let bgctl = bgctl.display();
        bash(dir.path(), &format!("{bgctl} --socket {} {verb}", socket.display())).ok()
    };
    bgctl("prepare green");
    let lines: Vec<&str> = printed.lines().map(str::trim).filter(|line| line.contains("/text")).collect();
    assert_eq!(lines.len(), 4, "{printed}");
    let answers: Vec<String> = lines
        .iter()
        .map(|line| {
            let asked = format!("{line}\n").replacen("curl ", "curl -sS -w '%{http_version} %{num_redirects}\\n' ", 1);
            bash(dir.path(), &asked).ok().stdout.replace('\n', " ")
        })
        .collect();
    assert_eq!(answers, ["blue 2 0 ", "blue 1.1 0 ", "blue 2 1 ", "green 2 0 "], "{lines:?}");

    let door = address(&printed, "the door").expect("an address");
    let stranger = bash(dir.path(), &format!("curl -sS https://{door}/text"));
    assert_eq!(stranger.code, Some(60), "nobody trusts it without being told to: {stranger:?}");
    assert_eq!(fs::metadata(kept(dir.path(), "key.pem")).expect("a key").permissions().mode() & 0o777, 0o600);
    let status = bgctl("status").stdout;
    assert!(status.contains("cert.pem for localhost preview.localhost: expires in "), "{status}");
    assert!(!text_of(&dir.path().join("demo.log")).contains("WARN"), "{}", text_of(&dir.path().join("demo.log")));
    let ended = demo.terminate();
    assert!(ended.success(), "{ended}");
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").filter_map(Result::ok).count(), 1, "the log alone");
}

#[test]
fn the_pages_websocket_comes_back_on_the_new_color() {
    let dir = temp_dir();
    let (_demo, printed) = demo(dir.path(), &["--tls", "--tls-port", "0"]);
    let browser = Browser::start_with(dir.path(), &["--ignore-certificate-errors"]);
    browser.open(&format!("https://{}/", address(&printed, "the door").expect("an address")));
    browser.wait_text("blue says so");
    let bgctl = format!("{} --socket {}", tools::bgctl().display(), kept(dir.path(), "control.sock").display());
    bash(dir.path(), &format!("{bgctl} switch green")).ok();
    assert!(bash(dir.path(), &format!("{bgctl} status")).ok().stdout.contains("1 tunnel"));
    bash(dir.path(), &format!("{bgctl} close-streams blue --over 0s && {bgctl} wait-idle blue")).ok();
    browser.wait_text("green says so");
}

#[test]
fn a_port_that_is_taken_is_told_with_the_flag_for_it() {
    let dir = temp_dir();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for flag in ["--port", "--admin-port", "--tls-port"] {
        let mut command = Command::new(tools::bgproxy());
        command.args(["demo", "--tls"]).env("TMPDIR", dir.path());
        for free in ["--port", "--admin-port", "--tls-port"].iter().filter(|free| **free != flag) {
            command.args([free, "0"]);
        }
        let refused = Output::of(command.args([flag, &port]), dir.path());
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.ends_with(&format!("or change `{flag}`\n")), "{refused:?}");
    }
}

#[test]
fn the_demo_takes_no_configuration() {
    let dir = temp_dir();
    let mut command = Command::new(tools::bgproxy());
    let refused = Output::of(command.args(["demo", "-c", "some.toml"]).env("TMPDIR", dir.path()), dir.path());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("leave out `--config`"), "{refused:?}");
}
