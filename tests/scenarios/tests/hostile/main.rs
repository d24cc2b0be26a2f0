//! Posthaste among enemies and neighbours: a local stack as a real process against receivers that
//! misbehave, URLs that lead inside, destinations that hang, and callers who send more than it can
//! take.
//!
//! They share two processors with each other, so they take turns: what they measure is time and
//! memory.

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

mod egress;
mod fairness;
mod guard;
mod listener;
mod names;
mod overload;
mod receivers;
mod resolvers;

use tokio::sync::{Mutex, MutexGuard};

/// Held by a test while it runs.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
