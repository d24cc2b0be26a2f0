//! The items of schema version 1: the store writes them attribute for attribute, and reads them.
//!
//! The golden file shows an item as DynamoDB's JSON does. A deflated attribute stands there twice,
//! as the bytes that were written and as what they inflate to. Only the latter is compared with
//! what is written today, because an update of the compressor may write other bytes for one text.

mod applications;

use std::time::Duration;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use base64::{Engine, engine::general_purpose::STANDARD};
use miniz_oxide::inflate::decompress_to_vec;
use serde_json::{Map, Value, json};

use super::{
    idempotency_keys::{read_reservation, reservation_item},
    item::{self, Item},
    sweep_state::{position_attributes, read_position, read_report, report_item},
    targets, totals,
};
use crate::store::{Tombstone, golden};

const FILE: &str = "dynamodb.json";

/// Targets and their counters.
const TARGETS: &str = "dynamodb_targets.json";

/// The audit's position, a marked day, and a report.
const MORE: &str = "dynamodb_audit_and_days.json";

/// The random name of a write.
const NAME: &str = "00112233aabbccdd";

fn to_json(item: &Item) -> Value {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(digits) => json!({ "N": digits }),
        AttributeValue::B(bytes) => {
            let bytes = bytes.as_ref();
            let inflated =
                decompress_to_vec(bytes).ok().and_then(|text| String::from_utf8(text).ok());
            json!({ "B": STANDARD.encode(bytes), "inflated": inflated })
        }
        other => panic!("no item has a {other:?}"),
    };
    item.iter().map(|(name, one)| (name.clone(), value(one))).collect::<Map<_, _>>().into()
}

fn from_json(json: &Value) -> Item {
    let value = |value: &Value| {
        if let Some(text) = value["S"].as_str() {
            AttributeValue::S(text.to_owned())
        } else if let Some(digits) = value["N"].as_str() {
            AttributeValue::N(digits.to_owned())
        } else {
            AttributeValue::B(Blob::new(STANDARD.decode(value["B"].as_str().unwrap()).unwrap()))
        }
    };
    json.as_object().unwrap().iter().map(|(name, one)| (name.clone(), value(one))).collect()
}

/// Every item, by a name.
fn items() -> Vec<(String, Item)> {
    let mut items = Vec::new();
    for (name, record) in golden::records() {
        let expires = record.expires_at.unwrap_or(golden::NOW);
        let (item, parts) = item::new_items(&record, &golden::content(&record), NAME, expires);
        items.push((name.to_owned(), item));
        let part = |(part, item)| (format!("{name} content {part}"), item);
        items.extend(parts.into_iter().enumerate().map(part));
    }
    for why in [Tombstone::Deleted, Tombstone::Unused] {
        let item = item::tombstone_item(golden::task(8), why);
        items.push((format!("tombstone {}", why.as_str()), item));
    }
    for (name, report) in golden::sweep_reports() {
        items.push((name.to_owned(), report_item(&report)));
    }
    for (name, reservation) in golden::reservations() {
        items.push((name.to_owned(), reservation_item(name, &reservation).0));
    }
    for random in 0..2 {
        let item = totals::activity_item(&golden::activity(), random, golden::NOW);
        items.push((format!("activity {random}"), item));
    }
    items.push(("totals".to_owned(), totals::summed(&items.last().unwrap().1)));
    items
}

