//! The contract of [`Totals`]: counters, and destinations by the hour.
//!
//! An invocation writes what it counted as one item, in one of [`PARTS`] partitions, because one
//! partition takes 1,000 writes a second. The housekeeping ([`sum_up`]) adds the items of each
//! partition to its sums, one item, which also holds the position: so it adds no item twice. A
//! reader adds up all sums and the items that are not summed up yet.
//!
//! The first partition has the names from when there was only one, so an older version's counts
//! are included.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::{
    DynamoStore,
    item::{Item, deflated, inflated, key, number, seconds, sortable, text, text_of},
    table::{Condition, Found, Range, Refused, Table},
};
use crate::{
    clock::Timestamp,
    model::LastError,
    random::{Random, SystemRandom},
    store::{
        Activity, DestinationActivity, DestinationTotals, MAX_DESTINATIONS, MAX_READ, StoreError,
        Totals,
    },
};

#[async_trait]
impl Totals for DynamoStore {
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        self.table.put(activity_item(activity, SystemRandom.next_u64(), now)).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        Ok(current(&self.table, self.clock.now()).await?.counters)
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        destinations(&self.table, now).await
    }
}

/// Items younger than this wait for the next run, because an older item may still be in flight.
const SETTLED: Duration = Duration::from_secs(30);

/// The number of partitions. It never changes, because each partition has its sums.
const PARTS: u8 = 4;

/// A position further ahead than this comes from a wrong clock.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// How long an item is kept if no sweep runs.
const MAX_AGE: Duration = Duration::from_secs(2 * 24 * 3600);

/// The destinations of an hour in the sums: those that failed most.
const MAX_KEPT: usize = 300;

/// The size limit of the inflated sums.
const MAX_BYTES: usize = 4 * 1024 * 1024;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Seen {
    #[serde(rename = "d", default)]
    delivered: u64,
    #[serde(rename = "f", default)]
    failed: u64,
    #[serde(rename = "w", default)]
    waiting: i64,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    last_error: Option<(Timestamp, LastError)>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.failed += other.failed;
        if let Some((at, error)) = other.last_error
            && self.last_error.as_ref().is_none_or(|(latest, _)| *latest <= at)
        {
            self.last_error = Some((at, error));
        }
    }
}

/// What one invocation counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Delta {
    #[serde(rename = "c", default)]
    counters: BTreeMap<String, u64>,
    #[serde(rename = "d", default)]
    destinations: BTreeMap<String, Seen>,
}

/// The sums of one partition, or of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sums {
    #[serde(rename = "c", default)]
    counters: BTreeMap<String, u64>,
    /// By the hour since the epoch: this hour and the previous one.
    #[serde(rename = "h", default)]
    hours: BTreeMap<i64, BTreeMap<String, Seen>>,
    /// Over all time.
    #[serde(rename = "w", default)]
    waiting: BTreeMap<String, i64>,
}

impl Sums {
    fn add(&mut self, hour: i64, delta: Delta) {
        for (name, count) in delta.counters {
            *self.counters.entry(name).or_default() += count;
        }
        for (destination, seen) in delta.destinations {
            *self.waiting.entry(destination.clone()).or_default() += seen.waiting;
            self.hours.entry(hour).or_default().entry(destination).or_default().add(seen);
        }
    }

    /// Adds the sums of another partition.
    fn merge(&mut self, other: Self) {
        for (name, count) in other.counters {
            *self.counters.entry(name).or_default() += count;
        }
        for (destination, waiting) in other.waiting {
            *self.waiting.entry(destination).or_default() += waiting;
        }
        for (hour, destinations) in other.hours {
            for (destination, seen) in destinations {
                self.hours.entry(hour).or_default().entry(destination).or_default().add(seen);
            }
        }
    }

    /// Drops old hours and, of too many destinations, those that failed least.
    fn bound(&mut self, now: Timestamp) {
        self.hours.retain(|at, _| *at >= hour(now) - 1);
        for destinations in self.hours.values_mut() {
            keep_greatest(destinations, |seen| seen.failed);
        }
        self.waiting.retain(|_, waiting| *waiting != 0);
        keep_greatest(&mut self.waiting, |waiting| waiting.unsigned_abs());
    }
}

