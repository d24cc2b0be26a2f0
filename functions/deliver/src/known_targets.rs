//! The targets that restrict attempts, as this process knows them.
//!
//! A target that works costs no read and no write. The store lists the targets that restrict
//! attempts, and a worker reads that list at most once per [`REFRESH_INTERVAL`]. So it learns of an
//! opened circuit or a pause with that delay, and of its own at once. The list has at most
//! [`MAX_TARGETS`] entries. When it is full, targets that it does not contain are read by their
//! key, each at most once per interval. Attempts that need the same read share it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
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

use crate::target_calls::TargetCalls;

/// How long what was read stays valid.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// A list that does not contain a target that this process has just written may be older.
const LIST_DELAY: Duration = Duration::from_secs(4);

/// A full list may lack so many entries: targets that were closed a moment ago, and those that a
/// newer version wrote and this one cannot read.
const MAX_LEFT_OUT: usize = 10;

/// The locks of the calls for single targets.
const TARGET_LOCKS: usize = 64;

/// The targets that this process knows.
#[derive(Debug, Default)]
pub(crate) struct KnownTargets {
    // A std mutex: it is held for a look-up, never across an await.
    known: Mutex<Known>,
    /// Held during the read of the list, so that concurrent attempts share it and its result.
    reading: tokio::sync::Mutex<()>,
    /// The same for a target's own read.
    reading_target: TargetLocks,
    /// The calls for the list.
    list_calls: TargetCalls,
    /// The calls for single targets, of all parts of this function.
    pub(crate) calls: TargetCalls,
}

/// One lock for each target. Few targets share one by chance, which only makes them wait.
#[derive(Debug)]
pub(crate) struct TargetLocks(Vec<tokio::sync::Mutex<()>>);

impl Default for TargetLocks {
    fn default() -> Self {
        Self((0..TARGET_LOCKS).map(|_| tokio::sync::Mutex::default()).collect())
    }
}

impl TargetLocks {
    pub(crate) async fn lock(&self, key: &TargetKey) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % TARGET_LOCKS as u64).unwrap_or(0);
        Some(self.0.get(index)?.lock().await)
    }
}

#[derive(Debug, Default)]
struct Known {
    list_read_at: Option<Timestamp>,
    is_list_full: bool,
    targets: HashMap<TargetKey, Target>,
    /// When the targets were read: those of the list, and those that were read by their key.
    read_at: HashMap<TargetKey, Timestamp>,
}

impl KnownTargets {
    /// The state of the target. `None`: nothing is known against it. A failing store never stops a
    /// delivery, because traffic control only protects the destination.
    pub(crate) async fn get(&self, context: &Context, key: &TargetKey) -> Option<Target> {
        self.refresh(context).await;
        if self.must_read(key, context.clock.now()) {
            let _reading = self.reading_target.lock(key).await;
            let now = context.clock.now();
            if self.must_read(key, now) {
                self.read(context, key, now).await;
            }
        }
        self.look_up(key)
    }

    async fn read(&self, context: &Context, key: &TargetKey, now: Timestamp) {
        let call = context.store.target(key);
        if let Some(Ok(state)) = self.calls.make(context, "read a target", call, |_| false).await {
            self.note(key, state.target, now);
        }
        // Also after a failed read: the next attempts do not wait for another one.
        self.known().read_at.insert(key.clone(), now);
    }

    /// The state of the target, without a read.
    pub(crate) fn look_up(&self, key: &TargetKey) -> Option<Target> {
        self.known().targets.get(key).cloned()
    }

    /// Takes over what the store answered to a call that started at `asked_at`. This process may
    /// have written the target since.
    pub(crate) fn note(&self, key: &TargetKey, stored: Option<Target>, asked_at: Timestamp) {
        if let Some(target) = stored {
            return self.remember(target);
        }
        let mut known = self.known();
        if known.targets.get(key).is_some_and(|target| target.touched_at < asked_at) {
            known.targets.remove(key);
        }
    }

    /// Remembers the stored state of a target, unless a newer one is known.
    pub(crate) fn remember(&self, target: Target) {
        let mut known = self.known();
        let is_newer = |known: &Target| {
            known.revision > target.revision && known.touched_at >= target.touched_at
        };
        if known.targets.get(&target.key).is_some_and(is_newer) {
            return;
        }
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

    /// Whether the target must be read by its key, because the list may lack it.
    fn must_read(&self, key: &TargetKey, now: Timestamp) -> bool {
        let known = self.known();
        let read_at = known.read_at.get(key);
        known.is_list_full
            && read_at.is_none_or(|at| now.since(*at) >= REFRESH_INTERVAL || *at > now)
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
        let call = context.store.targets(now);
        let listed = self.list_calls.make(context, "read the targets", call, |_| false).await;
        let mut known = self.known();
        match listed {
            Some(Ok(states)) => {
                let targets = states.into_iter().filter_map(|state| state.target).collect();
                known.merge(targets, now);
                known.list_read_at = Some(now);
            }
            _ => known.forget_reads(now),
        }
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
    /// Forgets when the targets were read whose reads are no longer valid.
    fn forget_reads(&mut self, now: Timestamp) {
        self.read_at.retain(|_, at| now.since(*at) < REFRESH_INTERVAL && *at <= now);
    }

    /// Takes over a list. Of the other targets it keeps those that the list cannot contain: recent
    /// failures without an open circuit, recent writes, and all of them if the list is full.
    fn merge(&mut self, listed: Vec<Target>, now: Timestamp) {
        self.is_list_full = listed.len() + MAX_LEFT_OUT >= MAX_TARGETS;
        self.forget_reads(now);
        if self.is_list_full {
            self.read_at.extend(listed.iter().map(|target| (target.key.clone(), now)));
        }
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

#[cfg(test)]
mod tests {
    use shared::circuit::Settings;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// Answers of the store can arrive in another order than the writes.
    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let (known, settings) = (KnownTargets::default(), Settings::default());
        let key = TargetKey::origin("https://example.com:443");
        let first = Target::idle(key.clone()).failed(1, &settings, at(1));
        let second = first.failed(1, &settings, at(2));
        known.remember(second.clone());
        known.remember(first.clone());
        assert_eq!(known.look_up(&key), Some(second.clone()));
        known.known().merge(vec![first.clone()], at(3));
        assert_eq!(known.look_up(&key), Some(second.clone()));
        known.note(&key, None, at(1));
        assert_eq!(known.look_up(&key), Some(second), "it was written after the read");
        known.note(&key, None, at(3));
        assert_eq!(known.look_up(&key), None);
        // A clock that was set back gives a new target a lower revision.
        known.remember(Target { revision: u64::MAX, ..first });
        let again = Target::idle(key.clone()).failed(1, &settings, at(4));
        known.remember(again.clone());
        assert_eq!(known.look_up(&key), Some(again));
    }
}
