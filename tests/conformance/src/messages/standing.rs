//! Standings: what occupies the keys of a message's deliveries, in one read.

use std::collections::BTreeMap;

use shared::{
    applications::{
        message::{KEY_OCCUPIED, PublishedMessage},
        standing::{Found, Standing},
    },
    id::{MessageId, TaskId},
};

use super::{
    published::{State, days, fresh_endpoints, new_message, unstarted},
    unreadable::newer,
};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, same},
    races::run_concurrently,
    steps::OURS,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_standing_has_exactly_the_occupied_keys,
        an_expired_record_is_in_the_standing,
        a_standing_has_the_audit_s_position,
        a_standing_has_no_other_message_s_keys,
        a_standing_shows_every_acknowledged_write,
        a_standing_shows_no_write_without_an_earlier_one,
        a_delivery_outside_the_plan_is_read,
    ]
}

/// Checks that the read of one delivery agrees with the standing, for each entry of the plan.
async fn assert_deliveries_agree(fixture: &Fixture, standing: &Standing) {
    let message = &standing.message;
    for entry in &message.plan {
        let id = message.id.delivery(entry.endpoint);
        for store in [&fixture.store, &fixture.other] {
            let stored = store.delivery(&id).await.unwrap().unwrap();
            assert_eq!(stored.message, *message);
            assert_eq!(stored.found.as_ref(), standing.found.get(&entry.endpoint));
        }
    }
}

/// A standing has the message and what occupies each key, and nothing for a vacant key. The case
/// has a delivery in each state, a marker, an unreadable record and a vacant key.
async fn a_standing_has_exactly_the_occupied_keys(fixture: Fixture) {
    let message = fixture.published(State::ALL.len() + 3).await;
    let empty = fixture.standing(&message.id).await.unwrap();
    assert_eq!((&empty.message, empty.found.len()), (&message, 0));
    assert_deliveries_agree(&fixture, &empty).await;
    let mut expected = BTreeMap::new();
    for (index, state) in State::ALL.into_iter().enumerate() {
        let stored = state.reach(&fixture, &unstarted(&message, index)).await;
        expected.insert(message.plan[index].endpoint, Found::Record(Box::new(stored)));
    }
    let marked = unstarted(&message, State::ALL.len());
    fixture.store.put_marker(&marked.id, fixture.now().plus(KEY_OCCUPIED)).await.unwrap();
    expected.insert(marked.id.endpoint.unwrap(), Found::Marker);
    let unread = unstarted(&message, State::ALL.len() + 1);
    State::InProgress.reach(&fixture, &unread).await;
    fixture.backend.plant_record(&unread.id, &newer(&unread.id)).await;
    expected.insert(unread.id.endpoint.unwrap(), Found::Unreadable);
    let standing = fixture.standing(&message.id).await.unwrap();
    assert_eq!((&standing.message, &standing.found), (&message, &expected));
    assert_deliveries_agree(&fixture, &standing).await;
}

/// A record that has expired is in the standing as such, and occupies its key. The case has a
/// delivered delivery and a dead letter, 31 days later, and a second time after housekeeping.
async fn an_expired_record_is_in_the_standing(fixture: Fixture) {
    let published = fixture.published(3).await;
    let mut expected = BTreeMap::new();
    for (index, state) in [State::Delivered, State::Archived].into_iter().enumerate() {
        state.reach(&fixture, &unstarted(&published, index)).await;
        expected.insert(published.plan[index].endpoint, Found::Expired);
    }
    let message = fixture.held(&published, fixture.now()).await;
    fixture.clock.advance(days(31));
    for _ in 0..2 {
        let standing = fixture.standing(&message.id).await.unwrap();
        assert_eq!((&standing.message, &standing.found), (&message, &expected));
        assert_deliveries_agree(&fixture, &standing).await;
        fixture.tidied().await;
    }
}

/// A standing has the position of the audit. The case reads it before and after the position moves.
async fn a_standing_has_the_audit_s_position(fixture: Fixture) {
    let message = fixture.published(1).await;
    let mut position = fixture.store.audited_until().await.unwrap();
    for minute in 1..4 {
        let standing = fixture.standing(&message.id).await.unwrap();
        assert_eq!(standing.audited_until, position);
        let to = fixture.at(minute * 60_000);
        fixture.other.advance_audit(position, to).await.unwrap();
        position = Some(to);
    }
    assert_eq!(fixture.standing(&message.id).await.unwrap().audited_until, position);
}

