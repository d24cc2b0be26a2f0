//! The contract of a store: what it guarantees, whatever it is built on.
//!
//! The store holds the record of each webhook, its content, and the indexes that follow from the
//! record. It knows nothing of the rules: [`crate::transition`] makes the next record from the one
//! before, and [`Store::write`] puts it in place only if the stored one is still the one before.
//! Every backend passes the same conformance suite (`tests/`).
//!
//! **Indexes.** They follow from the record, and change in the same atomic write as it:
//! - by time: every webhook, by its task id;
//! - by reference: webhooks whose caller gave a reference id ([`Webhook::referenced`]);
//! - *due*: webhooks with [`Webhook::due_at`];
//! - *dead letters*: webhooks for which [`Webhook::is_dead_letter`] holds, by `archived_at`.
//!
//! A backend whose index trails the record (eventual consistency) answers with the record's own
//! state, never the index's.
//!
//! **Expiry.** What has expired is gone for every reader and for every conditional write at once,
//! though its bytes may go later. A content outlives its record.
//!
//! **A wrong clock.** To hide what has expired is reversible, to delete it is not. So a backend
//! that deletes by time deletes what [`PurgeHorizon`] allows, and nothing else: what two looks of
//! one process have both seen expired, at least a minute apart by its monotonic clock. No time to
//! live of a key stands in for that, since a server's clock can be wrong too; only DynamoDB deletes
//! by AWS's own clock, and needs days for it. Idempotency keys and retired ids on Redis are exempt:
//! a clock that is ahead may let them go early, and then a caller's retry is another webhook.
//! `docs/operating.md` tells operators what a wrong clock does.
//!
//! **Names.** A webhook is named by its whole id: the same task id with another reference id is no
//! webhook.
//!
//! **Unreadable records** (of a newer schema version, or malformed) are an error to who asks for
//! them by id, are left out of lists and of the audit, stay in the due index, and can be deleted.
//!
//! **Bounds.** No call reads more than [`MAX_READ`] entries (of the due index: of each of its
//! parts). None scans everything.

#[cfg(feature = "aws")]
pub mod dynamodb;
#[cfg(any(test, feature = "testing"))]
pub mod golden;
pub mod page;
pub mod purge;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use page::{
    DeadLetterPosition, DeadLetters, DueCursor, DueEntry, DuePage, DuePlace, Filter, Listed, Page,
};
pub use purge::PurgeHorizon;

use crate::{
    circuit::Circuit,
    clock::Timestamp,
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, InvalidRecord, LastError, Webhook},
    status::Status,
};

/// The most entries that one call reads.
pub const MAX_READ: usize = 1000;

/// How long an idempotency key is remembered: 24 h.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long after the time in an id the store at least remembers that the id is retired: longer
/// than any key stands for it.
const RETIRED_FOR: Duration = IDEMPOTENCY_TTL.saturating_add(Duration::from_secs(3600));

/// Until when the store has to remember that this id is retired.
pub fn tombstone_expires_at(task: TaskId) -> Timestamp {
    task.created_at().plus(RETIRED_FOR)
}

/// The most destinations and the most circuits that are reported.
pub const MAX_DESTINATIONS: usize = 100;

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is overloaded, or its disk is full. Whether a write took effect is not
    /// known. Try again later.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It has no room for anything new. Nothing was written. What has been accepted goes on to its
    /// end, and can be deleted.
    #[error("the store is full: {0}")]
    Full(&'static str),
    /// What is stored under this key is not what this version writes; trying again does not help,
    /// other webhooks are not touched.
    #[error("webhook {id} cannot be read")]
    Unreadable {
        /// Which webhook.
        id: String,
        /// Of a newer version, or malformed.
        #[source]
        source: InvalidRecord,
    },
}

/// Why a conditional write did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stored record is another one than the write was made from; here it is.
    #[error("somebody else wrote first")]
    Conflict(Box<Webhook>),
    /// There is no such webhook (any more).
    #[error("no such webhook")]
    Missing,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a webhook was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one with this task id; here is its record.
    #[error("the id is taken")]
    Conflict(Box<Webhook>),
    /// Nothing is created under this id any more.
    #[error("the id is retired")]
    Tombstone(Tombstone),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nothing is created under an id any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstone {
    /// Its webhook was deleted.
    Deleted,
    /// There never was one, and [`Store::tombstone_id`] has seen to it that there will be none.
    Unused,
}

