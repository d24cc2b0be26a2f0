//! Counters, totals of destinations, and circuits.

use std::collections::BTreeMap;

use async_trait::async_trait;
use shared::{
    circuit::Circuit,
    clock::Timestamp,
    store::{Activity, DestinationTotals, StoreError, Totals, WriteCircuitError},
};

use crate::{
    state::State,
    world::{Process, Services},
};

#[async_trait]
impl Totals for Services {
    async fn add_activity(&self, activity: &Activity, _: Timestamp) -> Result<(), StoreError> {
        let activity = activity.clone();
        self.call("add_activity", move |state, _| add(&mut state.records.totals, &activity)).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.call("counters", |state, _| state.records.totals.counters.clone()).await
    }

    async fn destinations(&self, _: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        self.call("destinations", |_, _| Vec::new()).await
    }

    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError> {
        let destination = destination.to_owned();
        self.call("circuit", move |state, _| state.records.circuits.get(&destination).cloned())
            .await
    }

    async fn write_circuit(
        &self,
        before: Option<u64>,
        after: &Circuit,
    ) -> Result<(), WriteCircuitError> {
        let after = after.clone();
        let write = move |state: &mut State, process: &Process| {
            let now = state.now();
            let circuits = &mut state.records.circuits;
            if circuits.get(&after.destination).map(|stored| stored.revision) != before {
                return Err(WriteCircuitError::Changed);
            }
            state.checks.circuit.written(
                &mut state.checks.violation,
                process,
                circuits.get(&after.destination),
                &after,
                now,
            );
            if after.is_idle() {
                circuits.remove(&after.destination);
            } else {
                circuits.insert(after.destination.clone(), after);
            }
            Ok(())
        };
        self.call("write_circuit", write).await?
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError> {
        self.call("circuits", |state, _| state.records.circuits.values().cloned().collect()).await
    }
}

fn add(totals: &mut Activity, more: &Activity) {
    for (name, count) in &more.counters {
        *totals.counters.entry(name.clone()).or_default() += count;
    }
    for (destination, did) in &more.destinations {
        let total = totals.destinations.entry(destination.clone()).or_default();
        total.delivered += did.delivered;
        total.failed += did.failed;
        total.waiting += did.waiting;
    }
}
