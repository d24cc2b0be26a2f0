//! What must be true once all is quiet: the three rules, the dead letters, the ledger.

use shared::{metrics::DELIVERY_STATUSES, model::ErrorKind, status::Status};

use crate::{
    checks::STRAYS,
    plan::{Kind, Plan},
    state::{
        State,
        records::{short, short_id},
    },
};

/// Whether nothing is left to be done.
pub(super) fn is_quiet(state: &State) -> bool {
    let settled = state
        .records
        .webhooks
        .values()
        .all(|(webhook, _)| webhook.status == Status::Delivered || webhook.is_dead_letter());
    settled && state.records.due.is_empty() && state.messages.is_empty()
}

/// What is not quiet yet, for who reads a failure.
pub(super) fn unquiet(state: &State) -> String {
    let open = state.records.webhooks.values().map(|(webhook, _)| webhook);
    let open: Vec<String> = open
        .filter(|webhook| webhook.status != Status::Delivered && !webhook.is_dead_letter())
        .map(|webhook| format!("{} {} due {:?}", short(webhook), webhook.status, webhook.due_at))
        .collect();
    format!(
        "it never becomes quiet: {open:?}, {} due, queue empty: {}",
        state.records.due.len(),
        state.messages.is_empty()
    )
}

/// Judges the end of a run.
pub(super) fn check(state: &mut State, kind: Kind, plan: &Plan) {
    rule_one(state);
    rules_two_and_three(state);
    strays(state, plan);
    figures(state, plan);
    let webhooks = state.records.webhooks.len() + state.watch.deleted.len();
    // Where a destination gets one attempt at a time, those that are put off for it have messages
    // of their own once the queue moves.
    if kind == Kind::Backlog && plan.host_concurrency > 1 {
        let most = state.watch.most_waiting;
        state.watch.must(most <= 2 * webhooks, || {
            format!("{most} messages at a time for {webhooks} webhooks")
        });
    }
}

/// Each message that nobody could read is a dead letter that can be read, once or, where messages
/// come twice, more often.
fn strays(state: &mut State, plan: &Plan) {
    for number in 0..state.watch.strays {
        let text = format!("\"stray {number}\"");
        let kept = state.records.webhooks.values().filter(|(webhook, content)| {
            webhook.id.reference.as_str() == STRAYS
                && webhook.is_dead_letter()
                && content.payload.get() == text
        });
        let kept = kept.count();
        state.watch.must(kept > 0 || plan.lost > 0.0, || format!("message {text} is kept nowhere"));
        state
            .watch
            .must(kept < 2 || !plan.is_mild(), || format!("message {text} is kept {kept} times"));
    }
}

/// The totals are what happened; less where the function died, or was told that the store has
/// failed, before it had added what it did.
fn figures(state: &mut State, plan: &Plan) {
    let delivered: u64 = state.records.totals.destinations.values().map(|did| did.delivered).sum();
    let attempts: u64 =
        delivered + state.records.totals.destinations.values().map(|did| did.failed).sum::<u64>();
    for status in DELIVERY_STATUSES {
        let happened = state.watch.outcomes.get(&status).copied().unwrap_or_default();
        let counted = state
            .records
            .totals
            .counters
            .get(&format!("deliveries.{status}"))
            .copied()
            .unwrap_or_default();
        let fits = if plan.is_mild() { counted == happened } else { counted <= happened };
        state.watch.must(fits, || {
            format!("{happened} attempts led to {status}, and {counted} are counted")
        });
    }
    let happened: u64 = state.watch.outcomes.values().sum();
    let fits = if plan.is_mild() { attempts == happened } else { attempts <= happened };
    state
        .watch
        .must(fits, || format!("{happened} attempts, and the destinations' totals say {attempts}"));
    let waiting: Vec<i64> =
        state.records.totals.destinations.values().map(|did| did.waiting).collect();
    // Two who wrote the same in one millisecond were both told that they did.
    let counted_wrong: u64 = waiting.iter().map(|waiting| waiting.unsigned_abs()).sum();
    let none_left = counted_wrong <= state.watch.twins || !plan.is_mild() || plan.operations > 0;
    state.watch.must(none_left, || {
        format!("nothing waits any more, and the destinations' totals say {waiting:?}")
    });
}

/// Each accepted webhook is delivered, or failed and a dead letter, or deleted.
fn rule_one(state: &mut State) {
    for id in state.watch.accepted.clone() {
        let found = state.records.webhooks.get(&id.task).map(|(webhook, _)| webhook.status);
        let deleted = state.watch.deleted.contains(&id);
        state.watch.must(found.is_some() || deleted, || {
            format!("{} was accepted, and is lost", short_id(&id))
        });
    }
    for (number, ids) in state.watch.created_for.clone() {
        let known = state.watch.accepted.iter().filter(|id| ids.contains(&id.task)).count();
        let twice = known > 1 && state.watch.is_twice(number);
        state.watch.must(!twice, || format!("number {number} was accepted as {known} webhooks"));
    }
}

/// Each attempt is noted once, as what it was; so what was sent twice is shown as attempts without
/// an answer.
fn rules_two_and_three(state: &mut State) {
    for (webhook, _) in state.records.webhooks.values() {
        let name = short(webhook);
        let requests = state
            .destinations
            .requests
            .range((webhook.id.clone(), 0)..=(webhook.id.clone(), u32::MAX));
        let mut delivered = false;
        for ((_, number), seen) in requests {
            let Some(noted) = webhook.attempts.iter().find(|attempt| attempt.number == *number)
            else {
                return state.watch.must(false, || {
                    format!("attempt {number} of {name} was sent, and is not noted")
                });
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
                return state.watch.must(false, || {
                    format!("attempt {number} of {name} is noted as {noted:?}, and was {seen:?}")
                });
            }
        }
        if webhook.status == Status::Delivered && !delivered {
            return state
                .watch
                .must(false, || format!("{name} is delivered, and no request was answered 2xx"));
        }
    }
}
