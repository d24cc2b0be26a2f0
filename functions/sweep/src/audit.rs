//! The audit: every webhook is read once, when it is `AUDIT_AGE` old, and enters the due index if
//! it is unfinished and not in it.
//!
//! So everything unfinished and older than that is in the due index, whatever happened to the
//! queue. The position moves on only after a minute was read to its end and its entries were made;
//! what was missed is caught up. A position that a clock which was ahead has put too far is taken
//! back by a day: all that was created since is read again.

use std::time::Duration;

use shared::{
    apply::{Applied, apply},
    clock::Timestamp,
    context::Context,
    model::Webhook,
    planted::{self, Bug},
    store::{AdvanceAuditError, StoreError},
};

use crate::{Summary, SweepError, clock::is_ahead, isolated};

/// What is read at a time: a minute, or less where tests have shortened the audit's age.
const STEP: Duration = Duration::from_secs(60);

/// Minutes that one run catches up at most.
const MAX_STEPS_PER_RUN: u32 = 120;

/// How far the very first run looks back, and one that finds the position in the future.
const LOOK_BACK: Duration = Duration::from_secs(24 * 3600);

/// Reads the minutes that have come of age since the stored position.
pub(crate) async fn audit(
    context: &Context,
    until: Timestamp,
    summary: &mut Summary,
) -> Result<(), SweepError> {
    let step = STEP.min(context.config.audit_age);
    for _ in 0..MAX_STEPS_PER_RUN {
        let now = context.clock.now();
        let of_age = floor(now.minus(context.config.audit_age), step);
        let stored = context.store.audited_until().await?;
        let is_ahead = |position: &Timestamp| is_ahead(*position, context.config.audit_age, now);
        if stored.as_ref().is_some_and(is_ahead) && !planted::is(Bug::AuditNeverTakenBack) {
            advance(context, stored, floor(now.minus(LOOK_BACK), step)).await?;
            continue;
        }
        let from = stored.unwrap_or_else(|| floor(of_age.minus(LOOK_BACK), step));
        if from >= of_age {
            return Ok(());
        }
        if now >= until {
            break;
        }
        // Before the very first run there is hardly anything to read, so that is one step.
        let to = if stored.is_some() { from.plus(step).min(of_age) } else { of_age };
        if planted::is(Bug::AuditMovesFirst) {
            advance(context, stored, to).await?;
        }
        adopt_unindexed(context, from, to, summary).await?;
        let to = if planted::is(Bug::AuditSkipsMinute) { to.plus(step) } else { to };
        // Refused: another run was first, or a write of one that has died took effect late. The
        // next round goes on from there.
        advance(context, stored, to).await?;
    }
    summary.more = true;
    Ok(())
}

/// Moves the audit's position, unless another run moved it first: the next round reads it anew.
async fn advance(
    context: &Context,
    from: Option<Timestamp>,
    to: Timestamp,
) -> Result<(), StoreError> {
    match context.store.advance_audit(from, to).await {
        Ok(()) | Err(AdvanceAuditError::Moved) => Ok(()),
        Err(AdvanceAuditError::Store(error)) => Err(error),
    }
}

async fn adopt_unindexed(
    context: &Context,
    from: Timestamp,
    to: Timestamp,
    summary: &mut Summary,
) -> Result<(), SweepError> {
    let mut after = None;
    loop {
        let page = context.store.list_unindexed(from, to, after).await?;
        for webhook in page.items {
            let now = context.clock.now();
            let audit = |webhook: &Webhook| context.rules.audit(webhook, now);
            let id = webhook.id.clone();
            let Some(applied) = isolated(&id, apply(&*context.store, webhook, audit)).await else {
                continue;
            };
            if let Applied::Done(webhook, ()) = applied? {
                summary.adopted += 1;
                tracing::warn!(
                    correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
                    "[{}] Unfinished, and nobody held it: entered in the due index for \
                     reference_id={}",
                    webhook.correlation_id, webhook.id.reference,
                );
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn floor(time: Timestamp, step: Duration) -> Timestamp {
    let step_ms = (step.as_millis() as i64).max(1);
    Timestamp::from_millis(time.as_millis().div_euclid(step_ms) * step_ms)
}
