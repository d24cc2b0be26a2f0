//! Posthaste under attack and under load: a local stack as a real process against misbehaving
//! receivers, URLs that lead to private addresses, hanging destinations, and callers that overload
//! it.
//!
//! The tests measure time and memory on two shared processors, so they run one after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
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
