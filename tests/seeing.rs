//! What can be seen: metrics, health, events, the API's own description, logs; and who may see and change it.

use std::collections::BTreeSet;
use std::process::Command;

use bgproxy_conf::wire::{Status, What};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::door::{Events, Metrics};
use crate::harness::raw::request;
use crate::harness::{DEADLINE, Door, Output, Pair, Raw, need, steady_snapshots, text_of, tools, wait_until};

// === metrics ===

#[test]
fn the_metrics_are_as_prometheus_wants_them_on_both_sockets() {
    let pair = Pair::start_with(|door| door.live_file());
    pair.door.get("/");
    pair.door.bgctl(&["prepare", "green"]).ok();
    pair.door.switch_and_drain("green");
    pair.door.get("/");
    pair.door.post("/v1/services/portal/switch", json!({ "to": "purple" }));
    pair.door.post("/v1/reload", json!({}));
    let page = pair.dir.path().join("metrics");
    std::fs::write(&page, pair.door.call("/metrics").0.body).unwrap();
    let check = format!("exec {} check metrics < {}", need("promtool").display(), page.display());
    let checked = Output::of(Command::new(need("sh")).args(["-c", &check]), pair.dir.path()).ok();
    assert_eq!((checked.stdout.as_str(), checked.stderr.as_str()), ("", ""));

    let names = |page: &str| Metrics::parse(page).0.into_keys().collect::<BTreeSet<_>>();
    let admin = Raw::get(pair.door.admin(), "/metrics");
    assert_eq!(admin.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(names(&admin.text()), names(&text_of(&page)));
}

#[test]
fn the_metrics_count_exactly_what_was_asked() {
    let pair = Pair::start();
    let mut client = pair.door.connect();
    for method in ["GET", "GET", "POST", "BREW", "WHEN"] {
        assert_eq!(client.send(request(method, "/", &[], b"")).response().status, 200);
    }
    assert_eq!(client.send(b"GET / HTTP/1.1\r\n\r\n").response().status, 400, "no Host");
    pair.door.switch("green");
    pair.door.get("/");
    let counted = || pair.door.metrics().sum("bgproxy_requests_total", &[]) == 7.0;
    wait_until("seven requests", DEADLINE, counted);
    let page = pair.door.call("/metrics").0.text();
    let mut lines: Vec<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter(|line| {
            let totals =
                ["requests", "request_failures", "claims", "claims_ended", "commands", "drains", "connections"];
            let gauges = ["color_live", "color_preview", "service_generation", "requests_in_flight", "streams_open"];
            let is = |name: String| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "));
            totals.iter().any(|name| is(format!("bgproxy_{name}_total")))
                || gauges.iter().any(|name| is(format!("bgproxy_{name}")))
        })
        .filter(|line| !line.ends_with(" 0"))
        .collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    bgproxy_claims_ended_total{service="portal",color="blue",outcome="finished"} 5
    bgproxy_claims_ended_total{service="portal",color="green",outcome="finished"} 1
    bgproxy_claims_total{service="portal",color="blue"} 5
    bgproxy_claims_total{service="portal",color="green"} 1
    bgproxy_color_live{service="portal",color="green"} 1
    bgproxy_color_preview{service="portal",color="green"} 1
    bgproxy_commands_total{service="portal",outcome="switched"} 1
    bgproxy_connections_total 2
    bgproxy_drains_total{service="portal",outcome="drained"} 1
    bgproxy_request_failures_total{service="none",color="none",reason="host_missing"} 1
    bgproxy_requests_total{service="none",color="none",method="GET",code="400"} 1
    bgproxy_requests_total{service="portal",color="blue",method="GET",code="200"} 2
    bgproxy_requests_total{service="portal",color="blue",method="OTHER",code="200"} 2
    bgproxy_requests_total{service="portal",color="blue",method="POST",code="200"} 1
    bgproxy_requests_total{service="portal",color="green",method="GET",code="200"} 1
    bgproxy_service_generation{service="portal"} 2
    "#);
}

// === health ===

#[test]
fn a_door_that_closes_is_alive_and_no_longer_ready() {
    let mut pair = Pair::start();
    let admin = pair.door.admin();
    let ask = |path: &str| Raw::get(admin, path);
    assert_eq!((ask("/healthz").status, ask("/readyz").status), (200, 200));
    let mut held = pair.hold("/hold");
    pair.door.signal(Signal::TERM);
    wait_until("the end of readiness", DEADLINE, || ask("/readyz").status == 503);
    assert_eq!((ask("/healthz").text().as_str(), ask("/readyz").text().as_str()), ("alive\n", "not ready\n"));
    assert_eq!(pair.door.status().services.len(), 1, "it can still be asked");
    pair.blue.go();
    assert_eq!(held.response().color(), Some("blue"));
    assert_eq!(pair.door.wait_end().code(), Some(0));
}

#[test]
fn nothing_can_be_changed_on_the_admin_listener() {
    let pair = Pair::start();
    let status: Status = serde_json::from_slice(&Raw::get(pair.door.admin(), "/v1/status").body).unwrap();
    assert_eq!(status.pid, pair.door.pid());
    for path in ["/v1/services/portal/switch", "/v1/services/portal/rollback", "/v1/reload", "/v1/status"] {
        let headers = [("Content-Type", "application/json")];
        let answer = Raw::ask(pair.door.admin(), &request("POST", path, &headers, br#"{"to":"green"}"#));
        assert!(matches!(answer.status, 404 | 405), "{path}: {answer:?}");
    }
    assert_eq!(pair.door.live(), "blue");
}

// === events ===

#[test]
fn events_have_growing_ids_from_which_a_follower_goes_on() {
    let mut pair = Pair::start();
    let mut events = pair.door.events(None);
    pair.door.switch_and_drain("green");
    let first = events.wait(|what| matches!(what, What::Switched { .. }));
    let second = events.wait(|what| matches!(what, What::Drained(_)));
    assert!(second.id > first.id);
    assert_eq!(pair.door.events(Some(first.id)).next(), second, "on the control socket");
    assert_eq!(Events::open(pair.door.admin(), Some(first.id)).next(), second, "and on the admin listener");

    // A restart forgets what was, and its events are newer than all before.
    pair.door.restart();
    let mut resumed = pair.door.events(Some(second.id));
    pair.door.switch_and_drain("blue");
    let next = resumed.wait(|what| matches!(what, What::Switched { .. }));
    assert!(next.id > second.id);
    let What::Switched { generation, .. } = next.what else { unreachable!() };
    assert_eq!(generation, 3);
}

#[test]
fn events_may_be_had_of_one_service_only() {
    let pair = Pair::start_with(|door| {
        let ready = json!({ "watch": "0s" });
        door.set("service.api", json!({ "hosts": ["api"], "backends": { "blue": "127.0.0.1:1" }, "ready": ready }))
    });
    let mut events = Events::open_path(pair.door.control(), "/v1/events?service=api", None);
    pair.door.switch("green");
    pair.door.post("/v1/services/api/probe", json!({ "color": "blue" }));
    let first = events.next();
    assert!(matches!(first.what, What::Readiness { .. }), "{first:?}");
    assert_eq!(first.service.unwrap().as_str(), "api");
}

// === the API's own description ===

#[test]
fn every_route_of_the_description_exists() {
    let pair = Pair::start();
    let document = pair.door.call("/v1/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 12, "{paths:?}");
    for (path, methods) in paths {
        let target = path.replace("{service}", "portal").replace("{color}", "green");
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let mut raw = Raw::connect(pair.door.control());
            // A body that is no JSON: a route that exists says so, and nothing is switched.
            raw.send(request(&method, &target, &[("Connection", "close")], if method == "POST" { b"{" } else { b"" }));
            let (head, _) = raw.head();
            let expected = if method == "POST" && target != "/v1/reload" { 400 } else { 200 };
            assert_eq!(head.status, expected, "{method} {target}");
            let wrong = if method == "POST" { "GET" } else { "PUT" };
            let answer = Raw::ask(pair.door.control(), &request(wrong, &target, &[("Connection", "close")], b""));
            assert_eq!(answer.json()["reason"], "method_not_allowed", "{wrong} {target}");
        }
    }
    let nowhere = pair.door.call("/v1/nowhere");
    assert_eq!((nowhere.status(), nowhere.problem().reason.as_str()), (404, "not_found"));
    assert_eq!(pair.door.live(), "blue");
}

#[test]
fn a_wrong_request_is_told_what_is_wrong_with_it() {
    let _steady = steady_snapshots();
    let pair = Pair::start();
    let told = |path: &str, body: Value| {
        let reply = pair.door.post(path, body);
        format!("{} {}", reply.status(), reply.0.text())
    };
    let told = [
        told("/v1/services/portal/switch", json!({})),
        told("/v1/services/portal/switch", json!({ "to": "Green" })),
        told("/v1/services/portal/switch", json!({ "to": "green", "forse": true })),
        told("/v1/services/portal/preview", json!({ "to": "green" })),
        told("/v1/services/PORTAL/switch", json!({ "to": "green" })),
        told("/v1/services/portal/switch", json!({ "to": "purple" })),
        format!("404 {}", pair.door.call("/v1/services/portl").0.text()),
        format!("422 {}", pair.door.call("/v1/services/portal/drain/Green").0.text()),
        format!("422 {}", pair.door.call("/v1/services/portal/drain/greeen").0.text()),
        // What was no text was told in plain text, and not as problem details.
        told("/v1/services/%82/switch", json!({ "to": "green" })),
        format!("400 {}", pair.door.call("/v1/services/portal/drain/%82").problem().reason),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    400 {"status":400,"reason":"bad_request","title":"the request's JSON is wrong","detail":"missing field `to` at line 1 column 2"}
    400 {"status":400,"reason":"bad_request","title":"the request's JSON is wrong","detail":"`Green` is not a color; write up to 32 of a-z, 0-9, `-` and `_` beginning with a letter, such as \"green\" at line 1 column 13"}
    400 {"status":400,"reason":"bad_request","title":"the request's JSON is wrong","detail":"unknown field `forse`, expected one of `to`, `force`, `wait`, `expect_live`, `expect_generation` at line 1 column 8"}
    400 {"status":400,"reason":"bad_request","title":"the request's JSON is wrong","detail":"unknown field `to`, expected one of `color`, `force`, `expect_generation` at line 1 column 5"}
    404 {"status":404,"reason":"unknown_service","title":"there is no service `PORTAL`","detail":null}
    422 {"status":422,"reason":"unknown_color","title":"there is no color `purple`; there are `blue` and `green`","detail":null}
    404 {"status":404,"reason":"unknown_service","title":"there is no service `portl`; there is `portal`","detail":null}
    422 {"status":422,"reason":"unknown_color","title":"there is no color `Green`","detail":"`Green` is not a color; write up to 32 of a-z, 0-9, `-` and `_` beginning with a letter, such as \"green\""}
    422 {"status":422,"reason":"unknown_color","title":"there is no color `greeen`; there are `blue` and `green`","detail":null}
    400 {"status":400,"reason":"bad_request","title":"the request's path is wrong","detail":"Invalid URL: Invalid UTF-8 in `service`"}
    400 bad_request
    "#);
}

// === who may ===

#[test]
fn whoever_is_no_operator_may_look_and_change_nothing() {
    if !rustix::process::getuid().is_root() {
        // Only root can become somebody else; whoever runs this is the door's own user, who always may.
        eprintln!("not tested: only root can call as another user");
        return;
    }
    let _steady = steady_snapshots();
    let mut pair = Pair::start();
    // Where nobody may go: the way to the socket, and a program to call with.
    std::fs::set_permissions(pair.door.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bgctl = pair.door.dir().join("bgctl");
    std::fs::copy(tools::bgctl(), &bgctl).unwrap();
    let as_nobody = |door: &crate::harness::Door, args: &[&str]| {
        let mut command = Command::new(need("setpriv"));
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&bgctl).args(args);
        Output::of(command.env("BGCTL_SOCKET", door.control()), door.dir())
    };
    as_nobody(&pair.door, &["status"]).ok();
    as_nobody(&pair.door, &["history"]).ok();
    let refused = as_nobody(&pair.door, &["switch", "green"]);
    assert_eq!(refused.code, Some(1));
    insta::assert_snapshot!(refused.stderr, @"error: not permitted: uid 65534 (nobody) pid PID is not among `control.operators`");
    let raw = as_nobody(&pair.door, &["reload", "--json"]);
    let problem: Value = serde_json::from_str(&raw.stdout).unwrap();
    assert_eq!((&problem["status"], &problem["reason"]), (&json!(403), &json!("forbidden")));
    assert_eq!(pair.door.live(), "blue");

    // A reload names them.
    pair.door.configure("control.operators", json!(["65534"]));
    pair.door.bgctl(&["reload"]).ok();
    as_nobody(&pair.door, &["switch", "green"]).ok();
    assert!(pair.door.history()[0].by.starts_with("uid 65534 (nobody) pid "));

    // And another one takes even the sight from them.
    pair.door.configure("control.operators", json!([]));
    pair.door.configure("control.viewers", json!([]));
    pair.door.bgctl(&["reload"]).ok();
    let blind = as_nobody(&pair.door, &["status"]);
    insta::assert_snapshot!(blind.stderr, @"error: not permitted: uid 65534 (nobody) pid PID is not among `control.viewers`");

    let log = pair.door.log();
    let audit: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" audit "))
        .map(|line| line.split_once(" audit ").unwrap().1)
        .filter(|line| line.contains("(nobody)"))
        .collect();
    insta::assert_snapshot!(audit.join("\n"), @r#"
    by="uid 65534 (nobody) pid PID" uid=65534 gid=65534 path="/v1/services/portal/switch" outcome=403
    by="uid 65534 (nobody) pid PID" uid=65534 gid=65534 path="/v1/reload" outcome=403
    by="uid 65534 (nobody) pid PID" uid=65534 gid=65534 path="/v1/services/portal/switch" asked="{\"to\":\"green\",\"force\":false,\"wait\":false,\"expect_live\":null,\"expect_generation\":null}" outcome=200
    by="uid 65534 (nobody) pid PID" uid=65534 gid=65534 path="/v1/status" outcome=403
    "#);
}

// === logs ===

#[test]
fn every_change_leaves_one_line_that_says_who_and_how_it_ended() {
    let _steady = steady_snapshots();
    let pair = Pair::start();
    pair.door.switch_and_drain("green");
    pair.door.post("/v1/services/portal/switch", json!({ "to": "purple" }));
    pair.door.post("/v1/services/portal/rollback", json!({ "expect_generation": 9 }));
    pair.door.call("/v1/status");
    wait_until("three lines", DEADLINE, || pair.door.log().matches(" audit ").count() == 3);
    let log = pair.door.log();
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("DEBUG") && !line.contains(" WARN ")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    TIME  INFO no state file yet, the first color is live service=portal live=blue
    TIME  INFO the door is open version="VERSION" workers=2 listen=["127.0.0.1:PORT"] admin="127.0.0.1:PORT"
    TIME  INFO asking whether the color is ready service=portal to=green
    TIME  INFO ready service=portal color=green
    TIME  INFO switched service=portal generation=2 from=blue to=green by="uid 0 (root) pid PID"
    TIME  INFO drain ended service=portal generation=2 from=blue outcome="drained" in_flight=0 finished=0 failed=0 cut=0 streams_kept=0 streams_left=0 seconds=TOOK
    TIME  INFO audit by="uid 0 (root) pid PID" uid=0 gid=0 path="/v1/services/portal/switch" asked="{\"to\":\"green\",\"wait\":true}" outcome=200
    TIME  INFO audit by="uid 0 (root) pid PID" uid=0 gid=0 path="/v1/services/portal/switch" asked="{\"to\":\"purple\"}" outcome=422
    TIME  INFO audit by="uid 0 (root) pid PID" uid=0 gid=0 path="/v1/services/portal/rollback" asked="{\"expect_generation\":9}" outcome=412
    "#);
}

#[test]
fn a_reload_that_changes_nothing_leaves_a_line_that_says_so() {
    let door = Door::builder().start();
    door.write_config("nonsense");
    assert_eq!(door.bgctl(&["reload"]).code, Some(1));
    wait_until("the line", DEADLINE, || door.log().contains("path=\"/v1/reload\" asked=\"{}\" outcome=\"failed\""));
}

#[test]
fn a_log_level_that_says_nothing_silences_nothing() {
    for level in ["", " ", " info "] {
        let door = Door::builder().set("log.level", level).start();
        door.wait_log("the door is open");
    }
}

#[test]
fn a_json_log_is_one_object_a_line() {
    let pair = Pair::start_with(|door| door.set("log.format", "json"));
    pair.door.switch_and_drain("green");
    wait_until("the audit", DEADLINE, || pair.door.log().contains("\"audit\""));
    let lines: Vec<Value> = pair.door.log().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let said = |message: &str| lines.iter().find(|line| line["message"] == message).expect(message);
    let switched = said("switched");
    assert_eq!((&switched["level"], &switched["service"]), (&json!("INFO"), &json!("portal")));
    assert_eq!((&switched["to"], &switched["generation"]), (&json!("green"), &json!(2)));
    let audit = said("audit");
    assert_eq!((&audit["target"], &audit["outcome"]), (&json!("bgproxy::audit"), &json!(200)));
    assert_eq!(audit["path"], "/v1/services/portal/switch");
}
