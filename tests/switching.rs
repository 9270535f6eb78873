//! Switching, draining, receipts: what a command promises is kept, and what it refuses changes nothing.

use std::time::{Duration, Instant};

use bgproxy_conf::wire::{Action, DrainOutcome, IdleReply, Phase, ProbeReport, Receipt, Role, SwitchReply, What};
use serde_json::json;

use crate::harness::door::NAME;
use crate::harness::fake::of_color;
use crate::harness::load::{Plan, Speaks, SwitchSeen};
use crate::harness::raw::request;
use crate::harness::{
    Act, Authority, DEADLINE, Door, Fake, Kind, Load, Output, Pair, Process, Raw, Response, Site, Trust, tell,
    temp_dir, text_of, wait_for, wait_until,
};

const SWITCH: &str = "/v1/services/portal/switch";

// === the main promise ===

/// How many of them under how many connections.
const SWITCHES: usize = 200;
const CONNECTIONS: usize = 32;
/// Fewer: a debug build's TLS takes its time.
const TLS_CALLERS: usize = 16;
const THINK: Duration = Duration::from_millis(10);

#[test]
fn two_hundred_switches_by_bgctl_under_load_lose_nothing() {
    let site = Site::start();
    let load = Plan::new(site.door.addr(), CONNECTIONS, Kind::mixed()).think(THINK).start();
    by_bgctl(&site.door, "bgctl", load);
}

fn by_bgctl(door: &Door, how: &str, load: Load) {
    let began = Instant::now();
    let seen = each_switch(&load, |to| {
        let (seen, output) = SwitchSeen::during(to, || door.bgctl(&["switch", to, "--json"]).ok());
        let reply: SwitchReply = serde_json::from_str(&output.stdout).expect("a reply");
        (seen, reply.receipt.expect("a receipt"))
    });
    judge(how, began, load, seen);
}

#[test]
fn two_hundred_switches_by_the_live_file_under_load_lose_nothing() {
    let site = Site::start_with(|door| door.live_file());
    let load = Plan::new(site.door.addr(), CONNECTIONS, Kind::mixed()).think(THINK).start();
    let mut events = site.door.events(None);
    let began = Instant::now();
    let seen = each_switch(&load, |to| {
        let (seen, ()) = SwitchSeen::during(to, || {
            std::fs::write(site.door.live_file(), format!("{to}\n")).expect("the live file");
            events.wait(|what| matches!(what, What::Switched { .. }));
        });
        let What::Drained(receipt) = events.wait(|what| matches!(what, What::Drained(_))).what else { unreachable!() };
        (seen, receipt)
    });
    judge("live file", began, load, seen);
}

#[test]
fn two_hundred_switches_under_load_over_tls_lose_nothing() {
    let authority = Authority::new();
    let site = Site::start_with(|door| door.tls(&authority));
    let speaks = Speaks::TlsHttp1(Trust::of(&authority, NAME));
    let load = Plan::new(site.door.addr(), TLS_CALLERS, Kind::mixed()).speaks(speaks).think(THINK).start();
    by_the_control_socket(&site.door, "over TLS and HTTP/1.1", load);
}

#[test]
fn two_hundred_switches_under_load_over_http2_lose_nothing() {
    let authority = Authority::new();
    let site = Site::start_with(|door| door.tls(&authority));
    let speaks = Speaks::TlsHttp2(Trust::of(&authority, NAME));
    let plan = Plan::new(site.door.addr(), TLS_CALLERS / 4, Kind::mixed()).speaks(speaks).streams(4);
    by_the_control_socket(&site.door, "over TLS and HTTP/2", plan.think(THINK).start());
}

/// Without a `bgctl` for each, which is what takes long.
fn by_the_control_socket(door: &Door, how: &str, load: Load) {
    let began = Instant::now();
    let seen = each_switch(&load, |to| SwitchSeen::during(to, || door.switch_and_drain(to)));
    judge(&format!("the control socket {how}"), began, load, seen);
}

/// Every connection has an answer of its own from each term, so that the terms can be told apart afterwards.
fn each_switch(load: &Load, mut switch: impl FnMut(&str) -> (SwitchSeen, Receipt)) -> Vec<(SwitchSeen, Receipt)> {
    let colors = ["green", "blue"].into_iter().cycle().take(SWITCHES);
    colors
        .map(|to| {
            load.wait_round();
            let done = switch(to);
            load.wait_round_of(to);
            done
        })
        .collect()
}

