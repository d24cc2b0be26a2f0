//! Samples of what applications add, and their golden files in `shared/golden/schema_2`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::value::RawValue;

use super::{NOW, at, task};
use crate::{
    applications::{
        application::{Application, ChangeNote},
        endpoint::{Disabled, DisabledWhy, Endpoint, Metadata, SealedHeader},
        id::EndpointId,
        keys::{Scopes, StoredKey},
        matching::Plan,
        message::{PlanEntry, PublishedMessage},
        secrets::{SecretKind, StoredSecret},
        standing::Found,
    },
    clock::Timestamp,
    config::KeyHash,
    id::{MessageId, ReferenceId, WebhookId},
    message::{Look, Message},
    model::{ClaimId, Content, ErrorKind, Function, Webhook},
    retry::{Outcome, RetryPolicy},
    retry_override::RetryOverride,
    store::{DueId, MessageFilter, Store},
    trace::Trace,
    transition::{EndpointTerms, GiveUp, NewMessage, Report, Rules, with_endpoint_revision},
};

/// The endpoint number `n`.
pub fn endpoint(n: u8) -> EndpointId {
    EndpointId::mint([n, 2, 3, 4, 5, 6, 7, 8, 9, n])
}

/// A message as it is published, with the fewest fields.
pub fn published() -> PublishedMessage {
    let task = task(20);
    let new = NewMessage {
        id: MessageId { reference: ReferenceId::generated(task), task },
        application: "cust-7".parse().unwrap(),
        referenced: false,
        correlation_id: "cor-20".to_owned(),
        event_type: "order.paid".parse().unwrap(),
        trace: None,
        deliver_at: None,
        plan: Plan { planned: vec![endpoint(1)], off: Vec::new() },
    };
    Rules::default().publish(new, NOW)
}

/// A scheduled message with every field, in the due index.
pub fn scheduled() -> PublishedMessage {
    let task = task(21);
    let entry = |n, extended_at| PlanEntry { endpoint: endpoint(n), extended_at };
    PublishedMessage {
        revision: 4,
        id: MessageId { reference: "order-21".parse().unwrap(), task },
        referenced: true,
        trace: Some(Trace {
            id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            sampled: true,
            state: Some("vendor=1".to_owned()),
        }),
        updated_at: at(4000),
        allowed_at: at(3600),
        due_at: Some(at(4500)),
        requeues: 2,
        settled: 1,
        deleting: true,
        plan: vec![entry(1, None), entry(2, None), entry(3, Some(at(4000)))],
        off: vec![endpoint(4)],
        expires_at: None,
        ..published()
    }
}

