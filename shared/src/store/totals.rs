//! Totals of what the functions did, and the circuits of destinations.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::error::StoreError;
use crate::{circuit::Circuit, clock::Timestamp, model::LastError};

/// The most destinations and the most circuits that one call returns.
pub const MAX_DESTINATIONS: usize = 100;

/// What one invocation of a function did; see [`crate::metrics`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// By name.
    pub counters: BTreeMap<String, u64>,
    /// By destination.
    pub destinations: BTreeMap<String, DestinationActivity>,
}

/// What happened at one destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationActivity {
    /// Attempts that the destination answered with a 2xx.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Webhooks that started to wait for a retry, minus those that stopped waiting.
    pub waiting: i64,
    /// The latest failure.
    pub last_error: Option<(Timestamp, LastError)>,
}

/// The totals of a destination over the current and the previous hour.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationTotals {
    /// Scheme, host and port.
    pub destination: String,
    /// The sums. `waiting` covers all time.
    pub activity: DestinationActivity,
}

/// Why a circuit was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteCircuitError {
    /// The stored circuit has another revision, or there is one where the caller expected none, or
    /// none where it expected one.
    #[error("another worker changed the circuit first")]
    Changed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Totals and circuits.
///
/// # Contract
///
/// - Totals are estimates: a crash may lose what an invocation counted.
/// - A circuit changes only by a write that is conditional on its revision.
#[async_trait]
pub trait Totals {
    /// Adds to the totals. Counts twice only if a retry follows an answer that was lost.
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError>;

    /// The totals of all counters.
    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError>;

    /// The destinations with the most failed attempts in the current and the previous hour, at
    /// most [`MAX_DESTINATIONS`].
    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError>;

    /// The circuit of the destination. `None` while its attempts succeed.
    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError>;

    /// Writes `after` in place of the circuit with the revision `before`. `None`: there must be no
    /// circuit. Removes a circuit that [`Circuit::is_idle`].
    ///
    /// Returns [`WriteCircuitError::Changed`] if the stored revision is not `before`.
    async fn write_circuit(
        &self,
        before: Option<u64>,
        after: &Circuit,
    ) -> Result<(), WriteCircuitError>;

    /// The circuits of destinations whose latest attempts failed, at most [`MAX_DESTINATIONS`]:
    /// first those that opened, and of those the latest written.
    ///
    /// Not all of them are open; see [`Circuit::state`]. A circuit that was not written for
    /// [`MAX_AGE`](crate::circuit::MAX_AGE) may be gone.
    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError>;
}
