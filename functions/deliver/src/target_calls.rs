//! Calls of the store for traffic control, which only protects destinations. A store that is slow
//! or fails must not delay deliveries: a call ends after [`CALL_LIMIT`], and after a failure this
//! process makes none for [`PAUSE`].

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use shared::{clock::Timestamp, context::Context};

/// The longest time of a call. It is less than the time for which a list of targets stays valid.
const CALL_LIMIT: Duration = Duration::from_millis(1500);

/// How long no call is made after a failed one.
const PAUSE: Duration = Duration::from_secs(2);

/// The calls of one kind.
#[derive(Debug, Default)]
pub(crate) struct TargetCalls {
    // A std mutex: it is held for a look, never across an await.
    failed_at: Mutex<Option<Timestamp>>,
}

impl TargetCalls {
    /// Makes the call. `None`: it failed, took too long, or was not made, because another one
    /// failed a moment ago. An error for which `is_answer` holds is an answer of the store.
    /// `action` completes "Could not …".
    pub(crate) async fn make<T, E: Error + 'static>(
        &self,
        context: &Context,
        action: &str,
        call: impl Future<Output = Result<T, E>>,
        is_answer: impl Fn(&E) -> bool,
    ) -> Option<Result<T, E>> {
        if self.is_paused(context.clock.now()) {
            return None;
        }
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Err(error)) if !is_answer(&error) => {
                let error = &error as &dyn Error;
                tracing::warn!(error, "Could not {action}");
            }
            Ok(result) => return Some(result),
            Err(_) => tracing::warn!("Could not {action} within {CALL_LIMIT:?}"),
        }
        // The end of the call, since it may have taken long.
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.clock.now());
        None
    }

    /// A clock that was set back ends the pause.
    fn is_paused(&self, now: Timestamp) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| now.since(at) < PAUSE && at <= now)
    }
}
