//! Crashes: a switch is done or not done after them, never half; and every start that cannot succeed says what to do.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use bgproxy_conf::wire::What;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::harness::raw::request;
use crate::harness::{
    DEADLINE, Door, Fake, Kind, Load, Output, Pair, Raw, Response, Site, steady_snapshots, text_of, wait_until,
};

/// The places in a switch where a crash may be put, in their order, and what is live after it.
const PLACES: [(&str, &str); 8] = [
    ("before_persist", "blue"),
    ("after_persist", "green"),
    ("before_publish", "green"),
    ("after_publish", "green"),
    ("before_reply", "green"),
    ("after_reply", "green"),
    ("before_live_file", "green"),
    ("after_live_file", "green"),
];

// === a crash in the midst of a switch ===

#[test]
fn a_crash_between_any_two_effects_of_a_switch_leaves_it_done_or_not_done() {
    for (place, live) in PLACES {
        let mut pair = settled();
        let before = pair.door.history().len() as u64;
        crash_at(&mut pair.door, place, |door| {
            let output = door.bgctl(&["switch", "green"]);
            assert_eq!(output.code, Some(3), "{place}: {output:?}");
            assert!(output.stderr.contains("the outcome is unknown; `bgctl status` tells"), "{place}: {output:?}");
        });
        pair.door.restart();
        assert_consistent(&pair, place, live);
        let done = u64::from(live == "green");
        assert_eq!((pair.door.portal().generation, pair.door.history().len() as u64), (1 + done, before + done));
        // And it goes on from there.
        let other = if live == "blue" { "green" } else { "blue" };
        pair.door.switch_and_drain(other);
        assert_consistent(&pair, place, other);
    }
}

#[test]
fn a_switch_by_the_live_file_is_carried_out_whatever_crash_comes_between() {
    for (place, _) in PLACES {
        let mut pair = settled();
        crash_at(&mut pair.door, place, |door| std::fs::write(door.live_file(), "green\n").unwrap());
        pair.door.restart();
        wait_until("the switch", DEADLINE, || pair.door.live() == "green");
        assert_consistent(&pair, place, "green");
        assert_eq!((pair.door.portal().generation, pair.door.history().len()), (2, 1), "{place}: once");
    }
}

/// A door that has written its live file, and the record that it has.
fn settled() -> Pair {
    let pair = Pair::start_with(|door| door.live_file());
    wait_until("the record of the live file", DEADLINE, || {
        text_of(&pair.door.state_file("")).contains(r#""file_seen":"blue\n""#)
    });
    pair
}

/// Starts it anew with a failpoint, commands a switch, and sees it die of it.
#[track_caller]
fn crash_at(door: &mut Door, place: &str, command: impl FnOnce(&Door)) {
    door.set_env("BGPROXY_FAILPOINT", Some(place));
    door.restart();
    command(door);
    assert_eq!(door.wait_end().signal(), Some(9), "{place}");
    door.set_env("BGPROXY_FAILPOINT", None);
}

/// Status, requests, live file and history all say the same color.
#[track_caller]
fn assert_consistent(pair: &Pair, place: &str, live: &str) {
    assert_eq!(pair.door.live(), live, "{place}");
    assert_eq!(pair.answers(), live, "{place}");
    wait_until("the live file", DEADLINE, || text_of(&pair.door.live_file()) == format!("{live}\n"));
    let newest = pair.door.history().first().map(|entry| entry.to.to_string());
    assert!(newest.is_none_or(|to| to == live), "{place}");
}

#[test]
fn a_killed_door_comes_back_with_what_was_live() {
    let mut pair = switched();
    pair.door.kill9();
    assert!(pair.door.control().exists(), "its control socket is left over");
    pair.door.restart();
    let status = pair.door.portal();
    assert_eq!((status.live.as_str(), status.generation), ("green", 2));
    assert_eq!(status.previous.unwrap().as_str(), "blue");
    assert_eq!(pair.answers(), "green");
    assert!(pair.door.history()[0].receipt.is_some());
}

// === the state files ===

#[test]
fn a_truncated_or_changed_state_file_is_replaced_by_the_one_before_with_a_loud_word() {
    let truncate = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let flip = |bytes: &mut Vec<u8>| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    };
    for damage in [&truncate as &dyn Fn(&mut Vec<u8>), &flip, &Vec::clear] {
        let mut pair = switched();
        pair.door.terminate();
        damage_file(&pair.door.state_file(""), damage);
        pair.door.restart();
        // The record before the newest is that of the switch, without its receipt.
        assert_eq!((pair.door.live().as_str(), pair.door.portal().generation), ("green", 2));
        pair.door.wait_log("ERROR the state file cannot be used, the one before it is: ");
        pair.door.switch_and_drain("blue");
        pair.door.restart();
        assert_eq!(pair.door.live(), "blue");
    }
}

