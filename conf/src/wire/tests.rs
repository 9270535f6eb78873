//! The JSON as it goes over the socket.

use serde::de::DeserializeOwned;

use super::*;

/// The value as JSON, after proving that it comes back from it unchanged.
fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("serializes");
    assert_eq!(&serde_json::from_str::<T>(&text).expect("deserializes"), value, "{text}");
    // Two fields of one name would survive the way through a struct, but not through other people's parsers.
    let tree: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(tree.to_string().len(), text.len(), "a field stands twice in {text}");
    text
}

fn event(what: What) -> Event {
    Event { id: 7, at: "2026-01-02T03:04:05Z".to_owned(), service: Some(service()), what }
}

fn service() -> ServiceName {
    "portal".parse().expect("a name")
}

fn receipt() -> Receipt {
    Receipt {
        generation: 3,
        from: Color::blue(),
        to: Color::green(),
        outcome: DrainOutcome::Cut,
        served: 1000,
        in_flight: 3,
        finished: 1,
        moved: 0,
        failed: 1,
        cut_total: 1,
        cut: vec![CutRequest { method: "GET".to_owned(), path: "/slow".to_owned(), age: 31.5 }],
        streams_kept: 0,
        streams_left: 0,
        seconds: 30.0,
    }
}

fn probe() -> ProbeReport {
    ProbeReport {
        ready: false,
        at: "2026-01-02T03:04:05Z".to_owned(),
        status: None,
        reason: Some("socket_missing".to_owned()),
        detail: None,
        seconds: 0.001,
    }
}

#[test]
fn an_event_is_one_flat_object_with_its_kind() {
    insta::assert_snapshot!(json(&event(What::Drained(receipt()))), @r#"{"id":7,"at":"2026-01-02T03:04:05Z","service":"portal","kind":"drained","generation":3,"from":"blue","to":"green","outcome":"cut","served":1000,"in_flight":3,"finished":1,"moved":0,"failed":1,"cut_total":1,"cut":[{"method":"GET","path":"/slow","age":31.5}],"streams_kept":0,"streams_left":0,"seconds":30.0}"#);
    insta::assert_snapshot!(json(&event(What::Probing { to: Color::green() })), @r#"{"id":7,"at":"2026-01-02T03:04:05Z","service":"portal","kind":"probing","to":"green"}"#);
}

#[test]
fn every_kind_of_event_comes_back_as_it_was() {
    let reload = Reload { at: "2026-01-02T03:04:06Z".to_owned(), ok: true, fault: None, needs_restart: vec![] };
    let by = "uid 1000 (deploy) pid 4711".to_owned();
    for what in [
        What::Refused { reason: "unready".to_owned(), detail: "503".to_owned(), by: by.clone() },
        What::Switched { generation: 3, from: Color::blue(), to: Color::green(), by: by.clone() },
        What::Previewed { generation: 4, color: Color::blue(), by: by.clone() },
        What::ClosingStreams { color: Color::blue(), streams: 40, seconds: 60.0, by },
        What::Drained(receipt()),
        What::Readiness { color: Color::blue(), probe: probe() },
        What::Socket { color: Color::blue(), present: false },
        What::LiveFile { fault: "no color".to_owned() },
        What::Reloaded { reload },
    ] {
        json(&event(what.clone()));
        json(&Event { service: None, ..event(what) });
    }
}

#[test]
fn a_status_comes_back_as_it_was() {
    let phase = Phase::Draining { from: Color::blue(), left: 2, streams: 1, deadline_in: 29.5 };
    let color = ColorStatus {
        address: "/run/blue.sock".to_owned(),
        role: Role::Draining,
        ready: Some(probe()),
        in_flight: 2,
        streams: 1,
        streams_by_kind: StreamsByKind { tunnels: 1, events: 0, downloads: 0 },
        oldest_stream: Some(61.5),
        finished: 10,
        failed: 0,
    };
    let status = ServiceStatus {
        generation: 3,
        live: Color::green(),
        preview: Color::green(),
        previous: Some(Color::blue()),
        phase,
        colors: BTreeMap::from([(Color::blue(), color)]),
        live_file: None,
    };
    json(&status);
    json(&Status {
        version: "bgproxy 0.1.0".to_owned(),
        pid: 1,
        started: "2026-01-02T03:04:05Z".to_owned(),
        workers: 2,
        listen: vec!["0.0.0.0:80".to_owned()],
        admin: "127.0.0.1:9180".to_owned(),
        config: None,
        last_reload: None,
        connections: 0,
        limits: LimitsStatus {
            connections: 20_000,
            last_minute: Refused { rate_limited: 7, address: Some("192.0.2.1".to_owned()), ..Refused::default() },
            out_of_descriptors: true,
        },
        certificates: vec![CertificateStatus {
            cert: "/etc/a.pem".to_owned(),
            names: vec!["*.a.test".to_owned()],
            not_after: "2026-01-02T03:04:05Z".to_owned(),
            days_left: -1,
            fault: None,
        }],
        acme: vec![AcmeStatus {
            host: "a.test".parse().expect("a host"),
            cert: "/var/lib/bgproxy/acme/a.test.pem".to_owned(),
            in_use: false,
            next: Some("2026-01-02T03:04:05Z".to_owned()),
            failures: 1,
            fault: Some("it does not answer".to_owned()),
        }],
        services: BTreeMap::from([(service(), status)]),
    });
}

#[test]
fn a_request_needs_no_more_than_its_color() {
    let request: SwitchRequest = serde_json::from_str(r#"{"to":"green"}"#).expect("a request");
    assert_eq!((request.to.as_str(), request.force, request.expect_live), ("green", false, None));
    serde_json::from_str::<SwitchRequest>(r#"{"to":"green","forse":true}"#).expect_err("an unknown key");
    serde_json::from_str::<SwitchRequest>(r#"{"to":"Green"}"#).expect_err("not a color");
    assert_eq!(serde_json::from_str::<RollbackRequest>("{}").expect("a request"), RollbackRequest::default());
}

#[test]
fn a_reader_ignores_what_it_does_not_know() {
    let text = r#"{"id":7,"at":"x","service":null,"kind":"probing","to":"green","new":1}"#;
    serde_json::from_str::<Event>(text).expect("an event");
}
