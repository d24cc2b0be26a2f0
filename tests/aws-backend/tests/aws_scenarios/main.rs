//! Scenarios of the local stack with its store, its queue, or both on an AWS emulator.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
)]

mod amazon;
mod killed;
