//! Totals of what the functions did.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::error::StoreError;
use crate::{clock::Timestamp, model::LastError};

/// The most destinations that one call returns.
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

/// Totals.
///
/// # Contract
///
/// - Totals are estimates: a crash may lose what an invocation counted.
#[async_trait]
pub trait Totals {
    /// Adds to the totals. Counts twice only if a retry follows an answer that was lost.
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError>;

    /// The totals of all counters.
    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError>;

    /// The destinations with the most failed attempts in the current and the previous hour, at
    /// most [`MAX_DESTINATIONS`].
    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError>;
}
