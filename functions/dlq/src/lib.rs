//! `dlq`: archives what failed, and rescues what the queue gave up on although it is not finished.
//!
//! A dead letter *is* the failed record, so archiving is one conditional write. Only a message that
//! cannot be read becomes a dead letter without a webhook: a record of its own is made for it, so
//! that nothing that was ever queued disappears unseen.
//!
//! | record | what is done |
//! |---|---|
//! | missing, delivered, archived | acknowledge |
//! | failed | archive |
//! | unfinished, and the message asks to archive it | acknowledge: it was sent again |
//! | unfinished, and `deliver` has worked on it since the last rescue | rescue: due at once; after three rescues fail it, kind `undeliverable`, and archive |
//! | unfinished, and `deliver` has not | due again, later each time; no rescue is spent |
//! | of a newer schema version, or unreadable | hand back |

mod stray;

use std::panic::AssertUnwindSafe;

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{FutureExt, future::join_all};
use shared::{
    apply::{Applied, apply, apply_unchanged},
    context::Context,
    message::{InvalidMessage, Message},
    metrics::Mode,
    model::{Function, Webhook},
    planted::{self, Bug},
    status::Status,
    store::StoreError,
    transition::{GiveUp, Refusal},
};

/// Whether a message is done with.
type Done = bool;

/// Works on each message of the batch, all at once; answers with those that it hands back.
pub async fn handle(context: &Context, event: SqsEvent) -> SqsBatchResponse {
    let done = join_all(event.records.iter().map(|message| isolated(context, message))).await;
    context.metrics.flush_if_due(&*context.store, context.clock.now()).await;
    let mut response = SqsBatchResponse::default();
    let failures = event.records.iter().zip(done).filter(|(_, done)| !done);
    response.batch_item_failures = failures
        .map(|(message, _)| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = message.message_id.clone().unwrap_or_default();
            failure
        })
        .collect();
    response
}

/// A panic over one message, which is our mistake, hands back that message alone, and not its
/// batch.
async fn isolated(context: &Context, message: &SqsMessage) -> Done {
    AssertUnwindSafe(work(context, message)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(
            message_id = message.message_id,
            "Handing back a dead letter whose handling panicked"
        );
        false
    })
}

async fn work(context: &Context, message: &SqsMessage) -> Done {
    let started_at = context.clock.now();
    let result = match Message::from_json(message.body.as_deref().unwrap_or_default()) {
        Ok(parsed) => look(context, &parsed).await,
        Err(InvalidMessage::TooNew { .. }) if planted::is(Bug::NewerArchived) => {
            stray::keep(context, message).await.map(|()| true)
        }
        Err(error @ InvalidMessage::TooNew { .. }) => {
            tracing::warn!(message_id = message.message_id, "Handing back a dead letter: {error}");
            Ok(false)
        }
        Err(InvalidMessage::Malformed(_)) => stray::keep(context, message).await.map(|()| true),
    };
    let done = result.unwrap_or_else(|error| {
        tracing::warn!(
            message_id = message.message_id,
            error = &error as &dyn std::error::Error,
            "Handing back a dead letter"
        );
        false
    });
    context.metrics.task(Mode::Dlq, done, context.clock.now().since(started_at));
    done
}

async fn look(context: &Context, message: &Message) -> Result<Done, StoreError> {
    let Some(webhook) = context.store.get(&message.webhook_id).await? else { return Ok(true) };
    match webhook.status {
        Status::Delivered => Ok(true),
        Status::Failed => archive(context, webhook).await,
        // It had failed, and an operator has sent it again since: it is on its way.
        Status::Pending | Status::InProgress | Status::Retrying if message.archive => Ok(true),
        Status::Pending | Status::InProgress | Status::Retrying => rescue(context, webhook).await,
    }
}

async fn archive(context: &Context, webhook: Webhook) -> Result<Done, StoreError> {
    let now = context.clock.now();
    match apply(&*context.store, webhook, |webhook| context.rules.archive(webhook, now)).await? {
        Applied::Done(webhook, ()) => {
            tracing::warn!(
                correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
                trace_id = webhook.trace.as_ref().map(|trace| trace.id.as_str()),
                "[{}] Moved failed webhook to dead letter queue", webhook.correlation_id,
            );
            Ok(true)
        }
        // Archived before, sent again by an operator, or deleted.
        Applied::Refused(..) | Applied::Missing => Ok(true),
    }
}

async fn rescue(context: &Context, webhook: Webhook) -> Result<Done, StoreError> {
    let now = context.clock.now();
    match apply(&*context.store, webhook, |webhook| context.rules.rescue(webhook, now)).await? {
        Applied::Done(webhook, ()) => {
            tracing::warn!(
                correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
                rescues = webhook.budget.rescues,
                unworked_rescues = webhook.budget.unworked_rescues,
                due_at = webhook.due_at.map(tracing::field::display),
                "[{}] The queue gave up on an unfinished webhook: entered in the due index for \
                 reference_id={}",
                webhook.correlation_id, webhook.id.reference,
            );
            Ok(true)
        }
        Applied::Refused(Refusal::BudgetSpent, webhook) => give_up(context, webhook).await,
        // It got on meanwhile: look again.
        Applied::Refused(..) => Ok(false),
        Applied::Missing => Ok(true),
    }
}

async fn give_up(context: &Context, webhook: Webhook) -> Result<Done, StoreError> {
    let now = context.clock.now();
    let rules = &context.rules;
    let give_up =
        |webhook: &Webhook| rules.give_up(webhook, GiveUp::Undeliverable, Function::Dlq, now);
    match apply_unchanged(&*context.store, webhook, give_up).await? {
        Applied::Done(webhook, ()) => archive(context, webhook).await,
        Applied::Refused(..) => Ok(false),
        Applied::Missing => Ok(true),
    }
}
