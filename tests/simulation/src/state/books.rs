//! The books that the checks keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shared::{
    circuit::Settings,
    clock::Timestamp,
    id::{TaskId, WebhookId},
    status::Status,
    transition::Rules,
};

use crate::plan::Plan;

/// The books.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) rules: Rules,
    /// Whether nothing goes wrong on our side, so that the queue never has to give up on a message.
    pub(crate) mild: bool,
    /// Whether the sweep's clock is far ahead for a while.
    pub(crate) wrong_clock: bool,
    /// The most that two other clocks are apart.
    pub(crate) apart: Duration,
    /// The first check that failed.
    pub(crate) violation: Option<String>,
    pub(crate) lives: BTreeMap<WebhookId, Life>,
    /// Ids that a caller was told with a 2xx.
    pub(crate) accepted: BTreeSet<WebhookId>,
    /// Deleted in the store.
    pub(crate) deleted: BTreeSet<WebhookId>,
    /// Their deletion was answered with a 204.
    pub(crate) gone: BTreeSet<WebhookId>,
    /// By what the caller wrote into the payload: the ids that were created for it.
    pub(crate) created_for: BTreeMap<u64, BTreeSet<TaskId>>,
    /// By the same: the id that its caller was told first.
    pub(crate) told: BTreeMap<u64, WebhookId>,
    /// When the caller wants it delivered at the earliest.
    pub(crate) wanted_at: BTreeMap<u64, Timestamp>,
    /// Messages that a process sent and has not moved an entry for.
    pub(crate) sent: BTreeSet<(u32, WebhookId)>,
    /// Webhooks that were sent again.
    pub(crate) restarts: u64,
    /// Outcomes that were written, by the status that they led to.
    pub(crate) outcomes: BTreeMap<Status, u64>,
    /// What is known of the circuits.
    pub(crate) circuit: Circuits,
    /// Webhooks that a newer version had when the audit read their minute, or that were younger
    /// than the audit's position since a clock was ahead. Whether they are found in the end, the
    /// end shows.
    pub(crate) unaudited: BTreeSet<TaskId>,
    /// The most messages that the lane of webhooks held at a time.
    pub(crate) most_waiting: usize,
    /// Writes that found what they would have written: without faults of the store, somebody
    /// else's.
    pub(crate) twins: u64,
    /// Messages that nobody can read, and those of a newer version.
    pub(crate) strays: u64,
    pub(crate) newer_sent: u64,
    /// Sweeps that are at work, and whether one has met another since one was alone.
    pub(crate) sweeping: u32,
    pub(crate) overlapped: bool,
}

/// What happened to one webhook since it was created or sent again.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) outcomes: u32,
    /// In a row.
    pub(crate) interruptions: u32,
    pub(crate) not_before: Timestamp,
    pub(crate) holder: u32,
    pub(crate) claimed_at: BTreeMap<u32, Timestamp>,
    /// Attempts that started, less those that were given back unused.
    pub(crate) attempts: u32,
    /// Whether `deliver` has written to it since the queue last gave up on it.
    pub(crate) worked_on: bool,
    /// Times in a row that the queue gave up on it and `deliver` had not.
    pub(crate) unworked: u32,
}

impl Checks {
    pub(crate) fn new(plan: &Plan, rules: Rules) -> Self {
        Self {
            rules,
            mild: plan.is_mild(),
            wrong_clock: plan.wrong_clock.is_some(),
            apart: Duration::from_millis(2 * plan.skew_ms.unsigned_abs()),
            violation: None,
            lives: BTreeMap::new(),
            accepted: BTreeSet::new(),
            deleted: BTreeSet::new(),
            gone: BTreeSet::new(),
            created_for: BTreeMap::new(),
            told: BTreeMap::new(),
            wanted_at: BTreeMap::new(),
            sent: BTreeSet::new(),
            restarts: 0,
            outcomes: BTreeMap::new(),
            circuit: Circuits::new(plan, &Settings::default()),
            unaudited: BTreeSet::new(),
            most_waiting: 0,
            twins: 0,
            strays: 0,
            newer_sent: 0,
            sweeping: 0,
            overlapped: false,
        }
    }

    /// What must hold.
    pub(crate) fn must(&mut self, holds: bool, else_what: impl FnOnce() -> String) {
        if !holds {
            self.violation.get_or_insert_with(else_what);
        }
    }

    /// Whether a key made more of this than one.
    pub(crate) fn is_twice(&self, number: u64) -> bool {
        self.created_for.get(&number).is_some_and(|ids| ids.len() > 1)
    }
}

/// The books on circuits.
#[derive(Debug)]
pub(crate) struct Circuits {
    pub(crate) settings: Settings,
    /// Whether workers can always learn of a circuit: no call of the store fails or takes long.
    /// Where one cannot, it makes its attempt, since the breaker never stops a delivery for trouble
    /// of ours.
    pub(crate) is_known: bool,
    /// When each opened (truly).
    pub(crate) opened_at: BTreeMap<String, Timestamp>,
    /// Who has the lease of the probe, and claims that came of it.
    pub(crate) probes: BTreeMap<String, (u32, u32)>,
}

impl Circuits {
    pub(crate) fn new(plan: &Plan, settings: &Settings) -> Self {
        Self {
            settings: *settings,
            is_known: plan.is_mild(),
            opened_at: BTreeMap::new(),
            probes: BTreeMap::new(),
        }
    }
}
