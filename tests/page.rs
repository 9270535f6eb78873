//! The status page in a real browser: what a person sees, while things happen.

use serde_json::json;

use crate::harness::raw::request;
use crate::harness::{Browser, DEADLINE, Raw, Site, temp_dir, wait_until};

#[test]
fn the_page_follows_a_switch_and_its_drain_without_a_reload() {
    let site = Site::start_with(|door| door.set("service.portal.drain.deadline", "60s"));
    let dir = temp_dir();
    let browser = Browser::start(dir.path());
    browser.open(&format!("http://{}/", site.door.admin()));
    browser.wait_text("generation 1");
    assert_eq!(live(&browser), ["blue"]);

    let mut slow = site.door.connect();
    slow.send(request("GET", "/hold?id=a", &[], b""));
    site.blue.wait_entered("a");
    site.door.switch("green");
    wait_until("green live on the page", DEADLINE, || live(&browser) == ["green"]);
    browser.wait_text("drain");
    site.blue.release("a");
    assert_eq!(slow.response().status, 200);
    browser.wait_text("1 of 1 finished");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_says_when_it_has_lost_contact_and_recovers() {
    let mut site = Site::start();
    let admin = site.door.admin().to_string();
    site.door.configure("admin.address", json!(admin));
    let dir = temp_dir();
    let browser = Browser::start(dir.path());
    browser.open(&format!("http://{admin}/"));
    browser.wait_text("generation 1");
    site.door.kill9();
    browser.wait_text("lost contact");
    site.door.restart();
    wait_until("contact again", DEADLINE, || !browser.text().to_lowercase().contains("lost contact"));
}

#[test]
fn the_page_says_which_host_has_no_certificate_and_why() {
    let site = Site::start_with(|door| {
        let missing = door.dir().join("missing.pem").display().to_string();
        door.wants(&["portal.test"]).set("acme.directory", "https://127.0.0.1:1/").set("acme.ca", missing)
    });
    let dir = temp_dir();
    let browser = Browser::start(dir.path());
    browser.open(&format!("http://{}/", site.door.admin()));
    for told in ["portal.test: none yet", "portal.test: no certificate, tried 1 time, next at ", "correct `acme.ca`"] {
        browser.wait_text(told);
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_says_what_limits_refuse_while_they_do() {
    let site = Site::start_with(|door| {
        let door = door.set("limits.requests_per_second", 1).set("limits.requests_burst", 1);
        door.set("limits.exempt", json!(["127.0.0.1/32"]))
    });
    let dir = temp_dir();
    let browser = Browser::start(dir.path());
    browser.open(&format!("http://{}/", site.door.admin()));
    browser.wait_text("generation 1");
    assert!(!browser.text().contains("limits"), "nothing to look at");
    let mut client = Raw::connect_from([127, 0, 0, 2].into(), site.door.addr());
    let mut refusals =
        || (0..10).filter(|_| client.send(request("GET", "/", &[], b"")).response().status == 429).count();
    let first = refusals();
    browser.wait_text(&format!(
        "in the last minute {first} requests refused (rate_limited); the newest address is 127.0.0.2"
    ));
    let all = first + refusals();
    browser.wait_text(&format!("in the last minute {all} requests refused (rate_limited)"));
    let fits = browser.run("return document.documentElement.scrollWidth <= innerWidth");
    assert_eq!(fits, true, "long words make nobody scroll to the side");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// The colors whose card has the badge LIVE.
fn live(browser: &Browser) -> Vec<String> {
    let script = "return [...document.querySelectorAll('.badge.live')].filter(badge => badge.textContent === 'LIVE') \
        .map(badge => badge.closest('section').querySelector('.name').textContent)";
    serde_json::from_value(browser.run(script)).unwrap_or_default()
}
