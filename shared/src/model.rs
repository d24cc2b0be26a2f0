//! The stored shapes of a webhook: the [`Webhook`] record, which every transition rewrites, and its
//! [`Content`], which is written once.
//!
//! They are separate because a store bills a write by the size of the whole item, so the record has
//! to stay small. The serialised names are short for the same reason. The files in `shared/golden`
//! pin both, byte for byte.

mod history;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    applications::id::ApplicationId, clock::Timestamp, id::WebhookId,
    retry_override::RetryOverride, status::Status, trace::Trace,
};

pub use history::{Function, Step, Transition, Why};

/// The version of the stored shapes (record, message, cursor) that this code writes for direct
/// webhooks. It reads this version and older ones.
///
/// This code never changes a record of a newer version. [`Webhook::from_json`] refuses it, and the
/// worker returns its message to the queue, so a roll-back destroys nothing.
pub const SCHEMA: u16 = 1;

/// The version of what versions before applications do not know: published messages, their
/// deliveries, and queue messages about both. [`crate::record::Record`] and
/// [`crate::message::Look`] read it.
pub const APPLICATIONS_SCHEMA: u16 = 2;

/// The version of a webhook's record and of queue messages about it.
pub const fn schema_of(id: &WebhookId) -> u16 {
    if id.is_delivery() { APPLICATIONS_SCHEMA } else { SCHEMA }
}

/// The most attempts in a record. Of more, it keeps the first and the newest.
pub const MAX_ATTEMPTS_KEPT: usize = 50;

/// The most transitions in a record. Of more, it keeps the first and the newest.
pub const MAX_HISTORY_KEPT: usize = 50;

/// The most bytes of a response's body in a record.
pub const MAX_EXCERPT_BYTES: usize = 256;

/// The most bytes of an error's text in a record.
pub const MAX_ERROR_BYTES: usize = 256;

/// The record of a webhook: everything but its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// Schema version of this record; see [`schema_of`].
    #[serde(rename = "v")]
    pub schema: u16,
    /// The number of writes of this record. Every write is conditional on it.
    #[serde(rename = "r")]
    pub revision: u64,
    /// The webhook's id.
    #[serde(rename = "id")]
    pub id: WebhookId,
    /// The application of a delivery. `None`: a direct webhook.
    #[serde(rename = "app", default, skip_serializing_if = "Option::is_none")]
    pub application: Option<ApplicationId>,
    /// Whether the caller gave the reference id. Only then the index by reference has an entry.
    #[serde(rename = "ref", default, skip_serializing_if = "is_default")]
    pub referenced: bool,
    /// The correlation id, from the API call to the destination's header.
    #[serde(rename = "cor")]
    pub correlation_id: String,
    /// The caller's name for the kind of event, sent as `x-webhook-event`.
    #[serde(rename = "ev", default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The trace of the API call, if it had one.
    #[serde(rename = "tr", default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// Scheme, host and port. Fairness, statistics and the circuit breaker group by it. Of a
    /// delivery: `{application_id}/{endpoint_id}`.
    #[serde(rename = "dst")]
    pub destination: String,
    /// The hash of the URL's path ([`crate::traffic::target::path_hash`]). Older records lack it.
    #[serde(rename = "ph", default, skip_serializing_if = "Option::is_none")]
    pub path_hash: Option<String>,
    /// The status.
    #[serde(rename = "s")]
    pub status: Status,
    /// When the API accepted it.
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    /// When the record was last written.
    #[serde(rename = "u")]
    pub updated_at: Timestamp,
    /// No attempt starts before this time. `None` once finished. Shown as `next_attempt_at`.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    pub allowed_at: Option<Timestamp>,
    /// The webhook's place in the due index: when a worker must look at it. `None` if it is not in
    /// the index.
    #[serde(rename = "due", default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// The slot for which the webhook waits ([`crate::traffic::slots`]).
    #[serde(rename = "sl", default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// The claim of the worker that makes an attempt now. Set while `in_progress`.
    #[serde(rename = "cl", default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The number of the latest attempt. It never decreases.
    #[serde(rename = "n", default, skip_serializing_if = "is_default")]
    pub attempt_count: u32,
    /// What the webhook has used up since it was accepted, or since the last resend or redrive.
    #[serde(rename = "b", default, skip_serializing_if = "Budget::is_unused")]
    pub budget: Budget,
    /// The caller's retry settings, where they differ from the configured ones.
    #[serde(rename = "ro", default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryOverride>,
    /// Why the latest attempt failed, or why the webhook was deferred or given up.
    #[serde(rename = "err", default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// The attempts that ended, oldest first; at most [`MAX_ATTEMPTS_KEPT`].
    #[serde(rename = "as", default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The transitions, oldest first; at most [`MAX_HISTORY_KEPT`].
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Step>,
    /// When it was delivered.
    #[serde(rename = "da", default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// When it was given up.
    #[serde(rename = "fa", default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    /// When it was archived as a dead letter.
    #[serde(rename = "aa", default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    /// When the webhook expires. A store may delete it later. `None` while unfinished.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A place within the rate of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The rate to which the number belongs.
    #[serde(rename = "g")]
    pub generation: String,
    /// The number. The rate maps it to a time.
    #[serde(rename = "k")]
    pub number: i64,
}

