//! The checks: what must hold at every write, every request, every acknowledgement. They know the
//! rules from design and not from the code, and keep books of their own.

use std::{sync::PoisonError, time::Duration};

use serde::Deserialize;
use shared::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Attempt, Claim, Content, ErrorKind, Function, Transition, Webhook, Why},
    status::Status,
};

use crate::{
    state::{
        books::{Checks, Life},
        records::{Records, short, short_id},
        requests::Destinations,
    },
    world::Process,
};

/// The reference id of messages that nobody could read, as `dlq` keeps them.
pub(super) const STRAYS: &str = "unreadable-message";

/// No attempt follows a failed one sooner, whatever a webhook asks for.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Whether this write gives a claim back that sent nothing.
fn gives_back(after: &Webhook) -> bool {
    after
        .history
        .last()
        .is_some_and(|step| step.transition == Transition::Defer && step.why == Some(Why::Unsent))
}

/// Whether the next deferral by a circuit that is open for so long may exceed what it may be
/// deferred in all, and it has had no attempt.
fn is_overdue(stored: &Webhook, open: Duration, most: Duration) -> bool {
    let open = open.max(Duration::from_secs(1));
    let longest = open.saturating_mul(stored.budget.deferrals.min(8) + 2);
    !stored.was_attempted() && Duration::from_millis(stored.budget.deferred_ms) + longest > most
}

/// What every payload says.
#[derive(Debug, Deserialize)]
struct Payload {
    n: u64,
}

fn number_in(payload: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Payload>(payload).ok().map(|payload| payload.n)
}

impl Checks {
    pub(super) fn created(
        &mut self,
        process: &Process,
        webhook: &Webhook,
        content: &Content,
        audited: Option<Timestamp>,
    ) {
        if process.function == Function::Dlq && webhook.id.reference.as_str() == STRAYS {
            return self.must(webhook.is_dead_letter(), || {
                format!("{process} kept {} not as a dead letter", short(webhook))
            });
        }
        self.must(process.function == Function::Api, || {
            format!("{process} created {}", short(webhook))
        });
        let was_audited = audited.is_some_and(|until| webhook.created_at < until);
        if was_audited && self.wrong_clock {
            self.unaudited.insert(webhook.id.task);
        } else {
            self.must(!was_audited, || {
                format!("{} was created in a minute that was audited before", short(webhook))
            });
        }
        let number = number_in(content.payload.get().as_bytes()).unwrap_or(u64::MAX);
        self.must(!self.deleted.contains(&webhook.id), || {
            format!("{} came back after its deletion", short(webhook))
        });
        self.created_for.entry(number).or_default().insert(webhook.id.task);
        self.lives.insert(webhook.id.clone(), Life::default());
    }

    pub(super) fn deleted(&mut self, process: &Process, stored: &Webhook) {
        let request = process.request.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.must(process.function == Function::Api, || {
            format!("{process} deleted {}", short(stored))
        });
        let cleanup = request.contains("/webhook-cleanup") && !request.contains("status=");
        self.must(!cleanup || stored.status.is_finished(), || {
            format!("a cleanup deleted {}, {}", short(stored), stored.status)
        });
        self.deleted.insert(stored.id.clone());
    }

    pub(super) fn sent(&mut self, process: &Process, id: &WebhookId) {
        if process.function == Function::Sweep {
            self.sent.insert((process.number, id.clone()));
        }
    }

    pub(super) fn acknowledged(&mut self, id: &WebhookId, records: &Records) {
        let Some((webhook, _)) = records.webhooks.get(&id.task) else { return };
        let held = webhook.due_at.is_some()
            || webhook.status == Status::Delivered
            || webhook.is_dead_letter();
        self.must(held, || {
            format!(
                "the message of {} was acknowledged: {}, and nothing else holds it",
                short(webhook),
                webhook.status
            )
        });
    }

    /// Only what has expired, by the true time.
    pub(super) fn purged(&mut self, process: &Process, webhook: &Webhook, now: Timestamp) {
        let expired = webhook.expires_at.is_some_and(|at| at <= now.plus(self.apart));
        self.must(expired, || {
            format!(
                "{process} purged {}, which expires at {:?}",
                short(webhook),
                webhook.expires_at
            )
        });
    }

