//! Lists of webhooks have deliveries too, with and without a record, each exactly once.

use std::collections::BTreeSet;

use shared::{
    id::WebhookId,
    model::Webhook,
    status::Status,
    store::{Filter, ListPosition, Listed, MAX_READ},
};

use super::published::{State, days, extended, fresh_endpoints, new_message, same_key, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{self, eventually, same},
    steps::OURS,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        deliveries_are_listed_with_and_without_a_record,
        pages_continue_within_a_message,
        the_status_filter_works_on_deliveries,
        a_reference_id_finds_direct_webhooks_only,
        what_cannot_start_is_not_listed,
        every_vacant_key_of_a_plan_is_listed,
        pages_have_each_delivery_once_while_they_start,
        a_match_behind_many_deliveries_is_reached,
    ]
}

/// All webhooks from the epoch of the case on that match, from all pages.
async fn listed(fixture: &Fixture, filter: &Filter, limit: usize) -> Vec<Listed> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..2 * MAX_READ {
        let page = fixture.other.list(filter, after, limit).await.unwrap();
        assert!(page.items.len() <= limit, "{} items for a limit of {limit}", page.items.len());
        assert!(page.next.is_none() || page.next != after, "the position does not advance");
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            found.retain(|listed| listed.webhook.id.task.created_at() >= fixture.epoch);
            return found;
        }
    }
    panic!("the list did not end");
}

/// All webhooks that were created within a second of the epoch of the case.
fn all(fixture: &Fixture) -> Filter {
    Filter { created_before: Some(fixture.at(1000)), ..Filter::default() }
}

/// These webhooks as a list has them, newest first.
fn expected(webhooks: impl IntoIterator<Item = Webhook>) -> Vec<Listed> {
    let listed = |webhook: Webhook| {
        let is_delivery = webhook.id.is_delivery();
        let url = if is_delivery { String::new() } else { fixture::content(&webhook).url };
        Listed { webhook, url }
    };
    let mut all: Vec<Listed> = webhooks.into_iter().map(listed).collect();
    all.sort_by_key(|listed| std::cmp::Reverse(ListPosition::of(&listed.webhook.id)));
    all
}

/// A list has the record of each delivery that has one, and of each other delivery what it is
/// before it starts. The case has a message with a delivery in each state, two without a record,
/// and one that was deleted, between two direct webhooks.
async fn deliveries_are_listed_with_and_without_a_record(fixture: Fixture) {
    let older = fixture.created_with(fixture.at(1), &fixture::fresh_reference()).await;
    let message = fixture.published_as(new_message(fixture.at(2), State::ALL.len() + 3)).await;
    let newer = fixture.created_with(fixture.at(3), &fixture::fresh_reference()).await;
    let mut webhooks = vec![older, newer];
    for (index, state) in State::ALL.into_iter().enumerate() {
        webhooks.push(state.reach(&fixture, &unstarted(&message, index)).await);
    }
    webhooks.extend((1..3).map(|index| unstarted(&message, State::ALL.len() + index)));
    let deleted = unstarted(&message, State::ALL.len());
    fixture.store.delete_unchanged(&deleted).await.unwrap();
    let expected = expected(webhooks);
    for limit in [1, 3, 100] {
        eventually(&format!("pages of {limit}"), || async {
            same(&listed(&fixture, &all(&fixture), limit).await, &expected)
        })
        .await;
    }
}

/// A page may end within a message, and the next one goes on with the endpoint after. The case has
/// two messages with 30 endpoints each, half of them with a record, in the milliseconds of direct
/// webhooks, and page sizes around these numbers.
async fn pages_continue_within_a_message(fixture: Fixture) {
    let mut webhooks = Vec::new();
    for millis in [1, 1, 2, 3] {
        let reference = fixture::fresh_reference();
        webhooks.push(fixture.created_with(fixture.at(millis), &reference).await);
    }
    for millis in [1, 2] {
        let message = fixture.published_as(new_message(fixture.at(millis), 30)).await;
        for index in 0..30 {
            let delivery = unstarted(&message, index);
            webhooks.push(match index % 2 {
                0 => State::Held.reach(&fixture, &delivery).await,
                _ => delivery,
            });
        }
    }
    let expected = expected(webhooks);
    for limit in [1, 7, 29, 30, 31, 32, 33, 100] {
        eventually(&format!("pages of {limit}"), || async {
            same(&listed(&fixture, &all(&fixture), limit).await, &expected)
        })
        .await;
    }
    // A list can start behind any position, also that of a message or of a delivery in its middle.
    for at in [0, 5, 31, 40, 63] {
        let position = ListPosition::of(&expected[at].webhook.id);
        for (after, skipped) in [(position, at + 1), (ListPosition::at(position.task), 0)] {
            let page = fixture.store.list(&all(&fixture), Some(after), 3).await.unwrap();
            let rest = expected[skipped..].iter();
            let rest = rest.filter(|listed| ListPosition::of(&listed.webhook.id) < after);
            let wanted: Vec<Listed> = rest.take(page.items.len()).cloned().collect();
            assert_eq!(page.items, wanted, "after {after}");
        }
    }
}

