//! What do hostile and odd requests get, and what does a backend see of them? Each case of the corpus is sent through
//! a door; what came of it is one line of a table that people review. Whatever the line says, this always holds: what
//! the backend was sent can be cut into requests in one way only, and those are the requests that the client was
//! answered, in their order.

pub(crate) mod corpus;
mod http2;

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use corpus::{Case, cases};

use serde_json::json;

use crate::harness::door::NAME;
use crate::harness::raw::{Failure, Response, Target, request};
use crate::harness::strict::{Request, cut};
use crate::harness::{Authority, DEADLINE, Door, Fake, Raw, Trust, tell, wait_until};

/// Behind every case: answered only by a door that still trusts the connection.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n";

/// How many doors work through the corpus side by side.
const DOORS: usize = 4;

/// How a case's bytes are sent.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    AtOnce,
    ByteByByte,
}

/// What a case is spoken over.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Clear,
    Tls,
    /// In the words of HTTP/2.
    Http2,
}

/// What came of one case.
#[derive(Debug, PartialEq)]
struct Outcome {
    name: String,
    /// Statuses in their order, with the reason of the door's own ones, and whether the connection went on.
    client: String,
    /// The requests in their order, each as much as frames it.
    backend: String,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// No backend ever saw the whole of it.
    Refused,
    /// What a backend saw says the same in other, plainer bytes.
    Normalized,
    /// Request line, headers, framing and body are as the client sent them.
    Forwarded,
}

#[test]
fn hostile_requests_are_refused_or_reach_the_backend_in_one_form_only() {
    insta::assert_snapshot!(table(at_once()));
}

#[test]
fn what_http2_can_say_of_them_is_refused_or_reaches_the_backend_in_one_form_only() {
    insta::assert_snapshot!(table(in_http2()));
}

#[test]
fn hostile_requests_over_tls_fare_as_those_in_clear() {
    let differing: Vec<_> = over_tls().iter().filter(|of| !at_once().contains(of)).collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

/// That nothing is ambiguous is checked of each ([`check`]); here is how many there are.
#[test]
fn no_hostile_request_is_ambiguous_in_any_protocol() {
    let rows = [("HTTP/1.1 in clear", at_once()), ("HTTP/1.1 over TLS", over_tls()), ("HTTP/2", in_http2())];
    let told: Vec<String> = rows.iter().map(|(name, outcomes)| format!("{name}: {}", counted(outcomes))).collect();
    tell(told.join("\n"));
    insta::assert_snapshot!(told.join("\n"));
}

fn table(outcomes: &[Outcome]) -> String {
    let mut table = format!("{}\n\n", counted(outcomes));
    for Outcome { name, client, backend, fate } in outcomes {
        writeln!(table, "{name}\n    {fate:?}: {client}").unwrap();
        if !backend.is_empty() {
            writeln!(table, "    {backend}").unwrap();
        }
    }
    table
}

fn counted(outcomes: &[Outcome]) -> String {
    let count = |fate| outcomes.iter().filter(|outcome| outcome.fate == fate).count();
    format!(
        "{} cases: {} refused, {} normalized, {} forwarded as they are",
        outcomes.len(),
        count(Fate::Refused),
        count(Fate::Normalized),
        count(Fate::Forwarded),
    )
}

#[test]
fn hostile_requests_that_come_byte_by_byte_fare_the_same() {
    // The large ones would take their time and tell nothing new.
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.bytes.len() < 500).collect();
    let bytewise = run(&cases, Over::Clear, Pace::ByteByByte);
    let same = |of: &Outcome| at_once().contains(of);
    let differing: Vec<_> = bytewise.iter().filter(|of| !same(of)).collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

#[test]
fn a_connection_without_a_request_costs_nothing_and_is_told_nothing() {
    let (door, blue) = Door::builder().before(Fake::echoes);
    for bytes in ["", "\r\n", "\r\n\r\n", "G", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = door.connect();
        let rest = client.send(bytes).finish_sending().rest();
        assert!(rest.bytes.is_empty() && !rest.reset, "{bytes:?}: {rest:?}");
    }
    door.quiet();
    assert!(blue.heard().is_empty());
}

/// What came of all cases that were sent in one piece; several tests want to know.
fn at_once() -> &'static [Outcome] {
    static OUTCOMES: OnceLock<Vec<Outcome>> = OnceLock::new();
    OUTCOMES.get_or_init(|| run(&cases(), Over::Clear, Pace::AtOnce))
}

