//! Where are certificates kept that were fetched? In `state.dir/acme`, which is nobody else's to read: `account.json`
//! is who we are to the authority, `HOST.pem` is a host's private key with its certificate.
//!
//! Both in one file, so that no crash leaves a key with another one's certificate. Before them stands, as text that
//! readers of PEM pass over, which authority it is from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};

use crate::certificates::{Certificate, Chain, Fault};
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

/// The directory of all of them.
#[derive(Debug, Clone)]
pub(super) struct Kept(PathBuf);

impl Kept {
    /// Below this state directory, which is ours.
    pub(super) fn new(state_dir: &Path) -> Kept {
        Kept(state_dir.join("acme"))
    }

    /// Where a host's certificate is.
    pub(super) fn path(&self, host: &str) -> PathBuf {
        self.0.join(format!("{host}.pem"))
    }

    /// Reads a host's certificate. None when there is none; one that is damaged is as good as none, and the log says so.
    pub(super) fn certificate(&self, host: &str) -> Option<Fetched> {
        let path = self.path(host);
        let bytes = read(&path)?;
        match parse(&bytes) {
            Ok(fetched) => Some(fetched),
            Err(fault) => {
                tracing::warn!(path = %path.display(), "a certificate is fetched anew, the one that is kept cannot be used: {fault}");
                None
            }
        }
    }

    /// Keeps a host's certificate, in place of the one before.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn keep(&self, host: &str, pem: &str) -> Result<(), StateError> {
        state::secrets(&self.0)?;
        state::replace_secret(&self.path(host), pem.as_bytes())
    }

    /// Who we are to the authority with this directory, if it knows us.
    pub(super) fn identity(&self, directory: &str) -> Option<Identity> {
        let path = self.identity_path();
        let bytes = read(&path)?;
        match serde_json::from_slice::<Identity>(&bytes) {
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
        state::secrets(&self.0)?;
        // Strings alone, which can always be written.
        let text = serde_json::to_vec_pretty(identity).unwrap_or_default();
        state::replace_secret(&self.identity_path(), &text)
    }

    fn identity_path(&self) -> PathBuf {
        // No host's: a dot is missing.
        self.0.join("account.json")
    }
}

/// A certificate with its key and where it is from, as it is kept.
pub(super) fn written(directory: &str, key: &str, chain: &str) -> String {
    format!("Fetched by bgproxy, which replaces it in time.\n{FROM}{directory}\n\n{key}{chain}")
}

/// Reads what [`written`] wrote.
///
/// # Errors
/// [`Fault`].
pub(super) fn parse(pem: &[u8]) -> Result<Fetched, Fault> {
    let certificate = Chain::parse(pem)?.with_key(pem)?;
    let text = String::from_utf8_lossy(pem);
    let directory = text.lines().find_map(|line| line.strip_prefix(FROM)).unwrap_or_default().to_owned();
    Ok(Fetched { directory, certificate })
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
        for name in ["a.test", "b.test"] {
            let pair = Authority::new().server(&[name]);
            kept.keep("a.test", &written(DIRECTORY, &pair.key, &pair.cert)).expect("kept");
            let fetched = kept.certificate("a.test").expect("a certificate");
            assert_eq!((fetched.certificate.names, fetched.directory.as_str()), (vec![name.to_owned()], DIRECTORY));
        }
        let files = fs::read_dir(kept.path("a.test").parent().expect("a directory")).expect("files");
        assert_eq!(files.count(), 1);
    }

    #[test]
    fn what_is_damaged_is_as_good_as_none() {
        let (_dir, kept) = kept();
        let (one, other) = (Authority::new().server(&["a.test"]), Authority::new().server(&["a.test"]));
        for text in [written(DIRECTORY, &one.key, &other.cert), written(DIRECTORY, "", &one.cert), String::new()] {
            kept.keep("a.test", &text).expect("kept");
            assert!(kept.certificate("a.test").is_none(), "{text}");
        }
        fs::write(kept.path("a.test").with_file_name("account.json"), "{").expect("written");
        assert!(kept.identity(DIRECTORY).is_none());
    }
}
