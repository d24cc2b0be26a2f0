//! Scenarios of the local stack with its store, its queue, or both on Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
)]

mod redis;
mod redis_calls;
mod redis_killed;
mod redis_limits;
mod redis_outages;
mod redis_recovery;
