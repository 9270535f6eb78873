//! gRPC through the door: grpcio's client over TLS, grpcio's servers behind it, which speak HTTP/2 in clear.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::json;

use crate::harness::door::{Builder, NAME};
use crate::harness::others::{peer, run, serve};
use crate::harness::{Authority, DEADLINE, Door, Process, tell, temp_dir, text_of, wait_until};

const SERVER: &str = "grpc_server.py";

/// A door over TLS before two gRPC servers.
struct Both {
    // In the order they end: the door first.
    door: Door,
    authority: Authority,
    blue: std::path::PathBuf,
    _servers: [Process; 2],
    dir: tempfile::TempDir,
}

impl Both {
    fn start() -> Both {
        let (dir, authority) = (temp_dir(), Authority::new());
        let (one, blue) = serve(SERVER, dir.path(), "blue");
        let (two, green) = serve(SERVER, dir.path(), "green");
        let speaking_h2c = |door: Builder, color: &str, socket: &std::path::Path| {
            let backend = json!({ "socket": socket, "protocol": "h2c" });
            door.set(&format!("service.portal.backends.{color}"), backend)
        };
        let door = speaking_h2c(Door::builder().tls(&authority), "blue", &blue);
        let door = speaking_h2c(door, "green", &green).start();
        Both { door, authority, blue, _servers: [one, two], dir }
    }
}

#[test]
fn grpc_finds_the_same_through_the_door_as_without_it() {
    let both = Both::start();
    let checks = |args: &[&str]| run("grpc_checks.py", both.dir.path(), args);
    let direct = checks(&["unix", both.blue.to_str().unwrap()]);
    assert!(!direct.to_string().contains("failed: "), "without the door: {direct:#}");
    let ca = both.authority.write(both.dir.path());
    let through = checks(&["tls", &both.door.addr().to_string(), ca.to_str().unwrap(), NAME]);
    for (name, expected) in direct.as_object().unwrap() {
        assert_eq!((name, &through[name]), (name, expected));
    }
    tell(format_args!("{} checks of grpcio: the same over TLS and directly", direct.as_object().unwrap().len()));
    both.door.quiet();
}

/// What `grpc_calls.py` has seen; times are seconds of the clock on the wall.
#[derive(Debug, Deserialize)]
struct Seen {
    calls: Vec<Call>,
    messages: Vec<Message>,
    ended: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Call {
    color: Option<String>,
    sent: f64,
    done: f64,
    fault: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Message {
    color: String,
    sent: f64,
}

#[test]
fn new_calls_go_to_the_new_color_while_a_long_one_stays_with_the_old() {
    let both = Both::start();
    let (log, end) = (both.dir.path().join("calls.log"), both.dir.path().join("end"));
    let ca = both.authority.write(both.dir.path());
    let args = [&both.door.addr().to_string(), ca.to_str().unwrap(), NAME, end.to_str().unwrap()];
    let mut calls = Process::start("grpc_calls.py", &mut peer("grpc_calls.py", &args), &log);
    calls.wait_for("the first calls", || if text_of(&log).contains("open\n") { Ok(()) } else { Err("none") });

    let answered = |color: &str| both.door.metrics().sum("bgproxy_requests_total", &[("color", color)]);
    wait_until("calls answered by blue", DEADLINE, || answered("blue") >= 200.0);
    let asked = seconds();
    both.door.switch("green");
    let replied = seconds();
    wait_until("calls answered by green", DEADLINE, || answered("green") >= 200.0);
    std::fs::write(&end, "").unwrap();
    assert!(calls.wait_end(DEADLINE).success());

    let seen: Seen = serde_json::from_str(calls.log().lines().last().unwrap()).unwrap();
    let faults: Vec<_> = seen.calls.iter().filter(|call| call.fault.is_some()).take(5).collect();
    assert!(faults.is_empty(), "{faults:?}");
    let of = |wanted: &dyn Fn(&&Call) -> bool, color: &str| {
        let calls: Vec<_> = seen.calls.iter().filter(wanted).collect();
        assert!(calls.iter().all(|call| call.color.as_deref() == Some(color)), "not all of {color}");
        calls.len()
    };
    let (before, after) = (of(&|call| call.done < asked, "blue"), of(&|call| call.sent > replied, "green"));
    // Less than was counted: those that were on their way during the switch are of neither kind.
    assert!(before > 100 && after > 100, "{before} calls before the switch, {after} after it");
    assert!(seen.messages.iter().all(|message| message.color == "blue"));
    let late = seen.messages.iter().filter(|message| message.sent > replied).count();
    assert!(late > 10, "{late} messages of the long call after the switch");
    assert_eq!(seen.ended, json!({ "code": "OK", "color": "blue", "talk": "over" }), "its trailers");
    tell(format_args!(
        "gRPC over a switch: {} calls, 0 failed, {before} by blue before it, {after} by green after it; {} messages of \
         the long call by blue, {late} of them after the switch",
        seen.calls.len(),
        seen.messages.len(),
    ));
}

/// The clock on the wall, which other processes read too.
fn seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
