//! Wing one: what happens to a request, in the order it happens.
//!
//! - [`listen`] binds, [`worker`] accepts within [`limits`], [`conn`] carries one client connection over a [`socket`]:
//!   [`proxy_protocol`] says who the client is where a load balancer stands before us, [`tls`] secures, and where
//!   HTTP/2 is spoken [`frames`] tells what passes and [`abuse`] whether it is a flood. Short parts leave together by
//!   [`gather`].
//! - [`forward`] takes one request through: [`headers`] rewrites, [`pool`] reaches the backend, [`retry`] decides on a
//!   second try, [`incoming`] reads a body, [`body`] streams it, [`pump`] writes it by HTTP/2. [`tunnel`] passes bytes
//!   after an upgrade, [`websocket`] finds where it may be given a last word.
//! - [`flight`] is the request's hold on all of it, [`closing`] ends what streams for too long after a switch.
//! - [`error`] names what failed, [`answer`] says so, [`meter`] counts, [`metrics`] shows it and [`access`] writes it
//!   down. [`probe`] asks whether a backend is ready.
//!
//! Everything here belongs to one worker thread: `Rc` and `Cell`, no lock, nothing shared but the table, and what
//! limits by address count while there are any. Who waits for something on the same thread is a [`sleeper`].

pub mod abuse;
pub mod access;
pub mod answer;
pub mod body;
pub mod closing;
pub mod conn;
pub mod crumbs;
pub mod error;
pub mod flight;
pub mod forward;
pub mod frames;
pub mod gather;
pub mod headers;
pub mod incoming;
pub mod limits;
pub mod listen;
pub mod meter;
pub mod metrics;
pub mod pool;
pub mod probe;
pub mod proxy_protocol;
pub mod pump;
pub mod retry;
pub mod sleeper;
pub mod socket;
pub mod tls;
pub mod tunnel;
pub mod wear;
pub mod websocket;
pub mod worker;
