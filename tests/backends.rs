//! How are backends reached that want more than HTTP/1.1 over a bare connection? By HTTP/2, whose connections many
//! requests share, and with a PROXY protocol header, which makes a connection one client's own.

mod floods;

use std::net::SocketAddr;

use serde_json::json;

use crate::harness::door::Builder;
use crate::harness::fake::ok;
use crate::harness::h2c::{Asked, Manner};
use crate::harness::load::SwitchSeen;
use crate::harness::raw::request;
use crate::harness::{Act, DEADLINE, Door, Fake, H2c, Kind, Load, Raw, wait_until};

const BLUE: &str = "service.portal.backends.blue";
const GREEN: &str = "service.portal.backends.green";

/// A door before an HTTP/2 backend as blue; one worker, so that connections can be counted.
fn before(manner: Manner) -> (Door, H2c) {
    before_with(manner, |door| door)
}

fn before_with(manner: Manner, change: impl FnOnce(Builder) -> Builder) -> (Door, H2c) {
    let builder = Door::builder().set("workers", 1);
    let blue = H2c::with(builder.dir().join("blue.sock"), "blue", manner);
    let door = change(builder.set(BLUE, blue.backend())).start();
    (door, blue)
}

fn get(path: &str) -> Vec<u8> {
    request("GET", path, &[], b"")
}

#[track_caller]
fn assert_failed(door: &Door, answer: &crate::harness::Response, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.text().contains(&format!("({reason})")), "{reason}: {}", answer.text());
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[("reason", reason)]), 1.0, "{reason}");
}

// === requests and answers ===

#[test]
fn a_request_reaches_an_http2_backend_as_one_of_http2() {
    let (door, blue) = before(Manner::default());
    let headers = [("Connection", "keep-alive, x-hop"), ("X-Hop", "1"), ("X-Two", "2"), ("TE", "trailers, gzip")];
    let answer = Raw::ask(door.addr(), &request("POST", "/a%2fb?c=d", &headers, b"hello"));
    assert_eq!((answer.status, answer.text().as_str(), answer.color()), (200, "blue\n", Some("blue")));
    assert_eq!(answer.head.version, "HTTP/1.1");
    let Asked { line, headers, body, .. } = blue.asked().remove(0);
    assert_eq!((line.as_str(), body.as_slice()), ("POST http://test/a%2fb?c=d", &b"hello"[..]));
    let of = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(
        (of("x-two"), of("te"), of("content-length")),
        (Some("2".into()), Some("trailers".into()), Some("5".into()))
    );
    assert_eq!((of("x-forwarded-for"), of("x-forwarded-host")), (Some("127.0.0.1".into()), Some("test".into())));
    for gone in ["connection", "x-hop", "host", "transfer-encoding", "keep-alive"] {
        assert_eq!(of(gone), None, "{gone}");
    }
    door.quiet();
}

#[test]
fn bodies_stream_both_ways_at_once_and_so_do_trailers() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    let headers = [("TE", "trailers"), ("Connection", "TE"), ("Trailer", "X-Sum"), ("Transfer-Encoding", "chunked")];
    client.send(request("POST", "/echo", &headers, b"2\r\nhi\r\n"));
    let (head, mut body) = client.head();
    assert_eq!(head.status, 200, "before the request is complete");
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"hi");
    client.send("5\r\nthere\r\n");
    assert_eq!(client.piece(&mut body).unwrap().unwrap(), b"there");
    client.send("0\r\nX-Sum: 7\r\n\r\n");
    assert!(client.piece(&mut body).unwrap().is_none());
    let asked = blue.wait_asked("the trailers", |asked| asked[0].trailers.is_some()).remove(0);
    assert_eq!(asked.trailers.unwrap()["x-sum"], "7");

    let headers = [("TE", "trailers"), ("Connection", "TE")];
    let answer = client.send(request("GET", "/trailers", &headers, b"")).response();
    assert_eq!((answer.text().as_str(), answer.trailers.get("grpc-status")), ("hello", Some("0")));
    drop(client);
    door.quiet();
    assert_eq!(blue.connections().len(), 1);
}

