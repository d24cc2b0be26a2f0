//! The library of the tests and the tools.
//!
//! | module | contents |
//! |---|---|
//! | [`client`] | a typed client of the HTTP API, independent of the server's code |
//! | [`receiver`] | the webhook receiver, which is also the tool `webhook-receiver` |
//! | [`hostile`] | receivers that hang, lie, flood or close early |
//! | [`stack`] | the local stack as a process |
//! | [`binaries`] | builds and finds the binaries that tests start; describes the workspace |
//! | [`lambda`], [`functions`] | a Lambda emulator that runs the functions as processes |
//! | [`aws`] | an AWS emulator, alone or with the deployed template |
//! | [`redis_server`] | a Redis server or cluster |
//! | `ledger` | the check that accepted = delivered + failed + deleted |
//! | [`secrecy`] | the check that no log holds a secret |
//! | `life` | one webhook on each path of its life cycle |
//! | [`clients`], `crash` | clients under load; processes killed under load |
//! | [`health`] | waits for a health status |
//! | [`process`] | the error and the peak memory of a process; free ports |
//! | [`clock`] | a clock that does not advance |
//! | [`wait`] | waits for a condition |
//! | [`progress`] | terminal output of the tools |
//! | [`habits`] | checks that every command-line tool passes |
//!
//! `crash`, `ledger` and `life` read the embedded file, so they need the feature `sqlite`. The
//! tools do without it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod aws;
pub mod binaries;
pub mod client;
pub mod clients;
pub mod clock;
#[cfg(feature = "sqlite")]
pub mod crash;
pub mod functions;
pub mod habits;
pub mod health;
pub mod hostile;
pub mod lambda;
#[cfg(feature = "sqlite")]
pub mod ledger;
#[cfg(feature = "sqlite")]
pub mod life;
pub mod process;
pub mod progress;
#[cfg(feature = "sqlite")]
pub mod publishing;
pub mod receiver;
pub mod redis_server;
pub mod secrecy;
pub mod stack;
pub mod wait;
