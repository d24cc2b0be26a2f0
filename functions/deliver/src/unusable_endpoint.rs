//! What happens to a delivery whose endpoint is missing or cannot be used.

use std::time::Duration;

use shared::{
    model::Webhook,
    transition::{EndpointTerms, GiveUp},
};

use crate::{
    deferral::{Deferral, DeferralReason},
    endpoint::{NoEndpoint, Work},
    turn::HeldTurn,
    worker::{Deliver, StepResult, hand_back},
};

/// How long a delivery waits whose endpoint cannot be used.
const UNUSABLE_WAIT: Duration = Duration::from_secs(300);

impl Deliver {
    /// The step of a delivery that has no endpoint to go to.
    pub(crate) async fn step_without_endpoint(
        &self,
        webhook: Box<Webhook>,
        turn: &HeldTurn,
        reason: NoEndpoint,
    ) -> StepResult {
        match reason {
            NoEndpoint::GiveUp(reason) => StepResult::BudgetSpent(webhook, reason),
            NoEndpoint::Store(error) => {
                StepResult::Ended(hand_back(&error, "read the application of"))
            }
            NoEndpoint::NoDocument => {
                let retry = self.context.config.endpoint_retry.clone();
                let terms = EndpointTerms { revision: 0, retry };
                let rules = self.context.rules.for_endpoint(&terms);
                let work = Work::without_endpoint(turn, &rules);
                let why = "the store has no document of its application; restore it from a backup";
                self.defer_unusable(webhook, &work, why).await
            }
        }
    }

    /// Makes a delivery wait whose endpoint cannot be used. `why` says what an operator must do.
    pub(crate) async fn defer_unusable(
        &self,
        webhook: Box<Webhook>,
        work: &Work<'_>,
        why: &str,
    ) -> StepResult {
        tracing::error!("The endpoint {} cannot be used: {why}", webhook.destination);
        let now = self.context.clock.now();
        if work.rules.must_wait_until(&webhook, now).is_some() {
            return self.defer_for_interruptions(webhook, work).await;
        }
        let until = now.plus(UNUSABLE_WAIT);
        let deferral = Deferral { until, reason: DeferralReason::UnusableEndpoint };
        if !self.has_deferrals_left(&webhook, deferral) {
            return StepResult::BudgetSpent(webhook, GiveUp::EndpointUnusable);
        }
        self.defer(webhook, work, deferral).await
    }
}
