//! What people read: every verb of both binaries, its words and its exit code.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::fake::of_color;
use crate::harness::{
    Act, DEADLINE, Door, Fake, Output, Pair, Process, need, steady_snapshots, temp_dir, text_of, wait_until,
};

/// An answer as a terminal shows it: what was asked, what came, and how it ended.
fn shown(asked: &[&str], output: &Output) -> String {
    let code = output.code.map_or("killed".to_owned(), |code| code.to_string());
    format!("$ bgctl {}\n{}{}exit {code}", asked.join(" "), output.stdout, output.stderr)
}

fn ask(door: &Door, args: &[&str]) -> String {
    shown(args, &door.bgctl(args))
}

/// One after the other, on one page.
fn page(door: &Door, asked: &[&[&str]]) -> String {
    asked.iter().map(|args| ask(door, args)).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn a_deployment_reads_well_from_begin_to_end() {
    let _steady = steady_snapshots();
    let pair = Pair::start_with(|door| door.live_file());
    insta::assert_snapshot!(
        page(
            &pair.door,
            &[
                &["status"],
                &["probe", "green"],
                &["prepare", "green"],
                &["prepare", "green"],
                &["switch", "green"],
                &["wait-idle", "blue"],
                &["is-live", "green", "--verbose"],
                &["is-live", "blue", "--verbose"],
                &["switch", "green"],
                &["rollback"],
                &["switch", "green", "--no-wait", "--force"],
                &["reload"],
                &["status"],
            ],
        ),
        @"
    $ bgctl status
    bgproxy VERSION, pid PID, since TIME, 2 workers, 0 connections
    listens on 127.0.0.1:PORT, admin on 127.0.0.1:PORT, configured by DIR/bgproxy.toml

    portal: blue is live, generation 1
      COLOR  ROLE  READY      IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   live  not asked          0        0         0       0  DIR/blue
      green  idle  not asked          0        0         0       0  DIR/green
    exit 0

    $ bgctl probe green
    green is ready: 200 in TOOK
    exit 0

    $ bgctl prepare green
    green is ready and the preview (generation 2), blue stays live
    exit 0

    $ bgctl prepare green
    green is ready and already the preview (generation 2), blue stays live
    exit 0

    $ bgctl switch green
    green is live (generation 3, was blue), TOOK
    blue is drained after TOOK; nothing was in flight; 0 requests served in its term
    exit 0

    $ bgctl wait-idle blue
    blue is idle and may be stopped
    exit 0

    $ bgctl is-live green --verbose
    green is live
    exit 0

    $ bgctl is-live blue --verbose
    green is live, not blue
    exit 1

    $ bgctl switch green
    green is live already (generation 3), nothing changed
    exit 0

    $ bgctl rollback
    blue is live (generation 4, was green), TOOK
    green is drained after TOOK; nothing was in flight; 0 requests served in its term
    exit 0

    $ bgctl switch green --no-wait --force
    green is live (generation 5, was blue), TOOK
    exit 0

    $ bgctl reload
    reloaded at TIME, the new configuration is in use
    exit 0

    $ bgctl status
    bgproxy VERSION, pid PID, since TIME, 2 workers, 0 connections
    listens on 127.0.0.1:PORT, admin on 127.0.0.1:PORT, configured by DIR/bgproxy.toml

    portal: green is live, generation 5, rollback leads to blue
      COLOR  ROLE  READY  IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   idle  ready          0        0         0       0  DIR/blue
      green  live  ready          0        0         0       0  DIR/green
    exit 0
    ");
    insta::assert_snapshot!(ask(&pair.door, &["history"]), @"
    $ bgctl history
    TIME  portal 5  switch blue -> green, forced, by uid 0 (root) pid PID
        blue is drained after TOOK; nothing was in flight; 0 requests served in its term
    TIME  portal 4  rollback green -> blue, by uid 0 (root) pid PID
        green is drained after TOOK; nothing was in flight; 0 requests served in its term
    TIME  portal 3  switch blue -> green, by uid 0 (root) pid PID
        blue is drained after TOOK; nothing was in flight; 0 requests served in its term
    TIME  portal 2  preview blue -> green, by uid 0 (root) pid PID
    exit 0
    ");
}

#[test]
fn refusals_say_what_is_wrong_once_and_what_to_do() {
    let _steady = steady_snapshots();
    let dir = temp_dir();
    let blue = Fake::color(dir.path().join("blue"), "blue");
    let green = Fake::answers(dir.path().join("green"), of_color("green", 503, "migrating the database\n"));
    let door = Door::builder().fakes(&blue, &green).probes_for("100ms").start();
    insta::assert_snapshot!(
        page(
            &door,
            &[
                &["switch", "green"],
                &["switch", "greeen"],
                &["switch", "purple"],
                &["prepare", "greeen"],
                &["prepare", "green", "--within", "300ms"],
                &["probe", "green"],
                &["probe", "greeen"],
                &["is-live", "greeen"],
                &["wait-idle", "blue"],
                &["wait-idle", "greeen"],
                &["rollback"],
                &["switch", "green", "--expect-live", "green"],
                &["switch", "green", "--expect-generation", "7"],
                &["switch", "green", "-s", "portl"],
                &["status", "-s", "portl"],
                &["switch", "Green"],
            ],
        ),
        @r#"
    $ bgctl switch green
    error: `green` is not ready: status 503 Service Unavailable, expected 200-399; the answer begins: "migrating the database\n"
    exit 1

    $ bgctl switch greeen
    error: there is no color `greeen`; there are `blue` and `green`
    hint: did you mean `green`?
    exit 1

    $ bgctl switch purple
    error: there is no color `purple`; there are `blue` and `green`
    exit 1

    $ bgctl prepare greeen
    error: there is no color `greeen`; there are `blue` and `green`
    hint: did you mean `green`?
    exit 1

    $ bgctl prepare green --within 300ms
    error: green did not become ready within 300ms
      green is unready (unexpected_status): status 503 Service Unavailable, expected 200-399; the answer begins: "migrating the database\n"
    exit 4

    $ bgctl probe green
    green is unready (unexpected_status): status 503 Service Unavailable, expected 200-399; the answer begins: "migrating the database\n"
    exit 1

    $ bgctl probe greeen
    error: there is no color `greeen`; there are `blue` and `green`
    hint: did you mean `green`?
    exit 1

    $ bgctl is-live greeen
    error: there is no color `greeen`; service `portal` has `blue` and `green`
    hint: did you mean `green`?
    exit 1

    $ bgctl wait-idle blue
    error: blue is live, waiting does not make it idle
    hint: do not stop it; `bgctl switch` or `bgctl prepare` another color first
    exit 1

    $ bgctl wait-idle greeen
    error: there is no color `greeen`; there are `blue` and `green`
    hint: did you mean `green`?
    exit 1

    $ bgctl rollback
    error: no other color has been live yet
    exit 1

    $ bgctl switch green --expect-live green
    error: not as expected: `blue` is live
    exit 1

    $ bgctl switch green --expect-generation 7
    error: not as expected: the generation is 1
    exit 1

    $ bgctl switch green -s portl
    error: there is no service `portl`; there is `portal`
    hint: did you mean `portal`?
    exit 1

    $ bgctl status -s portl
    error: there is no service `portl`; there is `portal`
    hint: did you mean `portal`?
    exit 1

    $ bgctl switch Green
    error: invalid value 'Green' for '<COLOR>': `Green` is not a color; write up to 32 of a-z, 0-9, `-` and `_` beginning with a letter, such as "green"

    For more information, try '--help'.
    exit 2
    "#);
}

#[test]
fn a_cut_switch_and_a_busy_service_are_told() {
    let _steady = steady_snapshots();
    let pair = Pair::start_with(|door| door.set("service.portal.drain.deadline", "100ms"));
    let held = pair.hold("/hold?order=42");
    insta::assert_snapshot!(ask(&pair.door, &["switch", "green"]), @"
    $ bgctl switch green
    green is live (generation 2, was blue), TOOK
    blue was cut after TOOK; of 1 request in flight, 0 finished, 1 was cut; 0 requests served in its term
      cut GET /hold?order=42, TOOK old
    exit 0
    ");
    drop(held);
    insta::assert_snapshot!(ask(&pair.door, &["switch", "blue", "--timeout", "1ms"]), @"
    $ bgctl switch blue --timeout 1ms
    error: not done within 1ms
    hint: the daemon may still be at it; `bgctl status` shows
    exit 4
    ");
}

#[test]
fn several_services_must_be_told_apart() {
    let _steady = steady_snapshots();
    let pair = Pair::start_with(|door| {
        let ready = json!({ "watch": "0s" });
        door.set("service.api", json!({ "hosts": ["api"], "backends": { "blue": "127.0.0.1:1" }, "ready": ready }))
    });
    insta::assert_snapshot!(
        page(
            &pair.door,
            &[&["switch", "green"], &["-s", "portal", "switch", "green"], &["status"], &["-s", "api", "history"]],
        ),
        @"
    $ bgctl switch green
    error: which service? there are `api` and `portal`
    hint: name it with `-s NAME`
    exit 2

    $ bgctl -s portal switch green
    green is live (generation 2, was blue), TOOK
    blue is drained after TOOK; nothing was in flight; 0 requests served in its term
    exit 0

    $ bgctl status
    bgproxy VERSION, pid PID, since TIME, 2 workers, 0 connections
    listens on 127.0.0.1:PORT, admin on 127.0.0.1:PORT, configured by DIR/bgproxy.toml

    api: blue is live, generation 1
      COLOR  ROLE  READY      IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   live  not asked          0        0         0       0  127.0.0.1:PORT

    portal: green is live, generation 2, rollback leads to blue
      COLOR  ROLE  READY      IN FLIGHT  STREAMS  FINISHED  FAILED  ADDRESS
      blue   idle  not asked          0        0         0       0  DIR/blue
      green  live  ready              0        0         0       0  DIR/green
    exit 0

    $ bgctl -s api history
    nothing has been switched yet
    exit 0
    ");
}

#[test]
fn a_door_that_cannot_be_reached_is_told_by_why() {
    let _steady = steady_snapshots();
    let door = Door::builder().door();
    let nothing = ask(&door, &["status"]);
    drop(std::os::unix::net::UnixListener::bind(door.control()).unwrap());
    let stale = ask(&door, &["switch", "green"]);
    // Without its capabilities file modes bind root too.
    std::fs::set_permissions(door.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = door.bgctl_command(&["status"]);
    let mut denied = Command::new(need("setpriv"));
    denied.arg("--bounding-set=-all").arg(command.get_program()).arg("status").env("BGCTL_SOCKET", door.control());
    let denied = Output::of(&mut denied, Path::new("/tmp"));
    std::fs::set_permissions(door.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    command.env_remove("BGCTL_SOCKET").args(["--socket", "/nowhere/control.sock"]);
    let elsewhere = Output::of(&mut command, door.dir());
    let told = [nothing, stale, shown(&["status"], &denied), shown(&["status", "--socket"], &elsewhere)];
    insta::assert_snapshot!(told.join("\n\n"), @"
    $ bgctl status
    error: no control socket at DIR/control.sock: is bgproxy running? (systemctl status bgproxy)
    hint: `--socket PATH` or BGCTL_SOCKET names another one
    exit 3

    $ bgctl switch green
    error: nobody listens on DIR/control.sock (stale socket)
    hint: is bgproxy running? (systemctl status bgproxy)
    exit 3

    $ bgctl status
    error: no permission to open DIR/control.sock
    hint: try `sudo`; or let `namei -l` show which directory above it keeps you out
    exit 3

    $ bgctl status --socket
    error: no control socket at /nowhere/control.sock: is bgproxy running? (systemctl status bgproxy)
    hint: `--socket PATH` or BGCTL_SOCKET names another one
    exit 3
    ");
}

#[test]
fn a_door_that_goes_away_in_the_midst_of_a_call_leaves_the_outcome_open() {
    let _steady = steady_snapshots();
    let dir = temp_dir();
    let fake = Fake::scripted(dir.path().join("control.sock"), |number| match number {
        0 => vec![Act::ReadRequest, Act::Say(a_status())],
        _ => vec![Act::ReadRequest],
    });
    let door = Door::builder().door();
    let mut command = door.bgctl_command(&["switch", "green"]);
    let output = Output::of(command.env("BGCTL_SOCKET", fake.address()), dir.path());
    insta::assert_snapshot!(shown(&["switch", "green"], &output), @"
    $ bgctl switch green
    error: the daemon went away before it answered POST /v1/services/portal/switch
    hint: the outcome is unknown; `bgctl status` tells, once the daemon is back
    exit 3
    ");
}

fn a_status() -> Vec<u8> {
    let pair = Pair::start();
    let text = pair.door.call("/v1/status").0.text();
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{text}").into_bytes()
}

#[test]
fn json_is_what_the_door_said() {
    let _steady = steady_snapshots();
    let pair = Pair::start();
    let json = |args: &[&str]| {
        let output = pair.door.bgctl(args);
        let value: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"));
        (output.code.unwrap(), value)
    };
    let (code, status) = json(&["status", "--json"]);
    assert_eq!((code, &status["services"]["portal"]["live"]), (0, &json!("blue")));
    let (code, service) = json(&["status", "--json", "-s", "portal"]);
    assert_eq!((code, &service["phase"]), (0, &json!({ "state": "steady" })));
    let (code, switched) = json(&["switch", "green", "--json"]);
    assert_eq!((code, &switched["receipt"]["outcome"]), (0, &json!("drained")));
    let (code, back) = json(&["rollback", "--json", "--no-wait"]);
    assert_eq!((code, &back["to"], &back["receipt"]), (0, &json!("blue"), &Value::Null));
    let (code, refused) = json(&["switch", "greeen", "--json"]);
    assert_eq!((code, &refused["reason"], &refused["status"]), (1, &json!("unknown_color"), &json!(422)));
    assert_eq!(json(&["probe", "green", "--json"]).1["ready"], json!(true));
    assert_eq!(json(&["is-live", "green", "--json"]).0, 1);
    assert_eq!(json(&["prepare", "green", "--json"]).1["preview"], json!("green"));
    let (code, idle) = json(&["wait-idle", "green", "--json"]);
    assert_eq!((code, &idle["role"]), (1, &json!("preview")));
    assert_eq!(json(&["history", "--json"]).1["entries"].as_array().unwrap().len(), 3);
    assert_eq!(json(&["reload", "--json"]).1["ok"], json!(true));
    insta::assert_snapshot!(pair.door.bgctl(&["switch", "greeen", "--json"]).stdout, @r#"{"status":422,"reason":"unknown_color","title":"there is no color `greeen`; there are `blue` and `green`","detail":null}"#);
}

#[test]
fn events_are_told_one_line_each_over_a_restart() {
    let mut pair = Pair::start();
    let log = pair.dir.path().join("events.log");
    let mut command = pair.door.bgctl_command(&["events"]);
    let mut following = Process::start("bgctl", &mut command, &log);
    let told = |text: &str| {
        wait_until(text, DEADLINE, || text_of(&log).contains(text));
    };
    // Until it listens: what happened before is not told.
    wait_until("the first event", DEADLINE, || {
        pair.door.post("/v1/reload", json!({}));
        text_of(&log).contains("the configuration was reloaded")
    });
    pair.door.switch("green");
    told("portal: green is live (generation 2, was blue), by uid ");
    told("portal: blue is drained after ");
    pair.door.restart();
    told("the daemon went away, waiting for it");
    pair.door.switch("blue");
    told("portal: blue is live (generation 3, was green), by uid ");
    // Not INT, which whoever runs in the background of a script is born deaf to.
    following.signal(rustix::process::Signal::TERM);
    following.wait_end(DEADLINE);
}

#[test]
fn a_terminal_sees_the_drain_and_a_pipe_does_not() {
    let pair = Pair::start();
    let held = pair.hold("/hold");
    let terminal = std::thread::scope(|scope| {
        let switching = scope.spawn(|| pair.door.bgctl_on_terminal(&["switch", "green"]));
        wait_until("the switch", DEADLINE, || pair.door.live() == "green");
        // Longer than the time after which the first line is drawn.
        let asked = std::time::Instant::now();
        wait_until("a line", DEADLINE, || asked.elapsed().as_millis() > 600);
        pair.blue.go();
        switching.join().expect("bgctl")
    });
    drop(held);
    assert_eq!(terminal.code, Some(0), "{terminal:?}");
    assert!(terminal.stdout.contains("draining blue [....................] 1 request left, cut in "), "{terminal:?}");
    assert!(terminal.stdout.contains("\x1b[1m\x1b[32mgreen\x1b[0m\x1b[0m is live"), "{terminal:?}");
    let piped = pair.door.bgctl(&["rollback"]);
    assert!(!piped.stdout.contains('\x1b') && piped.stderr.is_empty(), "{piped:?}");
}

#[test]
fn a_configuration_is_checked_by_both_binaries_alike() {
    let _steady = steady_snapshots();
    let door = Door::builder().door();
    std::fs::write(
        door.dir().join("bad.toml"),
        "[service.portal]\nbackends.blue = \"/run/blue.sock\"\nfist = \"blue\"\n",
    )
    .unwrap();
    let bgproxy = |args: &[&str]| {
        let output = door.bgproxy(args);
        shown(args, &output).replacen("bgctl", "bgproxy", 1)
    };
    let config = door.config();
    let config = config.to_str().unwrap();
    let bgctl = |args: &[&str]| {
        let mut command = door.bgctl_command(args);
        shown(args, &Output::of(command.current_dir(door.dir()), door.dir()))
    };
    let told = [
        bgproxy(&["check", "-c", config]),
        bgctl(&["check", config]),
        bgctl(&["check", config, "--json"]),
        bgproxy(&["check", "-c", "bad.toml"]),
        bgctl(&["check", "bad.toml"]),
        bgproxy(&["check", "-c", "none.toml"]),
        bgctl(&["check", "none.toml"]),
    ];
    insta::assert_snapshot!(told.join("\n\n"), @r#"
    $ bgproxy check -c DIR/bgproxy.toml
    DIR/bgproxy.toml is fine: it serves `portal`
    exit 0

    $ bgctl check DIR/bgproxy.toml
    DIR/bgproxy.toml is fine: it serves `portal`
    exit 0

    $ bgctl check DIR/bgproxy.toml --json
    {"fault":null,"file":"DIR/bgproxy.toml","ok":true}
    exit 0

    $ bgproxy check -c bad.toml
    error: unknown key `fist`
     --> bad.toml:3:1
      |
    3 | fist = "blue"
      | ^^^^
      |
      = help: did you mean `first`?
    exit 1

    $ bgctl check bad.toml
    error: unknown key `fist`
     --> bad.toml:3:1
      |
    3 | fist = "blue"
      | ^^^^
      |
      = help: did you mean `first`?
    exit 1

    $ bgproxy check -c none.toml
    error: cannot read the configuration: No such file or directory (os error 2)
    --> none.toml
     = help: create it, or name another file: `bgproxy run -c FILE`, `bgctl check FILE`
    exit 1

    $ bgctl check none.toml
    error: cannot read the configuration: No such file or directory (os error 2)
    --> none.toml
     = help: create it, or name another file: `bgproxy run -c FILE`, `bgctl check FILE`
    exit 1
    "#);
}

#[test]
fn help_versions_schema_and_completions_come_from_the_binaries() {
    let _steady = steady_snapshots();
    let door = Door::builder().door();
    insta::assert_snapshot!(door.bgproxy(&["--help"]).ok().stdout, @"
    The blue/green front door: forwards HTTP to the live color's socket and switches color without
    losing a request

    Usage: bgproxy [OPTIONS] [COMMAND]

    Commands:
      run     Open the door (also without a verb)
      check   Check a configuration file and say what is wrong where
      demo    Try it: two embedded colored backends behind a door on 127.0.0.1
      schema  Print the JSON Schema of the configuration file, for editors
      help    Print this message or the help of the given subcommand(s)

    Options:
      -c, --config <FILE>        Configuration file [default: /etc/bgproxy/bgproxy.toml; where that does
                                 not exist, the built-in one]
          --assume-live <COLOR>  Take this color for live, whatever the state files say: for when they
                                 cannot be read any more
      -h, --help                 Print help
      -V, --version              Print version

    While it runs, `bgctl` talks to it: `bgctl status`, `bgctl switch green`, `bgctl --help`.
    SIGHUP reads the configuration again; SIGTERM and SIGINT finish what is in flight, a second one ends
    at once.
    ");
    insta::assert_snapshot!(door.bgctl(&["--help"]).ok().stdout, @"
    Tells bgproxy which color is live, and shows what it does

    Usage: bgctl [OPTIONS] <COMMAND>

    Commands:
      status         Show who is live, who is ready and what is in flight
      switch         Make COLOR live, then wait until the old color has drained
      rollback       Make the color live again that was live before
      prepare        Wait until COLOR is ready, then let testers reach it as the preview
      wait-idle      Wait until COLOR may be stopped: neither live nor preview, no request, no stream
      close-streams  End the streams that are open on COLOR, one by one
      is-live        Exit with 0 if COLOR is live and with 1 if not, in silence
      probe          Ask COLOR once whether it is ready: exit code 0 if it is, 1 if not
      events         Print what happens, one line per event, until Ctrl-C
      history        List past switches and their receipts, newest first
      reload         Read the configuration file again; a faulty one changes nothing
      check          Check a configuration file, here and without the daemon
      completions    Print the completion script of a shell
      help           Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Options of every verb:
      -s, --service <NAME>      The service meant; may be left out when there is only one
          --json                Print exactly what the daemon answered: JSON, for scripts
          --socket <PATH>       The daemon's control socket [env:
                                BGCTL_SOCKET=DIR/control.sock] [default:
                                /run/bgproxy/control.sock]
          --timeout <DURATION>  Give up after this long, such as 90s or 5m, with exit code 4 [default:
                                the daemon's own deadlines]

    Examples:
      bgctl status                  who is live, who is ready, what is in flight
      bgctl prepare green           wait until green is ready, then let testers reach it
      bgctl switch green            make green live, wait until blue has drained
      bgctl wait-idle blue          returns when blue's container may be stopped
      bgctl rollback                make the color live that was live before

    Exit codes:
      0  done
      1  refused or failed; the answer is no
      2  the command line is wrong
      3  the daemon cannot be reached, or went away before it answered
      4  the deadline passed (--timeout, --within)
    ");
    insta::assert_snapshot!(door.bgproxy(&["--version"]).ok().stdout, @"bgproxy VERSION");
    insta::assert_snapshot!(door.bgctl(&["--version"]).ok().stdout, @"bgctl VERSION");
    let schema: Value = serde_json::from_str(&door.bgproxy(&["schema"]).ok().stdout).unwrap();
    assert!(schema["properties"]["service"].is_object(), "{schema}");
    for shell in ["bash", "zsh", "fish"] {
        let script = door.bgctl(&["completions", shell]).ok().stdout;
        assert!(script.contains("wait-idle"), "{shell}");
        let file = door.dir().join(shell);
        std::fs::write(&file, script).unwrap();
        if shell == "bash" {
            Output::of(Command::new(need("bash")).arg("-n").arg(&file), door.dir()).ok();
        }
    }
    let wrong = door.bgctl(&["swich", "green"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("a similar subcommand exists: 'switch'"), "{wrong:?}");
}