#[test]
fn trailers_forge_nothing_and_break_nothing() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    let forged = "X-Forwarded-For: 6.6.6.6\r\nX_Client_Cert_Subject: CN=root\r\nHost: evil\r\nConnection: close\r\n";
    let body = format!("0\r\nX-Sum: 7\r\n{forged}\r\n");
    let asks = request("POST", "/", &[("Transfer-Encoding", "chunked")], body.as_bytes());
    assert_eq!(client.send(asks).response().text(), "blue\n", "HTTP/2 knows no Connection");
    let trailers = blue.asked().remove(0).trailers.expect("trailers");
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"7".parse().expect("a value")), "{trailers:?}");
    drop(client);
    door.quiet();
}

#[test]
fn large_bodies_pass_unchanged_through_the_windows() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(client.send(request("POST", "/", &[], &body)).response().text(), "blue\n");
    assert!(blue.asked()[0].body == body, "up");
    let answer = client.send(get("/big")).response();
    assert_eq!((answer.status, answer.body.len()), (200, 4 << 20), "down");
    drop(client);
    door.quiet();
}

#[test]
fn an_answer_may_come_before_the_request_is_complete() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    client.send(request("POST", "/early", &[("Content-Length", "1000000")], b"the beginning"));
    assert_eq!(client.response().text(), "early");
    drop(client);
    door.quiet();
    assert_eq!(door.get("/").text(), "blue\n");
    assert_eq!(blue.connections().len(), 1, "the others on the connection did not notice");
}

#[test]
fn a_client_that_asks_first_waits_for_the_http2_backends_word_too() {
    let (door, _blue) = before(Manner::default());
    let mut client = door.connect();
    let answer = client.send(request("GET", "/hints", &[], b"")).response();
    assert_eq!((answer.status, answer.interim.len()), (200, 0), "other 1xx end here");
    client.send(request("POST", "/ask", &[("Expect", "100-continue"), ("Content-Length", "5")], b""));
    client.send("hello");
    let answer = client.response();
    assert_eq!((answer.interim.len(), answer.interim[0].status, answer.text().as_str()), (1, 100, "blue\n"));
    drop(client);
    door.quiet();
}

#[test]
fn answers_without_a_body_keep_their_length() {
    let (door, _blue) = before(Manner::default());
    let mut client = door.connect();
    for path in ["/", "/end", "/"] {
        let answer = client.send(request("HEAD", path, &[], b"")).try_response_to_head().unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    }
    drop(client);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
}

// === connections ===

#[test]
fn many_requests_at_once_share_few_connections() {
    let (door, blue) = before(Manner { streams: Some(40), ..Manner::default() });
    let mut clients: Vec<Raw> = (0..120).map(|_| door.connect()).collect();
    for client in &mut clients {
        client.send(get("/hold"));
    }
    blue.wait_asked("120 requests", |asked| asked.len() == 120);
    assert_eq!(blue.connections().len(), 3);
    blue.go();
    for client in &mut clients {
        assert_eq!(client.response().text(), "blue\n");
    }
    drop(clients);
    let metrics = door.quiet();
    assert_eq!((metrics.sum("bgproxy_connects_total", &[]), metrics.sum("bgproxy_retries_total", &[])), (3.0, 0.0));
}

#[test]
fn clients_that_do_not_read_hold_up_nobody_else_on_their_connection() {
    let (door, blue) = before(Manner::default());
    let mut stalled: Vec<Raw> = (0..30).map(|_| Raw::connect_narrow(door.addr())).collect();
    for client in &mut stalled {
        client.send(get("/big"));
    }
    blue.wait_asked("30 requests", |asked| asked.len() == 30);
    let mut client = door.connect();
    for _ in 0..20 {
        assert_eq!(client.send(get("/big")).response().body.len(), 4 << 20);
    }
    assert_eq!(blue.connections().len(), 1);
    for client in &mut stalled {
        assert_eq!(client.response().body.len(), 4 << 20, "and gets all of it in the end");
    }
    drop((client, stalled));
    door.quiet();
}

#[test]
fn a_client_that_goes_away_has_its_stream_reset_and_no_other() {
    let (door, blue) = before(Manner::default());
    let (mut stays, mut leaves) = (door.connect(), door.connect());
    stays.send(get("/hold"));
    blue.wait_asked("the one that stays", |asked| asked.len() == 1);
    leaves.send(get("/never"));
    blue.wait_asked("the one that leaves", |asked| asked.len() == 2);
    drop(leaves);
    let asked = blue.wait_asked("a reset", |asked| asked[1].reset.is_some());
    assert_eq!((asked[1].reset, asked[0].reset), (Some(h2::Reason::CANCEL), None));
    blue.go();
    assert_eq!(stays.response().text(), "blue\n");
    drop(stays);
    door.quiet();
    assert_eq!(blue.connections().len(), 1);
}

