//! How does a client speak TLS with us? The rules of a listener's handshakes, who a client says it is by certificate,
//! and what a handshake that failed is called.

use std::fmt::Write;
use std::io;
use std::sync::Arc;

use http::HeaderValue;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use x509_parser::asn1_rs::{Oid, ToDer};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::certificates::Certificates;
use crate::challenges::{ACME_TLS, Challenges};

/// What we speak inside of TLS, the better first. Nothing follows upon the last one: the handshake was all of it.
const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", ACME_TLS];

/// Why a listener cannot have TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls does not take the parts together, or has no random bytes for its ticket keys.
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
    /// The authorities of client certificates are of no use.
    #[error("client certificates cannot be verified")]
    Verifier(#[from] VerifierBuilderError),
}

/// The rules of one listener's handshakes, for all workers and for as long as the daemon runs: certificates are
/// replaced behind them.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(
    certificates: &Arc<Certificates>,
    challenges: &Arc<Challenges>,
    client_ca: Option<RootCertStore>,
) -> Result<Arc<ServerConfig>, TlsError> {
    // Named, not the process' default, which would be whatever a library put there first. It prefers X25519MLKEM768.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let demands = client_ca.is_some();
    let config = match client_ca {
        None => versions.with_no_client_auth(),
        Some(authorities) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider).build()?;
            versions.with_client_cert_verifier(verifier)
        }
    };
    let mut config = config
        .with_cert_resolver(Arc::new(Resolver { certificates: certificates.clone(), challenges: challenges.clone() }));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    if demands {
        // Whoever goes on with a session is not verified anew, and gets the next ticket for it: a certificate would be
        // good long after it has expired.
        config.send_tls13_tickets = 0;
    } else {
        // A session goes on with any worker, because all have this ticketer, and over a replaced certificate, because
        // this configuration stays. It goes on with no other listener: a ticket got where nobody asked for a client's
        // certificate must not open one that demands it.
        config.ticketer = Ticketer::new()?;
    }
    // What goes on without a ticket would need a memory with a lock, shared by all workers.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Early data can be sent a second time by whoever recorded it; and nothing is said to a client whose certificate
    // has not been seen. Both are rustls' defaults, and are not to change under us.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(Arc::new(config))
}

/// Which certificate answers a client.
#[derive(Debug)]
struct Resolver {
    certificates: Arc<Certificates>,
    challenges: Arc<Challenges>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has made the name lower case.
        let name = hello.server_name();
        // An authority that looks offers this and nothing else (RFC 8737, section 3).
        if hello.alpn().is_some_and(|offered| offered.eq([ACME_TLS])) {
            return self.challenges.to_handshake(name?);
        }
        self.certificates.find(name)
    }
}

/// Whether an authority looked whether a host is ours. It has seen it then, and nothing follows.
pub fn was_challenge(connection: &ServerConnection) -> bool {
    connection.alpn_protocol() == Some(ACME_TLS)
}

// === who the client is ===

/// The subject of the client's certificate, which has been verified, as RFC 4514 writes it: `CN=alice,O=Example`.
/// None without one. What is not printable ASCII is escaped (`\C3\A9`), so nobody can put a line break into a head.
pub fn subject(connection: &ServerConnection) -> Option<HeaderValue> {
    let certificate = connection.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    HeaderValue::try_from(written(certificate.subject())).ok()
}

