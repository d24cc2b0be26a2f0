//! Published messages: their plans, their writes, and that something always holds them.

use std::{collections::BTreeSet, time::Duration};

use shared::{
    applications::{
        application::Application,
        id::EndpointId,
        message::{KEY_OCCUPIED, PublishedMessage, START_WITHIN},
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::{Content, Function, Webhook},
    sealing::MasterKeys,
    status::Status,
    store::ListPosition,
};

use super::number_in;
use crate::{
    application_load::canary_in,
    state::{
        State,
        published::{DeliveryLedger, Ledger, Published},
        records::{Records, short, short_id, short_message},
        tracking::{Checks, Progress},
    },
    world::Process,
};

/// The length of a minute as the audit counts them.
const MINUTE: Duration = Duration::from_secs(60);

/// The endpoints that an event goes to by this document, and those that are off.
fn matched(
    document: &Application,
    event_type: &str,
) -> (BTreeSet<EndpointId>, BTreeSet<EndpointId>) {
    let chooses = |pattern: &str| match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => event_type.starts_with(prefix),
        None => pattern == event_type,
    };
    let (mut planned, mut off) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in &document.endpoints {
        let patterns = endpoint.event_types.as_ref();
        let wants = patterns.is_none_or(|all| all.iter().any(|one| chooses(&one.to_string())));
        if wants {
            if endpoint.disabled.is_some() { &mut off } else { &mut planned }.insert(endpoint.id);
        }
    }
    (planned, off)
}

impl State {
    pub(crate) fn application_written(
        &mut self,
        process: &Process,
        after: &Application,
        keys: Option<&MasterKeys>,
    ) {
        let now = self.now();
        let checks = &mut self.checks;
        let may = matches!(process.function, Function::Api);
        checks.require(may, || format!("{process} wrote application {}", after.id));
        let versions = checks.published.versions.entry(after.id.clone()).or_default();
        let last = versions.last().map_or(0, |(_, document)| document.revision);
        versions.push((now, after.clone()));
        checks.require(after.revision > last, || {
            format!("application {}: revision {} after {last}", after.id, after.revision)
        });
        let Some(keys) = keys else { return };
        for endpoint in &after.endpoints {
            let stored = endpoint.secrets.first();
            let secret = stored.and_then(|stored| stored.open(&after.id, endpoint.id, keys).ok());
            let known = &mut checks.published.secrets;
            if let Some(secret) = secret.filter(|_| !known.contains_key(&endpoint.id)) {
                known.insert(endpoint.id, secret.reveal());
            }
        }
    }

    pub(crate) fn message_created(
        &mut self,
        process: &Process,
        message: &PublishedMessage,
        content: &Content,
    ) {
        let (now, task) = (self.now(), message.id.task);
        let name = short_message(&message.id);
        let payload = content.payload.get().as_bytes();
        let number = number_in(payload).unwrap_or(u64::MAX);
        let was_audited =
            self.records.audited_until.is_some_and(|until| message.created_at < until);
        let is_scheduled = message.due_at.is_some();
        let checks = &mut self.checks;
        checks.require(process.function == Function::Api, || format!("{process} created {name}"));
        if was_audited && checks.wrong_clock {
            checks.unaudited.insert(task);
        } else {
            checks.require(!was_audited || is_scheduled, || {
                format!("{name} was created in a minute that is already audited")
            });
        }
        checks.created_for.entry(number).or_default().insert(task);
        let canary = canary_in(payload);
        checks.require(canary.as_deref() == Some(message.application.as_str()), || {
            format!("{name}, meant for {canary:?}, was published to {}", message.application)
        });
        checks.planned(process, message, now);
        let plan: Vec<EndpointId> = message.plan.iter().map(|entry| entry.endpoint).collect();
        let deliveries = plan.iter().map(|id| (*id, DeliveryLedger::default())).collect();
        let ledger = Ledger {
            id: message.id.clone(),
            application: message.application.clone(),
            plan,
            is_scheduled,
            writes: 0,
            is_gone: false,
            deletion_confirmed: false,
            deliveries,
        };
        checks.published.messages.insert(task, ledger);
        checks.published.changed(task);
    }

