//! Certificates on disk: what is in use, what replaces it, and what does not.

use std::path::Path;
use std::time::Duration;

use bgproxy_conf::wire::{CertificateStatus, Reload, What};
use serde_json::json;

use crate::harness::authority::{Authority, Signed};
use crate::harness::door::Events;
use crate::harness::{DEADLINE, Door, temp_dir, wait_until};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A door with one certificate, for `1.test`.
fn door(authority: &Authority, dir: &Path) -> Door {
    let certificate = authority.server(&["1.test"]).write(dir);
    Door::builder().set("certificate", json!([certificate])).start()
}

fn only(door: &Door) -> CertificateStatus {
    let [certificate] = door.status().certificates.try_into().expect("one certificate");
    certificate
}

/// The fault of the next event about a certificate.
#[track_caller]
fn fault(events: &mut Events) -> Option<String> {
    let event = events.wait(|what| matches!(what, What::Certificate { .. }));
    let What::Certificate { fault, .. } = event.what else { unreachable!() };
    fault
}

#[track_caller]
fn reload(door: &Door) -> Reload {
    door.post("/v1/reload", json!({})).parsed()
}

#[test]
fn status_metrics_and_log_tell_when_a_certificate_expires() {
    let (authority, dir) = (Authority::new(), temp_dir());
    let (calm, soon) = (dir.path().join("calm"), dir.path().join("soon"));
    let certificates = json!([
        authority.server_for(&["calm.test", "*.calm.test"], 100 * DAY + DAY / 2).write(&calm),
        authority.server_for(&["soon.test"], 20 * DAY + DAY / 2).write(&soon),
        authority.server_for(&["late.test"], DAY / 2).write(&dir.path().join("late")),
    ]);
    let door = Door::builder().set("certificate", certificates).start();
    let status = door.status().certificates;
    let told: Vec<_> = status.iter().map(|one| (one.names.join(" "), one.days_left, one.fault.is_none())).collect();
    let expected = [("calm.test *.calm.test", 100, true), ("soon.test", 20, true), ("late.test", 0, true)];
    assert_eq!(told, expected.map(|(names, days, fine)| (names.to_owned(), days, fine)));
    let shown = door.bgctl(&["status"]).ok().stdout;
    assert!(shown.contains(&format!("certificate {} for soon.test: expires in 20 days\n", status[1].cert)), "{shown}");

    let metrics = door.metrics();
    let expiry = |one: &CertificateStatus| {
        metrics.sum("bgproxy_certificate_expiry_timestamp_seconds", &[("cert", one.cert.as_str())])
    };
    assert_eq!(expiry(&status[1]) - expiry(&status[2]), (20 * DAY).as_secs_f64());
    door.wait_log("certificate expires soon");
    wait_until("both to be told", DEADLINE, || door.log().matches("certificate expires soon").count() == 2);
    assert!(!door.log().contains(calm.to_str().unwrap()), "{}", door.log());
}

#[test]
fn a_certificate_is_replaced_however_its_files_are_written() {
    let (authority, dir) = (Authority::new(), temp_dir());
    // As certbot has it: `live` holds links into `archive`, which are replaced one after the other.
    let live = dir.path().join("live");
    let archive = |name: &str| dir.path().join("archive").join(name);
    let certificate = authority.server(&["1.test"]).write(&archive("1"));
    let link = |to: &Path, name: &str| {
        std::os::unix::fs::symlink(to.join(name), live.join("new")).unwrap();
        std::fs::rename(live.join("new"), live.join(name)).unwrap();
    };
    std::fs::create_dir(&live).unwrap();
    for name in ["cert.pem", "key.pem"] {
        link(&archive("1"), name);
    }
    assert!(certificate["cert"].as_str().unwrap().ends_with("archive/1/cert.pem"));
    let place = |name: &str| live.join(name).to_str().unwrap().to_owned();
    let configured = json!([{ "cert": place("cert.pem"), "key": place("key.pem") }]);
    let door = Door::builder().set("certificate", configured).start();
    let mut events = door.events(None);

    let rename = |signed: &Signed| {
        for (name, text) in [("key.pem", &signed.key), ("cert.pem", &signed.cert)] {
            std::fs::write(live.join("new"), text).unwrap();
            std::fs::rename(live.join("new"), live.join(name)).unwrap();
        }
    };
    let truncate = |signed: &Signed| {
        for (name, text) in [("cert.pem", &signed.cert), ("key.pem", &signed.key)] {
            std::fs::write(live.join(name), text).unwrap();
        }
    };
    let relink = |signed: &Signed| {
        signed.write(&archive("2"));
        for name in ["cert.pem", "key.pem"] {
            link(&archive("2"), name);
        }
    };
    for (name, replace) in [("2.test", &relink as &dyn Fn(&Signed)), ("3.test", &truncate), ("4.test", &rename)] {
        replace(&authority.server(&[name]));
        assert_eq!(fault(&mut events), None);
        assert_eq!(only(&door).names, [name]);
    }
    let metrics = door.metrics();
    let count = |outcome: &str| metrics.sum("bgproxy_certificate_reloads_total", &[("outcome", outcome)]);
    assert_eq!((count("ok"), count("failed")), (3.0, 0.0));
}

