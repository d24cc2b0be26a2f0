//! Targets and their slot counters.

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    store::{
        MAX_TARGETS, ReplaceCountersError, StoreError, TakenSlots, TargetState, Targets,
        WriteTargetError,
    },
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
};

use crate::{
    state::State,
    world::{Process, Services},
};

/// What a write says of a target.
fn describe(target: &Target, now: Timestamp) -> String {
    let state = target.circuit.state(now);
    let pace = target.pace(now).filter(|pace| pace.is_paused(now));
    let pause = pace.map_or_else(String::new, |pace| format!(", paused until {}", pace.resume_at));
    format!("writes target {}: circuit {state:?}{pause}", target.key)
}

#[async_trait]
impl Targets for Services {
    async fn target(&self, key: &TargetKey) -> Result<TargetState, StoreError> {
        let key = key.clone();
        let read = move |state: &mut State, _: &Process| {
            state.records.targets.get(&key).cloned().unwrap_or_default()
        };
        self.call("target", read).await
    }

    async fn write_target(
        &self,
        before: Option<u64>,
        after: &Target,
    ) -> Result<(), WriteTargetError> {
        let after = after.clone();
        let write = move |state: &mut State, process: &Process| {
            let now = state.now();
            let stored = state.records.targets.entry(after.key.clone()).or_default();
            if stored.target.as_ref().map(|target| target.revision) != before {
                return Err(WriteTargetError::Changed(stored.target.clone().map(Box::new)));
            }
            let replaced = stored.target.take();
            stored.target = (!after.is_idle()).then(|| after.clone());
            state.note(process, || describe(&after, now));
            state.checks.traffic.written(
                &mut state.checks.violation,
                process,
                replaced.as_ref(),
                &after,
            );
            state.checks.circuit.written(
                &mut state.checks.violation,
                process,
                replaced.as_ref(),
                &after,
                now,
            );
            Ok(())
        };
        self.call("write_target", write).await?
    }

    async fn targets(&self, now: Timestamp) -> Result<Vec<TargetState>, StoreError> {
        let list = move |state: &mut State, _: &Process| {
            let restricts_until =
                |state: &TargetState| state.target.as_ref().and_then(Target::restricts_until);
            let states = state.records.targets.values();
            let mut found: Vec<TargetState> =
                states.filter(|state| restricts_until(state) > Some(now)).cloned().collect();
            found.sort_by_key(|state| std::cmp::Reverse(restricts_until(state)));
            found.truncate(MAX_TARGETS);
            found
        };
        self.call("targets", list).await
    }

    async fn take_slots(&self, key: &TargetKey, take: &Take) -> Result<TakenSlots, StoreError> {
        let (key, take) = (key.clone(), take.clone());
        let write = move |state: &mut State, process: &Process| {
            let stored = state.records.targets.entry(key.clone()).or_default();
            let Some(after) = take.advance(stored.counters.as_ref()) else {
                return TakenSlots::Refused(stored.clone());
            };
            let last = if take.is_late { after.last_late } else { after.last };
            state.checks.traffic.took(&key, stored.counters.as_ref(), &after);
            stored.counters = Some(after);
            let target = stored.target.clone();
            state.note(process, || format!("takes {} slots up to {last}", take.count));
            TakenSlots::Taken { last, target }
        };
        self.call("take_slots", write).await
    }

    async fn replace_counters(
        &self,
        key: &TargetKey,
        before: Option<&Counters>,
        after: &Counters,
    ) -> Result<(), ReplaceCountersError> {
        let (key, before, after) = (key.clone(), before.cloned(), after.clone());
        let write = move |state: &mut State, process: &Process| {
            let stored = state.records.targets.entry(key.clone()).or_default();
            if stored.counters != before {
                return Err(ReplaceCountersError::Changed(Box::new(stored.clone())));
            }
            state.checks.traffic.took(&key, stored.counters.as_ref(), &after);
            stored.counters = Some(after.clone());
            state.note(process, || format!("takes slots: {after:?}"));
            Ok(())
        };
        self.call("replace_counters", write).await?
    }
}
