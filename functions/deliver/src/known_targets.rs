//! The targets that restrict attempts, as this process knows them.
//!
//! A target that works costs no read and no write. The store lists the targets that restrict
//! attempts, and a worker reads that list at most once per [`REFRESH_INTERVAL`]. So it learns of an
//! opened circuit or a pause with that delay, and of its own at once. The list has at most
//! [`MAX_TARGETS`] entries. When it is full, targets that it does not contain are read by their key,
//! each at most once per interval.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    circuit::MAX_FAILURE_GAP,
    clock::Timestamp,
    context::Context,
    planted::{self, Bug},
    store::MAX_TARGETS,
    traffic::target::{Target, TargetKey},
};

/// How long what was read stays valid.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// A list that does not contain a target that this process has just written may be older.
const LIST_DELAY: Duration = Duration::from_secs(4);

/// The targets that this process knows.
#[derive(Debug, Default)]
pub(crate) struct KnownTargets {
    // A std mutex: it is held for a look-up, never across an await.
    known: Mutex<Known>,
    /// Held during the read, so that concurrent attempts share one read and its result.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    list_read_at: Option<Timestamp>,
    is_list_full: bool,
    targets: HashMap<TargetKey, Target>,
    /// The targets that were read by their key since the list was read.
    read_by_key: HashMap<TargetKey, Timestamp>,
}

impl KnownTargets {
    /// The state of the target. `None`: nothing is known against it. A failing store never stops a
    /// delivery, because traffic control only protects the destination.
    pub(crate) async fn get(&self, context: &Context, key: &TargetKey) -> Option<Target> {
        self.refresh(context).await;
        let known = self.look_up(key);
        if known.is_some() || !self.must_read(key, context.clock.now()) {
            return known;
        }
        let state = context.store.target(key).await.unwrap_or_default();
        if let Some(target) = &state.target {
            self.remember(target.clone());
        }
        state.target
    }

    /// The state of the target, without a read.
    pub(crate) fn look_up(&self, key: &TargetKey) -> Option<Target> {
        self.known().targets.get(key).cloned()
    }

    /// Remembers the stored state of a target.
    pub(crate) fn remember(&self, target: Target) {
        let mut known = self.known();
        if target.is_idle() {
            known.targets.remove(&target.key);
        } else {
            known.targets.insert(target.key.clone(), target);
        }
    }

    /// Forgets a target of which nothing is stored.
    pub(crate) fn forget(&self, key: &TargetKey) {
        self.known().targets.remove(key);
    }

    /// Whether the target must be read by its key, because the list may lack it. Also notes that it
    /// was.
    fn must_read(&self, key: &TargetKey, now: Timestamp) -> bool {
        let mut known = self.known();
        if !known.is_list_full {
            return false;
        }
        let read_at = known.read_by_key.insert(key.clone(), now);
        read_at.is_none_or(|at| now.since(at) >= REFRESH_INTERVAL || at > now)
    }

    async fn refresh(&self, context: &Context) {
        if self.is_fresh(context.clock.now()) {
            return;
        }
        let _reading = self.reading.lock().await;
        let now = context.clock.now();
        if self.is_fresh(now) {
            return;
        }
        match context.store.targets(now).await {
            Ok(states) => {
                let targets = states.into_iter().filter_map(|state| state.target).collect();
                self.known().merge(targets, now);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "Could not read the targets");
            }
        }
        // Also after a failed read: the next attempts do not wait for another one.
        self.known().list_read_at = Some(now);
    }

    /// Whether the list was read within the interval. A clock that was set back does not make it
    /// fresh.
    fn is_fresh(&self, now: Timestamp) -> bool {
        if planted::is(Bug::CircuitsUnread) {
            return true;
        }
        self.known().list_read_at.is_some_and(|at| now.since(at) < REFRESH_INTERVAL && at <= now)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Takes over a list. Of the other targets it keeps those that the list cannot contain: recent
    /// failures without an open circuit, recent writes, and all of them if the list is full.
    fn merge(&mut self, listed: Vec<Target>, now: Timestamp) {
        self.is_list_full = listed.len() >= MAX_TARGETS;
        self.read_by_key.retain(|_, at| now.since(*at) < REFRESH_INTERVAL);
        let is_full = self.is_list_full;
        self.targets.retain(|_, target| {
            let age = now.since(target.touched_at);
            let kept_for = match target.restricts_until() {
                None => MAX_FAILURE_GAP,
                Some(until) if is_full => until.since(target.touched_at),
                Some(_) => LIST_DELAY,
            };
            age <= kept_for
        });
        for target in listed {
            let is_newer = |known: &Target| known.touched_at > target.touched_at;
            if !self.targets.get(&target.key).is_some_and(is_newer) {
                self.targets.insert(target.key.clone(), target);
            }
        }
    }
}