fn judge(how: &str, began: Instant, load: Load, seen: Vec<(SwitchSeen, Receipt)>) {
    let took = began.elapsed();
    let callers = load.progress().len();
    let tally = load.stop();
    let (switches, receipts): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    tally.assert_clean();
    tally.assert_served_by_the_right_color(&switches);
    let told: Vec<(String, u64)> = receipts.iter().map(|receipt| (receipt.from.to_string(), receipt.served)).collect();
    assert_eq!(tally.terms().unwrap()[..told.len()], told, "what the clients saw, and what the receipts say");
    assert!(receipts.iter().all(|receipt| receipt.outcome == DrainOutcome::Drained && receipt.cut_total == 0));
    let in_flight: u64 = receipts.iter().map(|receipt| receipt.in_flight).sum();
    let moved: u64 = receipts.iter().map(|receipt| receipt.moved).sum();
    let line = format!(
        "{} switches by {how} under {callers} callers in {:.1} s: {} requests, {} failed, 0 by a color after its \
         fence, {} receipts equal to the clients' tally, {in_flight} in flight at a fence, {moved} moved",
        receipts.len(),
        took.as_secs_f64(),
        tally.total(),
        tally.faults().len(),
        told.len(),
    );
    tell(line);
}

#[test]
fn a_connection_opened_before_the_switch_is_served_by_the_new_color_from_its_next_request_on() {
    let pair = Pair::start();
    let mut clients: Vec<Raw> = (0..8).map(|_| pair.door.connect()).collect();
    let get = request("GET", "/", &[], b"");
    for round in ["blue", "green", "blue"] {
        if pair.door.live() != round {
            pair.door.switch(round);
        }
        for client in &mut clients {
            assert_eq!(client.send(&get).response().color(), Some(round));
        }
    }
}

#[test]
fn the_live_file_and_the_metrics_say_what_a_reply_has_said() {
    let pair = Pair::start_with(|door| door.live_file());
    for to in ["green", "blue"] {
        pair.door.switch(to);
        assert_eq!(std::fs::read_to_string(pair.door.live_file()).unwrap(), format!("{to}\n"));
        assert_eq!(pair.door.metrics().sum("bgproxy_color_live", &[("color", to)]), 1.0);
    }
}

// === drains ===

#[test]
fn a_request_of_the_old_color_finishes_and_the_receipt_says_so() {
    let pair = Pair::start();
    let mut slow = pair.hold("/hold");
    let reply = pair.door.switch("green");
    assert_eq!((reply.generation, reply.changed, reply.receipt), (2, true, None));
    assert_eq!(pair.answers(), "green");
    let Phase::Draining { from, left, .. } = pair.door.portal().phase else { panic!("it does not drain") };
    assert_eq!((from.as_str(), left), ("blue", 1));

    pair.blue.go();
    assert_eq!(slow.response().color(), Some("blue"));
    let receipt = receipt_of(&pair, 2);
    assert_eq!(receipt.outcome, DrainOutcome::Drained);
    assert_eq!((receipt.in_flight, receipt.finished, receipt.served), (1, 1, 1));
    wait_until("a steady service", DEADLINE, || pair.door.portal().phase == Phase::Steady);
}

#[test]
fn a_deadline_cuts_what_is_left_and_everybody_says_which() {
    let pair = Pair::start_with(|door| door.set("service.portal.drain.deadline", "200ms"));
    let mut slow = pair.hold("/hold?a=1");
    let output = pair.door.bgctl(&["switch", "green"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("green is live (generation 2, was blue)"), "{output:?}");
    assert!(output.stdout.contains("blue was cut after "), "{output:?}");
    assert!(output.stdout.contains("of 1 request in flight, 0 finished, 1 was cut"), "{output:?}");
    assert!(output.stdout.contains("cut GET /hold?a=1, "), "{output:?}");

    let cut = slow.response();
    assert_eq!(cut.status, 503);
    assert!(cut.header("proxy-status").unwrap().contains("drain_cut"), "{cut:?}");
    let receipt = receipt_of(&pair, 2);
    assert_eq!((receipt.outcome, receipt.cut_total, receipt.finished), (DrainOutcome::Cut, 1, 0));
    assert_eq!((receipt.cut[0].method.as_str(), receipt.cut[0].path.as_str()), ("GET", "/hold?a=1"));
    // Not earlier; how much later is the disk's affair, which the switch was written to before.
    assert!(receipt.seconds >= 0.2 && receipt.cut[0].age >= receipt.seconds, "{receipt:?}");
    pair.door.wait_log("method=\"GET\" path=\"/hold?a=1\"");
    let metrics = pair.door.metrics();
    assert_eq!(metrics.sum("bgproxy_drain_cut_requests_total", &[("service", "portal")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_drains_total", &[("outcome", "cut")]), 1.0);
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "drain_cut")]), 1.0);
}

