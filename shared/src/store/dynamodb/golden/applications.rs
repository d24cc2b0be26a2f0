//! The items that applications add: messages, deliveries, markers, documents, the audit's position.

use std::time::Duration;

use serde_json::{Map, Value, value::RawValue};

use super::{NAME, from_json, inflated, read, to_json};
use crate::{
    applications::{message::PublishedMessage, standing::Found},
    model::{Content, Webhook},
    status::Status,
    store::{
        dynamodb::{
            applications::{self, application_item},
            item::{self, Item},
            message_item::{
                exists, first_item, found, kept_until, marker_item, message_of, new_message_items,
            },
            sweep_state::{position_attributes, read_position},
        },
        golden::{self, NOW, applications as samples},
    },
};

const FILE: &str = "schema_2/dynamodb.json";

const LATER: Duration = Duration::from_secs(45 * 24 * 3600);

/// The content of a message: small, except that the scheduled one's payload does not compress.
fn content(message: &PublishedMessage) -> Content {
    let [.., (_, large)] = golden::records();
    let payload = if message.referenced {
        golden::content(&large).payload
    } else {
        RawValue::from_string("{\"n\": 1.0, \"text\":\"é\"}".to_owned()).unwrap()
    };
    Content { url: String::new(), headers: Vec::new(), payload }
}

fn deliveries() -> [(&'static str, Webhook); 3] {
    let attempted = samples::attempted();
    let finished = Webhook {
        due_at: None,
        allowed_at: None,
        expires_at: Some(NOW.plus(LATER)),
        ..attempted.clone()
    };
    let delivered = Webhook {
        status: Status::Delivered,
        delivered_at: Some(NOW),
        last_error: None,
        ..finished.clone()
    };
    let letter = Webhook {
        status: Status::Failed,
        failed_at: Some(NOW),
        archived_at: Some(NOW),
        ..finished
    };
    [("delivery due", attempted), ("delivery delivered", delivered), ("delivery dead", letter)]
}

/// The audit's item, and that of the versions before applications.
fn audit() -> [(&'static str, Item); 2] {
    let attributes = position_attributes(NOW, NAME);
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
    let mut item = item::key("sweep", "audit");
    item.extend(attributes);
    let mut earlier = item.clone();
    earlier.remove("m");
    [("audit", item), ("audit of schema 1", earlier)]
}

fn items() -> Vec<(String, Item)> {
    let mut items = Vec::new();
    for (name, message) in samples::published_messages() {
        let (item, parts) = new_message_items(&message, &content(&message), NAME, NOW.plus(LATER));
        let part = |(part, item)| (format!("{name} content {part}"), item);
        let parts = parts.into_iter().enumerate().map(part);
        items.push((name.to_owned(), item));
        items.extend(parts);
    }
    let mut extended = items[0].1.clone();
    extended.insert("f".to_owned(), item::number(item::seconds(NOW.plus(LATER))));
    items.push(("message extended".to_owned(), extended));
    for (name, delivery) in deliveries() {
        items.push((name.to_owned(), first_item(&delivery, NOW.plus(LATER))));
    }
    items.push(("marker".to_owned(), marker_item(&samples::attempted().id, NOW)));
    for (name, application) in samples::applications() {
        items.push((name.to_owned(), application_item(&application)));
    }
    items.extend(audit().map(|(name, item)| (name.to_owned(), item)));
    items
}

#[test]
fn every_item_is_written_as_in_schema_2() {
    let written: Map<String, Value> =
        items().into_iter().map(|(name, item)| (name, to_json(&item))).collect();
    if !golden::exists(FILE) {
        golden::check(FILE, &serde_json::to_string_pretty(&written).unwrap());
    }
    assert_eq!(inflated(written), inflated(read(FILE)));
}

#[test]
fn every_item_of_schema_2_is_read() {
    let golden = read(FILE);
    let item = |name: &str| from_json(&golden[name]);
    for (name, message) in samples::published_messages() {
        let stored = item(name);
        assert_eq!(message_of(&message.id, &stored).unwrap(), Some(message.clone()), "{name}");
        let content_is = item::inline_content(&message.id, &stored).unwrap_or_else(|| {
            let keys = item::content_keys(&stored, message.id.task);
            assert_eq!(keys.len(), 1);
            let part = item(&format!("{name} content 0"));
            item::content(&message.id, &[part["c"].as_b().unwrap().as_ref()])
        });
        assert_eq!(content_is.unwrap(), content(&message), "{name}");
    }
    let extended = item("message extended");
    let expired_at = samples::published().expires_at.unwrap();
    let message = PublishedMessage { expires_at: Some(NOW), ..samples::published() };
    assert_eq!(kept_until(&extended), Some(NOW.plus(LATER)));
    assert!(exists(&message, &extended, expired_at.minus(Duration::from_secs(1))));
    for (name, delivery) in deliveries() {
        let stored = item(name);
        assert_eq!(found(&stored, NOW), Found::Record(Box::new(delivery.clone())), "{name}");
        assert_eq!(item::position_of(&stored).unwrap().endpoint, delivery.id.endpoint);
    }
    assert_eq!(found(&item("marker"), NOW), Found::Marker);
    for (name, application) in samples::applications() {
        assert_eq!(applications::read(&item(name)).unwrap(), application, "{name}");
    }
    assert_eq!(read_position(&item("audit")), Some(NOW));
    let hour = Duration::from_secs(3600);
    assert_eq!(read_position(&item("audit of schema 1")), Some(NOW.minus(hour)));
}
