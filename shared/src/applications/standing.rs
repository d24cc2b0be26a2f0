//! What the store has of a message and its deliveries, and the decisions that follow from it: which
//! entries are accounted for, what a look at the message does, what the audit does.

use std::collections::BTreeMap;

use super::{
    id::EndpointId,
    message::{MAX_EARLY, PlanEntry, PublishedMessage},
};
use crate::{
    clock::Timestamp,
    model::Webhook,
    planted::{self, Bug},
    transition::{Rules, next_look},
};

/// A message and the keys of its planned deliveries, as one consistent, sequential read found them.
///
/// # Contract of the read
///
/// - `message` and `found` come from one read in which no key is read before a write that another
///   key's state shows. The read returns every write that was acknowledged before it.
/// - `found` has exactly the keys that something occupies. An expired record and a marker occupy
///   their key until
///   [`occupied_until`](super::message::occupied_until) and
///   [`marker_until`](PublishedMessage::marker_until), and the read returns both.
/// - `audited_until` was read before the rest. It is the position of the audit that knows messages.
///
/// A transition that takes a standing is written on `message`. So it takes effect only if the
/// message is unchanged since, and after a conflict the caller reads again.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The message's record.
    pub message: PublishedMessage,
    /// What occupies the keys of its deliveries.
    pub found: BTreeMap<EndpointId, Found>,
    /// Up to where the audit has read the minutes. `None`: it has read none.
    pub audited_until: Option<Timestamp>,
}

/// What occupies the key of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Its record, which has not expired.
    Record(Box<Webhook>),
    /// Its record, which has expired. It never counts as a delivery without a record.
    Expired,
    /// A marker: the delivery was deleted.
    Marker,
    /// A record that this version cannot read. Nothing is known about it, so it is never accounted
    /// for, and no look is sent. The due index keeps the message, and thereby its content.
    Unreadable,
}

/// What a look at a message does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FanOut {
    /// The message is being deleted. Go on with the deletion, from the markers on.
    Delete,
    /// The message is allowed later than in [`MAX_EARLY`]. Send nothing.
    Early {
        /// When it is allowed.
        until: Timestamp,
        /// Whether to return the look to the queue, because nothing else holds the message: the
        /// clocks of two processes differ. Otherwise acknowledge it, because the message is due.
        hand_back: bool,
    },
    /// Every delivery is accounted for, and the message is due. Write
    /// [`Rules::settle`](crate::transition::Rules::settle).
    Settle,
    /// Send a look at each of these deliveries; there may be none. Then acknowledge without a
    /// write: a due message has been moved on by the sweep, and comes again. If the queue refuses a
    /// look, enter the message in the due index, due now
    /// ([`Rules::adopt_message`](crate::transition::Rules::adopt_message)).
    Send(Vec<EndpointId>),
}

/// The delivery as readers see it, if what occupies its key is `found`. `None`: there is none, or
/// no longer, or this version cannot read it.
///
/// A stored record alone counts, also if the plan has lost the endpoint.
pub fn visible_delivery(
    message: &PublishedMessage,
    endpoint: EndpointId,
    found: Option<&Found>,
    now: Timestamp,
) -> Option<Webhook> {
    match found {
        Some(Found::Record(webhook)) => {
            Some(Webhook::clone(webhook)).filter(|webhook| !webhook.is_expired(now))
        }
        Some(Found::Expired | Found::Marker | Found::Unreadable) => None,
        None => {
            let index = message.place(endpoint)?;
            let is_visible = !message.deleting && message.is_unstarted(index, now);
            Rules::delivery(message, endpoint).filter(|_| is_visible)
        }
    }
}

impl Standing {
    /// The standing of a message that was just published by this process. For
    /// [`Rules::adopt_message`](crate::transition::Rules::adopt_message), if the queue refuses its
    /// looks.
    pub fn of_new(message: PublishedMessage) -> Self {
        Self { message, found: BTreeMap::new(), audited_until: None }
    }

