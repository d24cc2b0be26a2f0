//! Scenarios: a local stack as a real process, real HTTP on both sides, and the ledger at the end
//! of each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test prints is read by who runs it"
)]

mod crash;
mod delivery;
mod embedded_metrics;
mod events;
mod functions;
mod killed;
mod lifecycle;
mod secrecy;
mod surroundings;
mod traces;
mod waits;
