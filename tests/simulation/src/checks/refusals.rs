//! Refused requests: they pause the target and spend no attempt.

use std::time::Duration;

use shared::{
    model::{Attempt, Transition, Webhook, Why},
    sender::Answer,
};

use crate::{
    state::{
        records::{Records, short},
        requests::Destinations,
        tracking::Checks,
    },
    world::Process,
};

/// A webhook may look at its target this long before its pause ends, and a refusal that asks for
/// little more than an earlier one does not extend the pause.
const EARLY: Duration = Duration::from_secs(2);

/// The shortest pause.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Whether a destination that responds so asks for fewer requests.
fn is_refusal(answer: &Answer) -> bool {
    match answer.status_code {
        Some(429) => true,
        Some(503) => answer.retry_after.is_some(),
        _ => false,
    }
}

impl Checks {
    /// The owner of the claim writes that the request was refused.
    pub(super) fn throttled(
        &mut self,
        process: &Process,
        after: &Webhook,
        attempt: &Attempt,
        destinations: &Destinations,
    ) {
        let name = short(after);
        self.recorded(process, after, attempt, destinations);
        let request = destinations.requests.get(&(after.id.clone(), attempt.number));
        let answer = request.and_then(|request| request.reported.as_ref());
        let refused = answer.is_some_and(is_refusal);
        let step = after.history.last();
        let waits = step.is_some_and(|step| {
            step.transition == Transition::Defer && step.why == Some(Why::RetryAfter)
        });
        self.require(refused && waits, || {
            format!("{name}: throttled by {step:?}, and the request was {request:?}")
        });
        let Some((request, answer)) = request.zip(answer) else { return };
        let cap = self.rules.retry.retry_after_cap;
        let pause = answer.retry_after.unwrap_or_default().clamp(MIN_PAUSE, cap);
        // Without the store, other workers do not know the pause.
        let not_before = if self.traffic.is_sound {
            request.reported_at.plus(pause).minus(EARLY)
        } else {
            process.to_true(after.allowed_at.unwrap_or_default())
        };
        self.progress.entry(after.id.clone()).or_default().not_before = not_before;
    }

    /// A refused request spends an attempt only if pauses have deferred the webhook for too long.
    pub(super) fn spent_on_refusal(
        &mut self,
        process: &Process,
        stored: &Webhook,
        attempt: &Attempt,
        records: &Records,
    ) {
        let is_429 = attempt.status_code == Some(429);
        if !is_429 || !self.traffic.is_sound {
            return;
        }
        let now = process.local_now();
        let may_spend = self.traffic.may_spend(stored, &records.targets, now);
        self.require(may_spend, || {
            format!("{}: a refusal spent attempt {}", short(stored), attempt.number)
        });
    }
}
