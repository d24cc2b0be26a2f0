//! The checks at every write, request and acknowledgement. They follow the design and not the code,
//! and track the state of each webhook on their own.
//!
//! | module | contents |
//! |---|---|
//! | `claims` | claims, and the outcomes of attempts |
//! | `refusals` | refused requests, which spend no attempt |
//! | `budgets` | the budgets of attempts, deferrals and rescues |
//! | `published` | messages: plans, writes, and that something holds them |
//! | `deliveries` | deliveries: endpoints, and what receivers get |

mod budgets;
mod claims;
pub(crate) mod deliveries;
mod published;
mod refusals;

use std::{sync::PoisonError, time::Duration};

use serde::Deserialize;
use shared::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    message::Message,
    model::{Claim, Content, ErrorKind, Function, Transition, Webhook, Why},
    queue::Lane,
    status::Status,
    store::ListPosition,
    traffic::target::TargetKey,
};

use crate::{
    state::{
        records::{Records, is_at_large, short, short_id},
        requests::Destinations,
        tracking::{Checks, Progress},
    },
    traffic::is_healthy_path,
    traffic_checks,
    world::Process,
};

/// The reference ID under which `dlq` keeps unreadable messages.
pub(super) const UNREADABLE: &str = "unreadable-message";

/// Whether the webhook had no attempt, and the next deferral may exceed the limit of all deferrals.
/// `open` is how long the circuit stays open.
fn is_overdue(stored: &Webhook, open: Duration, most: Duration) -> bool {
    let open = open.max(Duration::from_secs(1));
    let longest = open.saturating_mul(stored.budget.deferrals.min(8) + 2);
    !stored.was_attempted() && Duration::from_millis(stored.budget.deferred_ms) + longest > most
}

/// Whether the latest attempt of the webhook was answered with 5xx.
fn got_5xx(webhook: &Webhook) -> bool {
    let code = webhook.last_error.as_ref().and_then(|error| error.status_code);
    code.is_some_and(|code| code >= 500)
}

/// Whether this write returns a claim without a request.
fn returns_claim(stored: &Webhook, after: &Webhook) -> bool {
    let is_interrupted = after.budget.interrupted > stored.budget.interrupted;
    let last = after
        .history
        .last()
        .is_some_and(|step| step.transition == Transition::Defer && step.why == Some(Why::Unsent));
    last && !is_interrupted
}

/// The payload of each webhook.
#[derive(Debug, Deserialize)]
struct Payload {
    n: u64,
}

fn number_in(payload: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Payload>(payload).ok().map(|payload| payload.n)
}

/// The targets whose permission an attempt needs.
fn targets_of(webhook: &Webhook) -> [Option<TargetKey>; 2] {
    if let (Some(application), Some(endpoint)) = (&webhook.application, webhook.id.endpoint) {
        return [Some(TargetKey::endpoint(application, endpoint)), None];
    }
    let origin = TargetKey::origin(&webhook.destination);
    let hash = webhook.path_hash.as_ref();
    [Some(origin), hash.map(|hash| TargetKey::url(&webhook.destination, hash))]
}

impl Checks {
    pub(super) fn created(
        &mut self,
        process: &Process,
        webhook: &Webhook,
        content: &Content,
        audited: Option<Timestamp>,
    ) {
        if process.function == Function::Dlq && webhook.id.reference.as_str() == UNREADABLE {
            return self.require(webhook.is_dead_letter(), || {
                format!("{process} kept {}, and not as a dead letter", short(webhook))
            });
        }
        self.require(process.function == Function::Api, || {
            format!("{process} created {}", short(webhook))
        });
        let was_audited = audited.is_some_and(|until| webhook.created_at < until);
        if was_audited && self.wrong_clock {
            self.unaudited.insert(webhook.id.task);
        } else {
            self.require(!was_audited, || {
                format!("{} was created in a minute that is already audited", short(webhook))
            });
        }
        let number = number_in(content.payload.get().as_bytes()).unwrap_or(u64::MAX);
        self.require(!self.deleted.contains(&webhook.id), || {
            format!("{} was created after its deletion", short(webhook))
        });
        self.created_for.entry(number).or_default().insert(webhook.id.task);
        self.progress.insert(webhook.id.clone(), Progress::default());
    }

