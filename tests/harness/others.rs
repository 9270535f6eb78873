//! Servers and clients that nobody here wrote, run as a test wants them: nginx, HAProxy, and what Python's libraries
//! speak (`tests/peers`).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use socket2::Socket;

use super::raw::{Raw, Target};
use super::tools::python;
use super::{Output, Process, need};

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");

/// A running nginx with these lines within `http`; all it has is in `dir`, and it has begun when `socket` takes
/// connections.
#[track_caller]
pub(crate) fn nginx(dir: &Path, http: &str, socket: &Path) -> Process {
    let (place, config) = (dir.display(), dir.join("others-nginx.conf"));
    // Started as root its workers would be another user, who cannot enter the test's directory.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {place}/tmp-{what};\n"))
        .collect();
    let text = format!(
        "{user}\ndaemon off;\nworker_processes 1;\npid {place}/others-nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 2048; }}\nhttp {{\naccess_log off;\n{temp}{http}\n}}\n"
    );
    std::fs::write(&config, text).expect("nginx's configuration");
    let mut command = Command::new(need("nginx"));
    command.arg("-e").arg("stderr").arg("-p").arg(dir).arg("-c").arg(config);
    let mut nginx = Process::start("nginx", &mut command, &dir.join("others-nginx.log"));
    nginx.wait_for("nginx", || Raw::try_connect(socket).map(drop));
    nginx
}

/// A running HAProxy in TCP mode, before `to`; `server` is what else it is told about `to`, such as `send-proxy-v2`.
/// Returns where it takes connections.
#[track_caller]
pub(crate) fn haproxy(dir: &Path, to: SocketAddr, server: &str) -> (Process, SocketAddr) {
    let (listener, address) = listener();
    let config = dir.join(format!("haproxy-{}.cfg", address.port()));
    let text = format!(
        "defaults\nmode tcp\ntimeout connect 5s\ntimeout client 60s\ntimeout server 60s\n\
         listen door\nbind fd@0\nserver door {to} {server}\n"
    );
    std::fs::write(&config, text).expect("HAProxy's configuration");
    let mut command = Command::new(need("haproxy"));
    command.arg("-db").arg("-f").arg(&config);
    let process = Process::start_on("haproxy", &mut command, &dir.join("haproxy.log"), OwnedFd::from(listener));
    (process, address)
}

/// A socket that listens on a free port already: whoever comes before its server runs waits.
pub(crate) fn listener() -> (Socket, SocketAddr) {
    let target = Target::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let bind = || {
        let (socket, address) = target.socket()?;
        socket.bind(&address)?;
        socket.listen(1024)?;
        Ok::<_, std::io::Error>(socket)
    };
    let socket = bind().expect("a listener");
    let address = socket.local_addr().expect("an address").as_socket().expect("of TCP");
    (socket, address)
}

/// A script of `tests/peers`, to be started with these arguments.
pub(crate) fn peer(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg("-u").arg(Path::new(PEERS).join(script)).args(args).env("PYTHONDONTWRITEBYTECODE", "1");
    // An ordinary environment might send a loopback connection through a proxy.
    command.env_remove("http_proxy").env_remove("https_proxy").env_remove("GRPC_PROXY_EXP");
    command
}

/// A script of `tests/peers` as the server of one color, at a unix socket in `dir`.
#[track_caller]
pub(crate) fn serve(script: &str, dir: &Path, color: &str) -> (Process, PathBuf) {
    let socket = dir.join(format!("{color}.peer"));
    let path = socket.to_str().expect("a readable path");
    let log = dir.join(format!("{script}-{color}.log"));
    let mut process = Process::start(script, &mut peer(script, &[path, color]), &log);
    process.wait_for("its socket", || Raw::try_connect(&*socket).map(drop));
    (process, socket)
}

/// Runs a script of `tests/peers` to its end; the JSON it printed.
#[track_caller]
pub(crate) fn run(script: &str, dir: &Path, args: &[&str]) -> serde_json::Value {
    let output = Output::of(&mut peer(script, args), dir).ok();
    super::must(&output.stdout, serde_json::from_str(&output.stdout))
}
