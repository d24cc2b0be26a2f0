//! Messages and deliveries in the due index.

use std::time::Duration;

use shared::{
    applications::message::PublishedMessage,
    clock::Timestamp,
    model::{Function, Webhook, Why},
    store::{DueCursor, DueEntry, DueId, MAX_READ},
};

use super::published::{State, new_message, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, fresh_reference, same},
    steps::{OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_message_s_entry_follows_its_record,
        a_delivery_s_entry_follows_its_record,
        a_scheduled_message_is_due_at_once,
        a_read_returns_only_what_is_due_by_its_time,
        pages_return_each_kind_of_entry_once,
        a_read_can_start_at_a_time,
        moved_entries_do_not_hide_others,
    ]
}

/// Each write moves the message's entry along with its record: there is at most one, with the
/// record's due time. The case moves a message into the index, forward, on, and out of it, and
/// begins to delete another.
async fn a_message_s_entry_follows_its_record(fixture: Fixture) {
    let now = fixture.now();
    let check = async |message: PublishedMessage| {
        eventually(&format!("the entry at revision {}", message.revision), || async {
            same(&fixture.message_due_at(&message.id).await, &message.due_at)
        })
        .await;
        message
    };
    let published = check(fixture.published(1).await).await;
    let later = now.plus(Duration::from_secs(60));
    let held = check(fixture.held(&published, later).await).await;
    let forward = check(fixture.held(&held, now).await).await;
    let requeued = fixture
        .move_message(&forward, |rules, message| rules.requeue_message(message, now, false, now));
    let requeued = check(requeued.await).await;
    assert!(requeued.due_at > forward.due_at);
    State::Delivered.reach(&fixture, &unstarted(&published, 0)).await;
    let standing = fixture.standing(&published.id).await.unwrap();
    let settle = fixture.move_message(&requeued, |rules, _| rules.settle(&standing, now));
    let settled = check(settle.await).await;
    assert_eq!(settled.due_at, None);
    let deleting =
        fixture.move_message(&settled, |rules, message| rules.start_deleting(message, now));
    let deleting = check(deleting.await).await;
    fixture.store.delete_message(&deleting).await.unwrap();
    check(PublishedMessage { due_at: None, ..deleting }).await;
}

/// The entry of a delivery follows its record from the first write on, and is apart from that of
/// its message. The case has a due message, and two deliveries whose first write is a claim and a
/// hold.
async fn a_delivery_s_entry_follows_its_record(fixture: Fixture) {
    let now = fixture.now();
    let published = fixture.published(2).await;
    let message = fixture.held(&published, now).await;
    let check = async |webhook: Webhook| {
        eventually(&format!("{} after {} writes", webhook.status, webhook.revision), || async {
            same(&fixture.due_at(&webhook.id).await, &webhook.due_at)?;
            same(&fixture.message_due_at(&message.id).await, &message.due_at)
        })
        .await;
        webhook
    };
    let first = unstarted(&message, 0);
    let claimed = fixture.step(&first, |rules, first| rules.claim(first, OURS, now)).await;
    let claimed = check(claimed).await;
    let failing = answered(500);
    let retry =
        fixture.step(&claimed, |rules, claimed| rules.conclude(claimed, OURS, &failing, now, 0.5));
    let retrying = check(retry.await).await;
    assert!(retrying.due_at.is_some());
    let later = retrying.allowed_at.unwrap();
    let claimed = fixture.step(&retrying, |rules, again| rules.claim(again, OURS, later)).await;
    let conclude = fixture
        .step(&check(claimed).await, |rules, claimed| {
            rules.conclude(claimed, OURS, &answered(200), later, 0.5)
        })
        .await;
    assert_eq!(check(conclude).await.due_at, None);
    let held = check(State::Held.reach(&fixture, &unstarted(&message, 1)).await).await;
    assert!(held.due_at.is_some());
    fixture.store.put_marker(&held.id, now).await.unwrap();
    check(Webhook { due_at: None, ..held }).await;
}

/// A scheduled message is in the index from its create on, and its deliveries are not. The case
/// publishes one for the next hour.
async fn a_scheduled_message_is_due_at_once(fixture: Fixture) {
    let now = fixture.now();
    let mut new = new_message(now, 2);
    let at = now.plus(Duration::from_secs(3600));
    new.deliver_at = Some(at);
    let message = fixture.published_as(new).await;
    assert_eq!(message.due_at, Some(at));
    eventually("the entry", || async {
        same(&fixture.message_due_at(&message.id).await, &Some(at))
    })
    .await;
    for index in 0..2 {
        assert_eq!(fixture.due_at(&unstarted(&message, index).id).await, None);
    }
}

/// Puts a webhook, a delivery or a message, by turns, into the index at this time.
async fn due_at(fixture: &Fixture, turn: usize, due_at: Timestamp) -> DueEntry {
    let why = (Function::Api, Why::Unsent);
    let id = match turn % 3 {
        0 => {
            let webhook = fixture.created_with(fixture.epoch, &fresh_reference()).await;
            let hold = fixture
                .step(&webhook, |rules, webhook| rules.adopt(webhook, due_at, why, fixture.epoch));
            DueId::Webhook(hold.await.id)
        }
        1 => {
            let message = fixture.published(1).await;
            let delivery = unstarted(&message, 0);
            let hold = fixture
                .step(&delivery, |rules, first| rules.adopt(first, due_at, why, fixture.now()));
            DueId::Webhook(hold.await.id)
        }
        _ => {
            let message = fixture.published(1).await;
            DueId::Message(fixture.held(&message, due_at).await.id)
        }
    };
    DueEntry { id, due_at }
}