fn keep_greatest<T>(map: &mut BTreeMap<String, T>, by: impl Fn(&T) -> u64) {
    if map.len() <= MAX_KEPT {
        return;
    }
    let mut values: Vec<u64> = map.values().map(&by).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    let least = values[MAX_KEPT];
    map.retain(|_, value| by(value) > least);
}

/// The hour since the epoch.
fn hour(time: Timestamp) -> i64 {
    time.as_seconds().div_euclid(3600)
}

/// What one invocation counted, as an item; `random` chooses its partition and its place there.
pub(super) fn activity_item(activity: &Activity, random: u64, now: Timestamp) -> Item {
    let seen = |activity: &DestinationActivity| Seen {
        delivered: activity.delivered,
        failed: activity.failed,
        waiting: activity.waiting,
        last_error: activity.last_error.clone(),
    };
    let destinations =
        activity.destinations.iter().map(|(name, activity)| (name.clone(), seen(activity)));
    let delta = Delta { counters: activity.counters.clone(), destinations: destinations.collect() };
    let mut item = key(
        partition((random % u64::from(PARTS)) as u8),
        format!("{}-{random:016x}", sortable(now)),
    );
    item.insert("d".to_owned(), written(&delta));
    item.insert("x".to_owned(), number(seconds(now.plus(MAX_AGE))));
    item
}

fn written(value: &impl Serialize) -> aws_sdk_dynamodb::types::AttributeValue {
    deflated(
        &serde_json::to_vec(value)
            .unwrap_or_else(|_| unreachable!("all keys are strings or numbers")),
    )
}

fn read<T: for<'de> Deserialize<'de>>(item: &Item) -> Option<T> {
    serde_json::from_slice(&inflated(item.get("d"), MAX_BYTES)?).ok()
}

fn partition(part: u8) -> String {
    if part == 0 { "activity".to_owned() } else { format!("activity/{part}") }
}

fn sums_key(part: u8) -> Item {
    key("totals", if part == 0 { "totals".to_owned() } else { part.to_string() })
}

/// The sums of a partition, and the position up to which they go.
struct Stored {
    part: u8,
    totals: Sums,
    position: Option<String>,
}

async fn stored(table: &Table, part: u8) -> Result<Stored, StoreError> {
    match table.get(sums_key(part), true).await? {
        Some(item) => Stored::read(part, &item),
        None => Ok(Stored { part, totals: Sums::default(), position: None }),
    }
}

impl Stored {
    fn read(part: u8, item: &Item) -> Result<Self, StoreError> {
        let position = text_of(item, "f").map(str::to_owned);
        // Nothing is added to unreadable sums: their position would be lost.
        let totals = read(item)
            .ok_or_else(|| StoreError::Unavailable("the totals cannot be read".into()))?;
        Ok(Self { part, totals, position })
    }

    fn add(&mut self, counted: &Item) {
        let Some(place) = text_of(counted, "s") else { return };
        if let (Some(at), Some(delta)) = (counted_at(place), read::<Delta>(counted)) {
            self.totals.add(hour(at), delta);
        }
        self.position = Some(place.to_owned());
    }

    fn item(&self) -> Item {
        let mut item = sums_key(self.part);
        item.insert("d".to_owned(), written(&self.totals));
        item.extend(self.position.as_ref().map(|position| ("f".to_owned(), text(position))));
        item
    }

