//! The checks at the end of a run: the three rules of the design, the dead letters and the ledger.

mod published;

use std::time::Duration;

use shared::{metrics::DELIVERY_STATUSES, model::ErrorKind, status::Status};

use crate::{
    checks::UNREADABLE,
    plan::{Kind, Plan},
    state::{
        State,
        records::{short, short_id},
    },
    traffic::is_healthy_path,
};

/// A webhook that pauses may defer for this long reaches every receiver of these worlds.
const MIN_PATIENCE: Duration = Duration::from_secs(1800);

/// The longest time to the delivery at a path that always works: two ticks of the schedule, and
/// some waits for the concurrency limit of its host.
const MAX_HEALTHY_WAIT: Duration = Duration::from_secs(150);

/// Whether no work is left.
pub(super) fn is_settled(state: &State) -> bool {
    let settled = state
        .records
        .webhooks
        .values()
        .all(|(webhook, _)| webhook.status == Status::Delivered || webhook.is_dead_letter());
    // What is left of a message that was purged is no work.
    let is_open = |task| state.records.published.contains_key(task);
    let all_accounted = !state.checks.published.open.iter().any(is_open);
    settled && all_accounted && state.records.due.is_empty() && state.messages.is_empty()
}

/// Describes the work that is left.
pub(super) fn describe_unsettled(state: &State) -> String {
    let open = state.records.webhooks.values().map(|(webhook, _)| webhook);
    let open: Vec<String> = open
        .filter(|webhook| webhook.status != Status::Delivered && !webhook.is_dead_letter())
        .map(|webhook| format!("{} {} due {:?}", short(webhook), webhook.status, webhook.due_at))
        .collect();
    format!(
        "work is left after the time limit: {open:?}, {} due, queue empty: {}",
        state.records.due.len(),
        state.messages.is_empty()
    )
}

/// Runs the checks.
pub(super) fn check(state: &mut State, kind: Kind, plan: &Plan) {
    rule_one(state);
    rules_two_and_three(state);
    unreadable_messages(state, plan);
    totals(state, plan);
    traffic(state, kind, plan);
    published::check(state, plan);
    let webhooks = state.records.webhooks.len() + state.checks.deleted.len();
    // If a destination gets one attempt at a time, deferred webhooks have additional messages.
    if kind == Kind::Backlog && plan.host_concurrency > 1 {
        let most = state.checks.most_waiting;
        state.checks.require(most <= 2 * webhooks, || {
            format!("{most} messages at a time for {webhooks} webhooks")
        });
    }
}

/// Without faults, pauses lose no webhook, and a path that works does not wait for others.
fn traffic(state: &mut State, kind: Kind, plan: &Plan) {
    if !plan.is_mild() {
        return;
    }
    for (webhook, content) in state.records.webhooks.values() {
        let is_lost = kind == Kind::Throttled
            && plan.max_defer >= MIN_PATIENCE
            && webhook.status != Status::Delivered;
        state.checks.require(!is_lost, || {
            format!("pauses made {} a dead letter: {:?}", short(webhook), webhook.last_error)
        });
        let allowed_at = state.checks.deliver_at_of(webhook);
        let took = webhook.delivered_at.map(|at| at.since(webhook.created_at.max(allowed_at)));
        let is_late = took.is_none_or(|took| took > MAX_HEALTHY_WAIT);
        state.checks.require(!is_late || !is_healthy_path(&content.url), || {
            format!("{}, whose path works, took {took:?}", short(webhook))
        });
    }
}

/// Each unreadable message is kept as a dead letter, once, or more often if messages are
/// duplicated.
fn unreadable_messages(state: &mut State, plan: &Plan) {
    for number in 0..state.checks.unreadable_messages {
        let text = format!("\"stray {number}\"");
        let kept = state.records.webhooks.values().filter(|(webhook, content)| {
            webhook.id.reference.as_str() == UNREADABLE
                && webhook.is_dead_letter()
                && content.payload.get() == text
        });
        let kept = kept.count();
        state.checks.require(kept > 0 || plan.lost > 0.0, || {
            format!("no dead letter keeps message {text}")
        });
        state.checks.require(kept < 2 || !plan.is_mild(), || {
            format!("{kept} dead letters keep message {text}")
        });
    }
}

