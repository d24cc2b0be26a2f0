//! Bugs that the simulation plants, to prove that it catches them.
//!
//! A hook is a guard line of its own in the code that it breaks: `if planted::is(Bug::X) { … }`.
//! Without the cargo feature `planted`, which only the simulation enables, that is `if false`. With
//! the feature, no bug is planted until a thread plants one for itself.

/// What a planted bug does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An outcome is written under any claim.
    OutcomeWithoutClaim,
    /// The sweep moves an entry of the due index before it sends its message.
    RequeueBeforeSend,
    /// Archiving does not check whether the webhook is still failed.
    ArchiveWithoutCondition,
    /// The sweep skips webhooks in progress.
    SweepSkipsInProgress,
    /// A claim is granted while another claim's lease is live.
    ClaimIgnoresLease,
    /// Unfinished messages are acknowledged.
    AcknowledgeUnfinished,
    /// The audit's position moves before the entries are made.
    AuditMovesFirst,
    /// The audit's position moves by two minutes after it has read one.
    AuditSkipsMinute,
    /// A webhook that is sent again keeps its expiry.
    ResendKeepsExpiry,
    /// No claim before the due time.
    DueAsAllowed,
    /// A delete is answered with 204 even if the store did not delete.
    DeleteUnfenced,
    /// A failed webhook does not enter the due index.
    FailedNotHeld,
    /// Rescues have no limit.
    RescueUnbounded,
    /// Interrupted attempts have no limit.
    InterruptionsUnbounded,
    /// Relays have no limit.
    RelaysUnbounded,
    /// Deferrals have no limit.
    DeferralsUnbounded,
    /// The second request with an idempotency key gets a new ID.
    KeyMintsNewId,
    /// A webhook that is sent again keeps its used budget.
    BudgetKept,
    /// A deferral counts as an attempt.
    DeferralSpendsAttempt,
    /// A requeued webhook is due again at once.
    RequeueWithoutGrace,
    /// A message is released although its work is done.
    HandBackDone,
    /// A claim has no lease.
    ClaimWithoutLease,
    /// `Retry-After` is ignored.
    RetryAfterIgnored,
    /// Attempts are numbered from 1 again after a resend.
    NumbersStartAgain,
    /// A redirect counts as delivered.
    RedirectIsDelivered,
    /// A webhook whose message was not sent enters no index.
    UnsentNotHeld,
    /// A deleted webhook of an idempotency key is created again.
    DeletedIsNew,
    /// A batch with a new ID forgets the webhooks that it created under the old one.
    SettledForgotten,
    /// A requeue ignores the messages that already wait.
    BacklogFeedsItself,
    /// Every worker that finds a circuit half-open makes an attempt, without the probe's lease.
    ProbeWithoutLease,
    /// A circuit opens one failure too late.
    CircuitOpensLate,
    /// A worker does not see the circuits that other workers opened.
    CircuitsUnread,
    /// A flush adds the counts of the last flush again.
    CountedAgain,
    /// An unreadable message is acknowledged and not kept.
    StrayDropped,
    /// A dead letter of a newer version is kept as an unreadable message.
    NewerArchived,
    /// The message of an unreadable webhook is acknowledged.
    UnreadableAcknowledged,
    /// Whether a webhook already waited is read from the record that was first seen, not from the
    /// one that was replaced.
    DeferralCountedTwice,
    /// A rescue is counted although `deliver` has not worked on the webhook since the last one.
    RescueWithoutChange,
    /// A webhook that the queue gave up on without work is due at once, each time.
    UnworkedWithoutWait,
    /// A webhook fails for an internal budget before any attempt has started.
    FailedUntried,
    /// Deferrals by the host limit use the budget of the circuit.
    DeferralsShareBudget,
    /// The attempt after an interrupted one starts at once, each time.
    InterruptionWithoutWait,
    /// A recorded outcome does not reset the count of interruptions.
    InterruptionsKept,
    /// After a slow claim, the destination gets only the rest of the attempt's time.
    SlowClaimBlamed,
    /// A retry may start at once.
    RetryFloorIgnored,
    /// The audit's position stays where a clock that was ahead has moved it.
    AuditNeverTakenBack,
    /// A record is deleted after one look that found it expired.
    PurgeByOneSighting,
    /// The due index is read from its beginning each time.
    DueWithoutPosition,
    /// Entries that a clock that was ahead wrote into the due index stay there.
    DueNeverTakenBack,
    /// A worker takes a slot without a write, so another one takes it too.
    SlotTakenTwice,
    /// A refusal with a pause spends an attempt.
    ThrottleSpendsAttempt,
    /// A pause holds up only the webhook that was refused.
    PauseForOneOnly,
    /// A 5xx answer of one URL counts for the circuit of its origin.
    UrlFailsOrigin,
    /// A webhook that comes too late for its slot goes ahead without one.
    LateWithoutSlot,
    /// A refusal does not decrease the learned rate.
    RateNeverDecreases,
    /// A webhook that was attempted since it was read goes ahead as one that never was.
    ExemptByOldRead,
    /// A delivery is matched again at each look, and not sent if its endpoint has changed.
    PlanFromNow,
    /// A message leaves the due index once its looks are sent.
    FanoutLeavesEarly,
    /// A message leaves the due index whatever became of it since it was read.
    SettleUnconditional,
    /// A delivery whose attempt is under way is accounted for.
    SettleIgnoresInFlight,
    /// The audit leaves out deliveries without a record.
    AuditIgnoresUnstarted,
    /// The first write of a delivery replaces an expired record or a marker.
    FirstWriteUnconditional,
    /// A deleted delivery leaves no marker.
    MarkerForgotten,
    /// A delivery that is known to be accounted for counts as unstarted once its record is gone.
    SettledIgnored,
    /// A message is deleted before its deliveries.
    MessageDeletedFirst,
    /// A delivery fails because a cached document lacks its endpoint.
    GoneByCache,
    /// Messages go to disabled endpoints.
    DisabledStillPlanned,
    /// A sealed text opens wherever it is stored.
    SealedUnbound,
    /// A message is published to the application that its body names.
    TenantByBody,
}

impl Bug {
    /// All bugs.
    pub const ALL: [Self; 69] = [
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
        Self::SlotTakenTwice,
        Self::ThrottleSpendsAttempt,
        Self::PauseForOneOnly,
        Self::UrlFailsOrigin,
        Self::LateWithoutSlot,
        Self::RateNeverDecreases,
        Self::ExemptByOldRead,
        Self::PlanFromNow,
        Self::FanoutLeavesEarly,
        Self::SettleUnconditional,
        Self::SettleIgnoresInFlight,
        Self::AuditIgnoresUnstarted,
        Self::FirstWriteUnconditional,
        Self::MarkerForgotten,
        Self::SettledIgnored,
        Self::MessageDeletedFirst,
        Self::GoneByCache,
        Self::DisabledStillPlanned,
        Self::SealedUnbound,
        Self::TenantByBody,
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
