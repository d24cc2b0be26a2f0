//! What exercises a running Posthaste from outside.
//!
//! | module | what it holds |
//! |---|---|
//! | [`receiver`] | a webhook receiver: the tool `webhook-receiver`, and the other end of every test |
//! | [`conformance`] | what every store and every queue must do |
//! | [`client`] | a typed client of the HTTP API, written from the contract alone |
//! | [`target`], [`progress`] | what the test tools share: whom they test, what they tell, and their verdict |
//! | [`follow`], [`policy`] | follows a webhook to its end; judges the waits between its attempts |
//! | [`failure`] | the scenarios of `test-webhook-failure` |
//! | [`dead_letters`] | the scenarios of `test-webhook-dlq` and `test-webhook-dlq-simple` |
//! | [`stack`] | the local stack as a process of its own |
//! | [`binaries`] | the local stack and the functions of this build |
//! | [`lambda`] | a Lambda of one's own: runs the functions as processes |
//! | [`browser`] | scenarios in a real browser |
//! | [`cargo_lambda`] | `cargo lambda watch` as a process |
//! | [`ledger`] | accepted = delivered + failed + deleted, and nothing left over |
//! | [`aws`] | an AWS emulator of one's own, alone or with the deployed template |
//! | [`redis_server`] | a Redis server of one's own |
//! | [`hostile`] | receivers that hang, lie, flood or break off |
//! | [`secrecy`] | what must stand in no log |
//! | [`prometheus`] | a Prometheus server of one's own |
//! | [`openapi`] | the tools that judge the OpenAPI document, and the API by it |
//! | [`load`] | the benchmark of a running stack |
//! | [`startup`] | the benchmark of the functions' start |
//! | `simulation` | the functions in a world of faults, replayed from a seed; by the feature of that name |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod aws;
pub mod binaries;
pub mod browser;
pub mod cargo_lambda;
pub mod client;
pub mod conformance;
pub mod cost;
pub mod dead_letters;
pub mod failure;
pub mod follow;
pub mod hostile;
pub mod lambda;
pub mod ledger;
pub mod load;
pub mod openapi;
pub mod policy;
pub mod progress;
pub mod prometheus;
pub mod receiver;
pub mod redis_server;
pub mod secrecy;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod stack;
pub mod startup;
pub mod target;
