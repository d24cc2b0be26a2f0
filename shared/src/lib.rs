//! The crate that all functions share: the model and its rules, the contracts of store and queue
//! with their backends, and the sender.
//!
//! **The model.** [`model`] and [`status`] define the record of a webhook. [`id`], [`clock`] and
//! [`random`] define its identifiers, and time and randomness as values that callers pass in.
//!
//! [`applications`] has the model of applications: endpoints, published messages and what a
//! message's deliveries stand at. [`record`] is any record of a store.
//!
//! **The rules.** [`transition`] defines how a record changes, [`retry`] and [`retry_override`]
//! when it is attempted again, [`circuit`] and [`traffic`] whether and how fast
//! attempts may go to a target, [`signing`] the signatures. They are pure functions: no I/O, no
//! clock, no random numbers.
//!
//! **Applications.** [`applications`] defines the keys and secrets of customers, and which caller
//! may do what. [`sealing`] encrypts what is secret at rest. They are pure, too.
//!
//! **The contracts.** [`store`] and [`queue`] define what each backend guarantees. [`message`] is
//! the body of a queue message, [`lane`] one of the two queues. [`apply`] makes one conditional
//! write of a transition, and repeats it after a conflict. [`message_deletion`] deletes a message
//! with its deliveries.
//!
//! **The backends.** `aws`, `redis` and `sqlite` are the connections, each behind a feature of that
//! name. [`context`] opens the configured backends.
//!
//! **The sender.** [`sender`] makes one HTTP attempt and checks its destination. [`tls`] configures
//! TLS.
//!
//! **The process.** [`config`] reads the settings. [`logging`], [`metrics`], [`trace`] and
//! [`terminal`] are its output. [`liveness`] stops attempts when other processes assume that this
//! one is dead. [`threads`] runs blocking calls, [`recent`] is a bounded map, and [`error_chain`]
//! formats errors.
//!
//! [`planted`] holds bugs that only the simulation enables, to prove that it finds them.
//!
//! The design is described in `docs/architecture.md`.

pub mod application_cache;
pub mod applications;
pub mod apply;
#[cfg(feature = "aws")]
pub mod aws;
pub mod circuit;
pub mod clock;
pub mod config;
pub mod context;
mod disk_usage;
pub mod error_chain;
pub mod id;
pub mod lane;
pub mod liveness;
pub mod logging;
pub mod message;
pub mod message_deletion;
pub mod metrics;
pub mod model;
pub mod planted;
pub mod queue;
pub mod random;
pub mod recent;
pub mod record;
#[cfg(feature = "redis")]
pub mod redis;
pub mod retry;
pub mod retry_override;
pub mod sealing;
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
pub mod traffic;
pub mod transition;