#[test]
fn switching_back_resumes_the_old_color_and_cuts_nothing() {
    let pair = Pair::start_with(|door| door.set("service.portal.drain.deadline", "300ms"));
    let mut events = pair.door.events(None);
    let mut slow = pair.hold("/hold");
    pair.door.switch("green");
    pair.door.switch("blue");
    let mut drains = Vec::new();
    while drains.len() < 2 {
        let What::Drained(receipt) = events.wait(|what| matches!(what, What::Drained(_))).what else { unreachable!() };
        drains.push((receipt.from.to_string(), receipt.outcome, receipt.in_flight));
    }
    drains.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("blue".into(), DrainOutcome::Resumed, 1), ("green".into(), DrainOutcome::Drained, 0)];
    assert_eq!(drains, expected);

    // Past the deadline that the first drain had.
    let asked = Instant::now();
    wait_until("the old deadline", DEADLINE, || asked.elapsed() > Duration::from_millis(400));
    pair.blue.go();
    assert_eq!(slow.response().color(), Some("blue"));
    assert_eq!(pair.door.metrics().sum("bgproxy_drain_cut_requests_total", &[]), 0.0);
    assert_eq!(pair.door.metrics().sum("bgproxy_drains_total", &[("outcome", "resumed")]), 1.0);
}

#[test]
fn an_event_stream_stays_open_over_a_switch_and_keeps_only_wait_idle_waiting() {
    let pair = Pair::start();
    let mut stream = pair.door.connect();
    stream.send(request("GET", "/sse", &[], b""));
    let (head, mut body) = stream.head();
    assert_eq!((head.status, head.fields.get("x-color")), (200, Some("blue")));
    assert!(stream.piece(&mut body).unwrap().is_some());

    let receipt = pair.door.switch_and_drain("green");
    assert_eq!((receipt.outcome, receipt.in_flight, receipt.streams_left), (DrainOutcome::Drained, 0, 1));
    let late = pair.door.bgctl(&["wait-idle", "blue", "--timeout", "300ms"]);
    assert_eq!(late.code, Some(4), "{late:?}");
    assert!(late.stderr.contains("1 stream"), "{late:?}");

    let log = pair.dir.path().join("wait-idle.log");
    let mut waiting = Process::start("bgctl", &mut pair.door.bgctl_command(&["wait-idle", "blue"]), &log);
    wait_until("its remark", DEADLINE, || !text_of(&log).is_empty());
    pair.blue.go();
    assert!(waiting.wait_end(DEADLINE).success());
    let told = "blue still has 0 requests and 1 stream\nblue is idle and may be stopped\n";
    assert_eq!(text_of(&log), told);
}

// === refusals ===

#[test]
fn a_switch_to_the_live_color_is_a_success_that_changes_nothing() {
    let pair = Pair::start();
    let reply = pair.door.switch("blue");
    assert_eq!((reply.changed, reply.generation, reply.from.as_str(), reply.to.as_str()), (false, 1, "blue", "blue"));
    assert!(pair.door.history().is_empty());
    assert_eq!(pair.blue.heard().len(), 0, "nobody was asked");
    let output = pair.door.bgctl(&["switch", "blue"]).ok();
    assert_eq!(output.stdout, "blue is live already (generation 1), nothing changed\n");
}