impl Tombstone {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Unused => "barred",
        }
    }

    /// The inverse. What is not known counts as deleted: then nothing is made.
    pub fn from_stored(text: &str) -> Self {
        if text == Self::Unused.as_str() { Self::Unused } else { Self::Deleted }
    }
}

/// What stands under an id that [`Store::tombstone_id`] was asked to bar.
#[derive(Clone, Debug, PartialEq)]
pub enum IdState {
    /// A webhook, which stays.
    Webhook(Box<Webhook>),
    /// Nothing, from now on.
    Tombstone(Tombstone),
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The id that the key's first request gave to its webhook; for a batch, what its items' ids
    /// derive from.
    pub task: TaskId,
    /// Of a batch that was given a new id: the ids of the items that an earlier id had settled
    /// (created, whether or not deleted since). By item; without those at the end that are not
    /// settled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settled: Vec<Option<TaskId>>,
    /// SHA-256 of the request, in hexadecimal; another one under the same key is the caller's
    /// mistake.
    pub fingerprint: String,
    /// The answer's body, once the request is done.
    pub answer: Option<String>,
    /// From then on the key is free again.
    pub expires_at: Timestamp,
}

/// What the sweep says of its latest run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// When it ran; the epoch if none has come to its end yet.
    pub ran_at: Timestamp,
    /// How long the entry that it found most overdue had been due, in milliseconds. Of what it
    /// could read.
    pub lag_ms: u64,
    /// Webhooks per status, as far as the store knows; see [`Store::counts`].
    pub counts: [u64; 5],
    /// Due webhooks that it could not read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: u64,
    /// Whether there may be more of those than it came to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unreadable_may_be_more: bool,
    /// How far it came in the due index, if that was not the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<DueCursor>,
    /// Of a run that is under way and whose clock may be wrong: when it began. Written before the
    /// run changes anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
    /// A clock that was ahead of this one, if that was found lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_fault: Option<ClockFault>,
}

/// A clock was ahead: times that it wrote lie in the future.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFault {
    /// When that was found, by a clock that does not agree.
    pub found_at: Timestamp,
    /// By how much it was ahead at least, in milliseconds.
    pub ahead_ms: u64,
    /// From where on the due index is still to be looked through for what that clock wrote; `None`:
    /// all of it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<DueCursor>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a function did in one invocation, to be added to the totals: see [`crate::metrics`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// By name.
    pub counters: BTreeMap<String, u64>,
    /// By destination.
    pub destinations: BTreeMap<String, DestinationActivity>,
}

/// What was seen of one destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationActivity {
    /// Attempts answered with a 2xx.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Webhooks that began to wait for a retry, less those that ceased to.
    pub waiting: i64,
    /// The latest failure.
    pub last_error: Option<(Timestamp, LastError)>,
}

/// The totals of a destination over the current and the previous hour.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationTotals {
    /// Scheme, host and port.
    pub destination: String,
    /// The sums; `waiting` over all time.
    pub activity: DestinationActivity,
}

/// What a store takes of this machine's disk, and what is left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// What this process may still write to the file system.
    pub free_bytes: u64,
    /// The database.
    pub database_bytes: u64,
    /// The write-ahead log, whose content moves to the database from time to time.
    pub log_bytes: u64,
}

