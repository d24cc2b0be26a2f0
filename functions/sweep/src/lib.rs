//! `sweep`: queues what falls due within the next minute, and audits.
//!
//! It may overlap with itself and may miss runs: everything it does is a conditional write, and
//! everything it has not done is found again by the next run.

mod audit;
mod clock;
mod due;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use shared::{
    clock::Timestamp,
    context::Context,
    id::WebhookId,
    metrics::Mode,
    queue::QueueError,
    store::{DueCursor, StoreError, SweepReport},
};

/// What a run did, for the log and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Webhooks that were queued.
    pub requeued: usize,
    /// Webhooks that the audit entered in the due index.
    pub adopted: usize,
    /// Webhooks that a clock which was ahead had written, and whose times were taken back.
    pub taken_back: usize,
    /// How long the most overdue entry had been due, of those that can be read.
    pub lag: Duration,
    /// Due webhooks that cannot be read.
    pub unreadable: usize,
    /// Whether there may be more of those than the run came to.
    pub unreadable_may_be_more: bool,
    /// How far the run came in the due index, if that was not the end.
    pub resume: Option<DueCursor>,
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

/// What came of the work on one webhook. `None`: it panicked, which is our mistake and must not end
/// the run for all others.
async fn isolated<T>(id: &WebhookId, work: impl Future<Output = T>) -> Option<T> {
    let worked = AssertUnwindSafe(work).catch_unwind().await;
    worked
        .inspect_err(|_| {
            tracing::error!(webhook_id = %id,
        "The sweep passes over a webhook whose handling panicked")
        })
        .ok()
}

async fn run(context: &Context, until: Timestamp) -> Result<Summary, SweepError> {
    let ran_at = context.clock.now();
    let store = &*context.store;
    let last = store.last_sweep().await?;
    clock::announce(context, last.as_ref(), ran_at).await?;
    let traces = clock::Traces::read(context, last.as_ref()).await?;
    let mut clock_fault = clock::find(&traces, context.config.audit_age, ran_at);
    let mut summary = Summary::default();
    if let Some(fault) = &mut clock_fault {
        clock::take_back(context, ran_at.plus(until.since(ran_at) / 2), fault, &mut summary)
            .await?;
    }
    // The audit goes on also when the queue is down: it needs the store only.
    let due =
        due::requeue_due(context, until, last.and_then(|last| last.resume), &mut summary).await;
    audit::audit(context, until, &mut summary).await?;
    due?;
    store.maintain(ran_at, until).await?;
    let counts = store.counts().await?;
    context.metrics.swept(summary.lag, counts);
    let report = SweepReport {
        ran_at,
        lag_ms: summary.lag.as_millis() as u64,
        counts,
        unreadable: summary.unreadable as u64,
        unreadable_may_be_more: summary.unreadable > 0 && summary.unreadable_may_be_more,
        resume: summary.resume.clone(),
        began_at: None,
        clock_fault,
    };
    store.report_sweep(&report).await?;
    if summary.unreadable > 0 {
        tracing::error!(
            unreadable = summary.unreadable,
            may_be_more = summary.unreadable_may_be_more,
            "Due webhooks cannot be read: deploy the version that wrote them, or delete them",
        );
    }
    if summary.requeued > 0 || summary.adopted > 0 || summary.taken_back > 0 {
        let Summary { requeued, adopted, taken_back, more, .. } = summary;
        tracing::info!(requeued, adopted, taken_back, more, "Swept");
    }
    Ok(summary)
}
