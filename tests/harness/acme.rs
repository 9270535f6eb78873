//! An authority that gives certificates by ACME: acme2certifier, a program of others, with issuing keys of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bgproxy_conf::wire::AcmeStatus;
use serde_json::json;
use tempfile::TempDir;

use super::door::Builder;
use super::{Authority, Door, Process, Trust, must, temp_dir, wait_for};

/// A program in Python takes its time to start where many tests run at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What fails where many tests run at once, because it takes too long.
const LATE: [&str; 4] =
    ["it took more than", "it does not answer within", "timed out waiting", "the disk does not answer"];

/// Where `tests/install` puts it.
const PYTHON: &str = "/usr/local/lib/bgproxy-tests/acme/bin/python";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/acme_server.py");

/// An authority that runs, or does not just now.
pub(crate) struct Acme {
    process: Option<Process>,
    /// Whose certificates it gives.
    issuer: Authority,
    /// Who signed the certificate of its own server.
    server: Authority,
    address: SocketAddr,
    env: Vec<(String, String)>,
    settings: Settings,
    dir: TempDir,
}

/// How it behaves.
#[derive(Clone)]
pub(crate) struct Settings {
    /// How long its certificates are valid.
    pub(crate) days: u32,
    /// When it suggests to renew them: after so many hundredths of their time, within two seconds. None: it suggests
    /// nothing.
    pub(crate) renew: Option<f64>,
    /// Whose certificates it gives.
    pub(crate) domain: &'static str,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { days: 90, renew: None, domain: "test" }
    }
}

impl Acme {
    #[track_caller]
    pub(crate) fn start(settings: Settings) -> Acme {
        Acme::start_with(settings, &[])
    }

