//! What does a request cost in clear, by HTTP/1.1? Small and large, down and up, on kept connections and on new ones.

use crate::load::charged;
use crate::load::wrk::Wrk;
use crate::metric::{Metric, Turn};
use crate::participants::{Participant, Who};
use crate::row::{About, Against, Row, Target};
use crate::site::Site;

/// What is wrk told to send 1 MiB?
const UPLOAD: &str = "wrk.method = 'POST'\nwrk.body = string.rep('x', 1048576)\n";

/// And to come back with a new connection each time?
const CLOSE: &str = "wrk.headers['Connection'] = 'close'\n";

pub(super) fn all() -> Vec<Box<dyn Row>> {
    let small = |id, connections| Clear { wrk: Wrk { connections, ..SMALL.wrk }, id, ..SMALL };
    let large = Clear { must: 0.8, aim: 0.7, quick: false, ..SMALL };
    let wrk = |connections, path, script| Wrk { connections, path, script };
    vec![
        Box::new(Clear { must: 1.0, ..small("get-1", 1) }),
        Box::new(Clear { quick: true, ..small("get-64", 64) }),
        Box::new(small("get-512", 512)),
        Box::new(Clear { log: true, title: "small GET, with an access log", ..small("get-64-log", 64) }),
        Box::new(Clear { id: "get-16k", title: "16 KiB down", wrk: wrk(64, "/16k", None), ..large }),
        Box::new(Clear { id: "get-1m", title: "1 MiB down", wrk: wrk(16, "/1m", None), quick: true, ..large }),
        Box::new(Clear { id: "post-1m", title: "1 MiB up", wrk: wrk(16, "/upload", Some(UPLOAD)), ..large }),
        Box::new(Clear {
            id: "new-connection",
            title: "small GET, a new connection for each",
            wrk: wrk(64, "/", Some(CLOSE)),
            ..SMALL
        }),
    ]
}

const SMALL: Clear = Clear {
    id: "",
    title: "small GET",
    wrk: Wrk { connections: 64, path: "/", script: None },
    must: 1.0,
    aim: 0.8,
    log: false,
    quick: false,
};

#[derive(Clone, Copy)]
struct Clear {
    id: &'static str,
    title: &'static str,
    wrk: Wrk,
    /// CPU, to the better of nginx and HAProxy.
    must: f64,
    aim: f64,
    /// Whether those take part that write an access log, instead of those that do not.
    log: bool,
    quick: bool,
}

impl Row for Clear {
    fn about(&self) -> About {
        let Wrk { connections, path, script } = self.wrk;
        let mut targets = Target::cpu_and_rate(self.must, self.aim);
        // One connection saturates nothing.
        targets.retain(|target| connections > 1 || target.metric == Metric::Cpu);
        if self.id == "get-64" {
            targets.push(Target { metric: Metric::Cpu, against: Against::Alone, must: 1.05, aim: 1.02 });
        }
        let how = match script {
            Some(UPLOAD) => "POST of 1 MiB, which the backend reads whole before it answers",
            Some(_) => "GET of 612 bytes with `Connection: close`",
            None if path == "/" => "GET of 612 bytes, keep-alive",
            None => "GET, keep-alive",
        };
        let plural = if connections == 1 { "" } else { "s" };
        About {
            id: self.id,
            title: format!("{}, {connections} connection{plural}", self.title),
            what: format!("HTTP/1.1 in clear, {how} (wrk, {connections} connection{plural})"),
            unit: "request",
            targets,
            quick: self.quick,
        }
    }

    fn takes(&self, who: &Who) -> bool {
        if self.log { who.setup.log } else { who.is_usual() }
    }

    fn turn(&self, _: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        charged(participant, || self.wrk.run(&format!("http://{}", participant.clear), seconds))
    }
}
