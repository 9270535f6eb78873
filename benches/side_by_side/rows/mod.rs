//! Which rows are there?

mod requests;

use crate::row::Row;

/// All of them, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Row>> {
    requests::all()
}
