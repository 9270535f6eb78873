//! What becomes of a body whose request is answered before it has come? Nobody reads it as a request, however many
//! connections there are and however it is framed; the client gets its answer, and is told when it is the last.

use serde_json::{Value, json};

use crate::harness::door::{Builder, Metrics, NAME};
use crate::harness::fake::ok;
use crate::harness::raw::{Response, Rest, request};
use crate::harness::{Act, Authority, Door, Fake, Raw, Trust};

/// With more connections than a worker keeps warm, each is parked as soon as it may be.
const CROWDS: [usize; 2] = [3, 40];

/// What a client sends once it has its answer: still a part of the body, whatever it looks like.
const HIDDEN: &[u8] = b"GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n";

/// The largest body that is let in.
const LARGEST: usize = 4096;

/// One way in which a request is answered before its body has come.
struct Way {
    name: &'static str,
    host: &'static str,
    /// What the head has besides, how its body is framed included.
    headers: Vec<(&'static str, &'static str)>,
    /// What comes of the body before the answer.
    begins: Vec<u8>,
    status: u16,
    /// Whether the door answers by itself, and knows that it is early.
    ours: bool,
}

const SIZED: (&str, &str) = ("Content-Length", "1000");
const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");
const ASKS: (&str, &str) = ("Expect", "100-continue");

fn ways() -> Vec<Way> {
    let way = |name, host, headers: &[_], begins: &[u8], status| Way {
        name,
        host,
        headers: headers.to_vec(),
        begins: begins.to_vec(),
        status,
        ours: host != "early.test",
    };
    let mut ways = Vec::new();
    for (framed, begins) in [(SIZED, &b"begins"[..]), (CHUNKED, b"5\r\nhello\r\n5")] {
        for (name, host, status) in [
            ("no route", "nowhere.test", 404),
            ("denied", "denied.test", 403),
            ("sent elsewhere", "www.moved.test", 308),
            ("no socket", "gone.test", 502),
            ("a backend that closes", "closes.test", 502),
            ("a backend that answers early", "early.test", 200),
            ("too slow", "test", 408),
        ] {
            ways.push(way(name, host, &[framed], begins, status));
        }
        // What was not asked for may come all the same.
        ways.push(way("asked first", "nowhere.test", &[framed, ASKS], b"", 404));
        ways.push(way("asked a backend that answers early", "early.test", &[framed, ASKS], b"", 200));
        ways.push(way("expects miracles", "test", &[framed, ("Expect", "miracles")], begins, 417));
        ways.push(way("two hosts", "test", &[framed, ("Host", "other")], begins, 400));
        let upgrade = [framed, ("Connection", "upgrade"), ("Upgrade", "websocket")];
        ways.push(way("an upgrade with a body", "test", &upgrade, begins, 408));
    }
    ways.push(way("too large", "test", &[("Content-Length", "5000")], b"begins", 413));
    let too_large = [&b"2000\r\n"[..], &[b'x'; LARGEST + 1]].concat();
    ways.push(way("too large, in chunks", "test", &[CHUNKED], &too_large, 413));
    ways.push(way("a chunk without a size", "test", &[CHUNKED], b"5\r\nhello\r\nx\r\n", 400));
    ways.push(way("a chunk without its end", "test", &[CHUNKED], b"5\r\nhello!!", 400));
    ways.push(way("coded", "test", &[("Transfer-Encoding", "gzip, chunked")], b"begins", 501));
    ways
}

impl Way {
    /// The head, and what comes of the body before the answer.
    fn request(&self) -> Vec<u8> {
        let headers = [&[("Host", self.host)], &self.headers[..]].concat();
        [request("POST", "/", &headers, b""), self.begins.clone()].concat()
    }

