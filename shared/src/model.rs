//! What is stored of a webhook: the [`Webhook`] record, which every transition rewrites, and its
//! [`Content`], which is written once.
//!
//! They are apart because a store bills a write by the size of the whole item: the record stays
//! small. The serialised names are short for the same reason. Both carry a schema version; see
//! [`SCHEMA`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp, id::WebhookId, retry_override::RetryOverride, status::Status, trace::Trace,
};

/// The version of the stored shapes (record, message, cursor) that this code writes. It reads this
/// one and older ones.
///
/// A record of a newer version is never changed: [`Webhook::from_json`] refuses it, and who was
/// asked to work on it hands the message back, so a roll-back does not kill what a newer version
/// made.
pub const SCHEMA: u16 = 1;

/// Attempts kept in a record; of more, the first and the newest stay.
pub const MAX_ATTEMPTS_KEPT: usize = 50;

/// Transitions kept in a record; of more, the first and the newest stay.
pub const MAX_HISTORY_KEPT: usize = 50;

/// Bytes kept of the body that a destination answered with, when the attempt failed.
pub const MAX_EXCERPT_BYTES: usize = 256;

/// Bytes kept of an error's text.
pub const MAX_ERROR_BYTES: usize = 256;

/// Everything about a webhook but what it carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// Schema version of this record; see [`SCHEMA`].
    #[serde(rename = "v")]
    pub schema: u16,
    /// Counts the writes of this record; a write is conditional on it.
    #[serde(rename = "r")]
    pub revision: u64,
    /// Its identifier.
    #[serde(rename = "id")]
    pub id: WebhookId,
    /// Whether the caller gave the reference id; only then is there an index entry for it.
    #[serde(rename = "ref", default, skip_serializing_if = "is_false")]
    pub referenced: bool,
    /// Follows the webhook from the API call to the destination's header.
    #[serde(rename = "cor")]
    pub correlation_id: String,
    /// The caller's name for the kind of event, sent as `x-webhook-event`.
    #[serde(rename = "ev", default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The trace that its acceptance was part of, if it was part of one.
    #[serde(rename = "tr", default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// Scheme, host and port it goes to; what fairness, statistics and the circuit breaker group
    /// by.
    #[serde(rename = "dst")]
    pub destination: String,
    /// Where it is in its life.
    #[serde(rename = "s")]
    pub status: Status,
    /// When the API accepted it.
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    /// When it was last written.
    #[serde(rename = "u")]
    pub updated_at: Timestamp,
    /// No attempt starts before this time. `None` once finished. Shown as `next_attempt_at`.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    pub allowed_at: Option<Timestamp>,
    /// Its place in the due index: somebody must look at this time. `None` if it is not in the
    /// index.
    #[serde(rename = "due", default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// The worker that makes an attempt now; there while `in_progress`.
    #[serde(rename = "cl", default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Attempts started in all. Only grows; the number of the latest attempt.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    pub attempt_count: u32,
    /// What has been used up since it was accepted, or since the last resend or redrive.
    #[serde(rename = "b", default, skip_serializing_if = "Budget::is_unused")]
    pub budget: Budget,
    /// How the caller wants it retried, where that differs from the settings.
    #[serde(rename = "ro", default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryOverride>,
    /// Why the latest attempt failed, or why it was deferred or given up.
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
    /// When it became a dead letter.
    #[serde(rename = "aa", default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    /// From then on it is gone, though a store may delete it later. `None` while unfinished.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The right to make one attempt and to write what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Random; every outcome must present it (a fencing token).
    #[serde(rename = "i")]
    pub id: ClaimId,
    /// When the attempt started.
    #[serde(rename = "t")]
    pub started_at: Timestamp,
    /// Until then nobody else may claim.
    #[serde(rename = "l")]
    pub lease_until: Timestamp,
}

/// A claim's random name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimId(pub u64);

