//! What does abuse of HTTP/2 cost a proxy, and its other clients? CPU and memory while it lasts, and how long somebody
//! else waits meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::load::address::Address;
use crate::load::flood::{Flood, Flooded, HOLDERS, STREAMS, flood, hold};
use crate::load::generator::{Pace, Plan, generate};
use crate::load::talk::Talk;
use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Setup, Who};
use crate::process::{Running, pause, rest_until};
use crate::row::{About, Row};
use crate::site::Site;

/// How long it lasts.
const LASTS: Duration = Duration::from_secs(3);

/// What the other client asks for: little, on few connections.
const CALM: f64 = 300.0;
const CONNECTIONS: usize = 8;

pub(super) fn all() -> Vec<Box<dyn Row>> {
    let flood = |id, what, title, how| -> Box<dyn Row> { Box::new(Abuse { id, title, how, what: Some(what) }) };
    vec![
        flood("abuse-resets", Flood::Resets, "rapid reset", "GET of 1 MiB and its RST_STREAM"),
        flood("abuse-continuation", Flood::Continuations, "CONTINUATION flood", "a head without an end, 1 KiB a frame"),
        flood("abuse-settings", Flood::Settings, "SETTINGS flood", "SETTINGS, each to be confirmed"),
        flood("abuse-pings", Flood::Pings, "PING flood", "PING, each to be answered"),
        flood("abuse-hpack", Flood::Bombs, "HPACK bomb", "heads of 3 KB that unpack to 11 MB"),
        Box::new(Abuse { id: "abuse-window", title: "zero-window reader", how: "", what: None }),
    ]
}

struct Abuse {
    id: &'static str,
    title: &'static str,
    how: &'static str,
    /// None takes nothing of what it has asked for.
    what: Option<Flood>,
}

impl Row for Abuse {
    fn about(&self) -> About {
        let lasts = LASTS.as_secs();
        let (what, unit) = match self.what {
            Some(_) => (
                format!(
                    "{}, as fast as they are taken, for {lasts} s, over a new connection whenever one is ended",
                    self.how
                ),
                "1000 frames",
            ),
            None => (
                format!("{HOLDERS} connections ask for 1 MiB on each of {STREAMS} streams and take nothing, {lasts} s"),
                "stream",
            ),
        };
        About {
            id: self.id,
            title: format!("HTTP/2 in clear, {}", self.title),
            what: format!("{what}; beside it {CALM} small GETs a second, HTTP/1.1, open loop"),
            unit,
            targets: Vec::new(),
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        !who.setup.log && who.kind.is_whole()
    }

    fn turn(&self, site: &Site, participant: &Participant, _: u32) -> anyhow::Result<Turn> {
        let participant = participant.who.with(Setup::default()).start(site)?;
        let to = Address::Tcp(participant.clear);
        let (talk, pace) = (&Talk::small(), Pace::Fixed(CALM));
        let plan = |time| Plan { to: &to, connections: CONNECTIONS, talk, pace, time };
        generate(&plan(Duration::from_secs(1)))?.all_answered()?;
        let (before, used) = (participant.process.memory()?, participant.process.cpu()?);
        let (h2c, until) = (participant.h2c()?, Instant::now() + LASTS);
        let over = AtomicBool::new(false);
        let (abused, calm, most) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| most(&participant.process, &over));
            let abuse = scope.spawn(|| self.abuse(h2c, until));
            let calm = generate(&plan(LASTS));
            let abused = abuse.join().map_err(|_| anyhow!("the abuse has panicked"));
            over.store(true, Ordering::Relaxed);
            let most = watch.join().map_err(|_| anyhow!("the watch has panicked"));
            anyhow::Ok((abused??, calm?, most??))
        })?;
        let used = participant.process.cpu()? - used;
        // How much comes in three seconds is up to who else uses the machine; what it costs hardly is.
        let units =
            abused.as_ref().map_or(HOLDERS as f64 * f64::from(STREAMS), |flooded| flooded.frames as f64 / 1000.0);
        let turn = vec![
            (Metric::Cpu, used * 1e6 / units.max(1.0)),
            (Metric::Used, used),
            (Metric::Grown, most - before),
            (Metric::P99, calm.millis(0.99)),
            (Metric::Max, calm.millis(1.0)),
            (Metric::Failed, calm.failed.all() as f64),
        ];
        if let Some(Flooded { frames, connections, ended_after, told }) = abused {
            println!(
                "{}, {}: {frames} frames over {connections} connections; the first one {}{}",
                self.id,
                participant.who.name,
                ended_after.map_or("was not ended".to_owned(), |frames| format!("was ended after {frames} frames")),
                told.map(|code| format!(", GOAWAY with code {code}")).unwrap_or_default(),
            );
        }
        Ok(turn)
    }
}

impl Abuse {
    fn abuse(&self, to: std::net::SocketAddr, until: Instant) -> anyhow::Result<Option<Flooded>> {
        match self.what {
            Some(what) => flood(to, what, until).map(Some),
            None => {
                let held = hold(to)?;
                rest_until(until);
                drop(held);
                Ok(None)
            }
        }
    }
}

/// The most memory that it has until then, in MiB.
fn most(process: &Running, over: &AtomicBool) -> anyhow::Result<f64> {
    let mut most: f64 = 0.0;
    while !over.load(Ordering::Relaxed) {
        most = most.max(process.memory()?);
        pause();
    }
    Ok(most)
}
