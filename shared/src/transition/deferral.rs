//! The budgets of deferrals: the host limit and the circuit each have one.

use std::time::Duration;

use super::Rules;
use crate::{
    clock::Timestamp,
    model::{Budget, Why},
    planted::{self, Bug},
};

impl Rules {
    /// Whether the budget covers a deferral until `until`.
    pub fn has_deferrals_left(
        &self,
        mut budget: Budget,
        until: Timestamp,
        why: Why,
        now: Timestamp,
    ) -> bool {
        let mut max_defer = self.limits.max_defer;
        if planted::is(Bug::DeferralsUnbounded) {
            max_defer = Duration::MAX;
        }
        u128::from(spend_deferral(&mut budget, until, why, now)) <= max_defer.as_millis()
    }
}

/// Adds a deferral to its budget. Returns the budget's total in milliseconds.
pub(super) fn spend_deferral(
    budget: &mut Budget,
    until: Timestamp,
    why: Why,
    now: Timestamp,
) -> u64 {
    let mut by_host_limit = why == Why::RateLimit;
    if planted::is(Bug::DeferralsShareBudget) {
        by_host_limit = false;
    }
    let used = if by_host_limit { &mut budget.host_deferred_ms } else { &mut budget.deferred_ms };
    *used = used.saturating_add(until.since(now).as_millis() as u64);
    *used
}
