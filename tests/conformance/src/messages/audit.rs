//! The audit finds each message that nothing holds, once, and no other.

use std::{collections::BTreeMap, time::Duration};

use shared::{
    applications::{
        message::{KEY_OCCUPIED, PublishedMessage},
        standing::Standing,
    },
    clock::Timestamp,
    id::TaskId,
    store::Unindexed,
};

use super::{
    published::{State, days, new_message, unstarted},
    unreadable::newer,
};
use crate::{Case, Fixture, area, fixture::fresh_reference, races::run_concurrently, steps::OURS};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_message_is_listed_exactly_while_it_is_unheld,
        expired_records_are_accounted_for,
        a_range_begins_with_its_start_and_ends_before_its_end,
        a_range_across_midnight_is_complete,
        no_page_splits_a_standing,
        what_is_entered_between_pages_does_not_hide_others,
    ]
}

impl Fixture {
    /// Reads all pages of `[from, until)`. Fails if something is listed twice, or if a standing is
    /// not what a read of it returns. Returns the task ids of the messages.
    pub(super) async fn list_unheld(&self, from: Timestamp, until: Timestamp) -> Vec<TaskId> {
        let mut standings = BTreeMap::new();
        for found in self.list_all_unheld(from, until).await {
            let Unindexed::Message(standing) = found else { continue };
            let read = self.standing(&standing.message.id).await;
            assert_eq!(read.as_ref(), Some(&*standing), "the listed standing is the stored one");
            standings.insert(standing.message.id.task, standing);
        }
        standings.into_keys().collect()
    }

    async fn list_all_unheld(&self, from: Timestamp, until: Timestamp) -> Vec<Unindexed> {
        let (mut found, mut after) = (BTreeMap::new(), None);
        for _ in 0..1000 {
            let page = self.other.list_unindexed(from, until, after).await.unwrap();
            for item in page.items {
                let task = match &item {
                    Unindexed::Webhook(webhook) => webhook.id.task,
                    Unindexed::Message(standing) => standing.message.id.task,
                };
                assert!(found.insert(task, item).is_none(), "{task} is listed twice");
            }
            after = page.next;
            if after.is_none() {
                return found.into_values().collect();
            }
        }
        panic!("the list did not end");
    }
}

/// Publishes messages of each kind at the epoch of the case. Returns them with whether nothing
/// holds them.
async fn of_each_kind(fixture: &Fixture) -> Vec<(&'static str, bool, PublishedMessage)> {
    let publish =
        async |endpoints| fixture.published_as(new_message(fixture.epoch, endpoints)).await;
    let now = fixture.now();
    let mut all = vec![
        ("nothing started", true, publish(2).await),
        ("an empty plan", false, publish(0).await),
    ];
    for (state, is_unheld) in [
        (State::Held, false),
        (State::InProgress, true),
        (State::Retrying, false),
        (State::Delivered, false),
        (State::Failed, false),
        (State::Archived, false),
    ] {
        for endpoints in [1, 2] {
            let message = publish(endpoints).await;
            state.reach(fixture, &unstarted(&message, 0)).await;
            let kind = if endpoints == 1 { "one delivery" } else { "another has not started" };
            all.push((kind, is_unheld || endpoints == 2, message));
        }
    }
    let marked = publish(1).await;
    fixture.store.put_marker(&unstarted(&marked, 0).id, now.plus(KEY_OCCUPIED)).await.unwrap();
    all.push(("a marker", false, marked));
    for endpoints in [1, 2] {
        let message = publish(endpoints).await;
        let unread = State::InProgress.reach(fixture, &unstarted(&message, 0)).await;
        fixture.backend.plant_record(&unread.id, &newer(&unread.id)).await;
        all.push(("an unreadable delivery", endpoints == 2, message));
    }
    let due = publish(1).await;
    all.push(("due", false, fixture.held(&due, now).await));
    for settled in [1, 2] {
        let message = publish(2).await;
        let revision = message.revision + 1;
        let next = PublishedMessage { settled, revision, ..message.clone() };
        fixture.store.write_message(&message, &next).await.unwrap();
        all.push(("settled", settled == 1, next));
    }
    let deleting = publish(0).await;
    let deleting =
        fixture.move_message(&deleting, |rules, message| rules.start_deleting(message, now)).await;
    all.push(("deleting and due", false, deleting.clone()));
    let deleting_undue = publish(0).await;
    let next = PublishedMessage { due_at: None, id: deleting_undue.id.clone(), ..deleting };
    fixture.store.write_message(&deleting_undue, &next).await.unwrap();
    all.push(("deleting and not due", true, next));
    all
}

/// The audit lists a message exactly while nothing holds it, with its standing, and never a
/// delivery. The case has messages of each kind in the same millisecond, and webhooks.
async fn a_message_is_listed_exactly_while_it_is_unheld(fixture: Fixture) {
    let pending = fixture.created_with(fixture.epoch, &fresh_reference()).await;
    let claimed = fixture.created_with(fixture.epoch, &fresh_reference()).await;
    fixture.step(&claimed, |rules, webhook| rules.claim(webhook, OURS, fixture.now())).await;
    let all = of_each_kind(&fixture).await;
    for (kind, is_unheld, message) in &all {
        let standing = fixture.standing(&message.id).await.unwrap();
        assert_eq!(standing.is_unheld(), *is_unheld, "{kind}");
    }
    let mut expected: Vec<TaskId> = all
        .iter()
        .filter(|(_, is_unheld, _)| *is_unheld)
        .map(|(_, _, message)| message.id.task)
        .collect();
    expected.sort();
    assert_eq!(fixture.list_unheld(fixture.epoch, fixture.at(1)).await, expected);
    let found = fixture.list_all_unheld(fixture.epoch, fixture.at(1)).await;
    let webhooks: Vec<TaskId> =
        found.into_iter().filter_map(Unindexed::webhook).map(|webhook| webhook.id.task).collect();
    let mut direct = vec![pending.id.task, claimed.id.task];
    direct.sort();
    assert_eq!(webhooks, direct);
}

