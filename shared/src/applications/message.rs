//! The record of a published message: its plan, and the rules about deliveries that have no record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    event_type::EventType,
    id::{ApplicationId, EndpointId},
};
use crate::{
    clock::Timestamp,
    id::MessageId,
    model::is_default,
    planted::{self, Bug},
    trace::Trace,
};

/// How long a finished delivery's record, or a marker, occupies its key after readers no longer see
/// it: 20 days. No look lives longer (4 days in the queue, 14 in the dead-letter queue).
pub const KEY_OCCUPIED: Duration = Duration::from_secs(20 * DAY_S);

/// After this time a delivery that has not started is stored as failed: 14 days.
pub const START_WITHIN: Duration = Duration::from_secs(14 * DAY_S);

/// How much longer than the retention a message lives: 15 days.
pub const MESSAGE_SPARE: Duration = Duration::from_secs(15 * DAY_S);

/// A look at a message that is allowed further ahead than this comes too early: 2 s.
pub const MAX_EARLY: Duration = Duration::from_secs(2);

/// The most endpoints in a plan: those of an application.
pub const MAX_PLAN: usize = super::application::MAX_ENDPOINTS;

const DAY_S: u64 = 24 * 3600;

/// The length of a minute as the audit counts them.
const MINUTE_MS: i64 = 60_000;

/// The record of a published message. [`crate::transition::Rules`] has its transitions. The payload
/// is the message's content, beside the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedMessage {
    /// Schema version: [`APPLICATIONS_SCHEMA`](crate::model::APPLICATIONS_SCHEMA).
    #[serde(rename = "v")]
    pub schema: u16,
    /// Tells it from a webhook's record, which has none.
    #[serde(rename = "k")]
    pub kind: MessageKind,
    /// The number of writes of this record. Every write is conditional on it.
    #[serde(rename = "r")]
    pub revision: u64,
    /// The id. Receivers see it as `webhook-id`.
    pub id: MessageId,
    /// The application that it was published to.
    #[serde(rename = "app")]
    pub application: ApplicationId,
    /// Whether the caller gave the reference id. Only then the index by reference has an entry.
    #[serde(rename = "ref", default, skip_serializing_if = "is_default")]
    pub referenced: bool,
    /// The correlation id, from the API call to the endpoints' headers.
    #[serde(rename = "cor")]
    pub correlation_id: String,
    /// The type of the event.
    #[serde(rename = "ev")]
    pub event_type: EventType,
    /// The trace of the API call, if it had one.
    #[serde(rename = "tr", default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// When the API accepted it.
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    /// When the record was last written.
    #[serde(rename = "u")]
    pub updated_at: Timestamp,
    /// No attempt starts before this time: `deliver_at`, or when it was accepted. It never goes
    /// away.
    #[serde(rename = "at")]
    pub allowed_at: Timestamp,
    /// The message's place in the due index. `None` if it is not in the index.
    #[serde(rename = "due", default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// Times that the sweep queued the message since it entered the due index.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requeues: u32,
    /// The number of leading entries of the plan that are known to be accounted for. It never
    /// decreases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settled: u32,
    /// Whether a caller deletes the message. It stays set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deleting: bool,
    /// The endpoints that it goes to, each once. Entries are never removed, moved or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlanEntry>,
    /// The endpoints that matched and were disabled. Nothing is sent to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off: Vec<EndpointId>,
    /// When the message expires. A store may delete it later. `None` while it is due.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The value of `k` in a message's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageKind {
    /// A published message.
    #[default]
    #[serde(rename = "m")]
    Message,
}

/// An endpoint that the message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// The endpoint.
    #[serde(rename = "e")]
    pub endpoint: EndpointId,
    /// When the entry was added to the published message. `None`: the message was published with
    /// it.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub extended_at: Option<Timestamp>,
}

impl PublishedMessage {
    /// Whether the message is in the due index.
    pub const fn is_due(&self) -> bool {
        self.due_at.is_some()
    }

    /// Whether the message has expired at `now`. Then it does not exist for readers and writers.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The fairness group of its looks: the application, as for its deliveries.
    pub fn fairness_group(&self) -> &str {
        self.application.as_str()
    }

    /// The endpoint's place in the plan. `None`: the message does not go there.
    pub fn place(&self, endpoint: EndpointId) -> Option<usize> {
        self.plan.iter().position(|entry| entry.endpoint == endpoint)
    }

    /// The later of the time at which the message is allowed and the entry's extension. The
    /// delivery is allowed from then on, and all periods of an entry begin then.
    pub fn allowed_from(&self, entry: &PlanEntry) -> Timestamp {
        entry.extended_at.map_or(self.allowed_at, |at| at.max(self.allowed_at))
    }

    /// Whether the entry number `index`, *which has no record and no marker*, has not started. If
    /// not, it finished, and its record is gone. It must not start again.
    ///
    /// A finished delivery leaves its key at the earliest [`KEY_OCCUPIED`] after it was allowed,
    /// and a message settles, or is adopted with those entries settled, before that can matter. So
    /// until then, and while the message has been due all along, a vacant key means that nothing
    /// started.
    ///
    /// False for an index outside the plan.
    pub fn is_unstarted(&self, index: usize, now: Timestamp) -> bool {
        let Some(entry) = self.plan.get(index) else { return false };
        let is_recent = now < self.allowed_from(entry).plus(KEY_OCCUPIED);
        !self.is_settled(index) && (self.is_due() || is_recent)
    }

    /// Whether the entry number `index` is one of the [`settled`](Self::settled) ones.
    pub fn is_settled(&self, index: usize) -> bool {
        if planted::is(Bug::SettledIgnored) {
            return false;
        }
        index < self.settled as usize
    }

    /// When the minute of the audit ends that the message belongs to. An audit position at this
    /// time or later has passed it.
    pub fn audited_at(&self) -> Timestamp {
        let minute = self.id.task.created_at().as_millis().div_euclid(MINUTE_MS);
        Timestamp::from_millis(minute.saturating_add(1).saturating_mul(MINUTE_MS))
    }

    /// Until when a marker that is written `now` occupies the key of this entry: 20 days from then,
    /// and from the time at which the delivery is allowed. So no late look finds a vacant key.
    pub fn marker_until(&self, entry: &PlanEntry, now: Timestamp) -> Timestamp {
        now.max(self.allowed_from(entry)).plus(KEY_OCCUPIED)
    }
}

/// Until when the record of a finished delivery occupies its key. From `expires_at` until then,
/// readers do not see it, no transition applies to it, and a first write of the delivery fails.
pub fn occupied_until(expires_at: Timestamp) -> Timestamp {
    expires_at.plus(KEY_OCCUPIED)
}
