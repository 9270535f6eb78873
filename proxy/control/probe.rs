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
        pool: service.pool.size,
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

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::mail::Letter;
    use crate::table::tests::backend;

    fn report(ready: bool, seconds: f64) -> ProbeReport {
        ProbeReport { ready, at: String::new(), status: None, reason: None, detail: None, seconds }
    }

    /// Workers of which each probe is answered by `answer(worker, nth probe of all)`: ready or not, after this long.
    fn workers(count: usize, answer: impl Fn(usize, usize) -> (bool, Duration) + Clone + Send + 'static) -> Mailboxes {
        let (mail, mailboxes) = Mailboxes::new(count);
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for (worker, mut mailbox) in mailboxes.into_iter().enumerate() {
            let (asked, answer) = (asked.clone(), answer.clone());
            tokio::spawn(async move {
                while let Some(letter) = mailbox.recv().await {
                    let Letter::Probe(_, reply) = letter else { panic!("{letter:?}") };
                    let nth = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let (ready, after) = answer(worker, nth);
                    sleep(after).await;
                    let _given_up = reply.send(report(ready, nth as f64));
                }
            });
        }
        mail
    }

    /// Three passes, a second apart, within 30 seconds.
    fn ready() -> Ready {
        let seconds = |text: &str| text.parse().expect("seconds");
        Ready { passes: 3, interval: seconds("1s"), within: seconds("30s"), ..Ready::default() }
    }

    async fn ask(mail: &Mailboxes) -> (Result<(), Option<ProbeReport>>, u32, Duration) {
        let (began, passed) = (Instant::now(), Cell::new(0));
        let question = question(&Service::default(), &backend(0, "green", 0));
        let result = until_ready(mail, &question, &ready(), &passed, |_| {}).await;
        (result, passed.get(), began.elapsed())
    }

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_color_is_ready_after_enough_answers_an_interval_apart() {
        let (result, passed, took) = ask(&workers(2, |_, _| (true, SOON))).await;
        assert_eq!((result, passed), (Ok(()), 3));
        assert!((Duration::from_secs(2)..Duration::from_millis(2100)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn passes_must_be_in_a_row() {
        let (result, passed, took) = ask(&workers(2, |_, nth| (nth != 2, SOON))).await;
        assert_eq!((result, passed), (Ok(()), 3));
        assert_eq!(took.as_secs(), 5, "two in vain, one unready, three in a row");
    }

    #[tokio::test(start_paused = true)]
    async fn every_worker_is_asked_in_turn() {
        let mail = workers(3, |worker, nth| (worker == nth % 3, SOON));
        assert_eq!(ask(&mail).await.0, Ok(()));
        // One worker that cannot reach the color is enough.
        assert!(ask(&workers(3, |worker, _| (worker != 1, SOON))).await.0.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unready_color_is_refused_in_time_with_its_last_answer() {
        let (result, passed, took) = ask(&workers(2, |_, _| (false, SOON))).await;
        assert_eq!((result, passed), (Err(Some(report(false, 29.0))), 0));
        assert!(took <= Duration::from_secs(30), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_ends_the_asking_at_the_deadline() {
        let (result, _, took) = ask(&workers(2, |_, _| (true, Duration::from_secs(1000)))).await;
        assert_eq!(result, Err(None));
        assert_eq!(took.as_secs(), 30);
        let late = |_, nth| (true, if nth < 2 { SOON } else { Duration::from_secs(1000) });
        let (result, passed, took) = ask(&workers(2, late)).await;
        assert_eq!((result, passed, took.as_secs()), (Err(Some(report(true, 1.0))), 2, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn without_workers_nobody_is_ready() {
        let (mail, mailboxes) = Mailboxes::new(1);
        drop(mailboxes);
        assert_eq!(ask(&mail).await, (Err(None), 0, Duration::ZERO));
    }

    #[test]
    fn a_question_names_the_host_that_the_application_knows() {
        let host = |hosts: &[&str], own: Option<&str>| {
            let hosts = hosts.iter().map(|host| host.to_string().try_into().expect("a host")).collect();
            let ready = Ready { host: own.map(str::to_owned), ..Ready::default() };
            question(&Service { hosts, ready, ..Service::default() }, &backend(0, "green", 0)).host
        };
        assert_eq!(host(&["*.example.com", "www.example.com"], None), "www.example.com");
        assert_eq!(host(&["*.example.com"], None), "localhost");
        assert_eq!(host(&["www.example.com"], Some("probe.example.com")), "probe.example.com");
    }
}
