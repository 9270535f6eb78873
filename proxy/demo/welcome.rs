//! What does the terminal show of a demo? The commands worth trying, each to be pasted as it stands.

use std::path::Path;

use bgproxy_conf::Config;

use super::PREVIEW_HOST;

/// What to try: `listen` and `admin` are the addresses really taken, the first in the configuration's order.
pub fn welcome(config: &Config, listen: &[String], admin: &str) -> String {
    let at = |tls| {
        let mut listeners = config.listen.iter().zip(listen);
        listeners.find(|(listener, _)| listener.tls == tls).map(|(_, address)| address.as_str())
    };
    let clear = at(false).unwrap_or_default();
    let mut door = format!("http://{clear}");
    let (mut curl, mut page, mut versions) = ("curl".to_owned(), door.clone(), String::new());
    let mut preview = format!("-H 'Host: {PREVIEW_HOST}' {page}");
    if let (Some(secure), [certificate, ..]) = (at(true), config.certificate.as_slice()) {
        let port = secure.rsplit_once(':').map_or("443", |(_, port)| port);
        door = format!("https://{secure}");
        curl = format!("curl --cacert {}", quoted(&certificate.cert));
        page = format!("https://localhost:{port}");
        preview = format!("https://{PREVIEW_HOST}:{port}");
        versions = format!(
            "  {curl} --http1.1 {page}/text      # otherwise HTTP/2\n  {curl} -L http://{clear}/text      # is sent there\n"
        );
    }
    let (bgctl, socket) = (bgctl(), quoted(&config.control.socket));
    let live_file = config.service.values().find_map(|service| service.live_file.as_deref()).map(quoted);
    let live_file = live_file.unwrap_or_default();
    // A function, not an alias: it works in a script too, and every line below stays short enough to read.
    format!(
        "\
the door         {door}/
the status page  http://{admin}/

In another terminal:

  bgctl() {{ {bgctl} --socket {socket} \"$@\"; }}

  {curl} {page}/text      # the color that is live
{versions}  bgctl status
  bgctl switch green
  {curl} -s '{page}/slow?seconds=10' & bgctl switch blue      # waits for the slow one
  bgctl prepare green      # for testers:
  {curl} {preview}/text
  echo green > {live_file}      # a switch, too
  bgctl history
  curl http://{admin}/metrics

In a browser the door's page keeps a websocket open. It stays on its color for ten seconds after a switch, is closed
within five more, and comes back on the other one.

Ctrl-C ends it and removes what it made.
"
    )
}

/// How a shell function of that name finds `bgctl`: beside this binary, or through cargo (which builds only what it
/// runs), or by its name, which must not mean the function again.
fn bgctl() -> String {
    let beside = std::env::current_exe().unwrap_or_default().with_file_name("bgctl");
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&on_path).any(|dir| dir.join("bgctl") == beside) {
        return "command bgctl".to_owned();
    }
    if beside.exists() {
        quoted(&beside)
    } else if std::env::var_os("CARGO").is_some() {
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        format!("cargo run --quiet {profile}--bin bgctl --")
    } else {
        "command bgctl".to_owned()
    }
}

/// The path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(plain) { path.into_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
