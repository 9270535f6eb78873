//! Authorities that mean harm or are out of order, disks that fail, and strangers at the door: they can withhold a
//! certificate, and nothing else.

use serde_json::json;

use crate::harness::http2::{Http2, runtime};
use crate::harness::raw::request;
use crate::harness::rogue::{Rogue, TOKEN};
use crate::harness::{Authority, DEADLINE, Door, Fake, Raw, Trust, wait_until};

const HOST: &str = "portal.test";

// === strangers ===

#[test]
fn strangers_find_an_answer_where_an_authority_looks_and_nothing_else() {
    let rogue = Rogue::start(|_| None);
    rogue.doubts();
    let own = Authority::new();
    let builder = Door::builder().rogue(&rogue, &[HOST]).set("acme.challenge", "http-01");
    let files = own.server(&[HOST, "else.test"]).write(&builder.dir().join("own"));
    let (door, blue) = builder.set("certificate", json!([files])).before(Fake::echoes);
    wait_until("a challenge", DEADLINE, || rogue.asked("/challenge") > 0);
    let path = format!("/.well-known/acme-challenge/{TOKEN}");
    let ask = |method: &str, target: &str| {
        Raw::ask(door.listener(1), &request(method, target, &[("Host", "else.test")], b""))
    };
    let proof = ask("GET", &path).text();
    assert!(proof.starts_with(&format!("{TOKEN}.")) && proof.len() == TOKEN.len() + 44, "{proof}");
    let head =
        Raw::connect(door.listener(1)).send(request("HEAD", &path, &[("Host", HOST)], b"")).try_response_to_head();
    let head = head.unwrap();
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    assert!(blue.requests().is_empty());

    // Over HTTP/2 too, where a body that answers HEAD would break the connection.
    runtime().block_on(async {
        let trust = Trust::of(&own, HOST);
        let client = Http2::connect(&door.addr().into(), Some(&trust)).await.unwrap();
        let url = format!("https://{HOST}{path}");
        let head = http::Request::head(&url).body(()).unwrap();
        assert_eq!(client.ask(head, Vec::new()).await.unwrap().text(), "");
        assert_eq!(client.get(&url).await.unwrap().text(), proof);
    });

    // What an authority does not do is the backend's.
    let others = [
        ("POST", path.clone()),
        ("GET", format!("{path}/")),
        ("GET", format!("{path}/../x")),
        ("GET", format!("/.well-known/acme-challenge/%2e%2e/{TOKEN}")),
        ("GET", format!("/.well-known//acme-challenge/{TOKEN}")),
        ("GET", format!("/.well-known/acme-challenge/{}", "a".repeat(4000))),
        ("GET", "/.well-known/acme-challenge/".to_owned()),
    ];
    for (method, target) in &others {
        let said = ask(method, target).text();
        assert!(!said.contains(&proof[TOKEN.len()..]), "{method} {target}: {said}");
        assert!(said.starts_with(&format!("{method} /.well-known/")), "{method} {target}: {said}");
    }
    assert_eq!(blue.requests().len(), others.len());

    // Thousands of them are requests like any others.
    let mut client = Raw::connect(door.listener(1));
    for nth in 0..3000 {
        let target = format!("/.well-known/acme-challenge/{nth}");
        assert_eq!(client.send(request("GET", &target, &[("Host", HOST)], b"")).response().status, 200);
    }
    // Nobody asked for a handshake.
    for name in [HOST, "else.test", "unknown.test"] {
        assert!(Raw::try_handshake(door.addr(), &Trust::of(&own, name), &["acme-tls/1"]).is_err(), "{name}");
    }
    assert_eq!(door.metrics().sum("bgproxy_connection_failures_total", &[("reason", "tls_unprepared")]), 3.0);
}
