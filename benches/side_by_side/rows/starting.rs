//! How long does nobody serve? From the start to the first answer, and from a changed configuration to its effect.

use std::time::{Duration, Instant};

use crate::levers::Levers;
use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Setup, Who};
use crate::process::rest_until;
use crate::row::{About, Row};
use crate::site::Site;

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![Box::new(Starting)]
}

struct Starting;

impl Row for Starting {
    fn about(&self) -> About {
        About {
            id: "start",
            title: "start and reload".to_owned(),
            what:
                "from its start to the first 200; from the new file and the command to the first answer that shows it"
                    .to_owned(),
            unit: "start",
            targets: Vec::new(),
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.is_whole()
    }

    fn turn(&self, site: &Site, participant: &Participant, _: u32) -> anyhow::Result<Turn> {
        let participant = participant.who.with(Setup { changing: true, ..Setup::default() }).start(site)?;
        // What a start leaves to be done.
        rest_until(Instant::now() + Duration::from_millis(500));
        let levers = Levers::new(&participant)?;
        let begun = Instant::now();
        levers.reload("green")?;
        levers.wait_for("green")?;
        let reload = begun.elapsed();
        Ok(vec![
            (Metric::Start, participant.process.took.as_secs_f64() * 1e3),
            (Metric::Reload, reload.as_secs_f64() * 1e3),
            (Metric::Memory, participant.process.memory()?),
        ])
    }
}
