//! The units that DynamoDB bills for a request, by its published rules, from the sizes of the
//! items.
//!
//! - A write unit is 1 KiB of the item, the larger of before and after. A refused write is billed
//!   by the stored item. A transaction is billed twice.
//! - Each new or removed index entry is another write. A moved entry is two. An entry with
//!   unchanged projected attributes is none.
//! - A read unit is 4 KiB, and an eventually consistent read is half a unit. A query rounds up the
//!   sum of the entries it reads, before filtering.
//!
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

/// An item or a key in DynamoDB's JSON format.
pub type Item = Map<String, Value>;

/// The size of a write unit.
const WRITE_BYTES: usize = 1024;

/// The size of a consistent read unit.
const READ_BYTES: usize = 4096;

/// Name, partition key and sort key of each index. All indexes project keys only.
const INDEXES: [(&str, &str, &str); 4] = [
    ("work", "i", "j"),
    ("reference", "r", "s"),
    ("dead_reference", "l", "j"),
    ("application", "a", "s"),
];

/// The size of an attribute's value: the bytes of text or binary data. A number takes one byte for
/// two digits and one more.
fn value_bytes(value: &Value) -> usize {
    let Some((kind, value)) = value.as_object().and_then(|typed| typed.iter().next()) else {
        return 0;
    };
    match (kind.as_str(), value.as_str()) {
        ("S", Some(text)) => text.len(),
        ("N", Some(digits)) => digits.trim_start_matches('-').len().div_ceil(2) + 1,
        ("B", Some(base64)) => STANDARD.decode(base64).map_or(base64.len(), |bytes| bytes.len()),
        _ => 1,
    }
}

/// The size of an item: its names and values.
pub fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.get("S")?.as_str()
}

/// The entry of an item in an index.
fn entry(item: &Item, (_, partition, sort): (&str, &str, &str)) -> Option<Item> {
    text(item, partition)?;
    text(item, sort)?;
    let names = ["p", "s", partition, sort];
    Some(
        item.iter()
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    )
}

/// The table after all requests so far.
#[derive(Debug, Default)]
pub struct Mirror {
    items: BTreeMap<(String, String), Item>,
}

/// The part of a range that a query reads.
#[derive(Debug)]
pub struct QueryRange<'a> {
    /// The index, or the table.
    pub index: Option<&'a str>,
    /// The partition.
    pub partition: &'a str,
    /// The first and last sort keys, inclusive.
    pub between: (&'a str, &'a str),
    /// Whether the query reads in descending order.
    pub backwards: bool,
    /// The exclusive start key.
    pub start: Option<&'a Item>,
    /// The number of entries read, from the response.
    pub scanned: usize,
}

impl Mirror {
    fn name(key: &Item) -> Option<(String, String)> {
        Some((text(key, "p")?.to_owned(), text(key, "s")?.to_owned()))
    }

    /// The item under this key.
    pub fn get(&self, key: &Item) -> Option<&Item> {
        self.items.get(&Self::name(key)?)
    }

    /// Stores `after` under the key and returns the units of the write.
    pub fn write(&mut self, key: &Item, after: Option<Item>) -> f64 {
        let Some(name) = Self::name(key) else { return 0.0 };
        let before = self.items.remove(&name);
        let units = |item: Option<&Item>| {
            item.map_or(1, |item| item_bytes(item).div_ceil(WRITE_BYTES).max(1))
        };
        let mut total = units(before.as_ref()).max(units(after.as_ref()));
        for index in INDEXES {
            let entries =
                [&before, &after].map(|item| item.as_ref().and_then(|item| entry(item, index)));
            let bytes = |entry: &Item| item_bytes(entry).div_ceil(WRITE_BYTES).max(1);
            if entries[0] != entries[1] {
                total += entries.iter().flatten().map(bytes).sum::<usize>();
            }
        }
        if let Some(after) = after {
            self.items.insert(name, after);
        }
        total as f64
    }

    /// The units of a write with a failed condition.
    pub fn refused(&self, key: &Item) -> f64 {
        self.get(key).map_or(1, |item| item_bytes(item).div_ceil(WRITE_BYTES).max(1)) as f64
    }

    /// The units of reading the item under a key.
    pub fn read(&self, key: &Item, consistent: bool) -> f64 {
        read_units(self.get(key).map_or(0, item_bytes), consistent)
    }