fn over_tls() -> &'static [Outcome] {
    static OUTCOMES: OnceLock<Vec<Outcome>> = OnceLock::new();
    OUTCOMES.get_or_init(|| run(&cases(), Over::Tls, Pace::AtOnce))
}

/// As many of them as HTTP/2 can say, and what only HTTP/2 can say.
fn in_http2() -> &'static [Outcome] {
    static OUTCOMES: OnceLock<Vec<Outcome>> = OnceLock::new();
    OUTCOMES.get_or_init(|| {
        let mut bench = Bench::start(Over::Http2);
        let outcomes = http2::cases(&cases()).iter().map(|case| http2::send(&mut bench, case)).collect();
        bench.finish();
        outcomes
    })
}

#[test]
fn a_body_that_comes_byte_by_byte_costs_about_its_size() {
    let (door, blue) = Door::builder().before(Fake::never_answers);
    let mut client = door.connect();
    client.send(request("POST", "/slow", &[("Content-Length", "60000")], b""));
    blue.wait_target("/slow");
    let before = door.resident();
    client.send_slowly([b'a'; 4000], 1, Duration::from_micros(500));
    let grown = door.resident().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB for 4000 bytes");
}

#[test]
fn connections_that_ask_nothing_of_the_daemon_leave_its_descriptors_to_clients() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    let control = door.control();
    let targets: [(&str, Target); 2] = [("control", control.as_path().into()), ("admin", door.admin().into())];
    for (name, target) in &targets {
        let before = descriptors(&door);
        let idle: Vec<Raw> = (0..400).map(|_| Raw::connect(target)).collect();
        let mut last = Raw::connect(target);
        assert!(last.rest().bytes.is_empty(), "{name}: one too many was answered");
        let held = descriptors(&door) - before;
        assert!((200..300).contains(&held), "{name}: {held} are held");
        assert_eq!(door.get("/").status, 200, "{name}");
        drop(idle);
        wait_until("room again", DEADLINE, || Raw::try_get(target, "/metrics").is_ok());
    }
}

// Where clients had taken all descriptors nobody could connect to the control socket, and nothing could be switched.
#[test]
fn clients_that_take_all_descriptors_leave_enough_for_a_switch() {
    let (door, _blue) = Door::builder().under(&["prlimit", "--nofile=128"]).before(Fake::echoes);
    let green = Fake::echoes(door.dir().join("green.sock"));
    let busy: Vec<Raw> = (0..200)
        .map(|_| {
            let mut raw = door.connect();
            raw.send(request("POST", "/", &[("Content-Length", "2")], b"1"));
            raw
        })
        .collect();
    wait_until("no descriptor for clients", DEADLINE, || descriptors(&door) >= 96);
    for color in ["green", "blue"] {
        door.post("/v1/services/portal/switch", json!({ "to": color })).json();
        assert_eq!(door.live(), color);
    }
    assert_eq!(door.post("/v1/reload", json!({})).json()["ok"], true);
    assert_eq!(Raw::get(door.admin(), "/metrics").status, 200);
    assert!(descriptors(&door) < 112, "{} are open", descriptors(&door));
    drop((busy, green));
    // While the last of them were taken in there was none for a backend.
    wait_until("an answer", DEADLINE, || door.get("/").status == 200);
}

// Who came while idle connections had all descriptors waited for one of them to end.
#[test]
fn where_descriptors_run_out_idle_clients_leave_for_others() {
    let (door, _blue) = Door::builder().under(&["prlimit", "--nofile=128"]).before(Fake::echoes);
    assert!(!door.status().limits.out_of_descriptors);
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut raw = door.connect();
        assert_eq!(raw.send(request("GET", "/", &[], b"")).response().status, 200);
        idle.push(raw);
    }
    assert_eq!(door.get("/").status, 200);
    assert!(door.status().limits.out_of_descriptors);
    let told = door.bgctl(&["status"]).ok().stdout;
    assert!(told.contains("limits: in the last minute no descriptor was left for some connections"), "{told}");
}

/// Files and connections that the door has open.
fn descriptors(door: &Door) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", door.pid())).expect("the door's descriptors").count()
}

