//! Dead letters of deliveries: by endpoint, and among those of direct webhooks.

use std::time::Duration;

use shared::{
    applications::message::PublishedMessage,
    clock::Timestamp,
    model::Webhook,
    store::{DeadLetterFilter, DeadLetterPosition, Listed, MAX_READ},
};

use super::published::{State, days, fresh_application, fresh_endpoints, new_message, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{content, eventually, same},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        each_list_has_its_dead_letters,
        letters_of_one_millisecond_are_listed_once,
        a_letter_leaves_the_lists,
    ]
}

/// All dead letters, from all pages.
async fn letters(fixture: &Fixture, filter: &DeadLetterFilter, limit: usize) -> Vec<Listed> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..MAX_READ {
        let page = fixture.other.dead_letters(filter, after, limit).await.unwrap();
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

/// Fails the webhook, or the delivery without a record, and archives it at this time.
async fn archived(fixture: &Fixture, webhook: &Webhook, at: Timestamp) -> Webhook {
    let failed = State::Failed.reach(fixture, webhook).await;
    fixture.step(&failed, |rules, failed| rules.archive(failed, at)).await
}

/// The letters as a list has them: the latest archived first, then by their positions.
fn expected<'a>(letters: impl IntoIterator<Item = &'a Webhook>) -> Vec<Listed> {
    let listed = |webhook: &Webhook| {
        let is_delivery = webhook.id.is_delivery();
        let url = if is_delivery { String::new() } else { content(webhook).url };
        Listed { webhook: webhook.clone(), url }
    };
    let mut all: Vec<Listed> = letters.into_iter().map(listed).collect();
    all.sort_by_key(|listed| {
        let (id, archived_at) = (&listed.webhook.id, listed.webhook.archived_at.unwrap());
        std::cmp::Reverse(DeadLetterPosition { archived_at, task: id.task, endpoint: id.endpoint })
    });
    all
}

/// Publishes a message to these endpoints, within the application of another one.
async fn sibling(fixture: &Fixture, message: &PublishedMessage) -> PublishedMessage {
    let mut new = new_message(fixture.now(), 0);
    new.application = message.application.clone();
    new.id.reference = message.id.reference.clone();
    new.plan.planned = message.plan.iter().map(|entry| entry.endpoint).collect();
    fixture.published_as(new).await
}

/// The general list has every dead letter, the list of an endpoint has its own, and the list of a
/// reference id has direct webhooks only. The case has two messages to the same three endpoints,
/// one to another application, and a direct webhook, all but one with one reference id.
async fn each_list_has_its_dead_letters(fixture: Fixture) {
    let ours = fixture.published(3).await;
    let again = sibling(&fixture, &ours).await;
    let theirs = fixture.published(1).await;
    let ago = |seconds| fixture.now().minus(Duration::from_secs(seconds));
    let direct = fixture.created_with(fixture.now(), &ours.id.reference).await;
    let all = [
        archived(&fixture, &unstarted(&ours, 0), ago(30)).await,
        archived(&fixture, &unstarted(&ours, 1), ago(10)).await,
        archived(&fixture, &unstarted(&again, 0), ago(40)).await,
        archived(&fixture, &unstarted(&theirs, 0), ago(20)).await,
        archived(&fixture, &direct, ago(15)).await,
    ];
    State::Failed.reach(&fixture, &unstarted(&again, 1)).await;
    let by_endpoint = |message: &PublishedMessage, index: usize| {
        let endpoint = message.plan[index].endpoint;
        DeadLetterFilter::Endpoint(message.application.clone(), endpoint)
    };
    let elsewhere = DeadLetterFilter::Endpoint(fresh_application(), ours.plan[0].endpoint);
    let unknown = DeadLetterFilter::Endpoint(ours.application.clone(), fresh_endpoints(1)[0]);
    for (filter, wanted) in [
        (DeadLetterFilter::All, expected(&all)),
        (by_endpoint(&ours, 0), expected([&all[0], &all[2]])),
        (by_endpoint(&ours, 1), expected([&all[1]])),
        (by_endpoint(&ours, 2), vec![]),
        (by_endpoint(&theirs, 0), expected([&all[3]])),
        (elsewhere, vec![]),
        (unknown, vec![]),
        (DeadLetterFilter::Reference(ours.id.reference.clone()), expected([&all[4]])),
        (DeadLetterFilter::Reference(theirs.id.reference.clone()), vec![]),
    ] {
        for limit in [1, 2, 100] {
            eventually(&format!("{filter:?} in pages of {limit}"), || async {
                same(&letters(&fixture, &filter, limit).await, &wanted)
            })
            .await;
        }
    }
}

/// Pages have each dead letter once, also those that were archived in one millisecond. The case has
/// two messages with five deliveries each and three direct webhooks, of one millisecond.
async fn letters_of_one_millisecond_are_listed_once(fixture: Fixture) {
    let first = fixture.published(5).await;
    let messages = [sibling(&fixture, &first).await, first];
    let at = fixture.now().minus(Duration::from_secs(5));
    let mut all = Vec::new();
    for index in 0..5 {
        for message in &messages {
            all.push(archived(&fixture, &unstarted(message, index), at).await);
        }
        if index < 3 {
            let direct = fixture.created().await;
            all.push(archived(&fixture, &direct, at).await);
        }
    }
    let general = expected(&all);
    for limit in [1, 2, 5, 12, 13, 100] {
        eventually(&format!("the general list in pages of {limit}"), || async {
            same(&letters(&fixture, &DeadLetterFilter::All, limit).await, &general)
        })
        .await;
    }
    for entry in &messages[0].plan {
        let filter = DeadLetterFilter::Endpoint(messages[0].application.clone(), entry.endpoint);
        let wanted = expected(all.iter().filter(|letter| filter.matches(letter)));
        assert_eq!(wanted.len(), 2);
        for limit in [1, 2, 100] {
            eventually("an endpoint's list", || async {
                same(&letters(&fixture, &filter, limit).await, &wanted)
            })
            .await;
        }
    }
}

/// A letter leaves both lists when it is redriven, deleted, replaced by a marker, or expired. The
/// case does each to one of five.
async fn a_letter_leaves_the_lists(fixture: Fixture) {
    let message = fixture.published(5).await;
    let mut all = Vec::new();
    for index in 0..5 {
        all.push(archived(&fixture, &unstarted(&message, index), fixture.now()).await);
    }
    let expect = async |listed: &[Webhook]| {
        let general = expected(listed);
        eventually("the general list", || async {
            same(&letters(&fixture, &DeadLetterFilter::All, 2).await, &general)
        })
        .await;
        for entry in &message.plan {
            let filter = DeadLetterFilter::Endpoint(message.application.clone(), entry.endpoint);
            let wanted = expected(listed.iter().filter(|letter| filter.matches(letter)));
            eventually("an endpoint's list", || async {
                same(&letters(&fixture, &filter, 2).await, &wanted)
            })
            .await;
        }
    };
    expect(&all).await;
    let now = fixture.now();
    fixture.step(&all[0], |rules, letter| rules.redrive(letter, now)).await;
    expect(&all[1..]).await;
    fixture.store.delete(&all[1].id).await.unwrap();
    fixture.store.delete_unchanged(&all[2]).await.unwrap();
    expect(&all[3..]).await;
    fixture.store.put_marker(&all[3].id, now).await.unwrap();
    expect(&all[4..]).await;
    fixture.clock.advance(days(31));
    expect(&[]).await;
}
