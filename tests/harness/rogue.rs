//! An authority that means harm, or is out of order: it speaks ACME as far as a test lets it, and signs nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::door::Builder;
use super::fake::{Act, Choice};
use super::{Authority, Door, Fake};

/// The token of its challenge.
pub(crate) const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";

/// An authority behind a door of its own, because authorities are spoken to by TLS alone.
pub(crate) struct Rogue {
    front: Door,
    back: Fake,
    server: Authority,
    knows_host: Arc<AtomicBool>,
}

impl Rogue {
    /// One that answers requests for a path (`/directory`, `/nonce`, `/account`, `/order`, `/order/1`, `/authz`,
    /// `/challenge`, `/finalize`, `/cert`) with what this says, and all others as it should. It has looked at the host
    /// before, unless [`Rogue::doubts`].
    #[track_caller]
    pub(crate) fn start(answers: impl Fn(&str) -> Option<Vec<Act>> + Send + Sync + 'static) -> Rogue {
        let (server, base) = (Authority::new(), Arc::new(OnceLock::<String>::new()));
        let knows_host = Arc::new(AtomicBool::new(true));
        let choice = {
            let (base, knows_host, finalized) = (base.clone(), knows_host.clone(), AtomicBool::new(false));
            Choice::new(move |target| {
                let base = base.get().map_or("", String::as_str);
                match target {
                    "/finalize" => finalized.store(true, Ordering::Relaxed),
                    "/order" => finalized.store(false, Ordering::Relaxed),
                    _ => {}
                }
                let (known, finalized) = (knows_host.load(Ordering::Relaxed), finalized.load(Ordering::Relaxed));
                answers(target).unwrap_or_else(|| vec![Act::Say(usual(base, target, known, finalized))])
            })
        };
        let script = move |_| vec![Act::ReadRequest, Act::Choose(choice.clone()), Act::Repeat];
        let (front, back) = Door::builder().tls(&server).before(|at| Fake::scripted(at, script));
        base.set(format!("https://localhost:{}", front.addr().port())).expect("set once");
        Rogue { front, back, server, knows_host }
    }

    /// It wants to look at the host, and never does.
    pub(crate) fn doubts(&self) {
        self.knows_host.store(false, Ordering::Relaxed);
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://localhost:{}/directory", self.front.addr().port())
    }

    /// How often this path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.back.requests().iter().filter(|request| request.target() == path).count()
    }
}

/// A JSON answer, with a nonce.
pub(crate) fn answer(status: &str, headers: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nReplay-Nonce: bm9uY2U\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// What an authority says as it should.
fn usual(base: &str, path: &str, knows_host: bool, finalized: bool) -> Vec<u8> {
    let at = |path: &str| format!("{base}{path}");
    let status = |yes: bool, then: &'static str, otherwise: &'static str| if yes { then } else { otherwise };
    let located = |path: &str| format!("Location: {base}{path}\r\n");
    let challenge = json!({ "type": "http-01", "url": at("/challenge"), "token": TOKEN, "status": "pending" });
    let order = |status: &str| {
        let cert = finalized.then(|| at("/cert"));
        json!({ "status": status, "authorizations": [at("/authz")], "finalize": at("/finalize"), "certificate": cert })
    };
    match path {
        "/directory" => {
            let urls = json!({ "newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order") });
            answer("200 OK", "", &urls)
        }
        "/nonce" => b"HTTP/1.1 200 OK\r\nReplay-Nonce: bm9uY2U\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "/account" => answer("201 Created", &located("/account/1"), &json!({ "status": "valid" })),
        "/order" => answer("201 Created", &located("/order/1"), &order("pending")),
        "/order/1" => answer("200 OK", "", &order(status(finalized, "valid", "ready"))),
        "/authz" => {
            let identifier = json!({ "type": "dns", "value": "portal.test" });
            let status = status(knows_host, "valid", "pending");
            answer("200 OK", "", &json!({ "identifier": identifier, "status": status, "challenges": [challenge] }))
        }
        "/challenge" => answer("200 OK", "", &challenge),
        "/finalize" => answer("200 OK", "", &order("valid")),
        _ => answer("404 Not Found", "", &json!({ "type": "urn:ietf:params:acme:error:malformed", "detail": path })),
    }
}

impl Builder {
    /// Wants certificates for these hosts from this authority; its first listener speaks TLS, the second one is in
    /// clear.
    pub(crate) fn rogue(self, rogue: &Rogue, hosts: &[&str]) -> Builder {
        let ca = rogue.server.write(self.dir());
        self.wants(hosts).set("acme.directory", rogue.directory()).set("acme.ca", ca.to_str().expect("a readable path"))
    }

    /// Wants certificates for these hosts; its first listener speaks TLS, the second one is in clear.
    pub(crate) fn wants(self, hosts: &[&str]) -> Builder {
        let listeners = json!([{ "address": "127.0.0.1:0", "tls": true }, { "address": "127.0.0.1:0" }]);
        self.set("listen", listeners).set("acme.hosts", json!(hosts)).set("acme.terms_agreed", true)
    }
}