fn written(name: &X509Name<'_>) -> String {
    // The last one first (RFC 4514, 2.1).
    let mut parts: Vec<String> = name.iter().map(|part| part.iter().map(pair).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

fn pair(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type();
    match (short(kind), attribute.as_str()) {
        (Some(short), Ok(value)) => format!("{short}={}", escaped(value)),
        // Whoever reads it may not know the type, so it is given whole (RFC 4514, 2.4).
        _ => {
            let mut text = format!("{}=#", kind.to_id_string());
            // Bytes that were parsed can be written again.
            for byte in attribute.attr_value().to_der_vec().unwrap_or_default() {
                let _ = write!(text, "{byte:02X}");
            }
            text
        }
    }
}

/// The names of RFC 4514, and two that everybody else writes too.
fn short(kind: &Oid<'_>) -> Option<&'static str> {
    let names = [
        (oid::OID_X509_COMMON_NAME, "CN"),
        (oid::OID_X509_LOCALITY_NAME, "L"),
        (oid::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (oid::OID_X509_ORGANIZATION_NAME, "O"),
        (oid::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (oid::OID_X509_COUNTRY_NAME, "C"),
        (oid::OID_X509_STREET_ADDRESS, "STREET"),
        (oid::OID_DOMAIN_COMPONENT, "DC"),
        (oid::OID_USERID, "UID"),
        (oid::OID_X509_SERIALNUMBER, "serialNumber"),
        (oid::OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
    ];
    names.into_iter().find(|(known, _)| known == kind).map(|(_, name)| name)
}

/// A value in which nothing can be taken for the next part of the name.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                // Writing to a `String` does not fail.
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}

// === what failed ===

/// One row per name: what it is called in metrics, the log and docs/failures.md, and what happened.
macro_rules! failures {
    ($($failure:ident = $label:literal, $sentence:literal;)*) => {
        /// Why a handshake failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum HandshakeFailure {
            $(#[doc = $sentence] $failure,)*
        }

        impl HandshakeFailure {
            /// Every one, in the order of their declaration.
            pub const ALL: [HandshakeFailure; [$($label),*].len()] = [$(HandshakeFailure::$failure),*];

            /// Its name in metrics, log and documents.
            pub fn label(self) -> &'static str {
                match self {
                    $(HandshakeFailure::$failure => $label,)*
                }
            }
        }
    };
}

failures! {
    NotTls = "tls_not_tls", "What the client sent is not TLS.";
    Incompatible = "tls_incompatible", "Client and listener have no version or cipher in common.";
    NoProtocol = "tls_no_protocol", "The client speaks neither h2 nor http/1.1 inside of TLS.";
    NoCertificate = "tls_no_certificate", "The client has no certificate, and the listener demands one.";
    Unprepared = "tls_unprepared", "There is no certificate to answer with yet.";
    ClientCertificate = "tls_client_certificate", "The client's certificate is not to be trusted.";
    Refused = "tls_refused", "The client ended the handshake, most often because it does not trust our certificate.";
    Timeout = "tls_timeout", "The handshake took too long.";
    ClientGone = "tls_client_gone", "The client went away in the midst of the handshake.";
    Failed = "tls_failed", "The handshake failed in another way.";
}

impl HandshakeFailure {
    /// What an error of rustls, or of the connection below it, is called.
    pub fn of(error: &io::Error) -> HandshakeFailure {
        use rustls::Error;
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match (tls, error.kind()) {
            (Some(Error::InvalidMessage(_) | Error::PeerSentOversizedRecord), _) => HandshakeFailure::NotTls,
            (Some(Error::PeerIncompatible(_)), _) => HandshakeFailure::Incompatible,
            (Some(Error::NoApplicationProtocol), _) => HandshakeFailure::NoProtocol,
            (Some(Error::General(what)), _) if what.contains("certificate chain") => HandshakeFailure::Unprepared,
            (Some(Error::NoCertificatesPresented), _) => HandshakeFailure::NoCertificate,
            (Some(Error::InvalidCertificate(_)), _) => HandshakeFailure::ClientCertificate,
            (Some(Error::AlertReceived(_)), _) => HandshakeFailure::Refused,
            (Some(_), _) => HandshakeFailure::Failed,
            (None, io::ErrorKind::TimedOut) => HandshakeFailure::Timeout,
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected,
            ) => HandshakeFailure::ClientGone,
            (None, _) => HandshakeFailure::Failed,
        }
    }
}

#[cfg(test)]
mod tests;