    /// The units of a query.
    pub fn query(&self, range: &QueryRange<'_>, consistent: bool) -> f64 {
        let index =
            range.index.and_then(|name| INDEXES.into_iter().find(|(known, ..)| *known == name));
        let (partition, sort) = index.map_or(("p", "s"), |(_, partition, sort)| (partition, sort));
        let place = |item: &Item| {
            Some((
                text(item, sort)?.to_owned(),
                text(item, "p")?.to_owned(),
                text(item, "s")?.to_owned(),
            ))
        };
        let start = range.start.and_then(place);
        let mut entries: Vec<_> = self
            .items
            .values()
            .filter(|item| text(item, partition) == Some(range.partition))
            .filter(|item| {
                text(item, sort).is_some_and(|at| range.between.0 <= at && at <= range.between.1)
            })
            .filter_map(|item| {
                Some((
                    place(item)?,
                    index.map_or_else(|| Some(item.clone()), |index| entry(item, index))?,
                ))
            })
            .collect();
        entries.sort_by(|(a, _), (b, _)| if range.backwards { b.cmp(a) } else { a.cmp(b) });
        let is_after_start = |at: &(String, String, String)| {
            start.as_ref().is_none_or(|start| if range.backwards { at < start } else { at > start })
        };
        let read = entries.iter().filter(|(at, _)| is_after_start(at)).take(range.scanned);
        read_units(read.map(|(_, entry)| item_bytes(entry)).sum(), consistent)
    }
}

fn read_units(bytes: usize, consistent: bool) -> f64 {
    bytes.div_ceil(READ_BYTES).max(1) as f64 * if consistent { 1.0 } else { 0.5 }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "units are whole or half numbers")]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(value: Value) -> Item {
        let Value::Object(item) = value else { panic!("{value} is no item") };
        item
    }

    fn record(payload: usize, due: Option<&str>) -> Item {
        let mut record = item(json!({ "p": { "S": "w/1/0" }, "s": { "S": "task" },
                "d": { "S": "x".repeat(payload) } }));
        if let Some(due) = due {
            record.insert("i".to_owned(), json!({ "S": "due/0" }));
            record.insert("j".to_owned(), json!({ "S": due }));
        }
        record
    }

    #[test]
    fn the_size_of_an_item_includes_names_and_values() {
        assert_eq!(item_bytes(&record(0, None)), 1 + 5 + 1 + 4 + 1);
        let typed = item(
            json!({ "n": { "N": "-1234567" }, "b": { "B": "AAECAw==" }, "t": { "BOOL": true } }),
        );
        assert_eq!(item_bytes(&typed), (1 + 5) + (1 + 4) + (1 + 1));
    }

    #[test]
    fn a_write_bills_the_larger_item_and_its_index_entries() {
        let mut mirror = Mirror::default();
        let key = record(0, None);
        assert_eq!(mirror.write(&key, Some(record(900, None))), 1.0);
        assert_eq!(mirror.write(&key, Some(record(2000, None))), 2.0);
        assert_eq!(
            mirror.write(&key, Some(record(10, Some("1")))),
            3.0,
            "two for the former item, one for the entry"
        );
        assert_eq!(mirror.write(&key, Some(record(20, Some("1")))), 1.0, "the entry is unchanged");
        assert_eq!(mirror.write(&key, Some(record(20, Some("2")))), 3.0, "the entry moves");
        assert_eq!(mirror.refused(&key), 1.0);
        assert_eq!(mirror.write(&key, None), 2.0, "the entry is removed");
        assert_eq!(mirror.write(&key, None), 1.0, "no item");
    }

    #[test]
    fn a_query_bills_only_the_entries_it_reads() {
        let mut mirror = Mirror::default();
        for task in ["a", "b", "c", "d"] {
            let mut one = record(2000, Some(task));
            one.insert("s".to_owned(), json!({ "S": task }));
            mirror.write(&one.clone(), Some(one));
        }
        let range = |scanned| QueryRange {
            index: None,
            partition: "w/1/0",
            between: ("a", "c"),
            backwards: false,
            start: None,
            scanned,
        };
        assert_eq!(mirror.query(&range(3), false), 1.0, "6 KB");
        assert_eq!(mirror.query(&range(1), false), 0.5);
        assert_eq!(mirror.query(&range(3), true), 2.0);
        let entries = QueryRange { index: Some("work"), partition: "due/0", ..range(3) };
        assert_eq!(mirror.query(&entries, false), 0.5, "only keys");
        let start = item(json!({ "p": { "S": "w/1/0" }, "s": { "S": "c" } }));
        assert_eq!(
            mirror.query(&QueryRange { backwards: true, start: Some(&start), ..range(1) }, false),
            0.5
        );
    }
}
