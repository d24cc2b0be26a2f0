//! The audit: reads every webhook and message once, when it is `AUDIT_AGE` old. An unfinished
//! direct webhook that is not in the due index enters it. So does a message with a delivery that is
//! not accounted for: neither finished, nor deleted, nor in the due index itself.
//!
//! As a result, every older unfinished webhook is in the due index, or its message is, whatever
//! happened to the queue.
//! The position advances only after a minute was read completely and its entries were written. The
//! next run catches up what this one misses. If a clock that was ahead moved the position too far,
//! the audit moves it back by a day and reads everything since again.

use std::time::Duration;

use shared::{
    applications::standing::Standing,
    apply::{Applied, AppliedToMessage, apply, apply_to_standing},
    clock::Timestamp,
    context::Context,
    logging::{message_span, webhook_span},
    model::Webhook,
    planted::{self, Bug},
    store::{AdvanceAuditError, DueId, StoreError, Unindexed},
};
use tracing::Instrument;

use crate::{
    clock::is_ahead,
    isolation::isolated,
    summary::{Summary, SweepError},
};

/// The time range that is read at once: a minute, or less where tests shorten the audit's age.
const STEP: Duration = Duration::from_secs(60);

/// The maximum number of minutes that one run catches up.
const MAX_STEPS_PER_RUN: u32 = 120;

/// How far back the first run reads, and a run that finds the position in the future.
const LOOK_BACK: Duration = Duration::from_secs(24 * 3600);

/// Reads the minutes that have reached the audit's age since the stored position.
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
        let mut must_move_back =
            stored.is_some_and(|position| is_ahead(position, context.config.audit_age, now));
        if planted::is(Bug::AuditNeverTakenBack) {
            must_move_back = false;
        }
        if must_move_back {
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
        // Before the first run there is hardly anything to read, so one step covers it.
        let mut to = if stored.is_some() { from.plus(step).min(of_age) } else { of_age };
        if planted::is(Bug::AuditMovesFirst) {
            advance(context, stored, to).await?;
        }
        adopt_unindexed(context, from, to, summary).await?;
        if planted::is(Bug::AuditSkipsMinute) {
            to = to.plus(step);
        }
        // The store refuses this if another run was first, or if a late write of a crashed run took
        // effect. The next step continues from the stored position.
        advance(context, stored, to).await?;
    }
    summary.more = true;
    Ok(())
}

/// Moves the audit's position, unless another run moved it first.
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

/// Adds unfinished webhooks and messages of this time range to the due index that are not in it.
async fn adopt_unindexed(
    context: &Context,
    from: Timestamp,
    to: Timestamp,
    summary: &mut Summary,
) -> Result<(), SweepError> {
    let mut after = None;
    loop {
        let page = context.store.list_unindexed(from, to, after).await?;
        for unindexed in page.items {
            let adopted = match unindexed {
                Unindexed::Webhook(webhook) => {
                    let span = webhook_span(&webhook, None);
                    let id = DueId::Webhook(webhook.id.clone());
                    isolated(&id, adopt(context, *webhook)).instrument(span).await
                }
                Unindexed::Message(standing) => {
                    let span = message_span(&standing.message, None);
                    let id = DueId::Message(standing.message.id.clone());
                    isolated(&id, adopt_message(context, *standing)).instrument(span).await
                }
            };
            summary.adopted += usize::from(adopted.transpose()?.unwrap_or_default());
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Returns whether the webhook entered the due index.
async fn adopt(context: &Context, webhook: Webhook) -> Result<bool, SweepError> {
    let now = context.clock.now();
    let audit = |webhook: &Webhook| context.rules.audit(webhook, now);
    let Applied::Done(webhook, ()) = apply(&*context.store, webhook, audit).await? else {
        return Ok(false);
    };
    tracing::warn!(
        "The audit found an unfinished webhook without a holder: added to the due index for \
         reference_id={}",
        webhook.id.reference,
    );
    Ok(true)
}

/// Returns whether the message entered the due index.
async fn adopt_message(context: &Context, standing: Standing) -> Result<bool, SweepError> {
    let now = context.clock.now();
    let id = standing.message.id.clone();
    let audit = |standing: &Standing| context.rules.audit_message(standing, now);
    let applied = apply_to_standing(&*context.store, Some(standing), &id, audit).await?;
    let AppliedToMessage::Done(_) = applied else { return Ok(false) };
    tracing::warn!(
        "The audit found a message with a delivery without a holder: added to the due index for \
         reference_id={}",
        id.reference,
    );
    Ok(true)
}

fn floor(time: Timestamp, step: Duration) -> Timestamp {
    let step_ms = (step.as_millis() as i64).max(1);
    Timestamp::from_millis(time.as_millis().div_euclid(step_ms) * step_ms)
}
