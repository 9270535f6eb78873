//! Where does the demo's certificate come from? It is made anew at each start, signs itself, and is nobody's authority.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer than the door lets a certificate be before it warns of its end.
const VALID: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Makes `cert.pem` and `key.pem` (ECDSA, P-256) in this directory, for these names.
///
/// # Errors
/// They cannot be written, or are there already.
pub(super) fn make(dir: &Path, names: &[&str]) -> io::Result<(PathBuf, PathBuf)> {
    let (certificate, private) = signed(names).map_err(io::Error::other)?;
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    write(&cert, 0o644, &certificate)?;
    write(&key, 0o600, &private)?;
    Ok((cert, key))
}

/// A certificate and its key, as PEM.
fn signed(names: &[&str]) -> Result<(String, String), rcgen::Error> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "bgproxy demo");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + since;
    // From yesterday on: a container's clock may be a little behind.
    params.not_before = now - DAY;
    params.not_after = now + VALID;
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| super::named(path, error))
}
