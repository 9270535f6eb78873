//! How do clients know that they speak to the right server?

use std::fmt;
use std::sync::Arc;

use rcgen::{KeyPair, PublicKeyData};
use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256};

use super::authority::{Authority, Signed};

/// How a client decides whether a server is the one it asked for.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(crate) name: ServerName<'static>,
    config: rustls::ClientConfig,
}

/// What a client offers.
struct Offer {
    versions: Vec<&'static SupportedProtocolVersion>,
    groups: Vec<&'static dyn SupportedKxGroup>,
}

impl Offer {
    fn everything() -> Offer {
        Offer { versions: rustls::ALL_VERSIONS.to_vec(), groups: aws_lc_rs::default_provider().kx_groups }
    }
}

impl Trust {
    /// Trust in an authority, of a client that asks for the server by this name.
    pub(crate) fn of(authority: &Authority, name: &str) -> Trust {
        Trust::with(authority, name, None, Offer::everything())
    }

    /// The same, of a client that shows a certificate.
    pub(crate) fn showing(authority: &Authority, name: &str, client: &Signed) -> Trust {
        Trust::with(authority, name, Some(client), Offer::everything())
    }

    /// The same, of a client that knows one version of TLS only.
    pub(crate) fn of_version(authority: &Authority, name: &str, version: &'static SupportedProtocolVersion) -> Trust {
        Trust::with(authority, name, None, Offer { versions: vec![version], ..Offer::everything() })
    }

    /// The same, of a client that knows one way only to agree on keys.
    pub(crate) fn of_group(authority: &Authority, name: &str, group: &'static dyn SupportedKxGroup) -> Trust {
        Trust::with(authority, name, None, Offer { groups: vec![group], ..Offer::everything() })
    }

    fn with(authority: &Authority, name: &str, client: Option<&Signed>, offer: Offer) -> Trust {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate(&authority.pem())).expect("a root");
        let provider = CryptoProvider { kx_groups: offer.groups, ..aws_lc_rs::default_provider() };
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
        let config = config.with_protocol_versions(&offer.versions).expect("versions").with_root_certificates(roots);
        let mut config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).expect("a key");
                config.with_client_auth_cert(vec![certificate(&client.cert)], key).expect("a client's certificate")
            }
        };
        // Each connection is to be judged by the certificate that is in use then.
        config.resumption = rustls::client::Resumption::disabled();
        Trust { name: name.to_owned().try_into().expect("a server's name"), config }
    }

    /// From here on it resumes sessions, as browsers do.
    pub(crate) fn resuming(mut self) -> Trust {
        self.config.resumption = rustls::client::Resumption::in_memory_sessions(64);
        self
    }

    /// What TLS needs to know for a connection that speaks one of these protocols (ALPN).
    pub(crate) fn config(&self, protocols: &[&str]) -> Arc<rustls::ClientConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "TLS to {:?}", self.name)
    }
}

/// The bytes of a certificate, as a client is shown them.
pub(crate) fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// How Chromium names a public key that it shall trust: `--ignore-certificate-errors-spki-list=THIS`.
pub(crate) fn public_key_name(signed: &Signed) -> String {
    let key = KeyPair::from_pem(&signed.key).expect("a key");
    base64(&Sha256::digest(key.subject_public_key_info()))
}

/// RFC 4648, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = char::from(LETTERS[bits >> (18 - 6 * at) & 63]);
            text.push(if at <= three.len() { letter } else { '=' });
        }
    }
    text
}
