//! What happened? The newest events with their numbers, for whoever follows or comes back.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bgproxy_conf::ServiceName;
use bgproxy_conf::wire::{Event, What};
use tokio::sync::broadcast;

use crate::clock;

/// Events kept for those who come back, and those a slow follower may be behind.
const KEPT: usize = 1024;

/// The newest events.
#[derive(Debug)]
pub struct Events {
    inner: Mutex<Inner>,
    news: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    kept: VecDeque<Event>,
}

impl Default for Events {
    fn default() -> Self {
        let inner = Inner { next: first_id(), kept: VecDeque::with_capacity(KEPT) };
        Events { inner: Mutex::new(inner), news: broadcast::Sender::new(KEPT) }
    }
}

/// Ids go on growing over a restart, so that a follower's `Last-Event-ID` from before cannot hide what is new: they
/// begin with the microseconds since 1970, which no number of events catches up with, and which JavaScript can count
/// to.
fn first_id() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or_default()
}

impl Events {
    /// Something happened.
    pub fn tell(&self, service: Option<ServiceName>, what: What) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event { id: inner.next, at: clock::now(), service, what };
        inner.next += 1;
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(event.clone());
        // Nobody may be listening. Sent under the lock, so that `follow` sees each event once.
        let _followers = self.news.send(event);
    }

    /// The newest event's id.
    pub fn last_id(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).next - 1
    }

    /// The kept events after this one (all new ones only, without it), and the ones to come.
    pub fn follow(&self, after: Option<u64>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // An id from the future is one of another clock: whatever is kept may be new.
        let after = after.map(|id| if id < inner.next { id } else { 0 });
        let missed = match after {
            Some(id) => inner.kept.iter().filter(|event| event.id > id).cloned().collect(),
            None => Vec::new(),
        };
        (missed, self.news.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(n: usize) -> What {
        What::LiveFile { fault: n.to_string() }
    }

    #[tokio::test]
    async fn whoever_comes_back_gets_what_he_missed_then_what_comes() {
        let events = Events::default();
        events.tell(None, fault(1));
        let (_, mut first) = events.follow(None);
        events.tell(None, fault(2));
        let seen = first.recv().await.expect("an event");
        assert_eq!(seen.what, fault(2));
        events.tell(None, fault(3));
        let (missed, mut news) = events.follow(Some(seen.id));
        assert_eq!(missed.iter().map(|event| &event.what).collect::<Vec<_>>(), [&fault(3)]);
        events.tell(None, fault(4));
        assert_eq!(news.recv().await.expect("an event").what, fault(4));
    }

    #[test]
    fn only_the_newest_are_kept() {
        let events = Events::default();
        (0..KEPT + 10).for_each(|n| events.tell(None, fault(n)));
        let (kept, _) = events.follow(Some(0));
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].what, fault(10));
    }
}
