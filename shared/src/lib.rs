//! What all functions of Posthaste share: the model and its rules, the contracts of store and queue
//! with their backends, and the sender.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`], [`status`], [`id`], [`clock`], [`random`] | the record of a webhook, its identifiers, time and chance as values |
//! | [`transition`], [`retry`], [`circuit`], [`signing`], [`config`] | the rules: what may happen to a webhook, when it is tried again, its signature |
//! | [`store`], [`queue`], [`message`] | the contracts that every backend keeps, and what a queue message says |
//! | [`apply`] | a transition as one conditional write, asked again when somebody else was first |
//! | [`liveness`] | whether other processes know that this one is alive, where they would take over from it |
//! | [`sender`] | one HTTP attempt, and where it may connect |
//! | [`threads`], [`recent`] | threads for calls that block; a map of bounded size |
//! | [`metrics`], [`logging`], [`terminal`], [`trace`] | what it tells of itself; the traces of others that it is part of |
//! | [`planted`] | bugs that only the simulation switches on, to see that it catches them |
//! | [`tls`], `aws`, `redis`, `sqlite` | what backends connect with; the last three by features of those names |
//! | [`context`] | which backends are used; the only file that names them |
//!
//! The modules of the first two rows are pure: no I/O, no clock, no randomness.

pub mod apply;
#[cfg(feature = "aws")]
pub mod aws;
pub mod circuit;
pub mod clock;
pub mod config;
pub mod context;
pub mod error_chain;
pub mod id;
pub mod lane;
pub mod liveness;
pub mod logging;
pub mod message;
pub mod metrics;
pub mod model;
pub mod planted;
pub mod queue;
pub mod random;
pub mod recent;
#[cfg(feature = "redis")]
pub mod redis;
pub mod retry;
pub mod retry_override;
pub mod sender;
pub mod signing;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod status;
pub mod store;
pub mod terminal;
pub mod threads;
pub mod tls;
pub mod trace;
pub mod transition;
