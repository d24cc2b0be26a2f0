//! The webhook of one queue message: the stored record decides whether it is archived or rescued.
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
//!
//! A delivery without a record is one that is unfinished and that `deliver` has not worked on, or
//! it did not start in time: then it fails with `undeliverable` and is archived. The rescue is its
//! first write. A published message, whose look the queue gave up on, is due at once.

use shared::{
    applications::standing::{Found, Standing},
    apply::{Applied, AppliedToMessage, apply, apply_to_standing, apply_unchanged},
    context::Context,
    id::{MessageId, WebhookId},
    logging::{message_span, webhook_span},
    message::Look,
    model::{Function, Webhook},
    status::Status,
    store::{StoreError, StoredDelivery},
    transition::{GiveUp, Refusal, Rules, Unstarted},
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

/// Processes one queue message.
pub(crate) async fn process(context: &Context, look: &Look) -> Result<Disposition, StoreError> {
    let message = match look {
        Look::Webhook(message) => message,
        Look::Message(id) => return adopt(context, id).await,
    };
    let id = &message.webhook_id;
    let found = if id.is_delivery() {
        match read_delivery(context, id).await? {
            Delivery::Webhook(webhook) => Some(*webhook),
            Delivery::TooOld(delivery) => return abandon(context, *delivery).await,
            Delivery::Unreadable => return Ok(Disposition::HandBack),
            Delivery::Over => None,
        }
    } else {
        context.store.get(id).await?
    };
    let Some(webhook) = found else { return Ok(Disposition::Acknowledge) };
    let span = webhook_span(&webhook, None);
    work_on(context, webhook, message.archive).instrument(span).await
}

/// What there is of a delivery.
enum Delivery {
    /// Its record, or the one of revision 0 that the rules define.
    Webhook(Box<Webhook>),
    /// It did not start in time. This is its record, of revision 0.
    TooOld(Box<Webhook>),
    /// This version cannot read its record.
    Unreadable,
    /// Nothing is left to do, or its message holds it.
    Over,
}

async fn read_delivery(context: &Context, id: &WebhookId) -> Result<Delivery, StoreError> {
    let (Some(StoredDelivery { message, found }), Some(endpoint)) =
        (context.store.delivery(id).await?, id.endpoint)
    else {
        return Ok(Delivery::Over);
    };
    Ok(match found {
        Some(Found::Record(_)) if message.deleting => Delivery::Over,
        Some(Found::Record(webhook)) => Delivery::Webhook(webhook),
        Some(Found::Unreadable) => Delivery::Unreadable,
        Some(Found::Expired | Found::Marker) => Delivery::Over,
        None => match Rules::unstarted(&message, endpoint, context.clock.now()) {
            Unstarted::MayStart(delivery) => Delivery::Webhook(delivery),
            Unstarted::TooOld(delivery) => Delivery::TooOld(delivery),
            // Nothing else holds it: the clocks of two processes differ. It is due when allowed.
            Unstarted::Early { hand_back: true } => {
                let delivery = Rules::delivery(&message, endpoint).map(Box::new);
                delivery.map_or(Delivery::Over, Delivery::Webhook)
            }
            Unstarted::Early { hand_back: false }
            | Unstarted::Finished
            | Unstarted::Deleting
            | Unstarted::NotPlanned => Delivery::Over,
        },
    })
}

/// Enters a message in the due index whose look the queue gave up on: due now, or when it is
/// allowed.
async fn adopt(context: &Context, id: &MessageId) -> Result<Disposition, StoreError> {
    let Some(standing) = context.store.standing(id).await? else {
        return Ok(Disposition::Acknowledge);
    };
    let now = context.clock.now();
    let span = message_span(&standing.message, None);
    let adopt = |standing: &Standing| {
        let message = &standing.message;
        let due_at = if message.deleting { now } else { message.allowed_at.max(now) };
        context.rules.adopt_message(standing, due_at, now)
    };
    let applied = apply_to_standing(&*context.store, Some(standing), id, adopt).await?;
    if let AppliedToMessage::Done(message) = applied {
        span.in_scope(|| {
            tracing::warn!(
                due_at = message.due_at.map(tracing::field::display),
                "The queue gave up on a look at a message: added to the due index for \
                 reference_id={}",
                message.id.reference,
            );
        });
    }
    // Otherwise it is due, or nothing is left to do.
    Ok(Disposition::Acknowledge)
}

/// Stores a delivery as failed that has not started in time, and archives it.
async fn abandon(context: &Context, delivery: Webhook) -> Result<Disposition, StoreError> {
    let now = context.clock.now();
    let span = webhook_span(&delivery, None);
    let abandon = |webhook: &Webhook| context.rules.abandon(webhook, now);
    match apply_unchanged(&*context.store, delivery, abandon).await? {
        Applied::Done(webhook, ()) => archive(context, webhook).instrument(span).await,
        // A worker has just started it. The next receive looks again.
        Applied::Refused(..) => Ok(Disposition::HandBack),
        Applied::Missing => Ok(Disposition::Acknowledge),
    }
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
