//! What TLS has to do with: who is sent to it, whose certificates count, what is agreed on, how it ends.

use std::time::{Duration, Instant, SystemTime};

use bgproxy_conf::wire::What;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion};
use serde_json::{Value, json};

use crate::harness::door::{Builder, NAME};
use crate::harness::http2::{Http2, runtime};
use crate::harness::raw::{Failure, Target, request};
use crate::harness::trust::certificate;
use crate::harness::{Act, Authority, DEADLINE, Door, Fake, Raw, Response, Trust, text_of, wait_until};

fn get(path: &str) -> Vec<u8> {
    request("GET", path, &[("Host", NAME)], b"")
}

/// Its first listener speaks TLS, the second is in clear and sends clients there.
fn redirecting(authority: &Authority) -> Builder {
    let listeners =
        json!([{ "address": "127.0.0.1:0", "tls": true }, { "address": "127.0.0.1:0", "redirect_https": true }]);
    Door::builder().tls(authority).set("listen", listeners)
}

/// Waits until so many connections have failed for this reason, and none for another.
#[track_caller]
fn assert_turned_away(door: &Door, count: f64, reason: &str) {
    let failures = |labels: &[(&str, &str)]| door.metrics().sum("bgproxy_connection_failures_total", labels);
    wait_until(&format!("{count} of {reason}"), DEADLINE, || failures(&[("reason", reason)]) == count);
    assert_eq!(failures(&[]), count, "{reason} alone");
}

fn location(answer: &Response) -> (u16, Option<&str>) {
    (answer.status, answer.header("location"))
}

// === who is sent elsewhere ===

#[test]
fn clients_in_clear_are_sent_to_the_listener_with_tls() {
    let authority = Authority::new();
    let (door, blue) = redirecting(&authority).before(Fake::echoes);
    let (clear, port) = (door.listener(1), door.addr().port());
    let mut client = Raw::connect(clear);
    for (method, host, target, body) in [
        ("GET", "portal.example", "/a%20b/?c=d&e=%2F", ""),
        ("POST", "portal.example:8080", "/form?x=1", "a body"),
        ("DELETE", "portal.example", "/", ""),
        ("GET", "[::1]:80", "/v6", ""),
    ] {
        client.send(request(method, target, &[("Host", host)], body.as_bytes()));
        let answer = client.response();
        let name = host.trim_end_matches(":8080").trim_end_matches(":80");
        assert_eq!(location(&answer), (308, Some(format!("https://{name}:{port}{target}").as_str())), "{method}");
        if !answer.keeps_alive() {
            client = Raw::connect(clear);
        }
    }
    let answer = runtime().block_on(async {
        let client = Http2::connect(&Target::Tcp(clear), None).await.unwrap();
        client.get("http://portal.example:8080/h2?c=d").await.unwrap()
    });
    assert_eq!(location(&answer), (308, Some(format!("https://portal.example:{port}/h2?c=d").as_str())));
    assert_eq!(blue.heard().len(), 0, "no backend is asked for that");

    let answer = Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME)).send(get("/there")).response();
    assert_eq!((answer.status, answer.text().as_str()), (200, "GET /there HTTP/1.1"));
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_requests_total", &[("code", "308")]), 5.0);
}

#[test]
fn an_authoritys_challenge_is_answered_in_clear_and_nothing_beside_it() {
    let (door, blue) = redirecting(&Authority::new()).before(Fake::echoes);
    let clear = door.listener(1);
    let token = "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
    assert_eq!(Raw::ask(clear, &get(token)).text(), format!("GET {token} HTTP/1.1"));
    for path in [
        "/.well-known/acme-challenge/",
        "/.well-known/acme-challenge/../../admin",
        "/.well-known/acme-challenge/a/b",
        "/.well-known/acme-challenge/%2e%2e",
        "/.well-known/other",
    ] {
        assert_eq!(Raw::ask(clear, &get(path)).status, 308, "{path}");
    }
    assert_eq!(blue.requests().len(), 1);
}