    /// The same, with something in its environment.
    #[track_caller]
    pub(crate) fn start_with(settings: Settings, env: &[(&str, &str)]) -> Acme {
        let (dir, issuer, server) = (temp_dir(), Authority::new(), Authority::new());
        fs::write(dir.path().join("issuer.pem"), issuer.pem()).expect("the issuer's certificate");
        fs::write(dir.path().join("issuer.key"), issuer.key()).expect("the issuer's key");
        fs::create_dir(dir.path().join("issued")).expect("a directory");
        server.write(dir.path());
        server.server(&["127.0.0.1"]).write(&dir.path().join("tls"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut acme = Acme { process: None, issuer, server, address, env, settings, dir };
        acme.begin(listener);
        acme
    }

    #[track_caller]
    fn begin(&mut self, listener: TcpListener) {
        let dir = self.dir.path();
        let path = |name: &str| dir.join(name);
        fs::write(path("acme.cfg"), self.configuration()).expect("its configuration");
        assert!(Path::new(PYTHON).is_file(), "acme2certifier is not installed: run `tests/install`");
        let mut command = Command::new(PYTHON);
        command.arg("-u").arg(SCRIPT).args([path("tls/cert.pem"), path("tls/key.pem"), path("ports")]);
        command.env("ACME_SRV_CONFIGFILE", path("acme.cfg")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env_remove("http_proxy").env_remove("https_proxy");
        command.envs(self.env.iter().map(|(key, value)| (key, value))).current_dir(dir);
        self.process =
            Some(Process::start_on("acme2certifier", &mut command, &path("acme.log"), OwnedFd::from(listener)));
    }

    fn configuration(&self) -> String {
        let (place, Settings { days, renew, domain }) = (self.dir.path().display(), &self.settings);
        let renewal = match renew {
            None => "renewalinfo_disable: True".to_owned(),
            Some(hundredths) => format!("renewalthreshold_pctg: {hundredths}\nrenewal_window_duration: 2s"),
        };
        format!(
            "[DEFAULT]\ndebug: False\n[Nonce]\nnonce_check_disable: False\n\
             [CAhandler]\nhandler_module: acme2certifier.cahandlers.openssl_ca_handler\n\
             issuing_ca_key: {place}/issuer.key\nissuing_ca_cert: {place}/issuer.pem\n\
             issuing_ca_crl: {place}/issuer.crl\ncert_save_path: {place}/issued\ncert_validity_days: {days}\n\
             [DBhandler]\nhandler: wsgi\ndbfile: {place}/acme.db\n\
             [Challenge]\nchallenge_validation_timeout: 8\n[Order]\nallowed_domainlist: [\"*.{domain}\"]\n\
             [Renewalinfo]\n{renewal}\n"
        )
    }

    // === its life ===

    /// It is gone: nobody listens where it was.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.process.take().expect("it runs").kill9();
    }

    /// It is back, where it was, and perhaps behaves in another way.
    #[track_caller]
    pub(crate) fn restart(&mut self, change: impl FnOnce(&mut Settings)) {
        if self.process.is_some() {
            self.stop();
        }
        change(&mut self.settings);
        let listener = must(self.address, TcpListener::bind(self.address));
        self.begin(listener);
    }

    /// It has forgotten everybody.
    #[track_caller]
    pub(crate) fn forget(&mut self) {
        self.stop();
        fs::remove_file(self.dir.path().join("acme.db")).expect("its memory");
        self.restart(|_| ());
    }

    // === what it is to others ===

    pub(crate) fn directory(&self) -> String {
        format!("https://{}/directory", self.address)
    }

    /// The certificate by which its server is trusted.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A file that says the same of somebody else.
    pub(crate) fn wrong_ca(&self) -> PathBuf {
        let path = self.dir.path().join("wrong");
        fs::create_dir_all(&path).expect("a directory");
        Authority::new().write(&path)
    }

    /// A client's trust in whom it gives certificates.
    pub(crate) fn trust(&self, host: &str) -> Trust {
        Trust::of(&self.issuer, host)
    }

    /// From now on it looks at this door: at its first listener by TLS, at its second one (or else the first) in clear.
    #[track_caller]
    pub(crate) fn looks_at(&self, door: &Door) {
        let listen = door.status().listen;
        let port = |at: usize| must(&listen[at], listen[at].parse::<SocketAddr>()).port();
        let ports = json!({ "443": port(0), "80": port(1.min(listen.len() - 1)) });
        let new = self.dir.path().join("ports.new");
        fs::write(&new, ports.to_string()).expect("ports");
        fs::rename(&new, self.dir.path().join("ports")).expect("ports");
    }

    /// It waits with its looks until it is told where.
    pub(crate) fn looks_nowhere(&self) {
        let _ = fs::remove_file(self.dir.path().join("ports"));
    }

    /// Orders that it has been sent.
    pub(crate) fn orders(&self) -> usize {
        super::text_of(&self.dir.path().join("acme.log")).matches("POST /acme/neworders").count()
    }

    /// Accounts that it has been asked for.
    pub(crate) fn accounts(&self) -> usize {
        super::text_of(&self.dir.path().join("acme.log")).matches("POST /acme/newaccount").count()
    }
}

impl Builder {
    /// Gets certificates for these hosts from this authority; its first listener speaks TLS, the second one is in
    /// clear.
    pub(crate) fn acme(self, acme: &Acme, hosts: &[&str]) -> Builder {
        self.wants(hosts)
            .set("acme.email", "hostmaster@portal.test")
            .set("acme.directory", acme.directory())
            .set("acme.ca", acme.ca().to_str().expect("a readable path"))
    }
}

/// What the door says about a host.
#[track_caller]
pub(crate) fn host(door: &Door, name: &str) -> AcmeStatus {
    let found = door.status().acme.into_iter().find(|one| one.host.to_string() == name);
    found.unwrap_or_else(|| panic!("no {name} in the status"))
}

/// Waits until the host's certificate is there, and nothing is wrong with it. A try that took too long is followed by
/// another one, at once; no other may fail.
#[track_caller]
pub(crate) fn wait_certificate(door: &Door, name: &str) {
    let is_late = |status: &AcmeStatus| {
        let fault = status.fault.as_deref().unwrap_or_default();
        LATE.iter().any(|late| fault.contains(late))
    };
    // What failed before, of something else, is mended by now.
    let mut failures = Some(host(door, name)).filter(|before| !is_late(before)).map_or(0, |before| before.failures);
    wait_for(&format!("a certificate for {name}"), PATIENCE, || match host(door, name) {
        AcmeStatus { in_use: true, fault: None, .. } => Ok(()),
        other => {
            if other.failures > failures {
                failures = other.failures;
                assert!(is_late(&other), "{other:?}\n{}", door.log());
                assert_eq!(door.post("/v1/reload", json!({})).status(), 200);
            }
            Err(format!("{other:?}\n{}", door.log()))
        }
    });
}

/// Waits until the last try for the host's certificate has failed; why.
#[track_caller]
pub(crate) fn wait_fault(door: &Door, name: &str, part: &str) -> AcmeStatus {
    wait_for(&format!("a fault with {part:?}"), PATIENCE, || {
        let status = host(door, name);
        let is_it = status.fault.as_ref().is_some_and(|fault| fault.contains(part));
        if is_it { Ok(status) } else { Err(format!("{status:?}")) }
    })
}