/// The items of [`MORE`]. None has a deflated attribute. The audit's item has a second position
/// since applications.
fn more_items() -> [(&'static str, Item); 3] {
    let mut audit = item::key("sweep", "audit");
    let attributes = position_attributes(golden::NOW, NAME);
    audit.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
    audit.remove("m");
    [
        ("audit", audit),
        ("day", item::day_item(item::day(golden::NOW))),
        ("sweep_report_searched.json", report_item(&golden::searched_sweep_report())),
    ]
}

#[test]
fn every_target_is_written_and_read_as_in_schema_1() {
    let mut written = Map::new();
    for (name, target) in golden::targets() {
        let attributes = targets::target_attributes(&target, NAME).into_iter();
        let mut item: Item = attributes
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .chain(targets::item_key(&target.key))
            .collect();
        if name == "target_full.json" {
            let counters = targets::counter_attributes(&golden::counters());
            item.extend(counters.map(|(name, value)| (name.to_owned(), value)));
        }
        written.insert(name.to_owned(), to_json(&item));
    }
    golden::check(TARGETS, &serde_json::to_string_pretty(&written).unwrap());
    let golden = read(TARGETS);
    for (name, target) in golden::targets() {
        let state = targets::read(&from_json(&golden[name]));
        assert_eq!(state.target, Some(target), "{name}");
        let counters = (name == "target_full.json").then(golden::counters);
        assert_eq!(state.counters, counters, "{name}");
    }
}

fn read(file: &str) -> Map<String, Value> {
    serde_json::from_str(&golden::read(file)).unwrap()
}

#[test]
fn audit_and_days_are_written_and_read_as_in_schema_1() {
    let written: Map<String, Value> =
        more_items().into_iter().map(|(name, item)| (name.to_owned(), to_json(&item))).collect();
    golden::check(MORE, &serde_json::to_string_pretty(&written).unwrap());
    let golden = read(MORE);
    let item = |name: &str| from_json(&golden[name]);
    let position = golden::NOW.minus(Duration::from_secs(3600));
    assert_eq!(read_position(&item("audit")), Some(position));
    assert_eq!(item::day_of(&item("day")), Some(item::day(golden::NOW)));
    let report = read_report(&item("sweep_report_searched.json"));
    assert_eq!(report, Some(golden::searched_sweep_report()));
}

/// The items, with what deflated attributes inflate to in place of their bytes.
fn inflated(items: Map<String, Value>) -> String {
    let mut items = Value::Object(items);
    for item in items.as_object_mut().unwrap().values_mut() {
        for value in item.as_object_mut().unwrap().values_mut() {
            if value["inflated"].is_string() {
                value.as_object_mut().unwrap().remove("B");
            }
        }
    }
    serde_json::to_string_pretty(&items).unwrap()
}

#[test]
fn every_item_is_written_as_in_schema_1() {
    let written: Map<String, Value> =
        items().into_iter().map(|(name, item)| (name, to_json(&item))).collect();
    if !golden::exists(FILE) {
        golden::check(FILE, &serde_json::to_string_pretty(&written).unwrap());
    }
    let mut golden = read(FILE);
    golden.remove("circuit").expect("older versions wrote circuits");
    assert_eq!(inflated(written), inflated(golden));
}

#[test]
fn every_item_of_schema_1_is_read() {
    let golden = read(FILE);
    let item = |name: &str| from_json(&golden[name]);
    for (name, record) in golden::records() {
        let stored = item(name);
        assert_eq!(item::webhook_of(&record.id, &stored).unwrap(), Some(record.clone()), "{name}");
        let content = item::inline_content(&record.id, &stored).unwrap_or_else(|| {
            let keys = item::content_keys(&stored, record.id.task);
            let parts: Vec<Vec<u8>> = (0..keys.len())
                .map(|part| {
                    let part = item(&format!("{name} content {part}"));
                    part["c"].as_b().unwrap().as_ref().to_vec()
                })
                .collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            item::content(&record.id, &parts)
        });
        assert_eq!(content.unwrap(), golden::content(&record), "{name}");
    }
    for why in [Tombstone::Deleted, Tombstone::Unused] {
        assert_eq!(item::tombstone(&item(&format!("tombstone {}", why.as_str()))), Some(why));
    }
    for (name, report) in golden::sweep_reports() {
        assert_eq!(read_report(&item(name)), Some(report));
    }
    for (name, reservation) in golden::reservations() {
        assert_eq!(read_reservation(&item(name)).unwrap().reservation, reservation);
    }
    let summed = totals::summed(&item("activity 1"));
    assert_eq!(totals::inflated_sums(&summed), totals::inflated_sums(&item("totals")));
}
