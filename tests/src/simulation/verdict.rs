//! What must be true once all is quiet: the three rules, the dead letters, the ledger.

use shared::{model::ErrorKind, status::Status};

use super::{
    plan::{Kind, Plan},
    store::{short, short_id},
    world::State,
};

/// Whether nothing is left to be done.
pub(super) fn is_quiet(state: &State) -> bool {
    let settled =
        state.records.webhooks.values().all(|(webhook, _)| webhook.status == Status::Delivered || webhook.is_dead_letter());
    settled && state.records.due.is_empty() && state.messages.is_empty()
}

/// What is not quiet yet, for who reads a failure.
pub(super) fn unquiet(state: &State) -> String {
    let open = state.records.webhooks.values().map(|(webhook, _)| webhook);
    let open: Vec<String> = open
        .filter(|webhook| webhook.status != Status::Delivered && !webhook.is_dead_letter())
        .map(|webhook| format!("{} {} due {:?}", short(webhook), webhook.status, webhook.due_at))
        .collect();
    format!("it never becomes quiet: {open:?}, {} due, queue empty: {}", state.records.due.len(), state.messages.is_empty())
}

/// Judges the end of a run.
pub(super) fn judge(state: &mut State, kind: Kind, plan: &Plan) {
    rule_one(state);
    rules_two_and_three(state);
    let taken = state.messages.taken;
    let webhooks = state.records.webhooks.len() as u64 + state.watch.deleted.len() as u64;
    if kind == Kind::Backlog
        && let Some((from, until)) = plan.stopped
    {
        // The first message, one of the audit's, and one more each time that the grace has doubled.
        let graces = (until - from) as f64 / 900.0;
        let most = webhooks * (3 + (graces + 1.0).log2() as u64);
        state.watch.must(taken <= most, || format!("{taken} messages for {webhooks} webhooks in {graces} graces"));
    }
}

/// Each accepted webhook is delivered, or failed and a dead letter, or deleted.
fn rule_one(state: &mut State) {
    for id in state.watch.accepted.clone() {
        let found = state.records.webhooks.get(&id.task).map(|(webhook, _)| webhook.status);
        let deleted = state.watch.deleted.contains(&id);
        state.watch.must(found.is_some() || deleted, || format!("{} was accepted, and is lost", short_id(&id)));
    }
    for (number, ids) in state.watch.created_for.clone() {
        let known = state.watch.accepted.iter().filter(|id| ids.contains(&id.task)).count();
        let twice = known > 1 && state.watch.is_twice(number);
        state.watch.must(!twice, || format!("number {number} was accepted as {known} webhooks"));
    }
}

/// Each attempt is noted once, as what it was; so what was sent twice is shown as attempts without an answer.
fn rules_two_and_three(state: &mut State) {
    for (webhook, _) in state.records.webhooks.values() {
        let name = short(webhook);
        let requests = state.destinations.requests.range((webhook.id.clone(), 0)..=(webhook.id.clone(), u32::MAX));
        let mut delivered = false;
        for ((_, number), seen) in requests {
            let Some(noted) = webhook.attempts.iter().find(|attempt| attempt.number == *number) else {
                return state.watch.must(false, || format!("attempt {number} of {name} was sent, and is not noted"));
            };
            let was_2xx = seen.status.is_some_and(|status| (200..300).contains(&status));
            delivered |= was_2xx;
            let told_2xx = seen.told.as_ref().is_some_and(|told| told.error.is_none());
            let fits = match noted.error {
                None => was_2xx,
                // Nobody wrote what it was told.
                Some(ErrorKind::Interrupted) => true,
                Some(_) => !told_2xx,
            };
            if !fits {
                let noted = noted.error;
                return state.watch.must(false, || format!("attempt {number} of {name} is noted as {noted:?}, and was {seen:?}"));
            }
        }
        if webhook.status == Status::Delivered && !delivered {
            return state.watch.must(false, || format!("{name} is delivered, and no request was answered 2xx"));
        }
    }
}
