//! Every rendering, read from JSON as the daemon sends it.

use insta::assert_snapshot;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::words::did_you_mean;

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the contract")
}

fn probe(ready: bool) -> Value {
    let at = "2026-08-03T12:00:09.120Z";
    match ready {
        true => json!({ "ready": true, "at": at, "status": 200, "reason": null, "detail": null, "seconds": 0.0123 }),
        false => json!({ "ready": false, "at": at, "status": null, "reason": "socket_missing",
            "detail": "no socket at /var/run/nginx/green/nginx.sock (ENOENT)", "seconds": 0.0001 }),
    }
}

fn color(name: &str, role: &str, ready: Value, numbers: [u64; 4]) -> Value {
    let [in_flight, streams, finished, failed] = numbers;
    let (kinds, oldest) = (json!({ "tunnels": 0, "events": streams, "downloads": 0 }), (streams > 0).then_some(754.2));
    json!({ "address": format!("/var/run/nginx/{name}/nginx.sock"), "role": role, "ready": ready,
        "in_flight": in_flight, "streams": streams, "streams_by_kind": kinds, "oldest_stream": oldest,
        "finished": finished, "failed": failed })
}

fn a_service() -> Value {
    json!({
        "generation": 7, "live": "blue", "preview": "blue", "previous": "green", "phase": { "state": "steady" },
        "colors": {
            "blue": color("blue", "live", probe(true), [12, 2, 81234, 3]),
            "green": color("green", "idle", Value::Null, [0, 0, 0, 0]),
        },
        "live_file": { "path": "/var/lib/bgproxy/live/portal", "fault": null },
    })
}

fn a_status(services: Value) -> Value {
    json!({
        "version": "0.1.0 (f3123c7)", "pid": 4711, "started": "2026-08-03T12:00:00.123456Z", "workers": 2,
        "listen": ["0.0.0.0:80", "[::]:80"], "admin": "127.0.0.1:9180", "config": "/etc/bgproxy/bgproxy.toml",
        "last_reload": null, "connections": 812, "services": services,
    })
}

fn a_receipt() -> Value {
    json!({ "generation": 8, "from": "blue", "to": "green", "outcome": "drained", "served": 81246, "in_flight": 12,
        "finished": 12, "moved": 0, "failed": 0, "cut_total": 0, "cut": [], "streams_left": 0, "seconds": 1.234 })
}

fn a_cut_receipt() -> Value {
    let mut receipt = a_receipt();
    receipt["outcome"] = "cut".into();
    receipt["finished"] = 9.into();
    receipt["failed"] = 1.into();
    receipt["streams_left"] = 1.into();
    receipt["seconds"] = 30.0.into();
    receipt["cut_total"] = 2.into();
    receipt["cut"] = json!([
        { "method": "POST", "path": "/upload?name=\u{1b}[2J", "age": 41.23 },
        { "method": "GET", "path": "/report", "age": 3725.0 },
    ]);
    receipt
}

fn render_service(value: Value) -> String {
    service(&"portal".parse().expect("a name"), &read(value), Paint::Plain)
}

fn render_receipt(value: Value) -> String {
    receipt(&read(value), Paint::Plain)
}

fn render_event(what: Value) -> String {
    let mut data = json!({ "id": 101, "at": "2026-08-03T12:00:00.5Z", "service": "portal" });
    for (key, value) in what.as_object().expect("an object") {
        data[key] = value.clone();
    }
    event(&data.to_string(), Paint::Plain)
}

fn render_problem(value: Value, hint: Option<&str>) -> String {
    fault(&Fault::Problem { problem: Box::new(read(value)), raw: bytes::Bytes::new() }, hint, Paint::Plain)
}

// === status ===

