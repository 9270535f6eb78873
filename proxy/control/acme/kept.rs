//! Where are certificates kept that were fetched? In `state.dir/acme`, which is nobody else's to read: `account.json`
//! is who we are to the authority, `HOST.pem` is a host's private key with its certificate, `setbacks.json` is what
//! failed last, so that whoever is started again and again does not ask again and again.
//!
//! Key and certificate are one file, so that no crash leaves a key with another one's certificate. Before them stands,
//! as text that readers of PEM pass over, which authority it is from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::certificates::{Certificate, Chain};
use crate::control::state::{self, StateError};

/// What stands before the URL of the authority's directory.
const FROM: &str = "Authority: ";

/// Who we are to an authority.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// The authority's directory.
    pub(super) directory: String,
    /// The account's URL and its private key.
    pub(super) credentials: AccountCredentials,
}

/// A certificate with where it is from.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    /// The authority's directory.
    pub(super) directory: String,
    /// The certificate with its key.
    pub(super) certificate: Certificate,
}

/// The same as it is written to disk.
#[derive(Clone)]
pub(super) struct Pem(String);

/// The last try for a host's certificate failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setback {
    /// The authority's directory.
    pub(super) directory: String,
    /// When the certificate expires that was in use then: with another one in its place, this is over.
    pub(super) not_after: Option<u64>,
    /// In a row.
    pub(super) failures: u32,
    /// So many of them before their time, because of a reload.
    #[serde(default)]
    pub(super) hurried: u32,
    /// When it failed, in seconds since 1970.
    pub(super) since: u64,
    /// Nothing is tried before this.
    pub(super) until: u64,
    /// Whether the authority was asked. (Earlier versions did not say.)
    #[serde(default = "asked")]
    pub(super) asked: bool,
    /// Whether it was the authority that said so.
    pub(super) put_off: bool,
    /// Why, and what to do.
    pub(super) fault: String,
}

fn asked() -> bool {
    true
}

/// By host.
pub(super) type Setbacks = BTreeMap<String, Setback>;

/// The directory of all of them.
#[derive(Debug, Clone)]
pub(super) struct Kept(PathBuf);

impl Kept {
    /// Below this state directory, which is ours.
    pub(super) fn new(state_dir: &Path) -> Kept {
        Kept(state_dir.join("acme"))
    }

    /// Makes the directory, or sees to it that it is as it should be.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn open(&self) -> Result<(), StateError> {
        state::secrets(&self.0)
    }

    /// Where a host's certificate is.
    pub(super) fn path(&self, host: &str) -> PathBuf {
        self.0.join(format!("{host}.pem"))
    }

    /// Reads a host's certificate. None when there is none; one that is damaged is as good as none, and the log says
    /// so.
    pub(super) fn certificate(&self, host: &str) -> Option<Fetched> {
        let path = self.path(host);
        let bytes = read(&path)?;
        match parse(host, &bytes) {
            Ok(fetched) => Some(fetched),
            Err(fault) => {
                // Whoever spoiled it, it was not the authority.
                let fault = match fault {
                    Fault::Useless(fault) => fault.to_string(),
                    fault => fault.told(),
                };
                tracing::warn!(path = %path.display(), "a certificate is fetched anew, the one that is kept cannot be used: {fault}");
                None
            }
        }
    }

    /// Keeps a host's certificate, in place of the one before.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn keep(&self, host: &str, pem: &Pem) -> Result<(), StateError> {
        self.open()?;
        state::replace_secret(&self.path(host), pem.0.as_bytes())
    }

    /// Who we are to the authority with this directory, if it knows us.
    pub(super) fn identity(&self, directory: &str) -> Option<Identity> {
        let path = self.identity_path();
        let bytes = read(&path)?;
        let identity = serde_json::from_slice::<Identity>(&bytes).map_err(|fault| fault.to_string());
        // instant-acme reads the key only when it meets the authority, and one flipped bit in it would fail for ever.
        let usable = identity.and_then(|identity| match any_supported_type(&key_of(&identity)) {
            Ok(_) => Ok(identity),
            Err(fault) => Err(fault.to_string()),
        });
        match usable {
            Ok(identity) => Some(identity).filter(|identity| identity.directory == directory),
            Err(fault) => {
                tracing::warn!(path = %path.display(), "a new account is made, the one that is kept cannot be used: {fault}");
                None
            }
        }
    }

    /// Keeps who we are, in place of who we were.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn keep_identity(&self, identity: &Identity) -> Result<(), StateError> {
        self.open()?;
        // Strings and numbers, which can always be written.
        let text = serde_json::to_vec_pretty(identity).unwrap_or_default();
        state::replace_secret(&self.identity_path(), &text)
    }

    /// What failed last.
    pub(super) fn setbacks(&self) -> Setbacks {
        let path = self.setbacks_path();
        let Some(bytes) = read(&path) else { return Setbacks::new() };
        serde_json::from_slice(&bytes).unwrap_or_else(|fault| {
            tracing::warn!(path = %path.display(), "what failed before is not known, and is tried at once: {fault}");
            Setbacks::new()
        })
    }

    /// Keeps what failed last, in place of what failed before.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn keep_setbacks(&self, setbacks: &Setbacks) -> Result<(), StateError> {
        self.open()?;
        // Strings and numbers, which can always be written.
        let text = serde_json::to_vec_pretty(setbacks).unwrap_or_default();
        state::replace_secret(&self.setbacks_path(), &text)
    }

    // No host's: theirs end in `.pem`.
    fn identity_path(&self) -> PathBuf {
        self.0.join("account.json")
    }

    fn setbacks_path(&self) -> PathBuf {
        self.0.join("setbacks.json")
    }
}

