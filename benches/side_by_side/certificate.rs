//! Which certificate do the proxies have? One for all, of an authority made for the run.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::site::HOST;

/// A certificate of its own authority, with an ECDSA key on P-256.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as HAProxy has it.
    pub(crate) both: PathBuf,
    authority: CertificateDer<'static>,
}

impl Certificate {
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Certificate> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "the authority of a bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()?)?;
        let server = key()?;
        let cert = CertificateParams::new(vec![HOST.to_owned(), "localhost".to_owned()])?
            .signed_by(&server, &authority)?
            .pem();
        let server = server.serialize_pem();
        let certificate = Certificate {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            both: dir.join("both.pem"),
            authority: authority.der().clone(),
        };
        fs::write(&certificate.cert, &cert)?;
        for (file, text) in [(&certificate.key, server.clone()), (&certificate.both, cert + &server)] {
            fs::write(file, text)?;
            fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        Ok(certificate)
    }

    /// Whom a client has to trust.
    pub(crate) fn authority(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        Ok(roots)
    }
}

fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}
