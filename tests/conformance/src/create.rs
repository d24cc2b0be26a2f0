//! Create: record and content together, once, unchanged.

use std::{fmt::Write as _, sync::Arc};

use serde_json::value::RawValue;
use shared::{
    id::WebhookId,
    model::{Content, Webhook},
    retry_override::RetryOverride,
    store::{CreateError, DeleteError, Filter, WriteError},
};
use tokio::sync::Barrier;

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, fresh_reference, new_webhook, same},
    steps::{Kind, OURS},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_created_webhook_is_visible_to_every_handle,
        a_second_create_returns_the_stored_record,
        one_of_racing_creates_wins_with_its_own_content,
        an_unknown_webhook_is_missing,
        a_different_reference_id_finds_nothing,
        a_content_is_kept_byte_for_byte,
        the_largest_payload_is_kept,
        every_field_of_a_record_is_kept,
        a_scheduled_webhook_is_in_the_due_index_at_once,
    ]
}

/// Once create returns, the webhook and its content are visible to every process. The case reads
/// them through both handles.
async fn a_created_webhook_is_visible_to_every_handle(fixture: Fixture) {
    fixture.store.ping().await.unwrap();
    let webhook = fixture.created().await;
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.get(&webhook.id).await.unwrap(), Some(webhook.clone()));
        assert_eq!(
            store.open(&webhook.id).await.unwrap(),
            Some((webhook.clone(), content(&webhook)))
        );
    }
}

/// A second create of a task id changes nothing and returns the stored record. The case repeats the
/// id after a claim, and once more with a different reference id.
async fn a_second_create_returns_the_stored_record(fixture: Fixture) {
    let first = fixture.created().await;
    let claimed =
        fixture.step(&first, |rules, webhook| rules.claim(webhook, OURS, fixture.now())).await;
    let reference = fresh_reference();
    let renamed =
        Webhook { id: WebhookId::direct(reference.clone(), first.id.task), ..first.clone() };
    for second in [first.clone(), renamed] {
        let other_content =
            Content { url: "https://other.example/".to_owned(), ..content(&second) };
        match fixture.other.create(&second, &other_content).await {
            Err(CreateError::Conflict(stored)) => assert_eq!(*stored, claimed),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            fixture.store.open(&first.id).await.unwrap(),
            Some((claimed.clone(), content(&first)))
        );
    }
    let filter = Filter { reference: Some(reference), ..Filter::default() };
    assert_eq!(fixture.store.list(&filter, None, 10).await.unwrap().items, []);
}

/// Of concurrent creates of one task id, exactly one takes effect, and record and content come from
/// the same create. In each round, tasks on two handles race with different contents.
async fn one_of_racing_creates_wins_with_its_own_content(fixture: Fixture) {
    const WRITERS: usize = 4;
    for _ in 0..25 {
        let base =
            fixture.rules.create(new_webhook(fixture.now(), &fresh_reference()), fixture.now());
        let start = Arc::new(Barrier::new(WRITERS));
        let tasks: Vec<_> = (0..WRITERS)
            .map(|index| {
                let store =
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
                let webhook = Webhook { correlation_id: format!("writer-{index}"), ..base.clone() };
                let content =
                    Content { url: format!("https://example.com/{index}"), ..content(&base) };
                let start = Arc::clone(&start);
                tokio::spawn(async move {
                    start.wait().await;
                    (store.create(&webhook, &content).await, webhook, content)
                })
            })
            .collect();
        let (mut winners, mut conflicts) = (Vec::new(), Vec::new());
        for task in tasks {
            match task.await.unwrap() {
                (Ok(()), webhook, content) => winners.push((webhook, content)),
                (Err(CreateError::Conflict(stored)), ..) => conflicts.push(*stored),
                (Err(error), ..) => panic!("{error:?}"),
            }
        }
        let [winner] = winners.as_slice() else {
            panic!("{} creates of one id succeeded", winners.len())
        };
        assert!(
            conflicts.iter().all(|stored| *stored == winner.0),
            "the others get the winner's record"
        );
        assert_eq!(fixture.store.open(&base.id).await.unwrap().as_ref(), Some(winner));
    }
}

/// An unknown webhook is missing for every call, and only create adds one. The case tries each
/// call.
async fn an_unknown_webhook_is_missing(fixture: Fixture) {
    let webhook =
        fixture.rules.create(new_webhook(fixture.now(), &fresh_reference()), fixture.now());
    let next = fixture.rules.claim(&webhook, OURS, fixture.now()).unwrap();
    assert!(matches!(fixture.store.write(&webhook, &next).await, Err(WriteError::Missing)));
    assert!(matches!(
        fixture.store.write_and_open(&webhook, &next).await,
        Err(WriteError::Missing)
    ));
    assert!(matches!(fixture.store.delete(&webhook.id).await, Err(DeleteError::Missing)));
    assert_eq!(fixture.store.get(&webhook.id).await.unwrap(), None);
    assert_eq!(fixture.store.open(&webhook.id).await.unwrap(), None);
    let filter = Filter { reference: Some(webhook.id.reference.clone()), ..Filter::default() };
    assert_eq!(fixture.store.list(&filter, None, 10).await.unwrap().items, []);
}

