//! Which certificate answers a name? The one made for it, exact before wildcard; otherwise the first.
//!
//! Shared by all workers: a handshake looks into what is in use without a lock, and control replaces it as a whole.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Bytes of certificates that a client is sent at most: rustls and others refuse a message of a handshake above 64 KiB.
const LONGEST: usize = 60 * 1024;

/// What is wrong with the file of a certificate, a key or authorities.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The PEM breaks off, or what is between its marks is not base64.
    #[error("it is damaged ({0})")]
    Pem(pem::Error),
    /// Nothing between the right marks.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// What is between the marks is no certificate.
    #[error("certificate {nth} in it is damaged ({why})")]
    Certificate {
        /// Which, counted from 1.
        nth: usize,
        /// What its reader said.
        why: X509Error,
    },
    /// A certificate that rustls cannot read or does not take for an authority's.
    #[error("certificate {nth} in it cannot be used ({why})")]
    Unfit {
        /// Which, counted from 1.
        nth: usize,
        /// What rustls said.
        why: rustls::Error,
    },
    /// More certificates than one message of a handshake can hold.
    #[error("its certificates have {bytes} bytes together, more than clients take")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// Nothing between the right marks.
    #[error("there is no private key in it")]
    NoKey,
    /// A passphrase is needed to read the key.
    #[error("the private key in it is encrypted")]
    Encrypted,
    /// The key is damaged, or of a kind that TLS does not use.
    #[error("the private key in it cannot be used ({0})")]
    Key(rustls::Error),
    /// The key is another certificate's.
    #[error("the private key in it does not belong to the certificate")]
    Mismatch,
}

impl Fault {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Fault::Pem(_) | Fault::Certificate { .. } | Fault::Unfit { .. } => {
                "`openssl storeutl -noout -text FILE` shows what is in it"
            }
            Fault::TooLong { .. } => "leave only the server's own certificate and those that lead to its authority",
            Fault::NoCertificate => "it must be PEM, with `-----BEGIN CERTIFICATE-----`",
            Fault::NoKey => {
                "it must be PEM, with `-----BEGIN PRIVATE KEY-----`; perhaps `cert` and `key` are interchanged"
            }
            Fault::Encrypted => {
                "nobody is there to type the passphrase; `openssl pkey -in FILE -out NEW` writes the key without it"
            }
            Fault::Key(_) => "take a key of the kind ECDSA (P-256, P-384, P-521), Ed25519 or RSA (2048 bits or more)",
            Fault::Mismatch => {
                "the server's own certificate must be the first in its file; for a pair `openssl x509 -noout -pubkey \
                 -in CERT` and `openssl pkey -pubout -in KEY` print the same"
            }
        }
    }
}

/// A server's certificate and those that lead to its authority.
#[derive(Debug)]
pub struct Chain {
    names: Vec<String>,
    not_before: u64,
    not_after: u64,
    ders: Vec<CertificateDer<'static>>,
}

/// A certificate with its chain and its private key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The names it is made for, in lower case; `*.` stands for one label.
    pub names: Vec<String>,
    /// When it became valid, in seconds since 1970.
    pub not_before: u64,
    /// When it expires, in seconds since 1970.
    pub not_after: u64,
    key: Arc<CertifiedKey>,
}

impl Chain {
    /// Reads the certificates of a PEM file.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn parse(pem: &[u8]) -> Result<Chain, Fault> {
        let ders = certificates_in(pem)?;
        let mut parsed = Vec::with_capacity(ders.len());
        for (at, der) in ders.iter().enumerate() {
            let damaged = |why: x509_parser::nom::Err<X509Error>| Fault::Certificate { nth: at + 1, why: why.into() };
            parsed.push(X509Certificate::from_der(der).map_err(damaged)?.1);
        }
        let bytes = ders.iter().map(|der| der.len()).sum();
        if bytes > LONGEST {
            return Err(Fault::TooLong { bytes });
        }
        let (Some(leaf), Some(der)) = (parsed.first(), ders.first()) else { return Err(Fault::NoCertificate) };
        ParsedCertificate::try_from(der).map_err(|why| Fault::Unfit { nth: 1, why })?;
        let names = names(leaf).map_err(|why| Fault::Certificate { nth: 1, why })?;
        // What expired before 1970 has expired.
        let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let (not_before, not_after) = (seconds(leaf.validity().not_before), seconds(leaf.validity().not_after));
        drop(parsed);
        Ok(Chain { names, not_before, not_after, ders })
    }

    /// Puts it together with the private key of a PEM file, which must be its own.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn with_key(self, pem: &[u8]) -> Result<Certificate, Fault> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|why| match why {
            // PKCS #8 says so in its mark, what came before it in a line below.
            _ if pem.windows(9).any(|window| window == b"ENCRYPTED") => Fault::Encrypted,
            pem::Error::NoItemsFound => Fault::NoKey,
            why => Fault::Pem(why),
        })?;
        let Chain { names, not_before, not_after, ders } = self;
        let key = CertifiedKey::new(ders, any_supported_type(&key).map_err(Fault::Key)?);
        match key.keys_match() {
            // Unknown is a key that does not tell its public half; none of the supported ones is so.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(Fault::Mismatch),
            Err(why) => return Err(Fault::Unfit { nth: 1, why }),
        }
        Ok(Certificate { names, not_before, not_after, key: Arc::new(key) })
    }
}

impl Certificate {
    /// The server's own certificate, without those that lead to its authority.
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.first()
    }
}

/// Reads the authorities of a PEM file, by which client certificates are verified.
///
/// # Errors
/// [`Fault`].
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, Fault> {
    let mut authorities = RootCertStore::empty();
    for (at, der) in certificates_in(pem)?.into_iter().enumerate() {
        authorities.add(der).map_err(|why| Fault::Unfit { nth: at + 1, why })?;
    }
    Ok(authorities)
}

/// At least one.
fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let ders = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(Fault::Pem)?;
    if ders.is_empty() { Err(Fault::NoCertificate) } else { Ok(ders) }
}

/// Of the subjectAltName alone, as clients do; the common name is nothing to them any more.
fn names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, X509Error> {
    let Some(names) = certificate.subject_alternative_name()? else { return Ok(Vec::new()) };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(names.collect())
}

/// The certificates in use.
#[derive(Default)]
pub struct Certificates(ArcSwap<Answers>);

#[derive(Default)]
struct Answers {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what stands behind the `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// From now on handshakes are answered with these; of two for one name, with the earlier one.
    pub fn replace<'a>(&self, certificates: impl IntoIterator<Item = &'a Certificate>) {
        let mut answers = Answers::default();
        for certificate in certificates {
            answers.first.get_or_insert_with(|| certificate.key.clone());
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut answers.wildcard, domain),
                    None => (&mut answers.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_insert_with(|| certificate.key.clone());
            }
        }
        self.0.store(Arc::new(answers));
    }

    /// The answer for a client that named this host, in lower case, or none.
    pub fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let answers = self.0.load();
        let made_for = |name: &str| {
            let wildcard = || answers.wildcard.get(name.split_once('.')?.1);
            answers.exact.get(name).or_else(wildcard)
        };
        name.and_then(made_for).or(answers.first.as_ref()).cloned()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.0.load();
        f.debug_struct("Certificates")
            .field("exact", &answers.exact.keys())
            .field("wildcard", &answers.wildcard.keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