#[test]
fn an_upload_that_breaks_off_is_a_reset_and_never_a_whole_request() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    client.send(request("POST", "/", &[("Content-Length", "100")], b"the beginning"));
    blue.wait_asked("the beginning", |asked| asked.first().is_some_and(|asked| !asked.body.is_empty()));
    drop(client);
    blue.wait_asked("a reset", |asked| asked[0].reset.is_some());
    door.quiet();
}

#[test]
fn idle_http2_connections_are_closed_in_the_end() {
    let (door, blue) = before_with(Manner::default(), |door| door.set("service.portal.pool.idle", "1s"));
    assert_eq!(door.get("/").text(), "blue\n");
    assert_eq!(blue.open(), 1);
    wait_until("the connection to end", DEADLINE, || blue.open() == 0);
    assert_eq!(door.get("/").text(), "blue\n");
}

// === failures ===

#[test]
fn a_backend_that_leaves_between_or_during_requests_loses_none() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    for _ in 0..5 {
        assert_eq!(client.send(request("POST", "/", &[], b"hi")).response().text(), "blue\n");
        blue.leave();
    }
    let mut held = door.connect();
    held.send(request("POST", "/hold", &[], b"hi"));
    blue.wait_asked("the one that is held", |asked| asked.len() == 6);
    blue.leave();
    for _ in 0..20 {
        assert_eq!(client.send(request("POST", "/", &[], b"hi")).response().text(), "blue\n");
    }
    blue.go();
    assert_eq!(held.response().text(), "blue\n");
    drop((client, held));
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
    wait_until("all connections but the last to end", DEADLINE, || blue.open() <= 1);
}

#[test]
fn what_a_backend_says_it_did_not_do_is_sent_again_also_a_post() {
    let (door, blue) = before(Manner { disowns: 1, ..Manner::default() });
    let answer = Raw::ask(door.addr(), &request("POST", "/", &[], b"once"));
    assert_eq!(answer.text(), "blue\n", "behind a GOAWAY that names an earlier stream");
    assert_eq!((blue.connections().len(), blue.asked().len(), blue.asked()[0].body.as_slice()), (2, 1, &b"once"[..]));
    let answer = Raw::ask(door.addr(), &request("POST", "/refuse", &[], b"twice"));
    assert_eq!(answer.text(), "blue\n", "behind REFUSED_STREAM");
    assert_eq!(door.quiet().sum("bgproxy_retries_total", &[]), 2.0);
}

#[test]
fn a_connection_that_ends_before_it_began_costs_nobody_a_request() {
    let (door, blue) = before(Manner { drops: 1, ..Manner::default() });
    assert_eq!(Raw::ask(door.addr(), &request("POST", "/", &[], b"hi")).text(), "blue\n");
    assert_eq!(blue.connections().len(), 2);
    drop((door, blue));

    let (door, blue) = before(Manner { drops: usize::MAX, ..Manner::default() });
    let answer = Raw::ask(door.addr(), &request("POST", "/", &[], b"hi"));
    assert!(answer.status == 502 && answer.text().contains("(backend_"), "{}", answer.text());
    assert_eq!(blue.connections().len(), 2, "twice and no more");
    door.quiet();
}

#[test]
fn a_request_that_a_backend_may_have_acted_on_is_not_sent_again() {
    let (door, blue) = before(Manner::default());
    let answer = Raw::ask(door.addr(), &request("POST", "/reset", &[], b"hi"));
    assert_failed(&door, &answer, 502, "backend_reset");
    assert_eq!(blue.asked().len(), 1);
    assert_eq!(door.get("/").text(), "blue\n");
    assert_eq!(blue.connections().len(), 1, "a stream's reset is not the connection's");
}

