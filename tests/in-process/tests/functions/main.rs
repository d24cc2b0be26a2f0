//! The functions, one event at a time, over a real embedded store and queue: every row of their
//! tables, and their behavior when another worker, an operator or a fault interferes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod budgets;
mod deliver;
mod dlq;
mod health;
mod host_limiter;
mod intercepted;
mod messages;
mod outage;
mod panics;
mod rate_limits;
mod receiver;
mod sweep;
mod targets;
mod throttling;
mod unavailable_targets;
mod world;