    pub(super) fn deleted(&mut self, process: &Process, stored: &Webhook) {
        let request = process.request.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.require(process.function == Function::Api, || {
            format!("{process} deleted {}", short(stored))
        });
        let cleanup = request.contains("/webhook-cleanup") && !request.contains("status=");
        self.require(!cleanup || stored.status.is_finished(), || {
            format!("a cleanup deleted {}, {}", short(stored), stored.status)
        });
        self.deleted.insert(stored.id.clone());
    }

    pub(super) fn sent(
        &mut self,
        process: &Process,
        lane: Lane,
        message: &Message,
        records: &Records,
    ) {
        let id = &message.webhook_id;
        if process.function == Function::Sweep {
            self.sent.insert((process.number, id.clone()));
        }
        if process.function != Function::Deliver || lane != Lane::Webhooks {
            return;
        }
        *self.relayed.entry((process.number, id.clone())).or_default() += 1;
        let Some(slot) = &message.slot else { return };
        self.traffic.relayed(message);
        // A delivery that waits for its first slot has no record.
        let Some((webhook, content)) = records.stored(id) else { return };
        let name = short(webhook);
        self.require(message.relays <= self.rules.limits.max_relays, || {
            format!("{name}: {} messages in a row wait for its slot", message.relays)
        });
        let is_learned = !slot.generation.contains('/');
        self.require(!is_learned || !is_healthy_path(&content.url), || {
            format!("{name} waits for slot {slot:?}, because another path refused requests")
        });
        self.traffic.holds(&mut self.violation, webhook, slot, &records.targets);
    }

    pub(super) fn acknowledged(&mut self, process: &Process, id: &WebhookId, records: &Records) {
        let relays = self.relayed.entry((process.number, id.clone())).or_default();
        let was_relayed = *relays > 0;
        *relays = relays.saturating_sub(1);
        let Some((webhook, _)) = records.stored(id) else {
            return self.unstarted_acknowledged(id, was_relayed, records);
        };
        let held = webhook.due_at.is_some()
            || was_relayed
            || webhook.status == Status::Delivered
            || webhook.is_dead_letter()
            || Self::is_held_by_message(id, records);
        self.require(held, || {
            format!(
                "the message of {} was acknowledged: {}, and it has no other holder",
                short(webhook),
                webhook.status
            )
        });
    }

