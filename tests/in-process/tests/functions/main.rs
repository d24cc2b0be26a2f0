//! The functions, one event at a time, over a real embedded store and queue: every row of their
//! tables, and what they do when another worker, an operator or a fault comes in between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod budgets;
mod deliver;
mod dlq;
mod health;
mod outage;
mod panics;
mod sweep;
mod turns;
mod world;