/// The filter by status finds deliveries by their state, and counts those without a record as
/// pending. The case has a delivery in each state and two without a record.
async fn the_status_filter_works_on_deliveries(fixture: Fixture) {
    let message = fixture.published_as(new_message(fixture.at(1), State::ALL.len() + 2)).await;
    let mut webhooks = vec![
        unstarted(&message, State::ALL.len()),
        unstarted(&message, State::ALL.len() + 1),
        fixture.created_with(fixture.at(1), &fixture::fresh_reference()).await,
    ];
    for (index, state) in State::ALL.into_iter().enumerate() {
        webhooks.push(state.reach(&fixture, &unstarted(&message, index)).await);
    }
    for status in Status::ALL {
        let filter = Filter { status: Some(status), ..all(&fixture) };
        let matching = webhooks.iter().filter(|webhook| webhook.status == status).cloned();
        let expected = expected(matching);
        for limit in [1, 2, 100] {
            eventually(&format!("{status} in pages of {limit}"), || async {
                same(&listed(&fixture, &filter, limit).await, &expected)
            })
            .await;
        }
    }
}

/// A reference id finds the direct webhooks that have it, and no message's deliveries. The case has
/// both, with a reference id of the caller's and with a generated one.
async fn a_reference_id_finds_direct_webhooks_only(fixture: Fixture) {
    let reference = fixture::fresh_reference();
    let mut new = new_message(fixture.at(1), 2);
    new.id.reference = reference.clone();
    let message = fixture.published_as(new).await;
    State::Delivered.reach(&fixture, &unstarted(&message, 0)).await;
    let webhook = fixture.created_with(fixture.at(2), &reference).await;
    let mut new = new_message(fixture.at(3), 1);
    new.id.reference = shared::id::ReferenceId::generated(new.id.task);
    new.referenced = false;
    let generated = fixture.published_as(new).await;
    State::Retrying.reach(&fixture, &unstarted(&generated, 0)).await;
    for (reference, expected) in
        [(reference, expected([webhook])), (generated.id.reference, vec![])]
    {
        for status in [None, Some(Status::Pending)] {
            let filter = Filter { reference: Some(reference.clone()), status, ..Filter::default() };
            eventually("by reference", || async {
                same(&listed(&fixture, &filter, 1).await, &expected)
            })
            .await;
        }
    }
}

/// Of deliveries without a record, a list has those that readers see: not those of a message that
/// is being deleted, and not those that finished long ago. The case reads at once, 21 days later
/// and when the records have expired, with a message that is due and one that is not.
async fn what_cannot_start_is_not_listed(fixture: Fixture) {
    let idle = fixture.published_as(new_message(fixture.at(1), 2)).await;
    let published = fixture.published_as(new_message(fixture.at(2), 2)).await;
    let due = fixture.held(&published, fixture.now()).await;
    let deleting = fixture.published_as(new_message(fixture.at(3), 2)).await;
    let mut visible = vec![unstarted(&idle, 1), unstarted(&due, 1)];
    for message in [&idle, &due, &deleting] {
        visible.push(State::Delivered.reach(&fixture, &unstarted(message, 0)).await);
    }
    let now = fixture.now();
    fixture.move_message(&deleting, |rules, message| rules.start_deleting(message, now)).await;
    let expect = async |visible: &[Webhook]| {
        let expected = expected(visible.iter().cloned());
        eventually("what is visible", || async {
            same(&listed(&fixture, &all(&fixture), 2).await, &expected)
        })
        .await;
    };
    expect(&visible).await;
    fixture.clock.advance(days(21));
    expect(&visible[1..]).await;
    fixture.clock.advance(days(10));
    expect(&visible[1..2]).await;
}

