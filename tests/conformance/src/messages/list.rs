//! Lists of an application's messages: newest first, filtered, each exactly once across pages.

use std::sync::Arc;

use shared::{
    applications::{
        event_type::EventType,
        id::{ApplicationId, EndpointId},
        message::PublishedMessage,
    },
    id::{MessageId, ReferenceId, TaskId},
    store::{MAX_READ, MessageFilter},
};

use super::published::{content, fresh_application, fresh_endpoints, new_message};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, fresh_reference, fresh_task, same},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        pages_have_each_message_once_newest_first,
        each_filter_works_alone_and_combined,
        a_generated_reference_finds_its_message,
        pages_have_each_message_once_while_others_are_published,
        a_match_behind_many_others_is_reached,
    ]
}

/// All messages that match, from all pages. A page may be short or empty and still have a next one.
async fn listed(fixture: &Fixture, filter: &MessageFilter, limit: usize) -> Vec<PublishedMessage> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..2 * MAX_READ {
        let page = fixture.other.list_messages(filter, after, limit).await.unwrap();
        assert!(page.items.len() <= limit, "{} items for a limit of {limit}", page.items.len());
        assert!(page.next.is_none() || page.next != after, "the position does not advance");
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
    panic!("the list did not end");
}

fn newest_first(mut messages: Vec<PublishedMessage>) -> Vec<PublishedMessage> {
    messages.sort_by_key(|message| std::cmp::Reverse(message.id.task));
    messages
}

/// Publishes a message of this application, with a task id of this many milliseconds after the
/// epoch of the case.
async fn published(
    fixture: &Fixture,
    application: &ApplicationId,
    millis: i64,
) -> PublishedMessage {
    let mut new = new_message(fixture.at(millis), 2);
    new.application = application.clone();
    fixture.published_as(new).await
}

/// All pages together have each message of the application once, newest first, for every page size.
/// The case has 45 messages, two in each millisecond, which it publishes in another order, and the
/// messages of another application between them.
async fn pages_have_each_message_once_newest_first(fixture: Fixture) {
    let (ours, theirs) = (fresh_application(), fresh_application());
    let mut messages = Vec::new();
    for index in 0..45 {
        messages.push(published(&fixture, &ours, index * 7 % 45 / 2).await);
        published(&fixture, &theirs, index / 2).await;
    }
    let expected = newest_first(messages);
    for limit in [1, 2, 7, 44, 45, 46, 100] {
        eventually(&format!("pages of {limit}"), || async {
            same(&listed(&fixture, &MessageFilter::all(ours.clone()), limit).await, &expected)
        })
        .await;
    }
}

/// Each filter leaves out other messages, alone and combined. The case has two endpoints, event
/// types, reference ids and several times.
async fn each_filter_works_alone_and_combined(fixture: Fixture) {
    let application = fresh_application();
    let endpoints = fresh_endpoints(3);
    let references = [fresh_reference(), fresh_reference()];
    let event_types: [EventType; 2] = ["order.paid", "order"].map(|name| name.parse().unwrap());
    let mut messages = Vec::new();
    for index in 0..12 {
        let mut new = new_message(fixture.at(index as i64 * 10), 0);
        new.application = application.clone();
        new.id.reference = references[index % 2].clone();
        new.event_type = event_types[index / 2 % 2].clone();
        new.plan.planned = endpoints[..index % 3].to_vec();
        new.plan.off = endpoints[2..].to_vec();
        messages.push(fixture.published_as(new).await);
    }
    let all = newest_first(messages);
    let endpoints: Vec<Option<EndpointId>> =
        [None].into_iter().chain(endpoints.into_iter().map(Some)).collect();
    let references: Vec<Option<ReferenceId>> =
        [None, Some(fresh_reference())].into_iter().chain(references.map(Some)).collect();
    for endpoint in endpoints {
        for reference in &references {
            for event_type in [None, Some(event_types[0].clone()), Some(event_types[1].clone())] {
                for (since, until) in
                    [(None, None), (Some(30), None), (None, Some(80)), (Some(21), Some(81))]
                {
                    let filter = MessageFilter {
                        application: application.clone(),
                        endpoint,
                        event_type: event_type.clone(),
                        reference: reference.clone(),
                        since: since.map(|millis| fixture.at(millis)),
                        until: until.map(|millis| fixture.at(millis)),
                    };
                    let expected =
                        all.iter().filter(|found| filter.matches(found)).cloned().collect();
                    eventually(&format!("{filter:?}"), || async {
                        same(&listed(&fixture, &filter, 2).await, &expected)
                    })
                    .await;
                }
            }
        }
    }
}

