//! Which rows are there?

mod clear;
mod memory;
mod secure;

use crate::row::Row;

/// All of them, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Row>> {
    let mut all = clear::all();
    all.extend(secure::all());
    all.push(Box::new(memory::Busy));
    all
}
