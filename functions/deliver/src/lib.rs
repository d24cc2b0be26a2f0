//! `deliver`: makes one delivery attempt for each webhook in a batch of queue messages, and sends
//! looks at the deliveries of published messages.
//!
//! [`Deliver::handle`] takes an SQS event and returns a partial batch response: the messages that
//! SQS must deliver again. A failed delivery is an outcome. It is recorded, and its message is
//! acknowledged. A message is handed back only if Posthaste itself could not finish. The stored
//! record alone decides what happens to a message: see `look`.
//!
//! - `worker`: the state of one process
//! - `batch`: runs a batch and builds the partial batch response
//! - `look`: reads a webhook's record and chooses the next step
//! - `delivery`: the record of a delivery that has not started
//! - `fan_out`: one look at a published message
//! - `endpoint`: where a delivery goes, and what a request to its endpoint needs
//! - `admission`: decides whether an attempt may start: slot, host limit, circuit
//! - `attempt`: claims the webhook and sends the request
//! - `outcome`: records and logs the result of an attempt
//! - `deferral`: makes a webhook wait without an attempt
//! - `unusable_endpoint`: makes a delivery wait or fail whose endpoint cannot be used
//! - `host_limiter`: limits concurrent attempts for each destination and network
//! - `known_targets`: the targets that restrict attempts, as this process knows them
//! - `recent_failures`: the failures that no circuit stores yet
//! - `circuit_breaker`: the circuits of failing targets, and the half-open probe
//! - `rate_limiter`: the slots within learned and configured rates
//! - `target_calls`: bounds the time that the store takes for all of these
//! - `turn`: what a webhook keeps while its messages make it wait
//! - `throttling`: what follows when a receiver refuses a request, or a slot is far away

mod admission;
mod attempt;
mod batch;
mod circuit_breaker;
mod deferral;
mod delivery;
mod endpoint;
mod fan_out;
mod host_limiter;
mod known_targets;
mod look;
mod outcome;
mod rate_limiter;
mod recent_failures;
mod target_calls;
mod throttling;
mod turn;
mod unusable_endpoint;
mod worker;

pub use worker::Deliver;
