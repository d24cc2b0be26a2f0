//! One batch of queue messages: runs them concurrently and builds the partial batch response.

use std::panic::AssertUnwindSafe;

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{FutureExt, future::join_all};
use shared::{
    context::Context,
    message::{InvalidMessage, Look},
    metrics::Mode,
    planted::{self, Bug},
};

use crate::{
    dead_letter::{Disposition, process},
    unreadable_message::{KeepError, keep},
};

/// Processes all messages of the batch concurrently. The response names those that SQS must deliver
/// again.
pub async fn handle(context: &Context, event: SqsEvent) -> SqsBatchResponse {
    let dispositions =
        join_all(event.records.iter().map(|message| isolated(context, message))).await;
    context.metrics.flush_if_due(&*context.store, context.clock.now()).await;
    partial_batch_response(&event.records, &dispositions)
}

/// Processes one message. A panic is a bug in Posthaste: it hands back this message and leaves the
/// rest of the batch alone.
async fn isolated(context: &Context, message: &SqsMessage) -> Disposition {
    AssertUnwindSafe(measured(context, message)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(
            message_id = message.message_id,
            "Handing back a dead letter because its handler panicked"
        );
        Disposition::HandBack
    })
}

async fn measured(context: &Context, message: &SqsMessage) -> Disposition {
    let started_at = context.clock.now();
    let disposition = dispatch(context, message).await;
    let took = context.clock.now().since(started_at);
    context.metrics.task(Mode::Dlq, disposition == Disposition::Acknowledge, took);
    disposition
}

async fn dispatch(context: &Context, message: &SqsMessage) -> Disposition {
    let message_id = message.message_id.as_deref();
    match Look::from_json(message.body.as_deref().unwrap_or_default()) {
        Ok(look) => process(context, &look).await.unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(message_id, error, "Handing back a dead letter");
            Disposition::HandBack
        }),
        Err(error @ InvalidMessage::TooNew { .. }) => {
            if planted::is(Bug::NewerArchived) {
                return keep_unreadable(context, message).await;
            }
            tracing::warn!(message_id, "Handing back a dead letter: {error}");
            Disposition::HandBack
        }
        Err(InvalidMessage::Malformed(_)) => keep_unreadable(context, message).await,
    }
}

async fn keep_unreadable(context: &Context, message: &SqsMessage) -> Disposition {
    let message_id = message.message_id.as_deref();
    match keep(context, message).await {
        Ok(()) => Disposition::Acknowledge,
        Err(KeepError::Store(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(message_id, error, "Handing back an unreadable message");
            Disposition::HandBack
        }
        Err(error @ KeepError::Impossible(_)) => {
            tracing::error!(message_id, "Handing back an unreadable message: {error}");
            Disposition::HandBack
        }
    }
}

/// Builds the partial batch response: the IDs of the messages that SQS must deliver again.
fn partial_batch_response(
    messages: &[SqsMessage],
    dispositions: &[Disposition],
) -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    for (message, disposition) in messages.iter().zip(dispositions) {
        if *disposition == Disposition::HandBack {
            response.add_failure(message.message_id.as_deref().unwrap_or_default());
        }
    }
    response
}
