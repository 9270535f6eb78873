//! What does a limit by address cost? For one address that asks over and over, and for a million of them.

use crate::load::charged;
use crate::load::wrk::Wrk;
use crate::metric::Turn;
use crate::participants::{Participant, Who};
use crate::row::{About, Row};
use crate::site::Site;

/// Another client with each request, as the proxy in front of us says whom bgproxy trusts by default.
const ANOTHER: &str = r#"
local number = 0
function request()
  number = number + 1
  local part = function(by) return math.floor(number / by) % 256 end
  wrk.headers["X-Forwarded-For"] = string.format("%d.%d.%d.%d", 1 + part(2^24), part(2^16), part(2^8), part(1))
  return wrk.format()
end
"#;

/// Seconds until there were a million addresses, on a slow machine too.
const LEAST: u32 = 30;

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![Box::new(Limited), Box::new(Addresses)]
}

struct Limited;

impl Row for Limited {
    fn about(&self) -> About {
        About {
            id: "limited",
            title: "small GET, with and without a limit by address".to_owned(),
            what: "HTTP/1.1 in clear, GET of 612 bytes, keep-alive (wrk, 64 connections), all from one address, which \
                   may ask 100,000 times a second"
                .to_owned(),
            unit: "request",
            targets: Vec::new(),
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        takes(who)
    }

    fn turn(&self, _: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let wrk = Wrk { connections: 64, path: "/", script: None };
        charged(participant, || wrk.run(&format!("http://{}", participant.clear), seconds))
    }
}

struct Addresses;

impl Row for Addresses {
    fn about(&self) -> About {
        About {
            id: "addresses",
            title: "small GET, each from another address".to_owned(),
            what: format!(
                "the same with another X-Forwarded-For in each request, to a proxy started for it, for {LEAST} s at \
                 least: a million addresses where it does 34,000 a second; memory (PSS) at the end"
            ),
            unit: "request",
            targets: Vec::new(),
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        takes(who)
    }

    fn is_once(&self) -> bool {
        true
    }

    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let fresh = participant.who.start(site)?;
        let wrk = Wrk { connections: 64, path: "/", script: Some(ANOTHER) };
        charged(&fresh, || wrk.run(&format!("http://{}", fresh.clear), seconds.max(LEAST)))
    }
}

/// Builds of bgproxy, with and without a limit.
fn takes(who: &Who) -> bool {
    who.kind.is_ours() && !who.setup.log
}
