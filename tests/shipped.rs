//! What ships beside the binaries is what those who read it can use: systemd, nginx, Prometheus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bgproxy_conf::Config;

use crate::harness::{Output, need, temp_dir, tools};

fn shipped(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
    let text = fs::read_to_string(&path).expect("it ships");
    (path, text)
}

/// The value of a key that stands once in the unit.
fn value<'u>(unit: &'u str, key: &str) -> &'u str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(values.next(), None, "{key} stands twice");
    value
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let dir = temp_dir();
    let (_, unit) = shipped("systemd/bgproxy.service");
    let bgproxy = tools::bgproxy();
    let bin = bgproxy.parent().expect("a directory");
    let unit = unit.replace("/usr/local/bin", bin.to_str().expect("a readable path"));
    let file = dir.path().join("bgproxy.service");
    fs::write(&file, unit).expect("written");
    let output = Output::of(Command::new(need("systemd-analyze")).arg("verify").arg(&file), dir.path()).ok();
    // It warns of what it does not understand and still succeeds.
    let about_us: Vec<&str> = output.stderr.lines().filter(|line| line.contains("bgproxy")).collect();
    assert_eq!(about_us, [""; 0]);
}

#[test]
fn the_unit_leaves_room_for_the_defaults() {
    let (_, unit) = shipped("systemd/bgproxy.service");
    let config = Config::default();
    let files: usize = value(&unit, "LimitNOFILE").parse().expect("a number");
    assert!(files >= config.limits.connections * 2 + 100, "{files}");
    let stop = humantime::parse_duration(value(&unit, "TimeoutStopSec")).expect("a duration");
    assert!(stop >= config.shutdown.deadline.get() + std::time::Duration::from_secs(5), "{stop:?}");
    assert_eq!(config.control.socket.parent().expect("a directory"), runtime(&unit, "/run", "RuntimeDirectory"));
    assert_eq!(config.state.dir, runtime(&unit, "/var/lib", "StateDirectory"));
}

/// The first directory that systemd makes for this key.
fn runtime(unit: &str, below: &str, key: &str) -> PathBuf {
    Path::new(below).join(value(unit, key).split(' ').next().expect("a directory"))
}

#[test]
fn nginx_takes_the_configuration_of_the_containers() {
    let dir = temp_dir();
    let (_, server) = shipped("nginx/container.conf");
    let here = dir.path().to_str().expect("a readable path");
    let server = server.replace("/var/run/nginx", here).replace("uwsgi_params", "/etc/nginx/uwsgi_params");
    fs::write(dir.path().join("server.conf"), &server).expect("written");
    let temp =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {here}/{kind};"));
    let main = format!(
        "pid {here}/pid; error_log stderr; events {{}} http {{ access_log off; {} include {here}/server.conf; }}",
        temp.join(" ")
    );
    let file = dir.path().join("nginx.conf");
    fs::write(&file, main).expect("written");
    let mut nginx = Command::new(need("nginx"));
    Output::of(nginx.args(["-t", "-e", "stderr", "-p", here, "-c"]).arg(file), dir.path()).ok();
}

/// It keeps idle connections for longer than the door does, and takes what the door lets through.
#[test]
fn the_containers_nginx_outlasts_the_door() {
    let (_, server) = shipped("nginx/container.conf");
    let directive = |name: &str| {
        let line = server.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_suffix(';'));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    let config = Config::default();
    let service = config.service.values().next().expect("the built-in service");
    assert!(humantime::parse_duration(&directive("keepalive_timeout")).expect("a duration") > service.pool.idle.get());
    assert_eq!(directive("client_max_body_size"), format!("{}m", config.limits.body_size.get() >> 20));
    assert_eq!(directive("large_client_header_buffers"), format!("8 {}k", config.limits.header_size.get() >> 10));
    assert_eq!((directive("set_real_ip_from").as_str(), directive("real_ip_header").as_str()), ("unix:", "X-Real-IP"));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_alerts() {
    let dir = temp_dir();
    let (rules, _) = shipped("prometheus/alerts.yml");
    Output::of(Command::new(need("promtool")).args(["check", "rules"]).arg(&rules), dir.path()).ok();
    let cases = include_str!("alerts.yml").replace("@RULES@", rules.to_str().expect("a readable path"));
    let file = dir.path().join("alerts.yml");
    fs::write(&file, cases).expect("written");
    Output::of(Command::new(need("promtool")).args(["test", "rules"]).arg(file), dir.path()).ok();
}