    pub(super) fn audited(
        &mut self,
        process: &Process,
        to: Timestamp,
        records: &Records,
        now: Timestamp,
    ) {
        let read = records.webhooks.range(..TaskId::first_at(to));
        let mut missed = read
            .map(|(_, (webhook, _))| webhook)
            .filter(|webhook| !webhook.status.is_finished() && webhook.due_at.is_none());
        let is_ahead = self.wrong_clock && to > now.minus(Duration::from_secs(10 * 60));
        self.unaudited.extend(
            missed
                .clone()
                .map(|webhook| webhook.id.task)
                .filter(|task| is_ahead || records.newer.contains(task)),
        );
        let missed = missed.find(|webhook| !self.unaudited.contains(&webhook.id.task));
        if let Some(webhook) = missed {
            self.must(false, || {
                format!(
                    "{process} audited up to {to}, and {} is not in the due index",
                    short(webhook)
                )
            });
        }
    }

    pub(super) fn requested(
        &mut self,
        (id, attempt): &(WebhookId, u32),
        payload: &[u8],
        now: Timestamp,
        before: bool,
    ) {
        self.must(!before, || format!("attempt {attempt} of {} was sent twice", short_id(id)));
        let Some(life) = self.lives.get(id) else {
            return self.must(false, || format!("{} was sent and never created", short_id(id)));
        };
        let Some(claimed_at) = life.claimed_at.get(attempt).copied() else {
            return self.must(false, || {
                format!("attempt {attempt} of {} was sent without a claim", short_id(id))
            });
        };
        let not_before = life.not_before;
        let last = claimed_at.plus(Duration::from_secs(30));
        self.must(now <= last, || {
            format!(
                "attempt {attempt} of {} was sent at {now}, after its deadline {last}",
                short_id(id)
            )
        });
        self.must(now.plus(self.apart) >= not_before, || {
            format!(
                "attempt {attempt} of {} was sent at {now}, and must wait until {not_before}",
                short_id(id)
            )
        });
        let number = number_in(payload).unwrap_or(u64::MAX);
        let own = self.created_for.get(&number).is_some_and(|ids| ids.contains(&id.task));
        self.must(own, || format!("{} carries the payload of another", short_id(id)));
        let wanted_at = self.wanted_at.get(&number).copied().unwrap_or_default();
        self.must(now.plus(self.apart) >= wanted_at, || {
            format!("{} was sent at {now}, and was to be delivered at {wanted_at}", short_id(id))
        });
    }

    /// A write is about to take effect.
    pub(super) fn written(
        &mut self,
        process: &Process,
        stored: &Webhook,
        after: &Webhook,
        destinations: &Destinations,
        records: &Records,
        now: Timestamp,
    ) {
        self.shape(after);
        let name = short(after);
        self.must(after.revision > stored.revision, || {
            format!("{name}: the revision did not grow")
        });
        self.must(after.attempt_count >= stored.attempt_count, || {
            format!("{name}: attempt numbers went back")
        });
        self.must(!self.gone.contains(&after.id), || {
            format!("{name} was written after a 204 to its deletion")
        });
        let audited = records.audited_until.is_some_and(|until| after.created_at < until);
        let held = after.status.is_finished()
            || after.due_at.is_some()
            || !audited
            || self.unaudited.contains(&after.id.task);
        self.must(held, || {
            format!("{name}: older than the audit, and leaves the due index unfinished")
        });
        let again = stored.status.is_finished() && !after.status.is_finished();
        if again {
            self.restarted(process, after);
        }
        let noted = after.attempts.last().filter(|last| stored.attempts.last() != Some(*last));
        match (&stored.claim, noted) {
            (None, Some(_)) => self
                .must(false, || format!("{name}: an outcome was written, and nobody had a claim")),
            (Some(_), Some(noted)) if gives_back(after) => {
                self.given_back(process, stored, after, noted, destinations);
            }
            (Some(claim), Some(noted)) if noted.error == Some(ErrorKind::Interrupted) => {
                self.interrupted(process, after, claim, now);
            }
            (Some(_), Some(noted)) => self.concluded(process, after, noted, destinations),
            (Some(claim), None) => {
                self.must(after.claim.as_ref() == Some(claim), || {
                    format!("{name}: a claim ended without a noted attempt")
                });
            }
            (None, None) => {}
        }
        if let Some(claim) =
            after.claim.as_ref().filter(|claim| stored.claim.as_ref() != Some(*claim))
        {
            self.claimed(process, stored, after, claim);
            let circuit = records.circuits.get(&after.destination);
            let local = process.local_now();
            let overdue = |until: Timestamp| {
                is_overdue(stored, until.since(local), self.rules.limits.max_defer)
            };
            self.circuit.claimed(
                &mut self.violation,
                process,
                &after.destination,
                circuit,
                now,
                overdue,
            );
        }
        self.failed(stored, after);
        self.rescued(process, stored, after);
        self.deferred(stored, after);
        self.budgets(after);
        self.requeued(process, stored, after);
    }

