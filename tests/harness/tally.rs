//! What a load has seen: every request and what became of it, to be held against what was commanded meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// One request and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// The color that answered, when there was an answer.
    pub(crate) color: Option<Arc<str>>,
    pub(crate) sent: Instant,
    pub(crate) done: Instant,
    /// What was wrong.
    pub(crate) fault: Option<String>,
}

/// A switch as its commander saw it.
#[derive(Debug, Clone)]
pub(crate) struct SwitchSeen {
    pub(crate) asked: Instant,
    /// When the reply had come: from here on only `to` may answer.
    pub(crate) replied: Instant,
    pub(crate) to: String,
}

impl SwitchSeen {
    /// Commands a switch and notes when.
    pub(crate) fn during<T>(to: &str, command: impl FnOnce() -> T) -> (SwitchSeen, T) {
        let asked = Instant::now();
        let reply = command();
        (SwitchSeen { asked, replied: Instant::now(), to: to.to_owned() }, reply)
    }
}

/// All that a load has seen.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Per connection (over HTTP/2 per stream slot of each), in the order the requests were sent.
    pub(crate) connections: Vec<Vec<Done>>,
}

impl Tally {
    pub(crate) fn total(&self) -> usize {
        self.all().count()
    }

    /// What went wrong, a line each.
    pub(crate) fn faults(&self) -> Vec<&str> {
        self.all().filter_map(|done| done.fault.as_deref()).collect()
    }

    /// Fails the test, with the first faults, if there was any.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let faults = self.faults();
        let first = &faults[..faults.len().min(10)];
        assert!(faults.is_empty(), "{} of {} requests failed:\n{}", faults.len(), self.total(), first.join("\n"));
    }

    /// Answers per color.
    pub(crate) fn by_color(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for color in self.all().filter_map(|done| done.color.as_deref()) {
            *counts.entry(color.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Cuts each connection's answers into terms (runs of one color) and sums the i-th over all connections: how many
    /// requests each term of a live color served, as the clients saw it. To be compared with the drains' receipts.
    ///
    /// # Errors
    /// A connection has another number of terms than the first one, or other colors in them: it was not waited for
    /// between two switches (see [`Load::wait_round`]).
    pub(crate) fn terms(&self) -> Result<Vec<(String, u64)>, String> {
        let mut sums: Option<Vec<(String, u64)>> = None;
        for (number, answers) in self.connections.iter().enumerate() {
            let mut terms: Vec<(String, u64)> = Vec::new();
            for color in answers.iter().filter_map(|done| done.color.as_deref()) {
                match terms.last_mut() {
                    Some((last, count)) if last == color => *count += 1,
                    _ => terms.push((color.to_owned(), 1)),
                }
            }
            let Some(sums) = &mut sums else {
                sums = Some(terms);
                continue;
            };
            let alike = sums.len() == terms.len() && sums.iter().zip(&terms).all(|(a, b)| a.0 == b.0);
            if !alike {
                return Err(format!("connection {number} has {} terms, connection 0 {}", terms.len(), sums.len()));
            }
            for (sum, term) in sums.iter_mut().zip(terms) {
                sum.1 += term.1;
            }
        }
        Ok(sums.unwrap_or_default())
    }

    /// Requests sent after a switch's reply and ended before the next switch was asked for that another color than the
    /// new one answered. There must be none: the reply is a promise.
    pub(crate) fn served_by_the_wrong_color(&self, switches: &[SwitchSeen]) -> Vec<&Done> {
        self.all()
            .filter(|done| {
                let Some(last) = switches.partition_point(|seen| seen.replied <= done.sent).checked_sub(1) else {
                    return false;
                };
                let settled = switches.get(last + 1).is_none_or(|next| done.done <= next.asked);
                settled && done.color.as_deref().is_some_and(|color| color != switches[last].to)
            })
            .collect()
    }

    /// Fails the test when there was any such request.
    #[track_caller]
    pub(crate) fn assert_served_by_the_right_color(&self, switches: &[SwitchSeen]) {
        let wrong = self.served_by_the_wrong_color(switches);
        let Some(first) = wrong.first() else { return };
        let last = switches.iter().rfind(|seen| seen.replied <= first.sent).expect("or it would not be wrong");
        let late = first.sent - last.replied;
        panic!("{} wrong; the first was sent {late:?} after {} went live: {first:?}", wrong.len(), last.to);
    }

    fn all(&self) -> impl Iterator<Item = &Done> {
        self.connections.iter().flatten()
    }
}
