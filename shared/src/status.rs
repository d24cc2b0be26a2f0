//! The five statuses of a webhook.

use serde::{Deserialize, Serialize};

/// Where a webhook is in its life. The transitions between them are in [`crate::transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted, and no attempt has started since.
    ///
    /// *Entered* by create, resend and redrive. *Left* by a claim, or by a deferral. *After a
    /// crash* its queue message leads to it; if the message is lost too, the audit enters it in the
    /// due index once it is `AUDIT_AGE_MS` old.
    Pending,
    /// A worker holds the claim and makes one attempt.
    ///
    /// *Entered* by a claim. *Left* by the outcome, which only the holder of the claim can write.
    /// *After a crash* the lease runs out; the next look, led by the message or the due index,
    /// notes the attempt as interrupted and claims anew.
    InProgress,
    /// Waits for its next attempt at `next_attempt_at`.
    ///
    /// *Entered* when an attempt failed and the policy grants another, and by a deferral. *Left* by
    /// a claim. *After a crash* it stands in the due index already.
    Retrying,
    /// The destination answered 2xx. Final, unless an operator resends it.
    Delivered,
    /// Given up. Final, unless an operator resends or redrives it.
    ///
    /// *Entered* when the policy grants no further attempt. It stands in the due index until it is
    /// archived as a dead letter, so *after a crash* the sweep sends it to the dead-letter queue
    /// again.
    Failed,
}

impl Status {
    /// All five, in the order of a life.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::InProgress, Self::Retrying, Self::Delivered, Self::Failed];

    /// The name that the API, the store and the metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// The number that the embedded store and Redis keep for the status. Stored, so a number never
    /// changes and is never given to another status. The table in `store/redis/prelude.lua` and the
    /// index `webhooks_by_status` of `sqlite/schema_1.sql` repeat it.
    pub const fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::InProgress => 1,
            Self::Retrying => 2,
            Self::Delivered => 3,
            Self::Failed => 4,
        }
    }

    /// The status with this [`Status::code`].
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// The status's place in [`Status::ALL`], for arrays in memory.
    pub const fn index(self) -> usize {
        match self {
            Self::Pending => 0,
            Self::InProgress => 1,
            Self::Retrying => 2,
            Self::Delivered => 3,
            Self::Failed => 4,
        }
    }

    /// Whether nothing more happens by itself: delivered or failed.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed)
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
