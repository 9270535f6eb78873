//! What do many services cost? A request's way among ten thousand hosts, the time to start and to reload, and memory.

use std::time::{Duration, Instant};

use crate::levers::Levers;
use crate::load::address::Address;
use crate::load::generator::{Pace, Plan, generate};
use crate::load::talk::Talk;
use crate::load::{Done, charged};
use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Setup, Who};
use crate::process::rest_until;
use crate::row::{About, Row};
use crate::site::{Site, host};

const CONNECTIONS: usize = 64;

/// How many of the hosts are asked for. Everybody keeps connections to the backend for each service, so that more would
/// show nothing but open files.
const ASKED: usize = 1000;

/// Until what a start or a reload has left behind is done.
const SETTLED: Duration = Duration::from_secs(1);

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![
        Box::new(Services { id: "services-1", number: 1 }),
        Box::new(Services { id: "services-10000", number: 10_000 }),
    ]
}

struct Services {
    id: &'static str,
    number: u32,
}

impl Row for Services {
    fn about(&self) -> About {
        let hosts = ASKED.min(self.number as usize);
        About {
            id: self.id,
            title: format!("{} in the configuration", if self.number == 1 { "one service" } else { "10,000 services" }),
            what: format!(
                "each with a host and a backend of its own (nginx: server and upstream; HAProxy: map entry and backend), \
                 {CONNECTIONS} connections, {hosts} of the hosts at random. Start: to the first 200; reload: from the \
                 new file with one service changed to the first answer that shows it"
            ),
            unit: "request",
            targets: Vec::new(),
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.has_workers()
    }

    fn is_once(&self) -> bool {
        true
    }

    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let setup = Setup { services: self.number, changing: true, ..Setup::default() };
        let participant = participant.who.with(setup).start(site)?;
        let start = participant.process.took;
        rest_until(Instant::now() + SETTLED);
        let to = Address::Tcp(participant.clear);
        let mut random = fastrand::Rng::with_seed(1);
        let hosts = random.choose_multiple(0..self.number, ASKED).into_iter().map(host);
        let talk = Talk::of_hosts(hosts);
        let load = |time| generate(&Plan { to: &to, connections: CONNECTIONS, talk: &talk, pace: Pace::Full, time });
        // Connections to the backends.
        let mut failed = load(SETTLED)?.failed.all();
        let mut turn = charged(&participant, || {
            let outcome = load(Duration::from_secs(seconds.into()))?;
            failed += outcome.failed.all();
            let metrics = vec![(Metric::Rate, outcome.rate()), (Metric::P99, outcome.millis(0.99))];
            Ok(Done { number: outcome.answered as f64, metrics })
        })?;
        let levers = Levers::new(&participant)?;
        let begun = Instant::now();
        levers.reload("green")?;
        levers.wait_for("green")?;
        turn.push((Metric::Failed, failed as f64));
        turn.push((Metric::Start, start.as_secs_f64() * 1e3));
        turn.push((Metric::Reload, begun.elapsed().as_secs_f64() * 1e3));
        Ok(turn)
    }
}
