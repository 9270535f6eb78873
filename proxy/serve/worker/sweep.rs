//! What has waited for too long? Every deadline of a worker's connections, requests and idle links, looked at together.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::super::pool::Lane;
use super::{Limits, SWEEP, Worker, millis};

/// Looks again and again for what has waited too long.
pub(super) async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.sweep();
    }
}

impl Worker {
    fn sweep(&self) {
        self.clock.tick();
        let now = self.now();
        self.compare();
        let limits = self.limits();
        self.sweep_limits();
        self.look_for_room();
        // What is stamped between two sweeps is stamped with the earlier one: nobody is charged for time he did not
        // have.
        let charged = now.saturating_sub(SWEEP.as_millis() as u64);
        for conn in self.conns.borrow().iter().map(|(_, conn)| conn) {
            conn.sweep(charged, &limits);
        }
        for flight in self.flights.borrow().iter().map(|(_, flight)| flight) {
            if let Some(reason) = flight.overdue(charged, &limits) {
                flight.condemn(reason);
            }
            flight.sweep(now);
        }
        self.note_oldest();
        self.sweep_lanes(now);
        if let Some(lines) = &self.access {
            lines.borrow_mut().flush();
        }
    }

    /// Adopts the limits of a table that was not seen before, and forgets backends that it does not name.
    pub(super) fn compare(&self) {
        let table = self.table.borrow_mut().load().clone();
        if std::ptr::eq(self.compared.borrow().as_ptr(), Arc::as_ptr(&table)) {
            return;
        }
        self.compared.replace(Arc::downgrade(&table));
        self.adopt(Limits::new(&table.limits, self.workers));
        for lane in self.lanes.borrow_mut().iter_mut() {
            lane.take_if(|lane| table.owner(&lane.backend).is_none());
        }
    }

    /// Notes for each backend when its oldest stream began, for those who look from outside.
    fn note_oldest(&self) {
        let mut oldest: HashMap<usize, (Rc<Lane>, Instant)> = HashMap::new();
        for (_, flight) in self.flights.borrow().iter().filter(|(_, flight)| flight.stream().is_some()) {
            let Some(lane) = flight.lane() else { continue };
            let (_, began) = oldest.entry(lane.backend.slot).or_insert_with(|| (lane, flight.started()));
            *began = flight.started().min(*began);
        }
        for (lane, began) in oldest.into_values() {
            let began = SystemTime::now() - began.elapsed();
            let since = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            lane.set_oldest(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        }
    }

    /// Closes backend connections that have been idle for too long.
    fn sweep_lanes(&self, now: u64) {
        let mut table = self.table.borrow_mut();
        let table = table.load();
        self.stock.sweep(|lane| match table.owner(&lane.backend) {
            Some(service) => lane.expire(now, millis(service.config.pool.idle)),
            // Requests may still have it; what they kept on it is of use to nobody.
            None => lane.retire(),
        });
    }
}