/// All webhooks, and what else must outlive a process.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Answers if the store can be read, and a webhook could be stored.
    async fn ping(&self) -> Result<(), StoreError>;

    /// What is wrong with the store's own settings, so that it may lose what it has acknowledged;
    /// for people, a sentence each. Empty if all is well, or nothing can be told.
    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// What it takes of this machine's disk. `None`: it is elsewhere.
    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        Ok(None)
    }

    // ----- one webhook

    /// The webhook and its content exist from now on, both or neither, durable against power loss.
    /// [`CreateError::Conflict`] if there is one with this task id, which is left as it is;
    /// [`CreateError::Tombstone`] if there was one or the id is barred.
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError>;

    /// No webhook is created under this id any more, also by a create that is under way, at least
    /// until [`tombstone_expires_at`]; durable as that is. Answers what stands there: a webhook, which is
    /// left as it is, or why there is none. Asked again it answers the same, until the webhook is
    /// deleted. One that has expired counts as deleted.
    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError>;

    /// The record, with every write that was acknowledged before the call.
    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError>;

    /// The record and the content.
    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError>;

    /// Puts `after` in place of `before`, with all index entries, as a whole or not at all, and
    /// only if the stored record has `before`'s revision and is not expired. Never makes a record.
    /// `after` must have a greater revision.
    ///
    /// [`WriteError::Conflict`] with the stored record otherwise. A conflict with a record equal to
    /// `after` is reported as success: an earlier try of the same write had taken effect.
    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError>;

    /// The same, and the content, which cannot be gone before the write.
    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError>;

    /// Nothing of the webhook is left: record, content, every index entry. Whether there was one.
    /// No write that started before can bring it back, and no create under its id, whenever it
    /// starts: until [`tombstone_expires_at`] the id itself is remembered as deleted.
    async fn delete(&self, id: &WebhookId) -> Result<bool, StoreError>;

    /// The same, only if the stored record has the revision of `seen`: for what was chosen by
    /// looking at it.
    async fn delete_unchanged(&self, seen: &Webhook) -> Result<bool, StoreError>;

    // ----- many webhooks

    /// Webhooks that match the filter, newest first, after the position `after`. Reads at most
    /// [`MAX_READ`] entries, so the page may be short, or empty, and still have a `next`.
    async fn list(
        &self,
        filter: &Filter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError>;

    /// Dead letters, latest archived first; of one reference id if given.
    async fn dead_letters(
        &self,
        reference: Option<&ReferenceId>,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError>;

    /// Entries of the due index up to and including `until`, at most `limit` (and [`MAX_READ`])
    /// from each of the index's parts, oldest first within each.
    ///
    /// `after` is the `next` of an earlier page, or [`DueCursor::before`] a time: the page begins
    /// after it. So a reader that follows `next` meets every entry that was there at its first call
    /// and has not moved, exactly once, and comes to an end: what it cannot handle stays in the
    /// index and hides nothing. What enters behind the cursor meanwhile is met by the next reader
    /// that starts anew.
    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError>;

    /// Webhooks created in `[from, until)` that are unfinished and not in the due index, from the
    /// position `after` on, and where to go on. A sequential read; every webhook in the range was
    /// read once `next` is `None`.
    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Webhook, TaskId>, StoreError>;

    /// How many webhooks have each status, in the order of [`Status::ALL`]; an estimate, cheap to
    /// ask for. It may leave out webhooks that are older than the newest [`MAX_READ`].
    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError>;

    // ----- the sweep

    /// Up to when all minutes are audited.
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Moves that, only if it is still `from`. Whether it did. It may move back: a wrong clock may
    /// have moved it too far.
    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Keeps what the sweep says of its latest run.
    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError>;

    /// What the sweep said last.
    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError>;

    /// The store's own housekeeping; the sweep asks for it in each run. Ends soon after `until`.
    /// Changes nothing that can be asked for, and may be cut short anywhere or run twice at once.
    async fn maintain(&self, _now: Timestamp, _until: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    // ----- idempotency keys

    /// Remembers what the key stands for, durable against power loss, unless it stands for
    /// something already: then answers that. Of concurrent calls, one gets `None`.
    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<Option<Reservation>, StoreError>;

    /// Puts `after` in place of `before`, only if that is what the key stands for. Whether it did.
    async fn replace_reservation(
        &self,
        key: &str,
        before: &Reservation,
        after: &Reservation,
    ) -> Result<bool, StoreError>;

    // ----- totals and circuits

    /// Adds to the totals. May be lost in a crash; never counted twice but when the answer was
    /// lost.
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError>;

    /// The totals of all counters.
    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError>;

    /// The destinations with most failed attempts in the current and the previous hour, at most
    /// [`MAX_DESTINATIONS`].
    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError>;

    /// The destination's circuit; `None` while all is well.
    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError>;

    /// Puts `after` in place only if the stored circuit has the revision `before` (`None`: there is
    /// none). Whether it did. A circuit that [`Circuit::is_idle`] is removed.
    async fn write_circuit(&self, before: Option<u64>, after: &Circuit)
    -> Result<bool, StoreError>;

    /// The circuits that are stored, i.e. of destinations whose latest attempts failed: those that
    /// opened first, and of those the latest written; at most [`MAX_DESTINATIONS`]. Not all of them
    /// are open: see [`Circuit::state`]. One that nobody has written for
    /// [`MAX_AGE`](crate::circuit::MAX_AGE) may be gone.
    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError>;
}
