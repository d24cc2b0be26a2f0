//! Which calls fail, and how often each was made.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::Duration,
};

use tokio::sync::Notify;

/// The fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call has no effect and fails.
    Down,
    /// Calls after this many fail without effect, counted since the calls were last taken.
    DownAfter(usize),
    /// The call takes effect, and its answer is lost.
    AnswerLost,
    /// The call has no effect and never returns.
    Silent,
    /// The call takes effect once the faults are healed.
    Held,
    /// The call panics.
    Panic,
}

/// The faults by the name of the call, and how often each call was made.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    set: Mutex<HashMap<&'static str, Fault>>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
    healed: Notify,
    /// The warnings of the store.
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl Faults {
    pub(crate) fn set(&self, call: &'static str, fault: Fault) {
        self.set.lock().unwrap().insert(call, fault);
    }

    /// Removes all faults.
    pub(crate) fn heal(&self) {
        self.set.lock().unwrap().clear();
        self.healed.notify_waiters();
    }

    /// Returns once the call has no fault.
    pub(super) async fn held(&self, part: &'static str, call: &'static str) {
        loop {
            let healed = self.healed.notified();
            tokio::pin!(healed);
            // Registered before the check, so that a healing between the check and the wait is not
            // missed.
            healed.as_mut().enable();
            if self.fault(part, call) != Some(Fault::Held) {
                return;
            }
            healed.await;
        }
    }

    fn fault(&self, part: &'static str, call: &'static str) -> Option<Fault> {
        let faults = self.set.lock().unwrap();
        faults.get(call).or_else(|| faults.get(part)).copied()
    }

    /// The calls since the last call of this function.
    pub(crate) fn take_calls(&self) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut *self.calls.lock().unwrap()).into_iter().collect()
    }

    /// Returns once the call was made this many times since the calls were last taken.
    pub(crate) async fn called(&self, call: &'static str, times: usize) {
        let enough = || self.calls.lock().unwrap().get(call).is_some_and(|made| *made >= times);
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !enough() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.unwrap();
    }

    /// Every call of the store fails.
    pub(crate) fn store_down(&self) {
        self.set("store", Fault::Down);
    }

    /// Counts the call, and returns its fault.
    pub(super) fn note(&self, part: &'static str, call: &'static str) -> Option<Fault> {
        let made = {
            let mut calls = self.calls.lock().unwrap();
            let made = calls.entry(call).or_default();
            *made += 1;
            *made
        };
        self.fault(part, call)
            .filter(|fault| !matches!(fault, Fault::DownAfter(calls) if made <= *calls))
    }
}
