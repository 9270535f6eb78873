//! Is this color ready to go live? Asked again and again until it has answered often enough in a row, or time is up.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::wire::ProbeReport;
use bgproxy_conf::{Ready, Service};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::mail::{Mailboxes, Question};
use crate::table::Backend;

/// The question a service asks of its colors.
pub fn question(service: &Service, backend: &Arc<Backend>) -> Question {
    let Ready { path, host, expect, timeout, .. } = &service.ready;
    let exact = service.hosts.iter().find(|host| !host.is_wildcard()).map(|host| host.name().to_owned());
    Question {
        backend: backend.clone(),
        path: path.clone(),
        host: host.clone().or(exact).unwrap_or_else(|| "localhost".to_owned()),
        expect: expect.clone(),
        timeout: timeout.get(),
    }
}

/// Asks until the color has answered as it should `passes` times in a row; `passed` shows how far it is, and `note`
/// hears every answer.
///
/// # Errors
/// The last answer (none if there was none) when `within` has passed.
pub async fn until_ready(
    mail: &Mailboxes,
    question: &Question,
    ready: &Ready,
    passed: &Cell<u32>,
    note: impl Fn(&ProbeReport),
) -> Result<(), Option<ProbeReport>> {
    let deadline = Instant::now() + ready.within.get();
    let mut last = None;
    // Every worker's way to the backend is tried in turn, and warmed by it.
    for turn in 0.. {
        let asked = Instant::now();
        let Ok(answer) = timeout_at(deadline, mail.probe(turn, question.clone())).await else { break };
        let Some(report) = answer else { break };
        passed.set(if report.ready { passed.get() + 1 } else { 0 });
        note(&report);
        last = Some(report);
        if passed.get() >= ready.passes {
            return Ok(());
        }
        let next = asked + ready.interval.get().max(Duration::from_millis(1));
        if next >= deadline {
            break;
        }
        sleep_until(next).await;
    }
    Err(last)
}
