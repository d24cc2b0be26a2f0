//! One batch of queue messages: runs them concurrently and builds the partial batch response.

use std::{panic::AssertUnwindSafe, time::Duration};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{FutureExt, future::join_all};
use shared::{
    clock::Timestamp,
    message::{InvalidMessage, Look},
    metrics::Mode,
    planted::{self, Bug},
    queue::Lane,
};

use crate::worker::{Deliver, Disposition};

impl Deliver {
    /// Processes all messages of the batch concurrently. Returns before `until`, when the platform
    /// ends the invocation: no claim is made with less than a lease left.
    pub async fn handle(&self, event: SqsEvent, until: Timestamp) -> SqsBatchResponse {
        let dispositions =
            join_all(event.records.iter().map(|message| self.isolated(message, until))).await;
        self.context.metrics.flush_if_due(&*self.context.store, self.context.clock.now()).await;
        partial_batch_response(&event.records, &dispositions)
    }

    /// Processes one message and contains its failures. A panic is a bug in Posthaste: it hands
    /// back this message and leaves the rest of the batch alone. The claim then expires, as it does
    /// after a crash. If this process loses its heartbeat, another one may recover its webhooks, so
    /// its own attempts stop.
    async fn isolated(&self, message: &SqsMessage, until: Timestamp) -> Disposition {
        let hold = self.context.liveness.hold();
        let work = AssertUnwindSafe(self.measured(message, until)).catch_unwind();
        let message_id = message.message_id.as_deref();
        tokio::select! {
            worked = work => worked.unwrap_or_else(|_| {
                tracing::error!(message_id, "Handing back a message because its handler panicked");
                Disposition::HandBack
            }),
            () = hold.lost() => {
                tracing::warn!(message_id,
                    "Handing back a message because this process lost its heartbeat");
                Disposition::HandBack
            }
        }
    }

    async fn measured(&self, message: &SqsMessage, until: Timestamp) -> Disposition {
        let started_at = self.context.clock.now();
        let mut disposition = self.process(message, until).await;
        if planted::is(Bug::AcknowledgeUnfinished) {
            disposition = Disposition::Acknowledge;
        }
        if planted::is(Bug::HandBackDone) {
            disposition = Disposition::HandBack;
        }
        let took = self.context.clock.now().since(started_at);
        self.context.metrics.task(Mode::Deliver, disposition == Disposition::Acknowledge, took);
        disposition
    }

    async fn process(&self, message: &SqsMessage, until: Timestamp) -> Disposition {
        let body = message.body.as_deref().unwrap_or_default();
        let message_id = message.message_id.as_deref();
        match Look::from_json(body) {
            Ok(Look::Webhook(parsed)) => {
                let is_first_receive = receive_count(message) <= 1;
                self.look(parsed, is_first_receive, until, xray_trace_id(message)).await
            }
            Ok(Look::Message(id)) => self.look_at_message(&id, xray_trace_id(message)).await,
            Err(error @ InvalidMessage::TooNew { .. }) => {
                tracing::warn!(message_id, "Handing back a message: {error}");
                Disposition::HandBack
            }
            Err(InvalidMessage::Malformed(error)) => {
                if planted::is(Bug::StrayDropped) {
                    return Disposition::Acknowledge;
                }
                tracing::error!(message_id, %error,
                    "Moving an unreadable message to the dead-letter queue");
                self.enqueue(Lane::DeadLetters, body.to_owned(), Duration::ZERO, "malformed").await
            }
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

/// How often SQS has delivered the message. Without a valid count, the message counts as delivered
/// before. That costs one read and trusts nothing in the message.
fn receive_count(message: &SqsMessage) -> u32 {
    message
        .attributes
        .get("ApproximateReceiveCount")
        .and_then(|count| count.parse().ok())
        .unwrap_or(u32::MAX)
}

/// The X-Ray trace of the message's sender, which SQS passes on.
fn xray_trace_id(message: &SqsMessage) -> Option<&str> {
    message.attributes.get("AWSTraceHeader").map(String::as_str)
}