#[test]
fn whoever_came_to_a_trusted_proxy_over_tls_is_not_sent_in_circles() {
    let (door, _blue) = redirecting(&Authority::new()).before(Fake::echoes);
    let ask = |proto: &str| request("GET", "/", &[("Host", NAME), ("X-Forwarded-Proto", proto)], b"");
    for (proto, status) in [("https", 200), ("HTTPS", 200), ("http", 308), ("https, http", 308)] {
        assert_eq!(Raw::ask(door.listener(1), &ask(proto)).status, status, "{proto}");
    }
    let mut stranger = Raw::connect_from([127, 0, 0, 2].into(), door.listener(1));
    assert_eq!(stranger.send(ask("https")).response().status, 308, "a stranger's word");
}

#[test]
fn browsers_are_told_to_stay_with_tls_over_tls_only() {
    let authority = Authority::new();
    let said = b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=5\r\nContent-Length: 0\r\n\r\n".to_vec();
    let choose = crate::harness::fake::Choice::new(move |target| match target {
        "/own" => vec![Act::Say(said.clone())],
        _ => vec![Act::Echo],
    });
    let script = move |_| vec![Act::ReadRequest, Act::Choose(choose.clone()), Act::Repeat];
    let builder = Door::builder().tls(&authority).set("service.portal.hsts", "180d");
    let (door, _blue) = builder.before(|at| Fake::scripted(at, script));
    let trust = Trust::of(&authority, NAME);
    let mut client = Raw::connect_tls(door.addr(), &trust);
    let said = |answer: Response| answer.head.fields.all("strict-transport-security").concat();
    assert_eq!(said(client.send(get("/")).response()), b"max-age=15552000");
    assert_eq!(said(client.send(get("/own")).response()), b"max-age=5", "the backend's own");
    assert_eq!(said(Raw::ask(door.listener(1), &get("/"))), b"");
    let answer = runtime().block_on(async {
        let client = Http2::connect(&Target::Tcp(door.addr()), Some(&trust)).await.unwrap();
        client.get(&format!("https://{NAME}/")).await.unwrap()
    });
    assert_eq!(said(answer), b"max-age=15552000");
}

#[test]
fn other_hosts_are_sent_to_the_canonical_one_but_the_previews_are_not() {
    let authority = Authority::new();
    let (door, blue) = Door::builder()
        .tls(&authority)
        .set("service.portal.hosts", json!([NAME, "*.portal.example"]))
        .set("service.portal.preview.hosts", json!(["preview.portal.example"]))
        .set("service.portal.canonical_host", NAME)
        .before(Fake::echoes);
    let ask =
        |host: &str, proto: &str| request("POST", "/a?b=c", &[("Host", host), ("X-Forwarded-Proto", proto)], b"x");
    let clear = |host: &str, proto: &str| Raw::ask(door.listener(1), &ask(host, proto));
    let trust = Trust::of(&authority, NAME);
    let tls = |host: &str| Raw::connect_tls(door.addr(), &trust).send(ask(host, "http")).response();
    for (answer, to) in [
        (clear("www.portal.example", "http"), "http://portal.example/a?b=c"),
        (clear("www.portal.example:80", "http"), "http://portal.example/a?b=c"),
        (clear("www.portal.example:8080", "http"), "http://portal.example:8080/a?b=c"),
        (clear("www.portal.example", "https"), "https://portal.example/a?b=c"),
        (tls("www.portal.example"), "https://portal.example/a?b=c"),
        (tls("www.portal.example:4443"), "https://portal.example:4443/a?b=c"),
    ] {
        assert_eq!(location(&answer), (308, Some(to)));
    }
    assert_eq!(blue.heard().len(), 0, "no backend is asked for that");
    for answer in
        [clear(NAME, "http"), clear("Portal.Example:8080", "http"), clear("preview.portal.example", "http"), tls(NAME)]
    {
        assert_eq!((answer.status, answer.text().as_str()), (200, "POST /a?b=c HTTP/1.1"));
    }
}

// === certificates of clients ===