    /// What must hold of every record, however it came to be.
    fn shape(&mut self, after: &Webhook) {
        let name = short(after);
        let (due, expires, archived) =
            (after.due_at.is_some(), after.expires_at.is_some(), after.archived_at.is_some());
        match after.status {
            Status::Delivered => {
                self.must(!due && expires && !archived, || {
                    format!("{name}: delivered, due {due}, expires {expires}")
                });
            }
            Status::Failed if archived => {
                self.must(!due && expires, || {
                    format!("{name}: archived, due {due}, expires {expires}")
                });
            }
            Status::Failed => {
                self.must(due && !expires, || {
                    format!("{name}: failed and not archived, due {due}, expires {expires}")
                });
            }
            _ => {
                self.must(!expires && !archived, || {
                    format!("{name}: unfinished, expires {expires}, archived {archived}")
                });
                let retrying = after.status == Status::Retrying;
                self.must(!retrying || due, || {
                    format!("{name}: retrying, and not in the due index")
                });
                let claimed = after.status == Status::InProgress;
                self.must(claimed == after.claim.is_some(), || {
                    format!("{name}: {} and its claim do not fit", after.status)
                });
            }
        }
    }

    fn claimed(&mut self, process: &Process, stored: &Webhook, after: &Webhook, claim: &Claim) {
        let name = short(after);
        self.must(process.function == Function::Deliver, || format!("{process} claimed {name}"));
        self.must(!stored.status.is_finished(), || {
            format!("{name} was claimed, and was {}", stored.status)
        });
        let allowed =
            stored.claim.is_some() || stored.allowed_at.is_some_and(|at| at <= claim.started_at);
        self.must(allowed, || format!("{name} was claimed before {:?}", stored.allowed_at));
        let lease = self.rules.limits.lease;
        self.must(claim.lease_until >= claim.started_at.plus(lease), || {
            format!("{name}: a claim without its lease")
        });
        self.must(after.attempt_count == stored.attempt_count + 1, || {
            format!("{name}: a claim is one attempt")
        });
        let began_at = process.to_true(claim.started_at);
        let life = self.lives.entry(after.id.clone()).or_default();
        life.holder = process.number;
        life.attempts += 1;
        life.claimed_at.insert(after.attempt_count, began_at);
    }

    fn interrupted(&mut self, process: &Process, after: &Webhook, claim: &Claim, now: Timestamp) {
        let over = claim.lease_until <= now.plus(self.apart / 2);
        self.must(over, || {
            format!("{process} took {} over while its lease was live", short(after))
        });
        let policy = self.rules.retry.with(after.retry.as_ref());
        let base = policy
            .schedule
            .first()
            .copied()
            .unwrap_or(policy.base_delay)
            .max(Duration::from_secs(1));
        let (lease, most) = (self.rules.limits.lease, policy.max_delay.max(Duration::from_secs(1)));
        let life = self.lives.entry(after.id.clone()).or_default();
        life.interruptions += 1;
        let last = after.attempts.last().and_then(|noted| life.claimed_at.get(&noted.number));
        if let (Some(began_at), Some(doublings)) = (last, life.interruptions.checked_sub(2)) {
            let wait = base
                .saturating_mul(2_u32.saturating_pow(doublings))
                .min(most)
                .saturating_sub(Duration::from_millis(1));
            life.not_before = life.not_before.max(began_at.plus(lease).plus(wait));
        }
    }

