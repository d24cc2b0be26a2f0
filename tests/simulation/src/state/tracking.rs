//! What the checks track.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shared::{
    circuit::Settings,
    clock::Timestamp,
    config::Config,
    id::{TaskId, WebhookId},
    model::Webhook,
    status::Status,
    traffic::target::TargetKey,
    transition::Rules,
};

use super::{published::Published, traffic::TrafficChecks};
use crate::plan::Plan;

/// The state of the checks.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) rules: Rules,
    /// Whether Posthaste has no faults, so that no message is received too often.
    pub(crate) mild: bool,
    /// Whether the sweep's clock is ahead for a while.
    pub(crate) wrong_clock: bool,
    /// The maximum difference between two other clocks.
    pub(crate) max_skew: Duration,
    /// The first check that failed.
    pub(crate) violation: Option<String>,
    pub(crate) progress: BTreeMap<WebhookId, Progress>,
    /// The IDs that callers got with a 2xx.
    pub(crate) accepted: BTreeSet<WebhookId>,
    /// The IDs that were deleted in the store.
    pub(crate) deleted: BTreeSet<WebhookId>,
    /// The IDs whose records the store purged.
    pub(crate) expired: BTreeSet<WebhookId>,
    /// The IDs whose deletion returned 204.
    pub(crate) deletion_confirmed: BTreeSet<WebhookId>,
    /// The IDs that were created for each payload number.
    pub(crate) created_for: BTreeMap<u64, BTreeSet<TaskId>>,
    /// The first ID that the caller got for each payload number.
    pub(crate) first_id: BTreeMap<u64, WebhookId>,
    /// The `deliver_at` of each payload number.
    pub(crate) deliver_at: BTreeMap<u64, Timestamp>,
    /// The messages of a sweep process whose due entry it has not moved yet.
    pub(crate) sent: BTreeSet<(u32, WebhookId)>,
    /// The number of resends and redrives.
    pub(crate) restarts: u64,
    /// The number of outcomes, by the resulting status.
    pub(crate) outcomes: BTreeMap<Status, u64>,
    /// The circuits.
    pub(crate) circuit: Circuits,
    /// Pauses, rates and slots.
    pub(crate) traffic: TrafficChecks,
    /// Applications, messages and deliveries.
    pub(crate) published: Published,
    /// The messages that a process of `deliver` has sent for a webhook without acknowledging one.
    pub(crate) relayed: BTreeMap<(u32, WebhookId), u32>,
    /// Webhooks that the audit may have missed: a newer version had written to them, or a clock
    /// that was ahead had moved the audit's position. The final checks show whether they were
    /// found.
    pub(crate) unaudited: BTreeSet<TaskId>,
    /// The maximum number of messages in the webhook lane.
    pub(crate) most_waiting: usize,
    /// Writes that found the record that they would have written. Without faults of the store,
    /// another process wrote it.
    pub(crate) identical_writes: u64,
    /// The number of unreadable messages, and of messages of a newer version.
    pub(crate) unreadable_messages: u64,
    pub(crate) newer_sent: u64,
    /// The number of running sweeps, and whether two have overlapped since a sweep last ran alone.
    pub(crate) sweeping: u32,
    pub(crate) overlapped: bool,
}

/// The progress of a webhook since it was created, resent or redriven.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) outcomes: u32,
    /// Interruptions since the last outcome.
    pub(crate) interruptions: u32,
    /// The earliest time of the next attempt.
    pub(crate) not_before: Timestamp,
    /// The process that owns the claim.
    pub(crate) owner: u32,
    /// The true time of each claim, by attempt.
    pub(crate) claimed_at: BTreeMap<u32, Timestamp>,
    /// Attempts that were started, without returned claims.
    pub(crate) attempts: u32,
    /// Whether `deliver` has written to the record since the last rescue.
    pub(crate) worked_on: bool,
    /// The number of rescues since `deliver` last wrote to the record.
    pub(crate) unworked: u32,
}

impl Checks {
    pub(crate) fn new(plan: &Plan, config: &Config) -> Self {
        Self {
            rules: config.rules.clone(),
            mild: plan.is_mild(),
            wrong_clock: plan.wrong_clock.is_some(),
            max_skew: Duration::from_millis(2 * plan.skew_ms.unsigned_abs()),
            violation: None,
            progress: BTreeMap::new(),
            accepted: BTreeSet::new(),
            deleted: BTreeSet::new(),
            expired: BTreeSet::new(),
            deletion_confirmed: BTreeSet::new(),
            created_for: BTreeMap::new(),
            first_id: BTreeMap::new(),
            deliver_at: BTreeMap::new(),
            sent: BTreeSet::new(),
            restarts: 0,
            outcomes: BTreeMap::new(),
            circuit: Circuits::new(plan, &Settings::default()),
            traffic: TrafficChecks::new(plan),
            published: Published::new(plan, config),
            relayed: BTreeMap::new(),
            unaudited: BTreeSet::new(),
            most_waiting: 0,
            identical_writes: 0,
            unreadable_messages: 0,
            newer_sent: 0,
            sweeping: 0,
            overlapped: false,
        }
    }

    /// Records a violation unless the condition holds.
    pub(crate) fn require(&mut self, holds: bool, else_what: impl FnOnce() -> String) {
        if !holds {
            self.violation.get_or_insert_with(else_what);
        }
    }

    /// When the caller allowed the first attempt.
    pub(crate) fn deliver_at_of(&self, webhook: &Webhook) -> Timestamp {
        let number = self.created_for.iter().find(|(_, ids)| ids.contains(&webhook.id.task));
        let at = number.and_then(|(number, _)| self.deliver_at.get(number));
        at.copied().unwrap_or_default()
    }

    /// Whether more than one webhook was created for this payload number.
    pub(crate) fn has_several(&self, number: u64) -> bool {
        self.created_for.get(&number).is_some_and(|ids| ids.len() > 1)
    }
}

/// The state of the circuits.
#[derive(Debug)]
pub(crate) struct Circuits {
    pub(crate) settings: Settings,
    /// Whether workers can always read the circuits: no call of the store fails or is slow. A
    /// worker that cannot read a circuit makes its attempt.
    pub(crate) is_known: bool,
    /// The true time at which each circuit opened.
    pub(crate) opened_at: BTreeMap<TargetKey, Timestamp>,
    /// The process that leased the probe, and the number of its claims.
    pub(crate) probes: BTreeMap<TargetKey, (u32, u32)>,
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
