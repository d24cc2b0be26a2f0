//! Posthaste under attack and under load: a local stack as a real process against misbehaving
//! receivers, URLs that lead to private addresses, hanging destinations, and callers that overload
//! it.
//!
//! A test that measures time, memory or capacity runs alone, because it shares two processors with
//! the stack. The other tests run beside each other.

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

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::const_new(());

/// Held by a test while it runs beside others.
pub(crate) async fn turn() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}

/// The same, for a test without a runtime.
pub(crate) fn turn_blocking() -> RwLockReadGuard<'static, ()> {
    TURN.blocking_read()
}

/// Held by a test that measures time, memory or capacity, while it runs alone.
pub(crate) async fn turn_alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}
