//! Bugs that the simulation plants to see that it catches them.
//!
//! A hook is one line in the code that it breaks: `if planted::is(Bug::X)`. Without the cargo
//! feature `planted`, which only the tests crate's simulation switches on, that is `if false`. With
//! it, no bug is planted until a thread plants one for itself.

/// What a planted bug does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An outcome is written whoever holds the claim.
    OutcomeWithoutClaim,
    /// The sweep moves an entry of the due index before it sends its message.
    RequeueBeforeSend,
    /// Archiving does not ask whether the webhook is still failed.
    ArchiveWithoutCondition,
    /// The sweep passes over what is in progress.
    SweepSkipsInProgress,
    /// A claim is granted while another one's lease is live.
    ClaimIgnoresLease,
    /// What could not be finished is acknowledged all the same.
    AcknowledgeUnfinished,
    /// The audit's position moves before the entries are made.
    AuditMovesFirst,
    /// The audit's position moves by two minutes for one that was read.
    AuditSkipsMinute,
    /// A webhook that is sent again keeps its expiry.
    ResendKeepsExpiry,
    /// No claim before the time at which somebody must look.
    DueAsAllowed,
    /// A delete is answered 204 also if the store did not do it.
    DeleteUnfenced,
    /// What fails does not enter the due index.
    FailedNotHeld,
    /// There is no limit to rescues.
    RescueUnbounded,
    /// There is no limit to interrupted attempts.
    InterruptionsUnbounded,
    /// There is no limit to relays.
    RelaysUnbounded,
    /// There is no limit to deferrals.
    DeferralsUnbounded,
    /// A key's second request is given an id of its own.
    KeyMintsNewId,
    /// A webhook that is sent again keeps what it has used up.
    BudgetKept,
    /// A deferral counts as an attempt.
    DeferralSpendsAttempt,
    /// A requeued webhook is due again at once.
    RequeueWithoutGrace,
    /// A message is handed back although all is done.
    HandBackDone,
    /// A claim has no lease.
    ClaimWithoutLease,
    /// `Retry-After` is not honoured.
    RetryAfterIgnored,
    /// Attempts are numbered from 1 again after a resend.
    NumbersStartAgain,
    /// A redirect counts as delivered.
    RedirectIsDelivered,
    /// What the queue does not take enters no index.
    UnsentNotHeld,
    /// A key's webhook that was deleted counts as never made, and is made anew.
    DeletedIsNew,
    /// A batch that is given a new id forgets what it made under the old one.
    SettledForgotten,
    /// A requeue takes no heed of the messages that wait already.
    BacklogFeedsItself,
    /// Whoever finds a circuit half-open makes an attempt, without the probe's lease.
    ProbeWithoutLease,
    /// A circuit opens one failure too late.
    CircuitOpensLate,
    /// A worker does not learn of the circuits that others open.
    CircuitsUnread,
    /// What was counted is counted again with the next flush.
    CountedAgain,
    /// A message that cannot be read is acknowledged and kept nowhere.
    StrayDropped,
    /// A dead letter of a newer version is kept as one that cannot be read.
    NewerArchived,
    /// The message of a webhook that cannot be read is acknowledged.
    UnreadableAcknowledged,
    /// Whether a webhook waited already is told by the record that was first seen, not by the one
    /// that was written on.
    DeferralCountedTwice,
    /// A rescue is spent although nothing has worked on the webhook since the last one.
    RescueWithoutChange,
    /// What the queue gives up on untouched is due again at once, each time.
    UnworkedWithoutWait,
    /// A webhook may fail for a budget of ours before any attempt has started.
    FailedUntried,
    /// Deferrals by the host limit use up the budget of the circuit's.
    DeferralsShareBudget,
    /// After an interrupted attempt the next one starts at once, each time.
    InterruptionWithoutWait,
    /// A recorded outcome does not end a row of interruptions.
    InterruptionsKept,
    /// A claim that took the attempt's time leaves the destination the rest of it.
    SlowClaimBlamed,
    /// A retry may follow at once.
    RetryFloorIgnored,
    /// The audit's position stays where a clock that was ahead has put it.
    AuditNeverTakenBack,
    /// What one look sees expired is deleted.
    PurgeByOneSighting,
    /// The due index is read from its beginning each time.
    DueWithoutPosition,
    /// What a clock that was ahead wrote into the due index stays there.
    DueNeverTakenBack,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 49] = [
        Self::OutcomeWithoutClaim,
        Self::RequeueBeforeSend,
        Self::ArchiveWithoutCondition,
        Self::SweepSkipsInProgress,
        Self::ClaimIgnoresLease,
        Self::AcknowledgeUnfinished,
        Self::AuditMovesFirst,
        Self::AuditSkipsMinute,
        Self::ResendKeepsExpiry,
        Self::DueAsAllowed,
        Self::DeleteUnfenced,
        Self::FailedNotHeld,
        Self::RescueUnbounded,
        Self::InterruptionsUnbounded,
        Self::RelaysUnbounded,
        Self::DeferralsUnbounded,
        Self::KeyMintsNewId,
        Self::BudgetKept,
        Self::DeferralSpendsAttempt,
        Self::RequeueWithoutGrace,
        Self::HandBackDone,
        Self::ClaimWithoutLease,
        Self::RetryAfterIgnored,
        Self::NumbersStartAgain,
        Self::RedirectIsDelivered,
        Self::UnsentNotHeld,
        Self::DeletedIsNew,
        Self::SettledForgotten,
        Self::BacklogFeedsItself,
        Self::ProbeWithoutLease,
        Self::CircuitOpensLate,
        Self::CircuitsUnread,
        Self::CountedAgain,
        Self::StrayDropped,
        Self::NewerArchived,
        Self::UnreadableAcknowledged,
        Self::DeferralCountedTwice,
        Self::RescueWithoutChange,
        Self::UnworkedWithoutWait,
        Self::FailedUntried,
        Self::DeferralsShareBudget,
        Self::InterruptionWithoutWait,
        Self::InterruptionsKept,
        Self::SlowClaimBlamed,
        Self::RetryFloorIgnored,
        Self::AuditNeverTakenBack,
        Self::PurgeByOneSighting,
        Self::DueWithoutPosition,
        Self::DueNeverTakenBack,
    ];

    /// The bug with this name, as [`Debug`](std::fmt::Debug) writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug for this thread, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted: in this build, none is.
#[cfg(not(feature = "planted"))]
pub const fn is(_: Bug) -> bool {
    false
}