/// Listeners: one that demands certificates by this authority, one with TLS alone, one in clear.
fn demanding(authority: &Authority, clients: &Authority) -> Builder {
    let builder = Door::builder().tls(authority);
    let ca = clients.write(builder.dir());
    let listeners = json!([
        { "address": "127.0.0.1:0", "tls": true, "client_ca": ca.to_str().unwrap() },
        { "address": "127.0.0.1:0", "tls": true },
        { "address": "127.0.0.1:0" },
    ]);
    builder.set("listen", listeners)
}

#[test]
fn the_subject_of_a_verified_certificate_reaches_the_backend_and_a_forged_one_never() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (door, blue) = demanding(&authority, &clients).before(Fake::echoes);
    let forged = [
        ("Host", NAME),
        ("X-Client-Cert-Subject", "CN=root"),
        ("x_client_cert_subject", "CN=root"),
        ("X-Client_Cert-Subject", "CN=root"),
    ];
    let ask = request("GET", "/", &forged, b"");
    let alice = Trust::showing(&authority, NAME, &clients.client("alice"));
    Raw::connect_tls(door.addr(), &alice).send(&ask).response();
    Raw::connect_tls(door.listener(1), &Trust::of(&authority, NAME)).send(&ask).response();
    Raw::ask(door.listener(2), &ask);
    runtime().block_on(async {
        let client = Http2::connect(&Target::Tcp(door.addr()), Some(&alice)).await.unwrap();
        let head = http::Request::get(format!("https://{NAME}/h2")).header("x-client-cert-subject", "CN=root");
        let head = head.header("x_client_cert_subject", "CN=root").body(()).unwrap();
        assert_eq!(client.ask(head, Vec::new()).await.unwrap().status, 200);
    });
    // One connection of each worker to the backend; the order over them is nobody's.
    let mut seen: Vec<(String, Vec<String>)> = blue
        .requests()
        .iter()
        .map(|request| {
            let subject =
                |(name, _): &&(String, Vec<u8>)| name.to_lowercase().replace('_', "-").contains("client-cert");
            let lines = request.fields.iter().filter(subject);
            let lines = lines.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)));
            (request.get("x-forwarded-proto").unwrap(), lines.collect())
        })
        .collect();
    seen.sort();
    let alice = || vec!["x-client-cert-subject: CN=alice".to_owned()];
    let of = |proto: &str, lines| (proto.to_owned(), lines);
    assert_eq!(seen, [of("http", vec![]), of("https", vec![]), of("https", alice()), of("https", alice())]);
}

#[test]
fn without_a_good_certificate_there_is_no_connection() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let (door, blue) = demanding(&authority, &clients).before(Fake::echoes);
    let expired = clients.client_until("alice", SystemTime::now() - Duration::from_secs(3600));
    let showing = |signed| Trust::showing(&authority, NAME, &signed);
    let failures = |reason| door.metrics().sum("bgproxy_connection_failures_total", &[("reason", reason)]);
    for (trust, reason, count) in [
        (Trust::of(&authority, NAME), "tls_no_certificate", 1.0),
        (Trust::of_version(&authority, NAME, &TLS12), "tls_no_certificate", 2.0),
        (showing(others.client("alice")), "tls_client_certificate", 1.0),
        (showing(expired), "tls_client_certificate", 2.0),
        // Not made for clients.
        (showing(clients.server(&[NAME])), "tls_client_certificate", 3.0),
    ] {
        // In TLS 1.3 a client has to read before it knows.
        let answer = Raw::try_connect_tls(door.addr(), &trust).and_then(|mut client| {
            client.try_send(get("/"))?;
            client.try_response()
        });
        assert!(answer.is_err(), "{reason} {count}: {answer:?}");
        wait_until(&format!("{count} of {reason}"), DEADLINE, || failures(reason) == count);
    }
    assert_eq!(door.metrics().sum("bgproxy_connection_failures_total", &[]), 5.0);
    assert_eq!(blue.heard().len(), 0);
    // A session of a listener that demands nothing opens no other one.
    let trust = Trust::of(&authority, NAME).resuming();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut client = Raw::connect_tls(door.listener(1), &trust);
        assert_eq!(
            (client.send(get("/")).response().status, client.tls().unwrap().handshake_kind()),
            (200, Some(kind))
        );
    }
    let answer = Raw::try_connect_tls(door.addr(), &trust).and_then(|mut client| {
        client.try_send(get("/"))?;
        client.try_response()
    });
    assert!(answer.is_err(), "{answer:?}");
    wait_until("one more", DEADLINE, || failures("tls_no_certificate") == 3.0);
}

