//! Handshakes with a client of rustls, in memory: what is agreed upon, remembered and refused.

use rcgen::DnType;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion};

use super::*;
use crate::certificates::authorities;
use crate::certificates::tests::{Authority, Pair};

struct Setup {
    authority: Authority,
    certificates: Arc<Certificates>,
    challenges: Arc<Challenges>,
}

impl Setup {
    fn new(names: &[&[&str]]) -> Setup {
        let authority = Authority::new();
        let certificates = Arc::new(Certificates::default());
        let read: Vec<_> = names.iter().map(|names| authority.server(names).read().expect("a pair")).collect();
        certificates.replace(&read);
        Setup { authority, certificates, challenges: Arc::default() }
    }

    fn server(&self) -> Arc<ServerConfig> {
        server_config(&self.certificates, &self.challenges, None).expect("rules")
    }

    fn demanding(&self) -> Arc<ServerConfig> {
        server_config(&self.certificates, &self.challenges, Some(self.roots())).expect("rules")
    }

    fn roots(&self) -> RootCertStore {
        authorities(self.authority.0.pem().as_bytes()).expect("an authority")
    }

    /// A client that trusts the authority.
    fn client(&self, own: Option<&Pair>) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(self.roots());
        match own {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                config.with_client_auth_cert(vec![cert], key).expect("a pair")
            }
        }
    }
}

/// Both ends after a handshake, with what each sends behind it read; or why the server ended it.
fn meet(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(ServerConnection, ClientConnection), io::Error> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(client.clone(), name).expect("a client");
    let mut server = ServerConnection::new(server.clone()).expect("a server");
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("written");
        }
        feed(&mut server, &wire)?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("written");
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("read");
            // What it holds against the server, it tells it by the next message.
            let _told = client.process_new_packets();
        }
    }
    Ok((server, client))
}

/// As tokio-rustls does, rustls' errors become those of the connection.
fn feed(server: &mut ServerConnection, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes)?;
        server.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

#[track_caller]
fn refused(server: &Arc<ServerConfig>, client: ClientConfig) -> &'static str {
    HandshakeFailure::of(&meet(server, &Arc::new(client), "a.test").expect_err("a failure")).label()
}

#[test]
fn the_newest_of_everything_is_agreed_upon() {
    let setup = Setup::new(&[&["a.test"]]);
    let mut client = setup.client(None);
    client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let (server, _) = meet(&setup.server(), &Arc::new(client), "a.test").expect("a handshake");
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.negotiated_key_exchange_group().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(subject(&server), None);
}

#[test]
fn a_client_without_alpn_is_welcome_and_one_with_another_protocol_is_not() {
    let setup = Setup::new(&[&["a.test"]]);
    let (server, _) = meet(&setup.server(), &Arc::new(setup.client(None)), "a.test").expect("a handshake");
    assert_eq!(server.alpn_protocol(), None);
    let mut client = setup.client(None);
    client.alpn_protocols = vec![b"smtp".to_vec()];
    assert_eq!(refused(&setup.server(), client), "tls_no_protocol");
}

#[test]
fn an_authority_that_looks_gets_the_answer_to_its_challenge_and_nothing_else() {
    let setup = Setup::new(&[&["a.test"], &["b.test"]]);
    let looking = |protocols: &[&[u8]]| {
        let mut client = setup.client(None);
        client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        client
    };
    let b = setup.certificates.find(Some("b.test")).expect("a certificate");
    // It would be told apart from the one in use by its name.
    let posted = setup.challenges.answer_handshake("a.test", &b);
    let shown = |protocols: &[&[u8]], name: &str| meet(&setup.server(), &Arc::new(looking(protocols)), name);
    let failure = shown(&[ACME_TLS], "a.test").expect_err("a certificate for another name");
    assert_eq!(HandshakeFailure::of(&failure).label(), "tls_refused");
    let (server, _) = shown(&[b"h2", ACME_TLS], "a.test").expect("whoever speaks h2 is a client like any other");
    assert!(!was_challenge(&server));
    drop(posted);
    assert_eq!(refused(&setup.server(), looking(&[ACME_TLS])), "tls_unprepared");
    let _posted = setup.challenges.answer_handshake("b.test", &b);
    let (server, _) = shown(&[ACME_TLS], "b.test").expect("the answer");
    assert!(was_challenge(&server));
}

#[test]
fn each_name_gets_its_certificate_and_an_unknown_one_the_first() {
    let setup = Setup::new(&[&["a.test"], &["b.test", "*.b.test"]]);
    let client = Arc::new(setup.client(None));
    for name in ["a.test", "b.test", "WWW.b.test"] {
        meet(&setup.server(), &client, name).expect("a certificate that the client takes for the name");
    }
    let failure = meet(&setup.server(), &client, "c.test").expect_err("a certificate for another name");
    assert_eq!(HandshakeFailure::of(&failure).label(), "tls_refused");
}

