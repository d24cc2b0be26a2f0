//! One look at one webhook: the record decides.
//!
//! | record | what is done |
//! |---|---|
//! | missing, delivered, archived | acknowledge |
//! | failed, not archived | send to the dead-letter queue, acknowledge |
//! | in progress, lease live | acknowledge if it is in the due index, else hand the message back |
//! | in progress, lease over | note the attempt as interrupted; claim, wait if the one before was interrupted too, or fail if its budget is spent |
//! | pending or retrying, allowed within 2 s | wait if need be, claim |
//! | pending or retrying, allowed later | acknowledge: the due index holds it |
//! | of a newer schema version, or unreadable | hand back |

use std::time::Duration;

use shared::{
    apply::{Applied, apply_unchanged},
    clock::Timestamp,
    message::Message,
    model::{Function, Webhook},
    planted::{self, Bug},
    queue::Lane,
    status::Status,
    store::StoreError,
    transition::{GiveUp, is_relayed},
};

use crate::{Deliver, Verdict, attempt::Attempted};

/// The longest wait within an invocation; queues delay by whole seconds, so the rest of a wait is
/// shorter than that.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// How often one message looks at a record that others change under it.
const MAX_LOOKS: u32 = 8;

/// What the record asks for.
enum Step {
    Done(Verdict),
    /// Wait that long, then claim.
    Claim(Duration),
    /// Note the attempt as interrupted, and let the webhook wait.
    WaitOut,
    DeadLetter,
}

impl Deliver {
    /// Looks until there is nothing left to do. `first`: the message was not delivered before, so
    /// the record in it may be right.
    pub(crate) async fn look(
        &self,
        message: Message,
        first: bool,
        until: Timestamp,
        xray_trace_id: Option<&str>,
    ) -> Verdict {
        let mut seen =
            message.seen.map(|seen| *seen).filter(|seen| first && self.is_claimable(seen));
        for _ in 0..MAX_LOOKS {
            let webhook = match seen.take() {
                Some(webhook) => webhook,
                None => match self.context.store.get(&message.webhook_id).await {
                    Ok(Some(webhook)) => webhook,
                    Ok(None) => return Verdict::Acknowledge,
                    Err(StoreError::Unreadable { .. })
                        if planted::is(Bug::UnreadableAcknowledged) =>
                    {
                        return Verdict::Acknowledge;
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(webhook_id = %message.webhook_id, error,
                            "Handing back a webhook that cannot be read now");
                        return Verdict::HandBack;
                    }
                },
            };
            match self.step(&webhook) {
                Step::Done(verdict) => return verdict,
                Step::DeadLetter => return self.dead_letter(&webhook).await,
                step => {
                    let tried = match step {
                        Step::Claim(wait) => {
                            if !wait.is_zero() {
                                self.context.clock.sleep(wait).await;
                            }
                            self.attempt(webhook, until, xray_trace_id).await
                        }
                        _ => self.wait_out(webhook).await,
                    };
                    if let Some(verdict) = self.conclude(tried).await {
                        return verdict;
                    }
                }
            }
        }
        tracing::warn!(webhook_id = %message.webhook_id,
            "Handing back a webhook that changed again and again");
        Verdict::HandBack
    }

    /// What becomes of the message. `None`: somebody else changed the webhook, so look again, at
    /// what is stored.
    async fn conclude(&self, tried: Attempted) -> Option<Verdict> {
        match tried {
            Attempted::Recorded(webhook) => Some(self.hand_over(&webhook).await),
            Attempted::Ended(verdict) => Some(verdict),
            Attempted::Changed => None,
            Attempted::BudgetSpent(webhook, reason) => self.give_up(webhook, reason).await,
        }
    }

    /// Whether a claim may be tried on this record without reading it first.
    fn is_claimable(&self, webhook: &Webhook) -> bool {
        matches!(self.step(webhook), Step::Claim(_))
    }

    fn step(&self, webhook: &Webhook) -> Step {
        let now = self.context.clock.now();
        let held = webhook.due_at.is_some();
        let leave = if held { Verdict::Acknowledge } else { Verdict::HandBack };
        match webhook.status {
            Status::Delivered => Step::Done(Verdict::Acknowledge),
            Status::Failed if webhook.archived_at.is_some() => Step::Done(Verdict::Acknowledge),
            Status::Failed => Step::DeadLetter,
            Status::InProgress => match &webhook.claim {
                Some(claim) if claim.lease_until > now => Step::Done(leave),
                _ if self.context.rules.must_wait_until(webhook, now).is_some() => Step::WaitOut,
                _ => Step::Claim(Duration::ZERO),
            },
            Status::Pending | Status::Retrying => {
                let wait = webhook.allowed_at.map_or(Duration::ZERO, |at| at.since(now));
                if wait <= MAX_WAIT { Step::Claim(wait) } else { Step::Done(leave) }
            }
        }
    }

    /// After an outcome was written: somebody has to hold what is not finished, and to archive what
    /// failed.
    async fn hand_over(&self, webhook: &Webhook) -> Verdict {
        match webhook.status {
            Status::Failed => self.dead_letter(webhook).await,
            Status::Retrying if is_relayed(webhook) => {
                let wait = webhook
                    .allowed_at
                    .map_or(Duration::ZERO, |at| at.since(self.context.clock.now()));
                let message = Message::with_seen(webhook).to_json();
                self.send(Lane::Webhooks, message, wait, &webhook.destination).await
            }
            // Delivered, or held by the due index for the sweep.
            _ => Verdict::Acknowledge,
        }
    }

    /// The record stands in the due index until `dlq` has archived it, whatever becomes of this
    /// message.
    async fn dead_letter(&self, webhook: &Webhook) -> Verdict {
        let message = Message::archive(webhook.id.clone()).to_json();
        self.send(Lane::DeadLetters, message, Duration::ZERO, &webhook.destination).await
    }

    /// A budget other than the policy's is spent: it fails without another attempt. `None`: it has
    /// changed meanwhile.
    async fn give_up(&self, webhook: Webhook, reason: GiveUp) -> Option<Verdict> {
        let now = self.context.clock.now();
        let rules = &self.context.rules;
        let (id, correlation_id) = (webhook.id.clone(), webhook.correlation_id.clone());
        let was_retrying = webhook.status == Status::Retrying;
        let give_up = |webhook: &Webhook| rules.give_up(webhook, reason, Function::Deliver, now);
        match apply_unchanged(&*self.context.store, webhook, give_up).await {
            Ok(Applied::Done(webhook, ())) => {
                tracing::warn!(
                    correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
                    "[{}] Giving up webhook delivery for reference_id={}: {}",
                    webhook.correlation_id, webhook.id.reference, reason.kind().as_str(),
                );
                self.context.metrics.destination(
                    &webhook.destination,
                    -i64::from(was_retrying),
                    None,
                );
                Some(self.dead_letter(&webhook).await)
            }
            Ok(Applied::Missing) => Some(Verdict::Acknowledge),
            Ok(Applied::Refused(..)) => None,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(correlation_id, webhook_id = %id, error,
                    "[{correlation_id}] Handing back a webhook that cannot be written now");
                Some(Verdict::HandBack)
            }
        }
    }
}
