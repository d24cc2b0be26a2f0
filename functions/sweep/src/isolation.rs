//! Contains the panic of one webhook or message.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use shared::store::DueId;

/// Runs the work on one webhook or message. Returns `None` if it panicked, which is a bug in
/// Posthaste and must not end the run for all others.
pub(crate) async fn isolated<T>(id: &DueId, work: impl Future<Output = T>) -> Option<T> {
    let result = AssertUnwindSafe(work).catch_unwind().await;
    if result.is_err() {
        tracing::error!(webhook_id = %id, "Skipping a webhook because the sweep panicked over it");
    }
    result.ok()
}