    /// A purge may remove only expired webhooks, by the true time.
    pub(super) fn purged(&mut self, process: &Process, webhook: &Webhook, now: Timestamp) {
        let expired = webhook.expires_at.is_some_and(|at| at <= now.plus(self.max_skew));
        self.expired.insert(webhook.id.clone());
        self.require(expired, || {
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
        let read = records.webhooks.range(..ListPosition::at(TaskId::first_at(to)));
        let mut missed = read
            .map(|(_, (webhook, _))| webhook)
            .filter(|webhook| is_at_large(webhook) && !webhook.id.is_delivery());
        let is_ahead = self.wrong_clock && to > now.minus(Duration::from_secs(10 * 60));
        self.unaudited.extend(
            missed
                .clone()
                .map(|webhook| webhook.id.task)
                .filter(|task| is_ahead || records.newer.contains(task)),
        );
        let missed = missed.find(|webhook| !self.unaudited.contains(&webhook.id.task));
        if let Some(webhook) = missed {
            self.require(false, || {
                format!(
                    "{process} audited up to {to}, and {} is not in the due index",
                    short(webhook)
                )
            });
        }
        // A clock that is ahead by more than a message lasts hides it from the audit.
        let hides = process.local_now() > now.plus(Duration::from_secs(24 * 3600));
        self.audited_messages(process, to, is_ahead || hides, records);
    }

    pub(super) fn requested(
        &mut self,
        (id, attempt): &(WebhookId, u32),
        payload: &[u8],
        now: Timestamp,
        before: bool,
    ) {
        self.require(!before, || format!("attempt {attempt} of {} was sent twice", short_id(id)));
        let Some(progress) = self.progress.get(id) else {
            return self.require(false, || format!("{} was sent, and never created", short_id(id)));
        };
        let Some(claimed_at) = progress.claimed_at.get(attempt).copied() else {
            return self.require(false, || {
                format!("attempt {attempt} of {} was sent without a claim", short_id(id))
            });
        };
        let not_before = progress.not_before;
        let last = claimed_at.plus(Duration::from_secs(30));
        self.require(now <= last, || {
            format!(
                "attempt {attempt} of {} was sent at {now}, after its deadline {last}",
                short_id(id)
            )
        });
        self.require(now.plus(self.max_skew) >= not_before, || {
            format!(
                "attempt {attempt} of {} was sent at {now}, not after {not_before}",
                short_id(id)
            )
        });
        let number = number_in(payload).unwrap_or(u64::MAX);
        let is_own = self.created_for.get(&number).is_some_and(|ids| ids.contains(&id.task));
        self.require(is_own, || format!("{} has the payload of another webhook", short_id(id)));
        let deliver_at = self.deliver_at.get(&number).copied().unwrap_or_default();
        self.require(now.plus(self.max_skew) >= deliver_at, || {
            format!("{} was sent at {now}, before its deliver_at {deliver_at}", short_id(id))
        });
    }

    /// Called before a write takes effect.
    pub(super) fn written(
        &mut self,
        process: &Process,
        stored: &Webhook,
        after: &Webhook,
        destinations: &Destinations,
        records: &Records,
        now: Timestamp,
    ) {
        self.check_fields(after);
        let name = short(after);
        self.require(after.revision > stored.revision, || {
            format!("{name}: the revision did not increase")
        });
        self.require(after.attempt_count >= stored.attempt_count, || {
            format!("{name}: the attempt number decreased")
        });
        self.require(!self.deletion_confirmed.contains(&after.id), || {
            format!("{name} was written after its deletion returned 204")
        });
        let audited = records.audited_until.is_some_and(|until| after.created_at < until);
        let held = after.status.is_finished()
            || after.due_at.is_some()
            || !audited
            // Its message is held: see `published`.
            || after.id.is_delivery()
            || self.unaudited.contains(&after.id.task);
        self.require(held, || {
            format!("{name}: audited and unfinished, and it leaves the due index")
        });
        let again = stored.status.is_finished() && !after.status.is_finished();
        if again {
            self.restarted(process, after);
        }
        self.attempt_ended(process, stored, after, destinations, records, now);
        self.attempt_claimed(process, stored, after, records, now);
        self.failed(stored, after);
        self.rescued(process, stored, after);
        self.deferred(stored, after);
        if let Some((_, content)) = records.stored(&after.id) {
            traffic_checks::waits(&mut self.violation, after, &content.url);
        }
        if let Some(slot) = &after.slot {
            self.traffic.holds(&mut self.violation, after, slot, &records.targets);
        }
        self.traffic.checked(after);
        self.budgets(after);
        self.requeued(process, stored, after);
    }

    /// Checks what the write says about the claim of the stored record.
    fn attempt_ended(
        &mut self,
        process: &Process,
        stored: &Webhook,
        after: &Webhook,
        destinations: &Destinations,
        records: &Records,
        now: Timestamp,
    ) {
        let name = short(after);
        let recorded = after.attempts.last().filter(|last| stored.attempts.last() != Some(*last));
        match (&stored.claim, recorded) {
            (None, Some(_)) => {
                self.require(false, || format!("{name}: an outcome was written without a claim"));
            }
            (Some(_), Some(attempt)) if returns_claim(stored, after) => {
                self.claim_returned(process, stored, after, attempt, destinations);
            }
            (Some(claim), Some(attempt)) if attempt.error == Some(ErrorKind::Interrupted) => {
                self.interrupted(process, after, claim, now);
            }
            (Some(_), Some(attempt)) if after.budget.throttled > stored.budget.throttled => {
                self.throttled(process, after, attempt, destinations);
            }
            (Some(_), Some(attempt)) => {
                self.concluded(process, after, attempt, destinations);
                self.spent_on_refusal(process, stored, attempt, records);
            }
            (Some(claim), None) => {
                self.require(after.claim.as_ref() == Some(claim), || {
                    format!("{name}: a claim ended without a recorded attempt")
                });
            }
            (None, None) => {}
        }
    }

    /// Checks a new claim, and the circuits at that time.
    fn attempt_claimed(
        &mut self,
        process: &Process,
        stored: &Webhook,
        after: &Webhook,
        records: &Records,
        now: Timestamp,
    ) {
        let is_new = |claim: &&Claim| stored.claim.as_ref() != Some(*claim);
        let Some(claim) = after.claim.as_ref().filter(is_new) else { return };
        self.claimed(process, stored, after, claim);
        let local = process.local_now();
        let max_defer = self.rules.limits.max_defer;
        let overdue = |until: Timestamp| is_overdue(stored, until.since(local), max_defer);
        for key in targets_of(after).into_iter().flatten() {
            let target = records.targets.get(&key).and_then(|state| state.target.as_ref());
            let target = target.filter(|target| target.restricts_until() > Some(now));
            let is_exempt =
                target.is_some_and(|target| target.circuit.retries_only) && !got_5xx(stored);
            let target = target.filter(|_| !is_exempt);
            self.circuit.claimed(&mut self.violation, process, target, now, overdue);
        }
    }

    /// The fields that every record must have in its status.
    fn check_fields(&mut self, after: &Webhook) {
        let name = short(after);
        let (due, expires, archived) =
            (after.due_at.is_some(), after.expires_at.is_some(), after.archived_at.is_some());
        match after.status {
            Status::Delivered => {
                self.require(!due && expires && !archived, || {
                    format!("{name}: delivered, due {due}, expires {expires}")
                });
            }
            Status::Failed if archived => {
                self.require(!due && expires, || {
                    format!("{name}: archived, due {due}, expires {expires}")
                });
            }
            Status::Failed => {
                self.require(due && !expires, || {
                    format!("{name}: failed and not archived, due {due}, expires {expires}")
                });
            }
            _ => {
                self.require(!expires && !archived, || {
                    format!("{name}: unfinished, expires {expires}, archived {archived}")
                });
                let retrying = after.status == Status::Retrying;
                self.require(!retrying || due, || {
                    format!("{name}: retrying, and not in the due index")
                });
                let claimed = after.status == Status::InProgress;
                self.require(claimed == after.claim.is_some(), || {
                    format!("{name}: {} does not match its claim", after.status)
                });
            }
        }
    }

    /// A resend or a redrive starts the webhook again.
    fn restarted(&mut self, process: &Process, after: &Webhook) {
        let name = short(after);
        self.require(process.function == Function::Api, || format!("{process} restarted {name}"));
        self.restarts += 1;
        let progress = self.progress.entry(after.id.clone()).or_default();
        (progress.outcomes, progress.interruptions, progress.not_before) =
            (0, 0, Timestamp::default());
        (progress.attempts, progress.worked_on, progress.unworked) = (0, false, 0);
    }

    /// Only the process that sent the message moves the entry, and by at least the grace.
    fn requeued(&mut self, process: &Process, stored: &Webhook, after: &Webhook) {
        let requeue =
            after.history.last().is_some_and(|step| step.transition == Transition::Requeue);
        if !requeue {
            return;
        }
        let (name, grace) = (short(after), self.rules.limits.grace);
        let sent = self.sent.remove(&(process.number, after.id.clone()));
        self.require(sent, || {
            format!("{process} moved {name} in the due index without sending its message")
        });
        // The entry may have been read as due by a clock that was ahead, and moved once the clock
        // was right again.
        let is_later = after.due_at > stored.due_at || self.wrong_clock;
        let due = is_later && after.due_at.is_some_and(|at| at >= after.updated_at.plus(grace));
        self.require(due, || format!("{name} was requeued without its grace"));
    }
}
