//! A certificate authority of a test's own: signs certificates for servers and clients.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority that nobody else knows.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Signed {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // No two of the same name, or clients take them for each other and complain about something else.
        let name = format!("the authority of a test, {}", fastrand::u64(..));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    /// Its own certificate, for clients to trust, or as `client_ca`.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its private key, for programs that sign in its name.
    pub(crate) fn key(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// Writes its own certificate into a directory: `ca.pem`, for programs to trust.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.pem");
        std::fs::write(&path, self.pem()).expect("the authority's certificate");
        path
    }

    /// A server's certificate for these names (or addresses), valid from yesterday on for a year.
    pub(crate) fn server(&self, names: &[&str]) -> Signed {
        self.server_for(names, 365 * DAY)
    }

    /// The same, with so much time left until it expires.
    pub(crate) fn server_for(&self, names: &[&str], left: Duration) -> Signed {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, SystemTime::now() + left)
    }

    /// A client's certificate with this common name.
    pub(crate) fn client(&self, name: &str) -> Signed {
        self.client_until(name, SystemTime::now() + 365 * DAY)
    }

    /// The same, which expires then.
    pub(crate) fn client_until(&self, name: &str, end: SystemTime) -> Signed {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, end)
    }

    fn sign(&self, mut params: CertificateParams, end: SystemTime) -> Signed {
        // By way of rcgen's own date, whose type is of a crate that we do not use ourselves.
        let date = |at: SystemTime| {
            rcgen::date_time_ymd(1970, 1, 1) + at.duration_since(UNIX_EPOCH).expect("a time after 1970")
        };
        params.not_before = date(SystemTime::now() - DAY);
        params.not_after = date(end);
        let key = KeyPair::generate().expect("a key");
        Signed { cert: params.signed_by(&key, &self.0).expect("signed").pem(), key: key.serialize_pem() }
    }
}

impl Signed {
    /// Writes `cert.pem` and `key.pem` into a directory, which is made; the key is nobody else's to read. Returns the
    /// two as `[[certificate]]` names them.
    #[track_caller]
    pub(crate) fn write(&self, dir: &Path) -> Value {
        std::fs::create_dir_all(dir).expect("a directory");
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, &self.cert).expect("the certificate");
        std::fs::write(&key, &self.key).expect("the key");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
        json!({ "cert": cert.to_str().expect("a readable path"), "key": key.to_str().expect("a readable path") })
    }
}