    /// The holder of a claim had sent nothing, and gave it back: that uses up nothing.
    fn given_back(
        &mut self,
        process: &Process,
        stored: &Webhook,
        after: &Webhook,
        noted: &Attempt,
        destinations: &Destinations,
    ) {
        let name = short(after);
        let life = self.lives.entry(after.id.clone()).or_default();
        life.attempts = life.attempts.saturating_sub(1);
        let holder = life.holder;
        self.must(holder == process.number, || {
            format!("{process} gave back {name}, which process {holder} holds")
        });
        let sent = destinations.requests.contains_key(&(after.id.clone(), noted.number));
        self.must(!sent, || {
            format!("{name} was given back, and attempt {} was sent", noted.number)
        });
        let used = |webhook: &Webhook| {
            (webhook.budget.attempts, webhook.budget.interrupted, webhook.budget.deferred_ms)
        };
        self.must(used(stored) == used(after), || {
            format!("{name}: a claim that was given back used up {:?}", after.budget)
        });
    }

    /// Nothing fails for a reason of ours before it was tried.
    fn failed(&mut self, stored: &Webhook, after: &Webhook) {
        let fails = after.status == Status::Failed && stored.status != Status::Failed;
        let attempts = self.lives.entry(after.id.clone()).or_default().attempts;
        self.must(!fails || attempts > 0, || {
            format!("{} failed, and no attempt had started: {:?}", short(after), after.last_error)
        });
    }

    /// The queue gave up on its message: that tells of the webhook only if somebody had looked at
    /// it.
    fn rescued(&mut self, process: &Process, stored: &Webhook, after: &Webhook) {
        let limits = self.rules.limits.clone();
        let life = self.lives.entry(after.id.clone()).or_default();
        if process.function == Function::Deliver {
            (life.worked_on, life.unworked) = (true, 0);
        }
        let rescue = after.history.last().is_some_and(|step| step.why == Some(Why::Rescue));
        if process.function != Function::Dlq || !rescue {
            return;
        }
        let (worked_on, unworked) = (life.worked_on, life.unworked);
        life.worked_on = false;
        life.unworked += u32::from(!worked_on);
        let spent = after.budget.rescues > stored.budget.rescues;
        let name = short(after);
        self.must(!spent || worked_on, || {
            format!("{name}: a rescue was spent, and nothing had worked on it since the last one")
        });
        let wait = match unworked.checked_sub(1) {
            Some(doublings) if !worked_on => {
                limits.grace.saturating_mul(2_u32.saturating_pow(doublings)).min(limits.max_grace)
            }
            _ => Duration::ZERO,
        };
        let due = after.due_at.is_some_and(|at| at >= after.updated_at.plus(wait));
        self.must(due, || {
            format!(
                "{name}: nothing works on it, and it is due {:?}, not {wait:?} later",
                after.due_at
            )
        });
    }

    /// The host limit and the circuit each count their own deferrals.
    fn deferred(&mut self, stored: &Webhook, after: &Webhook) {
        let Some(step) = after.history.last().filter(|step| step.transition == Transition::Defer)
        else {
            return;
        };
        let (before, budget) = (stored.budget, after.budget);
        let fits = match step.why {
            Some(Why::RateLimit) => budget.deferred_ms == before.deferred_ms,
            Some(Why::Unsent) => true,
            _ => budget.host_deferred_ms == before.host_deferred_ms,
        };
        self.must(fits, || {
            format!(
                "{}: deferred for {:?}, and {budget:?} counts it as another",
                short(after),
                step.why
            )
        });
    }

