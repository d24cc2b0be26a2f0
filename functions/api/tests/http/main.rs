//! The API over real HTTP on the embedded backend, with a clock that only the test advances.
//!
//! - `applications`: settings, lists, state and changes of applications.
//! - `endpoints`, `endpoint_secrets`: endpoints and what is sealed.
//! - `application_keys`: keys of applications, in one process and in another.
//! - `tenants`: every route with every scope, and from another application.
//! - `accept`: the response, the record and the message of a webhook.
//! - `bad_input`: invalid requests and limits.
//! - `access`: API keys, correlation IDs and browsers.
//! - `keys`: every route with every method and with invalid credentials.
//! - `idempotency`: repeated requests, concurrent, later, and after each crash.
//! - `batches`: items are accepted or refused on their own.
//! - `lists`: filters, pages and cursors.
//! - `openapi`: the document matches the code and the router.
//! - `operators`: delete, clean up, resend, redrive, dead letters, explain.
//! - `outages`: store or queue down, slow, or silent after their work, and health and metrics.
//! - `overload`: more concurrent requests than the capacity.
//! - `messages`: publishing: the plan, the record and the looks, and what becomes of a message.
//! - `message_batch`: messages are accepted or refused on their own.
//! - `message_idempotency`: repeated publishes, at once, later, and after each crash.
//! - `message_outages`: each step of publishing with a store or queue that fails.
//! - `message_resend`: one delivery of a message, or all that failed.
//! - `deliveries`: lists, states and resends of deliveries, within an application.
//! - `operated_deliveries`: deliveries in the routes of operators.
//! - `canaries`: no response to one customer has anything of another.
//! - `page`: the operator's page as it is served, and the calls that only it makes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in any way")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "people read what a test prints")]

mod accept;
mod access;
mod application_keys;
mod applications;
mod bad_input;
mod batches;
mod canaries;
mod customers;
mod deliveries;
mod endpoint_secrets;
mod endpoints;
mod faulty;
mod harness;
mod idempotency;
mod keys;
mod lists;
mod message_batch;
mod message_idempotency;
mod message_outages;
mod message_resend;
mod messages;
mod openapi;
mod operated_deliveries;
mod operators;
mod outages;
mod overload;
mod page;
mod tenants;
