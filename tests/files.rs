//! What changes on disk: live files, the configuration, the backends' sockets.

use std::path::Path;

use bgproxy_conf::wire::{Reload, SwitchReply, What};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::door::Events;
use crate::harness::fake::of_color;
use crate::harness::raw::request;
use crate::harness::{DEADLINE, Door, Fake, Pair, Raw, steady_snapshots, temp_dir, text_of, wait_until};

// === live files ===

#[test]
fn a_color_written_into_the_live_file_is_switched_to_however_it_is_written() {
    let pair = Pair::start_with(|door| door.live_file());
    let file = pair.door.live_file();
    let beside = |name: &str| file.with_file_name(name);
    let mut events = pair.door.events(None);
    for (to, write) in [
        ("green", &(|| std::fs::write(&file, "green").unwrap()) as &dyn Fn()),
        ("blue", &|| {
            std::fs::write(beside("new"), " blue \n").unwrap();
            std::fs::rename(beside("new"), &file).unwrap();
        }),
        ("green", &|| {
            std::fs::write(beside("target"), "green\n").unwrap();
            std::os::unix::fs::symlink("target", beside("link")).unwrap();
            std::fs::rename(beside("link"), &file).unwrap();
        }),
        ("blue", &|| {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, "blue\r\n").unwrap();
        }),
    ] {
        write();
        assert_eq!(switched(&mut events), (to.into(), "live file".into()));
        assert_eq!((pair.answers().as_str(), text_of(&file).as_str()), (to, format!("{to}\n").as_str()));
    }
    assert_eq!(pair.door.history().len(), 4);
    let commands = pair.door.metrics();
    assert_eq!(commands.sum("bgproxy_commands_total", &[]), 4.0, "what we wrote ourselves was no command");
}

#[test]
fn a_directory_of_symlinks_may_be_swapped_at_once() {
    let (dir, blue, green) = colors();
    for color in ["blue", "green"] {
        std::fs::create_dir(dir.path().join(format!("is-{color}"))).unwrap();
        std::fs::write(dir.path().join(format!("is-{color}/portal")), format!("{color}\n")).unwrap();
    }
    let link = dir.path().join("live");
    std::os::unix::fs::symlink("is-blue", &link).unwrap();
    let file = link.join("portal");
    let door = Door::builder().fakes(&blue, &green).set("service.portal.live_file", file.to_str().unwrap()).start();
    let mut events = door.events(None);
    std::os::unix::fs::symlink("is-green", dir.path().join("new")).unwrap();
    std::fs::rename(dir.path().join("new"), &link).unwrap();
    assert_eq!(switched(&mut events).0, "green");
    assert_eq!(text_of(&file), "green\n");
}

#[test]
fn a_live_file_whose_directory_appears_later_is_written_then() {
    let (dir, blue, green) = colors();
    let file = dir.path().join("later/still/portal");
    let door = Door::builder().fakes(&blue, &green).set("service.portal.live_file", file.to_str().unwrap()).start();
    wait_until("the fault", DEADLINE, || door.portal().live_file.unwrap().fault.is_some());
    let fault = door.portal().live_file.unwrap().fault.unwrap();
    assert_eq!(fault, "cannot be written: No such file or directory (os error 2)");

    let mut events = door.events(None);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    wait_until("the live file", DEADLINE, || text_of(&file) == "blue\n");
    assert_eq!(door.portal().live_file.unwrap().fault, None);
    std::fs::write(&file, "green\n").unwrap();
    assert_eq!(switched(&mut events).0, "green");
}

