//! Keeps a message that cannot be read as a dead letter of its own.

use std::fmt::Display;

use aws_lambda_events::event::sqs::SqsMessage;
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};
use shared::{
    clock::Timestamp,
    context::Context,
    id::{ReferenceId, TaskId, WebhookId},
    logging::webhook_span,
    model::{Content, Function, Webhook, truncated},
    queue::MAX_BODY_BYTES,
    store::{CreateError, StoreError, Tombstone},
    transition::{GiveUp, NewWebhook, Refusal, Rules},
};

/// The reference ID of these dead letters.
const REFERENCE: &str = "unreadable-message";

/// The message could not be kept, so it must stay in the queue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The store failed. The next receive tries again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The next receive will fail, too.
    #[error("no dead letter can be made of it: {0}")]
    Impossible(String),
}

/// Stores the message as a dead letter. An operator can read and delete it, but not resend it: its
/// payload is the message's text, and it has no URL. The record's ID follows from the message, so a
/// second receive stores no second record.
pub(crate) async fn keep(context: &Context, message: &SqsMessage) -> Result<(), KeepError> {
    let now = context.clock.now();
    let body = message.body.as_deref().unwrap_or_default();
    let archived = archived_record(&context.rules, message, now).map_err(impossible)?;
    let payload = to_raw_value(truncated(body, MAX_BODY_BYTES)).map_err(impossible)?;
    let message_content = Content { url: String::new(), headers: Vec::new(), payload };
    match context.store.create(&archived, &message_content).await {
        Ok(()) => {
            let _span = webhook_span(&archived, None).entered();
            tracing::error!(
                message_id = message.message_id,
                "Kept an unreadable message as a dead letter"
            );
            Ok(())
        }
        // An earlier receive stored it, and an operator may have deleted it since.
        Err(CreateError::Conflict(_) | CreateError::Tombstone(Tombstone::Deleted)) => Ok(()),
        Err(CreateError::Tombstone(Tombstone::Unused)) => Err(impossible("its id is barred")),
        Err(CreateError::Store(error)) => Err(error.into()),
    }
}

fn impossible(reason: impl Display) -> KeepError {
    KeepError::Impossible(reason.to_string())
}

fn archived_record(
    rules: &Rules,
    message: &SqsMessage,
    now: Timestamp,
) -> Result<Webhook, Refusal> {
    let webhook = rules.create(
        NewWebhook {
            id: id_of(message, now),
            referenced: true,
            correlation_id: message.message_id.clone().unwrap_or_default(),
            trace: None,
            event_type: None,
            destination: String::new(),
            path_hash: None,
            retry: None,
            deliver_at: None,
        },
        now,
    );
    let failed = rules.give_up(&webhook, GiveUp::Unreadable, Function::Dlq, now)?;
    rules.archive(&failed, now)
}

fn id_of(message: &SqsMessage, now: Timestamp) -> WebhookId {
    let sent_ms = message.attributes.get("SentTimestamp").and_then(|time| time.parse().ok());
    let sent_at = sent_ms.map_or(now, Timestamp::from_millis).min(now);
    let hash = Sha256::digest(message.message_id.as_deref().unwrap_or_default());
    let mut random = [0; 10];
    random.copy_from_slice(&hash[..10]);
    let task = TaskId::mint(sent_at, random);
    let reference = REFERENCE.parse().unwrap_or_else(|_| ReferenceId::generated(task));
    WebhookId::direct(reference, task)
}