/// All entries due by `until`, from all pages after the cursor, sorted.
async fn pages(
    fixture: &Fixture,
    until: Timestamp,
    from: Option<DueCursor>,
    limit: usize,
) -> Vec<DueEntry> {
    let (mut entries, mut after) = (Vec::new(), from);
    for _ in 0..1000 {
        let page = fixture.store.due(until, after.as_ref(), limit).await.unwrap();
        assert_eq!(page.nameless, 0);
        entries.extend(page.entries);
        after = page.next;
        if after.is_none() {
            return sorted(entries);
        }
    }
    panic!("the pages did not end");
}

fn sorted(mut entries: Vec<DueEntry>) -> Vec<DueEntry> {
    entries.sort_by(|a, b| (a.due_at, &a.id).cmp(&(b.due_at, &b.id)));
    entries
}

/// A read returns what is due at its time or before, of every kind, and nothing later. The case
/// reads a millisecond before, at and after the due times.
async fn a_read_returns_only_what_is_due_by_its_time(fixture: Fixture) {
    let mut all = Vec::new();
    for (turn, millis) in [999, 999, 999, 1000, 1000, 1000, 1001, 1001, 1001].iter().enumerate() {
        all.push(due_at(&fixture, turn, fixture.at(*millis)).await);
    }
    for until in [998, 999, 1000, 1001] {
        let until = fixture.at(until);
        let due = all.iter().filter(|entry| entry.due_at <= until).cloned().collect();
        let expected = sorted(due);
        eventually("what is due", || async {
            same(&pages(&fixture, until, None, MAX_READ).await, &expected)
        })
        .await;
    }
}

/// All pages together contain each webhook, delivery and message once, also those that are due in
/// the same millisecond. The case has 60 entries at two times, and limits from one to more than
/// that. It also stores and restores a cursor.
async fn pages_return_each_kind_of_entry_once(fixture: Fixture) {
    let mut all = Vec::new();
    for turn in 0..60 {
        all.push(due_at(&fixture, turn, fixture.at((turn / 3 % 2) as i64)).await);
    }
    let expected = sorted(all);
    for limit in [1, 2, 7, 60, MAX_READ] {
        eventually(&format!("pages of {limit}"), || async {
            same(&pages(&fixture, fixture.at(1), None, limit).await, &expected)
        })
        .await;
    }
    let first = fixture.store.due(fixture.at(1), None, 1).await.unwrap();
    let stored = serde_json::to_string(&first.next).unwrap();
    let restored: Option<DueCursor> = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored, first.next);
    let mut all = first.entries;
    all.extend(pages(&fixture, fixture.at(1), restored, MAX_READ).await);
    assert_eq!(sorted(all), expected);
}

/// A read that starts at a time includes the messages and deliveries that are due then, and no
/// earlier ones. The case reads from times around the due times.
async fn a_read_can_start_at_a_time(fixture: Fixture) {
    let mut all = Vec::new();
    for (turn, millis) in [998, 998, 998, 1000, 1000, 1000, 5000, 5000, 5000].iter().enumerate() {
        all.push(due_at(&fixture, turn, fixture.at(*millis)).await);
    }
    for begin in [0, 999, 1000, 1001, 5001] {
        let begin = fixture.at(begin);
        let later = all.iter().filter(|entry| entry.due_at >= begin).cloned().collect();
        let expected = sorted(later);
        for limit in [1, MAX_READ] {
            eventually(&format!("from {begin:?} on"), || async {
                let from = Some(DueCursor::before(begin));
                same(&pages(&fixture, fixture.at(5000), from, limit).await, &expected)
            })
            .await;
        }
    }
}

/// The sweep moves entries before it reads the next page, and misses none. The case has 45 messages
/// that are due at one time, and moves two of every three on.
async fn moved_entries_do_not_hide_others(fixture: Fixture) {
    let mut all = Vec::new();
    for _ in 0..45 {
        all.push(due_at(&fixture, 2, fixture.at(0)).await);
    }
    let expected = sorted(all);
    eventually("all are in the index", || async {
        same(&pages(&fixture, fixture.at(0), None, MAX_READ).await, &expected)
    })
    .await;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = fixture.store.due(fixture.at(0), after.as_ref(), 2).await.unwrap();
        for entry in page.entries {
            if found.len() % 3 > 0 {
                let DueId::Message(id) = &entry.id else { panic!("{entry:?}") };
                let message = fixture.store.message(id).await.unwrap().unwrap();
                let requeue = fixture.move_message(&message, |rules, message| {
                    rules.requeue_message(message, entry.due_at, false, fixture.now())
                });
                requeue.await;
            }
            found.push(entry);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sorted(found), expected);
}
