//! Deferrals: a webhook waits without an attempt. It enters the due index in the same write.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use shared::{
    apply::{Applied, apply},
    clock::Timestamp,
    model::{ClaimId, ErrorKind, Webhook, Why},
    planted::{self, Bug},
    status::Status,
    transition::{GiveUp, Refusal, SlotWait},
};

use crate::{
    endpoint::Work,
    worker::{Deliver, Disposition, StepResult, hand_back},
};

/// The first wait for the host limit. It doubles with each deferral in a row.
const HOST_LIMIT_BACKOFF: Duration = Duration::from_secs(2);

/// How much of a destination's silence counts: a webhook waits for at least that long.
const MAX_COUNTED_SILENCE: Duration = Duration::from_secs(16);

/// The first wait after this machine could not attempt a delivery. It doubles each time.
const MACHINE_FAULT_BACKOFF: Duration = Duration::from_secs(10);

/// The limit of both waits: 10 minutes, the longest time that a circuit stays open.
const MAX_BACKOFF: Duration = shared::circuit::MAX_OPEN;

/// The minimum time over which webhooks behind an open circuit are spread.
const MIN_CIRCUIT_SPREAD: Duration = Duration::from_secs(1);

/// The maximum number of deferrals that widen the spread.
const MAX_SPREAD_DEFERRALS: u32 = 8;

/// A wait without an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deferral {
    /// No attempt starts before this time.
    pub(crate) until: Timestamp,
    pub(crate) reason: DeferralReason,
}

/// Why an attempt does not start now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeferralReason {
    /// The concurrency limit of the destination, or of unresponsive destinations, was reached.
    HostLimit,
    /// The destination's circuit is open.
    OpenCircuit,
    /// A secret, a header or the whole document of the endpoint cannot be read.
    UnusableEndpoint,
}

impl Deferral {
    /// The reason as it is stored. It also selects the budget that the wait counts against.
    pub(crate) const fn why(self) -> Why {
        match self.reason {
            DeferralReason::HostLimit => Why::RateLimit,
            DeferralReason::OpenCircuit => Why::Error(ErrorKind::CircuitOpen),
            DeferralReason::UnusableEndpoint => Why::Unsent,
        }
    }

    /// The reason as it is logged.
    const fn text(self) -> &'static str {
        match self.reason {
            DeferralReason::HostLimit => "a concurrency limit was reached",
            DeferralReason::OpenCircuit => "its circuit is open",
            DeferralReason::UnusableEndpoint => "its endpoint cannot be used",
        }
    }
}

/// The longest wait of a webhook that has been deferred `deferrals` times, at a destination that
/// has been silent for `silence`. Webhooks for a destination that hangs are looked at ever less
/// often.
fn host_limit_backoff(silence: Duration, deferrals: u32) -> Duration {
    silence.min(MAX_COUNTED_SILENCE).max(doubled(HOST_LIMIT_BACKOFF, deferrals)).min(MAX_BACKOFF)
}

fn doubled(wait: Duration, times: u32) -> Duration {
    wait.saturating_mul(2_u32.saturating_pow(times.min(16)))
}

impl Deliver {
    /// The deferral of a webhook whose destination has no permit left. Half of the wait is random,
    /// so that deferred webhooks do not return at the same time.
    pub(crate) fn defer_for_host_limit(&self, webhook: &Webhook, silence: Duration) -> Deferral {
        let longest = host_limit_backoff(silence, webhook.budget.deferrals);
        Deferral { until: self.within_last_half(longest), reason: DeferralReason::HostLimit }
    }

    /// The deferral of a webhook whose destination has an open circuit. The wait grows with each
    /// deferral and is spread, so that webhooks do not all return when the circuit is half-open.
    pub(crate) fn defer_for_open_circuit(
        &self,
        webhook: &Webhook,
        open_until: Timestamp,
    ) -> Deferral {
        let spread = open_until
            .since(self.context.clock.now())
            .max(MIN_CIRCUIT_SPREAD)
            .mul_f64(self.context.random.next_unit());
        let factor = webhook.budget.deferrals.min(MAX_SPREAD_DEFERRALS) + 1;
        let until = open_until.plus(spread.saturating_mul(factor));
        Deferral { until, reason: DeferralReason::OpenCircuit }
    }

    /// A random time in the second half of `longest` from now.
    fn within_last_half(&self, longest: Duration) -> Timestamp {
        let share = 0.5 + self.context.random.next_unit() / 2.0;
        self.context.clock.now().plus(longest.mul_f64(share))
    }

    /// Writes a deferral.
    pub(crate) async fn defer(
        &self,
        seen: Box<Webhook>,
        work: &Work<'_>,
        deferral: Deferral,
    ) -> StepResult {
        let now = self.context.clock.now();
        let Work { turn, rules, .. } = work;
        let rule = |webhook: &Webhook| {
            rules.defer(&turn.counted(webhook, &rules.limits), deferral.until, deferral.why(), now)
        };
        self.write_wait(seen, deferral.text(), rule).await
    }

