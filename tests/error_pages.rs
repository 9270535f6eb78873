//! What does a client read when a request fails? What it asks for: a page, problem details, or a line of text; the
//! operator's own where there is one.

use std::path::Path;
use std::time::{Duration, Instant};

use bgproxy_conf::wire::Reload;
use serde_json::{Value, json};

use crate::harness::door::Builder;
use crate::harness::raw::{Response, request};
use crate::harness::raw_http2::{END_STREAM, fields};
use crate::harness::{DEADLINE, Door, Fake, Raw, RawHttp2, text_of, wait_for, wait_until};

const HTML: &str = "text/html; charset=utf-8";
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A request's answer, by the type of text that the client accepts.
#[track_caller]
fn ask(door: &Door, method: &str, accept: &str) -> Response {
    Raw::ask(door.addr(), &request(method, "/", &[("Accept", accept), ("Connection", "close")], b""))
}

#[track_caller]
fn assert_is(answer: &Response, status: u16, kind: &str, text: &str) {
    assert_eq!((answer.status, answer.header("content-type"), &answer.text()[..]), (status, Some(kind), text));
    assert!(answer.header("proxy-status").is_some_and(|status| status.starts_with("bgproxy; error=")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// A page in the door's directory, which is the one for 502.
fn with_page(name: &str, text: &str) -> Builder {
    let builder = Door::builder();
    let path = builder.dir().join(name);
    std::fs::write(&path, text).unwrap();
    builder.set("error_pages.502", path.to_str().unwrap())
}

#[test]
fn each_kind_of_client_can_read_why_it_failed() {
    // One worker, so that the log has its lines in order.
    let door = Door::builder().set("workers", 1).start();
    let sentence = "the backend's socket does not exist (socket_missing)";
    let text = format!("502 Bad Gateway: {sentence}\n");
    assert_is(&door.get("/"), 502, "text/plain; charset=utf-8", &text);
    assert_is(&ask(&door, "GET", "*/*"), 502, "text/plain; charset=utf-8", &text);
    let page = ask(&door, "GET", BROWSER);
    assert_eq!(page.header("content-type"), Some(HTML));
    assert!(page.text().starts_with("<!doctype html>") && page.text().contains(sentence), "{}", page.text());
    let problem = ask(&door, "GET", "application/json, text/plain, */*");
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    let (problem, logged) = (problem.json(), last_line(&door, 4));
    let expected = json!({
        "status": 502,
        "title": "Bad Gateway",
        "detail": "the backend's socket does not exist",
        "reason": "socket_missing",
        "request_id": logged["request_id"],
    });
    assert_eq!(problem, expected);
    assert!(logged["request_id"].as_str().is_some_and(|id| id.len() > 8), "{logged}");
    // Of an answer to HEAD there is only the head.
    let mut client = door.connect();
    client.send(request("HEAD", "/", &[("Accept", "text/html")], b""));
    let head = client.try_response_to_head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (502, Some(HTML)));
    assert_eq!(head.header("content-length"), Some(&page.text().len().to_string()[..]));
    assert_eq!(client.send(request("GET", "/", &[], b"")).response().text(), text, "and the connection goes on");
}

/// The last line of the access log, when it has so many.
#[track_caller]
fn last_line(door: &Door, count: usize) -> Value {
    wait_for("the access log", DEADLINE, || {
        let text = text_of(&door.access_log());
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.last().filter(|_| lines.len() == count).ok_or(format!("{} lines", lines.len()))?;
        serde_json::from_str(last).map_err(|why| why.to_string())
    })
}

#[test]
fn what_a_client_accepts_is_known_however_late_the_request_fails() {
    let (door, _blue) = Door::builder().set("service.portal.timeouts.response", "200ms").before(Fake::never_answers);
    let late = ask(&door, "GET", "application/problem+json").json();
    assert_eq!((&late["status"], &late["reason"]), (&json!(504), &json!("response_timeout")));
    let mut client = RawHttp2::connect(door.addr());
    let stream = client.begin(&fields("GET", "/", &[("accept", BROWSER)]), END_STREAM);
    let answer = client.answer(stream);
    assert_eq!((answer.status, answer.header("content-type")), (504, Some(HTML)));
    // What is refused at once, and what is no request at all.
    let refused = request("GET", "/", &[("Accept", "application/json"), ("Expect", "miracles")], b"");
    assert_eq!(Raw::ask(door.addr(), &refused).json()["reason"], "expectation_unknown");
    assert_eq!(Raw::ask(door.addr(), b"nonsense\r\n\r\n").header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn a_page_of_the_operators_is_for_those_who_take_its_kind() {
    let builder = with_page("sorry.html", "<p>We are sorry.\n");
    let page = builder.dir().join("sorry.html").to_str().unwrap().to_owned();
    let door = builder.set("error_pages.431", page).start();
    for accept in [BROWSER, "*/*", "text/html"] {
        assert_is(&ask(&door, "GET", accept), 502, HTML, "<p>We are sorry.\n");
    }
    assert_is(&door.get("/"), 502, HTML, "<p>We are sorry.\n");
    assert_eq!(ask(&door, "GET", "application/json").json()["reason"], "socket_missing");
    assert!(ask(&door, "GET", "text/plain").text().starts_with("502 Bad Gateway"));
    // Of a head that cannot be read nobody knows what it would accept.
    let too_large = request("GET", "/", &[("Cookie", &"x".repeat(100_000))], b"");
    assert_is(&Raw::ask(door.addr(), &too_large), 431, HTML, "<p>We are sorry.\n");
}

#[test]
fn a_page_for_programs_is_for_programs() {
    let door = with_page("502.json", r#"{"sorry":true}"#).start();
    for accept in ["application/json", "application/problem+json", "*/*"] {
        assert_is(&ask(&door, "GET", accept), 502, "application/json", r#"{"sorry":true}"#);
    }
    assert_eq!(ask(&door, "GET", BROWSER).header("content-type"), Some(HTML));
}

#[test]
fn a_page_that_changes_on_disk_is_in_use_within_a_second_and_one_that_is_gone_stays() {
    let door = with_page("502.txt", "one\n").start();
    let page = door.dir().join("502.txt");
    let shows = |text: &str| wait_until(&format!("{text:?}"), DEADLINE, || door.get("/").text() == text);
    shows("one\n");
    let replaced = Instant::now();
    std::fs::write(&page, "two\n").unwrap();
    shows("two\n");
    assert!(replaced.elapsed() < Duration::from_secs(3), "after {:?}", replaced.elapsed());
    for (faulty, told) in [("", "it is empty"), (&"x".repeat(70_000)[..], "it has 70000 bytes")] {
        std::fs::write(&page, faulty).unwrap();
        door.wait_log(&format!("error page not replaced, the old one stays in use: {told}"));
        assert_eq!(door.get("/").text(), "two\n");
    }
    std::fs::remove_file(&page).unwrap();
    door.wait_log("the old one stays in use: there is no such file");
    assert_eq!(door.get("/").text(), "two\n");
    std::fs::write(&page, "three\n").unwrap();
    shows("three\n");
}

#[test]
fn a_page_that_is_swapped_under_load_is_always_a_whole_one() {
    // As configurations are mounted into containers: what is named is a link, and the link is what is replaced.
    let builder = Door::builder();
    let (dir, link) = (builder.dir().to_owned(), builder.dir().join("current"));
    let point_at = |version: &str| {
        let new = dir.join("new");
        std::os::unix::fs::symlink(dir.join(version), &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
    };
    let texts = [("one", "1".repeat(60_000)), ("two", "2".repeat(50_000))];
    for (version, text) in &texts {
        std::fs::create_dir(dir.join(version)).unwrap();
        std::fs::write(dir.join(version).join("502.txt"), text).unwrap();
    }
    point_at("one");
    let door = builder.set("error_pages.502", link.join("502.txt").to_str().unwrap()).start();
    for (version, text) in texts.iter().rev() {
        point_at(version);
        wait_until(version, DEADLINE, || {
            let shown = door.get("/").text();
            assert!(texts.iter().any(|(_, text)| *text == shown), "{} bytes", shown.len());
            shown == *text
        });
    }
}

#[test]
fn nothing_of_what_a_client_sends_becomes_a_part_of_the_page() {
    let door = Door::builder().start();
    let says = "\"},\"x\":\"</p><script>alert(1)</script>";
    for accept in ["application/json", "text/html", "text/plain"] {
        let headers = [("Accept", accept), ("X-Request-Id", says), ("User-Agent", says), ("Connection", "close")];
        let answer = Raw::ask(door.addr(), &request("GET", "/script?alert=1", &headers, b""));
        let text = answer.text();
        if accept == "application/json" {
            let keys: Vec<String> = answer.json().as_object().unwrap().keys().cloned().collect();
            assert_eq!(keys, ["detail", "reason", "request_id", "status", "title"], "{text}");
        } else {
            assert!(!text.contains("script") && !text.contains("alert"), "{text}");
        }
    }
}

#[test]
fn a_reload_takes_pages_in_and_out_or_changes_nothing() {
    let mut door = with_page("502.txt", "one\n").start();
    let reload = |door: &Door| door.post("/v1/reload", json!({})).parsed::<Reload>();
    let page = |door: &Door, name: &str| door.dir().join(name).to_str().unwrap().to_owned();
    let missing = page(&door, "missing.txt");
    door.configure("error_pages.503", missing.clone());
    let told = reload(&door).fault.expect("a fault");
    assert!(told.contains(&format!("{missing}: there is no such file")) && told.contains("bgproxy.toml:"), "{told}");
    assert_eq!(door.get("/").text(), "one\n");
    door.forget("error_pages.503");
    std::fs::write(door.dir().join("other.txt"), "other\n").unwrap();
    let other = page(&door, "other.txt");
    door.configure("error_pages.502", other);
    assert!(reload(&door).ok);
    assert_eq!(door.get("/").text(), "other\n");
    door.forget("error_pages.502");
    assert!(reload(&door).ok);
    assert!(door.get("/").text().starts_with("502 Bad Gateway"));
}

#[test]
fn a_start_with_a_page_that_is_of_no_use_says_which_and_where() {
    let said = |builder: Builder| {
        let dir = builder.dir().to_str().unwrap().to_owned();
        let door = builder.door();
        let output = door.start_expecting_failure();
        let checked = door.bgproxy(&["check", "-c", door.config().to_str().unwrap()]);
        assert_eq!((output.code, checked.code), (Some(1), Some(1)));
        let words: Vec<&str> = output.stderr.lines().skip_while(|line| !line.starts_with("error")).collect();
        assert_eq!(checked.stderr.trim_end(), words.join("\n"), "`bgproxy check` says it too");
        words.join("\n").replace(&dir, "DIR")
    };
    let named = |path: &Path| Door::builder().set("error_pages.503", path.to_str().unwrap());
    insta::assert_snapshot!(said(named(Path::new("/nowhere/503.html"))), @r#"
    error: /nowhere/503.html: there is no such file
     --> DIR/bgproxy.toml:3:13
      |
    3 | error_pages.503 = "/nowhere/503.html"
      |             ^^^
      |
      = help: put a page there that bgproxy can read (at most 64 KiB of UTF-8, and JSON if its name says so), or leave the key out
    "#);
    insta::assert_snapshot!(said(with_page("502.html", &"x".repeat(65_537))), @r#"
    error: DIR/502.html: it has 65537 bytes, and 65536 are the most
     --> DIR/bgproxy.toml:3:13
      |
    3 | error_pages.502 = "DIR/502.html"
      |             ^^^
      |
      = help: put a page there that bgproxy can read (at most 64 KiB of UTF-8, and JSON if its name says so), or leave the key out
    "#);
    insta::assert_snapshot!(said(named(Path::new("/nowhere/503.php"))), @r#"
    error: `/nowhere/503.php` does not say what kind of text it is
     --> DIR/bgproxy.toml:3:13
      |
    3 | error_pages.503 = "/nowhere/503.php"
      |             ^^^
      |
      = help: give it a name that ends in `.html`, `.json` or `.txt`
    "#);
}
