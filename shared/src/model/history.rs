//! The history of a webhook: the transitions of its record, each with its reason.

use serde::{Deserialize, Serialize};

use super::{ErrorKind, is_default};
use crate::{clock::Timestamp, status::Status};

/// The function that wrote a transition.
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

/// A change of a webhook's record. [`crate::transition`] has the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// Accepted by the API.
    #[serde(rename = "new")]
    Create,
    /// A worker claimed the webhook for an attempt.
    #[serde(rename = "clm")]
    Claim,
    /// The destination answered 2xx.
    #[serde(rename = "ok")]
    Deliver,
    /// The attempt failed, and the policy allows another one.
    #[serde(rename = "rty")]
    Retry,
    /// Given up.
    #[serde(rename = "fail")]
    Fail,
    /// Deferred without an attempt.
    #[serde(rename = "dfr")]
    Defer,
    /// Queued by the sweep because it was due.
    #[serde(rename = "rq")]
    Requeue,
    /// Added to the due index by the audit, by a rescue, or because its first message could not be
    /// sent.
    #[serde(rename = "ad")]
    Adopt,
    /// Became a dead letter.
    #[serde(rename = "ar")]
    Archive,
    /// An operator resent it.
    #[serde(rename = "rs")]
    Resend,
    /// An operator redrove it from the dead letters.
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

/// One entry of a webhook's history. It is part of the record, so it costs no extra write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// The function.
    #[serde(rename = "f")]
    pub function: Function,
    /// The transition.
    #[serde(rename = "k")]
    pub transition: Transition,
    /// The status afterwards.
    #[serde(rename = "s")]
    pub to: Status,
    /// The attempt's number, for claim, deliver, retry and fail.
    #[serde(rename = "n", default, skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// When the next attempt is allowed, if it has to wait.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub allowed_at: Option<Timestamp>,
    /// The reason, where the transition does not imply it.
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
}

/// Why a transition happened, in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The lease of the previous attempt expired. That attempt was recorded as interrupted.
    LeaseOver,
    /// Unfinished and not in the due index when the audit read its minute.
    Audit,
    /// The queue moved its message to the dead letters.
    Rescue,
    /// The queue did not accept its message.
    Unsent,
    /// The caller chose a later time.
    Scheduled,
    /// `Retry-After`, or the pause or learned rate of its URL, postponed the next attempt.
    RetryAfter,
    /// The destination's concurrency limit or its configured rate was reached.
    RateLimit,
    /// An error: the attempt's, or the one for which the webhook was given up or deferred.
    #[serde(untagged)]
    Error(ErrorKind),
}