    /// Writes a wait for a slot.
    pub(crate) async fn defer_for_slot(
        &self,
        seen: Box<Webhook>,
        work: &Work<'_>,
        wait: &SlotWait,
    ) -> StepResult {
        let now = self.context.clock.now();
        let Work { turn, rules, .. } = work;
        let rule = |webhook: &Webhook| {
            let budget = turn.budget(webhook.budget, &rules.limits);
            rules.defer_for_slot(&Webhook { budget, ..webhook.clone() }, wait, now)
        };
        let reason = if wait.is_learned {
            "it asked for fewer requests"
        } else {
            "its configured rate was reached"
        };
        self.write_wait(seen, reason, rule).await
    }

    /// Makes a webhook wait whose attempts are interrupted repeatedly.
    pub(crate) async fn defer_for_interruptions(
        &self,
        seen: Box<Webhook>,
        work: &Work<'_>,
    ) -> StepResult {
        let now = self.context.clock.now();
        let rule = |webhook: &Webhook| work.rules.retry_interrupted(webhook, now);
        self.write_wait(seen, "its attempts are interrupted repeatedly", rule).await
    }

    async fn write_wait<F>(&self, seen: Box<Webhook>, reason: &str, rule: F) -> StepResult
    where
        F: Fn(&Webhook) -> Result<Webhook, Refusal> + Send + Sync,
    {
        // Read from the record that is written on: another message of the webhook may have deferred
        // and counted it since.
        let was_retrying = AtomicBool::default();
        let first_seen = seen.status;
        let defer = |webhook: &Webhook| {
            was_retrying.store(webhook.status == Status::Retrying, Ordering::Relaxed);
            if planted::is(Bug::DeferralCountedTwice) {
                was_retrying.store(first_seen == Status::Retrying, Ordering::Relaxed);
            }
            rule(webhook)
        };
        match apply(&*self.context.store, *seen, defer).await {
            Ok(Applied::Done(webhook, ())) => {
                tracing::info!(
                    "Deferring webhook delivery for reference_id={} to {}: {reason}",
                    webhook.id.reference,
                    webhook.destination,
                );
                self.count_waiting(&webhook, was_retrying.into_inner());
                StepResult::Recorded(Box::new(webhook))
            }
            Ok(Applied::Refused(Refusal::Interrupted, webhook)) => {
                StepResult::BudgetSpent(Box::new(webhook), GiveUp::Interrupted)
            }
            Ok(Applied::Refused(..)) => StepResult::Changed,
            Ok(Applied::Missing) => StepResult::Ended(Disposition::Acknowledge),
            Err(error) => StepResult::Ended(hand_back(&error, "defer")),
        }
    }

    /// Releases a claim because this machine sent nothing, for the reason `why`. That says nothing
    /// about the destination: no attempt is spent, and the webhook waits longer each time.
    pub(crate) async fn release_claim(
        &self,
        webhook: Box<Webhook>,
        claim_id: ClaimId,
        was_retrying: bool,
        why: &str,
    ) -> StepResult {
        tracing::error!("This machine could not attempt the delivery: {why}");
        let longest = doubled(MACHINE_FAULT_BACKOFF, webhook.budget.deferrals).min(MAX_BACKOFF);
        let until = self.within_last_half(longest);
        let now = self.context.clock.now();
        let rules = &self.context.rules;
        let release = |webhook: &Webhook| rules.give_back(webhook, claim_id, why, until, now);
        match apply(&*self.context.store, *webhook, release).await {
            Ok(Applied::Done(webhook, ())) => {
                self.count_waiting(&webhook, was_retrying);
                StepResult::Recorded(Box::new(webhook))
            }
            Ok(Applied::Refused(..)) => StepResult::Changed,
            Ok(Applied::Missing) => StepResult::Ended(Disposition::Acknowledge),
            // The lease expires, and the attempt counts as interrupted.
            Err(error) => StepResult::Ended(hand_back(&error, "release the claim on")),
        }
    }

    /// Counts a webhook that waits, unless it was waiting before.
    fn count_waiting(&self, webhook: &Webhook, was_retrying: bool) {
        let added = i64::from(!was_retrying);
        self.context.metrics.destination(&webhook.destination, added, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_for_the_host_limit_doubles_and_covers_the_silence() {
        let wait = |silence_s, deferrals| {
            host_limit_backoff(Duration::from_secs(silence_s), deferrals).as_secs()
        };
        assert_eq!([0, 1, 2, 3, 4].map(|deferrals| wait(0, deferrals)), [2, 4, 8, 16, 32]);
        assert_eq!([0, 2, 3, 4].map(|deferrals| wait(20, deferrals)), [16, 16, 16, 32]);
        assert_eq!((wait(5, 0), wait(5, 1), wait(5, 2)), (5, 5, 8));
        assert_eq!((wait(0, 8), wait(0, 9), wait(0, u32::MAX)), (512, 600, 600));
    }
}