/// An id consists of both its parts. A different reference id with the same task finds nothing to
/// read or delete.
async fn a_different_reference_id_finds_nothing(fixture: Fixture) {
    let webhook = fixture.created().await;
    let other = WebhookId::direct(fresh_reference(), webhook.id.task);
    assert_eq!(fixture.store.get(&other).await.unwrap(), None);
    assert_eq!(fixture.store.open(&other).await.unwrap(), None);
    assert!(matches!(fixture.store.delete(&other).await, Err(DeleteError::Missing)));
    assert_eq!(
        fixture.store.open(&webhook.id).await.unwrap(),
        Some((webhook.clone(), content(&webhook)))
    );
}

/// URL, headers and payload are returned byte for byte. The case uses spaces, escapes, numbers that
/// a parser would change, duplicate keys, astral characters, and headers whose order and case
/// matter.
async fn a_content_is_kept_byte_for_byte(fixture: Fixture) {
    let payloads = [
        r#"{"a":1.0, "b":"\u00e9"}"#,
        "{ \"a\" : 1e400,\n\t\"a\":\"second\",\"z\":-0.0 ,\"n\":123456789012345678901234567890}",
        r#""\ud83d\ude00 😀 \/ \\ \u0000""#,
        "null",
        "[]",
        "  [ 1 ,2 ]  ".trim(),
        "0.1000000000000000055511151231257827",
    ];
    for payload in payloads {
        let webhook =
            fixture.rules.create(new_webhook(fixture.now(), &fresh_reference()), fixture.now());
        let content = Content {
            url: "https://example.com/ä?x=%C3%A9&y=😀#fragment".to_owned(),
            headers: vec![
                ("X-B".to_owned(), "2; q=\"é\"".to_owned()),
                ("x-a".to_owned(), String::new()),
                ("x-b".to_owned(), " spaced ".to_owned()),
            ],
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
        };
        fixture.store.create(&webhook, &content).await.unwrap();
        assert_eq!(fixture.other.open(&webhook.id).await.unwrap().unwrap().1, content);
        let claimed = fixture.rules.claim(&webhook, OURS, fixture.now()).unwrap();
        assert_eq!(fixture.other.write_and_open(&webhook, &claimed).await.unwrap(), content);
    }
}

/// The largest payload that the API accepts is kept. The case uses one mebibyte of random data.
async fn the_largest_payload_is_kept(fixture: Fixture) {
    let mut payload = String::with_capacity(1 << 20);
    payload.push('"');
    while payload.len() < (1 << 20) - 17 {
        write!(payload, "{:016x}", rand::random::<u64>()).unwrap();
    }
    payload.push('"');
    let webhook =
        fixture.rules.create(new_webhook(fixture.now(), &fresh_reference()), fixture.now());
    let content = Content { payload: RawValue::from_string(payload).unwrap(), ..content(&webhook) };
    fixture.store.create(&webhook, &content).await.unwrap();
    assert!(fixture.other.open(&webhook.id).await.unwrap().unwrap().1 == content);
    let claimed = fixture.rules.claim(&webhook, OURS, fixture.now()).unwrap();
    assert!(fixture.store.write_and_open(&webhook, &claimed).await.unwrap() == content);
}

/// All fields of a record are returned, including lists of maximum length. The case creates and
/// writes a record that uses every field.
async fn every_field_of_a_record_is_kept(fixture: Fixture) {
    let mut new = new_webhook(fixture.now(), &fresh_reference());
    new.event_type = Some("order.paid/é😀".to_owned());
    new.correlation_id = "c".repeat(128);
    new.destination = String::from("http://[2001:db8::1]:8080");
    new.retry = Some(RetryOverride {
        factor: Some(98.529_229_164_886_83),
        jitter: Some(0.1),
        ..RetryOverride::default()
    });
    let mut webhook = fixture.rules.create(new, fixture.now());
    fixture.store.create(&webhook, &content(&webhook)).await.unwrap();
    assert_eq!(fixture.other.get(&webhook.id).await.unwrap(), Some(webhook.clone()));
    for _ in 0..60 {
        let now = fixture.now();
        webhook = fixture.step(&webhook, |rules, webhook| rules.claim(webhook, OURS, now)).await;
        let report = super::steps::answered(410);
        webhook = fixture
            .step(&webhook, |rules, webhook| rules.conclude(webhook, OURS, &report, now, 0.5))
            .await;
        webhook = fixture.step(&webhook, |rules, webhook| rules.archive(webhook, now)).await;
        assert_eq!(fixture.other.get(&webhook.id).await.unwrap(), Some(webhook.clone()));
        webhook = fixture.step(&webhook, |rules, webhook| rules.redrive(webhook, now)).await;
    }
    assert_eq!((webhook.attempts.len(), webhook.history.len()), (50, 50));
    assert_eq!(fixture.other.get(&webhook.id).await.unwrap(), Some(webhook));
}

/// No message is sent for a scheduled webhook, so it must be in the due index from the start.
async fn a_scheduled_webhook_is_in_the_due_index_at_once(fixture: Fixture) {
    let webhook = Kind::Scheduled.make(&fixture).await;
    assert!(webhook.due_at.is_some());
    eventually("it is due", || async { same(&fixture.due_at(&webhook.id).await, &webhook.due_at) })
        .await;
}