    /// What is wrong with how so many clients were answered, and with what they heard then.
    fn faults(&self, answers: &[Response], rests: &[Rest]) -> Vec<String> {
        let told = |what: &str, count: usize| (count > 0).then(|| format!("{count} times {what}"));
        let other = answers.iter().find(|answer| answer.status != self.status);
        [
            other.map(|answer| format!("answered {} {}", answer.status, answer.text())),
            told("not said to be the last", answers.iter().filter(|it| self.ours && it.keeps_alive()).count()),
            told("answered more", rests.iter().filter(|rest| !rest.bytes.is_empty()).count()),
            told("reset", rests.iter().filter(|rest| rest.reset).count()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn service(hosts: &[&str], blue: &str) -> Value {
    json!({ "hosts": hosts, "backends": { "blue": blue }, "ready": { "watch": "0s" } })
}

fn with(mut service: Value, key: &str, value: Value) -> Value {
    service[key] = value;
    service
}

fn builder() -> (Builder, Vec<Fake>) {
    let builder = Door::builder();
    let at = |name: &str| builder.dir().join(name);
    let early = Fake::scripted(at("early.sock"), |_| vec![Act::ReadHead, Act::Say(ok("early")), Act::Stay]);
    let fakes = vec![Fake::echoes(at("blue.sock")), early, Fake::closes_without_reading(at("closes.sock"))];
    let gone = at("gone.sock").to_str().unwrap().to_owned();
    let builder = builder
        .set("workers", 1)
        .set("limits.body_size", format!("{LARGEST}B"))
        .set("service.portal.hosts", json!(["test", NAME]))
        .set("service.portal.timeouts.idle", "400ms")
        .set("service.early", service(&["early.test"], &fakes[1].address()))
        .set("service.closes", service(&["closes.test"], &fakes[2].address()))
        .set("service.gone", service(&["gone.test"], &gone))
        .set("service.denied", with(service(&["denied.test"], &gone), "deny", json!(["127.0.0.0/8"])))
        .set(
            "service.moved",
            with(service(&["moved.test", "*.moved.test"], &gone), "canonical_host", json!("moved.test")),
        );
    (builder, fakes)
}

fn requests(metrics: &Metrics) -> f64 {
    metrics.sum("bgproxy_requests_total", &[])
}

#[test]
fn what_is_left_of_a_body_is_never_a_request() {
    let authority = Authority::new();
    let (builder, _fakes) = builder();
    let door = builder.tls(&authority).start();
    let trust = Trust::of(&authority, NAME);
    let (mut sent, mut wrong) = (0, Vec::new());
    for secure in [false, true] {
        let connect = || match secure {
            true => Raw::connect_tls(door.addr(), &trust),
            false => Raw::connect(door.listener(1)),
        };
        for (way, count) in ways().iter().flat_map(|way| CROWDS.map(|count| (way, count))) {
            let mut clients: Vec<Raw> = (0..count).map(|_| connect()).collect();
            for client in &mut clients {
                client.send(way.request());
            }
            let answers: Vec<Response> = clients.iter_mut().map(Raw::response).collect();
            for client in &mut clients {
                // It may be that nobody is there any more.
                let _gone = client.try_send(HIDDEN);
            }
            let rests: Vec<Rest> = clients.iter_mut().map(Raw::rest).collect();
            sent += count;
            let faults = way.faults(&answers, &rests);
            let about = format!("{} {:?}, {count} clients, secure: {secure}", way.name, way.headers);
            wrong.extend(faults.into_iter().map(|fault| format!("{about}: {fault}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(requests(&door.quiet()), sent as f64);
}

#[test]
fn a_body_that_has_come_already_is_read_and_the_connection_goes_on() {
    let (builder, _fakes) = builder();
    let door = builder.start();
    let mut sent = 0;
    for count in CROWDS {
        for (host, status) in [("nowhere.test", 404), ("denied.test", 403), ("www.moved.test", 308), ("gone.test", 502)]
        {
            let mut clients: Vec<Raw> = (0..count).map(|_| door.connect()).collect();
            // With a body that looks like a request, and a request behind it.
            let both = [request("POST", "/", &[("Host", host)], HIDDEN), request("GET", "/next", &[], b"")].concat();
            for client in &mut clients {
                let answer = client.send(&both).response();
                assert_eq!((answer.status, answer.keeps_alive()), (status, true), "{host}");
                assert_eq!(client.response().text(), "GET /next HTTP/1.1", "{host}");
            }
            sent += 2 * count;
        }
    }
    assert_eq!(requests(&door.quiet()), sent as f64);
}
