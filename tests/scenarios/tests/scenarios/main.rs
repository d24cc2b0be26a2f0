//! Scenarios: a local stack as a process, HTTP on both sides, and a ledger check at the end of
//! each.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
)]

mod crash;
mod delivery;
mod embedded_metrics;
mod endpoint_changes;
mod events;
mod functions;
mod killed;
mod lifecycle;
mod publishing;
mod secrecy;
mod surroundings;
mod traces;
mod traffic;
mod waits;