impl ClaimId {
    /// A number in `0.0..1.0` that follows from the name, so that what is spread by it can be told
    /// from the record.
    pub fn fraction(self) -> f64 {
        // 53 bits are what a double holds.
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a webhook has used up. Resend and redrive reset all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Attempts that ended with an outcome.
    #[serde(rename = "a", skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// Attempts that were interrupted since an outcome was last recorded: their worker died or lost
    /// its lease.
    #[serde(rename = "i", skip_serializing_if = "is_zero")]
    pub interrupted: u32,
    /// Times that `deliver` queued it itself, to wait for a retry.
    #[serde(rename = "q", skip_serializing_if = "is_zero")]
    pub relays: u32,
    /// Times that the sweep queued it since its status last changed.
    #[serde(rename = "s", skip_serializing_if = "is_zero")]
    pub requeues: u32,
    /// Times that it was rescued from the dead-letter queue after `deliver` had worked on it.
    #[serde(rename = "r", skip_serializing_if = "is_zero")]
    pub rescues: u32,
    /// Deferrals in a row.
    #[serde(rename = "d", skip_serializing_if = "is_zero")]
    pub deferrals: u32,
    /// Milliseconds that an open circuit has deferred it in all. Older versions counted the host
    /// limit's deferrals here too.
    #[serde(rename = "dm", skip_serializing_if = "is_zero_u64")]
    pub deferred_ms: u64,
    /// Milliseconds that the host limit has deferred it in all.
    #[serde(rename = "hm", skip_serializing_if = "is_zero_u64")]
    pub host_deferred_ms: u64,
    /// The record's revision when the queue last gave up on a message of it; 0: never. Writes that
    /// only move the record within the due index move this along, so while both are equal,
    /// `deliver` has not worked on it since.
    #[serde(rename = "rr", skip_serializing_if = "is_zero_u64")]
    pub rescued_revision: u64,
    /// Times in a row that the queue gave up on it although `deliver` had not worked on it.
    #[serde(rename = "ur", skip_serializing_if = "is_zero")]
    pub unworked_rescues: u32,
}

impl Budget {
    fn is_unused(&self) -> bool {
        *self == Self::default()
    }
}

/// Why something went wrong, by what a reader would do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The destination answered, but not with a 2xx.
    HttpStatus,
    /// No connection, no name, or the connection broke.
    Network,
    /// No complete answer within the attempt's deadline, or no connection within the connect
    /// timeout.
    Timeout,
    /// The TLS handshake failed: an expired certificate, another name, no common version.
    Tls,
    /// The name resolves only to addresses to which Posthaste must not connect.
    RefusedAddress,
    /// The worker died or lost its lease; whether the destination saw the request is not known.
    Interrupted,
    /// Deferred for longer than `MAX_DEFER_MS` because the destination's circuit was open.
    CircuitOpen,
    /// The queue gave up on it again and again.
    Undeliverable,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::HttpStatus,
        Self::Network,
        Self::Timeout,
        Self::Tls,
        Self::RefusedAddress,
        Self::Interrupted,
        Self::CircuitOpen,
        Self::Undeliverable,
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
        }
    }
}

/// Why the latest attempt failed, or why a webhook was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// What sort of error.
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
    /// 1 for the first; numbers only grow, also across resend and redrive.
    #[serde(rename = "n")]
    pub number: u32,
    /// When it was claimed.
    #[serde(rename = "t")]
    pub started_at: Timestamp,
    /// From the start of the request to the end of the answer, in milliseconds. For an interrupted
    /// attempt, its lease.
    #[serde(rename = "ms")]
    pub duration_ms: u64,
    /// `None`: delivered. Otherwise why not.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorKind>,
    /// The destination's status code, where there was one.
    #[serde(rename = "sc", default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// For a person; at most [`MAX_ERROR_BYTES`].
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The beginning of the answer's body if the attempt failed, or if `RESPONSE_EXCERPTS` is
    /// `all`; at most [`MAX_EXCERPT_BYTES`].
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub response_excerpt: Option<String>,
}

/// Which function wrote a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// `api`, which answers HTTP.
    #[serde(rename = "a")]
    Api,
    /// `deliver`, which makes the attempts.
    #[serde(rename = "d")]
    Deliver,
    /// `sweep`, which queues what falls due and audits.
    #[serde(rename = "s")]
    Sweep,
    /// `dlq`, which archives and rescues.
    #[serde(rename = "q")]
    Dlq,
}

impl Function {
    /// The function's name, as it is deployed; the `worker_id` of its metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Deliver => "deliver",
            Self::Sweep => "sweep",
            Self::Dlq => "dlq",
        }
    }
}

