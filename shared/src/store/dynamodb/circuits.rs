//! Circuits: an item each, and an entry in the index `work`, where those that opened come last and of those the latest written, so that
//! reading backwards gives what is asked for.

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

const PARTITION: &str = "circuit";

pub(super) async fn get(table: &Table, destination: &str) -> Result<Option<Circuit>, StoreError> {
    let item = table.get(key(PARTITION, destination), true).await?;
    Ok(item.as_ref().and_then(read))
}

/// What another version wrote and this one cannot read is as if there was none: all is well until it fails again.
fn read(item: &Item) -> Option<Circuit> {
    serde_json::from_str(text_of(item, "d")?).ok()
}

/// Each write has a name, so that one that the client sent twice is told from somebody else's that looks like it.
pub(super) async fn write(table: &Table, before: Option<u64>, after: &Circuit) -> Result<bool, StoreError> {
    let key = key(PARTITION, &after.destination);
    let condition = match before {
        Some(revision) => Condition { expression: "v = :before", values: vec![(":before", number(revision))] },
        None => Condition { expression: "attribute_not_exists(p)", values: Vec::new() },
    };
    if after.is_idle() {
        return match before {
            Some(_) => table.delete_if(key, condition).await,
            None => Ok(table.get(key, true).await?.is_none()),
        };
    }
    let name = format!("{:016x}", SystemRandom.next_u64());
    let json = serde_json::to_string(after).unwrap_or_else(|_| unreachable!("a circuit has only string keys"));
    let place = format!("{}/{}", u8::from(after.open_until.is_some()), sortable(after.touched_at));
    let mut item = key;
    let attributes = [
        ("v", number(after.revision)),
        ("d", text(json)),
        ("w", text(&name)),
        ("i", text(PARTITION)),
        ("j", text(place)),
        ("x", number(seconds(after.touched_at.plus(MAX_AGE)))),
    ];
    item.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
    match table.put_if(item, condition).await {
        Ok(()) => Ok(true),
        Err(Refused::Found(stored)) => {
            Ok(text_of(&stored, "w") == Some(&name) && number_of(&stored, "v") == Some(after.revision as i64))
        }
        Err(Refused::Missing) => Ok(false),
        Err(Refused::Failed(error)) => Err(error),
    }
}

pub(super) async fn all(table: &Table) -> Result<Vec<Circuit>, StoreError> {
    let range = Range {
        index: Some("work"),
        keys: ("i", "j"),
        partition: PARTITION.to_owned(),
        between: ("0".to_owned(), END.to_owned()),
        backwards: true,
        filter: None,
        consistent: false,
    };
    let found = table.query(&range, MAX_DESTINATIONS, None).await?;
    if found.items.is_empty() {
        return Ok(Vec::new());
    }
    let keys = found.items.iter().filter_map(|entry| Some(key(PARTITION, text_of(entry, "s")?)));
    let items = table.batch_get(keys.collect()).await?;
    let mut circuits: Vec<Circuit> = items.iter().filter_map(read).collect();
    // The index trails; by now another may have opened.
    circuits.sort_by_key(|circuit| std::cmp::Reverse((circuit.open_until.is_some(), circuit.touched_at)));
    Ok(circuits)
}
