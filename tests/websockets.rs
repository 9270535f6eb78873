//! Websockets through the door: by clients and servers that nobody here wrote, a thousand over a switch, over HTTP/2.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use serde::Deserialize;
use serde_json::json;

use crate::harness::door::{Builder, NAME};
use crate::harness::http2::{Http2, piece, room, runtime};
use crate::harness::others::{peer, run, serve};
use crate::harness::raw::Target;
use crate::harness::{Act, Authority, DEADLINE, Door, Fake, Process, Trust, tell, temp_dir, wait_until};

const SERVER: &str = "websocket_server.py";

/// A door before two websocket servers, over TLS and in clear.
struct Both {
    // In the order they end: the door first.
    door: Door,
    authority: Authority,
    blue: std::path::PathBuf,
    _servers: [Process; 2],
    dir: tempfile::TempDir,
}

impl Both {
    fn start_with(change: impl FnOnce(Builder) -> Builder) -> Both {
        let (dir, authority) = (temp_dir(), Authority::new());
        let (one, blue) = serve(SERVER, dir.path(), "blue");
        let (two, green) = serve(SERVER, dir.path(), "green");
        let door = Door::builder().tls(&authority).color("blue", &blue).color("green", &green);
        Both { door: change(door).start(), authority, blue, _servers: [one, two], dir }
    }
}

#[test]
fn a_websocket_library_finds_the_same_through_the_door_as_without_it() {
    let both = Both::start_with(|door| door);
    let checks = |args: &[&str]| run("websocket_checks.py", both.dir.path(), args);
    let direct = checks(&["unix", both.blue.to_str().unwrap()]);
    let failed = |results: &serde_json::Value| results.to_string().contains("failed: ");
    assert!(!failed(&direct), "without the door: {direct:#}");

    let clear = checks(&["tcp", &both.door.listener(1).to_string()]);
    let ca = both.authority.write(both.dir.path());
    let tls = checks(&["tls", &both.door.addr().to_string(), ca.to_str().unwrap(), NAME]);
    for (name, expected) in direct.as_object().unwrap() {
        assert_eq!((name, &clear[name]), (name, expected), "in clear");
        assert_eq!((name, &tls[name]), (name, expected), "over TLS");
    }
    tell(format_args!(
        "{} checks of a websocket library: the same in clear, over TLS and directly",
        clear.as_object().unwrap().len()
    ));
    both.door.quiet();
}

// === a thousand of them over a switch ===

const MANY: usize = 1000;
const KEEP: f64 = 2.0;
const SPREAD: f64 = 10.0;

/// What became of one websocket of the storm; times are seconds of the clock on the wall.
#[derive(Debug, Deserialize)]
struct Life {
    before: String,
    ended: f64,
    code: u16,
    /// A close frame came, and one was sent.
    clean: bool,
    back: f64,
    after: String,
}

#[test]
fn a_thousand_websockets_come_back_on_the_new_color_without_a_storm() {
    let both = Both::start_with(|door| {
        door.set("service.portal.streams.keep", "2s")
            .set("service.portal.streams.spread", "10s")
            .set("service.portal.streams.per_second", 200)
    });
    let log = both.dir.path().join("storm.log");
    let mut command = peer("websocket_storm.py", &[&both.door.listener(1).to_string(), &MANY.to_string()]);
    let mut storm = Process::start("storm", &mut command, &log);
    storm.wait_for("all websockets", || if storm_says(&log, "open") { Ok(()) } else { Err("not yet") });
    let open = || both.door.metrics().sum("bgproxy_streams_open", &[("color", "blue")]);
    wait_until("all of them with the door", DEADLINE, || open() == MANY as f64);

    let asked = seconds();
    let receipt = both.door.switch_and_drain("green");
    assert_eq!((receipt.in_flight, receipt.streams_left), (0, MANY as u64));
    assert!(storm.wait_end(DEADLINE * 2).success());
    assert_eq!(open(), 0.0);

    let text = storm.log();
    let lives: Vec<serde_json::Value> = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let faults: Vec<_> = lives.iter().filter(|life| life.get("fault").is_some()).take(5).collect();
    assert!(faults.is_empty(), "{faults:?}");
    let lives: Vec<Life> = lives.into_iter().map(|life| serde_json::from_value(life).unwrap()).collect();
    assert_eq!(lives.len(), MANY);
    let odd = lives.iter().find(|life| (life.code, life.clean) != (1001, true));
    assert!(odd.is_none(), "{odd:?}");
    let strayed = lives.iter().find(|life| (life.before.as_str(), life.after.as_str()) != ("blue", "green"));
    assert!(strayed.is_none(), "{strayed:?}");
    judge(&lives, asked);
}

/// Closed evenly over the spread, not before; back at once.
fn judge(lives: &[Life], asked: f64) {
    let ends: Vec<f64> = lives.iter().map(|life| life.ended - asked).collect();
    let first = ends.iter().copied().fold(f64::MAX, f64::min);
    let last = ends.iter().copied().fold(0.0, f64::max);
    let buckets = |times: &mut dyn Iterator<Item = f64>| {
        let mut buckets = [0; 20];
        times.for_each(|time| buckets[(time as usize).min(19)] += 1);
        buckets
    };
    let closed = buckets(&mut ends.iter().copied());
    let back = buckets(&mut lives.iter().map(|life| life.back - asked));
    let slowest = lives.iter().map(|life| life.back - life.ended).fold(0.0, f64::max);
    tell(format_args!(
        "{MANY} websockets over a switch (keep {KEEP} s, spread {SPREAD} s): all closed with 1001, all back on the new \
         color; the first closed after {first:.2} s, the last after {last:.2} s; the slowest was back in {slowest:.2} s"
    ));
    for (second, (closed, back)) in
        closed.iter().zip(back).enumerate().filter(|(_, (closed, back))| **closed + back > 0)
    {
        tell(format_args!("{second:3} s  closed {closed:4}  back {back:4}  {}", "#".repeat(closed / 4)));
    }
    assert!(first >= KEEP, "the first was closed after {first:.2} s");
    assert!((KEEP + SPREAD * 0.8..KEEP + SPREAD + 3.0).contains(&last), "the last was closed after {last:.2} s");
    let mean = MANY as f64 / SPREAD;
    let most = closed.iter().copied().max().unwrap_or_default();
    assert!(most as f64 <= 2.0 * mean, "{most} closed within one second; {mean} would be even");
    assert!(slowest < 5.0, "back after {slowest:.2} s");
}

