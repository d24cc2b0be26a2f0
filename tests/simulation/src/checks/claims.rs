//! Claims, and the outcomes of attempts.

use std::time::Duration;

use shared::{
    clock::Timestamp,
    model::{Attempt, Claim, ErrorKind, Function, Webhook},
    retry::RetryPolicy,
    status::Status,
};

use crate::{
    state::{records::short, requests::Destinations, tracking::Checks},
    world::Process,
};

/// The minimum wait between two attempts, whatever the webhook's retry policy says.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);

impl Checks {
    /// The webhook's retry policy.
    fn policy_of(&self, webhook: &Webhook) -> RetryPolicy {
        let of_endpoint = self.published.policy_of(webhook);
        of_endpoint.unwrap_or_else(|| self.rules.retry.with(webhook.retry.as_ref()))
    }

    pub(super) fn claimed(
        &mut self,
        process: &Process,
        stored: &Webhook,
        after: &Webhook,
        claim: &Claim,
    ) {
        let name = short(after);
        self.require(process.function == Function::Deliver, || format!("{process} claimed {name}"));
        self.require(!stored.status.is_finished(), || {
            format!("{name} was claimed while it was {}", stored.status)
        });
        let allowed =
            stored.claim.is_some() || stored.allowed_at.is_some_and(|at| at <= claim.started_at);
        self.require(allowed, || format!("{name} was claimed before {:?}", stored.allowed_at));
        let lease = self.rules.limits.lease;
        self.require(claim.lease_until >= claim.started_at.plus(lease), || {
            format!("{name}: a claim without a full lease")
        });
        self.require(after.attempt_count == stored.attempt_count + 1, || {
            format!("{name}: a claim did not start one attempt")
        });
        let started_at = process.to_true(claim.started_at);
        let progress = self.progress.entry(after.id.clone()).or_default();
        progress.owner = process.number;
        progress.attempts += 1;
        progress.claimed_at.insert(after.attempt_count, started_at);
    }

    pub(super) fn interrupted(
        &mut self,
        process: &Process,
        after: &Webhook,
        claim: &Claim,
        now: Timestamp,
    ) {
        let has_expired = claim.lease_until <= now.plus(self.max_skew / 2);
        self.require(has_expired, || {
            format!("{process} interrupted {} before its lease expired", short(after))
        });
        let policy = self.policy_of(after);
        let base = policy
            .schedule
            .first()
            .copied()
            .unwrap_or(policy.base_delay)
            .max(Duration::from_secs(1));
        let (lease, most) = (self.rules.limits.lease, policy.max_delay.max(Duration::from_secs(1)));
        let progress = self.progress.entry(after.id.clone()).or_default();
        progress.interruptions += 1;
        let last =
            after.attempts.last().and_then(|attempt| progress.claimed_at.get(&attempt.number));
        if let (Some(started_at), Some(doublings)) = (last, progress.interruptions.checked_sub(2)) {
            let wait = base
                .saturating_mul(2_u32.saturating_pow(doublings))
                .min(most)
                .saturating_sub(Duration::from_millis(1));
            progress.not_before = progress.not_before.max(started_at.plus(lease).plus(wait));
        }
    }

    /// The owner of a claim sent no request and returned the claim. That spends no budget.
    pub(super) fn claim_returned(
        &mut self,
        process: &Process,
        stored: &Webhook,
        after: &Webhook,
        attempt: &Attempt,
        destinations: &Destinations,
    ) {
        let name = short(after);
        let progress = self.progress.entry(after.id.clone()).or_default();
        progress.attempts = progress.attempts.saturating_sub(1);
        let owner = progress.owner;
        self.require(owner == process.number, || {
            format!("{process} returned the claim of {name}, which process {owner} owns")
        });
        let sent = destinations.requests.contains_key(&(after.id.clone(), attempt.number));
        self.require(!sent, || {
            format!("the claim of {name} was returned, and attempt {} was sent", attempt.number)
        });
        let budget = |webhook: &Webhook| {
            (webhook.budget.attempts, webhook.budget.interrupted, webhook.budget.deferred_ms)
        };
        self.require(budget(stored) == budget(after), || {
            format!("{name}: a returned claim spent {:?}", after.budget)
        });
    }

    /// The owner of the claim writes an outcome, which must match the destination's response.
    pub(super) fn concluded(
        &mut self,
        process: &Process,
        after: &Webhook,
        attempt: &Attempt,
        destinations: &Destinations,
    ) {
        let name = short(after);
        let progress = self.progress.entry(after.id.clone()).or_default();
        progress.outcomes += 1;
        let outcomes = progress.outcomes;
        self.recorded(process, after, attempt, destinations);
        let request = destinations.requests.get(&(after.id.clone(), attempt.number));
        let reported = request.and_then(|request| request.reported.as_ref());
        let was_2xx = request
            .and_then(|request| request.status)
            .is_some_and(|status| (200..300).contains(&status));
        self.require(after.status != Status::Delivered || was_2xx, || {
            format!("{name} is delivered, and the request was {request:?}")
        });
        let policy = self.policy_of(after);
        if after.status != Status::Retrying {
            return;
        }
        self.require(outcomes < policy.max_attempts, || {
            format!("{name}: another attempt after {outcomes} outcomes")
        });
        let step = outcomes.saturating_sub(1);
        let delay = match policy.schedule.get(step as usize).or(policy.schedule.last()) {
            Some(wait) => *wait,
            None => {
                policy.base_delay.mul_f64(policy.factor.powi(step as i32)).min(policy.max_delay)
            }
        };
        let retry_after = reported.and_then(|reported| reported.retry_after);
        let wait = delay
            .mul_f64(1.0 - policy.jitter)
            .max(retry_after.unwrap_or_default().min(policy.retry_after_cap));
        let wait = wait.max(MIN_RETRY_DELAY);
        // Stored times have whole milliseconds.
        let wait = wait.saturating_sub(Duration::from_millis(1));
        let from = request
            .map_or_else(|| process.to_true(after.updated_at), |request| request.reported_at);
        self.progress.entry(after.id.clone()).or_default().not_before = from.plus(wait);
    }

    /// The owner of the claim writes the result of its attempt.
    pub(super) fn recorded(
        &mut self,
        process: &Process,
        after: &Webhook,
        attempt: &Attempt,
        destinations: &Destinations,
    ) {
        let name = short(after);
        let progress = self.progress.entry(after.id.clone()).or_default();
        progress.interruptions = 0;
        let owner = progress.owner;
        *self.outcomes.entry(after.status).or_default() += 1;
        self.require(owner == process.number, || {
            format!(
                "{process} wrote the outcome of {name}, attempt {}, and process {owner} owns the \
                claim",
                attempt.number
            )
        });
        self.require(attempt.number == after.attempt_count, || {
            format!("{name}: the outcome of another attempt")
        });
        let request = destinations.requests.get(&(after.id.clone(), attempt.number));
        let reported = request.and_then(|request| request.reported.as_ref());
        let matches = match reported {
            Some(reported) => {
                reported.error == attempt.error && reported.status_code == attempt.status_code
            }
            None => matches!(attempt.error, Some(ErrorKind::Network | ErrorKind::Timeout)),
        };
        self.require(matches, || {
            format!(
                "{name}, attempt {}: recorded as {:?}, and the request was {request:?}",
                attempt.number, attempt.error
            )
        });
    }
}