/// Sends every case, side by side in as many doors as [`DOORS`], and checks what must hold of each.
fn run(cases: &[Case], over: Over, pace: Pace) -> Vec<Outcome> {
    let share = cases.len().div_ceil(DOORS);
    std::thread::scope(|scope| {
        let bench = |cases| scope.spawn(move || Bench::start(over).run(cases, pace));
        let threads: Vec<_> = cases.chunks(share).map(bench).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("outcomes")).collect()
    })
}

/// A door before a backend that answers each request with its request line.
struct Bench {
    door: Door,
    blue: Fake,
    /// How clients come by TLS.
    trust: Option<Trust>,
    /// How many bytes of each backend connection earlier cases account for.
    known: Vec<usize>,
}

impl Bench {
    fn start(over: Over) -> Bench {
        // One worker, so that all share one backend connection where they can; and who waits for more than a client
        // sends soon says so.
        let door = Door::builder().set("workers", 1).set("limits.header_time", "300ms");
        let door = door.set("service.portal.timeouts.idle", "300ms");
        let (door, trust) = match over {
            // HTTP/1.1 alone: what may be said in HTTP/2 is another matter.
            Over::Clear => (door.set("listen", json!([{ "address": "127.0.0.1:0", "h2c": false }])), None),
            Over::Tls => {
                let authority = Authority::new();
                (door.tls(&authority), Some(Trust::of(&authority, NAME)))
            }
            Over::Http2 => (door, None),
        };
        let (door, blue) = door.before(Fake::echoes);
        Bench { door, blue, trust, known: Vec::new() }
    }

    fn connect(&self) -> Raw {
        match &self.trust {
            Some(trust) => Raw::connect_tls(self.door.addr(), trust),
            None => self.door.connect(),
        }
    }

    fn run(mut self, cases: &[Case], pace: Pace) -> Vec<Outcome> {
        let outcomes = cases.iter().map(|case| self.send(case, pace)).collect();
        self.finish();
        outcomes
    }

    fn finish(self) {
        for heard in self.blue.heard() {
            cut(&heard.bytes).unwrap_or_else(|why| panic!("a backend connection, all cases together: {why}"));
        }
    }

    fn send(&mut self, case: &Case, pace: Pace) -> Outcome {
        let (answers, end) = ask(self.connect(), case, pace);
        let seen = self.seen(&case.name);
        check(&case.name, &answers, &seen);
        let mut client: Vec<String> = answers.iter().map(shown_answer).collect();
        let kept = answers.last().is_some_and(is_last);
        if kept {
            client.pop();
        }
        client.push(if kept { "kept".to_owned() } else { end });
        let seen: Vec<Request> = seen.into_iter().filter(|request| !is_to_last(request)).collect();
        let backend: Vec<String> = seen.iter().map(shown).collect();
        let first = seen.first();
        let fate = match first {
            None => Fate::Refused,
            Some(first) if is_as_sent(first, &case.bytes) => Fate::Forwarded,
            Some(_) => Fate::Normalized,
        };
        Outcome { name: case.name.clone(), client: client.join(", "), backend: backend.join(" + "), fate }
    }

    /// The whole requests that the backend was sent since the last look.
    fn seen(&mut self, name: &str) -> Vec<Request> {
        self.door.quiet();
        // When this is answered, whatever went before it over the same connection has been heard; all others end.
        let fence = self.connect().send(request("GET", "/fence", &[("Connection", "close")], b"")).response();
        assert_eq!(fence.text(), "GET /fence HTTP/1.1", "{name}");
        let heard = crate::harness::wait_for("abandoned backend connections to end", crate::harness::DEADLINE, || {
            let heard = self.blue.heard();
            let open = heard.iter().filter(|heard| !heard.ended).count();
            if open <= 1 { Ok(heard) } else { Err(format!("{open} are open")) }
        });
        self.known.resize(heard.len(), 0);
        let new = heard.iter().zip(&mut self.known).flat_map(|(heard, known)| {
            let from = std::mem::replace(known, heard.bytes.len());
            let cut = cut(&heard.bytes[from..]).unwrap_or_else(|why| panic!("{name}: the backend was sent a {why}"));
            assert!(!cut.partial || heard.ended, "{name}: a connection is kept in the middle of a request");
            cut.requests
        });
        let mut new: Vec<Request> = new.filter(|request| !request.line.contains("/fence")).collect();
        // An upgrade is asked for over a connection of its own, which may be a later one.
        new.sort_by_key(|request| request.line.contains("/last"));
        new
    }
}