/// The totals equal what happened. They may be lower if a function died, or if the store failed,
/// before the function added its counts.
fn totals(state: &mut State, plan: &Plan) {
    let delivered: u64 = state.records.totals.destinations.values().map(|did| did.delivered).sum();
    let attempts: u64 =
        delivered + state.records.totals.destinations.values().map(|did| did.failed).sum::<u64>();
    for status in DELIVERY_STATUSES {
        let happened = state.checks.outcomes.get(&status).copied().unwrap_or_default();
        let counted = state
            .records
            .totals
            .counters
            .get(&format!("deliveries.{status}"))
            .copied()
            .unwrap_or_default();
        let matches = if plan.is_mild() { counted == happened } else { counted <= happened };
        state.checks.require(matches, || {
            format!("{happened} attempts ended as {status}, and the total is {counted}")
        });
    }
    let happened: u64 = state.checks.outcomes.values().sum();
    let matches = if plan.is_mild() { attempts == happened } else { attempts <= happened };
    state.checks.require(matches, || {
        format!("{happened} attempts, and the destinations' total is {attempts}")
    });
    let waiting: Vec<i64> =
        state.records.totals.destinations.values().map(|did| did.waiting).collect();
    // Two processes that write the same record within a millisecond both count it.
    let counted_wrong: u64 = waiting.iter().map(|waiting| waiting.unsigned_abs()).sum();
    let none_left = counted_wrong <= state.checks.identical_writes
        || !plan.every_write_is_counted()
        || plan.operations > 0
        || plan.applications.as_ref().is_some_and(|load| load.operations > 0);
    state.checks.require(none_left, || {
        format!("no webhook waits, and the destinations' totals are {waiting:?}")
    });
}

/// Rule 1: each accepted webhook is delivered, is a dead letter, or is deleted.
fn rule_one(state: &mut State) {
    for id in state.checks.accepted.clone() {
        let found = state.records.stored(&id).map(|(webhook, _)| webhook.status);
        let deleted = state.checks.deleted.contains(&id) || state.checks.expired.contains(&id);
        state.checks.require(found.is_some() || deleted, || {
            format!("{} was accepted and is lost", short_id(&id))
        });
    }
    for (number, ids) in state.checks.created_for.clone() {
        let known = state.checks.accepted.iter().filter(|id| ids.contains(&id.task)).count();
        let twice = known > 1 && state.checks.has_several(number);
        state
            .checks
            .require(!twice, || format!("number {number} was accepted as {known} webhooks"));
    }
}

/// Rules 2 and 3: each request is recorded as an attempt with its result. So a webhook that was
/// sent twice shows attempts without a response.
fn rules_two_and_three(state: &mut State) {
    for (webhook, _) in state.records.webhooks.values() {
        let known = state.checks.published.delivery(&webhook.id);
        if known.is_some_and(|known| known.replaced) {
            continue;
        }
        let name = short(webhook);
        let requests = state
            .destinations
            .requests
            .range((webhook.id.clone(), 0)..=(webhook.id.clone(), u32::MAX));
        let mut delivered = false;
        for ((_, number), request) in requests {
            let Some(recorded) = webhook.attempts.iter().find(|attempt| attempt.number == *number)
            else {
                return state.checks.require(false, || {
                    format!("attempt {number} of {name} was sent and is not recorded")
                });
            };
            let was_2xx = request.status.is_some_and(|status| (200..300).contains(&status));
            delivered |= was_2xx;
            let reported_2xx =
                request.reported.as_ref().is_some_and(|reported| reported.error.is_none());
            let matches = match recorded.error {
                None => was_2xx,
                // The worker died before it wrote the outcome.
                Some(ErrorKind::Interrupted) => true,
                Some(_) => !reported_2xx,
            };
            if !matches {
                let recorded = recorded.error;
                return state.checks.require(false, || {
                    format!("attempt {number} of {name}: recorded as {recorded:?}, was {request:?}")
                });
            }
        }
        if webhook.status == Status::Delivered && !delivered {
            return state
                .checks
                .require(false, || format!("{name} is delivered, and no response was 2xx"));
        }
    }
}
