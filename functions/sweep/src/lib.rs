//! `sweep`: queues what falls due within the next minute, and audits.
//!
//! It may overlap with itself and may miss runs: everything it does is a conditional write, and everything it has not done is found
//! again by the next run.

mod audit;
mod due;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use shared::{
    clock::Timestamp,
    context::Context,
    id::WebhookId,
    metrics::Mode,
    queue::QueueError,
    store::{StoreError, SweepReport},
};

/// What a run did, for the log and for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Webhooks that were queued.
    pub requeued: usize,
    /// Webhooks that the audit entered in the due index.
    pub adopted: usize,
    /// How long the most overdue entry had been due.
    pub lag: Duration,
    /// Whether there was more to do than one run may.
    pub more: bool,
}

/// Why a run ended early. The next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store did not answer.
    #[error("the store failed the sweep")]
    Store(#[from] StoreError),
    /// The queue did not take what is due; it stays due.
    #[error("the queue failed the sweep")]
    Queue(#[from] QueueError),
}

/// Makes one run, which ends soon after `until` at the latest.
pub async fn handle(context: &Context, until: Timestamp) -> Result<Summary, SweepError> {
    let started_at = context.clock.now();
    let result = run(context, until).await;
    let now = context.clock.now();
    context.metrics.task(Mode::Sweep, result.is_ok(), now.since(started_at));
    context.metrics.flush_if_due(&*context.store, now).await;
    result
}

/// What came of the work on one webhook. `None`: it panicked, which is our mistake and must not end the run for all others.
async fn isolated<T>(id: &WebhookId, work: impl Future<Output = T>) -> Option<T> {
    let worked = AssertUnwindSafe(work).catch_unwind().await;
    worked.inspect_err(|_| tracing::error!(webhook_id = %id, "The sweep passes over a webhook whose handling panicked")).ok()
}

async fn run(context: &Context, until: Timestamp) -> Result<Summary, SweepError> {
    let ran_at = context.clock.now();
    let mut summary = Summary::default();
    // The audit goes on also when the queue is down: it needs the store only.
    let due = due::requeue_due(context, until, &mut summary).await;
    audit::audit(context, until, &mut summary).await?;
    due?;
    context.store.tidy(ran_at).await?;
    let counts = context.store.counts().await?;
    context.metrics.swept(summary.lag, counts);
    context.store.report_sweep(&SweepReport { ran_at, lag_ms: summary.lag.as_millis() as u64, counts }).await?;
    if summary.requeued > 0 || summary.adopted > 0 {
        tracing::info!(requeued = summary.requeued, adopted = summary.adopted, more = summary.more, "Swept");
    }
    Ok(summary)
}
