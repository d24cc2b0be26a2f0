//! The contract of [`Targets`]: an item for each target, with its slot counters beside it.
//!
//! Only a target that restricts attempts has an entry in the index `work`, sorted by the time until
//! which it does. A failure that opens no circuit costs one write unit, because it changes no
//! index.
//!
//! Items are spread over [`PARTS`] partitions by a hash of the key (`store/shard.rs`). One
//! partition takes 1,000 write units a second.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join_all;

use super::{
    DynamoStore,
    item::{Item, key, number, number_of, seconds, sortable, text, text_of},
    shards::END,
    table::{Change, Condition, Range, Refused, Table},
};
use crate::{
    clock::Timestamp,
    random::{Random, SystemRandom},
    store::{
        MAX_TARGETS, ReplaceCountersError, StoreError, TARGET_TTL, TakenSlots, TargetState,
        Targets, WriteTargetError,
        shard::{ShardHash, shard},
    },
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
};

/// The number of partitions. It is small, because every busy process of `deliver` reads all of them
/// every other second.
const PARTS: u8 = 4;

fn partition(part: u8) -> String {
    format!("target/{part}")
}

fn partition_of(target: &TargetKey) -> String {
    partition(shard(target.as_str().as_bytes(), ShardHash::Fnv1a, PARTS))
}

pub(super) fn item_key(target: &TargetKey) -> Item {
    key(partition_of(target), target.as_str())
}

#[async_trait]
impl Targets for DynamoStore {
    async fn target(&self, key: &TargetKey) -> Result<TargetState, StoreError> {
        let item = self.table.get(item_key(key), true).await?;
        Ok(item.as_ref().map(read).unwrap_or_default())
    }

    async fn write_target(
        &self,
        before: Option<u64>,
        after: &Target,
    ) -> Result<(), WriteTargetError> {
        let condition = match before {
            Some(revision) => {
                Condition { expression: "v = :before", values: vec![(":before", number(revision))] }
            }
            None => Condition { expression: "attribute_not_exists(v)", values: Vec::new() },
        };
        // Tells a write that the client sent twice from another worker's write that looks like it.
        let name = format!("{:016x}", SystemRandom.next_u64());
        let mut change = Change::default();
        for (attribute, value) in target_attributes(after, &name) {
            change.put(attribute, value);
        }
        let is_ours = |stored: &Item| {
            text_of(stored, "w") == Some(&name)
                && number_of(stored, "v") == Some(after.revision as i64)
        };
        match self.table.update_if(item_key(&after.key), change, condition, false).await {
            Ok(_) => Ok(()),
            Err(Refused::Found(stored)) if is_ours(&stored) => Ok(()),
            Err(Refused::Found(stored)) => {
                Err(WriteTargetError::Changed(read(&stored).target.map(Box::new)))
            }
            Err(Refused::Missing) => Err(WriteTargetError::Changed(None)),
            Err(Refused::Failed(error)) => Err(error.into()),
        }
    }

    async fn targets(&self, now: Timestamp) -> Result<Vec<TargetState>, StoreError> {
        restricting(&self.table, now).await
    }