impl Pem {
    /// A certificate with its key and where it is from.
    pub(super) fn new(directory: &str, key: &str, chain: &str) -> Pem {
        Pem(format!("Fetched by bgproxy, which replaces it in time.\n{FROM}{directory}\n\n{key}{chain}"))
    }

    /// What it says for this host.
    ///
    /// # Errors
    /// [`Fault`]: it is no use.
    pub(super) fn read(&self, host: &str) -> Result<Fetched, Fault> {
        parse(host, self.0.as_bytes())
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key in it is a secret.
        f.write_str("Pem")
    }
}

fn parse(host: &str, pem: &[u8]) -> Result<Fetched, Fault> {
    let certificate = Chain::parse(pem)?.with_key(pem)?;
    if !certificate.names.iter().any(|name| name == host) {
        return Err(Fault::Misnamed(certificate.names));
    }
    let text = String::from_utf8_lossy(pem);
    let directory = text.lines().find_map(|line| line.strip_prefix(FROM)).unwrap_or_default().to_owned();
    Ok(Fetched { directory, certificate })
}

fn key_of(identity: &Identity) -> PrivateKeyDer<'_> {
    let der = identity.credentials.private_key().secret_pkcs8_der();
    PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => None,
        Err(fault) => {
            tracing::error!(path = %path.display(), "cannot read what was fetched before: {fault}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::tests::Authority;

    const DIRECTORY: &str = "https://authority.test/directory";

    fn kept() -> (tempfile::TempDir, Kept) {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = Kept::new(dir.path());
        (dir, kept)
    }

    #[test]
    fn what_is_kept_is_read_again_with_where_it_is_from() {
        let (_dir, kept) = kept();
        assert!(kept.certificate("a.test").is_none());
        for names in [["a.test", "b.test"], ["c.test", "a.test"]] {
            let pair = Authority::new().server(&names);
            kept.keep("a.test", &Pem::new(DIRECTORY, &pair.key, &pair.cert)).expect("kept");
            let fetched = kept.certificate("a.test").expect("a certificate");
            assert_eq!(
                (fetched.certificate.names, fetched.directory.as_str()),
                (names.map(String::from).to_vec(), DIRECTORY)
            );
        }
        let files = fs::read_dir(kept.path("a.test").parent().expect("a directory")).expect("files");
        assert_eq!(files.count(), 1);
    }

    #[test]
    fn what_is_damaged_is_as_good_as_none() {
        let (_dir, kept) = kept();
        let (one, other) = (Authority::new().server(&["a.test"]), Authority::new().server(&["a.test"]));
        let elsewhere = Authority::new().server(&["b.test", "*.test"]);
        let written = |key: &str, chain: &str| Pem::new(DIRECTORY, key, chain);
        let torn = Pem(written(&one.key, &one.cert).0[..500].to_owned());
        for pem in [
            written(&one.key, &other.cert),
            written("", &one.cert),
            written(&elsewhere.key, &elsewhere.cert),
            written(&one.key, &format!("{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", one.cert)),
            torn,
            Pem(String::new()),
        ] {
            kept.keep("a.test", &pem).expect("kept");
            assert!(kept.certificate("a.test").is_none(), "{}", pem.0);
        }
        for name in ["account.json", "setbacks.json"] {
            fs::write(kept.0.join(name), "{").expect("written");
        }
        assert!(kept.identity(DIRECTORY).is_none());
        assert!(kept.setbacks().is_empty());
    }

    /// A key of the account that was no key failed each order, for ever, with "invalid key bytes".
    #[test]
    fn an_account_with_a_damaged_key_is_as_good_as_none() {
        let (_dir, kept) = kept();
        kept.open().expect("a directory");
        let account = |key: &str| {
            let credentials =
                serde_json::json!({ "id": "https://authority.test/1", "key_pkcs8": key, "directory": DIRECTORY });
            let account = serde_json::json!({ "directory": DIRECTORY, "credentials": credentials });
            fs::write(kept.identity_path(), account.to_string()).expect("written");
        };
        let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let key: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let key = key.replace('+', "-").replace('/', "_").replace('=', "");
        account(&key);
        assert!(kept.identity(DIRECTORY).is_some());
        assert!(kept.identity("https://another.test").is_none());
        account(&key.replacen('M', "N", 1));
        assert!(kept.identity(DIRECTORY).is_none());
    }

    #[test]
    fn a_directory_that_others_can_read_is_closed_to_them() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, kept) = kept();
        let mode = || fs::metadata(&kept.0).expect("a directory").permissions().mode() & 0o777;
        fs::create_dir(&kept.0).expect("a directory");
        fs::set_permissions(&kept.0, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(kept.0.join(".a.test.pem.0.tmp"), "half").expect("what a crash left");
        kept.open().expect("as it should be");
        assert_eq!(mode(), 0o700);
        assert_eq!(fs::read_dir(&kept.0).expect("files").count(), 0);
    }
}