/// The right to make one attempt and to write its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// A random fencing token. The write of an outcome must present it.
    #[serde(rename = "i")]
    pub id: ClaimId,
    /// When the attempt started.
    #[serde(rename = "t")]
    pub started_at: Timestamp,
    /// When the lease expires. Until then no other worker can claim the webhook.
    #[serde(rename = "l")]
    pub lease_until: Timestamp,
}

/// The random id of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimId(pub u64);

impl ClaimId {
    /// A number in `0.0..1.0` that follows from the id. Jitter uses it, so a record determines the
    /// jitter of its waits.
    pub fn fraction(self) -> f64 {
        // 53 bits are what a double holds.
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a webhook has used up. A resend and a redrive reset all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Attempts that ended with an outcome.
    #[serde(rename = "a", skip_serializing_if = "is_default")]
    pub attempts: u32,
    /// Interrupted attempts since the last recorded outcome: the worker died or lost its lease.
    #[serde(rename = "i", skip_serializing_if = "is_default")]
    pub interrupted: u32,
    /// Times that `deliver` queued the webhook to wait for a retry.
    #[serde(rename = "q", skip_serializing_if = "is_default")]
    pub relays: u32,
    /// Times that the sweep queued the webhook since its status last changed.
    #[serde(rename = "s", skip_serializing_if = "is_default")]
    pub requeues: u32,
    /// Rescues from the dead-letter queue after `deliver` had worked on the webhook.
    #[serde(rename = "r", skip_serializing_if = "is_default")]
    pub rescues: u32,
    /// Deferrals in a row.
    #[serde(rename = "d", skip_serializing_if = "is_default")]
    pub deferrals: u32,
    /// Milliseconds in all that an open circuit has deferred the webhook. Older versions also
    /// counted the deferrals by the host limit here.
    #[serde(rename = "dm", skip_serializing_if = "is_default")]
    pub deferred_ms: u64,
    /// Milliseconds in all that the host limit has deferred the webhook.
    #[serde(rename = "hm", skip_serializing_if = "is_default")]
    pub host_deferred_ms: u64,
    /// Milliseconds in all that pauses and learned rates have deferred the webhook.
    #[serde(rename = "pm", skip_serializing_if = "is_default")]
    pub paused_ms: u64,
    /// Milliseconds in all that a configured rate has deferred the webhook.
    #[serde(rename = "rm", skip_serializing_if = "is_default")]
    pub rate_limited_ms: u64,
    /// Attempts that the destination refused with a pause. They count as made, and are not spent.
    #[serde(rename = "th", skip_serializing_if = "is_default")]
    pub throttled: u32,
    /// The record's revision when the queue last moved its message to the dead letters. 0: never.
    /// A write that only moves the record within the due index updates this too. So while both are
    /// equal, `deliver` has not worked on the webhook since.
    #[serde(rename = "rr", skip_serializing_if = "is_default")]
    pub rescued_revision: u64,
    /// Rescues in a row without any work of `deliver` in between.
    #[serde(rename = "ur", skip_serializing_if = "is_default")]
    pub unworked_rescues: u32,
}

impl Budget {
    fn is_unused(&self) -> bool {
        *self == Self::default()
    }
}

/// The kind of an error, by what a reader would do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The destination's answer was not a 2xx.
    HttpStatus,
    /// The name did not resolve, the connection failed, or it broke.
    Network,
    /// No complete answer within the attempt's deadline, or no connection within the connect
    /// timeout.
    Timeout,
    /// The TLS handshake failed: an expired certificate, another name, no common version.
    Tls,
    /// The name resolves only to addresses that Posthaste does not connect to.
    RefusedAddress,
    /// The worker died or lost its lease. The destination may have received the request.
    Interrupted,
    /// Deferred for too long by an open circuit, a pause or a rate of its targets.
    CircuitOpen,
    /// The queue moved its messages to the dead letters again after every rescue, no attempt of a
    /// delivery started in time, or its endpoint's secrets could not be read.
    Undeliverable,
    /// The endpoint of the delivery was deleted.
    EndpointDeleted,
    /// The endpoint of the delivery is disabled.
    EndpointDisabled,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::HttpStatus,
        Self::Network,
        Self::Timeout,
        Self::Tls,
        Self::RefusedAddress,
        Self::Interrupted,
        Self::CircuitOpen,
        Self::Undeliverable,
        Self::EndpointDeleted,
        Self::EndpointDisabled,
    ];

    /// The name that the API and the logs use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpStatus => "http_status",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::RefusedAddress => "refused_address",
            Self::Interrupted => "interrupted",
            Self::CircuitOpen => "circuit_open",
            Self::Undeliverable => "undeliverable",
            Self::EndpointDeleted => "endpoint_deleted",
            Self::EndpointDisabled => "endpoint_disabled",
        }
    }
}

