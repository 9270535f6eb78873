//! How much memory do proxies need while many large bodies are on their way?

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow};

use crate::load::wrk::Wrk;
use crate::metric::{Metric, Turn};
use crate::participants::Participant;
use crate::process::{Running, pause};
use crate::row::{About, Against, Row, Target};
use crate::site::Site;

const WRK: Wrk = Wrk { connections: 512, path: "/1m", script: None };

/// Seconds until every connection has had an answer or two, on a slow machine too.
const LEAST: u32 = 3;

/// 512 connections that are always busy.
pub(super) struct Busy;

impl Row for Busy {
    fn about(&self) -> About {
        About {
            id: "memory-512-1m",
            title: "memory, 512 busy connections, 1 MiB bodies".to_owned(),
            what: "the most there was during GETs of 1 MiB on 512 connections (wrk), of a proxy started for it; \
                   PSS of all processes, looked at every 10 ms"
                .to_owned(),
            unit: "request",
            targets: vec![Target { metric: Metric::Memory, against: Against::Nginx, must: 1.5, aim: 1.0 }],
            quick: false,
        }
    }

    /// Memory that a load before this one has left behind is not what this one needs.
    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let fresh = participant.who.start(site)?;
        let over = AtomicBool::new(false);
        let (most, done) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| most(&fresh.process, &over));
            let done = WRK.run(&format!("http://{}", fresh.clear), seconds.max(LEAST));
            over.store(true, Ordering::Relaxed);
            (watcher.join(), done)
        });
        let rate = done?.metrics.into_iter().find(|(metric, _)| *metric == Metric::Rate).context("no rate")?;
        Ok(vec![rate, (Metric::Memory, most.map_err(|_| anyhow!("the watcher has panicked"))??)])
    }
}

/// The most memory that it has until it is over.
fn most(process: &Running, over: &AtomicBool) -> anyhow::Result<f64> {
    let mut most = process.memory()?;
    while !over.load(Ordering::Relaxed) {
        pause();
        most = most.max(process.memory()?);
    }
    Ok(most)
}