#[test]
fn of_two_switches_at_once_one_wins_and_the_other_is_told() {
    let dir = temp_dir();
    let blue = Fake::color(dir.path().join("blue"), "blue");
    // Asked whether it is ready, it answers when it is let go.
    let green = Fake::scripted(dir.path().join("green"), |_| {
        vec![Act::ReadRequest, Act::AwaitGo, Act::Say(of_color("green", 200, "")), Act::Repeat]
    });
    let door = Door::builder().fakes(&blue, &green).start();
    let mut first = Raw::connect(door.control());
    first.send(request("POST", SWITCH, &[], b"{\"to\":\"green\"}"));
    green.wait_requests(1);
    let phase = door.portal().phase;
    assert!(matches!(&phase, Phase::Probing { to, passed: 0, passes: 1 } if to.as_str() == "green"), "{phase:?}");

    let second = door.post(SWITCH, json!({ "to": "green" }));
    let problem = second.problem();
    assert_eq!((second.status(), problem.reason.as_str()), (409, "busy"));
    assert_eq!(problem.title, "another command is being carried out: switch to `green`");
    let told = door.bgctl(&["switch", "green"]);
    assert_eq!(told.code, Some(1));
    assert!(told.stderr.contains("another command is being carried out: switch to `green`"), "{told:?}");

    green.go();
    assert_eq!(first.response().status, 200);
    assert_eq!(door.history().len(), 1);
}

#[test]
fn a_condition_that_does_not_hold_refuses_the_switch() {
    let pair = Pair::start();
    let other_live = pair.door.post(SWITCH, json!({ "to": "green", "expect_live": "green" }));
    assert_eq!((other_live.status(), other_live.problem().reason.as_str()), (412, "other_live"));
    let other_generation = pair.door.post(SWITCH, json!({ "to": "green", "expect_generation": 7 }));
    assert_eq!((other_generation.status(), other_generation.problem().reason.as_str()), (412, "other_generation"));
    assert_eq!((pair.answers().as_str(), pair.door.history().len()), ("blue", 0));

    let held = pair.door.post(SWITCH, json!({ "to": "green", "expect_live": "blue", "expect_generation": 1 }));
    assert_eq!(held.parsed::<SwitchReply>().to.as_str(), "green");
}

#[test]
fn a_rollback_leads_to_the_color_that_was_live_before() {
    let pair = Pair::start();
    let nowhere = pair.door.post("/v1/services/portal/rollback", json!({}));
    assert_eq!((nowhere.status(), nowhere.problem().reason.as_str()), (409, "no_previous"));

    pair.door.switch("green");
    let back = pair.door.bgctl(&["rollback"]).ok();
    assert!(back.stdout.starts_with("blue is live (generation 3, was green)"), "{back:?}");
    assert_eq!(pair.answers(), "blue");
    // And a second one leads forth again.
    pair.door.bgctl(&["rollback"]).ok();
    assert_eq!(pair.answers(), "green");
    let actions: Vec<Action> = pair.door.history().iter().map(|entry| entry.action).collect();
    assert_eq!(actions, [Action::Rollback, Action::Rollback, Action::Switch], "newest first");
}

