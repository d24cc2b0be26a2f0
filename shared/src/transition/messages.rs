//! The transitions of published messages, and the deliveries that have no record.
//!
//! | function | from | to | due index |
//! |---|---|---|---|
//! | [`Rules::publish`] | – | message | only if scheduled |
//! | [`Rules::settle`] | due, all accounted for | settled | leaves |
//! | [`Rules::start_deleting`] | not deleting | deleting | enters or moves forward |
//! | [`Rules::adopt_message`] | not settled | same | enters or moves forward |
//! | [`Rules::audit_message`] | not due, unheld | same | enters |
//! | [`Rules::requeue_message`] | due | same | moves on |
//! | [`Rules::take_back_message`] | due, with times of a clock that was ahead | same | moves |
//! | [`Rules::prolong`] | not due | expires later | – |
//! | [`Rules::abandon`] | delivery of revision 0, too old | failed | enters |
//!
//! Every function returns the next record with its revision raised by one. The caller writes it on
//! the record that the function read, and only if that is unchanged. Without this condition, a
//! settle would restore a message that was deleted meanwhile. A function that takes a
//! [`Standing`] was decided on that standing's message. After a conflict the caller reads a new
//! standing: an older one says nothing about entries that were added since.
//!
//! The functions do not check whether a message has expired. The store does: an expired record does
//! not exist for a write.

use super::{NewWebhook, Refusal, Rules, note};
use crate::{
    applications::{
        event_type::EventType,
        id::{ApplicationId, EndpointId},
        matching::Plan,
        message::{
            MAX_EARLY, MESSAGE_SPARE, MessageKind, PlanEntry, PublishedMessage, START_WITHIN,
        },
        standing::Standing,
    },
    clock::Timestamp,
    id::MessageId,
    model::{
        APPLICATIONS_SCHEMA, Attempt, ErrorKind, Function, LastError, Transition, Webhook, Why,
    },
    planted::{self, Bug},
    retry::RetryPolicy,
    trace::Trace,
};

/// Why a transition does not apply to a message. Each reason tells the caller what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageRefusal {
    /// The message is being deleted. The caller goes on with the deletion.
    #[error("it is being deleted")]
    Deleting,
    /// The message is not in the due index, so it cannot leave it.
    #[error("not in the due index")]
    NotDue,
    /// The message's due time has changed since the read, or it is no longer in the due index.
    #[error("no longer due as read")]
    DueMoved,
    /// The due index has the message at this time or earlier, or its times need no change.
    #[error("already in the due index")]
    Held,
    /// A delivery is not accounted for. The caller sends looks, and the sweep comes again.
    #[error("not every delivery is accounted for")]
    Unaccounted,
    /// Every delivery is accounted for. There is nothing to do.
    #[error("every delivery is accounted for")]
    Accounted,
}

/// The fields of a new message.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The id. Its time is the creation time.
    pub id: MessageId,
    /// The application.
    pub application: ApplicationId,
    /// Whether the caller gave the reference id.
    pub referenced: bool,
    /// See [`PublishedMessage::correlation_id`].
    pub correlation_id: String,
    /// The type of the event.
    pub event_type: EventType,
    /// The trace of the API call.
    pub trace: Option<Trace>,
    /// The earliest time of the first attempts.
    pub deliver_at: Option<Timestamp>,
    /// The endpoints that it goes to, as
    /// [`match_message`](crate::applications::matching::match_message) returned them.
    pub plan: Plan,
}

/// What a delivery is that has no record and no marker.
#[derive(Clone, Debug, PartialEq)]
pub enum Unstarted {
    /// It may start. This is its record, of revision 0. The caller claims, defers, rescues or gives
    /// it up, and writes the result by a put-if-absent.
    MayStart(Box<Webhook>),
    /// It did not start in time. This is its record, of revision 0, for [`Rules::abandon`].
    TooOld(Box<Webhook>),
    /// It is allowed later than in [`MAX_EARLY`], as seen by this clock.
    Early {
        /// Whether to return the look to the queue. Otherwise acknowledge it: the message is due.
        hand_back: bool,
    },
    /// It finished long ago, and its record is gone. Readers answer 404, and a look is
    /// acknowledged.
    Finished,
    /// The message is being deleted. A look is acknowledged, and nothing starts.
    Deleting,
    /// The plan does not have the endpoint. The message goes elsewhere.
    NotPlanned,
}

/// What an attempt of a delivery takes from its endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointTerms {
    /// The endpoint's revision, which the attempt notes.
    pub revision: u64,
    /// The endpoint's retry policy: that of the settings, with the endpoint's overrides.
    pub retry: RetryPolicy,
}

