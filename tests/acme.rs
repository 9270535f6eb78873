//! Certificates that the door fetches and renews by itself, from acme2certifier, an authority that nobody here wrote.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::harness::acme::{Acme, PATIENCE, Settings, host, wait_certificate, wait_fault};
use crate::harness::load::{Plan, Speaks};
use crate::harness::raw::request;
use crate::harness::site::Pair;
use crate::harness::{DEADLINE, Door, Fake, Kind, Raw, Trust, tell, wait_for, wait_until};

const HOST: &str = "portal.test";

/// After four seconds of a day.
const AT_ONCE: Settings = Settings { days: 1, renew: Some(0.005), domain: "test" };

fn shown(door: &Door, trust: &Trust) -> Option<CertificateDer<'static>> {
    Raw::try_connect_tls(door.addr(), trust).ok()?.server_certificate()
}

/// Waits until the door shows another certificate than this one, which the client trusts.
#[track_caller]
fn wait_other(door: &Door, trust: &Trust, than: &CertificateDer<'_>) -> CertificateDer<'static> {
    wait_for("another certificate", PATIENCE, || {
        shown(door, trust).filter(|shown| shown != than).ok_or_else(|| format!("{:?}", door.status().acme))
    })
}

fn pem(door: &Door, name: &str) -> PathBuf {
    door.state_dir().join("acme").join(format!("{name}.pem"))
}

fn get(target: &str, host: &str) -> Vec<u8> {
    request("GET", target, &[("Host", host)], b"")
}

// === one is fetched ===

#[test]
fn a_certificate_is_fetched_by_a_request_and_is_in_use_at_once() {
    let acme = Acme::start(Settings::default());
    let builder = Door::builder().acme(&acme, &[HOST]).set("acme.challenge", "http-01").set(
        "listen",
        json!([{ "address": "127.0.0.1:0", "tls": true }, { "address": "127.0.0.1:0", "redirect_https": true }]),
    );
    let (mut door, _blue) = builder.before(Fake::echoes);
    let trust = acme.trust(HOST);

    // The authority does not find the door yet.
    assert!(shown(&door, &trust).is_none());
    let refused = door.metrics().sum("bgproxy_connection_failures_total", &[("reason", "tls_unprepared")]);
    assert_eq!(refused, 1.0, "who comes too early is told so");
    let told = door.bgctl(&["status"]).ok().stdout;
    assert!(told.contains("no certificate yet for portal.test\n  asked for now\n"), "{told}");
    acme.looks_at(&door);
    wait_certificate(&door, HOST);

    let answer = Raw::connect_tls(door.addr(), &trust).send(get("/here", HOST)).response();
    assert_eq!((answer.status, answer.text().as_str()), (200, "GET /here HTTP/1.1"));
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = door.state_dir().join("acme");
    assert_eq!([mode(dir.clone()), mode(dir.join("account.json")), mode(pem(&door, HOST))], [0o700, 0o600, 0o600]);
    let status = door.status();
    let [certificate] = status.certificates.as_slice() else { panic!("{:?}", status.certificates) };
    assert_eq!(certificate.names, [HOST]);
    // Ninety days, of which a second may be over.
    assert!((89..=90).contains(&certificate.days_left), "{}", certificate.days_left);
    assert_eq!(certificate.cert, pem(&door, HOST).to_str().unwrap());
    let told = door.bgctl(&["status"]).ok().stdout;
    assert!(told.contains(&format!("certificate {} for {HOST}: expires in ", certificate.cert)), "{told}");
    assert!(told.contains(" days\n  to be renewed at "), "{told}");
    let metrics = door.metrics();
    let orders = |outcome: &str| metrics.sum("bgproxy_acme_orders_total", &[("outcome", outcome)]);
    assert_eq!((orders("issued"), orders("failed")), (1.0, 0.0));
    assert_eq!(metrics.sum("bgproxy_acme_hosts_failing", &[]), 0.0);
    assert!(metrics.sum("bgproxy_certificate_expiry_timestamp_seconds", &[("cert", &certificate.cert)]) > 0.0);

    // What was fetched is in use from the start, and nobody is asked for another.
    let before = shown(&door, &trust).unwrap();
    door.restart();
    assert_eq!(shown(&door, &trust).unwrap(), before);
    wait_until("a look at the clock", DEADLINE, || host(&door, HOST).next.is_some());
    assert_eq!((acme.orders(), acme.accounts()), (1, 1));
}

#[test]
fn a_certificate_is_fetched_by_a_handshake() {
    let acme = Acme::start(Settings::default());
    let listen = json!([{ "address": "127.0.0.1:0", "tls": true }]);
    let (door, _blue) = Door::builder().acme(&acme, &["a.test", "b.test"]).set("listen", listen).before(Fake::echoes);
    acme.looks_at(&door);
    for name in ["a.test", "b.test"] {
        wait_certificate(&door, name);
        let answer = Raw::connect_tls(door.addr(), &acme.trust(name)).send(get("/", name)).response();
        assert_eq!(answer.status, 200);
    }
    assert_eq!((acme.orders(), acme.accounts()), (2, 1), "each has its own, of one account");
    let [a, b] = ["a.test", "b.test"].map(|name| shown(&door, &acme.trust(name)).unwrap());
    assert_ne!(a, b);
    // The authority's handshakes were all that they should be; others of that kind find nothing.
    let failed = |door: &Door| door.metrics().sum("bgproxy_connection_failures_total", &[]);
    assert_eq!(failed(&door), 0.0);
    assert!(Raw::try_handshake(door.addr(), &acme.trust("a.test"), &["acme-tls/1"]).is_err());
    wait_until("a failure that is counted", DEADLINE, || failed(&door) == 1.0);
}

#[test]
fn what_another_program_asked_for_passes_to_the_backend() {
    let acme = Acme::start(Settings::default());
    let (door, blue) = Door::builder().acme(&acme, &[HOST]).before(Fake::echoes);
    acme.looks_at(&door);
    wait_certificate(&door, HOST);
    let token = "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
    assert_eq!(Raw::ask(door.listener(1), &get(token, HOST)).text(), format!("GET {token} HTTP/1.1"));
    assert_eq!(blue.requests().len(), 1, "what we asked for ourselves did not come so far");
}

#[test]
fn a_certificate_of_the_operators_own_comes_first() {
    let acme = Acme::start(Settings::default());
    let own = crate::harness::Authority::new();
    let builder = Door::builder().acme(&acme, &[HOST]);
    let files = own.server(&[HOST]).write(&builder.dir().join("own"));
    let (door, _blue) = builder.set("certificate", json!([files])).before(Fake::echoes);
    acme.looks_at(&door);
    wait_certificate(&door, HOST);
    assert!(shown(&door, &Trust::of(&own, HOST)).is_some());
    assert!(shown(&door, &acme.trust(HOST)).is_none());
}

// === it is renewed, or not ===

#[test]
fn a_certificate_is_renewed_when_the_authority_suggests_without_a_failed_request() {
    let acme = Acme::start(AT_ONCE);
    let pair = Pair::start_with(|door| door.acme(&acme, &[HOST]));
    acme.looks_at(&pair.door);
    wait_certificate(&pair.door, HOST);
    let trust = acme.trust(HOST);
    let before = shown(&pair.door, &trust).unwrap();
    let loads = [
        Plan::new(pair.door.addr(), 4, vec![Kind::Index]).speaks(Speaks::TlsHttp1(trust.clone())).renew(3),
        Plan::new(pair.door.addr(), 2, vec![Kind::Index]).speaks(Speaks::TlsHttp2(trust.clone())).streams(4),
    ]
    .map(|plan| plan.think(Duration::from_millis(5)).start());
    let second = wait_other(&pair.door, &trust, &before);
    wait_other(&pair.door, &trust, &second);
    let tallies = loads.map(|load| {
        load.wait_round();
        load.stop()
    });
    tallies.iter().for_each(|tally| tally.assert_clean());
    let total: usize = tallies.iter().map(|tally| tally.total()).sum();
    tell(format_args!("two renewals by suggestion under load: {total} requests, 0 failed"));
    assert_eq!(acme.accounts(), 1);
}

#[test]
fn a_renewal_that_fails_disturbs_nobody() {
    let mut acme = Acme::start(AT_ONCE);
    let mut pair = Pair::start_with(|door| door.acme(&acme, &[HOST]));
    acme.looks_at(&pair.door);
    wait_certificate(&pair.door, HOST);
    let trust = acme.trust(HOST);
    let before = shown(&pair.door, &trust).unwrap();
    let load = Plan::new(pair.door.addr(), 4, vec![Kind::Index])
        .speaks(Speaks::TlsHttp1(trust.clone()))
        .renew(3)
        .think(Duration::from_millis(5))
        .start();
    let reload = |door: &Door| assert!(door.post("/v1/reload", json!({})).status() == 200);

    // Gone, after it has said when it is time.
    pair.door.wait_log("the authority suggests when to renew");
    acme.stop();
    let status = wait_fault(&pair.door, HOST, "cannot connect to 127.0.0.1:");
    assert_eq!((status.in_use, status.failures), (true, 1));
    assert!(
        status
            .fault
            .unwrap()
            .ends_with("; see whether this host reaches `acme.directory`; `bgctl reload` tries at once")
    );
    let told = pair.door.bgctl(&["status"]).ok().stdout;
    assert!(told.contains("  not renewed, tried 1 time, next at "), "{told}");
    pair.door.wait_log("no new certificate, the old one stays in use");
    assert_eq!(pair.door.metrics().sum("bgproxy_acme_hosts_failing", &[]), 1.0);

    // Back, but not to be trusted.
    acme.restart(|_| ());
    pair.door.configure("acme.ca", acme.wrong_ca().to_str().unwrap());
    reload(&pair.door);
    let status = wait_fault(&pair.door, HOST, "no TLS with 127.0.0.1:");
    assert!(status.fault.unwrap().contains("name the authority that signed its certificate in `acme.ca`"));

    // To be trusted, and of another opinion.
    acme.restart(|settings| settings.domain = "elsewhere.test");
    pair.door.configure("acme.ca", acme.ca().to_str().unwrap());
    reload(&pair.door);
    let status = wait_fault(&pair.door, HOST, "rejectedIdentifier");
    assert!(status.failures >= 3, "{status:?}");
    assert_eq!(shown(&pair.door, &trust).unwrap(), before);

    // All is well again.
    acme.restart(|settings| settings.domain = "test");
    reload(&pair.door);
    wait_other(&pair.door, &trust, &before);
    wait_certificate(&pair.door, HOST);
    assert_eq!(pair.door.metrics().sum("bgproxy_acme_hosts_failing", &[]), 0.0);
    load.wait_round();
    let tally = load.stop();
    tally.assert_clean();
    tell(format_args!("an authority gone, not trusted, refusing: {} requests, 0 failed", tally.total()));
}

#[test]
fn a_host_that_leads_elsewhere_is_told_with_what_to_do() {
    let acme = Acme::start(Settings::default());
    let (door, _blue) = Door::builder().acme(&acme, &["a.nowhere.test", HOST]).before(Fake::echoes);
    acme.looks_at(&door);
    let status = wait_fault(&door, "a.nowhere.test", "the authority looked at the host and did not find us");
    assert!(!status.in_use && status.next.is_some());
    assert!(status.fault.unwrap().contains("the host's DNS must lead here"));
    wait_certificate(&door, HOST);
    let told = door.bgctl(&["status"]).ok().stdout;
    assert!(told.contains("no certificate yet for a.nowhere.test\n  not to be had, tried 1 time, next at "), "{told}");
}

#[test]
fn an_authority_that_puts_us_off_is_left_alone() {
    // By another door, because authorities are spoken to by TLS alone.
    let trusted = crate::harness::Authority::new();
    let answer = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7200\r\nContent-Length: 2\r\n\r\n{}";
    let says = |at: PathBuf| Fake::answers(at, answer);
    let (front, authority) = Door::builder().tls(&trusted).before(says);
    let builder = Door::builder();
    let (ca, directory) = (trusted.write(builder.dir()), format!("https://localhost:{}/", front.addr().port()));
    let (mut door, _blue) = builder
        .set("listen", json!([{ "address": "127.0.0.1:0" }, { "address": "127.0.0.1:0", "tls": true }]))
        .set("acme.hosts", json!([HOST]))
        .set("acme.terms_agreed", true)
        .set("acme.directory", directory)
        .set("acme.ca", ca.to_str().unwrap())
        .before(Fake::echoes);
    let status = wait_fault(&door, HOST, "");
    assert!(!status.fault.unwrap().contains("bgctl reload"), "which tries nothing here");
    let next = humantime::parse_rfc3339(&status.next.unwrap()).unwrap();
    let pause = next.duration_since(std::time::SystemTime::now()).unwrap();
    assert!((7100..=7200).contains(&pause.as_secs()), "{pause:?}");
    // A reload tries at once what may be tried.
    door.configure("acme.hosts", json!([HOST, "b.test"]));
    wait_until("the second host", DEADLINE, || door.status().acme.len() == 2);
    wait_fault(&door, "b.test", "");
    assert_eq!((host(&door, HOST).failures, authority.requests().len()), (1, 2));

    // Nor does a restart try, and the reload after it tries no more than the one before.
    door.restart();
    door.configure("acme.hosts", json!([HOST, "b.test", "c.test"]));
    wait_until("the third host", DEADLINE, || door.status().acme.len() == 3);
    wait_fault(&door, "c.test", "");
    assert_eq!((host(&door, HOST).failures, host(&door, "b.test").failures, authority.requests().len()), (1, 1, 3));
}

#[test]
fn another_authority_or_one_that_forgot_us_gives_new_certificates() {
    let (mut first, second) = (Acme::start(Settings::default()), Acme::start(Settings::default()));
    let (mut door, _blue) = Door::builder().acme(&first, &[HOST]).before(Fake::echoes);
    first.looks_at(&door);
    second.looks_at(&door);
    wait_certificate(&door, HOST);

    // It knows nobody any more; the next certificate is another host's.
    first.forget();
    door.configure("acme.hosts", json!([HOST, "b.test"]));
    wait_until("the second host", DEADLINE, || door.status().acme.len() == 2);
    wait_certificate(&door, "b.test");
    door.wait_log("the authority does not know us any more");
    assert_eq!(first.accounts(), 2);
    assert!(shown(&door, &first.trust(HOST)).is_some());

    // Another one: both are asked for at once.
    door.configure("acme.ca", second.ca().to_str().unwrap());
    door.configure("acme.directory", second.directory());
    for name in [HOST, "b.test"] {
        wait_until("the second authority's", PATIENCE, || shown(&door, &second.trust(name)).is_some());
        assert!(shown(&door, &first.trust(name)).is_none());
    }
    assert_eq!((second.accounts(), second.orders()), (1, 2));

    // Nobody wants one of them any more.
    door.configure("acme.hosts", json!(["b.test"]));
    wait_until("one host", DEADLINE, || door.status().certificates.len() == 1);
    assert_eq!(door.status().acme.len(), 1);
}

// === clocks and crashes ===

#[test]
fn a_clock_that_is_set_forward_renews() {
    let dir = crate::harness::temp_dir();
    let clock = dir.path().join("clock");
    let set = |offset: &str| {
        let new = dir.path().join("new");
        std::fs::write(&new, format!("{offset}\n")).unwrap();
        std::fs::rename(&new, &clock).unwrap();
    };
    set("+0");
    // The clock on the wall alone, as `date --set` does.
    let library = crate::harness::tools::faketime();
    let env = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let acme = Acme::start_with(Settings::default(), &env);
    let builder = env.iter().fold(Door::builder().acme(&acme, &[HOST]), |door, (key, value)| door.env(key, value));
    let (door, _blue) = builder.before(Fake::echoes);
    acme.looks_at(&door);
    wait_certificate(&door, HOST);
    let days_left = || door.status().certificates[0].days_left;
    let before = std::fs::read(pem(&door, HOST)).unwrap();

    set("+56d");
    wait_until("the new time", DEADLINE, || days_left() == 33);
    assert_eq!(acme.orders(), 1, "not yet");
    set("+62d");
    wait_until("a renewal", PATIENCE, || days_left() >= 89);
    wait_certificate(&door, HOST);
    assert_ne!(std::fs::read(pem(&door, HOST)).unwrap(), before);
    assert_eq!(acme.orders(), 2);
}

#[test]
fn a_kill_in_the_midst_of_an_order_leaves_the_old_certificate_or_the_new_one() {
    let mut acme = Acme::start(Settings::default());
    let (mut door, _blue) = Door::builder().acme(&acme, &[HOST]).before(Fake::echoes);
    acme.looks_at(&door);
    wait_certificate(&door, HOST);
    for place in ["acme_ordered", "acme_posted", "acme_before_keep", "acme_after_keep"] {
        let before = shown(&door, &acme.trust(HOST)).unwrap();
        door.terminate();
        // Of another authority, and nothing failed before: so the next one is asked for at once.
        let text = std::fs::read_to_string(pem(&door, HOST)).unwrap();
        std::fs::write(pem(&door, HOST), text.replace("Authority: ", "Authority: not ")).unwrap();
        let _ = std::fs::remove_file(pem(&door, HOST).with_file_name("setbacks.json"));
        acme.looks_nowhere();
        door.set_env("BGPROXY_FAILPOINT", Some(place));
        door.spawn();
        if place.ends_with("keep") {
            door.wait_started();
            acme.looks_at(&door);
        }
        door.wait_end();

        door.set_env("BGPROXY_FAILPOINT", None);
        acme.stop();
        door.restart();
        let after = shown(&door, &acme.trust(HOST)).expect("a certificate that fits its key");
        assert_eq!(after == before, place != "acme_after_keep", "{place}");
        let left = std::fs::read_dir(door.state_dir().join("acme")).unwrap().count();
        assert_eq!(left, 3, "{place}: an account, a certificate, and what failed");
        acme.restart(|_| ());
    }
    assert_eq!(acme.accounts(), 1);
}
