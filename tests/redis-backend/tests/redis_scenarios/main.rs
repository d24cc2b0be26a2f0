//! Scenarios of the local stack with its store, its queue, or both on Redis.

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

mod redis;
mod redis_calls;
mod redis_killed;
mod redis_limits;
mod redis_outages;
mod redis_recovery;
