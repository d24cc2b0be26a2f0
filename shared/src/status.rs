//! The five statuses of a webhook.

use serde::{Deserialize, Serialize};

/// The state of a webhook. [`crate::transition`] has the transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted. No attempt has started since.
    ///
    /// *Entered* by create, resend and redrive. *Left* by a claim or a deferral. *Rescued after a
    /// crash* by its queue message. If the message is lost too, the audit adds the webhook to the
    /// due index when it is `AUDIT_AGE_MS` old.
    Pending,
    /// A worker holds the claim and makes one attempt.
    ///
    /// *Entered* by a claim. *Left* by the outcome, which only the claim's holder can write.
    /// *Rescued after a crash* by its queue message or the due index, once the lease has expired:
    /// the next worker records the attempt as interrupted and claims the webhook.
    InProgress,
    /// Waits for its next attempt at `next_attempt_at`.
    ///
    /// *Entered* when an attempt fails and the policy allows another one, and by a deferral. *Left*
    /// by a claim. *Rescued after a crash* by the due index, which it is always in.
    Retrying,
    /// The destination answered 2xx. Final.
    ///
    /// *Entered* by the outcome of an attempt. *Left* by a resend.
    Delivered,
    /// Given up. Final.
    ///
    /// *Entered* when the policy allows no further attempt. *Left* by a resend or a redrive.
    /// *Rescued after a crash* by the due index, which it is in until it is archived as a dead
    /// letter: the sweep sends it to the dead-letter queue again.
    Failed,
}

impl Status {
    /// All statuses.
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

    /// Whether the status is final: delivered or failed.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed)
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

const _: () = {
    let mut place = 0;
    while place < Status::ALL.len() {
        assert!(Status::ALL[place].index() == place, "a status's index is its place in ALL");
        place += 1;
    }
};

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