impl Rules {
    /// Creates the record of a published message. A scheduled message enters the due index at that
    /// time, and no look is sent.
    pub fn publish(&self, new: NewMessage, now: Timestamp) -> PublishedMessage {
        let scheduled = new.deliver_at.filter(|at| *at > now);
        let allowed_at = scheduled.unwrap_or(now);
        let entry = |endpoint| PlanEntry { endpoint, extended_at: None };
        PublishedMessage {
            schema: APPLICATIONS_SCHEMA,
            kind: MessageKind::Message,
            revision: 1,
            id: new.id,
            application: new.application,
            referenced: new.referenced,
            correlation_id: new.correlation_id,
            event_type: new.event_type,
            trace: new.trace,
            created_at: now,
            updated_at: now,
            allowed_at,
            due_at: scheduled,
            requeues: 0,
            settled: 0,
            deleting: false,
            plan: new.plan.planned.into_iter().map(entry).collect(),
            off: new.plan.off,
            expires_at: scheduled.is_none().then(|| self.message_lasts(allowed_at)),
        }
    }

    /// The record of the message's delivery to an endpoint, as long as the store has none: pending,
    /// of revision 0. `None`: the plan does not have the endpoint.
    ///
    /// It follows from the stored fields of the message and the plan's entry alone, so every
    /// process computes the same record at any time. A field that is added later needs a default
    /// that keeps this result. A golden file pins it.
    ///
    /// It is the delivery only if [`Rules::unstarted`] says so.
    pub fn delivery(message: &PublishedMessage, endpoint: EndpointId) -> Option<Webhook> {
        let entry = message.plan.get(message.place(endpoint)?)?;
        let allowed_at = message.allowed_from(entry);
        let created_at =
            entry.extended_at.map_or(message.created_at, |at| at.max(message.created_at));
        let new = NewWebhook {
            id: message.id.delivery(endpoint),
            // The reference id finds the message. Its deliveries are not in that index.
            referenced: false,
            correlation_id: message.correlation_id.clone(),
            event_type: Some(message.event_type.as_str().to_owned()),
            trace: message.trace.clone(),
            destination: format!("{}/{endpoint}", message.application),
            path_hash: None,
            retry: None,
            deliver_at: Some(allowed_at),
        };
        let mut webhook = Self::default().create(new, created_at);
        webhook.schema = APPLICATIONS_SCHEMA;
        webhook.application = Some(message.application.clone());
        webhook.revision = 0;
        // Of a message whose times were taken back, it is earlier than the creation.
        webhook.allowed_at = Some(allowed_at);
        // The message is in the due index in its place.
        webhook.due_at = None;
        Some(webhook)
    }

    /// What the delivery to this endpoint is, *if its key is vacant*: no record, no expired record
    /// and no marker. With a stored record, that record alone counts.
    ///
    /// The answer for a finished delivery is never [`Unstarted::MayStart`]: nothing that finished
    /// starts again.
    pub fn unstarted(
        message: &PublishedMessage,
        endpoint: EndpointId,
        now: Timestamp,
    ) -> Unstarted {
        let (Some(index), Some(delivery)) =
            (message.place(endpoint), Self::delivery(message, endpoint))
        else {
            return Unstarted::NotPlanned;
        };
        if message.deleting {
            return Unstarted::Deleting;
        }
        if !message.is_unstarted(index, now) {
            return Unstarted::Finished;
        }
        match delivery.allowed_at {
            Some(at) if at > now.plus(MAX_EARLY) => {
                Unstarted::Early { hand_back: !message.is_due() }
            }
            Some(at) if at.plus(START_WITHIN) <= now => Unstarted::TooOld(Box::new(delivery)),
            _ => Unstarted::MayStart(Box::new(delivery)),
        }
    }

    /// Fails a delivery that has not started within [`START_WITHIN`] of the time at which it was
    /// allowed, so that a long outage ends in dead letters. It enters the due index until it is
    /// archived.
    ///
    /// # Errors
    ///
    /// [`Refusal::Changed`] unless the delivery has revision 0. [`Refusal::NotYet`] before the time
    /// is over.
    pub fn abandon(&self, delivery: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        if delivery.revision != 0 || !delivery.id.is_delivery() {
            return Err(Refusal::Changed);
        }
        let over_at = delivery.allowed_at.unwrap_or(delivery.created_at).plus(START_WITHIN);
        if now < over_at {
            return Err(Refusal::NotYet(over_at));
        }
        let mut next = delivery.clone();
        let days = START_WITHIN.as_secs() / (24 * 3600);
        let message = format!("no attempt started within {days} days");
        let kind = ErrorKind::Undeliverable;
        next.last_error = Some(LastError { kind, status_code: None, message });
        self.fail(&mut next, now);
        let why = Some(Why::Error(kind));
        note(&mut next, now, Function::Deliver, Transition::Fail, None, why);
        Ok(next)
    }

