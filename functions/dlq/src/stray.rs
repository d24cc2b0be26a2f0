//! A message that cannot be read, kept as a dead letter of its own.

use aws_lambda_events::event::sqs::SqsMessage;
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};
use shared::{
    clock::Timestamp,
    context::Context,
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, Function, truncated},
    queue::MAX_BODY_BYTES,
    store::{CreateError, StoreError},
    transition::{GiveUp, NewWebhook},
};

/// The reference id of all of them.
const REFERENCE: &str = "unreadable-message";

/// Makes the record: failed, archived, with the message's text as payload and no URL, so it can be
/// read and deleted, and not be resent. Its id follows from the message, so a second look at the
/// message makes no second record.
pub(crate) async fn keep(context: &Context, message: &SqsMessage) -> Result<(), StoreError> {
    let now = context.clock.now();
    let body = message.body.as_deref().unwrap_or_default();
    let id = id_of(message, now);
    let rules = &context.rules;
    let webhook = rules.create(
        NewWebhook {
            id,
            referenced: true,
            correlation_id: message.message_id.clone().unwrap_or_default(),
            trace: None,
            event_type: None,
            destination: String::new(),
            retry: None,
            deliver_at: None,
        },
        now,
    );
    // Neither is refused: it is new.
    let failed = rules.give_up(&webhook, GiveUp::Unreadable, Function::Dlq, now);
    let Ok(archived) = failed.and_then(|failed| rules.archive(&failed, now)) else { return Ok(()) };
    let text = truncated(body, MAX_BODY_BYTES);
    let payload = to_raw_value(text).map_err(|error| StoreError::Unavailable(error.into()))?;
    match context
        .store
        .create(&archived, &Content { url: String::new(), headers: Vec::new(), payload })
        .await
    {
        Ok(()) => {
            tracing::error!(message_id = message.message_id, webhook_id = %archived.id,
                "Kept an unreadable message as a dead letter");
            Ok(())
        }
        // Kept before; also if it was deleted since.
        Err(CreateError::Conflict(_) | CreateError::Tombstone(_)) => Ok(()),
        Err(CreateError::Store(error)) => Err(error),
    }
}

fn id_of(message: &SqsMessage, now: Timestamp) -> WebhookId {
    let sent_ms = message.attributes.get("SentTimestamp").and_then(|time| time.parse().ok());
    let sent_at = sent_ms.map_or(now, Timestamp::from_millis).min(now);
    let hash = Sha256::digest(message.message_id.as_deref().unwrap_or_default());
    let mut random = [0; 10];
    random.copy_from_slice(&hash[..10]);
    let task = TaskId::mint(sent_at, random);
    let reference = REFERENCE.parse().unwrap_or_else(|_| ReferenceId::generated(task));
    WebhookId { reference, task }
}
