//! How many attempts each limit allows.

use shared::queue::MAX_BATCH;

use super::limit::Scope;

/// Attempts that may hang, as a multiple of the slots.
const HANGING_FACTOR: usize = 8;

/// The maximum number of concurrent attempts of each kind: see `host_limiter`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacities {
    pub(super) destination: usize,
    pub(super) network: usize,
    pub(super) unproven: usize,
    pub(super) silent: usize,
    pub(super) hanging: usize,
    pub(super) application: usize,
    pub(super) hanging_application: usize,
    /// Slots are scarce if more than this number are taken.
    pub(super) plenty: usize,
}

impl Capacities {
    pub(super) fn new(destination: usize, slots: usize) -> Self {
        // If a batch has at least as many messages as there are slots, no message waits for one.
        let at_least_a_batch = |part: usize, all: usize| part.max(all.min(MAX_BATCH));
        let unproven = at_least_a_batch(slots / 2, slots);
        let hanging = slots * HANGING_FACTOR;
        Self {
            destination,
            network: hanging / 2,
            unproven,
            silent: at_least_a_batch(unproven - unproven / 4, unproven),
            hanging,
            application: at_least_a_batch(slots / 4, slots),
            hanging_application: hanging / 4,
            plenty: slots - slots / 4,
        }
    }

    pub(super) fn of(self, scope: &Scope) -> usize {
        match scope {
            Scope::Destination(_) => self.destination,
            Scope::Network(_) => self.network,
            Scope::Unproven => self.unproven,
            Scope::Silent => self.silent,
            Scope::Application(_) => self.application,
            Scope::HangingApplication(_) => self.hanging_application,
        }
    }
}

/// The maximum number of concurrent attempts in a process with this number of slots.
pub(crate) const fn max_concurrent_attempts(slots: usize) -> usize {
    slots * (HANGING_FACTOR + 1)
}