#[test]
fn a_pair_that_does_not_fit_changes_nothing_until_it_does() {
    let (authority, dir) = (Authority::new(), temp_dir());
    let door = door(&authority, dir.path());
    let mut events = door.events(None);
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let second = authority.server(&["2.test"]);

    std::fs::write(&cert, &second.cert).unwrap();
    let told = fault(&mut events).expect("a fault");
    assert!(told.starts_with(&format!("{}: the private key in it does not belong", key.display())), "{told}");
    let status = only(&door);
    assert_eq!((status.names, status.fault), (vec!["1.test".to_owned()], Some(told)));
    let shown = door.bgctl(&["status"]).ok().stdout;
    assert!(shown.contains("  not replaced, the one before stays: "), "{shown}");
    door.wait_log("certificate not replaced, the old one stays in use");

    std::fs::write(&key, &second.key).unwrap();
    assert_eq!(fault(&mut events), None);
    let status = only(&door);
    assert_eq!((status.names, status.fault), (vec!["2.test".to_owned()], None));

    std::fs::remove_file(&key).unwrap();
    let told = fault(&mut events).expect("a fault");
    assert!(told.contains("there is no such file"), "{told}");
    assert_eq!(only(&door).names, ["2.test"]);
    let metrics = door.metrics();
    let count = |outcome: &str| metrics.sum("bgproxy_certificate_reloads_total", &[("outcome", outcome)]);
    assert_eq!((count("ok"), count("failed")), (1.0, 2.0));
}

#[test]
fn a_reload_takes_certificates_in_and_out_or_changes_nothing() {
    let (authority, dir) = (Authority::new(), temp_dir());
    let first = authority.server(&["1.test"]).write(&dir.path().join("1"));
    let second = authority.server(&["2.test"]).write(&dir.path().join("2"));
    let mut door = Door::builder().set("certificate", json!([first])).start();
    let names = |door: &Door| {
        door.status().certificates.into_iter().map(|one| one.names.join(" ")).collect::<Vec<_>>().join(", ")
    };

    door.configure("certificate", json!([first, { "cert": second["cert"], "key": first["key"] }]));
    let refused = reload(&door);
    let told = refused.fault.expect("a fault");
    assert!(!refused.ok && told.contains("the private key in it does not belong to the certificate"), "{told}");
    assert_eq!(names(&door), "1.test");

    door.configure("certificate", json!([second, first]));
    let reloaded = reload(&door);
    assert_eq!((reloaded.ok, reloaded.needs_restart), (true, vec![]));
    assert_eq!(names(&door), "2.test, 1.test");
    let mut events = door.events(None);
    authority.server(&["3.test"]).write(&dir.path().join("2"));
    assert_eq!(fault(&mut events), None);
    assert_eq!(names(&door), "3.test, 1.test");

    door.configure("certificate", json!([second]));
    assert!(reload(&door).ok);
    assert_eq!(names(&door), "3.test");
    let gone = first["cert"].as_str().unwrap();
    assert_eq!(door.metrics().sum("bgproxy_certificate_expiry_timestamp_seconds", &[("cert", gone)]), 0.0);
}

