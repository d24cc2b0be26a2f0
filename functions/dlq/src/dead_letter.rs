//! The webhook of one message: the stored record decides whether it is archived or rescued.
//!
//! | record | action |
//! |---|---|
//! | missing, delivered, archived | acknowledge |
//! | failed | archive |
//! | unfinished, and the message asks to archive it | acknowledge: it was sent again |
//! | unfinished, `deliver` has worked on it since the last rescue | rescue: due at once |
//! | unfinished, `deliver` has not | due again, later each time; spends no rescue |
//! | unfinished, three rescues spent | fail with `undeliverable`, archive |
//! | unreadable, or of a newer schema version | hand back |

use shared::{
    apply::{Applied, apply, apply_unchanged},
    context::Context,
    logging::webhook_span,
    message::Message,
    model::{Function, Webhook},
    status::Status,
    store::StoreError,
    transition::{GiveUp, Refusal},
};
use tracing::Instrument;

/// What happens to a queue message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Delete it.
    Acknowledge,
    /// Return it to the queue, which delivers it again.
    HandBack,
}

/// Processes one message.
pub(crate) async fn process(
    context: &Context,
    message: &Message,
) -> Result<Disposition, StoreError> {
    let Some(webhook) = context.store.get(&message.webhook_id).await? else {
        return Ok(Disposition::Acknowledge);
    };
    let span = webhook_span(&webhook, None);
    work_on(context, webhook, message.archive).instrument(span).await
}

async fn work_on(
    context: &Context,
    webhook: Webhook,
    is_archive_request: bool,
) -> Result<Disposition, StoreError> {
    match webhook.status {
        Status::Delivered => Ok(Disposition::Acknowledge),
        Status::Failed => archive(context, webhook).await,
        Status::Pending | Status::InProgress | Status::Retrying => {
            if is_archive_request {
                // The webhook had failed, and an operator has sent it again.
                return Ok(Disposition::Acknowledge);
            }
            rescue(context, webhook).await
        }
    }
}

async fn archive(context: &Context, webhook: Webhook) -> Result<Disposition, StoreError> {
    let now = context.clock.now();
    let archive = |webhook: &Webhook| context.rules.archive(webhook, now);
    match apply(&*context.store, webhook, archive).await? {
        Applied::Done(..) => tracing::warn!("Moved failed webhook to dead letter queue"),
        // Archived before, sent again by an operator, or deleted.
        Applied::Refused(..) | Applied::Missing => {}
    }
    Ok(Disposition::Acknowledge)
}

async fn rescue(context: &Context, webhook: Webhook) -> Result<Disposition, StoreError> {
    let now = context.clock.now();
    let rescue = |webhook: &Webhook| context.rules.rescue(webhook, now);
    match apply(&*context.store, webhook, rescue).await? {
        Applied::Done(webhook, ()) => {
            tracing::warn!(
                rescues = webhook.budget.rescues,
                unworked_rescues = webhook.budget.unworked_rescues,
                due_at = webhook.due_at.map(tracing::field::display),
                "Rescued an unfinished webhook whose message the queue gave up on: added to the \
                 due index for reference_id={}",
                webhook.id.reference,
            );
            Ok(Disposition::Acknowledge)
        }
        Applied::Refused(Refusal::BudgetSpent, webhook) => give_up(context, webhook).await,
        // A worker made progress. The next receive looks again.
        Applied::Refused(..) => Ok(Disposition::HandBack),
        Applied::Missing => Ok(Disposition::Acknowledge),
    }
}

async fn give_up(context: &Context, webhook: Webhook) -> Result<Disposition, StoreError> {
    let now = context.clock.now();
    let rules = &context.rules;
    let give_up =
        |webhook: &Webhook| rules.give_up(webhook, GiveUp::Undeliverable, Function::Dlq, now);
    match apply_unchanged(&*context.store, webhook, give_up).await? {
        Applied::Done(webhook, ()) => archive(context, webhook).await,
        Applied::Refused(..) => Ok(Disposition::HandBack),
        Applied::Missing => Ok(Disposition::Acknowledge),
    }
}