/// A delivery without a record stays in the list whatever happens to the other keys of its message.
/// In the case, other keys get a record or a marker, each twice, and the plan gets longer after its
/// other deliveries have finished.
async fn every_vacant_key_of_a_plan_is_listed(fixture: Fixture) {
    let message = fixture.published_as(new_message(fixture.at(1), 3)).await;
    let (now, until) = (fixture.now(), fixture.now().plus(days(20)));
    let expect = async |webhooks: Vec<Webhook>| {
        let expected = expected(webhooks);
        eventually("what is visible", || async {
            same(&listed(&fixture, &all(&fixture), 2).await, &expected)
        })
        .await;
    };
    let (first, marked) = (unstarted(&message, 0), unstarted(&message, 1));
    let claimed = fixture.rules.claim(&first, OURS, now).unwrap();
    for store in [&fixture.store, &fixture.other] {
        store.write(&first, &claimed).await.unwrap();
        store.put_marker(&marked.id, until).await.unwrap();
        store.put_marker(&message.id.delivery(fresh_endpoints(1)[0]), until).await.unwrap();
    }
    expect(vec![claimed.clone(), unstarted(&message, 2)]).await;
    fixture.store.put_marker(&first.id, until).await.unwrap();
    expect(vec![unstarted(&message, 2)]).await;
    let delivered = State::Delivered.reach(&fixture, &unstarted(&message, 2)).await;
    expect(vec![delivered.clone()]).await;
    let longer = extended(&message, fresh_endpoints(1)[0], now);
    fixture.store.write_message(&message, &longer).await.unwrap();
    expect(vec![delivered.clone(), unstarted(&longer, 3)]).await;
    let added = State::Held.reach(&fixture, &unstarted(&longer, 3)).await;
    expect(vec![delivered, added]).await;
}

/// A client that reads pages while deliveries start misses none and gets none twice. The case makes
/// first writes in listed and in unlisted parts between pages.
async fn pages_have_each_delivery_once_while_they_start(fixture: Fixture) {
    let message = fixture.published_as(new_message(fixture.at(1), 30)).await;
    eventually("all are listed", || async {
        same(&listed(&fixture, &all(&fixture), 100).await.len(), &30)
    })
    .await;
    let (mut found, mut after) = (Vec::new(), None);
    for index in 0..30 {
        let page = fixture.store.list(&all(&fixture), after, 2).await.unwrap();
        found.extend(page.items.into_iter().map(|listed| listed.webhook.id));
        after = page.next;
        if after.is_none() {
            break;
        }
        State::Held.reach(&fixture, &unstarted(&message, index)).await;
    }
    assert_eq!(after, None, "the list did not end");
    found.retain(|id| id.task == message.id.task);
    let mut expected: Vec<WebhookId> =
        message.plan.iter().map(|entry| message.id.delivery(entry.endpoint)).collect();
    expected.sort_by_key(|id| std::cmp::Reverse(id.endpoint));
    assert_eq!(found, expected);
    let distinct: BTreeSet<_> = found.iter().collect();
    assert_eq!(distinct.len(), 30);
    assert!(!distinct.contains(&same_key(&message.id)));
}

/// A call reads a limited number of entries, so the only match may be some pages away, and a client
/// that follows them reaches it. The case has 15 messages with 100 endpoints each, and one dead
/// letter in the oldest.
async fn a_match_behind_many_deliveries_is_reached(fixture: Fixture) {
    let mut letter = None;
    for millis in 0..15 {
        let message = fixture.published_as(new_message(fixture.at(millis), 100)).await;
        if letter.is_none() {
            letter = Some(State::Archived.reach(&fixture, &unstarted(&message, 50)).await);
        }
    }
    let filter = Filter { status: Some(Status::Failed), ..all(&fixture) };
    let expected = expected(letter);
    for limit in [1, 100] {
        eventually("the only match", || async {
            same(&listed(&fixture, &filter, limit).await, &expected)
        })
        .await;
    }
    let found = listed(&fixture, &all(&fixture), MAX_READ).await;
    let distinct: BTreeSet<_> = found.iter().map(|listed| &listed.webhook.id).collect();
    assert_eq!((found.len(), distinct.len()), (1500, 1500));
}
