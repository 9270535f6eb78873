//! How does it scale? The same load with one worker and with two.

use crate::load::charged;
use crate::load::wrk::Wrk;
use crate::metric::Turn;
use crate::participants::{Participant, Setup, Who};
use crate::row::{About, Row};
use crate::site::Site;

const WRK: Wrk = Wrk { connections: 64, path: "/", script: None };

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![Box::new(Workers { id: "workers-1", number: 1 }), Box::new(Workers { id: "workers-2", number: 2 })]
}

struct Workers {
    id: &'static str,
    number: u32,
}

impl Row for Workers {
    fn about(&self) -> About {
        About {
            id: self.id,
            title: format!("small GET, {} worker{}", self.number, if self.number == 1 { "" } else { "s" }),
            what: "HTTP/1.1 keep-alive in clear, 612 bytes, 64 connections (wrk); load and backend have the same cores"
                .to_owned(),
            unit: "request",
            targets: Vec::new(),
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.has_workers()
    }

    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let participant = participant.who.with(Setup { workers: self.number, ..Setup::default() }).start(site)?;
        charged(&participant, || WRK.run(&format!("http://{}", participant.clear), seconds))
    }
}
