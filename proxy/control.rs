//! Wing two: what changes where requests go.
//!
//! [`api`] (over the [`desk`]) and [`watch`] bring commands, [`switchboard`] decides, [`operate`] carries out what
//! it decided: [`probe`] asks a color (`asking` knows for whom), [`state`] saves (`save` keeps the order), the
//! table is published, workers confirm, [`drain`] waits for the old color, [`streams`] says when what goes on there
//! shall leave. What nobody asked for, the rounds and what changes on disk, is in `unasked`; [`certificates`] and
//! [`pages`] are read again when their files change, and [`acme`] fetches other certificates. [`boot`] begins where
//! the last run ended and [`reload`] takes a new configuration in. [`caller`] knows who asks and what they may,
//! [`events`] and [`report`] tell what happened and what is; [`admin`] and [`metrics`] show it to machines and
//! people, who are kept from holding too many connections by [`bounded`], and for too long by [`http`].
//!
//! All of it runs on one thread of its own, so it answers however busy the workers are.

pub mod acme;
pub mod admin;
pub mod api;
mod asking;
pub mod boot;
pub mod bounded;
pub mod caller;
pub mod certificates;
pub mod desk;
pub mod drain;
pub mod events;
pub mod failpoint;
pub mod http;
pub mod live_file;
pub mod metrics;
pub mod openapi;
pub mod operate;
pub mod pages;
pub mod probe;
pub mod registry;
pub mod reload;
pub mod report;
mod save;
pub mod socket;
pub mod state;
pub mod streams;
pub mod switchboard;
mod tell;
mod unasked;
pub mod watch;
