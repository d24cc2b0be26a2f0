//! The checks of pauses, rates and slots.
//!
//! - No attempt starts during a pause that its worker can know.
//! - A host with a configured rate never gets more attempts than the bound of the design.
//! - A slot is given once.
//! - A refusal slows the target down.
//! - A path that works never waits because another path of its host does not.

use std::{collections::BTreeMap, time::Duration};

use shared::{
    clock::Timestamp,
    message::Message,
    model::{ErrorKind, Function, Slot, Step, Transition, Webhook, Why},
    store::TargetState,
    traffic::{
        pace::Pace,
        rate_limit::RateLimit,
        slots::Counters,
        target::{Target, TargetKey},
    },
};

use crate::{
    state::{records::short, traffic::TrafficChecks},
    traffic::is_healthy_path,
    world::Process,
};

/// The maximum time until another worker knows a pause. It reads the targets every 2 s, and makes
/// some calls before the request.
const MAX_UNAWARE: Duration = Duration::from_millis(2500);

/// The maximum time between the last look at the pause and the request, in one process.
const MAX_ADMISSION: Duration = Duration::from_millis(250);

/// The initial learned rate, per second.
const INITIAL_RATE: f64 = 1.0;

/// What remains of a learned rate after a refusal, with a margin for rounding.
const MAX_REMAINING: f64 = 0.801;

/// The lowest learned rate, per second.
const MIN_RATE: f64 = 1.0 / 600.0;

/// How late a webhook may come for its slot of a configured rate, in seconds.
const MAX_LATE_S: f64 = 10.0;

/// The first check that failed.
pub(crate) type Violation = Option<String>;

fn require(violation: &mut Violation, holds: bool, else_what: impl FnOnce() -> String) {
    if !holds {
        violation.get_or_insert_with(else_what);
    }
}

/// Called when a webhook waits. `url` is its destination.
pub(crate) fn waits(violation: &mut Violation, after: &Webhook, url: &str) {
    let Some(step) = after.history.last() else { return };
    let for_target = matches!(step.why, Some(Why::RetryAfter | Why::Error(ErrorKind::CircuitOpen)));
    let waits = step.transition == Transition::Defer && for_target;
    require(violation, !waits || !is_healthy_path(url), || {
        format!("{} waits for another path: {:?}", short(after), step.why)
    });
}

impl TrafficChecks {
    /// Called when `deliver` sends a message again so that it waits.
    pub(crate) fn relayed(&mut self, message: &Message) {
        let known = self.relayed_ms.entry(message.webhook_id.clone()).or_default();
        *known = message.paused_ms.max(*known);
    }

    /// Called after the checks of a write.
    pub(crate) fn checked(&mut self, after: &Webhook) {
        let ends_turn = |step: &Step| {
            step.function == Function::Deliver && step.transition != Transition::Claim
        };
        if after.history.last().is_some_and(ends_turn) {
            self.relayed_ms.remove(&after.id);
        }
    }

    /// Called when a target is written.
    pub(crate) fn written(
        &mut self,
        violation: &mut Violation,
        process: &Process,
        before: Option<&Target>,
        after: &Target,
    ) {
        let at = after.touched_at;
        let known = before.and_then(|before| before.pace(at));
        let Some(pace) = after.pace(at).filter(|pace| known != Some(*pace)) else { return };
        self.paused.insert(after.key.clone(), (process.world.now(), process.number));
        let limit = self.limit.map(RateLimit::per_second);
        let rate = pace.rate(pace.resume_at, limit);
        let is_slower = match known {
            None => rate <= INITIAL_RATE,
            Some(known) if slope(known) == slope(pace) => rate <= known.rate(at, limit),
            Some(known) => rate <= (MAX_REMAINING * known.rate(at, limit)).max(MIN_RATE),
        };
        require(violation, is_slower, || {
            format!("{process}: after a refusal, {} continues at {pace:?}, {known:?}", after.key)
        });
    }

    /// Called when counters are written.
    pub(crate) fn took(&mut self, key: &TargetKey, before: Option<&Counters>, after: &Counters) {
        let before = before.filter(|before| before.generation == after.generation);
        if before.is_some_and(|before| before.last_late < after.last_late) {
            self.late.insert(key.clone());
        }
    }

    /// Called when a webhook keeps a slot, in its record or its message.
    pub(crate) fn holds(
        &mut self,
        violation: &mut Violation,
        webhook: &Webhook,
        slot: &Slot,
        targets: &BTreeMap<TargetKey, TargetState>,
    ) {
        let Some(key) = target_of(webhook, slot) else { return };
        let counters = targets.get(&key).and_then(|state| state.counters.as_ref());
        let current = counters.filter(|counters| counters.generation == slot.generation);
        let was_given = match (counters, current) {
            (Some(_), Some(current)) => slot.number <= current.last.max(current.last_late),
            // The target has another rate by now.
            (Some(_), None) => true,
            (None, _) => false,
        };
        let name = || format!("{} holds slot {} of {key}", short(webhook), slot.number);
        require(violation, was_given, || format!("{}, and the counters are {counters:?}", name()));
        // The two counters of a target use the same numbers.
        let most = if self.late.contains(&key) { 2 } else { 1 };
        let place = (key.clone(), slot.generation.clone(), slot.number);
        let holders = self.holders.entry(place).or_default();
        holders.insert(webhook.id.clone());
        require(violation, holders.len() <= most, || {
            format!("{}, with {} webhooks", name(), holders.len())
        });
    }

