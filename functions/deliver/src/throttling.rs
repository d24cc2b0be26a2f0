//! What follows when a receiver asks for fewer requests, or when the slot of a webhook is far away.
//!
//! An answer with 429, or with 503 and `Retry-After`, pauses the URL or endpoint of the webhook. It
//! takes a slot within the rate that follows the pause, and waits for it. No attempt is spent.
//!
//! A webhook that waits for a slot costs no write while its waits are short: `deliver` sends its
//! message again with a delay. A longer wait is a deferral. It enters the due index.

use std::time::Duration;

use shared::{
    clock::Timestamp,
    message::Message,
    model::{ClaimId, Webhook},
    queue::Lane,
    sender::Answer,
    status::Status,
    traffic::pace::{MIN_PAUSE, Refusal},
    transition::SlotWait,
};

use crate::{
    circuit_breaker::{CircuitPermit, target_keys},
    endpoint::Work,
    outcome::report_of,
    turn::HeldTurn,
    worker::{Deliver, Disposition, StepResult},
};

/// The longest wait that a delayed message carries. SQS allows 15 minutes.
const MAX_RELAYED_WAIT: Duration = Duration::from_secs(600);

/// A message waits only if it returns this long before the audit would look for its webhook.
const AUDIT_MARGIN: Duration = Duration::from_secs(120);

impl Deliver {
    /// Makes a webhook wait for its slot: by a delayed message, or by a deferral.
    pub(crate) async fn wait_for_slot(
        &self,
        seen: Box<Webhook>,
        work: &Work<'_>,
        wait: SlotWait,
    ) -> StepResult {
        let turn = work.turn;
        let now = self.context.clock.now();
        if self.may_relay(&seen, turn, &wait, now) {
            let delay = wait.until.since(now);
            let next = turn.after(wait.clone(), delay);
            let HeldTurn { slot, relays, paused_ms, rate_limited_ms } = next;
            let seen_message = Message::with_seen(&seen);
            let message = Message { slot, relays, paused_ms, rate_limited_ms, ..seen_message };
            let group = seen.fairness_group();
            let sent = self.enqueue(Lane::Webhooks, message.to_json(), delay, group).await;
            if sent == Disposition::Acknowledge {
                return StepResult::Ended(sent);
            }
            // The message would come back without its slot and take another one.
        }
        self.defer_for_slot(seen, work, &wait).await
    }

    /// Whether a delayed message can carry the wait. Otherwise the sweep or the audit would send
    /// another one meanwhile, or the platform would take the messages for a loop.
    fn may_relay(
        &self,
        webhook: &Webhook,
        turn: &HeldTurn,
        wait: &SlotWait,
        now: Timestamp,
    ) -> bool {
        let limits = &self.context.rules.limits;
        let relays = turn.budget(webhook.budget, limits).relays;
        let audit_margin = AUDIT_MARGIN.min(self.context.config.audit_age / 2);
        let found_at = webhook.due_at.unwrap_or_else(|| {
            let allowed_at = webhook.allowed_at.unwrap_or(webhook.created_at);
            allowed_at.plus(self.context.config.audit_age).minus(audit_margin)
        });
        matches!(webhook.status, Status::Pending | Status::Retrying)
            && relays < limits.max_relays
            && wait.until.since(now) <= MAX_RELAYED_WAIT
            && wait.until < found_at
    }

    /// Pauses the URL, and returns the wait of the webhook whose request was refused.
    pub(crate) async fn pause(
        &self,
        webhook: &Webhook,
        refusal: &Refusal,
        permit: CircuitPermit,
    ) -> SlotWait {
        let limit = self.context.config.rate_limits.of_destination(&webhook.destination);
        let per_second = limit.map(shared::traffic::rate_limit::RateLimit::per_second);
        let pace = self.breaker.record_refusal(&self.context, permit, refusal, per_second).await;
        let targets = &self.breaker.targets;
        let wait = self.rates.next_turn(&self.context, targets, webhook).await;
        wait.unwrap_or_else(|| {
            // The store did not keep the pause.
            let now = self.context.clock.now();
            let until = pace.map_or_else(|| now.plus(MIN_PAUSE), |pace| pace.resume_at);
            SlotWait { until, slot: None, is_learned: true }
        })
    }

    /// Records that the destination refused the request. If pauses have deferred the webhook for
    /// too long, the answer counts as any other failure.
    pub(crate) async fn throttle(
        &self,
        webhook: Box<Webhook>,
        claim_id: ClaimId,
        answer: Answer,
        work: &Work<'_>,
        (wait, was_retrying): (SlotWait, bool),
    ) -> StepResult {
        let now = self.context.clock.now();
        let Work { turn, rules, .. } = work;
        if !rules.has_slot_waits_left(turn.budget(webhook.budget, &rules.limits), &wait, now) {
            return self.record_outcome(webhook, claim_id, answer, work, was_retrying).await;
        }
        let report = report_of(answer);
        let throttle = |webhook: &Webhook| {
            let budget = turn.budget(webhook.budget, &rules.limits);
            let webhook = Webhook { budget, ..webhook.clone() };
            rules.throttle(&webhook, claim_id, &report, &wait, now).map(|next| work.noted(next))
        };
        self.write_result(webhook, report.clone(), was_retrying, throttle).await
    }
}

/// The refusal that this answer is, if its webhook has a target to pause.
pub(crate) fn refusal(webhook: &Webhook, answer: &Answer, sent_at: Timestamp) -> Option<Refusal> {
    let status_code = answer.status_code?;
    let is_refusal = match status_code {
        429 => true,
        503 => answer.retry_after.is_some(),
        _ => false,
    };
    let (_, target) = target_keys(webhook);
    (is_refusal && target.is_some()).then_some(Refusal {
        attempt_started_at: sent_at,
        status_code,
        retry_after: answer.retry_after,
    })
}