/// A message of each kind, by the name of its golden file.
pub fn published_messages() -> [(&'static str, PublishedMessage); 2] {
    [
        ("schema_2/message_published.json", published()),
        ("schema_2/message_scheduled.json", scheduled()),
    ]
}

/// A delivery that was attempted, as the transitions write it.
pub fn attempted() -> Webhook {
    let terms = EndpointTerms { revision: 3, retry: RetryPolicy::default() };
    let rules = Rules::default().for_endpoint(&terms);
    let first = Rules::delivery(&scheduled(), endpoint(2)).unwrap();
    let claimed = rules.claim(&first, ClaimId(7), at(3600)).unwrap();
    let outcome =
        Outcome { error: Some(ErrorKind::HttpStatus), status_code: Some(503), retry_after: None };
    let message = Some("the destination answered 503".to_owned());
    let duration = Duration::from_millis(12);
    let report = Report { outcome, duration, message, response_excerpt: None };
    let next = rules.conclude(&claimed, ClaimId(7), &report, at(3601), 0.5).unwrap();
    with_endpoint_revision(next, &terms)
}

/// Deliveries that were given up before their first attempt, by the names of their golden files.
pub fn given_up() -> [(&'static str, Webhook); 2] {
    let of = |n, reason| {
        let unstarted = Rules::delivery(&scheduled(), endpoint(n)).unwrap();
        Rules::default().give_up(&unstarted, reason, Function::Deliver, at(3600)).unwrap()
    };
    [
        ("schema_2/delivery_endpoint_deleted.json", of(1, GiveUp::EndpointDeleted)),
        ("schema_2/delivery_endpoint_disabled.json", of(2, GiveUp::EndpointDisabled)),
    ]
}

/// Deliveries, by the names of their golden files. Those of revision 0 are not stored. Their files
/// pin what a delivery without a record is, which never changes.
pub fn deliveries() -> [(&'static str, Webhook); 4] {
    let of = |message: &PublishedMessage, n| Rules::delivery(message, endpoint(n)).unwrap();
    [
        ("schema_2/delivery_unstarted.json", of(&published(), 1)),
        ("schema_2/delivery_scheduled.json", of(&scheduled(), 2)),
        ("schema_2/delivery_extended.json", of(&scheduled(), 3)),
        ("schema_2/delivery_attempted.json", attempted()),
    ]
}

/// A look of each kind, by the name of its golden file.
pub fn looks() -> [(&'static str, Look); 3] {
    let delivery = Rules::delivery(&published(), endpoint(1)).unwrap();
    let look_at = Message::look_at(delivery.id.clone());
    [
        ("schema_2/look_at_message.json", Look::Message(published().id)),
        ("schema_2/look_at_delivery.json", Look::Webhook(look_at)),
        ("schema_2/look_with_seen.json", Look::Webhook(Message::with_seen(&delivery))),
    ]
}

/// An application with every field, and one with the fewest.
pub fn applications() -> [(&'static str, Application); 2] {
    let least = Application {
        schema: 2,
        revision: 1,
        id: "cust-7".parse().unwrap(),
        name: None,
        keep_unmatched: false,
        metadata: Metadata::new(),
        created_at: NOW,
        updated_at: NOW,
        deleted_at: None,
        tokens_not_before: None,
        keys: Vec::new(),
        endpoints: Vec::new(),
        changes: Vec::new(),
    };
    let full = Application {
        revision: 9,
        id: "Customer_8".parse().unwrap(),
        name: Some("Eight é".to_owned()),
        keep_unmatched: true,
        metadata: Metadata::from([("plan".to_owned(), "gold".to_owned())]),
        updated_at: at(9),
        deleted_at: Some(at(9)),
        tokens_not_before: Some(at(8)),
        keys: vec![StoredKey {
            id: "key-0123456789abcdef".parse().unwrap(),
            name: "ci".parse().unwrap(),
            sha256: KeyHash::of(b"a key"),
            scopes: Scopes::parse(&["publish", "read"]).unwrap(),
            expires_at: Some(at(100)),
        }],
        endpoints: vec![full_endpoint(), least_endpoint()],
        changes: vec![ChangeNote {
            at: at(9),
            by: "key-0123456789abcdef".to_owned(),
            what: format!("endpoint.created {}", endpoint(2)),
        }],
        ..least.clone()
    };
    [("schema_2/application_least.json", least), ("schema_2/application_full.json", full)]
}

fn least_endpoint() -> Endpoint {
    Endpoint {
        id: endpoint(2),
        revision: 1,
        created_at: at(9),
        updated_at: at(9),
        url: "https://example.com/b".to_owned(),
        event_types: None,
        headers: Vec::new(),
        secrets: Vec::new(),
        retry: None,
        timeout_ms: None,
        description: None,
        metadata: Metadata::new(),
        disabled: None,
    }
}

fn full_endpoint() -> Endpoint {
    let patterns = ["order.paid", "invoice.*", "*"];
    Endpoint {
        id: endpoint(1),
        revision: 5,
        created_at: at(1),
        updated_at: at(8),
        url: "https://example.com/hooks?a=b".to_owned(),
        event_types: Some(patterns.map(|pattern| pattern.parse().unwrap()).to_vec()),
        headers: vec![SealedHeader {
            name: "x-token".to_owned(),
            sealed: "0123abcd.c2VhbGVk".to_owned().into(),
        }],
        secrets: vec![StoredSecret {
            id: "sec-0123456789abcdef".parse().unwrap(),
            kind: SecretKind::V1,
            sealed: "0123abcd.c2VjcmV0".to_owned().into(),
            created_at: at(1),
            expires_at: Some(at(200)),
        }],
        retry: Some(RetryOverride { max_attempts: Some(5), ..RetryOverride::default() }),
        timeout_ms: Some(5000),
        description: Some("the shop".to_owned()),
        metadata: Metadata::from([("team".to_owned(), "a".to_owned())]),
        disabled: Some(Disabled { at: at(8), why: DisabledWhy::Customer, told: true }),
    }
}

/// The content of each sample message.
pub fn payload() -> Content {
    let payload = RawValue::from_string("{\"n\": 1.0, \"é\":[]}".to_owned()).unwrap();
    Content { url: String::new(), headers: Vec::new(), payload }
}

/// The delivery whose key has a marker.
pub fn marked() -> WebhookId {
    scheduled().id.delivery(endpoint(3))
}

/// Until when the marker of [`marked`] occupies its key.
pub const MARKED_UNTIL: Timestamp = Timestamp::from_millis(NOW.as_millis() + 1_728_000_007);

/// Writes the samples of what applications add. The store's clock must say [`NOW`].
pub async fn write_all(store: &dyn Store) {
    for (_, message) in published_messages() {
        store.create_message(&message, &payload()).await.unwrap();
    }
    let first = Rules::delivery(&scheduled(), endpoint(2)).unwrap();
    store.write(&first, &attempted()).await.unwrap();
    store.put_marker(&marked(), MARKED_UNTIL).await.unwrap();
    for (_, application) in applications() {
        store.write_application(None, &application).await.unwrap();
    }
}

/// Panics unless the store reads everything that [`write_all`] writes, in every way.
pub async fn assert_all_read(store: &dyn Store) {
    for (name, message) in published_messages() {
        let read = store.open_message(&message.id).await.unwrap();
        assert_eq!(read, Some((message, payload())), "{name}");
    }
    let read = store.open(&attempted().id).await.unwrap();
    assert_eq!(read, Some((attempted(), payload())));
    let standing = store.standing(&scheduled().id).await.unwrap().unwrap();
    let record = (endpoint(2), Found::Record(Box::new(attempted())));
    assert_eq!(standing.found, BTreeMap::from([record, (endpoint(3), Found::Marker)]));
    let filter = MessageFilter::all("cust-7".parse().unwrap());
    let reference = Some(scheduled().id.reference);
    for (filter, found) in [
        (filter.clone(), vec![scheduled(), published()]),
        (MessageFilter { reference, ..filter }, vec![scheduled()]),
    ] {
        let page = store.list_messages(&filter, None, 10).await.unwrap();
        assert_eq!(page.items, found);
    }
    let due = store.due(at(10_000), None, 10).await.unwrap();
    let due: Vec<_> = due.entries.into_iter().map(|entry| entry.id).collect();
    assert!(due.contains(&DueId::Message(scheduled().id)), "{due:?}");
    assert!(due.contains(&DueId::Webhook(attempted().id)), "{due:?}");
    for (name, application) in applications() {
        let read = store.application(&application.id).await.unwrap();
        assert_eq!(read, Some(application), "{name}");
    }
}
