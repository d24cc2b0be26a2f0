//! What the sweep keeps between its runs: the audit's position and the latest report.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{error::StoreError, page::DueCursor};
use crate::{clock::Timestamp, model::is_default};

/// Why the audit's position did not move.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceAuditError {
    /// The stored position is not the one that the caller read: another run moved it.
    #[error("another run moved the audit's position first")]
    Moved,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The report of the sweep's latest run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// When the run started. The epoch if no run has finished yet.
    pub ran_at: Timestamp,
    /// How long the most overdue readable entry had been due, in milliseconds.
    pub lag_ms: u64,
    /// Webhooks per status; see [`Lists::counts`](super::Lists::counts).
    pub counts: [u64; 5],
    /// Due webhooks that the run could not read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unreadable: u64,
    /// Whether the run may have missed more unreadable webhooks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unreadable_may_be_more: bool,
    /// Where the run stopped in the due index. `None`: at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<DueCursor>,
    /// When a run began that is in flight and whose clock may be wrong. The run writes this before
    /// it changes anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
    /// A clock that was ahead of this one, if a recent run found one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_fault: Option<ClockFault>,
}

/// A clock was ahead and wrote times that lie in the future.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFault {
    /// When a run with another clock found it.
    pub found_at: Timestamp,
    /// How far the clock was ahead at least, in milliseconds.
    pub ahead_ms: u64,
    /// Where to resume the search of the due index for entries of that clock. `None`: the search is
    /// complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<DueCursor>,
}

/// How far before the position of an older version the audit starts: 1 h.
pub const FIRST_OVERLAP: Duration = Duration::from_secs(3600);

/// What the sweep keeps between its runs.
///
/// # Contract
///
/// - Runs may overlap: of two concurrent moves from one position, one succeeds.
/// - A report that this version cannot read counts as none. The next run replaces it.
#[async_trait]
pub trait SweepState {
    /// The time up to which the audit has read every minute, messages included.
    ///
    /// Versions before applications skipped messages, and kept a position of their own. It counts,
    /// an hour earlier, as long as this version has stored none
    /// ([`FIRST_OVERLAP`]).
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Moves the audit's position from `from` to `to`. The position may move back, because a clock
    /// that was ahead may have moved it too far.
    ///
    /// Moves the position of the versions before applications along. Returns
    /// [`AdvanceAuditError::Moved`] if the position is not `from`.
    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError>;

    /// Stores the report in place of the last one.
    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError>;

    /// The latest report.
    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError>;
}
