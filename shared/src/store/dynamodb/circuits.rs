//! Circuits: one item each, with an entry in the index `work`. There, circuits that opened sort
//! after the others, and the latest written last, so a backward read returns the wanted order.
//!
//! They are spread over [`PARTS`] partitions by a hash of the destination (`store/shard.rs`). One
//! partition takes 1,000 write units a second, and a write of a circuit takes two in the index.
//!
//! A version that knows only the first partition keeps its own circuits there. While both versions
//! run, each knows what its own processes saw.

use futures_util::future::try_join_all;

use super::{
    item::{Item, key, number, number_of, seconds, sortable, text, text_of},
    shards::END,
    table::{Condition, Range, Refused, Table},
};
use crate::{
    circuit::{Circuit, MAX_AGE},
    random::write_name,
    store::{
        MAX_DESTINATIONS, StoreError, WriteCircuitError,
        shard::{ShardHash, shard},
    },
};

/// The number of partitions. It is small, because every busy process of `deliver` reads all of them
/// every other second.
const PARTS: u8 = 4;

/// The key of a partition. The first has the name from when there was only one.
fn partition(part: u8) -> String {
    if part == 0 { "circuit".to_owned() } else { format!("circuit/{part}") }
}

fn part_of(destination: &str) -> u8 {
    shard(destination.as_bytes(), ShardHash::Fnv1a, PARTS)
}

fn circuit_key(destination: &str) -> Item {
    key(partition(part_of(destination)), destination)
}

pub(super) async fn get(table: &Table, destination: &str) -> Result<Option<Circuit>, StoreError> {
    let item = table.get(circuit_key(destination), true).await?;
    Ok(item.as_ref().and_then(read))
}

/// Reads a circuit. An unreadable one of another version counts as none: the destination counts as
/// healthy until it fails again.
pub(super) fn read(item: &Item) -> Option<Circuit> {
    serde_json::from_str(text_of(item, "d")?).ok()
}

pub(super) async fn write(
    table: &Table,
    before: Option<u64>,
    after: &Circuit,
) -> Result<(), WriteCircuitError> {
    let condition = match before {
        Some(revision) => Condition::revision(revision),
        None => Condition::absent(),
    };
    // Tells a write that the client sent twice from another worker's write that looks like it.
    let name = write_name();
    let written = if !after.is_idle() {
        table.put_if(circuit_item(after, &name), condition).await
    } else if before.is_some() {
        table.delete_if(circuit_key(&after.destination), condition).await
    } else {
        let stored = table.get(circuit_key(&after.destination), true).await?;
        stored.map_or(Ok(()), |stored| Err(Refused::Found(stored)))
    };
    let is_ours = |stored: &Item| {
        text_of(stored, "w") == Some(&name) && number_of(stored, "v") == Some(after.revision as i64)
    };
    match written {
        Ok(()) => Ok(()),
        Err(Refused::Found(stored)) if is_ours(&stored) => Ok(()),
        Err(Refused::Found(_) | Refused::Missing) => Err(WriteCircuitError::Changed),
        Err(Refused::Failed(error)) => Err(error.into()),
    }
}

/// The circuit as an item; `name` is of this write.
pub(super) fn circuit_item(circuit: &Circuit, name: &str) -> Item {
    let json = serde_json::to_string(circuit)
        .unwrap_or_else(|_| unreachable!("a circuit has only string keys"));
    let opened = u8::from(circuit.open_until.is_some());
    let mut item = circuit_key(&circuit.destination);
    let attributes = [
        ("v", number(circuit.revision)),
        ("d", text(json)),
        ("w", text(name)),
        ("i", text(partition(part_of(&circuit.destination)))),
        ("j", text(format!("{opened}/{}", sortable(circuit.touched_at)))),
        ("x", number(seconds(circuit.touched_at.plus(MAX_AGE)))),
    ];
    item.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
    item
}

pub(super) async fn all(table: &Table) -> Result<Vec<Circuit>, StoreError> {
    let found = try_join_all((0..PARTS).map(|part| latest(table, part))).await?;
    let mut entries: Vec<Item> = found.into_iter().flatten().collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    entries.sort_by(|a, b| text_of(b, "j").cmp(&text_of(a, "j")));
    entries.truncate(MAX_DESTINATIONS);
    let keys =
        entries.iter().filter_map(|entry| Some(key(text_of(entry, "p")?, text_of(entry, "s")?)));
    let items = table.batch_get(keys.collect()).await?;
    // An earlier version keeps its own circuits in the first partition. Leave those out.
    let mut circuits: Vec<Circuit> = Vec::with_capacity(items.len());
    for item in &items {
        let is_in_place = text_of(item, "s")
            .is_some_and(|name| text_of(item, "p") == Some(&partition(part_of(name))));
        circuits.extend(read(item).filter(|_| is_in_place));
    }
    // The index trails the items, so order by the items.
    circuits.sort_by_key(|circuit| {
        std::cmp::Reverse((circuit.open_until.is_some(), circuit.touched_at))
    });
    Ok(circuits)
}

/// The entries of a partition: circuits that opened, then those that only failed, the latest
/// first.
async fn latest(table: &Table, part: u8) -> Result<Vec<Item>, StoreError> {
    let range = Range {
        index: Some("work"),
        keys: ("i", "j"),
        partition: partition(part),
        between: ("0".to_owned(), END.to_owned()),
        backwards: true,
        filter: None,
        consistent: false,
    };
    Ok(table.query(&range, MAX_DESTINATIONS, None).await?.items)
}
