//! The failures that this process counts in memory, before a circuit stores them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use shared::{circuit::MAX_FAILURE_GAP, clock::Timestamp, traffic::target::TargetKey};

/// The consecutive 5xx answers of an origin after which its circuit opens for retries.
const FAILING_ORIGIN_ANSWERS: u32 = 20;

/// The paths from which they come, at least.
const FAILING_ORIGIN_PATHS: usize = 5;

/// The targets and origins in memory, at most. Beyond it, the counts restart.
const MAX_COUNTED: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct RecentFailures {
    // A std mutex: it is held for a look-up, never across an await.
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// The targets with one failure that was not written, and its time.
    first_failures: HashMap<TargetKey, Timestamp>,
    origins: HashMap<TargetKey, FailingOrigin>,
}

/// The consecutive 5xx answers of an origin.
#[derive(Debug, Default)]
struct FailingOrigin {
    answers: u32,
    /// At most [`FAILING_ORIGIN_PATHS`].
    paths: HashSet<TargetKey>,
}

impl RecentFailures {
    /// Counts a failure of a target without a stored one. Returns how many must be stored: 0 for
    /// the first in a row.
    pub(crate) fn failed(&self, key: &TargetKey, now: Timestamp) -> u32 {
        let mut counted = self.counted();
        let earlier = counted.first_failures.remove(key);
        if earlier.is_some_and(|at| now.since(at) <= MAX_FAILURE_GAP) {
            return 2;
        }
        make_room(&mut counted.first_failures);
        counted.first_failures.insert(key.clone(), now);
        0
    }

    /// Forgets the failure of a target that works.
    pub(crate) fn forget(&self, key: &TargetKey) {
        self.counted().first_failures.remove(key);
    }

    /// Counts a 5xx answer of an origin. Returns whether its circuit must open for retries. Then
    /// the count restarts.
    pub(crate) fn got_5xx(&self, origin: &TargetKey, url: Option<&TargetKey>) -> bool {
        let mut counted = self.counted();
        make_room(&mut counted.origins);
        let failing = counted.origins.entry(origin.clone()).or_default();
        failing.answers = failing.answers.saturating_add(1);
        if failing.paths.len() < FAILING_ORIGIN_PATHS {
            failing.paths.extend(url.cloned());
        }
        let is_failing = failing.answers >= FAILING_ORIGIN_ANSWERS
            && failing.paths.len() >= FAILING_ORIGIN_PATHS;
        if is_failing {
            counted.origins.remove(origin);
        }
        is_failing
    }

    /// Ends the row of 5xx answers of an origin.
    pub(crate) fn got_no_5xx(&self, origin: &TargetKey) {
        self.counted().origins.remove(origin);
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room<V>(map: &mut HashMap<TargetKey, V>) {
    if map.len() >= MAX_COUNTED {
        map.clear();
    }
}
