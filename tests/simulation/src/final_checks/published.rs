//! The end of applications: each planned delivery ended, and a calm world costs what it should.

use shared::status::Status;

use crate::{
    plan::Plan,
    state::{
        State,
        records::{short_id, short_message},
    },
};

/// Runs the checks.
pub(super) fn check(state: &mut State, plan: &Plan) {
    let checks = &mut state.checks;
    for id in checks.published.accepted.keys() {
        let is_known = checks.published.messages.contains_key(&id.task);
        if !is_known {
            let what = format!("{} was accepted and is lost", short_message(id));
            checks.violation.get_or_insert(what);
        }
    }
    let mut violations = Vec::new();
    let is_calm = plan.is_mild() && plan.skew_ms == 0 && plan.wrong_clock.is_none();
    for ledger in checks.published.messages.values() {
        for (endpoint, known) in &ledger.deliveries {
            let id = ledger.id.delivery(*endpoint);
            if known.ended.is_none() && !known.marked {
                violations.push(format!("{} was planned, and never ended", short_id(&id)));
            }
            let stored = state.records.stored(&id).map(|(webhook, _)| webhook);
            if let Some(stored) = stored.filter(|stored| known.ended != Some(stored.status)) {
                let (name, is) = (short_id(&id), stored.status);
                violations.push(format!("{name} ended as {:?}, and is {is}", known.ended));
            }
            // One write claims it, and one records the outcome.
            let is_simple = is_calm
                && known.ended == Some(Status::Delivered)
                && known.restarts == 0
                && !ledger.is_scheduled
                && stored.is_some_and(|stored| stored.attempt_count == 1);
            let was_queued_once = stored.is_none_or(|stored| stored.history.len() <= 2);
            if is_simple && was_queued_once && known.writes != 2 {
                let (name, writes) = (short_id(&id), known.writes);
                violations.push(format!("{name} was delivered at once, with {writes} writes"));
            }
        }
        let all_once = ledger.deliveries.values().all(|known| known.writes == 2 && !known.marked);
        if is_calm && all_once && !ledger.is_scheduled && ledger.writes > 0 {
            let (name, writes) = (short_message(&ledger.id), ledger.writes);
            violations.push(format!("{name} was delivered at once, and written {writes} times"));
        }
    }
    if let Some(violation) = violations.into_iter().next() {
        checks.violation.get_or_insert(violation);
    }
}
