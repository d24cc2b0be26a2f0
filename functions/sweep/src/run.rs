//! One run of the sweep, from start to report.

use shared::{clock::Timestamp, context::Context, metrics::Mode, store::SweepReport};

use crate::{
    audit, clock, due,
    summary::{Summary, SweepError},
};

/// Makes one run. It ends soon after `until`.
pub async fn handle(context: &Context, until: Timestamp) -> Result<Summary, SweepError> {
    let started_at = context.clock.now();
    let result = run(context, until).await;
    let now = context.clock.now();
    context.metrics.task(Mode::Sweep, result.is_ok(), now.since(started_at));
    context.metrics.flush_if_due(&*context.store, now).await;
    result
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
    // The audit needs the store only, so it runs even if the queue failed.
    let resume = last.and_then(|last| last.resume);
    let queued = due::requeue_due(context, until, resume, &mut summary).await;
    audit::audit(context, until, &mut summary).await?;
    queued?;
    // The report does not depend on the maintenance, so it is stored even if that failed.
    let maintained = store.maintain(ran_at, until).await;
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
    log(&summary);
    maintained?;
    Ok(summary)
}

fn log(summary: &Summary) {
    let Summary { requeued, adopted, taken_back, more, .. } = *summary;
    if summary.unreadable > 0 {
        tracing::error!(
            unreadable = summary.unreadable,
            may_be_more = summary.unreadable_may_be_more,
            "Due webhooks or messages cannot be read. Deploy the version that wrote them, or \
             delete them",
        );
    }
    if requeued > 0 || adopted > 0 || taken_back > 0 {
        tracing::info!(requeued, adopted, taken_back, more, "Sweep finished");
    }
}
