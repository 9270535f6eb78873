//! bgproxy: the front door of a host that runs its web application twice, as blue and green.
//!
//! Two wings that do not know each other: [`serve`] is what happens to a request, [`control`] is what changes where
//! requests go. Between them the hall, which both know: [`table`], the immutable answer to "where does this request
//! go?", the [`cell`]s in which a request's hold on a backend is counted, the [`certificates`] that answer a client's
//! TLS and the [`challenges`] of those who issue them, the [`pages`] that clients read when a request fails, the
//! [`mail`] that control sends to workers, the [`family`] that a metric belongs to, what the process gives up to
//! [`harden`] itself, whose its [`descriptors`] are, and the [`clock`].
//!
//! [`run()`] introduces them to each other. [`demo`] is an application to try it with.
//!
//! The words are those of docs/lexicon.md, one per concept. This library exists for the two binaries, the tests and
//! the benches; it promises no stable API.

mod atomic {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}
pub mod cell;
#[cfg(test)]
#[path = "cell/model.rs"]
mod cell_model;
pub mod certificates;
pub mod challenges;
pub mod clock;
pub mod control;
pub mod demo;
pub mod descriptors;
pub mod family;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod harden;
pub mod mail;
pub mod pages;
pub mod run;
pub mod serve;
pub mod table;

pub use run::{Hint, Options, run};

/// Version and commit, as `--version` prints them.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BGPROXY_COMMIT"), ")");