#[test]
fn status_of_a_steady_service() {
    let text = status(&read(a_status(json!({ "portal": a_service() }))), Paint::Plain);
    assert_snapshot!(text, @"
    bgproxy 0.1.0 (f3123c7), pid 4711, since 2026-08-03T12:00:00Z, 2 workers, 812 connections
    listens on 0.0.0.0:80 [::]:80, admin on 127.0.0.1:9180, configured by /etc/bgproxy/bgproxy.toml

    portal: blue is live, generation 7, rollback leads to green
      COLOR  ROLE  READY      IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   live  ready             12        2     81234       3  /var/run/nginx/blue/nginx.sock
      green  idle  not asked          0        0         0       0  /var/run/nginx/green/nginx.sock
      blue has 2 event streams open, the oldest for 12 min 34 s
    ");
}

#[test]
fn status_of_two_services_and_the_built_in_configuration() {
    let mut value = a_status(json!({ "portal": a_service(), "admin": a_service() }));
    value["config"] = Value::Null;
    assert_snapshot!(status(&read(value), Paint::Plain), @"
    bgproxy 0.1.0 (f3123c7), pid 4711, since 2026-08-03T12:00:00Z, 2 workers, 812 connections
    listens on 0.0.0.0:80 [::]:80, admin on 127.0.0.1:9180, configured by the built-in default

    admin: blue is live, generation 7, rollback leads to green
      COLOR  ROLE  READY      IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   live  ready             12        2     81234       3  /var/run/nginx/blue/nginx.sock
      green  idle  not asked          0        0         0       0  /var/run/nginx/green/nginx.sock
      blue has 2 event streams open, the oldest for 12 min 34 s

    portal: blue is live, generation 7, rollback leads to green
      COLOR  ROLE  READY      IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   live  ready             12        2     81234       3  /var/run/nginx/blue/nginx.sock
      green  idle  not asked          0        0         0       0  /var/run/nginx/green/nginx.sock
      blue has 2 event streams open, the oldest for 12 min 34 s
    ");
}

#[test]
fn status_of_limits_that_are_reached() {
    let told = |open: u64, limits: Value| {
        let mut value = a_status(json!({}));
        value["connections"] = open.into();
        value["limits"] = limits;
        status(&read(value), Paint::Plain).lines().skip(2).collect::<Vec<_>>().join("\n")
    };
    let refused = |numbers: [u64; 3], address: Value| {
        let [requests, connections, reclaimed] = numbers;
        json!({ "rate_limited": requests, "too_many_connections": connections, "reclaimed": reclaimed,
            "address": address })
    };
    let status_of = |refused: Value, out_of_descriptors: bool| json!({ "connections": 10_000, "last_minute": refused, "out_of_descriptors": out_of_descriptors });
    let calm = status_of(refused([0, 0, 0], Value::Null), false);
    assert_eq!(told(8_999, calm.clone()), "", "nothing to look at");
    assert_eq!(told(9_000, json!({})), "", "an older daemon does not say");
    assert_snapshot!(told(9_000, calm), @"limits: 9000 of 10000 connections are open");
    let attacked = refused([1203, 1, 40], json!("203.0.113.7\u{1b}[2J"));
    assert_snapshot!(told(10_000, status_of(attacked, true)), @r"
    limits: 10000 of 10000 connections are open
    limits: in the last minute 1203 requests refused (rate_limited), 1 connection refused (too_many_connections), 40 idle connections closed for others (reclaimed); the newest address is 203.0.113.7\u{1b}[2J
    limits: in the last minute no descriptor was left for some connections; raise LimitNOFILE or lower `limits.connections`
    ");
    let one = refused([0, 0, 1], Value::Null);
    assert_snapshot!(told(17, status_of(one, false)), @"limits: in the last minute 1 idle connection closed for others (reclaimed)");
}

#[test]
fn status_of_certificates() {
    let mut value = a_status(json!({}));
    let certificate = |names: Value, days: i64, fault: Value| {
        let not_after = "2026-12-01T00:00:00Z";
        json!({ "cert": "/etc/a.pem", "names": names, "not_after": not_after, "days_left": days, "fault": fault })
    };
    value["certificates"] = json!([
        certificate(json!(["portal.example.com", "*.portal.example.com"]), 62, Value::Null),
        certificate(json!(["a.test", "b.test", "c.test", "d.test", "e.test"]), 1, Value::Null),
        certificate(json!([]), -1, json!("/etc/a.key: it is\u{1b}[2J damaged")),
    ]);
    assert_snapshot!(status(&read(value), Paint::Plain), @r"
    bgproxy 0.1.0 (f3123c7), pid 4711, since 2026-08-03T12:00:00Z, 2 workers, 812 connections
    listens on 0.0.0.0:80 [::]:80, admin on 127.0.0.1:9180, configured by /etc/bgproxy/bgproxy.toml
    certificate /etc/a.pem for portal.example.com *.portal.example.com: expires in 62 days
    certificate /etc/a.pem for a.test b.test c.test and 2 more: expires in 1 day
    certificate /etc/a.pem for no name: expired at 2026-12-01T00:00:00Z
      not replaced, the one before stays: /etc/a.key: it is\u{1b}[2J damaged
    ");
    assert_snapshot!(render_event(json!({ "kind": "certificate", "cert": "/etc/a.pem", "fault": null })), @"2026-08-03T12:00:00Z  portal: certificate /etc/a.pem was replaced");
    assert_snapshot!(render_event(json!({ "kind": "certificate", "cert": "/etc/a.pem", "fault": "gone" })), @"2026-08-03T12:00:00Z  portal: certificate not replaced: /etc/a.pem: gone");
}

#[test]
fn status_of_certificates_that_are_fetched() {
    let mut value = a_status(json!({}));
    let not_after = "2026-12-01T00:00:00Z";
    let certificate = |name: &str, days: i64| {
        let cert = format!("/var/lib/bgproxy/acme/{name}.pem");
        json!({ "cert": cert, "names": [name], "not_after": not_after, "days_left": days, "fault": null })
    };
    let host = |name: &str, in_use: bool, next: Value, failures: u32, fault: Value| {
        let cert = format!("/var/lib/bgproxy/acme/{name}.pem");
        json!({ "host": name, "cert": cert, "in_use": in_use, "next": next, "failures": failures, "fault": fault })
    };
    value["certificates"] = json!([certificate("a.test", 62), certificate("b.test", 3)]);
    value["acme"] = json!([
        host("a.test", true, json!("2026-11-01T00:00:00Z"), 0, Value::Null),
        host("b.test", true, json!("2026-11-01T00:00:00Z"), 12, json!("it does not answer\u{1b}[2J")),
        host("c.test", false, json!("2026-11-01T00:00:00Z"), 1, json!("there is no such host")),
        host("d.test", false, Value::Null, 0, Value::Null),
    ]);
    assert_snapshot!(status(&read(value), Paint::Plain).lines().skip(2).collect::<Vec<_>>().join("\n"), @r"
    certificate /var/lib/bgproxy/acme/a.test.pem for a.test: expires in 62 days
      to be renewed at 2026-11-01T00:00:00Z
    certificate /var/lib/bgproxy/acme/b.test.pem for b.test: expires in 3 days
      not renewed, tried 12 times, next at 2026-11-01T00:00:00Z: it does not answer\u{1b}[2J
    no certificate yet for c.test
      not to be had, tried 1 time, next at 2026-11-01T00:00:00Z: there is no such host
    no certificate yet for d.test
      asked for now
    ");
}

#[test]
fn status_while_probing() {
    let mut value = a_service();
    value["phase"] = json!({ "state": "probing", "to": "green", "passed": 1, "passes": 3 });
    assert_snapshot!(render_service(value), @"
    portal: blue is live, generation 7, rollback leads to green
      COLOR  ROLE  READY      IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   live  ready             12        2     81234       3  /var/run/nginx/blue/nginx.sock
      green  idle  not asked          0        0         0       0  /var/run/nginx/green/nginx.sock
      asking green whether it is ready: 1 of 3 answers
      blue has 2 event streams open, the oldest for 12 min 34 s
    ");
}

#[test]
fn status_while_draining() {
    let mut value = a_service();
    value["live"] = "green".into();
    value["preview"] = "green".into();
    value["previous"] = "blue".into();
    value["phase"] = json!({ "state": "draining", "from": "blue", "left": 1, "streams": 2, "deadline_in": 21.44 });
    value["colors"]["blue"] = color("blue", "draining", probe(true), [1, 2, 81245, 3]);
    value["colors"]["green"] = color("green", "live", probe(true), [7, 0, 950, 0]);
    assert_snapshot!(render_service(value), @"
    portal: green is live, generation 7, rollback leads to blue
      COLOR  ROLE      READY  IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   draining  ready          1        2     81245       3  /var/run/nginx/blue/nginx.sock
      green  live      ready          7        0       950       0  /var/run/nginx/green/nginx.sock
      draining blue: 1 request left, 2 streams, cut in 21.4 s
      blue has 2 event streams open, the oldest for 12 min 34 s
    ");
}

#[test]
fn status_with_a_preview_an_unready_color_and_faults() {
    let mut service = a_service();
    service["preview"] = "green".into();
    service["previous"] = Value::Null;
    service["colors"]["green"] = color("green", "preview", probe(false), [0, 0, 0, 0]);
    service["live_file"]["fault"] = "holds `purple`, which is no color".into();
    let mut value = a_status(json!({ "portal": service }));
    value["last_reload"] = json!({
        "at": "2026-08-03T12:00:08Z", "ok": false, "needs_restart": [],
        "fault": "error: unknown key `backend`\n --> bgproxy.toml:3:1\n  |\n3 | backend = 1\n  | ^^^^^^^",
    });
    assert_snapshot!(status(&read(value), Paint::Plain), @"
    bgproxy 0.1.0 (f3123c7), pid 4711, since 2026-08-03T12:00:00Z, 2 workers, 812 connections
    listens on 0.0.0.0:80 [::]:80, admin on 127.0.0.1:9180, configured by /etc/bgproxy/bgproxy.toml

    portal: blue is live, generation 7, preview green
      COLOR  ROLE     READY    IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   live     ready           12        2     81234       3  /var/run/nginx/blue/nginx.sock
      green  preview  unready          0        0         0       0  /var/run/nginx/green/nginx.sock
      blue has 2 event streams open, the oldest for 12 min 34 s
      green is unready (socket_missing): no socket at /var/run/nginx/green/nginx.sock (ENOENT), asked 2026-08-03T12:00:09Z
      live file /var/lib/bgproxy/live/portal: holds `purple`, which is no color

    the last reload failed at 2026-08-03T12:00:08Z, nothing changed:
      error: unknown key `backend`
       --> bgproxy.toml:3:1
        |
      3 | backend = 1
        | ^^^^^^^
    ");
}

#[test]
fn status_tells_what_waits_for_a_restart() {
    let mut value = a_status(json!({}));
    value["last_reload"] =
        json!({ "at": "2026-08-03T12:00:08Z", "ok": true, "needs_restart": ["workers", "listen"], "fault": null });
    assert_snapshot!(status(&read(value), Paint::Plain), @"
    bgproxy 0.1.0 (f3123c7), pid 4711, since 2026-08-03T12:00:00Z, 2 workers, 812 connections
    listens on 0.0.0.0:80 [::]:80, admin on 127.0.0.1:9180, configured by /etc/bgproxy/bgproxy.toml

    reloaded at 2026-08-03T12:00:08Z, the new configuration is in use
    a restart is needed for `workers`, `listen`
    ");
}

#[test]
fn status_tells_streams_of_one_kind_from_those_of_another() {
    let mut value = a_service();
    let blue = &mut value["colors"]["blue"];
    blue["streams"] = 5.into();
    blue["streams_by_kind"] = json!({ "tunnels": 3, "events": 1, "downloads": 1 });
    blue["oldest_stream"] = Value::Null;
    let line = |value: &Value| render_service(value.clone()).lines().nth(4).map(str::to_owned);
    assert_eq!(line(&value).as_deref(), Some("  blue has 3 tunnels, 1 event stream, 1 download open"));
    // An older daemon does not tell.
    value["colors"]["blue"].as_object_mut().expect("an object").remove("streams_by_kind");
    assert_eq!(line(&value).as_deref(), Some("  blue has 5 streams open"));
}

#[test]
fn painting_adds_nothing_but_paint() {
    let mut value = a_service();
    value["colors"]["green"]["ready"] = probe(false);
    let name = "portal".parse().expect("a name");
    let painted = service(&name, &read(value.clone()), Paint::Ansi);
    assert_snapshot!(painted.replace('\x1b', "^"), @"
    ^[1mportal^[0m: ^[34mblue^[0m is live, generation 7, rollback leads to green
      COLOR  ROLE  READY    IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      ^[1m^[34mblue ^[0m^[0m  ^[1mlive^[0m  ready           12        2     81234       3  /var/run/nginx/blue/nginx.sock
      ^[32mgreen^[0m  idle  ^[31munready^[0m          0        0         0       0  /var/run/nginx/green/nginx.sock
      blue has 2 event streams open, the oldest for 12 min 34 s
      green is ^[31munready^[0m (socket_missing): no socket at /var/run/nginx/green/nginx.sock (ENOENT), asked 2026-08-03T12:00:09Z
    ");
    let codes = ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[34m"];
    let washed = codes.iter().fold(painted, |text, code| text.replace(code, ""));
    assert_eq!(washed, render_service(value));
}

// === a switch, from beginning to end ===

#[test]
fn progress_of_every_phase() {
    let lines = [
        json!({ "state": "steady" }),
        json!({ "state": "probing", "to": "green", "passed": 2, "passes": 3 }),
        json!({ "state": "switching", "to": "green" }),
        json!({ "state": "draining", "from": "blue", "left": 12, "streams": 0, "deadline_in": 30.0 }),
        json!({ "state": "draining", "from": "blue", "left": 3, "streams": 1, "deadline_in": 7.5 }),
        json!({ "state": "draining", "from": "blue", "left": 0, "streams": 0, "deadline_in": -1.0 }),
    ];
    let lines = lines.map(|phase| progress(&read(phase), 12).unwrap_or_else(|| "(nothing)".into()));
    assert_snapshot!(lines.join("\n"), @"
    (nothing)
    asking green whether it is ready: 2 of 3 answers
    switching to green
    draining blue [....................] 12 requests left, cut in 30.0 s
    draining blue [###############.....] 3 requests left, 1 stream, cut in 7.5 s
    draining blue [####################] 0 requests left, cut in 0 ms
    ");
    let odd = json!({ "state": "draining", "from": "blue", "left": u64::MAX, "streams": 0, "deadline_in": 1e300 });
    assert!(progress(&read(odd), 0).is_some_and(|line| line.contains("[####################]")));
}

#[test]
fn switched_now_and_before() {
    let mut value = json!({ "service": "portal", "generation": 8, "from": "blue", "to": "green", "preview": "green",
        "changed": true, "seconds": 0.0412, "receipt": null });
    assert_snapshot!(switched(&read(value.clone()), Paint::Plain), @"green is live (generation 8, was blue), 41 ms");
    value["changed"] = false.into();
    value["from"] = "green".into();
    assert_snapshot!(switched(&read(value), Paint::Plain), @"green is live already (generation 8), nothing changed");
}

#[test]
fn previewed_now_before_and_back() {
    let mut value = json!({ "service": "portal", "generation": 8, "from": "blue", "to": "blue", "preview": "green",
        "changed": true, "seconds": 0.002, "receipt": null });
    assert_snapshot!(previewed(&read(value.clone()), Paint::Plain), @"green is ready and the preview (generation 8), blue stays live");
    value["changed"] = false.into();
    assert_snapshot!(previewed(&read(value.clone()), Paint::Plain), @"green is ready and already the preview (generation 8), blue stays live");
    value["preview"] = "blue".into();
    value["changed"] = true.into();
    assert_snapshot!(previewed(&read(value), Paint::Plain), @"blue is live and the preview (generation 8)");
}

#[test]
fn closing_streams_says_how_many_and_how_long() {
    let reply = |closing: u64, seconds: f64| {
        closing_of(json!({ "service": "portal", "color": "blue", "closing": closing, "seconds": seconds }))
    };
    assert_snapshot!(reply(40, 60.0), @"closing 40 streams of blue within 1 min 00 s");
    assert_snapshot!(reply(0, 0.0), @"blue has no stream open");
    let by = "uid 1000 (deploy) pid 4711";
    let event = json!({ "kind": "closing_streams", "color": "blue", "streams": 1, "seconds": 0.5, "by": by });
    assert_snapshot!(render_event(event), @"2026-08-03T12:00:00Z  portal: closing 1 stream of blue within 500 ms, by uid 1000 (deploy) pid 4711");
}

fn closing_of(reply: Value) -> String {
    closing(&read(reply))
}

#[test]
fn receipt_of_a_drained_color() {
    assert_snapshot!(render_receipt(a_receipt()), @"blue is drained after 1.2 s; all 12 requests in flight finished; 81246 requests served in its term");
    let mut idle = a_receipt();
    idle["in_flight"] = 0.into();
    idle["finished"] = 0.into();
    idle["seconds"] = 0.0.into();
    assert_snapshot!(render_receipt(idle), @"blue is drained after 0 ms; nothing was in flight; 81246 requests served in its term");
    let mut failed = a_receipt();
    failed["finished"] = 9.into();
    failed["moved"] = 2.into();
    failed["failed"] = 1.into();
    assert_snapshot!(render_receipt(failed), @"blue is drained after 1.2 s; of 12 requests in flight, 9 finished, 2 moved to green, 1 failed; 81246 requests served in its term");
}

#[test]
fn receipt_of_answers_that_go_on() {
    let mut value = a_receipt();
    value["finished"] = 9.into();
    value["streams_kept"] = 3.into();
    value["streams_left"] = 3.into();
    assert_snapshot!(render_receipt(value.clone()), @"
    blue is drained after 1.2 s; of 12 requests in flight, 9 finished, 3 go on as streams; 81246 requests served in its term; 3 streams still open
    ");
    value["finished"] = 11.into();
    value["streams_kept"] = 1.into();
    value["streams_left"] = 0.into();
    assert_snapshot!(render_receipt(value), @"blue is drained after 1.2 s; of 12 requests in flight, 11 finished, 1 goes on as a stream; 81246 requests served in its term");
}

#[test]
fn receipt_with_cut_requests() {
    assert_snapshot!(render_receipt(a_cut_receipt()), @r"
    blue was cut after 30.0 s; of 12 requests in flight, 9 finished, 1 failed, 2 were cut; 81246 requests served in its term; 1 stream still open
      cut POST /upload?name=\u{1b}[2J, 41.2 s old
      cut GET /report, 1 h 02 min old
    ");
}

#[test]
fn receipt_lists_no_more_than_a_screenful() {
    let mut value = a_cut_receipt();
    value["cut_total"] = 50.into();
    value["cut"] = (0..50).map(|n| json!({ "method": "GET", "path": format!("/{n}"), "age": 1.0 })).collect();
    let text = render_receipt(value);
    assert_eq!(text.lines().filter(|line| line.starts_with("  cut ")).count(), CUT_SHOWN);
    assert!(text.contains("  and 30 more; `bgctl history --json` has the oldest 100\n"), "{text}");
}

#[test]
fn receipt_of_a_drain_that_was_called_off() {
    let mut value = a_receipt();
    value["outcome"] = "resumed".into();
    value["finished"] = 5.into();
    assert_snapshot!(render_receipt(value), @"blue is live again after 1.2 s, before it was drained; of 12 requests in flight, 5 finished; 81246 requests served in its term");
}

#[test]
fn waiting_for_a_color_to_become_idle() {
    let reply = json!({ "idle": false, "role": "draining", "in_flight": 3, "streams": 1 });
    assert_snapshot!(waiting(&Color::green(), &read(reply)), @"green still has 3 requests and 1 stream");
}

// === probes, history, events ===

#[test]
fn probes() {
    assert_snapshot!(probed(&Color::green(), &read(probe(true)), Paint::Plain), @"green is ready: 200 in 12 ms");
    assert_snapshot!(probed(&Color::green(), &read(probe(false)), Paint::Plain), @"green is unready (socket_missing): no socket at /var/run/nginx/green/nginx.sock (ENOENT)");
    let page = json!({ "ready": false, "at": "", "status": 502, "reason": "unexpected_status",
        "detail": "502 is not in 200-399; the answer begins with `<h1>\u{1b}[31m`", "seconds": 0.003 });
    assert_snapshot!(probed(&Color::green(), &read(page), Paint::Plain), @r"green is unready (unexpected_status): 502 is not in 200-399; the answer begins with `<h1>\u{1b}[31m`");
    let bare = json!({ "ready": false, "at": "", "status": 502, "reason": null, "detail": null, "seconds": 0.003 });
    assert_snapshot!(probed(&Color::green(), &read(bare), Paint::Plain), @"green is unready: status 502");
}

#[test]
fn history_of_one_service_and_of_all() {
    let entry = |service: &str, generation: u64, action: &str, receipt: Value| {
        json!({ "at": "2026-08-03T12:00:00.7Z", "service": service, "generation": generation, "action": action,
            "from": "blue", "to": "green", "forced": generation == 8, "by": "uid 1000 (deploy) pid 4711",
            "receipt": receipt })
    };
    let all = read(json!({ "entries": [
        entry("portal", 9, "rollback", Value::Null),
        entry("admin", 3, "preview", Value::Null),
        entry("portal", 8, "switch", a_cut_receipt()),
    ] }));
    assert_snapshot!(history(&all, None, Paint::Plain), @"
    2026-08-03T12:00:00Z  portal 9  rollback blue -> green, by uid 1000 (deploy) pid 4711
    2026-08-03T12:00:00Z  admin 3  preview blue -> green, by uid 1000 (deploy) pid 4711
    2026-08-03T12:00:00Z  portal 8  switch blue -> green, forced, by uid 1000 (deploy) pid 4711
        blue was cut after 30.0 s; of 12 requests in flight, 9 finished, 1 failed, 2 were cut; 81246 requests served in its term; 1 stream still open
    ");
    let admin = "admin".parse().expect("a name");
    assert_snapshot!(history(&all, Some(&admin), Paint::Plain), @"2026-08-03T12:00:00Z  admin 3  preview blue -> green, by uid 1000 (deploy) pid 4711");
    assert_snapshot!(history(&read(json!({ "entries": [] })), None, Paint::Plain), @"nothing has been switched yet");
}

#[test]
fn events_of_every_kind() {
    let by = "uid 0 (root) pid 9";
    let mut drained = a_cut_receipt();
    drained["kind"] = "drained".into();
    let reload = |ok: bool| {
        json!({ "kind": "reloaded", "service": null, "reload": { "at": "2026-08-03T12:00:00Z", "ok": ok,
            "fault": (!ok).then_some("error: unknown key `backend`\n --> 3:1"), "needs_restart": [] } })
    };
    let lines: String = [
        json!({ "kind": "probing", "to": "green" }),
        json!({ "kind": "refused", "reason": "unready", "detail": "green is not ready", "by": by }),
        json!({ "kind": "switched", "generation": 8, "from": "blue", "to": "green", "by": by }),
        json!({ "kind": "previewed", "generation": 8, "color": "green", "by": by }),
        drained,
        json!({ "kind": "readiness", "color": "green", "probe": probe(true) }),
        json!({ "kind": "readiness", "color": "green", "probe": probe(false) }),
        json!({ "kind": "socket", "color": "green", "present": true }),
        json!({ "kind": "socket", "color": "green", "present": false }),
        json!({ "kind": "live_file", "fault": "holds `purple`, which is no color" }),
        reload(true),
        reload(false),
        json!({ "kind": "from_a_later_version", "color": "green" }),
    ]
    .map(render_event)
    .concat();
    assert_snapshot!(lines, @r#"
    2026-08-03T12:00:00Z  portal: asking green whether it is ready
    2026-08-03T12:00:00Z  portal: refused: green is not ready (unready), asked by uid 0 (root) pid 9
    2026-08-03T12:00:00Z  portal: green is live (generation 8, was blue), by uid 0 (root) pid 9
    2026-08-03T12:00:00Z  portal: green is the preview (generation 8), by uid 0 (root) pid 9
    2026-08-03T12:00:00Z  portal: blue was cut after 30.0 s; of 12 requests in flight, 9 finished, 1 failed, 2 were cut; 81246 requests served in its term; 1 stream still open
    2026-08-03T12:00:00Z  portal: green is ready: 200 in 12 ms
    2026-08-03T12:00:00Z  portal: green is unready (socket_missing): no socket at /var/run/nginx/green/nginx.sock (ENOENT)
    2026-08-03T12:00:00Z  portal: green has a new socket
    2026-08-03T12:00:00Z  portal: the socket of green is gone
    2026-08-03T12:00:00Z  portal: live file: holds `purple`, which is no color
    2026-08-03T12:00:00Z  the configuration was reloaded
    2026-08-03T12:00:00Z  the reload failed: error: unknown key `backend`
    {"at":"2026-08-03T12:00:00.5Z","color":"green","id":101,"kind":"from_a_later_version","service":"portal"}
    "#);
}

#[test]
fn reloads() {
    let good = json!({ "at": "2026-08-03T12:00:08Z", "ok": true, "fault": null, "needs_restart": ["workers"] });
    assert_snapshot!(reload(&read(good), Paint::Plain), @"
    reloaded at 2026-08-03T12:00:08Z, the new configuration is in use
    a restart is needed for `workers`
    ");
}

// === errors ===

#[test]
fn errors_of_the_daemon() {
    let unknown = json!({ "status": 404, "reason": "unknown_color", "title": "there is no color `greeen`; there are `blue` and `green`",
        "detail": null });
    let hint = did_you_mean("greeen", ["blue", "green"]);
    assert_snapshot!(render_problem(unknown, hint.as_deref()), @"
    error: there is no color `greeen`; there are `blue` and `green`
    hint: did you mean `green`?
    ");
    let unready = json!({ "status": 409, "reason": "unready", "title": "green is not ready, blue stays live",
        "detail": "asked for 30s", "probe": probe(false) });
    assert_snapshot!(render_problem(unready, None), @"
    error: green is not ready, blue stays live
      asked for 30s
      unready (socket_missing): no socket at /var/run/nginx/green/nginx.sock (ENOENT)
    ");
    let told_already = json!({ "status": 409, "reason": "unready", "title": "green is not ready",
        "detail": "no socket at /var/run/nginx/green/nginx.sock (ENOENT)", "probe": probe(false) });
    assert_snapshot!(render_problem(told_already, None), @"
    error: green is not ready
      no socket at /var/run/nginx/green/nginx.sock (ENOENT)
    ");
}

#[test]
fn errors_on_the_way_to_the_daemon() {
    let told = |fault: Fault| self::fault(&fault, fault.hint().as_deref(), Paint::Plain);
    let errno = |number| Fault::Unreachable {
        socket: "/run/bgproxy/control.sock".into(),
        source: std::io::Error::from_raw_os_error(number),
    };
    let lost = |mutates| Fault::Lost { call: "POST /v1/services/portal/switch".into(), mutates, source: "EOF".into() };
    let (enoent, eacces, eagain, econnrefused, enotdir) = (2, 13, 11, 111, 20);
    assert_snapshot!([enoent, eacces, eagain, econnrefused, enotdir].map(|number| told(errno(number))).concat(), @"
    error: no control socket at /run/bgproxy/control.sock: is bgproxy running? (systemctl status bgproxy)
    hint: `--socket PATH` or BGCTL_SOCKET names another one
    error: no permission to open /run/bgproxy/control.sock
    hint: try `sudo`; or let `namei -l` show which directory above it keeps you out
    error: the daemon does not take calls on /run/bgproxy/control.sock (its queue is full)
    error: nobody listens on /run/bgproxy/control.sock (stale socket)
    hint: is bgproxy running? (systemctl status bgproxy)
    error: cannot open /run/bgproxy/control.sock: Not a directory (os error 20)
    ");
    assert_snapshot!(told(lost(true)), @"
    error: the daemon went away before it answered POST /v1/services/portal/switch
    hint: the outcome is unknown; `bgctl status` tells, once the daemon is back
    ");
    assert_snapshot!(told(lost(false)), @"error: the daemon went away before it answered POST /v1/services/portal/switch");
    assert_snapshot!(told(Fault::Undrained { color: Color::blue(), source: Box::new(lost(false)) }), @"
    error: the daemon went away while blue was draining; the switch itself is done
    hint: `bgctl status` tells the rest, once the daemon is back
    ");
    let late = Fault::Deadline {
        title: "green did not become ready within 30s".into(),
        detail: Some(probed(&Color::green(), &read(probe(false)), Paint::Plain)),
        hint: None,
    };
    assert_snapshot!(told(late), @"
    error: green did not become ready within 30s
      green is unready (socket_missing): no socket at /var/run/nginx/green/nginx.sock (ENOENT)
    ");
}

#[test]
fn hints_name_what_is_near() {
    assert_eq!(did_you_mean("bleu", ["blue", "green"]).as_deref(), Some("did you mean `blue`?"));
    assert_eq!(did_you_mean("purple", ["blue", "green"]), None, "the error has named what there is");
    assert_eq!(did_you_mean("purple", []), None);
}

#[test]
fn durations_read_well_at_every_size() {
    let sizes = [-1.0, 0.0004, 0.041, 0.9994, 0.9999, 1.25, 59.94, 59.96, 61.0, 3599.9, 3600.0, 90061.0];
    assert_snapshot!(sizes.map(seconds).join(", "), @"0 ms, 0 ms, 41 ms, 999 ms, 1.0 s, 1.2 s, 59.9 s, 1 min 00 s, 1 min 01 s, 1 h 00 min, 1 h 00 min, 25 h 01 min");
}
