//! How is the door run? The real binary with one worker, in a directory of its own, as itself or under valgrind.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

use super::backend;
use super::client::{NAME, Target};
use super::workloads::House;

/// How long the door may take to open or close.
const PATIENCE: Duration = Duration::from_secs(60);

/// A door that is open; dropping it closes it.
pub(super) struct Door {
    child: Child,
    log: PathBuf,
    pub(super) target: Target,
}

impl Door {
    /// Starts `wrapper` with the door's command line behind its own words, in a new directory `home`.
    pub(super) fn start(home: &Path, wrapper: &[String], house: House) -> anyhow::Result<Door> {
        // Files that are written to are not beside any other: the door watches the places of the socket, of its
        // configuration and of the certificate, and would look again in the middle of a measurement.
        for dir in ["backend", "state", "etc", "log"] {
            fs::create_dir_all(home.join(dir))?;
        }
        let (socket, etc, log) = (home.join("backend/socket"), home.join("etc"), home.join("log"));
        backend::start(&socket)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "the authority of a bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()?)?;
        let server = key()?;
        let cert = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&server, &authority)?;
        fs::write(etc.join("cert.pem"), cert.pem())?;
        fs::write(etc.join("key.pem"), server.serialize_pem())?;
        fs::set_permissions(etc.join("key.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;

        let target = Target { clear: free_address()?, secure: free_address()?, authority: authority.der().clone() };
        let here = home.display();
        let access = if house == House::Logged { format!("{here}/log/access") } else { "off".to_owned() };
        let rate = if house == House::Limited { 100_000 } else { 0 };
        // Without the watch: it would ask in the middle of a measurement.
        let config = format!(
            "workers = 1\n[[listen]]\naddress = \"{}\"\n[[listen]]\naddress = \"{}\"\ntls = true\n\
             [[certificate]]\ncert = \"{here}/etc/cert.pem\"\nkey = \"{here}/etc/key.pem\"\n\
             [control]\nsocket = \"{here}/state/control\"\n[admin]\naddress = \"127.0.0.1:0\"\n[state]\ndir = \"{here}/state\"\n\
             [log]\naccess = \"{access}\"\n[limits]\nrequests_per_second = {rate}\n[service.bench.backends]\nblue = \"{}\"\n[service.bench.ready]\nwatch = \"0s\"\n",
            target.clear,
            target.secure,
            socket.display()
        );
        let file = etc.join("bgproxy.toml");
        fs::write(&file, config)?;
        let log = log.join("door");
        let output = File::create(&log)?;
        let mut command = match wrapper.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(env!("CARGO_BIN_EXE_bgproxy"));
                command
            }
            None => Command::new(env!("CARGO_BIN_EXE_bgproxy")),
        };
        command.arg("-c").arg(file).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().context("cannot start the door (`tests/install` installs valgrind)")?;
        let mut door = Door { child, log, target };
        door.wait_until_open()?;
        Ok(door)
    }

    fn wait_until_open(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            if said.contains("the door is open") {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() || Instant::now() > end {
                bail!("the door does not open:\n{said}");
            }
            pause();
        }
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // It may have ended already; then there is nobody to tell.
        let _gone = kill_process(self.pid(), Signal::TERM);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause();
        }
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Between two looks at something that will be so soon.
#[expect(clippy::disallowed_methods, reason = "nothing tells us when the door opens or has closed")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