    /// Whether the entry number `index` of the plan is accounted for: finished, deleted, or in the
    /// due index.
    ///
    /// This is stable. Retries, deferrals and failures enter the due index, and a delivery leaves
    /// it only finished. A delivery without a record is accounted for if it finished long ago
    /// ([`PublishedMessage::is_unstarted`]).
    pub fn accounts_for(&self, index: usize, now: Timestamp) -> bool {
        match self.found_at(index) {
            Some(Found::Record(_)) if planted::is(Bug::SettleIgnoresInFlight) => true,
            Some(Found::Record(webhook)) => !is_at_large(webhook),
            Some(Found::Expired | Found::Marker) => true,
            Some(Found::Unreadable) => false,
            None => !self.message.is_unstarted(index, now),
        }
    }

    /// The deliveries that readers see, in the order of the plan: those with a record that has not
    /// expired, and those without a record that have not started.
    pub fn visible_deliveries(&self, now: Timestamp) -> Vec<Webhook> {
        let visible = |entry: &PlanEntry| {
            visible_delivery(&self.message, entry.endpoint, self.found.get(&entry.endpoint), now)
        };
        self.message.plan.iter().filter_map(visible).collect()
    }

    /// Whether every entry of the plan is accounted for.
    pub fn accounts_for_all(&self, now: Timestamp) -> bool {
        (0..self.message.plan.len()).all(|index| self.accounts_for(index, now))
    }

    /// What a look at the message does.
    pub fn fan_out(&self, now: Timestamp) -> FanOut {
        let message = &self.message;
        if message.deleting {
            return FanOut::Delete;
        }
        if message.allowed_at > now.plus(MAX_EARLY) {
            return FanOut::Early { until: message.allowed_at, hand_back: !message.is_due() };
        }
        if message.is_due() && self.accounts_for_all(now) {
            return FanOut::Settle;
        }
        let looks = message.plan.iter().enumerate();
        let looks = looks.filter(|(index, _)| self.needs_look(*index, now));
        FanOut::Send(looks.map(|(_, entry)| entry.endpoint).collect())
    }

    /// Whether a look at the entry's delivery can do something that nothing else will: it has no
    /// record and may start, or it is unfinished, outside the due index, and its attempt's lease is
    /// over.
    fn needs_look(&self, index: usize, now: Timestamp) -> bool {
        match self.found_at(index) {
            Some(Found::Record(webhook)) => is_at_large(webhook) && next_look(webhook) <= now,
            Some(Found::Expired | Found::Marker | Found::Unreadable) => false,
            None => self.message.is_unstarted(index, now),
        }
    }

    /// Whether the audit enters the message in the due index: it is not there, and an entry is not
    /// accounted for or the message is being deleted.
    ///
    /// The audit goes by the index alone: an entry without a record counts as unstarted however old
    /// it is, unless it is [settled](PublishedMessage::settled). Unreadable records are left out.
    pub fn is_unheld(&self) -> bool {
        let is_unheld = |index| match self.found_at(index) {
            Some(Found::Record(webhook)) => is_at_large(webhook),
            Some(Found::Expired | Found::Marker | Found::Unreadable) => false,
            None if planted::is(Bug::AuditIgnoresUnstarted) => false,
            None => !self.message.is_settled(index),
        };
        !self.message.is_due()
            && (self.message.deleting || (0..self.message.plan.len()).any(is_unheld))
    }

    /// The number of leading entries that are certainly accounted for: the new value of
    /// [`PublishedMessage::settled`] when a message that is not due enters the due index, and
    /// before its plan gets longer.
    ///
    /// An entry without a record counts only if the audit has passed the message's minute.
    /// Otherwise it may be one that never started, whose look and audit are late.
    pub fn leading_settled(&self, now: Timestamp) -> u32 {
        let is_audited = self.audited_until.is_some_and(|at| at >= self.message.audited_at());
        let counts = |index: &usize| {
            let is_known = is_audited || self.found_at(*index).is_some();
            self.message.is_settled(*index) || (is_known && self.accounts_for(*index, now))
        };
        (0..self.message.plan.len()).take_while(counts).count() as u32
    }

    fn found_at(&self, index: usize) -> Option<&Found> {
        self.found.get(&self.message.plan.get(index)?.endpoint)
    }
}

/// Whether nothing but a queue message or a worker holds the webhook.
fn is_at_large(webhook: &Webhook) -> bool {
    !webhook.status.is_finished() && webhook.due_at.is_none()
}