    /// An outcome: by the holder, of what the destination really answered.
    fn concluded(
        &mut self,
        process: &Process,
        after: &Webhook,
        noted: &Attempt,
        destinations: &Destinations,
    ) {
        let name = short(after);
        let life = self.lives.entry(after.id.clone()).or_default();
        life.outcomes += 1;
        life.interruptions = 0;
        *self.outcomes.entry(after.status).or_default() += 1;
        let (holder, outcomes) = (life.holder, life.outcomes);
        self.must(holder == process.number, || {
            format!(
                "{process} wrote an outcome of {name}, attempt {}, and process {holder} holds \
                the claim",
                noted.number
            )
        });
        self.must(noted.number == after.attempt_count, || {
            format!("{name}: an outcome of another attempt")
        });
        let seen = destinations.requests.get(&(after.id.clone(), noted.number));
        let told = seen.and_then(|seen| seen.told.as_ref());
        let fits = match told {
            Some(told) => told.error == noted.error && told.status_code == noted.status_code,
            None => matches!(noted.error, Some(ErrorKind::Network | ErrorKind::Timeout)),
        };
        self.must(fits, || {
            format!("{name}, attempt {}: noted {:?}, answered {seen:?}", noted.number, noted.error)
        });
        let was_2xx =
            seen.and_then(|seen| seen.status).is_some_and(|status| (200..300).contains(&status));
        self.must(after.status != Status::Delivered || was_2xx, || {
            format!("{name} is delivered, and was answered {seen:?}")
        });
        let policy = self.rules.retry.with(after.retry.as_ref());
        if after.status != Status::Retrying {
            return;
        }
        self.must(outcomes < policy.max_attempts, || {
            format!("{name}: another attempt after {outcomes}")
        });
        let step = outcomes.saturating_sub(1);
        let plain = match policy.schedule.get(step as usize).or(policy.schedule.last()) {
            Some(wait) => *wait,
            None => {
                policy.base_delay.mul_f64(policy.factor.powi(step as i32)).min(policy.max_delay)
            }
        };
        let asked = told.and_then(|told| told.retry_after);
        let wait = plain
            .mul_f64(1.0 - policy.jitter)
            .max(asked.unwrap_or_default().min(policy.retry_after_cap));
        let wait = wait.max(MIN_RETRY_DELAY);
        // Written in whole milliseconds.
        let wait = wait.saturating_sub(Duration::from_millis(1));
        let from = seen.map_or_else(|| process.to_true(after.updated_at), |seen| seen.told_at);
        self.lives.entry(after.id.clone()).or_default().not_before = from.plus(wait);
    }

    fn restarted(&mut self, process: &Process, after: &Webhook) {
        let name = short(after);
        self.must(process.function == Function::Api, || format!("{process} sent {name} again"));
        self.restarts += 1;
        let life = self.lives.entry(after.id.clone()).or_default();
        (life.outcomes, life.interruptions, life.not_before) = (0, 0, Timestamp::default());
        (life.attempts, life.worked_on, life.unworked) = (0, false, 0);
    }

    fn budgets(&mut self, after: &Webhook) {
        let (name, budget, limits) = (short(after), after.budget, self.rules.limits.clone());
        let life = self.lives.entry(after.id.clone()).or_default();
        let (outcomes, interruptions) = (life.outcomes, life.interruptions);
        self.must(budget.attempts == outcomes, || {
            format!("{name}: {outcomes} outcomes, and {} attempts spent", budget.attempts)
        });
        self.must(budget.interrupted == interruptions, || {
            format!("{name}: {interruptions} interruptions, and {} spent", budget.interrupted)
        });
        self.must(interruptions <= limits.max_interrupted, || {
            format!("{name}: {interruptions} attempts were interrupted")
        });
        self.must(budget.relays <= limits.max_relays, || {
            format!("{name}: {} relays", budget.relays)
        });
        self.must(budget.rescues <= limits.max_rescues, || {
            format!("{name}: {} rescues", budget.rescues)
        });
        self.must(budget.rescues == 0 || !self.mild, || {
            format!("{name}: the queue gave up on it, and nothing had gone wrong")
        });
        for deferred in [budget.deferred_ms, budget.host_deferred_ms].map(u128::from) {
            self.must(deferred <= limits.max_defer.as_millis(), || {
                format!("{name}: deferred for {deferred} ms")
            });
        }
    }

    /// Only who has sent the message moves the entry, and by no less than the grace.
    fn requeued(&mut self, process: &Process, stored: &Webhook, after: &Webhook) {
        let requeue =
            after.history.last().is_some_and(|step| step.transition == Transition::Requeue);
        if !requeue {
            return;
        }
        let (name, grace) = (short(after), self.rules.limits.grace);
        let sent = self.sent.remove(&(process.number, after.id.clone()));
        self.must(sent, || {
            format!("{process} moved {name} in the due index and has not sent its message")
        });
        // Read as due with a clock that was ahead, and moved when it was right again.
        let on = after.due_at > stored.due_at || self.wrong_clock;
        let due = on && after.due_at.is_some_and(|at| at >= after.updated_at.plus(grace));
        self.must(due, || format!("{name} was requeued without its grace"));
    }
}
