//! What do the control socket and the admin listener make of hostile bytes, and of those who do not go? The daemon must
//! stay answerable, and remember nothing of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::raw::{Target, request};
use crate::harness::{DEADLINE, Door, Fake, Raw, wait_until};
use crate::hostile::corpus::cases;

/// How much more memory it may have afterwards, in KiB; a page of metrics and the buffers of 256 connections are in it.
const MEMORY: u64 = 24 * 1024;

/// How long `status` may take meanwhile. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// A door, and its two listeners that are not for clients.
fn door() -> (Door, Fake, [Target; 2]) {
    let (door, blue) = Door::builder().before(Fake::echoes);
    let targets = [door.control().as_path().into(), door.admin().into()];
    (door, blue, targets)
}

/// Does harm to both listeners while somebody else looks at the status; how long the longest look took.
fn during(door: &Door, harm: impl Fn(&Target) + Sync, targets: &[Target; 2]) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert_eq!(door.status().services.len(), 1);
                longest = longest.max(asked.elapsed());
            }
            longest
        });
        let harming: Vec<_> = targets.iter().map(|target| scope.spawn(|| harm(target))).collect();
        let harmed: Vec<_> = harming.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        let longest = looking.join().expect("somebody who looks");
        harmed.into_iter().for_each(|harmed| harmed.expect("harm done"));
        longest
    })
}

/// Says something, nothing more, and waits until the other side has had enough of it.
fn say(target: &Target, bytes: &[u8]) {
    let mut raw = Raw::try_connect(target).expect("a connection");
    // Whoever has refused need not read to the end.
    if raw.try_send(bytes).is_ok() {
        raw.finish_sending();
    }
    raw.rest();
}

/// After all of it: nothing is held, nothing was done, nothing broke.
#[track_caller]
fn unharmed(door: &Door, before: u64) {
    let grown = door.resident().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB more");
    let metrics = door.metrics();
    assert_eq!(metrics.sum("bgproxy_panics_total", &[]), 0.0);
    assert_eq!((door.live().as_str(), door.portal().generation), ("blue", 1));
    assert_eq!(door.get("/").text(), "GET / HTTP/1.1");
    assert!(!door.log().contains("panic"), "{}", door.log());
}

#[test]
fn hostile_bytes_are_refused_and_cost_nothing() {
    let (door, _blue, targets) = door();
    let cases = cases();
    let words = ["GET /v1/status HTTP/1.1\r\nHost: a\r\n", "POST /v1/services/portal/switch HTTP/1.1\r\nHost: a\r\n"];
    let harm = |target: &Target| {
        for case in &cases {
            say(target, &case.bytes);
        }
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..300 {
            let noise: Vec<u8> = (0..random.usize(1..2000)).map(|_| random.u8(..)).collect();
            // Half of it comes as the rest of something good.
            let words = if round % 2 == 0 { "" } else { words[round % 4 / 2] };
            say(target, &[words.as_bytes(), &noise].concat());
        }
    };
    assert_eq!(door.get("/").status, 200);
    say(&targets[1], &request("GET", "/metrics", &[], b""));
    let before = door.resident();
    let longest = during(&door, harm, &targets);
    assert!(longest < PATIENCE, "{longest:?}");
    unharmed(&door, before);
}

