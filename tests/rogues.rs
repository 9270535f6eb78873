//! Authorities that mean harm or are out of order, disks that fail, and strangers at the door: they can withhold a
//! certificate, and nothing else.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bgproxy_conf::wire::What;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::harness::acme::{Acme, Settings, host, wait_certificate, wait_fault};
use crate::harness::door::Builder;
use crate::harness::fake::Act;
use crate::harness::http2::{Http2, runtime};
use crate::harness::raw::request;
use crate::harness::rogue::{Rogue, TOKEN, answer};
use crate::harness::{Authority, DEADLINE, Door, Fake, Raw, Trust, wait_for, wait_until};

const HOST: &str = "portal.test";

fn reload(door: &Door) {
    assert_eq!(door.post("/v1/reload", json!({})).status(), 200);
}

fn problem(kind: &str, detail: &str) -> Value {
    json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail })
}

fn say(status: &str, headers: &str, body: &Value) -> Vec<Act> {
    vec![Act::Say(answer(status, headers, body))]
}

fn page(status: &str, headers: &str) -> Vec<Act> {
    vec![Act::Say(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 6\r\n\r\n<html>").into_bytes())]
}

// === what it answers ===

/// A redirect, a page of HTML and a proxy's error were all told as "expected value at line 1 column 1"; a number in
/// Retry-After that no clock can hold, and a nonce from nowhere, were panics of ours.
#[test]
fn whatever_an_authority_answers_is_told_in_a_line_and_disturbs_nobody() {
    type Odd = (&'static str, Vec<Act>);
    let odd: Arc<Mutex<Odd>> = Arc::new(Mutex::new(("/directory", page("200 OK", ""))));
    let rogue = Rogue::start({
        let odd = odd.clone();
        move |path| {
            let (at, acts) = &*odd.lock().unwrap();
            (*at == path).then(|| acts.clone())
        }
    });
    let own = Authority::new();
    let builder = Door::builder().rogue(&rogue, &[HOST]);
    let files = own.server(&[HOST]).write(&builder.dir().join("own"));
    let (door, _blue) = builder.set("certificate", json!([files])).before(Fake::echoes);
    let before = wait_fault(&door, HOST, "its answer is not what ACME prescribes").failures;
    assert_eq!(before, 1);

    let endless = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n".to_vec();
    let shouting = format!("a\nb\u{1b}[2J{}", "!".repeat(300_000));
    let stranger = own.server(&[HOST]).cert;
    let chain = |pem: &str| {
        vec![Act::Say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{pem}", pem.len()).into_bytes())]
    };
    let urls = |nonce: &str, order: &str| {
        let rest = "https://localhost:1/";
        say("200 OK", "", &json!({ "newNonce": nonce, "newOrder": order, "newAccount": rest }))
    };
    let far = "Retry-After: 18446744073709551615\r\n";
    let ready = json!({ "status": "ready", "authorizations": [], "finalize": "ftp://nowhere" });
    let no_url = "is not a URL over HTTPS; see whether `acme.directory` is";
    let cases: Vec<(&str, Vec<Act>, &str)> = vec![
        (
            "/directory",
            page("301 Moved Permanently", "Location: https://else.test/\r\n"),
            "301 Moved Permanently, and names \"https://else.test/\"",
        ),
        (
            "/directory",
            page("502 Bad Gateway", ""),
            "it answers 502 Bad Gateway; see whether `acme.directory` is right",
        ),
        ("/directory", page("404 Not Found", ""), "it answers 404 Not Found"),
        ("/directory", vec![Act::FinishSending], "it answers 502 Bad Gateway"),
        ("/directory", vec![Act::Say(endless), Act::Flood], "its answer cannot be read: length limit exceeded"),
        ("/directory", say("200 OK", "", &Value::String("[".repeat(100_000))), "not what ACME prescribes"),
        ("/directory", urls("no nonce \u{1}", "https://localhost:1/"), no_url),
        ("/directory", urls("http://localhost:1/", "https://localhost:1/"), no_url),
        ("/nonce", vec![Act::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec())], "no nonce found"),
        ("/account", say("200 OK", "", &json!({})), "missing data"),
        ("/order", say("400 Bad Request", "", &problem("badNonce", "again")), "again (badNonce)"),
        ("/order", say("403 Forbidden", "", &problem("rejectedIdentifier", &shouting)), "a b [2J!!!"),
        (
            "/order",
            say("403 Forbidden", "", &problem("unauthorized", "deactivated")),
            "the authority refuses our account: deactivated (unauthorized); if it was",
        ),
        ("/order", say("201 Created", "", &ready), "no order URL found"),
        (
            "/authz",
            say(
                "200 OK",
                "",
                &json!({ "identifier": { "type": "dns", "value": HOST }, "status": "revoked", "challenges": [] }),
            ),
            "the order is revoked",
        ),
        ("/order/1", say("200 OK", far, &ready), no_url),
        ("/finalize", say("403 Forbidden", "", &problem("badCSR", "no")), "no (badCSR)"),
        (
            "/cert",
            chain("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "what the authority gave cannot be used: certificate 1 in it is damaged",
        ),
        ("/cert", chain("hello"), "there is no certificate in it"),
        ("/cert", chain(&stranger.repeat(200)), "more than clients take"),
        ("/cert", chain(&stranger), "the private key in it does not belong to the certificate"),
    ];
    let all = cases.len();
    for (nth, (path, acts, told)) in cases.into_iter().enumerate() {
        *odd.lock().unwrap() = (path, acts);
        reload(&door);
        let status = wait_for(&format!("a fault of {path}, {told:?}"), DEADLINE, || match host(&door, HOST) {
            status if status.failures == nth as u32 + 2 => Ok(status),
            status => Err(format!("{status:?}")),
        });
        let fault = status.fault.unwrap();
        assert!(fault.contains(told), "{path}: {fault}");
        assert!(fault.len() < 700 && !fault.contains(char::is_control) && fault.contains("; "), "{path}: {fault}");
        assert!(!status.in_use);
    }
    let metrics = door.metrics();
    assert_eq!(metrics.sum("bgproxy_panics_total", &[]), 0.0);
    assert_eq!(metrics.sum("bgproxy_acme_orders_total", &[("outcome", "failed")]), all as f64 + 1.0);
    assert_eq!(rogue.asked("/account"), 2, "one that went wrong, and one that is kept");
    let mut client = Raw::connect_tls(door.addr(), &Trust::of(&own, HOST));
    assert_eq!(client.send(request("GET", "/", &[("Host", HOST)], b"")).response().status, 200);
    assert!(!door.state_dir().join("acme").join(format!("{HOST}.pem")).exists());
}

/// It was taken for the new certificate, and every client refused it.
#[test]
fn a_certificate_of_another_time_does_not_replace_the_one_in_use() {
    let library = crate::harness::tools::faketime();
    let env = [("LD_PRELOAD", library.to_str().unwrap()), ("FAKETIME", "-100d"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let (first, past) = (Acme::start(Settings::default()), Acme::start_with(Settings::default(), &env));
    let (mut door, _blue) = Door::builder().acme(&first, &[HOST]).before(Fake::echoes);
    first.looks_at(&door);
    past.looks_at(&door);
    wait_certificate(&door, HOST);
    door.configure("acme.ca", past.ca().to_str().unwrap());
    door.configure("acme.directory", past.directory());
    reload(&door);
    let status = wait_fault(&door, HOST, "which is not now; see whether this host's clock is right");
    assert!(status.in_use);
    assert!(Raw::try_connect_tls(door.addr(), &first.trust(HOST)).is_ok());
    door.restart();
    assert!(Raw::try_connect_tls(door.addr(), &first.trust(HOST)).is_ok(), "nor on disk");
}

// === restarts and reloads ===

fn refuses(path: &str) -> Option<Vec<Act>> {
    (path == "/order").then(|| say("500 Internal Server Error", "", &problem("serverInternal", "not well")))
}

/// Each of them asked at once.
#[test]
fn restarts_do_not_hurry_an_authority_but_a_reload_does() {
    let rogue = Rogue::start(refuses);
    let (mut door, _blue) = Door::builder().rogue(&rogue, &[HOST]).before(Fake::echoes);
    let before = wait_fault(&door, HOST, "not well (serverInternal)");
    assert!(before.fault.as_ref().unwrap().ends_with("; `bgctl reload` tries at once"), "{before:?}");
    for _ in 0..3 {
        door.kill9();
        door.restart();
        let status = host(&door, HOST);
        assert_eq!((status.failures, &status.fault), (1, &before.fault));
        door.wait_log("no new certificate before the restart: not well (serverInternal)");
    }
    assert_eq!(door.metrics().sum("bgproxy_acme_hosts_failing", &[]), 1.0);
    assert_eq!(rogue.asked("/order"), 1);

    // The clock was ten years ahead when it failed.
    door.terminate();
    let path = door.state_dir().join("acme/setbacks.json");
    let mut setbacks: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for key in ["since", "until"] {
        let at = setbacks[HOST][key].as_u64().unwrap();
        setbacks[HOST][key] = json!(at + 10 * 365 * 86_400);
    }
    fs::write(&path, setbacks.to_string()).unwrap();
    door.restart();
    let next = humantime::parse_rfc3339(&host(&door, HOST).next.unwrap()).unwrap();
    assert!(next.duration_since(std::time::SystemTime::now()).unwrap().as_secs() <= 361, "{next:?}");

    reload(&door);
    wait_until("a second failure", DEADLINE, || host(&door, HOST).failures == 2);
    assert_eq!(rogue.asked("/order"), 2);

    // What is damaged is as good as none.
    door.terminate();
    fs::write(&path, "{").unwrap();
    door.restart();
    door.wait_log("what failed before is not known");
    wait_until("a third try", DEADLINE, || rogue.asked("/order") == 3);
}

/// Whoever had mended what was wrong on his own side, and restarted, waited as if he had asked somebody.
#[test]
fn what_kept_us_from_asking_is_tried_at_once_by_a_restart() {
    let rogue = Rogue::start(refuses);
    let builder = Door::builder().rogue(&rogue, &[HOST]);
    let (ca, away) = (builder.dir().join("ca.pem"), builder.dir().join("away.pem"));
    fs::rename(&ca, &away).unwrap();
    let (mut door, _blue) = builder.before(Fake::echoes);
    wait_fault(&door, HOST, "there is no such file; correct `acme.ca`; `bgctl reload` tries at once");
    let next_failure = |door: &mut Door, failures: u32| {
        door.restart();
        wait_until("another try", DEADLINE, || host(door, HOST).failures == failures);
        let next = humantime::parse_rfc3339(&host(door, HOST).next.unwrap()).unwrap();
        let pause = next.duration_since(std::time::SystemTime::now()).unwrap();
        assert!(pause.as_secs() <= 361, "{pause:?}: no longer than after the first");
    };
    (2..5).for_each(|failures| next_failure(&mut door, failures));
    assert_eq!(rogue.asked("/directory"), 0);

    // Now it is asked, and that is held.
    door.terminate();
    fs::rename(&away, &ca).unwrap();
    next_failure(&mut door, 5);
    assert!(host(&door, HOST).fault.unwrap().starts_with("not well (serverInternal); "));
    assert!(door.log().contains("next=\"now\""), "{}", door.log());
    door.restart();
    door.wait_log("no new certificate before the restart: not well (serverInternal)");
    assert_eq!((host(&door, HOST).failures, rogue.asked("/order")), (5, 1));

    // Nobody is there.
    door.configure("acme.directory", "https://127.0.0.1:1/");
    wait_fault(&door, HOST, "cannot connect to 127.0.0.1:1: Connection refused");
    next_failure(&mut door, 2);
}

// === mistakes of our own ===

/// A door that panics at a place as long as there is a file, and that file, which is there.
fn mistaken(builder: Builder, place: &str) -> (Builder, PathBuf) {
    let file = builder.dir().join("mistake");
    fs::write(&file, "").unwrap();
    (builder.env("BGPROXY_FAILPOINT", format!("{place}:{}", file.display())), file)
}

fn failing(door: &Door) -> f64 {
    door.metrics().sum("bgproxy_acme_hosts_failing", &[])
}

fn shown(door: &Door, acme: &Acme) -> Option<CertificateDer<'static>> {
    Raw::try_connect_tls(door.addr(), &acme.trust(HOST)).ok()?.server_certificate()
}

/// Nobody would have known that nothing is renewed any more; and what alerts look at fell each time that it began anew.
#[test]
fn a_keeper_of_certificates_that_fails_is_told_until_it_has_been_around_once_and_nobody_is_disturbed() {
    let rogue = Rogue::start(|path| (path == "/order").then(|| vec![Act::Stay]));
    let (builder, mistake) = mistaken(Door::builder().rogue(&rogue, &[HOST]), "acme_keeper");
    let (door, _blue) = builder.before(Fake::echoes);
    let mut events = door.events(None);
    for times in 1..=3 {
        wait_until("a failure", DEADLINE, || host(&door, HOST).failures == times);
        let status = wait_fault(&door, HOST, "bgproxy failed, as its log tells; please report it; ");
        assert!(status.fault.unwrap().ends_with("; `bgctl reload` tries at once"));
        let next = humantime::parse_rfc3339(&status.next.unwrap()).unwrap();
        assert!(next.duration_since(std::time::SystemTime::now()).unwrap().as_secs() <= 60, "{next:?}");
        assert_eq!(failing(&door), 1.0);
        reload(&door);
    }
    wait_until("a failure", DEADLINE, || host(&door, HOST).failures == 4);
    door.wait_log("no certificate is renewed now: bgproxy failed");
    assert_eq!(door.metrics().sum("bgproxy_panics_total", &[]), 4.0);
    assert_eq!(door.metrics().sum("bgproxy_acme_orders_total", &[]), 0.0);
    let told = events.wait(|what| matches!(what, What::Certificate { .. })).what;
    assert!(matches!(told, What::Certificate { fault: Some(fault), .. } if fault.starts_with("bgproxy failed")));
    let answer = Raw::ask(door.listener(1), &request("GET", "/", &[("Host", HOST)], b""));
    assert_eq!(answer.status, 200);

    fs::remove_file(mistake).unwrap();
    reload(&door);
    wait_until("an order", DEADLINE, || rogue.asked("/order") == 1);
    let status = host(&door, HOST);
    assert!(status.fault.is_some_and(|fault| fault.starts_with("bgproxy failed")), "it is not around yet");
    assert_eq!(failing(&door), 1.0);
}

/// The keeper began anew from what was on disk: the certificate was gone, and a second one was ordered.
#[test]
fn a_keeper_that_fails_loses_no_certificate_that_is_not_on_disk_nor_a_reload() {
    let acme = Acme::start(Settings::default());
    let (builder, mistake) = mistaken(Door::builder().acme(&acme, &[HOST]), "acme_keeper");
    fs::remove_file(&mistake).unwrap();
    let place = builder.dir().join("state/acme").join(format!("{HOST}.pem"));
    fs::create_dir_all(place.join("in the way")).unwrap();
    let (door, _blue) = builder.before(Fake::echoes);
    acme.looks_at(&door);
    wait_fault(&door, HOST, "it is in use, but only until a restart: cannot replace");
    let given = shown(&door, &acme).unwrap();

    // At its next look at the clock, in no hurry.
    fs::write(&mistake, "").unwrap();
    assert!(wait_fault(&door, HOST, "bgproxy failed").in_use);
    assert_eq!(shown(&door, &acme).unwrap(), given);

    // Not in a minute, and not when it would have been tried.
    fs::remove_file(&mistake).unwrap();
    fs::remove_dir_all(&place).unwrap();
    reload(&door);
    wait_certificate(&door, HOST);
    assert!(place.is_file());
    assert_eq!((shown(&door, &acme).unwrap(), acme.orders(), failing(&door)), (given, 1, 0.0));
}

/// It was told as the end of a process that had not ended.
#[test]
fn a_mistake_in_the_midst_of_a_try_is_a_try_that_failed_and_what_was_given_is_in_use() {
    let acme = Acme::start(Settings::default());
    let (builder, mistake) = mistaken(Door::builder().acme(&acme, &[HOST]), "acme_before_keep");
    let (door, _blue) = builder.before(Fake::echoes);
    acme.looks_at(&door);
    let status = wait_fault(&door, HOST, "bgproxy failed, as its log tells; please report it; ");
    assert_eq!((status.in_use, status.failures), (true, 1));
    let remembered = fs::read_to_string(door.state_dir().join("acme/setbacks.json")).unwrap();
    assert!(remembered.contains("bgproxy failed"), "{remembered}");
    let given = shown(&door, &acme).unwrap();
    fs::remove_file(mistake).unwrap();
    reload(&door);
    wait_certificate(&door, HOST);
    assert_eq!((shown(&door, &acme).unwrap(), acme.orders(), failing(&door)), (given, 1, 0.0));
}

// === ends in the midst ===

#[test]
fn whoever_is_killed_while_it_asks_has_tried() {
    let rogue = Rogue::start(|path| (path == "/order").then(|| vec![Act::Stay]));
    let (mut door, _blue) = Door::builder().rogue(&rogue, &[HOST]).before(Fake::echoes);
    for _ in 0..3 {
        wait_until("an order", DEADLINE, || rogue.asked("/order") == 1);
        door.kill9();
        door.restart();
        let status = host(&door, HOST);
        assert!(status.fault.unwrap().starts_with("bgproxy ended while it was asking; "));
        assert_eq!(status.failures, 1);
    }
    assert_eq!(rogue.asked("/order"), 1);
}

#[test]
fn a_reload_ends_an_order_that_nobody_wants_any_more() {
    let rogue = Rogue::start(|path| (path == "/order").then(|| vec![Act::Stay]));
    let (mut door, _blue) = Door::builder().rogue(&rogue, &[HOST, "b.test"]).before(Fake::echoes);
    wait_until("an order", DEADLINE, || rogue.asked("/order") == 1);
    // One that still wants it changes nothing.
    reload(&door);
    door.configure("acme.hosts", json!(["b.test"]));
    reload(&door);
    wait_until("the other order", DEADLINE, || rogue.asked("/order") == 2);
    door.wait_log("this certificate is not asked for any more");
    let status = door.status().acme;
    assert_eq!((status.len(), status[0].failures), (1, 0), "{status:?}");
}

// === disks ===

#[test]
fn a_disk_that_takes_nothing_is_told_and_the_authority_is_left_alone() {
    let acme = Acme::start(Settings::default());
    let door = Door::builder().acme(&acme, &[HOST]).door();
    fs::write(door.state_dir().join("acme"), "no directory").unwrap();
    let _blue = Fake::echoes(door.dir().join("blue.sock"));
    let mut door = door;
    door.restart();
    acme.looks_at(&door);
    let fault = wait_fault(&door, HOST, "cannot").fault.unwrap();
    assert!(fault.contains("Not a directory") && fault.contains("must be able to write into `state.dir`"), "{fault}");
    assert_eq!((acme.orders(), acme.accounts()), (0, 0));
    fs::remove_file(door.state_dir().join("acme")).unwrap();
    reload(&door);
    wait_certificate(&door, HOST);
}

/// It was thrown away, and asked for again and again, until the authority gave no more of them.
#[test]
fn a_certificate_that_cannot_be_kept_is_in_use_and_not_asked_for_again() {
    let acme = Acme::start(Settings::default());
    let door = Door::builder().acme(&acme, &[HOST]).door();
    let place = door.state_dir().join("acme").join(format!("{HOST}.pem"));
    fs::create_dir_all(place.join("in the way")).unwrap();
    let _blue = Fake::echoes(door.dir().join("blue.sock"));
    let mut door = door;
    door.restart();
    acme.looks_at(&door);
    let status = wait_fault(&door, HOST, "it is in use, but only until a restart: cannot replace");
    assert!(status.in_use);
    assert!(Raw::try_connect_tls(door.addr(), &acme.trust(HOST)).is_ok());
    reload(&door);
    wait_until("another try", DEADLINE, || host(&door, HOST).failures == 2);
    fs::remove_dir_all(&place).unwrap();
    reload(&door);
    wait_certificate(&door, HOST);
    assert!(place.is_file());
    assert_eq!(acme.orders(), 1);
    assert_eq!(door.metrics().sum("bgproxy_acme_orders_total", &[("outcome", "failed")]), 0.0);
    door.restart();
    assert!(Raw::try_connect_tls(door.addr(), &acme.trust(HOST)).is_ok());
}

// === strangers ===

#[test]
fn strangers_find_an_answer_where_an_authority_looks_and_nothing_else() {
    let rogue = Rogue::start(|_| None);
    rogue.doubts();
    let own = Authority::new();
    let builder = Door::builder().rogue(&rogue, &[HOST]).set("acme.challenge", "http-01");
    let files = own.server(&[HOST, "else.test"]).write(&builder.dir().join("own"));
    let (door, blue) = builder.set("certificate", json!([files])).before(Fake::echoes);
    wait_until("a challenge", DEADLINE, || rogue.asked("/challenge") > 0);
    let path = format!("/.well-known/acme-challenge/{TOKEN}");
    let ask = |method: &str, target: &str| {
        Raw::ask(door.listener(1), &request(method, target, &[("Host", "else.test")], b""))
    };
    let proof = ask("GET", &path).text();
    assert!(proof.starts_with(&format!("{TOKEN}.")) && proof.len() == TOKEN.len() + 44, "{proof}");
    let head =
        Raw::connect(door.listener(1)).send(request("HEAD", &path, &[("Host", HOST)], b"")).try_response_to_head();
    let head = head.unwrap();
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    assert!(blue.requests().is_empty());

    // Over HTTP/2 too, where a body that answers HEAD would break the connection.
    runtime().block_on(async {
        let trust = Trust::of(&own, HOST);
        let client = Http2::connect(&door.addr().into(), Some(&trust)).await.unwrap();
        let url = format!("https://{HOST}{path}");
        let head = http::Request::head(&url).body(()).unwrap();
        assert_eq!(client.ask(head, Vec::new()).await.unwrap().text(), "");
        assert_eq!(client.get(&url).await.unwrap().text(), proof);
    });

    // What an authority does not do is the backend's.
    let others = [
        ("POST", path.clone()),
        ("GET", format!("{path}/")),
        ("GET", format!("{path}/../x")),
        ("GET", format!("/.well-known/acme-challenge/%2e%2e/{TOKEN}")),
        ("GET", format!("/.well-known//acme-challenge/{TOKEN}")),
        ("GET", format!("/.well-known/acme-challenge/{}", "a".repeat(4000))),
        ("GET", "/.well-known/acme-challenge/".to_owned()),
    ];
    for (method, target) in &others {
        let said = ask(method, target).text();
        assert!(!said.contains(&proof[TOKEN.len()..]), "{method} {target}: {said}");
        assert!(said.starts_with(&format!("{method} /.well-known/")), "{method} {target}: {said}");
    }
    assert_eq!(blue.requests().len(), others.len());

    // Thousands of them are requests like any others.
    let mut client = Raw::connect(door.listener(1));
    for nth in 0..3000 {
        let target = format!("/.well-known/acme-challenge/{nth}");
        assert_eq!(client.send(request("GET", &target, &[("Host", HOST)], b"")).response().status, 200);
    }
    // Nobody asked for a handshake.
    for name in [HOST, "else.test", "unknown.test"] {
        assert!(Raw::try_handshake(door.addr(), &Trust::of(&own, name), &["acme-tls/1"]).is_err(), "{name}");
    }
    assert_eq!(door.metrics().sum("bgproxy_connection_failures_total", &[("reason", "tls_unprepared")]), 3.0);
}