    async fn take_slots(&self, key: &TargetKey, take: &Take) -> Result<TakenSlots, StoreError> {
        let counter = if take.is_late { "kl" } else { "kn" };
        let condition = Condition {
            expression: if take.is_late {
                "kg = :generation AND kl >= :floor"
            } else {
                "kg = :generation AND kn >= :floor"
            },
            values: vec![(":generation", text(&take.generation)), (":floor", number(take.floor))],
        };
        let mut change = Change::default();
        change.add(counter, number(take.count));
        change.put("x", Some(self.expiry_of_target()));
        match self.table.update_if(item_key(key), change, condition, true).await {
            Ok(stored) => {
                let TargetState { target, counters } = read(&stored);
                let Some(counters) = counters else {
                    return Ok(TakenSlots::Refused(TargetState { target, counters }));
                };
                let last = if take.is_late { counters.last_late } else { counters.last };
                Ok(TakenSlots::Taken { last, target })
            }
            Err(Refused::Found(stored)) => Ok(TakenSlots::Refused(read(&stored))),
            Err(Refused::Missing) => Ok(TakenSlots::Refused(TargetState::default())),
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    async fn replace_counters(
        &self,
        key: &TargetKey,
        before: Option<&Counters>,
        after: &Counters,
    ) -> Result<(), ReplaceCountersError> {
        let condition = match before {
            Some(before) => Condition {
                expression: "kg = :generation AND kn = :last AND kl = :late",
                values: vec![
                    (":generation", text(&before.generation)),
                    (":last", number(before.last)),
                    (":late", number(before.last_late)),
                ],
            },
            None => Condition { expression: "attribute_not_exists(kg)", values: Vec::new() },
        };
        let mut change = Change::default();
        for (attribute, value) in counter_attributes(after) {
            change.put(attribute, Some(value));
        }
        change.put("x", Some(self.expiry_of_target()));
        match self.table.update_if(item_key(key), change, condition, false).await {
            Ok(_) => Ok(()),
            Err(Refused::Found(stored)) => {
                Err(ReplaceCountersError::Changed(Box::new(read(&stored))))
            }
            Err(Refused::Missing) => Err(ReplaceCountersError::Changed(Box::default())),
            Err(Refused::Failed(error)) => Err(error.into()),
        }
    }
}

impl DynamoStore {
    fn expiry_of_target(&self) -> AttributeValue {
        number(seconds(self.clock.now().plus(TARGET_TTL)))
    }
}

/// The attributes of a target, whose write has this name. An idle target has none of them.
pub(super) fn target_attributes(
    target: &Target,
    name: &str,
) -> [(&'static str, Option<AttributeValue>); 6] {
    let json = || {
        serde_json::to_string(target)
            .unwrap_or_else(|_| unreachable!("a target has only string keys"))
    };
    let stored = (!target.is_idle()).then_some(());
    let until = target.restricts_until();
    [
        ("v", stored.map(|()| number(target.revision))),
        ("d", stored.map(|()| text(json()))),
        ("w", stored.map(|()| text(name))),
        ("i", until.map(|_| text(partition_of(&target.key)))),
        ("j", until.map(|until| text(sortable(until)))),
        ("x", Some(number(seconds(target.touched_at.plus(TARGET_TTL))))),
    ]
}

pub(super) fn counter_attributes(counters: &Counters) -> [(&'static str, AttributeValue); 3] {
    [
        ("kg", text(&counters.generation)),
        ("kn", number(counters.last)),
        ("kl", number(counters.last_late)),
    ]
}

/// Reads an item. An unreadable target counts as none.
pub(super) fn read(item: &Item) -> TargetState {
    let counters = || {
        Some(Counters {
            generation: text_of(item, "kg")?.to_owned(),
            last: number_of(item, "kn")?,
            last_late: number_of(item, "kl")?,
        })
    };
    let target = text_of(item, "d").and_then(|json| serde_json::from_str(json).ok());
    TargetState { target, counters: counters() }
}

async fn restricting(table: &Table, now: Timestamp) -> Result<Vec<TargetState>, StoreError> {
    let found = try_join_all((0..PARTS).map(|part| entries(table, part, now))).await?;
    let mut entries: Vec<Item> = found.into_iter().flatten().collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    entries.sort_by(|a, b| text_of(b, "j").cmp(&text_of(a, "j")));
    entries.truncate(MAX_TARGETS);
    let keys =
        entries.iter().filter_map(|entry| Some(key(text_of(entry, "p")?, text_of(entry, "s")?)));
    let items = table.batch_get(keys.collect()).await?;
    // The index trails the items, so decide by the items.
    let restricts = |state: &TargetState| {
        let until = state.target.as_ref().and_then(Target::restricts_until);
        until.is_some_and(|until| until > now)
    };
    Ok(items.iter().map(read).filter(restricts).collect())
}

/// The entries of a partition, those that restrict for the longest first.
async fn entries(table: &Table, part: u8, now: Timestamp) -> Result<Vec<Item>, StoreError> {
    let range = Range {
        index: Some("work"),
        keys: ("i", "j"),
        partition: partition(part),
        between: (sortable(now), END.to_owned()),
        backwards: true,
        filter: None,
        consistent: false,
    };
    Ok(table.query(&range, MAX_TARGETS, None).await?.items)
}