// === what is agreed on ===

#[test]
fn the_certificate_is_the_one_made_for_the_name_before_a_wildcard_before_the_first() {
    let authority = Authority::new();
    let first = authority.server(&["first.example", "127.0.0.1"]);
    let wild = authority.server(&["*.wild.example"]);
    let exact = authority.server(&["a.wild.example"]);
    let builder = Door::builder().tls(&authority);
    let written = |name: &str, signed: &crate::harness::authority::Signed| signed.write(&builder.dir().join(name));
    let pairs = json!([written("first", &first), written("wild", &wild), written("exact", &exact)]);
    let door = builder.set("certificate", pairs).start();
    for (name, signed) in [
        ("first.example", &first),
        ("a.wild.example", &exact),
        ("b.wild.example", &wild),
        ("A.Wild.Example", &exact),
        // An address is no name to ask for.
        ("127.0.0.1", &first),
    ] {
        let shown = Raw::connect_tls(door.addr(), &Trust::of(&authority, name)).server_certificate();
        assert!(shown == Some(certificate(&signed.cert)), "{name}");
    }
    for (count, stranger) in ["other.example", "wild.example", "a.b.wild.example"].into_iter().enumerate() {
        let refused = Raw::try_connect_tls(door.addr(), &Trust::of(&authority, stranger)).map(drop);
        let why = format!("{:?}", refused.expect_err("not its name"));
        assert!(why.contains("first.example"), "{stranger} is shown the first: {why}");
        assert_turned_away(&door, count as f64 + 1.0, "tls_refused");
    }
}

#[test]
fn both_versions_are_spoken_and_keys_are_agreed_on_for_after_quantum_computers() {
    let authority = Authority::new();
    let (door, _blue) = Door::builder().tls(&authority).before(Fake::echoes);
    let agreed = |trust: Trust| {
        let mut client = Raw::connect_tls(door.addr(), &trust);
        assert_eq!(client.send(get("/")).response().status, 200);
        let tls = client.tls().unwrap();
        (tls.protocol_version().unwrap(), tls.negotiated_key_exchange_group().unwrap().name())
    };
    let whatever = agreed(Trust::of(&authority, NAME));
    assert_eq!(whatever, (ProtocolVersion::TLSv1_3, NamedGroup::X25519MLKEM768));
    assert_eq!(agreed(Trust::of_version(&authority, NAME, &TLS13)), whatever);
    assert_eq!(agreed(Trust::of_version(&authority, NAME, &TLS12)).0, ProtocolVersion::TLSv1_2);
    for (group, name) in [(kx_group::X25519, NamedGroup::X25519), (kx_group::SECP256R1, NamedGroup::secp256r1)] {
        assert_eq!(agreed(Trust::of_group(&authority, NAME, group)), (ProtocolVersion::TLSv1_3, name));
    }
    assert_eq!(door.metrics().sum("bgproxy_tls_handshakes_total", &[]), 5.0);
}

