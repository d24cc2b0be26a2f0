//! The cost of a million webhooks on AWS: counts the requests of a deployed stack and applies list
//! prices.
//!
//! The template is deployed to the emulator, and the functions send their requests through a
//! [`proxy`]. It counts what DynamoDB and SQS bill ([`units`], from the sizes of the items). The
//! emulator reports the [`invocations`]. Lambda's pollers send one receive and one delete request
//! per batch. [`run`] sends the webhooks, [`report`] formats the tables, and `infra/prices.json`
//! has the prices.

pub mod invocations;
pub mod prices;
pub mod proxy;
pub mod report;
pub mod run;
pub mod units;