#[test]
fn a_killed_http2_backend_is_told() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    client.send(request("POST", "/never", &[], b"hi"));
    blue.wait_asked("the request", |asked| asked.len() == 1);
    drop(blue);
    let answer = client.response();
    drop(client);
    // The kernel calls it a reset if there was something on the way that it had not read.
    let reason = if answer.text().contains("(backend_reset)") { "backend_reset" } else { "backend_closed" };
    assert_failed(&door, &answer, 502, reason);
    assert_eq!(door.get("/").status, 502);
    assert_eq!(door.metrics().sum("bgproxy_connect_failures_total", &[("reason", "socket_refused")]), 1.0);
}

#[test]
fn an_answer_that_breaks_off_on_its_stream_breaks_off_for_the_client() {
    let (door, blue) = before(Manner::default());
    let mut client = door.connect();
    let (head, mut body) = client.send(get("/half")).head();
    assert_eq!((head.status, client.piece(&mut body).unwrap().unwrap()), (200, b"half".to_vec()));
    blue.go();
    assert!(client.piece(&mut body).is_err());
    drop(client);
    let metrics = door.quiet();
    assert_eq!(metrics.sum("bgproxy_request_failures_total", &[("reason", "backend_truncated")]), 1.0);
    assert_eq!(door.get("/").text(), "blue\n");
    assert_eq!(blue.connections().len(), 1);
}

#[test]
fn a_backend_that_does_not_speak_http2_is_told() {
    let builder = Door::builder();
    let blue = Fake::scripted(builder.dir().join("blue.sock"), |_| vec![Act::Read(24), Act::Say(ok("no")), Act::Stay]);
    let backend = json!({ "socket": blue.address(), "protocol": "h2c" });
    let door = builder.set(BLUE, backend).start();
    let answer = door.get("/");
    assert_failed(&door, &answer, 502, "backend_malformed");
}

#[test]
fn a_backend_that_says_nothing_to_our_greeting_is_given_up_like_one_that_does_not_let_us_in() {
    let builder = Door::builder().set("service.portal.timeouts.connect", "200ms");
    let blue = Fake::scripted(builder.dir().join("blue.sock"), |_| vec![Act::Stay]);
    let backend = json!({ "socket": blue.address(), "protocol": "h2c" });
    let door = builder.set(BLUE, backend).start();
    let answer = door.get("/");
    assert_failed(&door, &answer, 504, "connect_timeout");
}

// === switching ===

#[test]
fn switches_between_http1_and_http2_under_load_lose_nothing() {
    let builder = Door::builder();
    let blue = Fake::color(builder.dir().join("blue.sock"), "blue");
    let green = H2c::color(builder.dir().join("green.sock"), "green");
    let door = builder.set(GREEN, green.backend()).start();
    let load = Load::start(door.addr(), 8, vec![Kind::Index]);
    let mut seen = Vec::new();
    for to in ["green", "blue"].into_iter().cycle().take(10) {
        load.wait_round();
        let (switch, receipt) = SwitchSeen::during(to, || door.switch_and_drain(to));
        assert_eq!(receipt.cut.len(), 0);
        seen.push(switch);
    }
    load.wait_round();
    let tally = load.stop();
    tally.assert_clean();
    tally.assert_served_by_the_right_color(&seen);
    assert_eq!(door.quiet().sum("bgproxy_request_failures_total", &[]), 0.0);
    wait_until("the old color's connections to end", DEADLINE, || green.open() == 0);
    assert!(!blue.heard().is_empty());
}

// === send_proxy ===

/// A PROXY protocol header of version 2 for TCP over IPv4.
fn proxy_header(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    for address in [client, server] {
        let SocketAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
        header.extend(address.ip().octets());
    }
    header.extend(client.port().to_be_bytes());
    header.extend(server.port().to_be_bytes());
    header
}

/// The header of a connection of our own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A door before an HTTP/1.1 backend that is told who the client is.
fn before_proxied() -> (Door, Fake) {
    let builder = Door::builder().set("workers", 1);
    let script = |_| vec![Act::ReadProxy, Act::Choose(requests())];
    let blue = Fake::scripted(builder.dir().join("blue.sock"), script);
    let door = builder.set(BLUE, json!({ "socket": blue.address(), "send_proxy": true })).start();
    (door, blue)
}

/// Answers requests until the other side has enough.
fn requests() -> crate::harness::fake::Choice {
    crate::harness::fake::Choice::new(|_| vec![Act::ReadRequest, Act::Echo, Act::Repeat])
}

