//! What can be tried without an application? Two embedded backends, blue and green, for `bgproxy demo`, with the
//! configuration that puts the door in front of them and the commands worth trying.
//!
//! It is an application, not a part of the door: neither wing knows it.

mod backend;
mod certificate;
mod page;
#[cfg(test)]
mod tests;
mod tunnel;
mod welcome;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use backend::Backend;
use bgproxy_conf::{
    Address, Admin, Certificate, Color, Config, Control, Drain, Host, Limits, Listen, Preview, Ready, Seconds, Service,
    ServiceName, State, Streams,
};
pub use welcome::welcome;

use crate::run::Place;

/// The one service of the demo.
const SERVICE: &str = "demo";

/// The host that leads to the preview color; browsers take every name below `localhost` for this machine.
const PREVIEW_HOST: &str = "preview.localhost";

/// The state files' directory, which the daemon wants to find.
const STATE: &str = "state";

/// A fresh private directory for everything the demo keeps; gone when this is dropped.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
}

/// The ports on 127.0.0.1; 0 takes a free one.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Where clients connect.
    pub door: u16,
    /// Where clients connect by TLS. When there is one, those who come to the other port are sent here.
    pub tls: Option<u16>,
    /// Where the status page is.
    pub admin: u16,
}

/// The two backends, each on a thread of its own. Dropping it ends them.
#[derive(Debug)]
pub struct Demo {
    backends: Vec<Backend>,
}

/// The configuration that puts the door in front of a [`Demo`] started in this [`Home`]. With a port for TLS, its
/// certificate and key are made there.
///
/// # Errors
/// The certificate cannot be made or written.
pub fn config(dir: &Path, ports: Ports) -> io::Result<Config> {
    let here = |port| Listen::at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let backend = |color: Color| (color.clone(), bgproxy_conf::Backend::at(Address::Unix(socket(dir, &color))));
    let service = Service {
        backends: BTreeMap::from([backend(Color::blue()), backend(Color::green())]),
        live_file: Some(dir.join("live")),
        preview: Preview { hosts: vec![PREVIEW_HOST.parse::<Host>().expect("a valid host")] },
        // Quick enough that nobody waits, slow enough that the asking is seen.
        ready: Ready {
            path: "/health".into(),
            interval: Seconds::millis(200),
            timeout: Seconds::new(1),
            within: Seconds::new(5),
            watch: Seconds::new(2),
            ..Ready::default()
        },
        drain: Drain { deadline: Seconds::new(20) },
        // The page's websocket is seen to stay, and to move.
        streams: Streams { keep: Seconds::new(10), spread: Seconds::new(5), ..Streams::default() },
        ..Service::default()
    };
    let mut listen = vec![here(ports.door)];
    let mut certificates = Vec::new();
    if let Some(port) = ports.tls {
        listen[0].redirect_https = true;
        listen.insert(0, Listen { tls: true, ..here(port) });
        let (cert, key) = certificate::make(dir, &["localhost", PREVIEW_HOST, "127.0.0.1"])?;
        certificates.push(Certificate { cert, key });
    }
    Ok(Config {
        listen,
        certificate: certificates,
        // Who runs it may operate it; nobody else gets into the directory anyway.
        control: Control { socket: dir.join("control.sock"), operators: Vec::new(), ..Control::default() },
        // Within the open files that a desktop allows.
        limits: Limits { connections: 400, ..Limits::default() },
        admin: Admin { address: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.admin)) },
        state: State { dir: dir.join(STATE) },
        service: BTreeMap::from([(SERVICE.parse::<ServiceName>().expect("a valid name"), service)]),
        ..Config::default()
    })
}

/// The flag that says where this is: the demo has no file in which somebody could change it.
pub fn flag(place: Place<'_>) -> &'static str {
    match place {
        Place::Listener(listen) if listen.tls => "`--tls-port`",
        Place::Listener(_) => "`--port`",
        Place::Admin => "`--admin-port`",
    }
}

// === impl Home ===

impl Home {
    /// Makes one in the directory for temporary files.
    ///
    /// # Errors
    /// That directory is missing, full or not writable.
    pub fn create() -> io::Result<Home> {
        let path = std::env::temp_dir().join(format!("bgproxy-demo-{:08x}", fastrand::u32(..)));
        // Never an existing directory: somebody else may have put it there, with links in it.
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path).map_err(|error| named(path, error));
        private(&path)?;
        let home = Home { path };
        private(&home.path.join(STATE))?;
        Ok(home)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the demo's directory");
        }
    }
}

// === impl Demo ===

impl Demo {
    /// Serves blue and green at `blue.sock` and `green.sock` in this directory.
    ///
    /// # Errors
    /// A socket cannot be made there (its path may have 107 bytes), or a thread cannot be started.
    pub fn start(dir: &Path) -> io::Result<Demo> {
        let backends = [Color::blue(), Color::green()].map(|color| Backend::start(socket(dir, &color), color));
        Ok(Demo { backends: backends.into_iter().collect::<io::Result<_>>()? })
    }

    /// Ends both: cuts what is left, joins the threads, removes the sockets.
    pub fn stop(self) {
        drop(self.backends);
    }
}

fn socket(dir: &Path, color: &Color) -> PathBuf {
    dir.join(format!("{color}.sock"))
}

/// The error with the path in it: `io::Error` alone does not say which.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display()))
}