/// A message without a reference id from the caller has no entry in the index by reference. Its
/// generated one still finds it, only within its application. The case tries the filters that
/// could confuse them.
async fn a_generated_reference_finds_its_message(fixture: Fixture) {
    let mut new = new_message(fixture.epoch, 1);
    new.id = MessageId { reference: ReferenceId::generated(new.id.task), task: new.id.task };
    new.referenced = false;
    let message = fixture.published_as(new).await;
    let other = published(&fixture, &message.application, 0).await;
    let expect = async |filter: MessageFilter, expected: Vec<TaskId>| {
        eventually(&format!("{filter:?}"), || async {
            let found = listed(&fixture, &filter, 5).await;
            same(&found.iter().map(|message| message.id.task).collect(), &expected)
        })
        .await;
    };
    let task = message.id.task;
    let all = MessageFilter::all(message.application.clone());
    let by = |reference: &ReferenceId| MessageFilter {
        reference: Some(reference.clone()),
        ..all.clone()
    };
    expect(by(&message.id.reference), vec![task]).await;
    expect(by(&other.id.reference), vec![other.id.task]).await;
    let until = Some(fixture.epoch);
    expect(MessageFilter { until, ..by(&message.id.reference) }, vec![]).await;
    let endpoint = Some(message.plan[0].endpoint);
    expect(MessageFilter { endpoint, ..by(&message.id.reference) }, vec![task]).await;
    let endpoint = Some(other.plan[0].endpoint);
    expect(MessageFilter { endpoint, ..by(&message.id.reference) }, vec![]).await;
    expect(by(&ReferenceId::generated(fresh_task(fixture.epoch))), vec![]).await;
    let application = fresh_application();
    expect(MessageFilter { application, ..by(&message.id.reference) }, vec![]).await;
    let webhook = fixture.created().await;
    expect(by(&webhook.id.reference), vec![]).await;
    expect(by(&ReferenceId::generated(webhook.id.task)), vec![]).await;
}

/// A client that reads pages while messages are published and changed misses none that existed at
/// the start, and gets none twice. The case publishes and changes messages between pages.
async fn pages_have_each_message_once_while_others_are_published(fixture: Fixture) {
    let application = fresh_application();
    let mut messages = Vec::new();
    for index in 0..30 {
        messages.push(published(&fixture, &application, index / 2).await);
    }
    let filter = MessageFilter::all(application.clone());
    eventually("all are listed", || async {
        same(&listed(&fixture, &filter, 100).await.len(), &30)
    })
    .await;
    let known: Vec<TaskId> =
        newest_first(messages.clone()).iter().map(|message| message.id.task).collect();
    let (mut found, mut after): (Vec<TaskId>, _) = (Vec::new(), None);
    for message in &messages {
        let page = fixture.store.list_messages(&filter, after, 3).await.unwrap();
        found.extend(page.items.iter().map(|message| message.id.task));
        after = page.next;
        if after.is_none() {
            break;
        }
        published(&fixture, &application, 1000).await;
        fixture.held(message, fixture.now()).await;
    }
    assert_eq!(after, None, "the list did not end");
    found.retain(|task| known.contains(task));
    assert_eq!(found, known);
}

/// A call reads a limited number of entries, so the only match may be many pages away, and a client
/// that follows them reaches it. The case has the oldest of 1,100 messages.
async fn a_match_behind_many_others_is_reached(fixture: Fixture) {
    let application = fresh_application();
    let mut new = new_message(fixture.epoch, 1);
    new.application = application.clone();
    new.event_type = "first".parse().unwrap();
    let oldest = fixture.published_as(new).await;
    for chunk in 0..11 {
        let writers: Vec<_> = (0..100_i64)
            .map(|index| {
                let store =
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
                let mut new = new_message(fixture.at(1 + chunk * 100 + index), 1);
                new.application = application.clone();
                let message = fixture.rules.publish(new, fixture.now());
                tokio::spawn(async move {
                    store.create_message(&message, &content(&message.id)).await.unwrap();
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let all = MessageFilter::all(application);
    let event_type = Some("first".parse().unwrap());
    let by_type = MessageFilter { event_type, ..all.clone() };
    let endpoint = Some(oldest.plan[0].endpoint);
    let by_endpoint = MessageFilter { endpoint, ..all.clone() };
    for filter in [by_type, by_endpoint] {
        eventually("the only match", || async {
            same(&listed(&fixture, &filter, 5).await, &vec![oldest.clone()])
        })
        .await;
    }
    assert_eq!(listed(&fixture, &all, MAX_READ).await.len(), 1101);
}
