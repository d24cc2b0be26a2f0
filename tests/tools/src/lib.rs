//! The programs that exercise or measure a running Posthaste.
//!
//! | module | contents |
//! |---|---|
//! | [`target`] | the options that the test tools share |
//! | [`follow`], [`policy`] | follow a webhook to its final status; check the waits |
//! | [`failure`] | the scenarios of `test-webhook-failure` |
//! | [`dead_letters`] | the scenarios of `test-webhook-dlq` and `test-webhook-dlq-simple` |
//! | [`load`] | the benchmark of a running stack |
//! | [`startup`] | the benchmark of the functions' cold start |
//! | [`traffic`] | the measurement of traffic control |
//! | [`cost`] | the cost of a webhook on AWS |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cost;
pub mod dead_letters;
pub mod failure;
pub mod follow;
pub mod load;
pub mod policy;
pub mod startup;
pub mod target;
pub mod traffic;