/// Why the latest attempt failed, or why a webhook was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// The destination's status code, where there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status_code: Option<u16>,
    /// For a person; at most [`MAX_ERROR_BYTES`].
    pub message: String,
}

/// One attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first attempt. A resend and a redrive continue the numbers.
    #[serde(rename = "n")]
    pub number: u32,
    /// When the worker claimed the webhook.
    #[serde(rename = "t")]
    pub started_at: Timestamp,
    /// From the start of the request to the end of the answer, in milliseconds. For an interrupted
    /// attempt, its lease.
    #[serde(rename = "ms")]
    pub duration_ms: u64,
    /// Why the attempt failed. `None`: it delivered the webhook.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorKind>,
    /// The destination's status code, where there was one.
    #[serde(rename = "sc", default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The revision of the endpoint that a delivery's attempt used. `None`: a direct webhook, or an
    /// interrupted attempt.
    #[serde(rename = "er", default, skip_serializing_if = "Option::is_none")]
    pub endpoint_revision: Option<u64>,
    /// For a person; at most [`MAX_ERROR_BYTES`].
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The beginning of the response's body, if the attempt failed or `RESPONSE_EXCERPTS` is `all`.
    /// At most [`MAX_EXCERPT_BYTES`].
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub response_excerpt: Option<String>,
}

/// What a webhook sends, and where. Written once, by create.
#[derive(Clone, Debug)]
pub struct Content {
    /// The destination's URL, as the caller wrote it.
    pub url: String,
    /// The caller's own headers.
    pub headers: Vec<(String, String)>,
    /// The payload: any JSON, byte for byte as in the request.
    pub payload: Box<RawValue>,
}

impl Content {
    /// The payload's bytes, without a copy.
    pub fn into_payload(self) -> Bytes {
        Bytes::from(String::from(Box::<str>::from(self.payload)))
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
            && self.headers == other.headers
            && self.payload.get() == other.payload.get()
    }
}

/// Why stored bytes are not a record that this version can read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// A newer version of Posthaste wrote the record. Never change it.
    #[error("schema version {found} is newer than {SCHEMA}, the newest that this version knows")]
    TooNew {
        /// The record's version.
        found: u16,
    },
    /// Not a record.
    #[error("not a webhook record")]
    Malformed(#[source] serde_json::Error),
}

impl InvalidRecord {
    /// The record's schema version is not that of its kind.
    pub(crate) fn wrong_schema() -> Self {
        Self::Malformed(serde::de::Error::custom("the schema version is not that of its kind"))
    }
}

#[derive(Deserialize)]
struct Versioned {
    v: u16,
}

impl Webhook {
    /// The stored form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|_| unreachable!("a record has only string keys"))
    }

    /// Reads the stored form of a direct webhook, of this schema version or an older one.
    pub fn from_json(json: &str) -> Result<Self, InvalidRecord> {
        match serde_json::from_str::<Self>(json) {
            Ok(record) if record.schema > SCHEMA => {
                Err(InvalidRecord::TooNew { found: record.schema })
            }
            Ok(record) if record.id.is_delivery() => Err(InvalidRecord::wrong_schema()),
            Ok(record) => Ok(record),
            // A newer record may not parse. Its version says more than the error does.
            Err(error) => match serde_json::from_str::<Versioned>(json) {
                Ok(Versioned { v }) if v > SCHEMA => Err(InvalidRecord::TooNew { found: v }),
                _ => Err(InvalidRecord::Malformed(error)),
            },
        }
    }

    /// Whether the webhook has expired at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether an attempt has started since the webhook was accepted, resent or redriven. A claim
    /// that was returned unused does not count.
    pub const fn was_attempted(&self) -> bool {
        self.budget.attempts > 0
            || self.budget.throttled > 0
            || self.budget.interrupted > 0
            || self.claim.is_some()
    }

    /// The fairness group of its queue messages: its destination, or the application of a delivery,
    /// however many endpoints that has.
    pub fn fairness_group(&self) -> &str {
        self.application.as_ref().map_or(&self.destination, ApplicationId::as_str)
    }

    /// Whether it is a dead letter: failed and archived.
    pub fn is_dead_letter(&self) -> bool {
        self.status == Status::Failed && self.archived_at.is_some()
    }
}

/// The longest prefix of `text` that has at most `limit` bytes and ends between two characters.
pub fn truncated(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether a field need not be stored, because a reader without it assumes the same.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
