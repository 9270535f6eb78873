//! Which rows are there?

mod abuse;
mod clear;
mod idle;
mod latency;
mod limits;
mod memory;
mod secure;
mod services;
mod starting;
mod switching;
mod websocket;
mod workers;

use crate::row::Row;

/// All of them, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Row>> {
    let mut all = clear::all();
    all.extend(secure::all());
    all.extend(latency::all());
    all.extend(websocket::all());
    all.extend(limits::all());
    all.push(Box::new(memory::Busy));
    all.extend(idle::all());
    all.extend(switching::all());
    all.extend(services::all());
    all.extend(starting::all());
    all.extend(workers::all());
    all.extend(abuse::all());
    all
}