#[test]
fn two_damaged_state_files_are_refused_until_somebody_says_what_is_live() {
    let _steady = steady_snapshots();
    let mut pair = switched();
    pair.door.terminate();
    for suffix in ["", ".previous"] {
        damage_file(&pair.door.state_file(suffix), &|bytes| bytes.truncate(20));
    }
    let refused = pair.door.start_expecting_failure();
    insta::assert_snapshot!(last_words(&refused), @"error: the state of service `portal` is damaged: `DIR/state/portal.json` is not readable (EOF while parsing a string at line 1 column 20); `DIR/state/portal.json.previous` is not readable (EOF while parsing a string at line 1 column 20); restore `DIR/state/portal.json` from a backup, or start once with `--assume-live blue` (the color that shall be live)");

    pair.door.set_args(&["--assume-live", "green"]);
    pair.door.restart();
    assert_eq!(pair.answers(), "green");
    pair.door.wait_log("assuming what is live, as told");
    pair.door.set_args(&[]);
    pair.door.restart();
    assert_eq!(pair.answers(), "green", "once was enough");
}

#[test]
fn a_state_file_from_the_future_is_refused_until_somebody_says_what_is_live() {
    let _steady = steady_snapshots();
    let mut pair = switched();
    pair.door.terminate();
    let text = text_of(&pair.door.state_file("")).replace(r#""schema":1"#, r#""schema":2"#);
    std::fs::write(pair.door.state_file(""), text).unwrap();
    let refused = pair.door.start_expecting_failure();
    insta::assert_snapshot!(last_words(&refused), @"error: `DIR/state/portal.json` is of schema 2, this bgproxy knows up to 1; start the bgproxy that wrote it, or start this one once with `--assume-live blue` (the color that shall be live)");

    pair.door.set_args(&["--assume-live", "purple"]);
    let unknown = pair.door.start_expecting_failure();
    insta::assert_snapshot!(last_words(&unknown), @"error: `--assume-live purple`: no service has such a color");
    pair.door.set_args(&["--assume-live", "blue"]);
    pair.door.restart();
    assert_eq!(pair.answers(), "blue");
    assert!(pair.door.portal().generation > 2, "no `expect_generation` from before fits by accident");
}

/// Green is live, and the drain's receipt is saved.
fn switched() -> Pair {
    let pair = Pair::start();
    pair.door.switch_and_drain("green");
    wait_until("the saved receipt", DEADLINE, || text_of(&pair.door.state_file("")).contains(r#""outcome":"#));
    pair
}

fn damage_file(path: &Path, damage: &dyn Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    damage(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_full_disk_refuses_a_switch_and_changes_nothing() {
    // No file may grow beyond this, which the kernel tells by an error where the signal is ignored.
    let pair = Pair::start_with(|door| door.live_file().under(&["env", "--ignore-signal=XFSZ"]));
    let limit = |bytes| limit_file_size(pair.door.pid(), bytes);
    limit(Some(100));
    let refused = pair.door.post("/v1/services/portal/switch", json!({ "to": "green" }));
    let problem = refused.problem();
    assert_eq!((refused.status(), problem.reason.as_str()), (507, "not_saved"));
    assert!(problem.title.contains("File too large (os error 27)"), "{problem:?}");
    assert_eq!((pair.door.live().as_str(), pair.answers().as_str()), ("blue", "blue"));
    assert_eq!((pair.door.portal().generation, pair.door.history().len()), (1, 0));
    assert_eq!(text_of(&pair.door.live_file()), "blue\n");

    limit(None);
    pair.door.switch("green");
    assert_eq!(pair.answers(), "green");
    // The receipt is being saved while we look.
    wait_until("no temporary file left", DEADLINE, || {
        let mut files = std::fs::read_dir(pair.door.state_dir()).unwrap();
        !files.any(|file| file.unwrap().file_name().to_string_lossy().ends_with(".tmp"))
    });
}

fn limit_file_size(pid: u32, bytes: Option<u64>) {
    let pid = Pid::from_raw(pid.try_into().unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("our own child");
}

// === a crash of a backend ===

#[test]
fn a_backend_killed_in_the_midst_of_a_request_is_told_from_a_slow_one() {
    let mut site = Site::start();
    let hold = |method: &str, id: &str| {
        let mut held = site.door.connect();
        held.send(request(method, &format!("/hold?id={id}"), &[], b""));
        site.blue.wait_entered(id);
        held
    };
    let (mut post, mut get) = (hold("POST", "a"), hold("GET", "b"));
    site.blue.kill9_nginx();
    let why = |answer: Response| (answer.status, answer.header("proxy-status").unwrap_or_default().to_owned());
    let (status, broken) = why(post.response());
    assert!(status == 502 && (broken.contains("backend_closed") || broken.contains("backend_reset")), "{broken}");
    // What may be sent again is: to a worker of nginx that is about to be killed too, or to nobody.
    assert_eq!(get.response().status, 502);
    // The socket file is left over, and nobody listens.
    let (status, refused) = why(site.door.get("/"));
    assert!(status == 502 && refused.contains("socket_refused"), "{refused}");

    site.blue.release("a");
    site.blue.release("b");
    site.blue.restart();
    let tally = Load::bounded(site.door.addr(), 8, Kind::mixed(), 8).finish();
    tally.assert_clean();
    assert_eq!(site.door.live(), "blue", "the only live color is never taken out of service");
}

#[test]
fn connections_to_a_container_that_was_replaced_are_not_used_again() {
    let pair = Pair::start();
    // Some idle connections of each worker.
    Load::bounded(pair.door.addr(), 8, vec![Kind::Index], 4).finish().assert_clean();
    let mut events = pair.door.events(None);
    let old = pair.blue;
    let before = old.heard().iter().map(|heard| heard.bytes.len()).sum::<usize>();
    // The old container lives on, and keeps its connections open; a new one has taken its place.
    let new = Fake::color(pair.dir.path().join("blue"), "blue");
    events.wait(|what| matches!(what, What::Socket { present: true, .. }));
    wait_until("the end of the old connections", DEADLINE, || old.heard().iter().all(|heard| heard.ended));
    Load::bounded(pair.door.addr(), 8, vec![Kind::Index], 4).finish().assert_clean();
    assert_eq!(old.heard().iter().map(|heard| heard.bytes.len()).sum::<usize>(), before);
    assert!(!new.heard().is_empty());
}

// === starts that cannot succeed ===

/// What a start says besides its warnings.
fn last_words(output: &Output) -> String {
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    let said = output.stderr.split_once("error:").map(|(_, said)| said);
    format!("error:{}", said.unwrap_or_else(|| panic!("no error told: {output:?}")))
}

#[test]
fn a_second_door_on_anything_of_the_first_is_refused() {
    let _steady = steady_snapshots();
    let pair = Pair::start();
    let first = &pair.door;
    let second = |key: &str, value: serde_json::Value| {
        let door = Door::builder().set(key, value).door();
        let output = door.start_expecting_failure();
        assert!(!door.control().exists(), "nothing is left behind");
        last_words(&output)
    };
    insta::assert_snapshot!(second("control.socket", first.control().to_str().unwrap().into()), @"
    error: cannot take the control socket DIR/control.sock: a running bgproxy (pid PID) serves it
    hint: stop that one, or give this one a `control.socket` of its own
    ");
    insta::assert_snapshot!(second("state.dir", first.state_dir().to_str().unwrap().into()), @"error: state directory `DIR/state` is in use by another bgproxy (process PID); stop that one, or give this one a `state.dir` of its own");
    insta::assert_snapshot!(second("listen", json!([{ "address": first.addr() }])), @"
    error: cannot listen on 127.0.0.1:PORT: Address already in use (os error 98)
    hint: find the program that has the port with `ss -ltnp 'sport = :PORT'`, or change `listen`
    ");
    insta::assert_snapshot!(second("admin.address", json!(first.admin())), @"
    error: cannot show metrics on 127.0.0.1:PORT: Address already in use (os error 98)
    hint: find the program that has the port with `ss -ltnp 'sport = :PORT'`, or change `admin.address`
    ");
    assert_eq!(pair.answers(), "blue", "the first is not disturbed");
    first.status();
}

#[test]
fn a_port_below_1024_without_permission_is_refused_with_the_ways_to_get_it() {
    let _steady = steady_snapshots();
    let root = rustix::process::getuid().is_root();
    // A network of its own has the kernel's default for such ports, whatever this host's is.
    let under: &[&str] = if root { &["unshare", "--net", "setpriv", "--bounding-set=-all"] } else { &["env"] };
    let refused = Door::builder().set("listen", json!([{ "address": "0.0.0.0:80" }])).under(under);
    insta::assert_snapshot!(last_words(&refused.start_expecting_failure()), @"
    error: cannot listen on 0.0.0.0:80: Permission denied (os error 13)
    hint: ports below 1024 need a permission, by `setcap cap_net_bind_service=+ep $(command -v bgproxy)`, `AmbientCapabilities=CAP_NET_BIND_SERVICE` in the unit; or choose another port in `listen`
    ");
}

#[test]
fn a_start_without_its_directories_says_how_to_make_them() {
    let _steady = steady_snapshots();
    let no_state = Door::builder().set("state.dir", "/nowhere/state");
    insta::assert_snapshot!(last_words(&no_state.start_expecting_failure()), @"error: state directory `/nowhere/state` does not exist; create it with `install -d -o bgproxy /nowhere/state`");
    let no_control = Door::builder().set("control.socket", "/nowhere/at/all/control.sock");
    insta::assert_snapshot!(last_words(&no_control.start_expecting_failure()), @"
    error: cannot create the control socket /nowhere/at/all/control.sock: No such file or directory (os error 2)
    hint: make its directory with `install -d /nowhere/at/all`
    ");
    let a_file = Door::builder();
    let path = a_file.dir().join("file");
    std::fs::write(&path, "").unwrap();
    let a_file = a_file.set("state.dir", path.to_str().unwrap());
    insta::assert_snapshot!(last_words(&a_file.start_expecting_failure()), @"error: `DIR/file` is not a directory; set `state.dir` to one");
    let occupied = Door::builder();
    let path = occupied.dir().join("control.sock");
    std::fs::write(&path, "").unwrap();
    insta::assert_snapshot!(last_words(&occupied.start_expecting_failure()), @"
    error: cannot create the control socket DIR/control.sock: a file is there that is no socket
    hint: remove it, or change `control.socket`
    ");
    let no_log = Door::builder().set("log.access", "/nowhere/access.log");
    insta::assert_snapshot!(last_words(&no_log.start_expecting_failure()), @"error: cannot open the access log `/nowhere/access.log`, whose directory must exist and be writable (`log.access`): No such file or directory (os error 2)");
}

#[test]
fn a_state_directory_of_somebody_else_is_refused() {
    let _steady = steady_snapshots();
    // Without its capabilities file modes bind root too.
    let door = Door::builder().under(&["setpriv", "--bounding-set=-all"]).door();
    std::fs::set_permissions(door.state_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    insta::assert_snapshot!(last_words(&door.start_expecting_failure()), @"error: cannot write to the state directory `DIR/state`, which must belong to the user that bgproxy runs as (`chown bgproxy DIR/state`): Permission denied (os error 13)");
}

#[test]
fn a_wrong_configuration_is_refused_with_the_spot() {
    let _steady = steady_snapshots();
    let unknown = Door::builder().set("service.portal.backend.blue", "/run/blue.sock").unset("admin.address");
    insta::assert_snapshot!(last_words(&unknown.start_expecting_failure()), @r#"
    error: unknown key `backend`
     --> DIR/bgproxy.toml:5:16
      |
    5 | service.portal.backend.blue = "/run/blue.sock"
      |                ^^^^^^^
      |
      = help: did you mean `backends`?
    "#);
    let first = Door::builder().set("service.portal.first", "greeen");
    insta::assert_snapshot!(last_words(&first.start_expecting_failure()), @r#"
    error: `first` is "greeen", which is not a color of service `portal`
     --> DIR/bgproxy.toml:8:16
      |
    8 | service.portal.first = "greeen"
      |                ^^^^^
      |
      = help: did you mean "green"?
    "#);
    let level = Door::builder().set("log.level", "=loud");
    insta::assert_snapshot!(last_words(&level.start_expecting_failure()), @r#"error: `log.level = "=loud"` is no log filter: invalid filter directive"#);
    let door = Door::builder().door();
    let missing = door.bgproxy(&["run", "-c", "missing.toml"]);
    insta::assert_snapshot!(last_words(&missing), @"
    error: cannot read the configuration: No such file or directory (os error 2)
    --> missing.toml
     = help: create it, or name another file: `bgproxy run -c FILE`, `bgctl check FILE`
    ");
}

#[test]
fn a_configuration_without_the_live_color_is_refused() {
    let _steady = steady_snapshots();
    let mut pair = switched();
    pair.door.terminate();
    let config = text_of(&pair.door.config());
    let without: String =
        config.lines().filter(|line| !line.contains("green")).map(|line| format!("{line}\n")).collect();
    pair.door.write_config(&without);
    insta::assert_snapshot!(last_words(&pair.door.start_expecting_failure()), @"error: service `portal`: the state file says that `green` is live, but the configuration has no such color; put it back into `service.portal.backends`, or start once with `--assume-live COLOR`");
}

#[test]
fn a_second_signal_ends_the_door_at_once() {
    let mut pair = Pair::start();
    let held = pair.hold("/hold");
    pair.door.signal(rustix::process::Signal::TERM);
    pair.door.wait_log("closing the door");
    pair.door.signal(rustix::process::Signal::TERM);
    assert_eq!(pair.door.wait_end().code(), Some(1));
    drop(held);
    assert!(!pair.door.control().exists());
}

#[test]
fn a_stale_control_socket_is_replaced() {
    let builder = Door::builder();
    let path = builder.dir().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let door = builder.start();
    door.wait_log("replacing a control socket that nobody serves");
    assert_eq!(Raw::get(path, "/v1/status").status, 200);
}