/// A standing has the keys of its own message only. The case has three messages with the same
/// endpoints, the same reference id, and task ids that follow each other.
async fn a_standing_has_no_other_message_s_keys(fixture: Fixture) {
    let endpoints = fresh_endpoints(3);
    let (now, reference) = (fixture.now(), new_message(fixture.now(), 0).id.reference);
    let mut expected: Vec<(PublishedMessage, BTreeMap<_, _>)> = Vec::new();
    for last in [0x0f, 0x10, 0x11] {
        let mut new = new_message(now, 0);
        let task = TaskId::mint(now, [7, 7, 7, 7, 7, 7, 7, 7, 7, last]);
        new.id = MessageId { reference: reference.clone(), task };
        new.plan.planned.clone_from(&endpoints);
        let message = fixture.published_as(new).await;
        let index = expected.len();
        let delivery = State::InProgress.reach(&fixture, &unstarted(&message, index)).await;
        let found = Found::Record(Box::new(delivery));
        expected.push((message, BTreeMap::from([(endpoints[index], found)])));
    }
    for (message, found) in expected {
        let standing = fixture.standing(&message.id).await.unwrap();
        assert_eq!((standing.message.clone(), standing.found.clone()), (message, found));
        assert_deliveries_agree(&fixture, &standing).await;
    }
}

/// A standing shows every write that was acknowledged before the read. In the case, 40 tasks over
/// two handles each write a delivery of one message and then read the standing.
async fn a_standing_shows_every_acknowledged_write(fixture: Fixture) {
    let message = fixture.published(40).await;
    let now = fixture.now();
    run_concurrently(&fixture, 40, |index, store| {
        let (delivery, rules) = (unstarted(&message, index), fixture.rules.clone());
        async move {
            let claimed = rules.claim(&delivery, OURS, now).unwrap();
            store.write(&delivery, &claimed).await.unwrap();
            let id = delivery.id.message_id().unwrap();
            let standing = store.standing(&id).await.unwrap().unwrap();
            let found = standing.found.get(&delivery.id.endpoint.unwrap());
            assert_eq!(found, Some(&Found::Record(Box::new(claimed))));
        }
    })
    .await;
    assert_eq!(fixture.standing(&message.id).await.unwrap().found.len(), 40);
}

/// A standing that shows a write shows every write that was acknowledged before that one started.
/// In each round, one task writes the deliveries of a message one after the other, in the order of
/// their endpoints or against it, and then the message. Three tasks read standings meanwhile.
async fn a_standing_shows_no_write_without_an_earlier_one(fixture: Fixture) {
    for round in 0..10 {
        let message = fixture.published(12).await;
        let now = fixture.now();
        let mut order: Vec<usize> = (0..12).collect();
        order.sort_by_key(|index| message.plan[*index].endpoint);
        if round % 2 == 0 {
            order.reverse();
        }
        run_concurrently(&fixture, 4, |task, store| {
            let (message, rules, order) = (message.clone(), fixture.rules.clone(), order.clone());
            async move {
                if task == 0 {
                    for index in order {
                        let delivery = unstarted(&message, index);
                        let claimed = rules.claim(&delivery, OURS, now).unwrap();
                        store.write(&delivery, &claimed).await.unwrap();
                    }
                    let deleting = rules.start_deleting(&message, now).unwrap();
                    store.write_message(&message, &deleting).await.unwrap();
                    return;
                }
                loop {
                    let standing = store.standing(&message.id).await.unwrap().unwrap();
                    let is_found = |index: &&usize| {
                        standing.found.contains_key(&message.plan[**index].endpoint)
                    };
                    let leading = order.iter().take_while(is_found).count();
                    assert_eq!(leading, standing.found.len(), "round {round}: one is missing");
                    if standing.message.deleting {
                        assert_eq!(leading, 12, "round {round}");
                        return;
                    }
                }
            }
        })
        .await;
    }
}

/// A read of a delivery does not ask whether the plan has its endpoint. The case reads a vacant key
/// and a marker of an endpoint that is not planned.
async fn a_delivery_outside_the_plan_is_read(fixture: Fixture) {
    let message = fixture.published(1).await;
    let id = message.id.delivery(fresh_endpoints(1)[0]);
    let stored = fixture.store.delivery(&id).await.unwrap().unwrap();
    assert_eq!((stored.message, stored.found), (message.clone(), None));
    fixture.store.put_marker(&id, fixture.now().plus(KEY_OCCUPIED)).await.unwrap();
    assert_eq!(fixture.found(&id).await, Some(Found::Marker));
    eventually("it is in no index", || async { same(&fixture.due_at(&id).await, &None) }).await;
}
