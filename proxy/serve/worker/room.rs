//! Who leaves when the house is full? Whoever has been idle for longest, and before them those that never came to ask.

use super::super::limits::Turned;
use super::{SWEEP, Worker};

/// As many are looked for at once: a look passes all connections, and each new client needs one.
const VICTIMS: usize = 1024;

/// In milliseconds, how long a client must have been idle to leave for another one.
const REST: u64 = 200;
/// The same for one that has not yet asked to the end, and may only be slow. Where most are such they are no clients,
/// and have no longer than the others.
const PATIENCE: u64 = 1000;

/// In milliseconds, how long a list of them is of use: others may have become idle for longer.
const FRESH: u64 = 500;

/// The name of a connection's end that made room, in docs/failures.md.
pub const RECLAIMED: &str = "reclaimed";

/// Those that leave next.
#[derive(Debug, Default)]
pub(super) struct Victims {
    /// When they were looked for.
    at: Option<u64>,
    /// Each by its key and when it became idle; the first to leave is the last of the list.
    list: Vec<(usize, u64)>,
}

impl Worker {
    /// Whether it has as many connections as it may have.
    pub(super) fn is_full(&self) -> bool {
        self.conns.borrow().len() >= self.limits().connections
    }

    /// Waits until there is room for one more client: one leaves for it, if one is idle.
    pub(super) async fn room(&self) {
        while self.is_full() {
            let ended = self.ended.notified();
            self.make_room();
            ended.await;
        }
    }

    /// Lets those that wait for room look again, who may be idle for long enough by now.
    pub(super) fn look_for_room(&self) {
        if self.is_full() {
            self.ended.notify_waiters();
        }
    }

    /// A connection that was to leave stays: its client has just asked.
    pub fn stays(&self) {
        self.ended.notify_waiters();
    }

    /// A connection has left to make room.
    pub fn left_for_another(&self) {
        let turned = self.turned.get();
        self.turned.set(Turned { reclaimed: turned.reclaimed + 1, ..turned });
        self.clients.failed(RECLAIMED);
    }

    /// Has one connection leave that is idle, if there is one.
    pub(super) fn make_room(&self) {
        let now = self.now();
        let mut victims = self.victims.borrow_mut();
        // At most once for each sweep, because nothing is older before the next one.
        let is_old = victims.at.is_none_or(|at| now - at >= FRESH || (victims.list.is_empty() && now > at));
        if is_old {
            victims.at = Some(now);
            victims.list = self.find_victims();
        }
        let conns = self.conns.borrow();
        while let Some((key, since)) = victims.list.pop() {
            if conns.get(key).is_some_and(|conn| conn.leaves_for_another(since)) {
                return;
            }
        }
    }

    /// Whoever has not asked to the end before whoever has, then the longest idle; the first to leave last.
    fn find_victims(&self) -> Vec<(usize, u64)> {
        // Stamps are of the sweep before: nobody is charged for time he did not have.
        let charged = self.now().saturating_sub(SWEEP.as_millis() as u64);
        let conns = self.conns.borrow();
        let idle = conns.iter().filter_map(|(key, conn)| Some((conn.idle()?, key)));
        let age = |since: u64| charged.saturating_sub(since);
        let mut ranked: Vec<_> = idle.filter(|((_, since), _)| age(*since) >= REST).collect();
        let silent = ranked.iter().filter(|((asked, _), _)| !asked).count();
        if silent <= conns.len() / 2 {
            ranked.retain(|((asked, since), _)| *asked || age(*since) >= PATIENCE);
        }
        if ranked.len() > VICTIMS {
            ranked.select_nth_unstable(VICTIMS);
            ranked.truncate(VICTIMS);
        }
        ranked.sort_unstable();
        ranked.into_iter().rev().map(|((_, since), key)| (key, since)).collect()
    }
}