    /// Called before a write takes effect.
    pub(crate) fn message_written(
        &mut self,
        process: &Process,
        stored: &PublishedMessage,
        after: &PublishedMessage,
    ) {
        let (name, task) = (short_message(&after.id), after.id.task);
        let checks = &mut self.checks;
        checks.require(after.revision > stored.revision, || {
            format!("{name}: the revision did not increase")
        });
        checks.require(after.plan == stored.plan && after.off == stored.off, || {
            format!("{name}: its plan changed")
        });
        checks.require(after.deleting || !stored.deleting, || {
            format!("{name}: its deletion was taken back")
        });
        checks.require(after.settled >= stored.settled, || {
            format!("{name}: settled {} after {}", after.settled, stored.settled)
        });
        checks.require(after.due_at.is_some() != after.expires_at.is_some(), || {
            format!("{name}: due {:?}, expires {:?}", after.due_at, after.expires_at)
        });
        let is_gone = checks.published.messages.get(&task).is_none_or(|ledger| ledger.is_gone);
        checks.require(!is_gone, || format!("{name} was written after it was deleted"));
        if let Some(ledger) = checks.published.messages.get_mut(&task) {
            ledger.writes += 1;
        }
        checks.settled(after, &self.records);
        checks.message_requeued(process, stored, after);
        if after.due_at.is_none() {
            self.require_held(task);
        }
    }

    /// In each audited minute, a message is due, or each of its deliveries is accounted for.
    /// Called when the message leaves the due index, or a delivery was written.
    fn require_held(&mut self, task: TaskId) {
        let ended_at = task.created_at().as_millis().div_euclid(60_000) * 60_000;
        let ended_at = Timestamp::from_millis(ended_at).plus(MINUTE);
        let is_audited = self.records.audited_until.is_some_and(|until| until >= ended_at);
        if !is_audited || self.checks.unaudited.contains(&task) {
            return;
        }
        let missed = self.checks.published.unaccounted(task, &self.records);
        self.checks.require(missed.is_none(), || {
            let missed = missed.as_ref().map(short_id);
            format!("nothing holds {missed:?}: its message was audited, and is not due")
        });
    }

    pub(crate) fn message_deleted(&mut self, process: &Process, stored: &PublishedMessage) {
        let name = short_message(&stored.id);
        let checks = &mut self.checks;
        checks.require(stored.deleting, || format!("{process} deleted {name} at once"));
        for entry in &stored.plan {
            let id = stored.id.delivery(entry.endpoint);
            let is_marked = checks.published.delivery(&id).is_some_and(|known| known.marked);
            checks.require(is_marked, || {
                format!("{process} deleted {name} before {} has a marker", short_id(&id))
            });
        }
        if let Some(ledger) = checks.published.messages.get_mut(&stored.id.task) {
            ledger.is_gone = true;
        }
    }

    /// A purge may remove a message only after it has expired, and none with an open delivery.
    pub(crate) fn message_purged(&mut self, process: &Process, message: &PublishedMessage) {
        let now = self.now();
        let name = short_message(&message.id);
        let skew = self.checks.max_skew;
        let expired = message.expires_at.is_some_and(|at| at <= now.plus(skew));
        self.checks.require(expired, || {
            format!("{process} purged {name}, which expires at {:?}", message.expires_at)
        });
        let missed = self.checks.published.unaccounted(message.id.task, &self.records);
        self.checks.require(missed.is_none(), || format!("{process} purged {name} unfinished"));
        if let Some(ledger) = self.checks.published.messages.get_mut(&message.id.task) {
            ledger.is_gone = true;
        }
    }

    /// Called before a marker takes the place of a delivery.
    pub(crate) fn delivery_marked(&mut self, process: &Process, id: &WebhookId) {
        let may = matches!(process.function, Function::Api | Function::Deliver);
        self.checks.require(may, || format!("{process} deleted {}", short_id(id)));
        let Some(known) = self.checks.published.delivery_mut(id) else {
            let what = || format!("{process} deleted {}, which was not planned", short_id(id));
            return self.checks.require(false, what);
        };
        known.marked = true;
        if known.ended.is_none() {
            self.checks.deleted.insert(id.clone());
        }
        self.checks.published.changed(id.task);
    }

