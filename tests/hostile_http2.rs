//! What do clients of HTTP/2 get that flood, stall or break the rules, and what does it cost everybody else? After each
//! of them the door must be at rest: no request in flight, no claim, no connection.

mod crumbs;
mod ends;
mod floods;
mod frames;
pub(crate) mod requests;
mod stalls;

use std::path::PathBuf;

use crate::harness::door::Builder;
use crate::harness::fake::{Choice, ok};
use crate::harness::{Act, DEADLINE, Door, Fake, wait_until};

/// The body of `/big`.
const BIG: usize = 4 * 1024 * 1024;

/// A door with one worker: what hurts one of its clients hurts all.
fn one_worker() -> Builder {
    Door::builder().set("workers", 1)
}

/// A backend that does what the target says.
fn site(at: PathBuf) -> Fake {
    let choose = Choice::new(|target| match target {
        "/never" => vec![Act::Stay],
        "/big" => vec![Act::Say(ok(&"x".repeat(BIG)))],
        "/endless" => vec![Act::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n".to_vec()), Act::Flood],
        "/204" => vec![Act::Say(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())],
        "/304" => vec![Act::Say(b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_vec())],
        target if target.starts_with("/hold") => vec![Act::AwaitGo, Act::Echo],
        _ => vec![Act::Echo],
    });
    Fake::scripted(at, move |_| vec![Act::ReadRequest, Act::Choose(choose.clone()), Act::Repeat])
}

/// Waits until this many requests have failed for this reason: what a client reads is counted when it has left.
#[track_caller]
fn wait_failed(door: &Door, reason: &str, count: f64) {
    wait_until(&format!("{count} times {reason}"), DEADLINE, || {
        door.metrics().sum("bgproxy_request_failures_total", &[("reason", reason)]) == count
    });
}

/// How often a connection failed for this reason.
#[track_caller]
fn turned_away(door: &Door, reason: &str) -> f64 {
    door.metrics().sum("bgproxy_connection_failures_total", &[("reason", reason)])
}
