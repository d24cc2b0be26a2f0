//! Circuits: an item each, and an entry in the index `work`, where those that opened come last and
//! of those the latest written, so that reading backwards gives what is asked for. They are spread
//! over [`PARTS`] partitions by destination: one takes 1,000 write units a second, of which each
//! write of a circuit needs two in the index.
//!
//! A destination's place depends on nothing but its name. A version that knows of one partition
//! only keeps circuits of its own there, so while both are at work each knows what its own
//! processes saw.

use futures_util::future::try_join_all;

use super::{
    item::{Item, key, number, number_of, seconds, sortable, text, text_of},
    shards::END,
    table::{Condition, Range, Refused, Table},
};
use crate::{
    circuit::{Circuit, MAX_AGE},
    random::{Random, SystemRandom},
    store::{MAX_DESTINATIONS, StoreError},
};

/// The partitions. Each process of `deliver` that is at work reads all of them every other second,
/// so not more than are needed.
const PARTS: u8 = 4;

/// The first one has the name that there was before there were several.
fn partition(part: u8) -> String {
    if part == 0 { "circuit".to_owned() } else { format!("circuit/{part}") }
}

/// FNV-1a over the destination's name.
fn part_of(destination: &str) -> u8 {
    let hash = destination
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash ^ (hash >> 16)) % u32::from(PARTS)) as u8
}

fn circuit_key(destination: &str) -> Item {
    key(partition(part_of(destination)), destination)
}

pub(super) async fn get(table: &Table, destination: &str) -> Result<Option<Circuit>, StoreError> {
    let item = table.get(circuit_key(destination), true).await?;
    Ok(item.as_ref().and_then(read))
}

/// What another version wrote and this one cannot read is as if there was none: all is well until
/// it fails again.
fn read(item: &Item) -> Option<Circuit> {
    serde_json::from_str(text_of(item, "d")?).ok()
}

/// Each write has a name, so that one that the client sent twice is told from somebody else's that
/// looks like it.
pub(super) async fn write(
    table: &Table,
    before: Option<u64>,
    after: &Circuit,
) -> Result<bool, StoreError> {
    let key = circuit_key(&after.destination);
    let condition = match before {
        Some(revision) => {
            Condition { expression: "v = :before", values: vec![(":before", number(revision))] }
        }
        None => Condition { expression: "attribute_not_exists(p)", values: Vec::new() },
    };
    if after.is_idle() {
        return match before {
            Some(_) => table.delete_if(key, condition).await,
            None => Ok(table.get(key, true).await?.is_none()),
        };
    }
    let name = format!("{:016x}", SystemRandom.next_u64());
    let json = serde_json::to_string(after)
        .unwrap_or_else(|_| unreachable!("a circuit has only string keys"));
    let place = format!("{}/{}", u8::from(after.open_until.is_some()), sortable(after.touched_at));
    let mut item = key;
    let attributes = [
        ("v", number(after.revision)),
        ("d", text(json)),
        ("w", text(&name)),
        ("i", text(partition(part_of(&after.destination)))),
        ("j", text(place)),
        ("x", number(seconds(after.touched_at.plus(MAX_AGE)))),
    ];
    item.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
    match table.put_if(item, condition).await {
        Ok(()) => Ok(true),
        Err(Refused::Found(stored)) => Ok(text_of(&stored, "w") == Some(&name)
            && number_of(&stored, "v") == Some(after.revision as i64)),
        Err(Refused::Missing) => Ok(false),
        Err(Refused::Failed(error)) => Err(error),
    }
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
    // What an earlier version keeps in the first part is not ours.
    let mut circuits: Vec<Circuit> = Vec::with_capacity(items.len());
    for item in &items {
        let is_in_place = text_of(item, "s")
            .is_some_and(|name| text_of(item, "p") == Some(&partition(part_of(name))));
        circuits.extend(read(item).filter(|_| is_in_place));
    }
    // The index trails; by now another may have opened.
    circuits.sort_by_key(|circuit| {
        std::cmp::Reverse((circuit.open_until.is_some(), circuit.touched_at))
    });
    Ok(circuits)
}

/// The entries of a part: those that opened before those that only failed, the latest first.
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