#[test]
fn nonsense_in_a_live_file_is_told_and_counted_and_changes_nothing() {
    let pair = Pair::start_with(|door| door.live_file());
    let mut events = pair.door.events(None);
    for (text, told) in [
        ("Green\n", r#"holds no color's name but "Green\n""#),
        ("", r#"holds no color's name but """#),
        ("greeen\n", "names `greeen`, which is no color of this service"),
    ] {
        std::fs::write(pair.door.live_file(), text).unwrap();
        let event = events.wait(|what| matches!(what, What::LiveFile { .. }));
        assert_eq!(event.what, What::LiveFile { fault: told.into() });
        let status = pair.door.portal();
        assert_eq!((status.live.as_str(), status.live_file.unwrap().fault.as_deref()), ("blue", Some(told)));
        assert!(pair.door.bgctl(&["status"]).ok().stdout.contains(&told.replace('\n', "\\n")), "{told}");
    }
    assert_eq!(pair.door.metrics().sum("bgproxy_live_file_faults_total", &[]), 3.0);
    pair.door.wait_log("live file: names `greeen`, which is no color of this service");
    assert!(pair.door.history().is_empty());

    std::fs::write(pair.door.live_file(), "blue\n").unwrap();
    wait_until("no fault", DEADLINE, || pair.door.portal().live_file.unwrap().fault.is_none());
    assert_eq!(pair.door.portal().generation, 1);
}

#[test]
fn a_color_written_while_the_door_was_closed_is_switched_to_at_start() {
    let mut pair = Pair::start_with(|door| door.live_file());
    wait_until("the record of the live file", DEADLINE, || text_of(&pair.door.state_file("")).contains(r#""blue\n""#));
    pair.door.terminate();
    std::fs::write(pair.door.live_file(), "green\n").unwrap();
    pair.door.restart();
    wait_until("the switch", DEADLINE, || pair.door.live() == "green");
    assert_eq!((pair.answers().as_str(), pair.door.history()[0].by.as_str()), ("green", "live file"));
}

#[test]
fn a_live_file_that_asks_for_an_unready_color_goes_back_to_the_truth() {
    let (dir, blue, green) = colors();
    drop(green);
    let green = Fake::answers(dir.path().join("green"), of_color("green", 500, "broken\n"));
    let door = Door::builder().live_file().fakes(&blue, &green).probes_for("100ms").start();
    let mut events = door.events(None);
    std::fs::write(door.live_file(), "green\n").unwrap();
    let event = events.wait(|what| matches!(what, What::Refused { .. }));
    let What::Refused { reason, detail, by } = event.what else { unreachable!() };
    assert_eq!((reason.as_str(), by.as_str()), ("unready", "live file"));
    assert!(detail.contains("status 500"), "{detail}");
    wait_until("the truth", DEADLINE, || text_of(&door.live_file()) == "blue\n");
    assert_eq!((door.live().as_str(), door.portal().generation), ("blue", 1));

    // The same word again is a new command.
    drop(green);
    let green = Fake::color(dir.path().join("green"), "green");
    std::fs::write(door.live_file(), "green\n").unwrap();
    assert_eq!(switched(&mut events).0, "green");
    drop(green);
}

#[test]
fn a_deleted_live_file_comes_back() {
    let pair = Pair::start_with(|door| door.live_file());
    pair.door.switch("green");
    std::fs::remove_file(pair.door.live_file()).unwrap();
    wait_until("the live file", DEADLINE, || text_of(&pair.door.live_file()) == "green\n");
    assert_eq!((pair.door.portal().generation, pair.door.metrics().sum("bgproxy_commands_total", &[])), (2, 1.0));
}

// === the configuration ===

#[test]
fn a_changed_configuration_file_is_read_again() {
    let mut pair = Pair::start();
    let mut client = pair.door.connect();
    let mut ask = || client.send(request("GET", "/", &[], b"")).response().color().map(str::to_owned);
    assert_eq!(ask().as_deref(), Some("blue"));
    let mut events = pair.door.events(None);

    // Another address for the color that is live: the next request goes there, on the same connection too.
    let moved = Fake::color(pair.dir.path().join("moved"), "moved");
    pair.door.configure("service.portal.backends.blue", moved.address());
    assert!(reloaded(&mut events).ok);
    assert_eq!(ask().as_deref(), Some("moved"));
    assert_eq!(pair.door.portal().generation, 2, "requests go elsewhere");

    // A new service, with a live file of its own.
    let api = Fake::color(pair.dir.path().join("api"), "api");
    let file = pair.dir.path().join("api-is-live");
    pair.door.configure(
        "service.api",
        json!({
            "hosts": ["api.example"], "backends": { "blue": api.address(), "green": "127.0.0.1:1" },
            "live_file": file.to_str().unwrap(),
        }),
    );
    assert!(reloaded(&mut events).ok);
    let address = pair.door.addr();
    let get = || Raw::ask(address, &request("GET", "/", &[("Host", "api.example")], b""));
    assert_eq!(get().color(), Some("api"));
    assert_eq!(text_of(&file), "blue\n");
    let counted = || pair.door.metrics().sum("bgproxy_requests_total", &[("service", "api")]) == 1.0;
    wait_until("its series", DEADLINE, counted);

    // And gone again, with its series.
    pair.door.forget("service.api");
    assert!(reloaded(&mut events).ok);
    assert_eq!(get().color(), Some("moved"), "every host is portal's");
    let page = pair.door.call("/metrics").0.text();
    assert!(!page.contains(r#""api""#), "{page}");
    assert_eq!(pair.door.call("/v1/services/api").status(), 404);
}

#[test]
fn a_hangup_and_bgctl_read_the_configuration_again() {
    let mut pair = Pair::start();
    let mut events = pair.door.events(None);
    pair.door.signal(Signal::HUP);
    assert!(reloaded(&mut events).ok);
    pair.door.wait_log("SIGHUP: reading the configuration again");
    let output = pair.door.bgctl(&["reload"]).ok();
    assert!(output.stdout.ends_with("the new configuration is in use\n"), "{output:?}");
    assert!(reloaded(&mut events).ok);
    let metrics = pair.door.metrics();
    assert_eq!(metrics.sum("bgproxy_config_reloads_total", &[("outcome", "ok")]), 2.0);
    assert_eq!(metrics.sum("bgproxy_config_last_reload_successful", &[]), 1.0);
    assert_eq!(pair.door.portal().generation, 1, "nothing changed");
}

#[test]
fn a_faulty_configuration_keeps_the_old_one_and_is_told() {
    let _steady = steady_snapshots();
    let mut pair = Pair::start();
    pair.door.configure("service.portal.drain.deadlin", "5s");
    let output = pair.door.bgctl(&["reload"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    insta::assert_snapshot!(output.stderr, @r#"
    error: the reload failed, nothing changed
      error: unknown key `deadlin`
       --> DIR/bgproxy.toml:8:22
        |
      8 | service.portal.drain.deadlin = "5s"
        |                      ^^^^^^^
        |
        = help: did you mean `deadline`?
    "#);
    assert_eq!(pair.answers(), "blue");
    let last = pair.door.status().last_reload.unwrap();
    assert!(!last.ok && last.fault.unwrap().contains("did you mean `deadline`?"));
    let metrics = pair.door.metrics();
    assert!(metrics.sum("bgproxy_config_reloads_total", &[("outcome", "failed")]) >= 1.0);
    assert_eq!(metrics.sum("bgproxy_config_last_reload_successful", &[]), 0.0);
    let status = pair.door.bgctl(&["status"]).ok().stdout;
    assert!(status.contains("the last reload failed at "), "{status}");

    pair.door.forget("service.portal.drain.deadlin");
    wait_until("the mended one", DEADLINE, || pair.door.status().last_reload.unwrap().ok);
    assert_eq!(pair.door.metrics().sum("bgproxy_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn a_reload_that_takes_the_live_color_away_is_refused() {
    let mut pair = Pair::start();
    pair.door.switch_and_drain("green");
    pair.door.forget("service.portal.backends.green");
    let reload = reload(&pair.door);
    let fault = reload.fault.expect("a fault");
    assert_eq!(fault, "service `portal`: `green` is live, it must stay in `service.portal.backends`");
    assert_eq!(pair.answers(), "green");

    // The one that is not live may go.
    pair.door.configure("service.portal.backends.green", pair.green.address());
    pair.door.forget("service.portal.backends.blue");
    pair.door.configure("service.portal.first", "green");
    assert_eq!(self::reload(&pair.door).fault, None);
    assert_eq!(pair.door.portal().previous, None, "there is nothing to roll back to");
    let gone = pair.door.post("/v1/services/portal/switch", json!({ "to": "blue" })).problem();
    assert_eq!(gone.title, "there is no color `blue`; there is `green`");
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let mut pair = Pair::start();
    pair.door.configure("workers", 3);
    pair.door.configure("log.format", "json");
    pair.door.configure("service.portal.drain.deadline", "7s");
    let reload = reload(&pair.door);
    assert_eq!((reload.ok, reload.needs_restart), (true, vec!["workers".into(), "log".into()]));
    assert_eq!(pair.door.status().workers, 2);
    let status = pair.door.bgctl(&["status"]).ok().stdout;
    assert!(status.contains("a restart is needed for `workers`, `log`"), "{status}");
    pair.door.restart();
    assert_eq!(pair.door.status().workers, 3);
}

#[test]
fn a_switch_that_waits_for_a_service_that_is_removed_is_answered() {
    let mut pair = Pair::start_with(|door| {
        door.set("service.other", json!({ "hosts": ["other"], "backends": { "blue": "127.0.0.1:1" } }))
    });
    let held = pair.hold("/hold");
    let mut caller = Raw::connect(pair.door.control());
    caller.send(request("POST", "/v1/services/portal/switch", &[], br#"{"to":"green","wait":true}"#));
    wait_until("the switch", DEADLINE, || pair.door.live() == "green");
    pair.door.forget("service.portal");
    wait_until("the service to be gone", DEADLINE, || !pair.door.status().services.contains_key("portal"));
    // What is in flight may still finish, and the receipt is for whoever waits for it.
    pair.blue.go();
    let mut held = held;
    assert_eq!(held.response().color(), Some("blue"));
    let answer = caller.response();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let reply: SwitchReply = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(reply.receipt.map(|receipt| (receipt.in_flight, receipt.finished)), Some((1, 1)));
}

// === sockets ===

#[test]
fn a_backends_socket_is_watched_and_a_new_one_is_asked_whether_it_is_ready() {
    let (dir, blue, green) = colors();
    let door = Door::builder().fakes(&blue, &green).start();
    let mut events = door.events(None);
    let path = dir.path().join("green");
    drop(green);
    std::fs::remove_file(&path).unwrap();
    assert!(!socket(&mut events, "green"));
    let ready = |events: &mut Events| {
        let event = events.wait(|what| matches!(what, What::Readiness { .. }));
        let What::Readiness { color, probe } = event.what else { unreachable!() };
        (color.to_string(), probe.ready, probe.reason)
    };
    assert_eq!(ready(&mut events), ("green".into(), false, Some("socket_missing".into())));

    let green = Fake::color(path.as_path(), "green");
    assert!(socket(&mut events, "green"));
    assert_eq!(ready(&mut events), ("green".into(), true, None));
    assert!(green.heard().len() == 1 && blue.heard().is_empty(), "only the new one was asked");
    assert_eq!(door.metrics().sum("bgproxy_socket_changes_total", &[]), 2.0);
    assert_eq!(door.metrics().sum("bgproxy_color_ready", &[("color", "green")]), 1.0);
}

// === helpers ===

fn colors() -> (tempfile::TempDir, Fake, Fake) {
    let dir = temp_dir();
    let fake = |dir: &Path, color: &str| Fake::color(dir.join(color), color);
    let (blue, green) = (fake(dir.path(), "blue"), fake(dir.path(), "green"));
    (dir, blue, green)
}

/// The next switch: to where, and by whom.
#[track_caller]
fn switched(events: &mut Events) -> (String, String) {
    let event = events.wait(|what| matches!(what, What::Switched { .. }));
    let What::Switched { to, by, .. } = event.what else { unreachable!() };
    (to.to_string(), by)
}

#[track_caller]
fn reloaded(events: &mut Events) -> Reload {
    let event = events.wait(|what| matches!(what, What::Reloaded { .. }));
    let What::Reloaded { reload } = event.what else { unreachable!() };
    reload
}

/// Whether the color has a socket now, as the next event about one says.
#[track_caller]
fn socket(events: &mut Events, of: &str) -> bool {
    let event = events.wait(|what| matches!(what, What::Socket { .. }));
    let What::Socket { color, present } = event.what else { unreachable!() };
    assert_eq!(color.as_str(), of);
    present
}

#[track_caller]
fn reload(door: &Door) -> Reload {
    door.post("/v1/reload", json!({})).parsed()
}
