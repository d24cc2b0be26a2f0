//! The state of targets, and their slot counters.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::{
    clock::Timestamp,
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
};

/// The most targets that one call returns.
pub const MAX_TARGETS: usize = 100;

/// How long a target and its counters are kept after their last use: 8 days. Slots are taken at
/// most 7 days ahead.
pub const TARGET_TTL: Duration = Duration::from_secs(8 * 24 * 3600);

/// Why a target was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteTargetError {
    /// The stored target has another revision, or there is one where the caller expected none, or
    /// none where it expected one. This is what is stored.
    #[error("another worker changed the target first")]
    Changed(Option<Box<Target>>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A target with its slot counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetState {
    /// `None`: nothing restricts or counts for it.
    pub target: Option<Target>,
    /// `None`: no slot was taken yet.
    pub counters: Option<Counters>,
}

impl TargetState {
    /// The number of slots of the learned rate that are taken and have not opened yet. `limit` is
    /// the configured rate in attempts per second, which the learned one never exceeds.
    pub fn waiting(&self, limit: Option<f64>, now: Timestamp) -> u64 {
        let (Some(target), Some(counters)) = (&self.target, &self.counters) else { return 0 };
        let pace = target.pace(now).filter(|pace| pace.generation() == counters.generation);
        let Some(pace) = pace else { return 0 };
        let position = pace.position(now, limit);
        // A slot at the position itself opens when the pause ends.
        let opened = if pace.is_paused(now) { position.ceil() - 1.0 } else { position.floor() };
        u64::try_from(counters.last.saturating_sub(opened as i64)).unwrap_or(0)
    }
}

/// The result of [`Targets::take_slots`].
#[derive(Clone, Debug, PartialEq)]
pub enum TakenSlots {
    /// The caller has the slots up to `last`.
    Taken {
        /// The last of them.
        last: i64,
        /// The target as it is stored.
        target: Option<Target>,
    },
    /// The counters belong to another rate, or the counter is behind the floor, or there is none.
    /// Take the slots with [`Targets::replace_counters`] by this state.
    Refused(TargetState),
}

/// Why counters were not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceCountersError {
    /// The stored counters are not the expected ones. This is what is stored.
    #[error("another worker took slots first")]
    Changed(Box<TargetState>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Targets and their slot counters.
///
/// # Contract
///
/// - A target changes only by a write that is conditional on its revision.
/// - Counters change only by the two calls below. Both are atomic, also against each other.
/// - A write of a target leaves its counters as they are, and the other way round.
/// - An unreadable target, of another version, counts as none for readers. It cannot be written
///   until it expires ([`TARGET_TTL`]).
#[async_trait]
pub trait Targets {
    /// The state of a target. A strongly consistent read.
    async fn target(&self, key: &TargetKey) -> Result<TargetState, StoreError>;

    /// Writes `after` in place of the target with the revision `before`. `None`: nothing must be
    /// stored. Removes a target that [`Target::is_idle`].
    async fn write_target(
        &self,
        before: Option<u64>,
        after: &Target,
    ) -> Result<(), WriteTargetError>;

    /// The targets that restrict attempts at `now` ([`Target::restricts_until`]), at most
    /// [`MAX_TARGETS`]: first those that restrict for the longest. May trail the writes by a
    /// moment.
    async fn targets(&self, now: Timestamp) -> Result<Vec<TargetState>, StoreError>;

    /// Adds to the counter if the counters belong to the generation of `take` and the counter is at
    /// its floor or above.
    async fn take_slots(&self, key: &TargetKey, take: &Take) -> Result<TakenSlots, StoreError>;

    /// Writes `after` in place of the counters `before`.
    async fn replace_counters(
        &self,
        key: &TargetKey,
        before: Option<&Counters>,
        after: &Counters,
    ) -> Result<(), ReplaceCountersError>;
}
