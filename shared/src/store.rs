//! The store: the contract of its backends, and what they share.
//!
//! The store holds the record of each webhook, its content, and the indexes that follow from the
//! record. It does not know the rules of a webhook's life. [`crate::transition`] computes the next
//! record from the stored one, and [`Webhooks::write`] replaces the stored record only if it is
//! still the one that the rule saw.
//!
//! [`Store`] is eight traits put together. Each has a file here, and a file of the same name in
//! each backend:
//!
//! | trait | holds |
//! |---|---|
//! | [`Webhooks`] | one webhook: create, read, conditional write, delete, tombstone |
//! | [`Messages`] | one published message, and the keys of its deliveries |
//! | [`Applications`] | the documents of applications |
//! | [`Lists`] | many webhooks: lists, the due index, the audit, counts |
//! | [`SweepState`] | the audit's position, the sweep's latest report |
//! | [`IdempotencyKeys`] | what an idempotency key refers to |
//! | [`Totals`] | totals of counters and destinations |
//! | [`Targets`] | circuits, pauses and slot counters of targets |
//!
//! The backends are [`sqlite`], [`redis`] and [`dynamodb`]. Each passes the same conformance suite
//! (`tests/`). `shard.rs` has the hash that places webhooks in shards.
//!
//! # Contract
//!
//! **Indexes** change in the same atomic write as the record. Where an index trails the record
//! (DynamoDB), a list reads the record and returns its state.
//!
//! **Expiry.** An expired record does not exist for any reader or conditional write, from the
//! moment it expires. A backend deletes its bytes later. A content lives at least as long as its
//! record.
//!
//! **Wrong clocks.** Hiding an expired record is reversible, deleting it is not. So a backend that
//! deletes by time deletes only what [`PurgeHorizon`] allows: what one process has found expired
//! twice, at least a minute apart by its monotonic clock. A time to live is no substitute, because
//! a server's clock can be wrong too. DynamoDB alone deletes by AWS's clock, days later.
//! Idempotency keys and tombstones on Redis are exempt. A clock that is ahead may delete them
//! early, and then a caller's retry creates another webhook. `docs/operating.md` tells operators
//! what a wrong clock does.
//!
//! **Unreadable records** (a newer schema version wrote them, or they are malformed) fail a read by
//! id with [`StoreError::Unreadable`]. Lists and the audit leave them out. They stay in the due
//! index, and can be deleted.
//!
//! **Compatibility.** The files in `shared/golden` pin every stored byte. A test fails if a version
//! writes other bytes or cannot read these.
//!
//! **No default methods.** A default hides from a new backend, and from a test double, that it has
//! a decision to make.

mod applications;
#[cfg(feature = "aws")]
pub mod dynamodb;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod golden;
mod idempotency_keys;
mod lists;
mod messages;
mod page;
mod purge;
#[cfg(feature = "redis")]
pub mod redis;
mod shard;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod sweep_state;
mod targets;
mod totals;
mod webhooks;

use std::fmt::Debug;

use async_trait::async_trait;

pub use crate::disk_usage::DiskUsage;
pub use applications::{Applications, WriteApplicationError};
pub use error::StoreError;
pub use idempotency_keys::{
    IDEMPOTENCY_TTL, IdempotencyKeys, ReplaceReservationError, Reservation, ReservationVersion,
    ReserveError, StoredReservation,
};
pub use lists::{Lists, MAX_READ, Unindexed};
pub use messages::{
    CreateMessageError, MessageFilter, MessageIdState, Messages, StoredDelivery, WriteMessageError,
};
pub use page::{
    DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DueEntry, DueId, DuePage,
    DuePlace, Filter, ListPosition, Listed, Page,
};
pub use purge::PurgeHorizon;
pub use sweep_state::{AdvanceAuditError, ClockFault, FIRST_OVERLAP, SweepReport, SweepState};
pub use targets::{
    MAX_TARGETS, ReplaceCountersError, TARGET_TTL, TakenSlots, TargetState, Targets,
    WriteTargetError,
};
pub use totals::{Activity, DestinationActivity, DestinationTotals, MAX_DESTINATIONS, Totals};
pub use webhooks::{
    CreateError, DeleteError, IdState, Tombstone, Webhooks, WriteError, tombstone_expires_at,
};

use crate::clock::Timestamp;

/// A backend: the eight traits, its health, and its housekeeping.
#[async_trait]
pub trait Store:
    Webhooks
    + Messages
    + Applications
    + Lists
    + SweepState
    + IdempotencyKeys
    + Totals
    + Targets
    + Send
    + Sync
    + Debug
{
    /// Succeeds if the store can be read and a webhook could be written.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Settings and conditions of the store because of which it may lose acknowledged writes or
    /// refuse new webhooks: one sentence for an operator each.
    ///
    /// Empty if the store finds none, or has no means to tell.
    async fn warnings(&self) -> Result<Vec<String>, StoreError>;

    /// The store's use of this machine's disk. `None`: the store is not on this machine.
    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError>;

    /// Does the store's housekeeping: deletes expired records, sums up totals. The sweep calls it
    /// in each run.
    ///
    /// Returns soon after `until`. Changes nothing that another call returns. A crash may cut it
    /// short anywhere, and two runs may overlap.
    async fn maintain(&self, now: Timestamp, until: Timestamp) -> Result<(), StoreError>;
}