/// What happened to a webhook; the names of design's transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// Accepted by the API.
    #[serde(rename = "new")]
    Create,
    /// A worker took the right to make an attempt.
    #[serde(rename = "clm")]
    Claim,
    /// The destination answered 2xx.
    #[serde(rename = "ok")]
    Deliver,
    /// The attempt failed; another is granted.
    #[serde(rename = "rty")]
    Retry,
    /// Given up.
    #[serde(rename = "fail")]
    Fail,
    /// Put off without an attempt.
    #[serde(rename = "dfr")]
    Defer,
    /// Queued by the sweep because it was due.
    #[serde(rename = "rq")]
    Requeue,
    /// Entered in the due index by the audit, a rescue, or because its first message could not be
    /// sent.
    #[serde(rename = "ad")]
    Adopt,
    /// Became a dead letter.
    #[serde(rename = "ar")]
    Archive,
    /// An operator asked for it to be sent again.
    #[serde(rename = "rs")]
    Resend,
    /// An operator asked for a dead letter to be sent again.
    #[serde(rename = "rd")]
    Redrive,
}

impl Transition {
    /// The name that `explain` uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Claim => "claim",
            Self::Deliver => "deliver",
            Self::Retry => "retry",
            Self::Fail => "fail",
            Self::Defer => "defer",
            Self::Requeue => "requeue",
            Self::Adopt => "adopt",
            Self::Archive => "archive",
            Self::Resend => "resend",
            Self::Redrive => "redrive",
        }
    }
}

/// One entry of a webhook's history, kept within the record so that it costs no extra write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// Who.
    #[serde(rename = "f")]
    pub function: Function,
    /// What.
    #[serde(rename = "k")]
    pub transition: Transition,
    /// The status it led to.
    #[serde(rename = "s")]
    pub to: Status,
    /// The attempt's number, for claim, deliver, retry and fail.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// When the next attempt was allowed, for what has to wait.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub allowed_at: Option<Timestamp>,
    /// Why, where it is not plain from the transition.
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
}

/// Why a transition happened, in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The lease of the attempt before ran out; it was noted as interrupted.
    LeaseOver,
    /// Unfinished and not in the due index when the audit read its minute.
    Audit,
    /// The queue gave up on its message.
    Rescue,
    /// The queue did not take its message.
    Unsent,
    /// The caller asked for a later time.
    Scheduled,
    /// `Retry-After` put the next attempt off.
    RetryAfter,
    /// The worker stood at its limit for this destination.
    RateLimit,
    /// An error: the attempt's, or what it was given up or deferred for.
    #[serde(untagged)]
    Error(ErrorKind),
}

/// What a webhook carries and where it goes. Written once, by create.
#[derive(Clone, Debug)]
pub struct Content {
    /// Where it goes, as the caller wrote it.
    pub url: String,
    /// The caller's own headers.
    pub headers: Vec<(String, String)>,
    /// Any JSON, byte for byte as it stood in the request.
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

/// Why stored bytes are not a record that this code can work on.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// Written by a newer version of Posthaste; never change it.
    #[error("schema version {found} is newer than {SCHEMA}, the newest that this version knows")]
    TooNew {
        /// The record's version.
        found: u16,
    },
    /// Not a record.
    #[error("not a webhook record")]
    Malformed(#[source] serde_json::Error),
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

    /// Reads the stored form, of this schema version or an older one.
    pub fn from_json(json: &str) -> Result<Self, InvalidRecord> {
        match serde_json::from_str::<Self>(json) {
            Ok(record) if record.schema > SCHEMA => {
                Err(InvalidRecord::TooNew { found: record.schema })
            }
            Ok(record) => Ok(record),
            // A newer record may well not parse; its version says more than the error does.
            Err(error) => match serde_json::from_str::<Versioned>(json) {
                Ok(Versioned { v }) if v > SCHEMA => Err(InvalidRecord::TooNew { found: v }),
                _ => Err(InvalidRecord::Malformed(error)),
            },
        }
    }

    /// Whether it is gone for readers at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether an attempt has started since it was accepted, or since the last resend or redrive.
    /// One whose claim was given back unused does not count.
    pub const fn was_attempted(&self) -> bool {
        self.budget.attempts > 0 || self.budget.interrupted > 0 || self.claim.is_some()
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero_u64(value: &u64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(value: &bool) -> bool {
    !value
}
