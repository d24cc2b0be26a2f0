//! A call of the store, with its faults.

use std::{sync::Arc, time::Duration};

use shared::store::StoreError;

use crate::{
    state::State,
    world::{Process, Services},
};

/// What happens to a call.
enum CallOutcome {
    /// It takes effect and returns.
    Done,
    /// It fails without an effect.
    Fails,
    /// It takes effect after this time, and returns an error.
    Lost(Duration),
    /// It takes effect after this time, and its caller dies.
    Orphaned(Duration),
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("the store of the simulation failed".into())
}

impl Services {
    fn call_outcome(&self) -> CallOutcome {
        let world = &self.0.world;
        if world.is_within(world.plan.outage) || world.happens(world.plan.store_before) {
            return CallOutcome::Fails;
        }
        if world.happens(world.plan.store_after) {
            // Most of these calls take effect at once, some after the caller has retried.
            let late_ms = if world.below(3) == 0 { world.below(3000) } else { 0 };
            return CallOutcome::Lost(Duration::from_millis(late_ms));
        }
        if world.happens(world.plan.death) {
            let late_ms = if world.below(3) == 0 { world.below(60_000) } else { 0 };
            return CallOutcome::Orphaned(Duration::from_millis(late_ms));
        }
        CallOutcome::Done
    }

    /// Makes a call with this effect.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State, &Process) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let process = Arc::clone(&self.0);
        process.wait(process.latency()).await;
        let target = Arc::clone(&self.0);
        let apply = move || target.world.change(|state| effect(state, &target));
        let value = match self.call_outcome() {
            CallOutcome::Done => apply(),
            CallOutcome::Fails => {
                process.note(|| format!("{name} fails"));
                process.note_failure();
                process.wait(process.latency()).await;
                return Err(unavailable());
            }
            CallOutcome::Lost(late) => {
                process.note(|| format!("{name} fails, and takes effect in {late:?}"));
                process.note_failure();
                apply_after(late, apply);
                process.wait(process.latency()).await;
                return Err(unavailable());
            }
            CallOutcome::Orphaned(late) => {
                process.note(|| format!("{name} takes effect in {late:?}, without its caller"));
                process.die();
                apply_after(late, apply);
                std::future::pending().await
            }
        };
        process.alive().await;
        Ok(value)
    }
}

fn apply_after<T>(late: Duration, apply: impl FnOnce() -> T + Send + 'static) {
    if late.is_zero() {
        apply();
    } else {
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            apply();
        });
    }
}