/// Sends a case and what follows it; the answers, and how the connection ended.
fn ask(mut raw: Raw, case: &Case, pace: Pace) -> (Vec<Response>, String) {
    let bytes = [&case.bytes, LAST].concat();
    // A door that has refused need not read to the end.
    let _ = match pace {
        Pace::AtOnce => raw.try_send(&bytes),
        Pace::ByteByByte => bytes.iter().try_for_each(|byte| raw.try_send([*byte])),
    };
    let mut answers: Vec<Response> = Vec::new();
    loop {
        let is_head = answers.is_empty() && case.bytes.starts_with(b"HEAD ");
        match if is_head { raw.try_response_to_head() } else { raw.try_response() } {
            Ok(answer) => answers.push(answer),
            Err(Failure::Closed(rest)) if rest.is_empty() => return (answers, "closed".into()),
            Err(Failure::Reset(rest)) if rest.is_empty() => return (answers, "reset".into()),
            Err(why) => panic!("{}: after {} answers: {why}", case.name, answers.len()),
        }
        if answers.last().is_some_and(is_last) {
            return (answers, String::new());
        }
    }
}

/// The backend's answers are to the requests that it was sent, in their order, and nothing smuggled is among them.
fn check(name: &str, answers: &[Response], seen: &[Request]) {
    let answered: Vec<&Response> = answers.iter().filter(|answer| answer.header("proxy-status").is_none()).collect();
    let lines: Vec<&String> = seen.iter().map(|request| &request.line).collect();
    let texts: Vec<String> = answered.iter().map(|answer| answer.text()).collect();
    assert_eq!(seen.len(), answered.len(), "{name}: the backend saw {lines:?}, the client {texts:?}");
    for (sent, answered) in seen.iter().zip(answered) {
        assert_eq!(answered.status, 200, "{name}");
        assert!(!sent.line.contains("/smuggled"), "{name}: what was smuggled has arrived");
        let to_head = sent.line.starts_with("HEAD ");
        assert!(to_head || sent.line == answered.text(), "{name}: {} was answered {}", sent.line, answered.text());
    }
    let refusal = answers.iter().position(|answer| answer.header("proxy-status").is_some());
    let all: Vec<String> = answers.iter().map(shown_answer).collect();
    assert!(refusal.is_none_or(|at| at + 1 == answers.len()), "{name}: an answer behind a refusal: {all:?}");
}

/// The answer to what follows a case, also when the case took part of it for its own.
fn is_last(answer: &Response) -> bool {
    answer.text().ends_with("GET /last HTTP/1.1")
}

fn is_to_last(request: &Request) -> bool {
    request.line == "GET /last HTTP/1.1"
}

fn shown_answer(answer: &Response) -> String {
    let interim: String = answer.interim.iter().map(|head| format!("{}, ", head.status)).collect();
    match answer.header("proxy-status").and_then(|status| status.split('"').nth(1)) {
        Some(reason) => format!("{interim}{} {reason}", answer.status),
        None => format!("{interim}{}", answer.status),
    }
}

/// A request as much as frames and routes it.
fn shown(request: &Request) -> String {
    let mut line = request.line.clone();
    if line.len() > 100 {
        line = format!("{}.. {} bytes", &line[..30], line.len());
    }
    let value = |name: &str| {
        let field = request.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.escape_ascii().to_string())
    };
    let host = value("host").map_or("no host".into(), |host| format!("host {host}"));
    let body = match request.body.len() {
        0 if !request.chunked => String::new(),
        length => format!(", {} {length}", if request.chunked { "chunked" } else { "sized" }),
    };
    let trailers: String = request.trailers.iter().map(|(name, _)| format!(", trailer {name}")).collect();
    format!("{} ({host}{body}{trailers})", line.escape_default())
}

/// Whether this is the request that the client sent, byte for byte but for the case of header names, their order and
/// the headers that a proxy adds or must take off.
fn is_as_sent(request: &Request, sent: &[u8]) -> bool {
    let Ok(Some(sent)) = cut(sent).map(|cut| cut.requests.into_iter().next()) else { return false };
    let has = |field: &(String, Vec<u8>)| {
        request.fields.iter().any(|(name, value)| name.eq_ignore_ascii_case(&field.0) && *value == field.1)
    };
    sent.line == request.line
        && sent.fields.iter().all(has)
        && (sent.chunked, &sent.body, &sent.trailers) == (request.chunked, &request.body, &request.trailers)
}