    /// Called when a destination gets a request.
    pub(crate) fn requested(
        &mut self,
        violation: &mut Violation,
        process: &Process,
        webhook: &Webhook,
        targets: &BTreeMap<TargetKey, TargetState>,
    ) {
        if !self.is_sound {
            return;
        }
        self.check_pause(violation, process, webhook, targets);
        self.check_rate(violation, process, webhook);
    }

    fn check_pause(
        &self,
        violation: &mut Violation,
        process: &Process,
        webhook: &Webhook,
        targets: &BTreeMap<TargetKey, TargetState>,
    ) {
        let Some(key) = url_target(webhook) else { return };
        let local = process.local_now();
        let target = targets.get(&key).and_then(|state| state.target.as_ref());
        let pace = target.and_then(|target| target.pace(local)).filter(|p| p.is_paused(local));
        let Some((pace, (since, writer))) = pace.zip(self.paused.get(&key)) else { return };
        let is_own = *writer == process.number && self.max_skew.is_zero();
        let unaware = if is_own { MAX_ADMISSION } else { MAX_UNAWARE + self.max_skew };
        let is_unaware = process.world.now().since(*since) <= unaware;
        let exempt = !was_attempted_before(webhook) && self.is_spent(webhook, pace, local);
        require(violation, is_unaware || exempt, || {
            format!("{process}: a request of {} in the pause of {key}: {pace:?}", short(webhook))
        });
    }

    /// Whether pauses may have deferred the webhook for as long as they can.
    fn is_spent(&self, webhook: &Webhook, pace: &Pace, now: Timestamp) -> bool {
        // A webhook waits for at most the age of the learned rate, or a few seconds.
        let longest = now.since(pace.started_at) + Duration::from_secs(10) + self.max_skew;
        let relayed_ms = self.relayed_ms.get(&webhook.id).copied().unwrap_or_default();
        let used = Duration::from_millis(webhook.budget.paused_ms.saturating_add(relayed_ms));
        used + longest > self.max_defer
    }

    /// Whether the attempt of a refused webhook may be spent.
    pub(crate) fn may_spend(
        &self,
        webhook: &Webhook,
        targets: &BTreeMap<TargetKey, TargetState>,
        now: Timestamp,
    ) -> bool {
        let Some(key) = url_target(webhook) else { return true };
        let target = targets.get(&key).and_then(|state| state.target.as_ref());
        let pace = target.and_then(|target| target.pace(now));
        pace.is_none_or(|pace| self.is_spent(webhook, pace, now))
    }

    /// In any `w` seconds at most `R · (w + 10) + burst + 1` attempts, and at most twice as many
    /// while late ones catch up.
    fn check_rate(&mut self, violation: &mut Violation, process: &Process, webhook: &Webhook) {
        let Some(limit) = self.limit else { return };
        let now = process.world.now();
        self.requests.push(now);
        let factor =
            if self.late.contains(&TargetKey::origin(&webhook.destination)) { 2.0 } else { 1.0 };
        for (count, from) in (1_u32..).zip(self.requests.iter().rev()) {
            let span_s = now.since(*from).as_secs_f64();
            let most = limit.per_second() * (span_s + MAX_LATE_S) + limit.burst() as f64 + 1.0;
            if f64::from(count) > factor * most {
                return require(violation, false, || {
                    format!("{count} requests in {span_s} s, with a limit of {limit}")
                });
            }
        }
    }
}

/// Whether an attempt before the current one started since the webhook was accepted or resent.
fn was_attempted_before(webhook: &Webhook) -> bool {
    let budget = &webhook.budget;
    budget.attempts > 0 || budget.throttled > 0 || budget.interrupted > 0
}

/// The target whose slot it is. Configured rates contain a slash.
fn target_of(webhook: &Webhook, slot: &Slot) -> Option<TargetKey> {
    if slot.generation.contains('/') {
        return Some(TargetKey::origin(&webhook.destination));
    }
    url_target(webhook)
}

/// The target that pauses: the endpoint of a delivery, or the URL of a direct webhook.
fn url_target(webhook: &Webhook) -> Option<TargetKey> {
    if let (Some(application), Some(endpoint)) = (&webhook.application, webhook.id.endpoint) {
        return Some(TargetKey::endpoint(application, endpoint));
    }
    webhook.path_hash.as_ref().map(|hash| TargetKey::url(&webhook.destination, hash))
}

/// How fast the learned rate grows. Each decrease sets it.
fn slope(pace: &Pace) -> Option<String> {
    let stored = serde_json::to_value(pace).unwrap_or_default();
    stored.get("g").map(ToString::to_string)
}
