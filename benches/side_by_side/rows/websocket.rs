//! What does a message in a websocket cost?

use std::time::Duration;

use crate::echo;
use crate::load::address::Address;
use crate::load::generator::{Pace, Plan, generate};
use crate::load::talk::Talk;
use crate::load::{Done, charged};
use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Setup, Who};
use crate::row::{About, Row, Target};
use crate::site::Site;

const CONNECTIONS: usize = 64;

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![
        Box::new(Messages { id: "websocket-64", size: 64 }),
        Box::new(Messages { id: "websocket-16k", size: 16 << 10 }),
    ]
}

struct Messages {
    id: &'static str,
    size: usize,
}

impl Row for Messages {
    fn about(&self) -> About {
        About {
            id: self.id,
            title: format!("websocket echo, {} bytes", self.size),
            what: format!("{CONNECTIONS} websockets, each sends {} bytes when the last came back", self.size),
            unit: "message",
            targets: Target::cpu_and_rate(1.0, 0.8),
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.is_whole()
    }

    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let socket = site.home("echo")?.join("echo.sock");
        let _backend = echo::start(&socket)?;
        let participant = participant.who.with(Setup { echo: Some(socket), ..Setup::default() }).start(site)?;
        charged(&participant, || {
            let to = Address::Tcp(participant.clear);
            let time = Duration::from_secs(seconds.into());
            let talk = Talk::echo(self.size);
            let plan = Plan { to: &to, connections: CONNECTIONS, talk: &talk, pace: Pace::Full, time };
            let outcome = generate(&plan)?.all_answered()?;
            let metrics = vec![
                (Metric::Rate, outcome.rate()),
                (Metric::P50, outcome.millis(0.5)),
                (Metric::P99, outcome.millis(0.99)),
            ];
            Ok(Done { number: outcome.answered as f64, metrics })
        })
    }
}