    /// Called before the first record of a delivery is stored. `unstarted` is what it was.
    pub(crate) fn delivery_begun(
        &mut self,
        process: &Process,
        message: &PublishedMessage,
        unstarted: Option<&Webhook>,
        after: &Webhook,
    ) {
        let (name, now) = (short(after), self.now());
        let checks = &mut self.checks;
        let Some(known) = checks.published.delivery_mut(&after.id) else {
            return checks.require(false, || format!("{process} began {name}, outside the plan"));
        };
        let (begun, marked) = (known.begun, known.marked);
        (known.begun, known.ended) = (true, None);
        checks.require(unstarted.is_some(), || format!("{name} is not in the plan"));
        checks.require(!marked, || format!("{process} began {name} after it was deleted"));
        let is_settled = after
            .id
            .endpoint
            .and_then(|endpoint| message.place(endpoint))
            .is_some_and(|index| index < message.settled as usize);
        // Of a message that was due for longer than a finished delivery occupies its key, a false
        // dead letter can be left. It is never sent.
        let is_false_dead_letter = after.status == Status::Failed
            && !is_settled
            && message.is_due()
            && now >= message.allowed_at.plus(KEY_OCCUPIED);
        if let Some(known) = checks.published.delivery_mut(&after.id) {
            known.replaced |= begun;
        }
        checks.require(!begun || is_false_dead_letter, || {
            format!("{process} began {name} again, which had a record")
        });
        let abandoned = after.status == Status::Failed && after.attempt_count == 0;
        let is_gone_endpoint = super::deliveries::is_endpoint_gone(after);
        let over_at = message.allowed_at.plus(START_WITHIN);
        let is_late = now.plus(checks.max_skew) >= over_at;
        checks.require(!abandoned || is_gone_endpoint || is_late, || {
            format!("{process} abandoned {name} before {over_at}")
        });
        checks.progress.insert(after.id.clone(), Progress::default());
    }

    /// Called after a record of a delivery was written.
    pub(crate) fn delivery_written(&mut self, process: &Process, after: &Webhook) {
        if !after.id.is_delivery() {
            return;
        }
        let checks = &mut self.checks;
        let is_over = after.status == Status::Delivered || after.is_dead_letter();
        if let Some(known) = checks.published.delivery_mut(&after.id) {
            known.restarts += u32::from(known.ended.is_some() && !after.status.is_finished());
            known.ended = is_over.then_some(after.status);
            known.writes += 1;
        }
        checks.published.changed(after.id.task);
        checks.endpoint_gone(process, after);
        let message = self.records.published.get(&after.id.task);
        let is_due = message.map(|(message, _)| message.is_due());
        if is_due == Some(false) {
            self.require_held(after.id.task);
        }
        let is_orphan = is_due.is_none() && !after.status.is_finished();
        self.checks.require(!is_orphan, || format!("{} has no message", short(after)));
    }
}

impl Checks {
    /// Whether the message of a delivery is in the due index.
    pub(super) fn is_held_by_message(id: &WebhookId, records: &Records) -> bool {
        let message = id.endpoint.and_then(|_| records.published.get(&id.task));
        message.is_some_and(|(message, _)| message.is_due())
    }

    /// Called when the look at a delivery is acknowledged that has no record.
    pub(super) fn unstarted_acknowledged(
        &mut self,
        id: &WebhookId,
        was_relayed: bool,
        records: &Records,
    ) {
        let Some(known) = self.published.delivery(id) else { return };
        let is_open = !known.begun && !known.marked && records.published.contains_key(&id.task);
        let held = !is_open || was_relayed || Self::is_held_by_message(id, records);
        self.require(held, || {
            format!("the look at {} was acknowledged, and nothing holds it", short_id(id))
        });
    }