#[test]
fn a_session_is_resumed_with_any_worker_over_a_new_certificate_and_over_a_reload() {
    let authority = Authority::new();
    let (door, _blue) = Door::builder().tls(&authority).set("workers", 4).before(Fake::echoes);
    let versions = [&TLS13, &TLS12].map(|version| Trust::of_version(&authority, NAME, version).resuming());
    let asked = |trust: &Trust| {
        let mut client = Raw::connect_tls(door.addr(), trust);
        assert_eq!(client.send(get("/")).response().status, 200);
        client.tls().unwrap().handshake_kind()
    };
    let resumed = |when: &str| {
        for trust in &versions {
            // As many as it takes to come to every worker, nearly always.
            let kinds: Vec<_> = (0..12).map(|_| asked(trust)).collect();
            assert_eq!(kinds, vec![Some(HandshakeKind::Resumed); 12], "{when}: {trust:?}");
        }
    };
    versions.iter().for_each(|trust| assert_eq!(asked(trust), Some(HandshakeKind::Full)));
    resumed("at first");

    let mut events = door.events(None);
    let signed = authority.server(&[NAME]);
    signed.write(&door.dir().join("tls"));
    events.wait(|what| matches!(what, What::Certificate { fault: None, .. }));
    let shown = || Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME)).server_certificate();
    wait_until("the new certificate", DEADLINE, || shown() == Some(certificate(&signed.cert)));
    resumed("over a new certificate");

    door.bgctl(&["reload"]).ok();
    resumed("over a reload");
}

// === what goes wrong ===

#[test]
fn http_to_a_port_of_tls_and_tls_to_one_of_http_fail_at_once() {
    let authority = Authority::new();
    let (door, blue) = Door::builder().tls(&authority).before(Fake::echoes);
    let mut client = Raw::connect(door.addr());
    let _taken = client.try_send(get("/"));
    let rest = client.rest();
    assert!(!rest.bytes.starts_with(b"HTTP/"), "{rest:?}");
    assert_turned_away(&door, 1.0, "tls_not_tls");

    let failed = Raw::try_connect_tls(door.listener(1), &Trust::of(&authority, NAME)).map(drop);
    assert!(matches!(failed, Err(Failure::Connect(_))), "{failed:?}");
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "head_malformed")]), 1.0);
    assert_eq!((blue.heard().len(), metrics.sum("bgproxy_tls_handshakes_total", &[])), (0, 0.0));
}

/// The first bytes of a client.
fn client_hello(trust: &Trust) -> Vec<u8> {
    let mut hello = Vec::new();
    let mut tls = ClientConnection::new(trust.config(&["http/1.1"]), trust.name.clone()).unwrap();
    tls.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn a_handshake_has_a_time_of_its_own() {
    let authority = Authority::new();
    let door = Door::builder().tls(&authority).set("limits.handshake_time", "500ms").start();
    let begun = Instant::now();
    let mut silent = Raw::connect(door.addr());
    let mut dribbling = Raw::connect(door.addr());
    let hello = client_hello(&Trust::of(&authority, NAME));
    // A byte whenever nothing has come for a tenth of a second: minutes, if nobody ended it.
    let sent = hello.iter().take_while(|byte| dribbling.try_send([**byte]).is_ok() && dribbling.hears_nothing());
    let sent = sent.count();
    assert!((1..hello.len()).contains(&sent), "{sent} bytes");
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(silent.rest().bytes, b"");
    assert_turned_away(&door, 2.0, "tls_timeout");
    door.quiet();
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let authority = Authority::new();
    let (door, blue) = Door::builder().tls(&authority).before(Fake::never_answers);
    let trust = Trust::of(&authority, NAME);
    let hello = client_hello(&trust);
    let mut halfway = Raw::connect(door.addr());
    halfway.send(&hello[..hello.len() / 2]);
    drop(halfway);
    assert_turned_away(&door, 1.0, "tls_client_gone");

    // Without a word of TLS, and by a reset.
    let vanish: [fn(Raw); 2] = [drop, Raw::reset];
    for (number, vanish) in vanish.into_iter().enumerate() {
        let mut client = Raw::connect_tls(door.addr(), &trust);
        client.send(get("/"));
        blue.wait_requests(number + 1);
        vanish(client);
        let gone = || door.metrics().sum("bgproxy_request_failures_total", &[("reason", "client_gone")]);
        wait_until("the client to be gone", DEADLINE, || gone() == number as f64 + 1.0);
    }
    // And between two requests.
    drop(Raw::connect_tls(door.addr(), &trust));
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 2.0);
}

