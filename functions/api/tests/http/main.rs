//! The API over real HTTP on the embedded backend, with a clock that only the test advances.
//!
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
//! - `page`: the operator's page as it is served, and the calls that only it makes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in any way")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "people read what a test prints")]

mod accept;
mod access;
mod bad_input;
mod batches;
mod faulty;
mod harness;
mod idempotency;
mod keys;
mod lists;
mod openapi;
mod operators;
mod outages;
mod overload;
mod page;
