//! What do clients notice of switches? Fifty of them in ten seconds, under a load that goes on meanwhile.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::levers::Levers;
use crate::load::address::Address;
use crate::load::generator::{Pace, Plan, generate};
use crate::load::outcome::{Outcome, Seen};
use crate::load::talk::Talk;
use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Setup, Who};
use crate::process::rest_until;
use crate::row::{About, Against, Row, Target};
use crate::site::Site;

const CONNECTIONS: usize = 64;
const SATURATED: Duration = Duration::from_secs(1);

/// Between two switches.
const APART: Duration = Duration::from_millis(200);

/// How many times as long as a turn is: ten seconds, as a rule.
const LONG: u32 = 5;

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![Box::new(Switching)]
}

struct Switching;

/// A command, as its sender saw it.
struct Sent {
    to: u8,
    at: Instant,
    heard: Instant,
}

impl Row for Switching {
    fn about(&self) -> About {
        let absolute = |metric, must, aim| Target { metric, against: Against::Nothing, must, aim };
        About {
            id: "switches",
            title: "switches under load".to_owned(),
            what: format!(
                "open loop at a third of its own peak, {CONNECTIONS} connections: a switch every {} ms, and a quiet run \
                 as long. bgproxy by its control socket (with a probe), nginx by a new configuration and `nginx -s \
                 reload`, HAProxy by `set map`, Caddy by its API. Took: from the command to the first answer of the new color. Stale: \
                 requests sent after the command was answered that the old color served",
                APART.as_millis()
            ),
            unit: "request",
            targets: vec![absolute(Metric::Slowdown, 1.2, 1.0), absolute(Metric::Failed, 0.0, 0.0)],
            quick: false,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.is_whole()
    }

    fn is_once(&self) -> bool {
        true
    }

    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let participant = participant.who.with(Setup { changing: true, ..Setup::default() }).start(site)?;
        let to = Address::Tcp(participant.clear);
        let talk = Talk { tells_color: true, ..Talk::small() };
        let load = |pace, time| generate(&Plan { to: &to, connections: CONNECTIONS, talk: &talk, pace, time });
        let rate = load(Pace::Full, SATURATED)?.all_answered()?.rate() / 3.0;
        let time = Duration::from_secs((seconds * LONG).into());
        let quiet = load(Pace::Fixed(rate), time)?;
        let levers = Levers::new(&participant)?;
        let (busy, sent) = std::thread::scope(|scope| {
            let operator = scope.spawn(|| operate(&levers, time));
            (load(Pace::Fixed(rate), time), operator.join())
        });
        let (busy, sent) = (busy?, sent.ok().context("the operator panicked")??);
        for (when, load) in [("quiet", &quiet), ("during switches", &busy)] {
            if load.failed.all() + load.renewed > 0 {
                println!(
                    "{}, {when}: of {} requests {:?}; {} connections closed between two requests",
                    participant.who.name, load.sent, load.failed, load.renewed
                );
            }
        }
        let mut turn = vec![
            (Metric::Asked, rate),
            (Metric::P50, busy.millis(0.5)),
            (Metric::P99, busy.millis(0.99)),
            (Metric::P999, busy.millis(0.999)),
            (Metric::Max, busy.millis(1.0)),
            (Metric::Slowdown, busy.millis(0.99) / quiet.millis(0.99)),
            (Metric::Slowdown999, busy.millis(0.999) / quiet.millis(0.999)),
            (Metric::Failed, (quiet.failed.all() + busy.failed.all()) as f64),
        ];
        turn.extend(effects(&busy, &sent)?);
        Ok(turn)
    }
}

/// Switches, to and fro.
fn operate(levers: &Levers<'_>, time: Duration) -> anyhow::Result<Vec<Sent>> {
    let start = Instant::now();
    let mut sent = Vec::new();
    while APART * (sent.len() as u32 + 1) <= time {
        rest_until(start + APART * sent.len() as u32 + APART / 2);
        let color = if sent.len() % 2 == 0 { "green" } else { "blue" };
        let at = Instant::now();
        levers.switch(color).with_context(|| format!("switch {}", sent.len() + 1))?;
        sent.push(Sent { to: color.as_bytes()[0], at, heard: Instant::now() });
    }
    Ok(sent)
}

/// When the switches were seen.
fn effects(busy: &Outcome, sent: &[Sent]) -> anyhow::Result<Turn> {
    let mut took = Vec::new();
    let mut stale = 0;
    for (index, command) in sent.iter().enumerate() {
        let next = sent.get(index + 1).map(|next| next.at);
        let within = |when: Instant| next.is_none_or(|next| when < next);
        let new =
            busy.seen.iter().filter(|seen| seen.color == command.to && seen.sent >= command.at && within(seen.done));
        // Never seen when the next one came sooner.
        took.extend(new.map(|seen| seen.done - command.at).min().map(|took| took.as_secs_f64() * 1e3));
        let is_old = |seen: &Seen| seen.color != command.to && seen.sent >= command.heard && within(seen.done);
        stale += busy.seen.iter().copied().filter(is_old).count();
    }
    took.sort_by(f64::total_cmp);
    let (middle, most) = (took.get(took.len() / 2), took.last());
    Ok(vec![
        (Metric::Took, *middle.context("no switch was seen")?),
        (Metric::Slowest, *most.context("no switch was seen")?),
        (Metric::Unseen, (sent.len() - took.len()) as f64),
        (Metric::Stale, stale as f64),
    ])
}