#[test]
fn each_clients_connections_begin_with_its_address_and_are_its_own() {
    let (door, blue) = before_proxied();
    let (mut one, mut other) = (door.connect(), door.connect());
    let (from_one, from_other) = (one.local_address(), other.local_address());
    for _ in 0..3 {
        assert_eq!(one.send(get("/one")).response().text(), "GET /one HTTP/1.1");
        assert_eq!(other.send(get("/other")).response().text(), "GET /other HTTP/1.1");
    }
    let heard = blue.heard();
    assert_eq!(heard.len(), 2, "one per client, used again");
    for (heard, client, path) in [(&heard[0], from_one, "/one"), (&heard[1], from_other, "/other")] {
        assert!(heard.bytes.starts_with(&proxy_header(client, door.addr())), "{:?}", &heard.bytes[..28]);
        let text = String::from_utf8_lossy(&heard.bytes).into_owned();
        assert_eq!((text.matches("GET ").count(), text.matches(&format!("GET {path} ")).count()), (3, 3));
    }
    drop(one);
    wait_until("its connection to end with it", DEADLINE, || blue.heard()[0].ended);
    assert!(!blue.heard()[1].ended);
    assert_eq!(other.send(get("/other")).response().status, 200);
    drop(other);
    wait_until("the other's to end too", DEADLINE, || blue.heard()[1].ended);
    door.quiet();
}

#[test]
fn a_clients_own_connections_end_with_its_color_and_with_the_time() {
    let (door, blue) = before_proxied();
    let green = Fake::color(door.dir().join("green.sock"), "green");
    let mut client = door.connect();
    assert_eq!(client.send(get("/")).response().status, 200);
    door.switch_and_drain("green");
    wait_until("its connection to end", DEADLINE, || blue.heard()[0].ended);
    assert_eq!(client.send(get("/")).response().color(), Some("green"));
    drop(client);
    drop(green);

    let builder = Door::builder().set("workers", 1).set("service.portal.pool.idle", "1s");
    let blue = H2c::with(builder.dir().join("blue.sock"), "blue", Manner { proxy: true, ..Manner::default() });
    let door = builder.set(BLUE, blue.backend()).start();
    let mut client = door.connect();
    assert_eq!(client.send(get("/")).response().text(), "blue\n");
    assert_eq!(blue.open(), 1);
    wait_until("its connection to end", DEADLINE, || blue.open() == 0);
    assert_eq!(client.send(get("/")).response().text(), "blue\n", "by another one");
}

#[test]
fn http2_connections_that_say_who_the_client_is_are_shared_by_nobody_else() {
    let (door, blue) = before(Manner { proxy: true, ..Manner::default() });
    let mut clients: Vec<Raw> = (0..3).map(|_| door.connect()).collect();
    for client in &mut clients {
        for _ in 0..2 {
            assert_eq!(client.send(get("/")).response().text(), "blue\n");
        }
    }
    let headers: Vec<_> = clients.iter().map(|client| proxy_header(client.local_address(), door.addr())).collect();
    assert_eq!(blue.connections(), headers);
    drop(clients);
    wait_until("the connections to end with their clients", DEADLINE, || blue.open() == 0);
    door.quiet();
}

#[test]
fn a_probe_says_that_it_is_nobodys_client() {
    let builder = Door::builder().set("workers", 1);
    let green = H2c::with(builder.dir().join("green.sock"), "green", Manner { proxy: true, ..Manner::default() });
    let blue = Fake::scripted(builder.dir().join("blue.sock"), |_| vec![Act::ReadProxy, Act::Choose(requests())]);
    let backend = json!({ "socket": blue.address(), "send_proxy": true });
    let door = builder.set(BLUE, backend).set(GREEN, green.backend()).start();
    door.switch("green");
    door.switch("blue");
    assert!(!green.connections().is_empty() && !blue.heard().is_empty());
    assert!(green.connections().iter().all(|header| header == LOCAL), "{:?}", green.connections());
    assert!(blue.heard().iter().all(|heard| heard.bytes.starts_with(LOCAL)), "{:?}", blue.heard());
    // What was opened for nobody serves nobody.
    let mut client = door.connect();
    client.send(get("/")).response();
    let header = proxy_header(client.local_address(), door.addr());
    assert!(blue.heard().iter().any(|heard| heard.bytes.starts_with(&header)));
}