#[test]
fn a_session_goes_on_over_replaced_certificates_but_not_for_another_name_nor_listener() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let setup = Setup::new(&[&["a.test", "b.test"]]);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let client = client.expect("a version").with_root_certificates(setup.roots()).with_no_client_auth();
        let client = Arc::new(client);
        let kind = |server: &Arc<ServerConfig>, name: &str| {
            meet(server, &client, name).expect("a handshake").0.handshake_kind().expect("one kind")
        };
        let server = setup.server();
        assert_ne!(kind(&server, "a.test"), HandshakeKind::Resumed);
        assert_eq!(kind(&server, "a.test"), HandshakeKind::Resumed);
        setup.certificates.replace([&setup.authority.server(&["a.test", "b.test"]).read().expect("a pair")]);
        assert_eq!(kind(&server, "a.test"), HandshakeKind::Resumed, "{version:?}");
        assert_ne!(kind(&server, "b.test"), HandshakeKind::Resumed);
        assert_ne!(kind(&setup.server(), "a.test"), HandshakeKind::Resumed);
    }
}

#[test]
fn a_client_is_known_by_its_certificate_which_is_verified_for_each_connection() {
    let setup = Setup::new(&[&["a.test"]]);
    let server = setup.demanding();
    let subject_of = |own: &Pair| {
        let client = Arc::new(setup.client(Some(own)));
        [(); 2].map(|()| {
            let (server, _) = meet(&server, &client, "a.test").expect("a handshake");
            assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
            subject(&server).expect("a subject").to_str().expect("ASCII").to_owned()
        })
    };
    let alice = setup.authority.client(&[(DnType::OrganizationName, "Example"), (DnType::CommonName, "alice")]);
    assert_eq!(subject_of(&alice), ["CN=alice,O=Example"; 2]);
    // Nobody becomes another one by what stands in a value.
    let forger = setup.authority.client(&[(DnType::CommonName, " alice,O=Example\r\nHost: evil \"é\" ")]);
    let written = r#"CN=\ alice\,O=Example\0D\0AHost: evil \"\C3\A9\"\ "#;
    assert_eq!(subject_of(&forger), [written; 2]);
    let odd = setup.authority.client(&[(DnType::CustomDnType(vec![1, 2, 3]), "odd"), (DnType::CommonName, "#1")]);
    assert_eq!(subject_of(&odd), [r"CN=\#1,1.2.3=#0C036F6464"; 2]);
}

#[test]
fn without_a_certificate_that_can_be_verified_nobody_enters_where_one_is_demanded() {
    let setup = Setup::new(&[&["a.test"]]);
    let server = setup.demanding();
    assert_eq!(refused(&server, setup.client(None)), "tls_no_certificate");
    let stranger = Authority::new().client(&[(DnType::CommonName, "mallory")]);
    assert_eq!(refused(&server, setup.client(Some(&stranger))), "tls_client_certificate");
    // One for servers is none for clients.
    assert_eq!(refused(&server, setup.client(Some(&setup.authority.server(&["a.test"])))), "tls_client_certificate");

    // A ticket from where none was demanded opens nothing.
    let client = Arc::new(setup.client(None));
    meet(&setup.server(), &client, "a.test").expect("a handshake");
    let failure = meet(&server, &client, "a.test").expect_err("no certificate");
    assert_eq!(HandshakeFailure::of(&failure), HandshakeFailure::NoCertificate);
}

#[test]
fn what_is_no_tls_is_told_from_what_is_too_old() {
    let setup = Setup::new(&[&["a.test"]]);
    let of = |bytes: &[u8]| {
        let mut server = ServerConnection::new(setup.server()).expect("a server");
        HandshakeFailure::of(&feed(&mut server, bytes).expect_err("a failure")).label()
    };
    assert_eq!(of(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), "tls_not_tls");
    assert_eq!(of(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "tls_not_tls");
    // A hello of TLS 1.0 with one cipher.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 47, 1, 0]);
    assert_eq!(of(&hello), "tls_incompatible");
}

#[test]
fn a_client_that_leaves_is_told_from_one_that_is_slow() {
    let of = |kind: io::ErrorKind| HandshakeFailure::of(&io::Error::from(kind)).label();
    assert_eq!(of(io::ErrorKind::UnexpectedEof), "tls_client_gone");
    assert_eq!(of(io::ErrorKind::ConnectionReset), "tls_client_gone");
    assert_eq!(of(io::ErrorKind::TimedOut), "tls_timeout");
    assert_eq!(of(io::ErrorKind::Other), "tls_failed");
}

#[test]
fn the_failures_page_names_every_handshake_failure() {
    let page = include_str!("../../../docs/failures.md");
    for failure in HandshakeFailure::ALL {
        let row = format!("| `{}` | ", failure.label());
        assert!(page.contains(&row), "docs/failures.md lacks the row {row}");
    }
}
