//! One look at one webhook: the stored record decides what happens to the message.
//!
//! | record | action |
//! |---|---|
//! | missing, delivered, archived; a delivery that expired or was deleted | acknowledge |
//! | failed, not archived | send to the dead-letter queue, acknowledge |
//! | in progress, live lease, in the due index | acknowledge |
//! | in progress, live lease, not in the due index | hand back |
//! | in progress, expired lease | record an interruption, then see below |
//! | pending or retrying, allowed within 2 s | wait, then claim |
//! | pending or retrying, allowed later | acknowledge: the due index holds it |
//! | unreadable, or of a newer schema version | hand back |
//!
//! The record of a delivery that has not started follows from its message: see `delivery`. Where a
//! delivery goes, and what happens without an endpoint: see `endpoint`.
//!
//! After an interruption the webhook is claimed again. It waits first if its previous attempt was
//! interrupted, too, and it fails once its budget of interruptions is spent.

use std::time::Duration;

use shared::{
    apply::{Applied, apply_unchanged},
    clock::Timestamp,
    id::WebhookId,
    logging::webhook_span,
    message::Message,
    model::{Function, Webhook},
    planted::{self, Bug},
    queue::Lane,
    status::Status,
    store::StoreError,
    transition::{GiveUp, is_relayed},
};
use tracing::Instrument;

use crate::{
    turn::HeldTurn,
    worker::{Deliver, Disposition, StepResult, hand_back},
};

/// The longest wait within an invocation. Queue delays have whole seconds, so the rest of a wait is
/// shorter.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// How often one message looks at a record that others keep changing.
const MAX_LOOKS: u32 = 8;

/// The next step, according to the record.
enum NextStep {
    Done(Disposition),
    /// Wait for this long, then claim or record an interruption.
    Proceed(Duration),
    DeadLetter,
}

impl Deliver {
    /// Looks at the webhook until nothing is left to do. On the first receive of a message, the
    /// record inside it is tried before the stored one is read.
    pub(crate) async fn look(
        &self,
        message: Message,
        is_first_receive: bool,
        until: Timestamp,
        xray_trace_id: Option<&str>,
    ) -> Disposition {
        let turn = HeldTurn {
            slot: message.slot,
            relays: message.relays,
            paused_ms: message.paused_ms,
            rate_limited_ms: message.rate_limited_ms,
        };
        let mut hint = message.seen.filter(|seen| is_first_receive && self.is_claimable(seen));
        for looks_left in (0..MAX_LOOKS).rev() {
            let webhook = match hint.take() {
                Some(webhook) => webhook,
                None => match self.read(&message.webhook_id).await {
                    Ok(webhook) => webhook,
                    Err(disposition) => return disposition,
                },
            };
            let span = webhook_span(&webhook, xray_trace_id);
            // Boxed, since this future is large and the futures around it are moved several times.
            let work = Box::pin(self.work_on(webhook, &turn, until));
            let worked_on = work.instrument(span.clone()).await;
            if let Some(disposition) = worked_on {
                return disposition;
            }
            if looks_left == 0 {
                span.in_scope(|| {
                    tracing::warn!("The webhook keeps changing; handing its message back");
                });
            }
        }
        Disposition::HandBack
    }

    /// The record of a webhook, or what happens to the message if there is nothing to do.
    async fn read(&self, id: &WebhookId) -> Result<Box<Webhook>, Disposition> {
        let read = if id.is_delivery() {
            self.read_delivery(id).await?
        } else {
            self.context.store.get(id).await.map(|found| found.map(Box::new))
        };
        match read {
            Ok(Some(webhook)) => Ok(webhook),
            Ok(None) => Err(Disposition::Acknowledge),
            Err(error) => {
                if planted::is(Bug::UnreadableAcknowledged)
                    && matches!(error, StoreError::Unreadable { .. })
                {
                    return Err(Disposition::Acknowledge);
                }
                let error = &error as &dyn std::error::Error;
                tracing::warn!(webhook_id = %id, error,
                    "Could not read the webhook; handing its message back");
                Err(Disposition::HandBack)
            }
        }
    }

