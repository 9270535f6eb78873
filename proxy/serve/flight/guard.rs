//! Who has a request? Whoever has its guard; there is one, and with it the request ends exactly once.

use std::ops::Deref;
use std::rc::Rc;

use super::super::error::Reason;
use super::super::pool::Link;
use super::Flight;
use super::deadlines::Step;

/// Whoever has it has the request; dropping it unfinished ends the request as failed: the client went away.
#[derive(Debug)]
pub struct Guard(pub(super) Rc<Flight>);

impl Guard {
    /// The request itself.
    pub fn flight(&self) -> &Rc<Flight> {
        &self.0
    }

    /// Ends the request as failed for this reason, unless it is condemned already.
    pub fn fail(self, reason: Reason) {
        self.0.end(Some(reason));
    }

    /// Gives a backend connection back for the next request.
    pub fn keep(&self, link: Link) {
        if let Some(lane) = self.0.lane() {
            lane.keep(link, self.0.terms().pool, self.0.worker.now());
        }
    }

    /// Its last byte is with the library that sends it; it ends when that has flushed it to the socket.
    pub fn flush(self) {
        self.0.step.set(Step::Flushing);
        let conn = self.0.conn.clone();
        conn.finishes(self);
    }

    /// Its last byte is with the kernel: the request is done.
    pub fn finish(self) {
        self.0.end(self.0.reason.get());
    }

    /// Answered by ourselves for this reason, which is what its end will say.
    pub fn answered(&self, reason: Reason) {
        self.0.reason.set(Some(reason));
        // The answer is what the verdict comes to. A client that does not take it is condemned for that.
        self.0.verdict.set(None);
        self.0.step.set(Step::Streaming);
        self.0.touch();
        self.0.status.set(reason.status());
    }
}

impl Deref for Guard {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end(self.0.reason.get().or(Some(Reason::ClientGone)));
    }
}