    /// A plan matches a document that a process can have had, which is at most as old as the cache
    /// when the request began.
    fn planned(&mut self, process: &Process, message: &PublishedMessage, now: Timestamp) {
        let slack = self.published.cache + Duration::from_secs(4);
        let from = process.invoked_at().minus(slack);
        let planned: BTreeSet<EndpointId> = message.plan.iter().map(|e| e.endpoint).collect();
        let off: BTreeSet<EndpointId> = message.off.iter().copied().collect();
        let name = short_message(&message.id);
        self.require(planned.len() == message.plan.len(), || {
            format!("{name}: its plan has an endpoint twice")
        });
        let is = (planned, off);
        let event_type = message.event_type.as_str();
        let matches = self
            .published
            .documents(&message.application, from, now)
            .any(|document| matched(document, event_type) == is);
        self.require(matches, || {
            format!("{name}: no document of {} has this plan: {is:?}", message.application)
        });
    }

    /// Settled entries are finished, deleted or in the due index.
    fn settled(&mut self, after: &PublishedMessage, records: &Records) {
        for entry in after.plan.iter().take(after.settled as usize) {
            let id = after.id.delivery(entry.endpoint);
            let known = self.published.delivery(&id);
            let has_begun = known.is_some_and(|known| known.begun || known.marked);
            let stored = records.stored(&id).map(|(webhook, _)| webhook);
            let is_held = stored
                .is_none_or(|webhook| webhook.status.is_finished() || webhook.due_at.is_some());
            self.require(has_begun && is_held, || {
                format!("{} is settled, and is at large: {stored:?}", short_id(&id))
            });
        }
    }

    /// Only the process that sent the message's look moves its entry, and by at least the grace.
    fn message_requeued(
        &mut self,
        process: &Process,
        stored: &PublishedMessage,
        after: &PublishedMessage,
    ) {
        if after.requeues <= stored.requeues {
            return;
        }
        let (name, grace) = (short_message(&after.id), self.rules.limits.grace);
        let sent = self.published.sent.remove(&(process.number, after.id.task));
        self.require(sent, || {
            format!("{process} moved {name} in the due index without sending its look")
        });
        let is_later = after.due_at > stored.due_at || self.wrong_clock;
        let due = is_later && after.due_at.is_some_and(|at| at >= after.updated_at.plus(grace));
        self.require(due, || format!("{name} was requeued without its grace"));
    }

    /// Messages that the audit has passed, and that nothing holds.
    pub(super) fn audited_messages(
        &mut self,
        process: &Process,
        to: Timestamp,
        is_ahead: bool,
        records: &Records,
    ) {
        let at_large = self.published.at_large(records);
        let missed: Vec<(TaskId, WebhookId)> = at_large
            .map(|(message, id)| (message.id.task, id))
            .filter(|(task, _)| *task < TaskId::first_at(to))
            .collect();
        if is_ahead {
            self.unaudited.extend(missed.iter().map(|(task, _)| *task));
        }
        for (task, id) in missed {
            let is_known = self.unaudited.contains(&task);
            self.require(is_known, || {
                let name = short_id(&id);
                format!("{process} audited up to {to}, and nothing holds {name}")
            });
        }
    }

    /// Called when the look at a message is acknowledged.
    pub(crate) fn message_acknowledged(
        &mut self,
        process: &Process,
        id: &MessageId,
        records: &Records,
    ) {
        let Some((message, _)) = records.published.get(&id.task) else { return };
        for entry in &message.plan {
            let delivery = id.delivery(entry.endpoint);
            let relays = self.relayed.entry((process.number, delivery.clone())).or_default();
            let was_sent = *relays > 0;
            *relays = relays.saturating_sub(1);
            let has_record = records.webhooks.contains_key(&ListPosition::of(&delivery));
            let held = was_sent || message.is_due() || has_record || {
                let known = self.published.delivery(&delivery);
                known.is_some_and(|known| known.begun || known.marked)
            };
            self.require(held, || {
                let name = short_id(&delivery);
                format!("the look at its message was acknowledged, and nothing holds {name}")
            });
        }
    }
}

impl Published {
    /// Called when a look at a message is sent.
    pub(crate) fn sent(&mut self, process: &Process, id: &MessageId) {
        if process.function == Function::Sweep {
            self.sent.insert((process.number, id.task));
        }
    }
}
