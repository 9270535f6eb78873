//! PROXY protocol: who the client is, from HAProxy before the door to nginx behind it, and who is not believed.

use std::process::Command;

use serde_json::json;

use crate::harness::door::{Builder, NAME};
use crate::harness::others::{haproxy, nginx};
use crate::harness::raw::request;
use crate::harness::{Authority, DEADLINE, Door, Output, Process, Raw, need, temp_dir, text_of, wait_until};

/// A door that demands PROXY protocol of its clients (in clear, and over TLS) and speaks it to an nginx.
struct Between {
    // In the order they end: the door first.
    door: Door,
    authority: Authority,
    _nginx: Process,
    dir: tempfile::TempDir,
}

impl Between {
    fn start_with(change: impl FnOnce(Builder) -> Builder) -> Between {
        let (dir, authority) = (temp_dir(), Authority::new());
        let (socket, log) = (dir.path().join("blue.sock"), dir.path().join("behind.log"));
        let answer = "addr=$proxy_protocol_addr remote=$remote_addr xff=$http_x_forwarded_for real=$http_x_real_ip";
        let server = format!(
            "log_format who '$proxy_protocol_addr $request';\n\
             server {{ listen unix:{} proxy_protocol; set_real_ip_from unix:; real_ip_header proxy_protocol;\n\
             access_log {} who; add_header X-Color blue; location / {{ return 200 '{answer}'; }} }}",
            socket.display(),
            log.display(),
        );
        let nginx = nginx(dir.path(), &server, &socket);
        let listeners = json!([
            { "address": "127.0.0.1:0", "proxy_protocol": "required" },
            { "address": "127.0.0.1:0", "proxy_protocol": "required", "tls": true },
        ]);
        let door = Door::builder()
            .tls(&authority)
            .set("listen", listeners)
            .set("trusted.proxies", json!(["127.0.0.1/32"]))
            .set("service.portal.backends.blue", json!({ "socket": socket, "send_proxy": true }));
        Between { door: change(door).start(), authority, _nginx: nginx, dir }
    }

    /// What nginx says when a client from this address asks there for each of these paths, over one connection.
    fn ask(&self, source: &str, url: &str, paths: &[&str]) -> Vec<String> {
        let mut command = Command::new(need("curl"));
        command.args(["--noproxy", "*", "--silent", "--show-error", "--fail", "--interface", source]);
        command.args(["--write-out", "\n", "--header", "X-Forwarded-For: 203.0.113.9"]);
        command.arg("--cacert").arg(self.authority.write(self.dir.path()));
        let port = url.rsplit(':').next().expect("a port");
        command.args(["--resolve", &format!("{NAME}:{port}:127.0.0.1")]);
        command.args(paths.iter().map(|path| format!("{url}{path}")));
        let output = Output::of(&mut command, self.dir.path()).ok();
        output.stdout.lines().map(ToOwned::to_owned).collect()
    }

    /// What nginx has written down.
    fn heard(&self) -> String {
        text_of(&self.dir.path().join("behind.log"))
    }
}

#[test]
fn the_clients_address_arrives_at_both_ends_in_each_version_of_the_protocol() {
    let between = Between::start_with(|door| door);
    let mut number = 10;
    for version in ["send-proxy-v2", "send-proxy"] {
        for (listener, scheme) in [(0, "http"), (1, "https")] {
            let (_haproxy, front) = haproxy(between.dir.path(), between.door.listener(listener), version);
            let url = format!("{scheme}://{NAME}:{}", front.port());
            for _ in 0..2 {
                number += 1;
                let client = format!("127.0.0.{number}");
                let said = between.ask(&client, &url, &["/a", "/b"]);
                // What it says of itself in a header is not believed: its address is not among the trusted ones.
                let expected = format!("addr={client} remote={client} xff={client} real={client}");
                assert_eq!(said, [expected.clone(), expected], "{version}, {scheme}");
            }
        }
    }
    let clients: Vec<String> = (11..=number).map(|number| format!("127.0.0.{number}")).collect();
    wait_until("the access log", DEADLINE, || text_of(&between.door.access_log()).lines().count() == 2 * clients.len());
    let log = text_of(&between.door.access_log());
    let logged = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let mut logged: Vec<String> = logged.map(|line| line["client"].as_str().expect("an address").to_owned()).collect();
    // Each worker writes its own lines when it likes.
    logged.sort_unstable();
    let twice: Vec<String> = clients.iter().flat_map(|client| [client.clone(), client.clone()]).collect();
    assert_eq!(logged, twice);
    wait_until("nginx's log", DEADLINE, || between.heard().lines().count() == 2 * clients.len());
    for client in &clients {
        assert_eq!(between.heard().matches(&format!("{client} GET ")).count(), 2, "nginx behind: {}", between.heard());
    }
    crate::harness::tell(format_args!(
        "PROXY protocol, HAProxy before and nginx behind: {} clients in version 1 and 2, in clear and over TLS; each \
         one's address arrived in the access log, in X-Forwarded-For and behind",
        clients.len()
    ));
}

#[test]
fn nobody_but_a_trusted_proxy_says_who_the_client_is() {
    let between = Between::start_with(|door| door);
    let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n";
    let forged = [&header[..], &request("GET", "/forged", &[("Connection", "close")], b"")].concat();
    let mut stranger = Raw::connect_from([127, 0, 0, 2].into(), between.door.addr());
    // It may have been turned away before it has said all that.
    let _sent = stranger.try_send(&forged);
    assert_eq!(stranger.rest().bytes.escape_ascii().to_string(), "", "turned away");

    // The same from a trusted one, so that it is seen what the difference is.
    let mut trusted = Raw::connect(between.door.addr());
    trusted.send(String::from_utf8_lossy(&forged).replace("/forged", "/trusted"));
    assert!(trusted.response().text().starts_with("addr=203.0.113.7 remote=203.0.113.7 "));

    // One that does not know who it is speaks for nobody: what its client says of itself is not believed.
    let mut unknown = Raw::connect(between.door.addr());
    let asked = request("GET", "/unknown", &[("Connection", "close"), ("X-Forwarded-For", "203.0.113.8")], b"");
    unknown.send([&b"PROXY UNKNOWN\r\n"[..], &asked].concat());
    let said = unknown.response().text();
    assert!(said.ends_with("xff=127.0.0.1 real=127.0.0.1"), "{said}");

    // And a trusted one that says nothing.
    let mut silent = Raw::connect(between.door.addr());
    let _sent = silent.try_send(request("GET", "/silent", &[("Connection", "close")], b""));
    assert_eq!(silent.rest().bytes.escape_ascii().to_string(), "", "turned away");
    wait_until("nginx's log", DEADLINE, || between.heard().contains("GET /unknown "));
    assert_eq!(between.heard(), "203.0.113.7 GET /trusted HTTP/1.1\n127.0.0.1 GET /unknown HTTP/1.1\n");
}