    /// These rules with an endpoint's retry policy, for every transition of a delivery that reads
    /// one: [`Rules::conclude`], [`Rules::claim`], [`Rules::retry_interrupted`].
    #[must_use]
    pub fn for_endpoint(&self, terms: &EndpointTerms) -> Self {
        Self { retry: terms.retry.clone(), limits: self.limits.clone() }
    }

    /// Takes the message out of the due index, because each of its deliveries is accounted for.
    ///
    /// # Errors
    ///
    /// [`MessageRefusal::Unaccounted`] if the standing does not account for every entry of its
    /// message's plan, [`MessageRefusal::NotDue`], [`MessageRefusal::Deleting`].
    pub fn settle(
        &self,
        standing: &Standing,
        now: Timestamp,
    ) -> Result<PublishedMessage, MessageRefusal> {
        let message = &standing.message;
        if message.deleting {
            return Err(MessageRefusal::Deleting);
        }
        if !message.is_due() {
            return Err(MessageRefusal::NotDue);
        }
        let mut is_over = standing.accounts_for_all(now);
        if planted::is(Bug::FanoutLeavesEarly) {
            is_over = true;
        }
        if !is_over {
            return Err(MessageRefusal::Unaccounted);
        }
        let mut next = touched(message, now);
        next.settled = message.plan.len() as u32;
        next.due_at = None;
        next.requeues = 0;
        let from = now.max(message.updated_at).max(message.allowed_at);
        next.expires_at = Some(self.message_lasts(from));
        Ok(next)
    }

    /// Begins to delete the message: it is due now, and nothing starts from then on. The caller
    /// then puts a marker in place of each planned delivery's record, whether or not there is one,
    /// deletes the content, and deletes the message last. A crash leaves a due message that is
    /// deleting, and the next look goes on.
    ///
    /// # Errors
    ///
    /// [`MessageRefusal::Deleting`] if that has begun. The caller goes on with it.
    pub fn start_deleting(
        &self,
        message: &PublishedMessage,
        now: Timestamp,
    ) -> Result<PublishedMessage, MessageRefusal> {
        if message.deleting {
            return Err(MessageRefusal::Deleting);
        }
        let mut next = touched(message, now);
        next.deleting = true;
        next.due_at = Some(message.due_at.map_or(now, |at| at.min(now)));
        next.requeues = 0;
        next.expires_at = None;
        Ok(next)
    }

    /// Enters the due index at `due_at`, or moves forward to it, because the message or one of its
    /// deliveries may have no look in the queue: the queue refused one, or gave up on one.
    ///
    /// A message that is not due is settled as far as the standing accounts for it
    /// ([`Standing::leading_settled`]). Otherwise deliveries that finished long ago, and whose
    /// records are gone, would count as unstarted as soon as the message is due.
    ///
    /// # Errors
    ///
    /// [`MessageRefusal::Held`] if it is due by then. [`MessageRefusal::Accounted`] if nothing is
    /// left to do.
    pub fn adopt_message(
        &self,
        standing: &Standing,
        due_at: Timestamp,
        now: Timestamp,
    ) -> Result<PublishedMessage, MessageRefusal> {
        let message = &standing.message;
        if message.due_at.is_some_and(|at| at <= due_at) {
            return Err(MessageRefusal::Held);
        }
        let is_over = standing.leading_settled(now) as usize == message.plan.len();
        if !message.is_due() && !message.deleting && is_over {
            return Err(MessageRefusal::Accounted);
        }
        Ok(adopted(standing, due_at, now))
    }

    /// Enters the due index after one grace, because the audit found the message outside of it,
    /// with a delivery that is not accounted for.
    ///
    /// # Errors
    ///
    /// [`MessageRefusal::Held`] if it is due. [`MessageRefusal::Accounted`] unless
    /// [`Standing::is_unheld`].
    pub fn audit_message(
        &self,
        standing: &Standing,
        now: Timestamp,
    ) -> Result<PublishedMessage, MessageRefusal> {
        let message = &standing.message;
        if message.is_due() {
            return Err(MessageRefusal::Held);
        }
        if !standing.is_unheld() {
            return Err(MessageRefusal::Accounted);
        }
        let due_at = message.allowed_at.max(now.plus(self.limits.grace));
        Ok(adopted(standing, due_at, now))
    }