    /// Takes the next step on this record. Returns what happens to the message, or `None` if
    /// another worker changed the webhook: the caller then looks at the stored record.
    async fn work_on(
        &self,
        webhook: Box<Webhook>,
        turn: &HeldTurn,
        until: Timestamp,
    ) -> Option<Disposition> {
        let wait = match self.next_step(&webhook) {
            NextStep::Done(disposition) => return Some(disposition),
            NextStep::DeadLetter => return Some(self.send_to_dead_letters(&webhook).await),
            NextStep::Proceed(wait) => wait,
        };
        if !wait.is_zero() {
            self.context.clock.sleep(wait).await;
        }
        let result = match self.work(&webhook, turn).await {
            Err(reason) => self.step_without_endpoint(webhook, turn, reason).await,
            Ok(work) => {
                let now = self.context.clock.now();
                if work.rules.must_wait_until(&webhook, now).is_some() {
                    self.defer_for_interruptions(webhook, &work).await
                } else {
                    self.attempt(webhook, &work, until).await
                }
            }
        };
        match result {
            StepResult::Recorded(webhook) => Some(self.enqueue_next(&webhook).await),
            StepResult::Ended(disposition) => Some(disposition),
            StepResult::Changed => None,
            StepResult::BudgetSpent(webhook, reason) => self.give_up(webhook, reason).await,
        }
    }

    /// Whether a claim can be tried on this record without reading the stored one first.
    fn is_claimable(&self, webhook: &Webhook) -> bool {
        matches!(self.next_step(webhook), NextStep::Proceed(_)) && self.may_be_current(webhook)
    }

    fn next_step(&self, webhook: &Webhook) -> NextStep {
        let now = self.context.clock.now();
        let is_held = webhook.due_at.is_some();
        let leave = if is_held { Disposition::Acknowledge } else { Disposition::HandBack };
        match webhook.status {
            Status::Delivered => NextStep::Done(Disposition::Acknowledge),
            Status::Failed if webhook.archived_at.is_some() => {
                NextStep::Done(Disposition::Acknowledge)
            }
            Status::Failed => NextStep::DeadLetter,
            Status::InProgress => match &webhook.claim {
                Some(claim) if claim.lease_until > now => NextStep::Done(leave),
                _ => NextStep::Proceed(Duration::ZERO),
            },
            Status::Pending | Status::Retrying => {
                let wait = webhook.allowed_at.map_or(Duration::ZERO, |at| at.since(now));
                if wait <= MAX_WAIT { NextStep::Proceed(wait) } else { NextStep::Done(leave) }
            }
        }
    }

    /// Sends the message that a recorded outcome requires: the next attempt's within the relay
    /// limits, or the dead letter's. The sweep queues all other unfinished webhooks.
    async fn enqueue_next(&self, webhook: &Webhook) -> Disposition {
        match webhook.status {
            Status::Failed => self.send_to_dead_letters(webhook).await,
            Status::Retrying if is_relayed(webhook) => {
                let now = self.context.clock.now();
                let wait = webhook.allowed_at.map_or(Duration::ZERO, |at| at.since(now));
                let message = Message::with_seen(webhook).to_json();
                self.enqueue(Lane::Webhooks, message, wait, webhook.fairness_group()).await
            }
            _ => Disposition::Acknowledge,
        }
    }

    /// The record stays in the due index until `dlq` has archived it, even if this message is lost.
    pub(crate) async fn send_to_dead_letters(&self, webhook: &Webhook) -> Disposition {
        let message = Message::archive(webhook.id.clone()).to_json();
        let group = webhook.fairness_group();
        self.enqueue(Lane::DeadLetters, message, Duration::ZERO, group).await
    }

    /// Fails the webhook without another attempt, because a budget other than the retry policy's is
    /// spent, or its endpoint is gone. `None`: the record has changed.
    async fn give_up(&self, webhook: Box<Webhook>, reason: GiveUp) -> Option<Disposition> {
        let now = self.context.clock.now();
        let rules = &self.context.rules;
        let was_retrying = webhook.status == Status::Retrying;
        let give_up = |webhook: &Webhook| rules.give_up(webhook, reason, Function::Deliver, now);
        match apply_unchanged(&*self.context.store, *webhook, give_up).await {
            Ok(Applied::Done(webhook, ())) => {
                tracing::warn!(
                    "Giving up webhook delivery for reference_id={}: {}",
                    webhook.id.reference,
                    reason.kind().as_str(),
                );
                let waiting = -i64::from(was_retrying);
                self.context.metrics.destination(&webhook.destination, waiting, None);
                Some(self.send_to_dead_letters(&webhook).await)
            }
            Ok(Applied::Missing) => Some(Disposition::Acknowledge),
            Ok(Applied::Refused(..)) => None,
            Err(error) => Some(hand_back(&error, "fail")),
        }
    }
}