/// A delivery whose record has expired is accounted for, and so is one that was deleted, as long as
/// it occupies its key. The case has both, 31 days later, after housekeeping. The audit goes by the
/// index alone: a delivery that never started is still not accounted for.
async fn expired_records_are_accounted_for(fixture: Fixture) {
    let mut accounted = Vec::new();
    for state in [State::Delivered, State::Archived] {
        let message = fixture.published_as(new_message(fixture.epoch, 1)).await;
        state.reach(&fixture, &unstarted(&message, 0)).await;
        accounted.push(message);
    }
    let message = fixture.published_as(new_message(fixture.epoch, 1)).await;
    let until = fixture.now().plus(days(40));
    fixture.store.put_marker(&unstarted(&message, 0).id, until).await.unwrap();
    accounted.push(message);
    let unheld = fixture.published_as(new_message(fixture.epoch, 2)).await;
    State::Delivered.reach(&fixture, &unstarted(&unheld, 1)).await;
    fixture.clock.advance(days(31));
    for _ in 0..2 {
        for message in &accounted {
            let standing = fixture.standing(&message.id).await.unwrap();
            assert!(!standing.is_unheld() && standing.found.len() == 1);
        }
        let found = fixture.list_unheld(fixture.epoch, fixture.at(1)).await;
        assert_eq!(found, [unheld.id.task]);
        fixture.tidied().await;
    }
}

/// Adjacent ranges have no gap and no overlap: `[from, until)`. The case has messages a millisecond
/// before, at and after the boundaries, with deliveries of their own.
async fn a_range_begins_with_its_start_and_ends_before_its_end(fixture: Fixture) {
    let mut tasks = Vec::new();
    for millis in [999, 1000, 1001, 59_999, 60_000] {
        let message = fixture.published_as(new_message(fixture.at(millis), 3)).await;
        State::InProgress.reach(&fixture, &unstarted(&message, 1)).await;
        tasks.push(message.id.task);
    }
    assert_eq!(fixture.list_unheld(fixture.at(1000), fixture.at(60_000)).await, tasks[1..4]);
    assert_eq!(fixture.list_unheld(fixture.at(1000), fixture.at(1001)).await, tasks[1..2]);
    assert_eq!(fixture.list_unheld(fixture.at(1000), fixture.at(1000)).await, []);
    assert_eq!(fixture.list_unheld(fixture.at(0), fixture.at(1000)).await, tasks[..1]);
}

/// A range is read completely, even if the backend stores days separately. The case has messages on
/// both sides of a midnight, and empty days in between.
async fn a_range_across_midnight_is_complete(fixture: Fixture) {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let midnight = (fixture.epoch.as_millis() / DAY_MS + 1) * DAY_MS;
    let at = |millis| Timestamp::from_millis(midnight + millis);
    let mut tasks = Vec::new();
    for millis in [-1, 0, 1, 4 * DAY_MS] {
        let message = fixture.published_as(new_message(at(millis), 2)).await;
        State::InProgress.reach(&fixture, &unstarted(&message, 0)).await;
        tasks.push(message.id.task);
    }
    assert_eq!(fixture.list_unheld(at(-1000), at(1000)).await, tasks[..3]);
    assert_eq!(fixture.list_unheld(at(-1000), at(5 * DAY_MS)).await, tasks);
}

/// A call reads a limited number of keys, and still judges each message by all of its own. The case
/// has 24 messages with 60 deliveries each, which all have a record in the due index, except for
/// one delivery of every third message.
async fn no_page_splits_a_standing(fixture: Fixture) {
    let (mut expected, now) = (Vec::new(), fixture.now());
    for index in 0..24 {
        let message = fixture.published_as(new_message(fixture.at(index), 60)).await;
        let missing = (index % 3 == 0).then_some(index as usize * 59 / 23);
        expected.extend(missing.map(|_| message.id.task));
        run_concurrently(&fixture, 60, |number, store| {
            let delivery = unstarted(&message, number);
            let held = fixture.rules.rescue(&delivery, now).unwrap();
            assert!(held.due_at.is_some());
            async move {
                if missing != Some(number) {
                    store.write(&delivery, &held).await.unwrap();
                }
            }
        })
        .await;
    }
    assert_eq!(fixture.list_unheld(fixture.at(0), fixture.at(24)).await, expected);
}

/// The audit misses no message although it enters those that it has read into the due index before
/// it continues. The case does so for each page of 250 messages, some with a standing that changes
/// meanwhile.
async fn what_is_entered_between_pages_does_not_hide_others(fixture: Fixture) {
    let mut expected = Vec::new();
    for index in 0..250 {
        let message = fixture.published_as(new_message(fixture.at(index / 10), 4)).await;
        expected.push(message.id.task);
    }
    expected.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page =
            fixture.store.list_unindexed(fixture.epoch, fixture.at(60_000), after).await.unwrap();
        for item in page.items {
            let Unindexed::Message(standing) = item else { panic!("{item:?}") };
            enter(&fixture, &standing).await;
            found.push(standing.message.id.task);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
        assert!(found.len() <= 250);
    }
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(fixture.list_unheld(fixture.epoch, fixture.at(60_000)).await, []);
}

async fn enter(fixture: &Fixture, standing: &Standing) {
    let now = fixture.now().plus(Duration::from_millis(1));
    let enter = |_: &PublishedMessage| fixture.rules.audit_message(standing, now);
    fixture.move_message(&standing.message, |_, message| enter(message)).await;
}