    /// Adds the items after the position and before `end`, at most `most`. Returns whether there
    /// may be more.
    async fn add_unsummed(
        &mut self,
        table: &Table,
        end: &str,
        most: usize,
    ) -> Result<bool, StoreError> {
        let range = Range {
            index: None,
            keys: ("p", "s"),
            partition: partition(self.part),
            // The lowest key after the position.
            between: (
                self.position
                    .as_ref()
                    .map_or_else(|| "0".to_owned(), |position| format!("{position}!")),
                end.to_owned(),
            ),
            backwards: false,
            filter: None,
            consistent: true,
        };
        let (mut read_so_far, mut start) = (0, None);
        while read_so_far < most {
            let Found { items, read: more, last } =
                table.query(&range, most - read_so_far, start).await?;
            read_so_far += more;
            for item in &items {
                self.add(item);
            }
            start = last;
            if start.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves a position that a wrong clock put into the future back to the present. The sums may
    /// lack items from in between. Without this, they would lack every item until then.
    fn take_back(&mut self, now: Timestamp) {
        let position = self.position.as_deref().and_then(counted_at);
        if let Some(at) = position.filter(|at| *at > now.plus(MAX_AHEAD)) {
            tracing::warn!(%at,
                "A clock that was ahead summed up the totals. They continue from the present.");
            self.position = Some(sortable(now.minus(SETTLED)));
        }
    }

    /// Replaces the sums that went up to `before`. Returns whether no other run did so first.
    async fn write(&self, table: &Table, before: Option<String>) -> Result<bool, StoreError> {
        let condition = match before {
            Some(before) => {
                Condition { expression: "f = :before", values: vec![(":before", text(before))] }
            }
            None => Condition { expression: "attribute_not_exists(f)", values: Vec::new() },
        };
        match table.put_if(self.item(), condition).await {
            Ok(()) => Ok(true),
            Err(Refused::Found(_) | Refused::Missing) => Ok(false),
            Err(Refused::Failed(error)) => Err(error),
        }
    }
}

/// When the item with this sort key was counted.
fn counted_at(place: &str) -> Option<Timestamp> {
    let at = place.split_once('-').map_or(place, |(at, _)| at);
    at.parse().ok().map(Timestamp::from_millis)
}

/// Sums up all partitions, each until it has caught up, another run works on it, or `is_over`.
pub(super) async fn sum_up(
    table: &Table,
    now: Timestamp,
    is_over: impl Fn() -> bool + Copy,
) -> Result<(), StoreError> {
    try_join_all((0..PARTS).map(|part| sum_up_part(table, part, now, is_over))).await.map(drop)
}

async fn sum_up_part(
    table: &Table,
    part: u8,
    now: Timestamp,
    is_over: impl Fn() -> bool,
) -> Result<(), StoreError> {
    let mut stored = stored(table, part).await?;
    loop {
        let before = stored.position.clone();
        stored.take_back(now);
        let more = stored.add_unsummed(table, &sortable(now.minus(SETTLED)), MAX_READ).await?;
        if stored.position == before {
            return Ok(());
        }
        stored.totals.bound(now);
        if !stored.write(table, before).await? || !more || is_over() {
            return Ok(());
        }
    }
}

/// The sums of all partitions and the items that are not summed up yet, as far as one call may
/// read.
async fn current(table: &Table, now: Timestamp) -> Result<Sums, StoreError> {
    let end = &sortable(now.plus(MAX_AGE / 2));
    let parts = try_join_all((0..PARTS).map(|part| async move {
        let mut stored = stored(table, part).await?;
        stored.add_unsummed(table, end, MAX_READ / usize::from(PARTS)).await?;
        Ok::<_, StoreError>(stored.totals)
    }));
    let mut all = Sums::default();
    for part in parts.await? {
        all.merge(part);
    }
    Ok(all)
}

async fn destinations(table: &Table, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
    let mut totals = current(table, now).await?;
    let mut sums: BTreeMap<String, DestinationActivity> = BTreeMap::new();
    for at in [hour(now) - 1, hour(now)] {
        for (destination, seen) in totals.hours.remove(&at).unwrap_or_default() {
            let sum = sums.entry(destination).or_default();
            sum.delivered += seen.delivered;
            sum.failed += seen.failed;
            if seen.last_error.is_some() {
                sum.last_error = seen.last_error;
            }
        }
    }
    let listed = sums.into_iter().map(|(destination, mut activity)| {
        activity.waiting = totals.waiting.get(&destination).copied().unwrap_or_default();
        DestinationTotals { destination, activity }
    });
    let mut listed: Vec<DestinationTotals> = listed.collect();
    listed.sort_by(|a, b| {
        b.activity.failed.cmp(&a.activity.failed).then_with(|| a.destination.cmp(&b.destination))
    });
    listed.truncate(MAX_DESTINATIONS);
    Ok(listed)
}

/// For the golden files: the sums of one item.
#[cfg(test)]
pub(super) fn summed(counted: &Item) -> Item {
    let mut stored = Stored { part: 1, totals: Sums::default(), position: None };
    stored.add(counted);
    stored.item()
}

/// For the golden files: the sums of an item as JSON. Reads and writes them.
#[cfg(test)]
pub(super) fn inflated_sums(item: &Item) -> String {
    let stored = Stored::read(1, item).unwrap_or_else(|error| panic!("{error}"));
    serde_json::to_string(&stored.totals).unwrap_or_else(|error| panic!("{error}"))
}
