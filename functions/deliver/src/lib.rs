//! `deliver`: looks at each webhook of a queue batch, claims it, makes one attempt, and writes what
//! came of it.
//!
//! [`Deliver::handle`] takes the event that SQS sends and answers with the messages that it hands
//! back. A destination's failure is an outcome, recorded and acknowledged; a message is handed back
//! only when *our* side could not finish. What is done with a message is decided by the record
//! alone: see the table in `look.rs`.

mod attempt;
mod breaker;
mod look;
mod turns;

use std::{panic::AssertUnwindSafe, sync::Arc};

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{FutureExt, future::join_all};
use shared::{
    clock::Timestamp,
    context::Context,
    message::{InvalidMessage, Message},
    metrics::Mode,
    planted::{self, Bug},
    queue::{Lane, Outgoing},
    sender::{Lookup, Sender},
};
use tokio::sync::Semaphore;

use breaker::Breaker;
use turns::Turns;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Done, or held by the due index.
    Acknowledge,
    /// To be looked at again.
    HandBack,
}

/// The function, made once per process.
#[derive(Clone, Debug)]
pub struct Deliver {
    context: Context,
    sender: Arc<dyn Sender>,
    /// Attempts at a time, over all invocations of this process. Ones that hang have no slot: see
    /// `turns`.
    slots: Arc<Semaphore>,
    /// Which attempts may have one.
    turns: Arc<Turns>,
    breaker: Arc<Breaker>,
}

impl Deliver {
    /// Works with this context, and makes attempts with this sender.
    pub fn new(context: Context, sender: Arc<dyn Sender>) -> Self {
        let (all, each) =
            (context.config.deliver_concurrency, context.config.deliver_host_concurrency);
        let slots = Arc::new(Semaphore::new(all));
        let lookup: Arc<dyn Lookup> = Arc::<dyn Sender>::clone(&sender);
        let turns = Arc::new(Turns::new(each, all, Arc::clone(&context.clock), lookup));
        Self { context, sender, slots, turns, breaker: Arc::default() }
    }

    /// Waits until another attempt could start, and tells how many could. Who polls a queue itself
    /// asks for no more messages than that.
    pub async fn free_slots(&self) -> usize {
        // Never closed; the permit is given back at once.
        let _ = self.slots.acquire().await;
        self.slots.available_permits().max(1)
    }

    /// Attempts that may be under way at a time, those that hang included. A caller that makes
    /// fewer invocations at a time would wait for the ones that hang.
    pub fn most_attempts(&self) -> usize {
        turns::most_attempts(self.context.config.deliver_concurrency)
    }

    /// When an invocation ends that begins now, by the deadline that the platform names in
    /// milliseconds since the epoch.
    pub fn invocation_end(&self, deadline_ms: u64) -> Timestamp {
        self.context.config.invocation_end(deadline_ms, self.context.clock.now())
    }

    /// Looks at each message of the batch, all at once. Answers before `until`, when the platform
    /// ends the invocation: no claim is made with less than a lease left.
    pub async fn handle(&self, event: SqsEvent, until: Timestamp) -> SqsBatchResponse {
        let verdicts =
            join_all(event.records.iter().map(|message| self.isolated(message, until))).await;
        self.context.metrics.flush_if_due(&*self.context.store, self.context.clock.now()).await;
        let failures =
            event.records.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::HandBack);
        let mut response = SqsBatchResponse::default();
        response.batch_item_failures = failures.map(|(message, _)| failure(message)).collect();
        response
    }

    /// A panic over one message, which is our mistake, must not end the attempts of its whole
    /// batch: that message alone is handed back. Its claim runs out, as if the process had died.
    /// The same if other processes may take over from this one: its attempts must not go on then.
    async fn isolated(&self, message: &SqsMessage, until: Timestamp) -> Verdict {
        let hold = self.context.liveness.hold();
        let work = AssertUnwindSafe(self.message(message, until)).catch_unwind();
        tokio::select! {
            worked = work => worked.unwrap_or_else(|_| {
                tracing::error!(message_id = message.message_id,
                    "Handing back a message whose handling panicked");
                Verdict::HandBack
            }),
            () = hold.lost() => {
                tracing::warn!(message_id = message.message_id,
                    "Handing back a message, since this process seemed dead to others");
                Verdict::HandBack
            }
        }
    }

    async fn message(&self, message: &SqsMessage, until: Timestamp) -> Verdict {
        let started_at = self.context.clock.now();
        let body = message.body.as_deref().unwrap_or_default();
        let verdict = match Message::from_json(body) {
            Ok(parsed) => {
                let first = receive_count(message) <= 1;
                self.look(parsed, first, until, xray_trace_id(message)).await
            }
            Err(error @ InvalidMessage::TooNew { .. }) => {
                tracing::warn!(message_id = message.message_id, "Handing back a message: {error}");
                Verdict::HandBack
            }
            Err(InvalidMessage::Malformed(_)) if planted::is(Bug::StrayDropped) => {
                Verdict::Acknowledge
            }
            Err(InvalidMessage::Malformed(error)) => {
                tracing::error!(message_id = message.message_id, %error,
                    "A message cannot be read; it goes to the dead letters");
                self.send(
                    Lane::DeadLetters,
                    body.to_owned(),
                    std::time::Duration::ZERO,
                    "malformed",
                )
                .await
            }
        };
        let verdict =
            if planted::is(Bug::AcknowledgeUnfinished) { Verdict::Acknowledge } else { verdict };
        let verdict = if planted::is(Bug::HandBackDone) { Verdict::HandBack } else { verdict };
        let took = self.context.clock.now().since(started_at);
        self.context.metrics.task(Mode::Deliver, verdict == Verdict::Acknowledge, took);
        verdict
    }

    /// Sends one message; what it was sent for is handed back if the queue does not take it.
    async fn send(
        &self,
        lane: Lane,
        body: String,
        delay: std::time::Duration,
        group: &str,
    ) -> Verdict {
        let outgoing = Outgoing { body, delay, group: group.to_owned() };
        match self.context.queue.send(lane, &[outgoing]).await {
            Ok(()) => Verdict::Acknowledge,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    ?lane,
                    "The queue did not take a message"
                );
                Verdict::HandBack
            }
        }
    }
}

/// How often SQS says that it delivered the message. Ones that it does not say it of count as
/// delivered before, which costs a read and trusts nothing.
fn receive_count(message: &SqsMessage) -> u32 {
    message
        .attributes
        .get("ApproximateReceiveCount")
        .and_then(|count| count.parse().ok())
        .unwrap_or(u32::MAX)
}

/// The X-Ray trace of whoever sent the message, which SQS passes on.
fn xray_trace_id(message: &SqsMessage) -> Option<&str> {
    message.attributes.get("AWSTraceHeader").map(String::as_str)
}

fn failure(message: &SqsMessage) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier = message.message_id.clone().unwrap_or_default();
    failure
}
