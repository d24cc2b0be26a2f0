//! What a million webhooks cost on AWS: every request of a deployed stack counted, and priced by
//! one file of list prices.
//!
//! The template is deployed to the emulator with the functions' requests led through a [`proxy`],
//! which counts what DynamoDB and SQS bill ([`units`], from the sizes of the items). Invocations
//! and their durations are what the emulator reports of each; the requests of Lambda's own pollers
//! follow from AWS's rule, a receive and a delete for each batch. [`run`] sends the webhooks,
//! [`report`] makes the tables, and `infra/prices.json` has the prices.

pub mod invocations;
pub mod prices;
pub mod proxy;
pub mod report;
pub mod run;
pub mod units;
