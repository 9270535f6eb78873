//! What does a request cost that has a connection already?

use crate::load::charged;
use crate::load::wrk::Wrk;
use crate::metric::Turn;
use crate::participants::Participant;
use crate::row::{About, Row, Target};
use crate::site::Site;

pub(super) fn all() -> Vec<Box<dyn Row>> {
    let small = |id, connections| Clear { id, title: "small GET", wrk: Wrk { connections, path: "/", script: None } };
    vec![Box::new(small("get-1", 1)), Box::new(small("get-64", 64)), Box::new(small("get-512", 512))]
}

/// Requests in clear.
struct Clear {
    id: &'static str,
    title: &'static str,
    wrk: Wrk,
}

impl Row for Clear {
    fn about(&self) -> About {
        let connections = self.wrk.connections;
        About {
            id: self.id,
            title: format!("{}, {connections} connections", self.title),
            what: format!("HTTP/1.1 keep-alive in clear, 612 bytes (wrk, {connections} connections)"),
            unit: "request",
            targets: Target::cpu_and_rate(1.0, 0.8),
            quick: connections == 64,
        }
    }

    fn turn(&self, _: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        charged(participant, || self.wrk.run(&format!("http://{}", participant.clear), seconds))
    }
}
