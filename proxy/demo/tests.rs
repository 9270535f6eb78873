//! The demo's backends, by their sockets, and its configuration.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::page::slow_seconds;
use super::*;

fn started() -> (tempfile::TempDir, Demo) {
    let dir = tempfile::tempdir().expect("a directory");
    let demo = Demo::start(dir.path()).expect("a demo");
    (dir, demo)
}

fn sent(dir: &Path, color: &str, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(dir.join(format!("{color}.sock"))).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
    stream.write_all(request.as_bytes()).expect("written");
    stream
}

/// The whole answer to one request on a connection of its own.
fn ask(dir: &Path, color: &str, line: &str, more: &str) -> String {
    let request = format!("{line} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n{more}");
    let mut answer = String::new();
    sent(dir, color, &request).read_to_string(&mut answer).expect("an answer");
    answer
}

fn get(dir: &Path, color: &str, path: &str) -> String {
    ask(dir, color, &format!("GET {path}"), "\r\n")
}

#[test]
fn each_color_says_its_name() {
    let (dir, _demo) = started();
    for color in ["blue", "green"] {
        let answer = get(dir.path(), color, "/text");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(&format!("x-color: {color}\r\n")), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{color}\n")), "{answer}");
    }
}

#[test]
fn a_color_is_ready_when_asked() {
    let (dir, _demo) = started();
    assert!(get(dir.path(), "green", "/health").starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn everything_else_is_not_found() {
    let (dir, _demo) = started();
    for line in ["GET /no", "POST /text", "GET /echo", "DELETE /"] {
        let answer = ask(dir.path(), "blue", line, "\r\n");
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{line}: {answer}");
        assert!(answer.contains("x-color: blue\r\n"), "{line}: {answer}");
    }
}

#[test]
fn a_head_has_no_body() {
    let (dir, _demo) = started();
    let answer = ask(dir.path(), "blue", "HEAD /text", "\r\n");
    assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn the_page_shows_color_count_and_headers() {
    let (dir, _demo) = started();
    get(dir.path(), "green", "/text");
    let answer = ask(dir.path(), "green", "GET /", "X-Request-Id: abc-1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
    for part in ["<body class=\"green\">", "request 2 of", "<dd>abc-1</dd>", "<dd>192.0.2.7</dd>", "<dd>-</dd>"] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert!(!["{color}", "{count}", "{rows}"].iter().any(|blank| answer.contains(blank)), "{answer}");
}

#[test]
fn what_a_client_sends_stays_text_on_the_page() {
    let (dir, _demo) = started();
    let answer = ask(dir.path(), "blue", "GET /", "X-Request-Id: <script>&{color}\r\n\r\n");
    assert!(answer.contains("<dd>&lt;script&gt;&amp;{color}</dd>"), "{answer}");
}

#[test]
fn a_slow_answer_takes_its_time() {
    let (dir, _demo) = started();
    let began = Instant::now();
    let answer = get(dir.path(), "blue", "/slow?seconds=0.3");
    assert!(answer.ends_with("blue after 0.3 s\n"), "{answer}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(get(dir.path(), "blue", "/slow?seconds=soon").starts_with("HTTP/1.1 400 "));
}

#[test]
fn slow_has_its_bounds() {
    let seconds = |query| slow_seconds(query).map(|wait| wait.as_secs_f64());
    assert_eq!(seconds(None), Some(10.0));
    assert_eq!(seconds(Some("a=b&seconds=2.5")), Some(2.5));
    assert_eq!(seconds(Some("seconds=1e300")), Some(60.0));
    assert_eq!(seconds(Some("seconds=-1")), Some(0.0));
    assert_eq!((seconds(Some("seconds=NaN")), seconds(Some("seconds="))), (None, None));
}

#[test]
fn events_come_one_by_one() {
    let (dir, _demo) = started();
    let stream = sent(dir.path(), "green", "GET /events HTTP/1.1\r\nHost: demo\r\n\r\n");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    assert!(lines.by_ref().any(|line| line == "content-type: text/event-stream"));
    assert!(lines.by_ref().any(|line| line == "id: 1"));
    assert_eq!(lines.next().as_deref(), Some("data: green"));
    assert!(lines.any(|line| line == "id: 2"));
}

#[test]
fn an_echo_is_what_was_said() {
    let (dir, _demo) = started();
    let said = "Content-Type: text/x-said\r\nContent-Length: 5\r\n\r\nhallo";
    let answer = ask(dir.path(), "blue", "POST /echo", said);
    assert!(answer.contains("content-type: text/x-said\r\n") && answer.contains("hallo"), "{answer}");
}

#[test]
fn stopping_ends_connections_and_removes_the_sockets() {
    let (dir, demo) = started();
    let mut waiting = sent(dir.path(), "blue", "GET /slow?seconds=60 HTTP/1.1\r\nHost: demo\r\n\r\n");
    // Answered, so the backend has accepted: what waits is on a connection, not in the backlog.
    get(dir.path(), "blue", "/text");
    let began = Instant::now();
    demo.stop();
    assert_eq!(waiting.read(&mut [0; 1]).expect("the end"), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "the threads are joined at once");
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

#[test]
fn a_socket_in_the_way_is_named() {
    let (dir, _demo) = started();
    let error = Demo::start(dir.path()).expect_err("taken").to_string();
    assert!(error.contains("blue.sock"), "{error}");
    assert!(get(dir.path(), "blue", "/text").ends_with("blue\n"), "the first one goes on");
}

#[test]
fn a_home_is_private_and_goes() {
    let home = Home::create().expect("a home");
    let path = home.path().to_owned();
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
    fs::write(path.join("live"), "blue\n").expect("written");
    drop(home);
    assert!(!path.exists());
}

#[test]
fn a_tunnel_says_back_what_it_is_told_and_by_whom() {
    let (dir, _demo) = started();
    let mut tunnel = sent(
        dir.path(),
        "green",
        "GET /tunnel HTTP/1.1\r\nHost: demo\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The RFC's own example.
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");

    // "Hello", as RFC 6455 has it masked, a ping that says nothing, and a farewell.
    tunnel.write_all(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]).expect("written");
    tunnel.write_all(&[0x89, 0x80, 0, 0, 0, 0, 0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).expect("written");
    let mut said = Vec::new();
    tunnel.read_to_end(&mut said).expect("an end");
    assert_eq!(said, b"\x81\x0bgreen Hello\x8a\x00\x88\x02\x03\xe8");
}

#[test]
fn a_tunnel_takes_short_texts_only() {
    let (dir, _demo) = started();
    let refused = get(dir.path(), "blue", "/tunnel");
    assert!(refused.starts_with("HTTP/1.1 426 "), "{refused}");
    let open = "GET /tunnel HTTP/1.1\r\nHost: demo\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for (frame, code) in [([0x81, 0xfe], 1009), ([0x82, 0x80], 1003), ([0x01, 0x80], 1003)] {
        let mut tunnel = sent(dir.path(), "blue", open);
        tunnel.write_all(&[&frame[..], &[0; 4]].concat()).expect("written");
        let mut said = Vec::new();
        // What it did not take makes the kernel say so; what it said before that is what counts.
        let _ended = tunnel.read_to_end(&mut said);
        let close = said.windows(4).find(|four| four[0] == 0x88).map(|four| u16::from_be_bytes([four[2], four[3]]));
        assert_eq!(close, Some(code), "{frame:?}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn the_configuration_leads_to_the_sockets_and_is_right() {
    let config = config(Path::new("/tmp/d"), Ports { door: 0, tls: None, admin: 1 }).expect("nothing to make");
    bgproxy_conf::check::check(&config, "", Path::new("demo.toml")).expect("right");
    let service = &config.service[SERVICE];
    assert_eq!(service.backends[&Color::green()].address.to_string(), "/tmp/d/green.sock");
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:0");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:1");
}

#[test]
fn with_tls_a_certificate_is_made_whose_key_is_nobody_elses_to_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports { door: 0, tls: Some(0), admin: 0 };
    let config = config(dir.path(), ports).expect("a certificate");
    bgproxy_conf::check::check(&config, "", Path::new("demo.toml")).expect("right");
    crate::run::check(&config, None).expect("a pair that fits");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&config.certificate[0].key), 0o600);
    let error = super::config(dir.path(), ports).expect_err("it is there already").to_string();
    assert!(error.contains("cert.pem"), "{error}");
}

#[test]
fn the_welcome_names_the_addresses_really_taken() {
    let ports = Ports { door: 8080, tls: None, admin: 9180 };
    let config = config(Path::new("/tmp/it's here"), ports).expect("nothing to make");
    let text = welcome(&config, &["127.0.0.1:4001".to_owned()], "127.0.0.1:4002");
    assert!(text.contains("curl http://127.0.0.1:4001/text"), "{text}");
    assert!(text.contains("curl http://127.0.0.1:4002/metrics"), "{text}");
    assert!(text.contains(r#"--socket '/tmp/it'\''s here/control.sock' "$@"; }"#), "{text}");
    assert!(text.contains(r"echo green > '/tmp/it'\''s here/live'"), "{text}");
}