    /// Moves the message on in the due index, because the sweep has sent a look for it. `seen` is
    /// the due time that the sweep read. The grace doubles with each requeue, up to the longest.
    /// In a backlog, a look that repeats an earlier one waits the longest grace at once.
    ///
    /// # Errors
    ///
    /// [`MessageRefusal::DueMoved`] unless the message is due at `seen`.
    pub fn requeue_message(
        &self,
        message: &PublishedMessage,
        seen: Timestamp,
        in_backlog: bool,
        now: Timestamp,
    ) -> Result<PublishedMessage, MessageRefusal> {
        if message.due_at != Some(seen) {
            return Err(MessageRefusal::DueMoved);
        }
        let doubled = 2_u32.saturating_pow(message.requeues.min(16));
        let grace = if in_backlog && self.is_message_repeat(message, seen) {
            self.limits.max_grace
        } else {
            self.limits.grace.saturating_mul(doubled).min(self.limits.max_grace)
        };
        let mut next = touched(message, now);
        // A deletion does not wait until the message is allowed.
        let from = if message.deleting { now } else { message.allowed_at.max(now) };
        next.due_at = Some(from.plus(grace));
        next.requeues = message.requeues.saturating_add(1);
        Ok(next)
    }

    /// Whether a requeue repeats a look that was sent a grace ago or earlier.
    pub fn is_message_repeat(&self, message: &PublishedMessage, seen: Timestamp) -> bool {
        seen >= message.allowed_at.plus(self.limits.grace)
    }

    /// Takes back the times of a due message that a clock wrote that was ahead of this one: it is
    /// due now, or when it is allowed. A time of day that the publisher scheduled stays.
    ///
    /// # Errors
    ///
    /// [`MessageRefusal::Held`] if the record needs no change.
    pub fn take_back_message(
        &self,
        message: &PublishedMessage,
        now: Timestamp,
    ) -> Result<PublishedMessage, MessageRefusal> {
        let is_ahead = |at: Timestamp| at > now.plus(super::MAX_AHEAD);
        if !message.is_due() || !is_ahead(message.updated_at) {
            return Err(MessageRefusal::Held);
        }
        let mut next = touched(message, now);
        let is_scheduled = message.allowed_at > message.created_at;
        if !is_scheduled && is_ahead(message.allowed_at) {
            next.allowed_at = now;
        }
        next.due_at = Some(next.allowed_at.max(now));
        Ok(next)
    }

    /// The message with a later expiry, if it must live longer for the write of a delivery. `None`:
    /// it lasts long enough, and a due message lasts without limit.
    ///
    /// A message and its content must outlast the record of each delivery by 7.5 days. So the
    /// caller extends the message first, then the content, then writes `delivery`. `delivery` is
    /// the record to be written.
    pub fn prolong(
        &self,
        message: &PublishedMessage,
        delivery: &Webhook,
        now: Timestamp,
    ) -> Option<PublishedMessage> {
        let expires_at = message.expires_at?;
        let lasts = delivery.expires_at.unwrap_or(delivery.due_at.unwrap_or(now).max(now));
        if expires_at >= lasts.plus(MESSAGE_SPARE / 2) {
            return None;
        }
        let mut next = touched(message, now);
        next.expires_at = Some(self.message_lasts(lasts));
        Some(next)
    }

    /// When a message expires that nothing holds from this time on.
    fn message_lasts(&self, from: Timestamp) -> Timestamp {
        from.plus(self.limits.retention).plus(MESSAGE_SPARE)
    }
}

/// The record after an attempt of a delivery that [`Rules::conclude`] or [`Rules::throttle`]
/// returned: its newest attempt notes the endpoint's revision.
#[must_use]
pub fn with_endpoint_revision(mut next: Webhook, terms: &EndpointTerms) -> Webhook {
    if let Some(Attempt { endpoint_revision, .. }) = next.attempts.last_mut() {
        *endpoint_revision = Some(terms.revision);
    }
    next
}

fn adopted(standing: &Standing, due_at: Timestamp, now: Timestamp) -> PublishedMessage {
    let message = &standing.message;
    let mut next = touched(message, now);
    if !message.is_due() {
        next.settled = standing.leading_settled(now);
        next.requeues = 0;
        next.expires_at = None;
    }
    next.due_at = Some(due_at);
    next
}

fn touched(message: &PublishedMessage, now: Timestamp) -> PublishedMessage {
    let revision = message.revision.saturating_add(1);
    PublishedMessage { revision, updated_at: now, ..message.clone() }
}

#[cfg(test)]
mod tests;
