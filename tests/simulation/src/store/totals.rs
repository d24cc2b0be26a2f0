//! Counters, and totals of destinations.

use std::collections::BTreeMap;

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    store::{Activity, DestinationTotals, StoreError, Totals},
};

use crate::world::Services;

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