#[test]
fn a_start_with_a_faulty_pair_or_authority_says_which_file_and_what_to_do() {
    let (authority, dir) = (Authority::new(), temp_dir());
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    let pair = authority.server(&["1.test"]).write(&first);
    let other = authority.server(&["2.test"]).write(&second);
    let listen = |ca: &Path| json!([{ "address": "127.0.0.1:0", "tls": true, "client_ca": ca.to_str().unwrap() }]);
    let said = |builder: crate::harness::door::Builder| {
        let door = builder.door();
        let output = door.start_expecting_failure();
        let checked = door.bgproxy(&["check", "-c", door.config().to_str().unwrap()]);
        assert_eq!((output.code, checked.code), (Some(1), Some(1)));
        let words: Vec<&str> = output.stderr.lines().skip_while(|line| !line.starts_with("error")).collect();
        assert_eq!(checked.stderr.trim_end(), words.join("\n"), "`bgproxy check` says it too");
        words.join("\n").replace(dir.path().to_str().unwrap(), "DIR")
    };
    let with = |certificate: serde_json::Value| Door::builder().set("certificate", json!([certificate]));
    insta::assert_snapshot!(said(with(json!({ "cert": pair["cert"], "key": other["key"] }))), @"
    error: DIR/2/key.pem: the private key in it does not belong to the certificate
    hint: the server's own certificate must be the first in its file; for a pair `openssl x509 -noout -pubkey -in CERT` and `openssl pkey -pubout -in KEY` print the same
    ");
    insta::assert_snapshot!(said(with(json!({ "cert": pair["cert"], "key": "/nowhere/key.pem" }))), @"
    error: /nowhere/key.pem: there is no such file
    hint: put it there, or correct the path in the configuration
    ");
    insta::assert_snapshot!(said(with(pair.clone()).set("listen", listen(&first.join("key.pem")))), @"
    error: DIR/1/key.pem: there is no certificate in it
    hint: it must be PEM, with `-----BEGIN CERTIFICATE-----`
    ");
}

/// Nobody knew before the door ran that it would fetch no certificate.
#[test]
fn a_check_says_where_the_authority_to_trust_is_named_that_cannot_be_read() {
    let said = |ca: &Path| {
        let builder = Door::builder().wants(&["portal.test"]).set("acme.directory", "https://127.0.0.1:1/");
        // It opens all the same.
        let door = builder.set("acme.ca", ca.to_str().unwrap()).start();
        let checked = door.bgproxy(&["check", "-c", door.config().to_str().unwrap()]);
        assert_eq!(checked.code, Some(1));
        let told = checked.stderr.replace(door.dir().to_str().unwrap(), "DOOR");
        told.trim_end().to_owned()
    };
    let dir = temp_dir();
    let empty = dir.path().join("ca.pem");
    std::fs::write(&empty, "hello").unwrap();
    let told = [Path::new("/nowhere/ca.pem"), Path::new("/proc"), &empty].map(said);
    insta::assert_snapshot!(told.join("\n\n").replace(dir.path().to_str().unwrap(), "DIR"), @r#"
    error: /nowhere/ca.pem: there is no such file
     --> DOOR/bgproxy.toml:1:6
      |
    1 | acme.ca = "/nowhere/ca.pem"
      |      ^^
      |
      = help: put it there, or correct the path in the configuration

    error: /proc: it cannot be read (not a regular file)
     --> DOOR/bgproxy.toml:1:6
      |
    1 | acme.ca = "/proc"
      |      ^^
      |
      = help: the user that bgproxy runs as must be able to read it and to enter the directories on the way

    error: DIR/ca.pem: there is no certificate in it
     --> DOOR/bgproxy.toml:1:6
      |
    1 | acme.ca = "DIR/ca.pem"
      |      ^^
      |
      = help: it must be PEM, with `-----BEGIN CERTIFICATE-----`
    "#);
}

#[test]
fn a_private_key_that_everybody_can_read_is_warned_about() {
    let (authority, dir) = (Authority::new(), temp_dir());
    let door = door(&authority, dir.path());
    assert!(!door.log().contains("can read the private key"));
    let key = dir.path().join("key.pem");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let second = authority.server(&["2.test"]);
    std::fs::write(dir.path().join("cert.pem"), &second.cert).unwrap();
    std::fs::write(&key, &second.key).unwrap();
    door.wait_log("everybody on this host can read the private key");
}