fn storm_says(log: &std::path::Path, line: &str) -> bool {
    crate::harness::text_of(log).lines().any(|said| said == line)
}

/// The clock on the wall, which other processes read too.
fn seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

// === over HTTP/2 (RFC 8441) ===

#[test]
fn a_websocket_over_http2_lives_beside_requests_and_moves_to_the_new_color() {
    let both = Both::start_with(|door| {
        door.set("service.portal.streams.keep", "300ms").set("service.portal.streams.spread", "200ms")
    });
    for (number, trust) in [Some(Trust::of(&both.authority, NAME)), None].into_iter().enumerate() {
        let (from, to) = if number == 0 { ("blue", "green") } else { ("green", "blue") };
        runtime().block_on(async {
            let target = Target::Tcp(both.door.listener(number));
            let open = Http2::connect(&target, trust.as_ref()).await.unwrap();
            let color = async || open.get(&format!("https://{NAME}/")).await.unwrap().color().unwrap().to_owned();
            let mut websocket = Websocket::open(&open, "/hold").await;
            assert_eq!(websocket.text().await, from);
            websocket.say("hi").await;
            assert_eq!(websocket.text().await, format!("{from} hi"));
            assert_eq!(color().await, from);

            both.door.switch(to);
            assert_eq!(color().await, to);
            websocket.say("still").await;
            assert_eq!(websocket.text().await, format!("{from} still"), "before its time is over");
            let (opcode, payload) = websocket.frame().await.expect("a close frame");
            assert_eq!((opcode, payload.get(..2)), (CLOSE, Some(&1001u16.to_be_bytes()[..])));
            websocket.send(CLOSE, &1001u16.to_be_bytes()).await;
            assert!(websocket.frame().await.is_none(), "the stream ends after it");

            let mut again = Websocket::open(&open, "/hold").await;
            assert_eq!(again.text().await, to);
        });
    }
    both.door.quiet();
}

#[test]
fn a_tunnel_that_its_client_gives_up_ends_although_the_backend_takes_nothing() {
    let opens = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_vec();
    let script = move |_| vec![Act::ReadHead, Act::Say(opens.clone()), Act::AwaitGo];
    let upgrades = json!(["x"]);
    let (door, blue) = Door::builder().set("service.portal.upgrades", upgrades).before(|at| Fake::scripted(at, script));
    runtime().block_on(async {
        let open = Http2::connect(&Target::Tcp(door.addr()), None).await.unwrap();
        let (status, mut out, _body) = open.tunnel("x", &format!("http://{NAME}/")).await.unwrap();
        assert_eq!(status, 200);
        // More than the backend's socket holds, so that the door waits for it.
        let sent = async {
            loop {
                let room = room(&mut out, 64 * 1024).await.expect("an open stream");
                out.send_data(vec![0; room].into(), false).expect("an open stream");
            }
        };
        let blocked = tokio::time::timeout(Duration::from_secs(1), sent).await;
        assert!(blocked.is_err(), "the backend takes nothing");
        out.send_reset(h2::Reason::CANCEL);
        let open_tunnels = || door.metrics().sum("bgproxy_streams_open", &[("color", "blue")]);
        // Sooner than the backend gives up.
        let end = tokio::time::Instant::now() + DEADLINE / 4;
        while open_tunnels() > 0.0 {
            assert!(tokio::time::Instant::now() < end, "the tunnel is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    blue.go();
    door.quiet();
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// A websocket in a stream of HTTP/2; small unfragmented frames are all it knows.
struct Websocket {
    out: SendStream<Bytes>,
    body: RecvStream,
    buffer: Vec<u8>,
}

impl Websocket {
    async fn open(on: &Http2, path: &str) -> Websocket {
        let (status, out, body) = on.websocket(&format!("https://{NAME}{path}")).await.unwrap();
        assert_eq!(status, 200);
        Websocket { out, body, buffer: Vec::new() }
    }

    async fn say(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes()).await;
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        // Masked with zeros: the rule is that there is a mask.
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).expect("a small one"), 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        self.out.send_data(frame.into(), false).expect("an open stream");
    }

    async fn text(&mut self) -> String {
        let (opcode, payload) = self.frame().await.expect("a frame");
        assert_eq!(opcode, TEXT);
        String::from_utf8(payload).expect("UTF-8")
    }

    /// The next frame; none at the stream's end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, length, ..] = self.buffer[..] {
                assert!(length < 126 && first & 0x80 != 0, "a small, whole and unmasked frame: {:?}", self.buffer);
                let end = 2 + usize::from(length);
                if self.buffer.len() >= end {
                    let frame: Vec<u8> = self.buffer.drain(..end).collect();
                    return Some((first & 0x0f, frame[2..].to_vec()));
                }
            }
            let more = tokio::time::timeout(DEADLINE, piece(&mut self.body)).await.expect("a frame in time");
            self.buffer.extend_from_slice(&more?.expect("no reset"));
        }
    }
}