#[test]
fn what_is_larger_than_any_command_is_not_read() {
    let (door, _blue, targets) = door();
    let line = format!("X: {}\r\n", "y".repeat(1000));
    let post = "POST /v1/services/portal/switch HTTP/1.1\r\nHost: a\r\n";
    let harm = |target: &Target| {
        for _ in 0..8 {
            // Sixteen MiB each.
            let head = ["GET /v1/status HTTP/1.1\r\nHost: a\r\n", &line.repeat(16_000), "\r\n"].concat();
            say(target, head.as_bytes());
            let target_line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(16 << 20));
            say(target, target_line.as_bytes());
            let body = " ".repeat(16 << 20);
            say(target, format!("{post}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
            say(target, format!("{post}Transfer-Encoding: chunked\r\n\r\n1000000\r\n{body}\r\n0\r\n\r\n").as_bytes());
            say(target, format!("{post}Content-Length: 18446744073709551615\r\n\r\n{{").as_bytes());
            // As deep as a reader of JSON may be made to go.
            say(target, format!("{post}Content-Length: 60000\r\n\r\n{}", "[".repeat(60_000)).as_bytes());
        }
    };
    say(&targets[1], &request("GET", "/metrics", &[], b""));
    let before = door.resident();
    let longest = during(&door, harm, &targets);
    assert!(longest < PATIENCE, "{longest:?}");
    unharmed(&door, before);
}

// A place was held for as long as its holder liked: 256 idle connections kept Prometheus out.
#[test]
fn whoever_asks_nothing_loses_his_place() {
    let (door, _blue, targets) = door();
    let before = door.resident();
    let half = "GET /v1/status HTTP/1.1\r\nHost: a\r\nX: ";
    let hold = |target: &Target| -> Vec<Raw> {
        let mut held: Vec<Raw> = (0..300).filter_map(|_| Raw::try_connect(target).ok()).collect();
        for (number, raw) in held.iter_mut().enumerate() {
            // Nothing, half a head, half a body; those past the bound are closed already.
            let _closed = match number % 3 {
                0 => Ok(()),
                1 => raw.try_send(half),
                _ => raw.try_send("POST /v1/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"),
            };
        }
        held
    };
    let mut held: Vec<Vec<Raw>> = targets.iter().map(hold).collect();
    // A byte now and then does not help.
    let pressed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !pressed.load(Ordering::Relaxed) {
                for raw in held.iter_mut().flatten().skip(1).step_by(3) {
                    let _closed = raw.try_send("y");
                }
                crate::harness::pace(Duration::from_millis(500));
            }
        });
        wait_until("places for others", DEADLINE * 3, || {
            targets.iter().all(|target| Raw::try_get(target, "/v1/status").is_ok_and(|answer| answer.status == 200))
        });
        pressed.store(true, Ordering::Relaxed);
    });
    drop(held);
    unharmed(&door, before);
}

// Each held its place for as long as it liked: 256 of them kept Prometheus out.
#[test]
fn whoever_takes_nothing_or_follows_events_leaves_places_to_others() {
    let (door, _blue, [_, admin]) = door();
    let mut followers: Vec<Raw> = (0..200).map(|_| Raw::connect(&admin)).collect();
    let mut refused = 0;
    for follower in &mut followers {
        follower.send(request("GET", "/v1/events", &[], b""));
        let (head, mut body) = follower.head();
        if head.status == 503 {
            let told = follower.piece(&mut body).expect("a body").expect("a problem");
            assert!(String::from_utf8_lossy(&told).contains("too_many_followers"));
            refused += 1;
        }
    }
    assert_eq!(refused, 72, "beyond 128");
    assert_eq!(Raw::get(&admin, "/metrics").status, 200);
    // On the control socket everybody has places of his own.
    let mut own = Raw::connect(door.control());
    assert_eq!(own.send(request("GET", "/v1/events", &[], b"")).head().0.status, 200);
    followers.truncate(100);
    let again = || {
        let mut follower = Raw::connect(&admin);
        follower.send(request("GET", "/v1/events", &[], b"")).head().0.status
    };
    wait_until("a place to follow", DEADLINE, || again() == 200);
    // More answers than any socket holds, on all places that are left.
    let asks = request("GET", "/", &[], b"").repeat(1000);
    let held: Vec<Raw> = (0..200)
        .filter_map(|_| {
            let mut raw = Raw::try_connect(&admin).ok()?;
            // One too many is closed by now.
            raw.try_send(&asks).ok().map(|()| raw)
        })
        .collect();
    wait_until("places for others", DEADLINE * 3, || {
        Raw::try_get(&admin, "/v1/status").is_ok_and(|answer| answer.status == 200)
    });
    drop(held);
}