#[test]
fn an_unready_color_is_refused_with_what_it_answered() {
    let dir = temp_dir();
    let blue = Fake::color(dir.path().join("blue"), "blue");
    let green = Fake::answers(dir.path().join("green"), of_color("green", 503, "migrating the database\n"));
    let door = Door::builder().fakes(&blue, &green).probes_for("100ms").start();
    let refused = door.post(SWITCH, json!({ "to": "green" }));
    let problem = refused.problem();
    assert_eq!((refused.status(), problem.reason.as_str()), (503, "unready"));
    let probe = problem.probe.expect("the last answer");
    assert_eq!((probe.ready, probe.status, probe.reason.as_deref()), (false, Some(503), Some("unexpected_status")));
    assert!(probe.detail.unwrap().contains(r#"begins: "migrating the database\n""#));

    // The same without a socket, and with one that nobody serves: the errno tells them apart.
    drop(green);
    let reason = || door.post(SWITCH, json!({ "to": "green" })).problem().probe.unwrap();
    let refused = reason();
    assert_eq!(refused.reason.as_deref(), Some("socket_refused"));
    assert!(refused.detail.unwrap().contains("Connection refused (os error 111)"));
    std::fs::remove_file(dir.path().join("green")).unwrap();
    let missing = reason();
    assert_eq!(missing.reason.as_deref(), Some("socket_missing"));
    assert!(missing.detail.unwrap().contains("No such file or directory (os error 2)"));
    assert_eq!((door.live().as_str(), door.history().len()), ("blue", 0));
    assert_eq!(door.metrics().sum("bgproxy_commands_total", &[("outcome", "unready")]), 3.0);
}

#[test]
fn force_does_not_ask() {
    let pair = Pair::start_with(|door| door.set("service.portal.ready.path", "/hold"));
    let output = pair.door.bgctl(&["switch", "green", "--force"]).ok();
    assert!(output.stdout.starts_with("green is live"), "{output:?}");
    assert_eq!(pair.green.heard().len(), 0);
    assert!(pair.door.history()[0].forced);
}

#[test]
fn a_switch_whose_caller_hangs_up_while_the_color_is_asked_is_abandoned() {
    let pair = Pair::start_with(|door| door.set("service.portal.ready.path", "/hold"));
    let mut events = pair.door.events(None);
    let mut caller = Raw::connect(pair.door.control());
    caller.send(request("POST", SWITCH, &[], b"{\"to\":\"green\"}"));
    pair.green.wait_target("/hold");
    drop(caller);
    let event = events.wait(|what| matches!(what, What::Refused { .. }));
    let What::Refused { reason, .. } = event.what else { unreachable!() };
    assert_eq!(reason, "abandoned");
    pair.green.go();
    assert_eq!((pair.door.live().as_str(), pair.door.portal().phase), ("blue", Phase::Steady));
}

// === preview ===

#[test]
fn preview_hosts_lead_to_the_prepared_color_and_are_kept_out_of_caches_and_indexes() {
    let pair = Pair::start_with(|door| door.set("service.portal.preview.hosts", json!(["next.example"])));
    let get = |host: &str| Raw::ask(pair.door.addr(), &request("GET", "/", &[("Host", host)], b""));
    assert_eq!(get("next.example").color(), Some("blue"), "outside of a deployment it is live");

    let output = pair.door.bgctl(&["prepare", "green"]).ok();
    assert_eq!(output.stdout, "green is ready and the preview (generation 2), blue stays live\n");
    let (preview, live) = (get("next.example"), get("www.example"));
    assert_eq!((preview.color(), live.color()), (Some("green"), Some("blue")));
    let marks = |answer: &Response| {
        let header = |name| answer.header(name).map(str::to_owned);
        (header("cache-control"), header("x-robots-tag"))
    };
    assert_eq!(marks(&preview), (Some("no-store".into()), Some("noindex".into())));
    assert_eq!(marks(&live), (None, None));
    let reason = |output: Output| (output.code, output.stderr);
    let (code, stderr) = reason(pair.door.bgctl(&["wait-idle", "green"]));
    assert_eq!(code, Some(1), "the preview may not be stopped");
    assert!(stderr.contains("green is the preview, waiting does not make it idle"), "{stderr}");

    pair.door.switch("green");
    assert_eq!(get("next.example").color(), Some("green"), "preview follows live");
    assert_eq!(pair.door.portal().preview.as_str(), "green");
}

#[test]
fn prepare_waits_until_the_color_is_ready() {
    let dir = temp_dir();
    let blue = Fake::color(dir.path().join("blue"), "blue");
    let path = dir.path().join("green");
    let door = Door::builder().color("blue", blue.address()).color("green", &path).probes_for("100ms").start();
    let late = door.bgctl(&["prepare", "green", "--within", "1s"]);
    assert_eq!(late.code, Some(4), "{late:?}");
    assert!(late.stderr.contains("green did not become ready within 1s"), "{late:?}");
    assert_eq!(late.stderr.matches("socket_missing").count(), 1, "told once: {late:?}");

    let mut events = door.events(None);
    std::thread::scope(|scope| {
        let preparing = scope.spawn(|| door.bgctl(&["prepare", "green"]));
        events.wait(|what| matches!(what, What::Probing { .. }));
        let green = Fake::color(path, "green");
        preparing.join().expect("bgctl").ok();
        drop(green);
    });
    assert_eq!(door.portal().preview.as_str(), "green");
}

// === gates for scripts ===

#[test]
fn the_gates_for_scripts_answer_with_their_exit_codes() {
    let pair = Pair::start();
    let code = |args: &[&str]| pair.door.bgctl(args).code;
    assert_eq!((code(&["is-live", "blue"]), code(&["is-live", "green"])), (Some(0), Some(1)));
    assert_eq!((code(&["wait-idle", "green"]), code(&["wait-idle", "blue"])), (Some(0), Some(1)));
    assert_eq!((code(&["probe", "green"]), code(&["probe", "blue"])), (Some(0), Some(0)));
    let silent = pair.door.bgctl(&["is-live", "green"]);
    assert_eq!((silent.stdout.as_str(), silent.stderr.as_str()), ("", ""));

    let mut held = pair.hold("/hold");
    pair.door.switch("green");
    let idle: IdleReply = pair.door.call("/v1/services/portal/drain/blue").parsed();
    assert_eq!((idle.idle, idle.role, idle.in_flight), (false, Role::Draining, 1));
    assert_eq!(code(&["wait-idle", "blue", "--timeout", "200ms"]), Some(4));
    pair.blue.go();
    held.response();
    assert_eq!(code(&["wait-idle", "blue"]), Some(0));

    drop(pair.green);
    let dead = pair.door.bgctl(&["probe", "green"]);
    assert_eq!(dead.code, Some(1));
    assert!(dead.stdout.starts_with("green is unready (socket_refused)"), "{dead:?}");
    let probe: ProbeReport = pair.door.post("/v1/services/portal/probe", json!({ "color": "green" })).parsed();
    assert!(!probe.ready);
}

// === several services ===

#[test]
fn each_service_has_its_hosts_and_paths_and_switches_alone() {
    let dir = temp_dir();
    let fake = |name: &str| Fake::color(dir.path().join(name), name);
    let names = ["portal", "api", "api-green", "wild", "rest"];
    let fakes = names.map(fake);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let missing = at("missing");
    let mut builder =
        Door::builder().color("blue", at("portal")).set("service.portal.hosts", json!(["www.example", "www.other"]));
    for (name, hosts, paths) in [
        ("api", json!(["www.example"]), json!(["/api", "/v1/api"])),
        ("wild", json!(["*.example"]), json!(["/"])),
        ("rest", json!([]), json!(["/only"])),
    ] {
        builder = builder
            .set(&format!("service.{name}.hosts"), hosts)
            .set(&format!("service.{name}.paths"), paths)
            .set(&format!("service.{name}.backends"), json!({ "blue": at(name), "green": missing.clone() }));
    }
    let api_green = json!({ "blue": at("api"), "green": at("api-green") });
    let door = builder.set("service.api.backends", api_green).set("service.api.ready.passes", 1).start();
    let get = |host: &str, path: &str| {
        let answer = Raw::ask(door.addr(), &request("GET", path, &[("Host", host)], b""));
        answer.color().map_or_else(|| answer.status.to_string(), str::to_owned)
    };
    for (host, path, answered) in [
        ("www.example", "/", "portal"),
        ("WWW.Example:8080", "/", "portal"),
        ("www.example", "/api", "api"),
        ("www.example", "/api/x?y", "api"),
        ("www.example", "/apix", "portal"),
        ("www.example", "/v1/api/", "api"),
        ("www.other", "/api", "portal"),
        ("a.b.example", "/api", "wild"),
        ("example", "/only/this", "rest"),
        ("example", "/", "404"),
    ] {
        assert_eq!(get(host, path), answered, "{host} {path}");
    }

    let unnamed = door.bgctl(&["switch", "green"]);
    assert_eq!(unnamed.code, Some(2), "{unnamed:?}");
    door.bgctl(&["-s", "api", "switch", "green"]).ok();
    assert_eq!((get("www.example", "/api").as_str(), get("www.example", "/").as_str()), ("api-green", "portal"));
    let status = door.status();
    let live: Vec<&str> = status.services.values().map(|service| service.live.as_str()).collect();
    assert_eq!(live, ["green", "blue", "blue", "blue"], "api, portal, rest, wild");
    drop(fakes);
}

#[track_caller]
fn receipt_of(pair: &Pair, generation: u64) -> Receipt {
    wait_for("the receipt", DEADLINE, || {
        let entry = pair.door.history().into_iter().find(|entry| entry.generation == generation);
        entry.and_then(|entry| entry.receipt).ok_or("none")
    })
}