#[test]
fn a_client_that_says_its_last_word_of_tls_has_left_as_one_in_clear_has() {
    let authority = Authority::new();
    let script = |_| vec![Act::ReadRequest, Act::AwaitGo, Act::Echo, Act::Stay];
    let (door, blue) = Door::builder().tls(&authority).before(|at| Fake::scripted(at, script));
    let mut client = Raw::connect_tls(door.addr(), &Trust::of(&authority, NAME));
    client.send(get("/"));
    blue.wait_requests(1);
    client.finish_sending();
    assert!(client.try_response().is_err());
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "client_gone")]), 1.0);
}

#[test]
fn an_end_of_ours_is_said_in_tls() {
    let authority = Authority::new();
    let (door, _blue) = Door::builder().tls(&authority).set("limits.idle_time", "500ms").before(Fake::echoes);
    let trust = Trust::of(&authority, NAME);
    let connect = || Raw::connect_tls(door.addr(), &trust);
    // `rest` fails when the end of TLS is missing.
    let mut last = connect();
    last.send(request("GET", "/", &[("Host", NAME), ("Connection", "close")], b"")).response();
    assert_eq!(last.rest().bytes, b"");
    let mut refused = connect();
    assert_eq!(refused.send("GET / HTTP/1.1\r\n\r\n").response().status, 400);
    assert_eq!(refused.rest().bytes, b"");
    let mut satisfied = connect();
    satisfied.send(get("/")).response();
    assert_eq!(satisfied.finish_sending().rest().bytes, b"");
    let mut silent = connect();
    silent.send(get("/")).response();
    assert_eq!(silent.rest().bytes, b"");
}

// === what the backend and the log are told ===

#[test]
fn the_backend_and_the_log_are_told_who_came_and_how() {
    let authority = Authority::new();
    let builder = Door::builder().tls(&authority).set("trusted.forwarded", true);
    let (door, blue) = builder.before(Fake::echoes);
    let trust = Trust::of(&authority, NAME);
    let host = format!("{NAME}:4443");
    let ask = request("GET", "/h1", &[("Host", &host), ("Connection", "close")], b"");
    assert_eq!(Raw::connect_tls(door.addr(), &trust).send(&ask).response().status, 200);
    runtime().block_on(async {
        let client = Http2::connect(&Target::Tcp(door.addr()), Some(&trust)).await.unwrap();
        assert_eq!(client.get(&format!("https://{host}/h2")).await.unwrap().status, 200);
    });
    Raw::ask(door.listener(1), &request("GET", "/clear", &[("Host", &host), ("Connection", "close")], b""));

    let requests = blue.requests();
    for (target, proto) in [("/h1", "https"), ("/h2", "https"), ("/clear", "http")] {
        let request = requests.iter().find(|request| request.target() == target).expect(target);
        let of = |name: &str| request.get(name).unwrap_or_default();
        assert_eq!((of("host"), of("x-forwarded-host")), (host.clone(), host.clone()), "{target}");
        assert_eq!(
            (of("x-forwarded-proto").as_str(), of("x-forwarded-for").as_str()),
            (proto, "127.0.0.1"),
            "{target}"
        );
        assert_eq!(of("forwarded"), format!("for=127.0.0.1;host=\"{host}\";proto={proto}"), "{target}");
    }
    let lines = || text_of(&door.access_log()).lines().map(ToOwned::to_owned).collect::<Vec<_>>();
    wait_until("three lines", DEADLINE, || lines().len() == 3);
    let mut logged: Vec<_> = lines()
        .iter()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            ["client", "target", "protocol", "host"].map(|key| line[key].as_str().unwrap_or("-").to_owned()).join(" ")
        })
        .collect();
    logged.sort();
    let line = |target: &str, protocol: &str| format!("127.0.0.1 {target} {protocol} {host}");
    assert_eq!(logged, [line("/clear", "HTTP/1.1"), line("/h1", "HTTP/1.1"), line("/h2", "HTTP/2.0")]);
}
