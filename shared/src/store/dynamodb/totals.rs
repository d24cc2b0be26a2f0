//! Counters, and destinations by the hour.
//!
//! What an invocation counted is an item of its own, one write unit whatever it counted, and the sweep's [`sum_up`] adds those to the sums
//! in one item, together with how far it got: so nothing is added twice, and the summing is a write a minute. A reader adds what is not
//! summed up yet.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    item::{Item, deflated, inflated, key, number, seconds, sortable, text, text_of},
    shards::END,
    table::{Condition, Found, Range, Refused, Table},
};
use crate::{
    clock::Timestamp,
    model::LastError,
    random::{Random, SystemRandom},
    store::{Activity, DestinationActivity, DestinationTotals, MAX_DESTINATIONS, MAX_READ, StoreError},
};

/// Items younger than this are left for the next run: their writers may not have written the ones before them yet.
const SETTLED: Duration = Duration::from_secs(30);

/// How long an item is kept if no sweep comes by.
const MAX_AGE: Duration = Duration::from_secs(2 * 24 * 3600);

/// Destinations of an hour that the sums keep: those that failed most.
const MAX_KEPT: usize = 300;

/// The most that the sums can be when inflated.
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

/// What one invocation counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Delta {
    #[serde(rename = "c", default)]
    counters: BTreeMap<String, u64>,
    #[serde(rename = "d", default)]
    destinations: BTreeMap<String, Seen>,
}

/// The sums of all of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Totals {
    #[serde(rename = "c", default)]
    counters: BTreeMap<String, u64>,
    /// By the hour since the epoch; this one and the last.
    #[serde(rename = "h", default)]
    hours: BTreeMap<i64, BTreeMap<String, Seen>>,
    /// Over all time.
    #[serde(rename = "w", default)]
    waiting: BTreeMap<String, i64>,
}

impl Totals {
    fn add(&mut self, hour: i64, delta: Delta) {
        for (name, count) in delta.counters {
            *self.counters.entry(name).or_default() += count;
        }
        for (destination, seen) in delta.destinations {
            *self.waiting.entry(destination.clone()).or_default() += seen.waiting;
            let sum = self.hours.entry(hour).or_default().entry(destination).or_default();
            sum.delivered += seen.delivered;
            sum.failed += seen.failed;
            if let Some((at, error)) = seen.last_error
                && sum.last_error.as_ref().is_none_or(|(latest, _)| *latest <= at)
            {
                sum.last_error = Some((at, error));
            }
        }
    }

    /// Forgets old hours, and of too many destinations those that failed least.
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

pub(super) async fn add(table: &Table, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
    let seen = |activity: &DestinationActivity| Seen {
        delivered: activity.delivered,
        failed: activity.failed,
        waiting: activity.waiting,
        last_error: activity.last_error.clone(),
    };
    let destinations = activity.destinations.iter().map(|(name, activity)| (name.clone(), seen(activity)));
    let delta = Delta { counters: activity.counters.clone(), destinations: destinations.collect() };
    let mut item = key("activity", format!("{}-{:016x}", sortable(now), SystemRandom.next_u64()));
    item.insert("d".to_owned(), written(&delta));
    item.insert("x".to_owned(), number(seconds(now.plus(MAX_AGE))));
    table.put(item).await
}

fn written(value: &impl Serialize) -> aws_sdk_dynamodb::types::AttributeValue {
    deflated(&serde_json::to_vec(value).unwrap_or_else(|_| unreachable!("all keys are strings or numbers")))
}

fn read<T: for<'de> Deserialize<'de>>(item: &Item) -> Option<T> {
    serde_json::from_slice(&inflated(item.get("d"), MAX_BYTES)?).ok()
}

/// The sums, up to which item they go, and how that was stored.
struct Stored {
    totals: Totals,
    position: Option<String>,
}

async fn stored(table: &Table) -> Result<Stored, StoreError> {
    let Some(item) = table.get(key("totals", "totals"), true).await? else {
        return Ok(Stored { totals: Totals::default(), position: None });
    };
    let position = text_of(&item, "f").map(str::to_owned);
    // What cannot be read is not added to: its position would be lost.
    let totals = read(&item).ok_or_else(|| StoreError::Unavailable("the totals cannot be read".into()))?;
    Ok(Stored { totals, position })
}

/// Adds what was counted after the position and before `end`, at most [`MAX_READ`] items. The position of the last one.
async fn add_unsummed(table: &Table, stored: &mut Stored, end: &str) -> Result<(), StoreError> {
    let range = Range {
        index: None,
        keys: ("p", "s"),
        partition: "activity".to_owned(),
        // The least that sorts after the position.
        between: (stored.position.as_ref().map_or_else(|| "0".to_owned(), |position| format!("{position}!")), end.to_owned()),
        backwards: false,
        filter: None,
        consistent: true,
    };
    let (mut read_so_far, mut start) = (0, None);
    while read_so_far < MAX_READ {
        let Found { items, read: more, last } = table.query(&range, MAX_READ - read_so_far, start).await?;
        read_so_far += more;
        for item in &items {
            let Some(place) = text_of(item, "s") else { continue };
            let at = place.split_once('-').and_then(|(at, _)| at.parse().ok()).map(Timestamp::from_millis);
            if let (Some(at), Some(delta)) = (at, read::<Delta>(item)) {
                stored.totals.add(hour(at), delta);
            }
            stored.position = Some(place.to_owned());
        }
        start = last;
        if start.is_none() {
            break;
        }
    }
    Ok(())
}

pub(super) async fn sum_up(table: &Table, now: Timestamp) -> Result<(), StoreError> {
    let mut stored = stored(table).await?;
    let before = stored.position.clone();
    add_unsummed(table, &mut stored, &sortable(now.minus(SETTLED))).await?;
    if stored.position == before {
        return Ok(());
    }
    stored.totals.bound(now);
    let condition = match before {
        Some(before) => Condition { expression: "f = :before", values: vec![(":before", text(before))] },
        None => Condition { expression: "attribute_not_exists(f)", values: Vec::new() },
    };
    let mut item = key("totals", "totals");
    item.insert("d".to_owned(), written(&stored.totals));
    item.extend(stored.position.map(|position| ("f".to_owned(), text(position))));
    match table.put_if(item, condition).await {
        // Another run was at it.
        Ok(()) | Err(Refused::Found(_) | Refused::Missing) => Ok(()),
        Err(Refused::Failed(error)) => Err(error),
    }
}

/// The sums with what is not summed up yet, as far as one call may read.
async fn current(table: &Table) -> Result<Totals, StoreError> {
    let mut stored = stored(table).await?;
    add_unsummed(table, &mut stored, END).await?;
    Ok(stored.totals)
}

pub(super) async fn counters(table: &Table) -> Result<BTreeMap<String, u64>, StoreError> {
    Ok(current(table).await?.counters)
}

pub(super) async fn destinations(table: &Table, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
    let mut totals = current(table).await?;
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
    listed.sort_by(|a, b| b.activity.failed.cmp(&a.activity.failed).then_with(|| a.destination.cmp(&b.destination)));
    listed.truncate(MAX_DESTINATIONS);
    Ok(listed)
}
