//! The main promise, once through all of it: real applications, real switches, under load.

use bgproxy_conf::wire::What;

use crate::harness::fake::ok;
use crate::harness::load::SwitchSeen;
use crate::harness::raw::request;
use crate::harness::{Door, Fake, Site, temp_dir};

#[test]
fn a_request_goes_to_the_live_color_and_after_a_switch_to_the_other() {
    let site = Site::start();
    let mut client = site.door.connect();
    assert_eq!(client.send(request("GET", "/", &[], b"")).response().color(), Some("blue"));
    let output = site.door.bgctl(&["switch", "green"]).ok();
    assert!(output.stdout.contains("green"), "{output:?}");
    assert_eq!(client.send(request("GET", "/", &[], b"")).response().color(), Some("green"), "on the same connection");
}

#[test]
fn a_slow_request_finishes_on_the_old_color() {
    let site = Site::start();
    let mut slow = site.door.connect();
    slow.send(request("GET", "/hold?id=a", &[], b""));
    site.blue.wait_entered("a");
    site.door.switch("green");
    assert_eq!(site.door.get("/").color(), Some("green"));
    site.blue.release("a");
    assert_eq!(slow.response().color(), Some("blue"));
}

#[test]
fn a_head_arrives_at_the_backend_whole() {
    let dir = temp_dir();
    let blue = Fake::answers(dir.path().join("blue"), ok("hi"));
    let door = Door::builder().color("blue", blue.address()).start();
    door.connect().send(request("GET", "/a%2Fb//c/../?", &[("X-Odd", "a,b;c")], b"")).response();
    let heard = String::from_utf8(blue.only()).unwrap();
    assert!(heard.starts_with("GET /a%2Fb//c/../? HTTP/1.1\r\n"), "{heard}");
    assert!(heard.to_ascii_lowercase().contains("x-odd: a,b;c\r\n"), "{heard}");
}

#[test]
fn switches_under_load_lose_nothing_and_their_receipts_agree_with_the_clients() {
    let site = Site::start();
    let load = site.load(32);
    let mut events = site.door.events(None);
    let (mut switches, mut receipts) = (Vec::new(), Vec::new());
    for to in ["green", "blue", "green", "blue"] {
        load.wait_round();
        switches.push(SwitchSeen::during(to, || site.door.switch(to)).0);
        let event = events.wait(|what| matches!(what, What::Drained(_)));
        let What::Drained(receipt) = event.what else { unreachable!() };
        receipts.push((receipt.from.to_string(), receipt.served));
        load.wait_round_of(to);
    }
    let tally = load.stop();
    tally.assert_clean();
    tally.assert_served_by_the_right_color(&switches);
    assert_eq!(tally.terms().unwrap()[..receipts.len()], receipts, "what the clients saw, and what the drains say");
}
