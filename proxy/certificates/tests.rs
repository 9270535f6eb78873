//! Which names a certificate answers, and what a faulty pair is told to be.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::*;

/// An authority, and what it signed.
pub(crate) struct Authority(pub(crate) CertifiedIssuer<'static, KeyPair>);

/// A pair as it stands in files.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        Authority(issuer.expect("a certificate"))
    }

    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    pub(crate) fn client(&self, subject: &[(DnType, &str)]) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("signed").pem();
        Pair { cert, key: key.serialize_pem() }
    }
}

impl Pair {
    pub(crate) fn read(&self) -> Result<Certificate, Fault> {
        Chain::parse(self.cert.as_bytes())?.with_key(self.key.as_bytes())
    }
}

#[test]
fn a_name_is_answered_by_its_own_certificate_then_by_a_wildcard_then_by_the_first() {
    let authority = Authority::new();
    let first = authority.server(&["first.example.com", "FIRST.example.net"]).read().expect("a pair");
    let wildcard = authority.server(&["*.example.com"]).read().expect("a pair");
    let exact = authority.server(&["www.example.com", "first.example.com"]).read().expect("a pair");
    let certificates = Certificates::default();
    assert!(certificates.find(Some("www.example.com")).is_none());
    certificates.replace([&first, &wildcard, &exact]);
    let answer = |name: Option<&str>| {
        let found = certificates.find(name).expect("an answer");
        let of = |one: &&(&str, &Certificate)| Arc::ptr_eq(&found, &one.1.key);
        [("first", &first), ("wildcard", &wildcard), ("exact", &exact)].iter().find(of).expect("one of them").0
    };
    assert_eq!(answer(Some("www.example.com")), "exact");
    assert_eq!(answer(Some("other.example.com")), "wildcard");
    assert_eq!(answer(Some("first.example.net")), "first");
    // The earlier of two.
    assert_eq!(answer(Some("first.example.com")), "first");
    // A wildcard is one label, not two and not none.
    for name in ["a.b.example.com", "example.com", "com", "", ".", "elsewhere.test"] {
        assert_eq!(answer(Some(name)), "first", "{name}");
    }
    assert_eq!(answer(None), "first");
    certificates.replace([&exact]);
    assert_eq!(answer(Some("other.example.com")), "exact");
}

#[test]
fn a_certificate_tells_its_names_and_when_it_expires() {
    let authority = Authority::new();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let mut params = CertificateParams::new(vec!["A.example.com".to_owned(), "192.0.2.1".to_owned()]).expect("names");
    params.not_after = at.into();
    let read = authority.sign(params).read().expect("a pair");
    assert_eq!((read.names, read.not_after), (vec!["a.example.com".to_owned()], 2_000_000_000));
}

/// An older form of the same key: PKCS #8 is an envelope around it.
fn unwrapped(key: &KeyPair, label: &str) -> String {
    use x509_parser::asn1_rs::{FromDer, Integer, OctetString, Sequence};
    let pkcs8 = key.serialize_der();
    let (_, envelope) = Sequence::from_der(&pkcs8).expect("a sequence");
    let (rest, _version) = Integer::from_der(&envelope.content).expect("a version");
    let (rest, _algorithm) = Sequence::from_der(rest).expect("an algorithm");
    let (_, inner) = OctetString::from_der(rest).expect("the key");
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(inner.as_ref()))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let number = (0..3).fold(0, |number, at| number << 8 | u32::from(*piece.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at)) as usize & 63];
            text.push(if at > piece.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[test]
fn keys_are_read_as_pkcs8_sec1_and_pkcs1() {
    for (algorithm, older) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Some("EC PRIVATE KEY")),
        (&rcgen::PKCS_RSA_SHA256, Some("RSA PRIVATE KEY")),
        (&rcgen::PKCS_ED25519, None),
    ] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let params = CertificateParams::new(vec!["a.test".to_owned()]).expect("names");
        let cert = params.self_signed(&key).expect("signed").pem();
        for text in [Some(key.serialize_pem()), older.map(|label| unwrapped(&key, label))].into_iter().flatten() {
            Pair { cert: cert.clone(), key: text }.read().expect("a pair");
        }
    }
}

#[test]
fn a_faulty_pair_is_told_what_it_is() {
    let authority = Authority::new();
    let (good, other) = (authority.server(&["a.test"]), authority.server(&["b.test"]));
    let told = |cert: &str, key: &str| {
        let fault = Pair { cert: cert.to_owned(), key: key.to_owned() }.read().expect_err("a fault");
        assert!(!fault.hint().is_empty());
        fault.to_string()
    };
    assert_eq!(told(&good.cert, &other.key), "the private key in it does not belong to the certificate");
    assert_eq!(told(&good.key, &good.cert), "there is no certificate in it");
    assert_eq!(told(&good.cert, &good.cert), "there is no private key in it");
    assert_eq!(told("", ""), "there is no certificate in it");
    // A chain in the wrong order.
    let upside_down = format!("{}{}", authority.0.pem(), good.cert);
    assert_eq!(told(&upside_down, &good.key), "the private key in it does not belong to the certificate");
    // Half of a file, as it is seen while it is written.
    let half = |text: &str| text[..text.len() / 2].to_owned();
    assert!(told(&half(&good.cert), &good.key).starts_with("it is damaged"));
    assert!(told(&good.cert, &half(&good.key)).starts_with("it is damaged"));
    // The second certificate is damaged where no handshake of ours would find it.
    let empty = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    assert!(told(&format!("{}{empty}", good.cert), &good.key).starts_with("certificate 2 in it is damaged"));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(told(&good.cert, encrypted), "the private key in it is encrypted");
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n-----END RSA PRIVATE KEY-----\n";
    assert_eq!(told(&good.cert, older), "the private key in it is encrypted");
    let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    assert!(told(&good.cert, key).starts_with("the private key in it cannot be used"));
}

#[test]
fn authorities_are_at_least_one_certificate() {
    let authority = Authority::new();
    assert_eq!(authorities(authority.0.pem().as_bytes()).expect("one").len(), 1);
    assert!(matches!(authorities(b""), Err(Fault::NoCertificate)));
}

// Accepted once, and then every handshake failed.
#[test]
fn a_chain_that_fits_into_no_handshake_is_a_fault() {
    let pair = Authority::new().server(&["a.example.com"]);
    let long = Pair { cert: pair.cert.repeat(200), key: pair.key };
    let fault = long.read().expect_err("too long");
    assert!(matches!(fault, Fault::TooLong { bytes } if bytes > LONGEST), "{fault}");
}
