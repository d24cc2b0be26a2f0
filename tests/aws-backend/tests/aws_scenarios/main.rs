//! Scenarios of the local stack with its store, its queue, or both on an AWS emulator.

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

mod amazon;
mod killed;
