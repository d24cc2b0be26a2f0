//! The due index: consistent with the records, oldest first, in limited reads.

use std::collections::BTreeSet;

use shared::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Function, Webhook, Why},
    store::{DueCursor, DueEntry, DueId, MAX_READ, StoreError},
};

use super::{
    Case, Fixture, area,
    fixture::{eventually, fresh_reference, same},
    steps::{OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        an_entry_follows_its_record,
        a_read_returns_only_entries_due_by_its_time,
        a_limited_read_returns_the_oldest_entries,
        limited_reads_drain_a_backlog,
        pages_return_each_entry_once,
        entries_moved_between_pages_do_not_hide_others,
        unreadable_records_do_not_block_later_entries,
        a_read_can_start_at_a_time,
    ]
}

/// Creates a webhook that is due at this time.
async fn due_at(fixture: &Fixture, due_at: Timestamp) -> Webhook {
    let webhook = fixture.created_with(fixture.epoch, &fresh_reference()).await;
    fixture
        .step(&webhook, |rules, webhook| {
            rules.adopt(webhook, due_at, (Function::Api, Why::Unsent), fixture.epoch)
        })
        .await
}

/// The entries of these webhooks that are due by `until`.
async fn due_of(fixture: &Fixture, ids: &[&WebhookId], until: Timestamp) -> Vec<DueEntry> {
    let mut entries = fixture.store.due(until, None, MAX_READ).await.unwrap().entries;
    entries.retain(|entry| entry.id.webhook().is_some_and(|id| ids.contains(&id)));
    entries
}

/// Each write updates the index entry with the record: there is at most one entry, with the
/// record's due time. The case moves a record into the index, forward, back and out of it.
async fn an_entry_follows_its_record(fixture: Fixture) {
    let now = fixture.now();
    let check = async |webhook: Webhook| {
        let what = format!("{} after {} writes", webhook.status, webhook.revision);
        eventually(&what, || async { same(&fixture.due_at(&webhook.id).await, &webhook.due_at) })
            .await;
        webhook
    };
    let created = check(fixture.created().await).await;
    let held =
        check(fixture.step(&created, |rules, webhook| rules.audit(webhook, now)).await).await;
    let rescued =
        check(fixture.step(&held, |rules, webhook| rules.rescue(webhook, now)).await).await;
    let requeued =
        check(fixture.step(&rescued, |rules, webhook| rules.requeue(webhook, now, now)).await)
            .await;
    let claimed =
        check(fixture.step(&requeued, |rules, webhook| rules.claim(webhook, OURS, now)).await)
            .await;
    let report = answered(500);
    let retrying = check(
        fixture
            .step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &report, now, 0.5))
            .await,
    )
    .await;
    let later = retrying.allowed_at.unwrap();
    let claimed =
        check(fixture.step(&retrying, |rules, webhook| rules.claim(webhook, OURS, later)).await)
            .await;
    let report = answered(410);
    let failed = check(
        fixture
            .step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &report, later, 0.5))
            .await,
    )
    .await;
    let archived =
        check(fixture.step(&failed, |rules, webhook| rules.archive(webhook, later)).await).await;
    let redriven =
        check(fixture.step(&archived, |rules, webhook| rules.redrive(webhook, later)).await).await;
    let claimed =
        check(fixture.step(&redriven, |rules, webhook| rules.claim(webhook, OURS, later)).await)
            .await;
    let report = answered(200);
    let delivered = check(
        fixture
            .step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &report, later, 0.5))
            .await,
    )
    .await;
    assert_eq!(delivered.due_at, None);
}

/// A read returns entries due at or before its time, with their due times, and no later ones. The
/// case reads one millisecond before, at and after the due times.
async fn a_read_returns_only_entries_due_by_its_time(fixture: Fixture) {
    let (early, exact, late) = (
        due_at(&fixture, fixture.at(999)).await,
        due_at(&fixture, fixture.at(1000)).await,
        due_at(&fixture, fixture.at(1001)).await,
    );
    let ids = [&early.id, &exact.id, &late.id];
    let entry = |webhook: &Webhook| DueEntry {
        id: DueId::Webhook(webhook.id.clone()),
        due_at: webhook.due_at.unwrap(),
    };
    for (until, expected) in [
        (998, vec![]),
        (999, vec![&early]),
        (1000, vec![&early, &exact]),
        (1001, vec![&early, &exact, &late]),
    ] {
        let expected: BTreeSet<_> =
            expected.into_iter().map(|webhook| entry(webhook).id.task()).collect();
        eventually("what is due", || async {
            let found = due_of(&fixture, &ids, fixture.at(until)).await;
            let times = found.iter().all(|found| {
                [&early, &exact, &late].into_iter().any(|webhook| entry(webhook) == *found)
            });
            same(&times, &true)?;
            same(&found.iter().map(|entry| entry.id.task()).collect(), &expected)
        })
        .await;
    }
}

/// A limited read returns the oldest entries of each partition of the index, so none starves. The
/// case does not know the partitions. With a limit of three, it checks that each omitted entry has
/// at least three older ones in the result.
async fn a_limited_read_returns_the_oldest_entries(fixture: Fixture) {
    let mut own = BTreeSet::new();
    for index in 0..60 {
        // Created in a different order than they become due.
        own.insert(due_at(&fixture, fixture.at(index * 37 % 60)).await.id.task);
    }
    eventually("a limited read", || async {
        let until = fixture.at(60);
        let all = fixture.store.due(until, None, MAX_READ).await.unwrap().entries;
        let kept = fixture.store.due(until, None, 3).await.unwrap().entries;
        same(&all.iter().filter(|entry| own.contains(&entry.id.task())).count(), &60)?;
        let distinct: BTreeSet<_> = kept.iter().map(|entry| entry.id.task()).collect();
        same(&distinct.len(), &kept.len())?;
        same(&kept.iter().all(|entry| all.contains(entry)), &true)?;
        for left_out in all.iter().filter(|entry| !kept.contains(entry)) {
            let older = kept.iter().filter(|entry| entry.due_at <= left_out.due_at).count();
            same(&(older >= 3), &true)?;
        }
        same(&(kept.len() < all.len()), &true)
    })
    .await;
}

/// Limited reads drain any backlog: requeued entries make room for the next. The case has 100
/// entries and a limit of 7, and processes each exactly once.
async fn limited_reads_drain_a_backlog(fixture: Fixture) {
    let mut waiting = BTreeSet::new();
    for index in 0..100 {
        waiting.insert(due_at(&fixture, fixture.at(index / 3)).await.id.task);
    }
    for _ in 0..1000 {
        let entries = fixture.store.due(fixture.at(100), None, 7).await.unwrap().entries;
        for entry in entries.iter().filter(|entry| entry.due_at >= fixture.epoch) {
            let webhook = fixture.store.get(entry.id.webhook().unwrap()).await.unwrap().unwrap();
            // An index that trails returns an entry again. The record's due time reveals it.
            if webhook.due_at == Some(entry.due_at) {
                fixture
                    .step(&webhook, |rules, webhook| {
                        rules.requeue(webhook, entry.due_at, fixture.now())
                    })
                    .await;
                assert!(waiting.remove(&entry.id.task()), "an entry was processed twice");
            }
        }
        if waiting.is_empty() {
            return;
        }
    }
    panic!("{} were never returned", waiting.len());
}

/// All entries due by `until`, from all pages after the cursor.
async fn pages(
    fixture: &Fixture,
    until: Timestamp,
    from: Option<DueCursor>,
    limit: usize,
) -> Vec<DueEntry> {
    let (mut entries, mut after) = (Vec::new(), from);
    for _ in 0..1000 {
        let page = fixture.store.due(until, after.as_ref(), limit).await.unwrap();
        entries.extend(page.entries);
        after = page.next;
        if after.is_none() {
            return entries;
        }
    }
    panic!("the pages did not end");
}

fn tasks(entries: &[DueEntry]) -> Vec<TaskId> {
    let mut tasks: Vec<TaskId> = entries.iter().map(|entry| entry.id.task()).collect();
    tasks.sort();
    tasks
}

/// All pages together contain each entry exactly once, including entries due in the same
/// millisecond. The case has 120 entries at four times and uses limits from one to more than that.
/// It also stores and restores a cursor.
async fn pages_return_each_entry_once(fixture: Fixture) {
    let mut expected = Vec::new();
    for index in 0..120 {
        expected.push(due_at(&fixture, fixture.at(index % 4)).await.id.task);
    }
    expected.sort();
    for limit in [1, 2, 7, 120, MAX_READ] {
        eventually(&format!("pages of {limit}"), || async {
            same(&tasks(&pages(&fixture, fixture.at(4), None, limit).await), &expected)
        })
        .await;
    }
    let first = fixture.store.due(fixture.at(4), None, 2).await.unwrap();
    let stored = serde_json::to_string(&first.next).unwrap();
    let restored: Option<DueCursor> = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored, first.next);
    let mut all = first.entries;
    all.extend(pages(&fixture, fixture.at(4), restored, MAX_READ).await);
    assert_eq!(tasks(&all), expected);
}

/// The sweep moves entries before it reads the next page, sometimes the last entry of a page, and
/// misses none. The case moves two of every three entries, which are all due at one time.
async fn entries_moved_between_pages_do_not_hide_others(fixture: Fixture) {
    let mut expected = Vec::new();
    for _ in 0..90 {
        expected.push(due_at(&fixture, fixture.at(0)).await.id.task);
    }
    expected.sort();
    eventually("all are in the index", || async {
        same(&tasks(&pages(&fixture, fixture.at(0), None, MAX_READ).await), &expected)
    })
    .await;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = fixture.store.due(fixture.at(0), after.as_ref(), 2).await.unwrap();
        for entry in page.entries {
            if found.len() % 3 > 0 {
                let webhook =
                    fixture.store.get(entry.id.webhook().unwrap()).await.unwrap().unwrap();
                fixture
                    .step(&webhook, |rules, webhook| {
                        rules.requeue(webhook, entry.due_at, fixture.now())
                    })
                    .await;
            }
            found.push(entry);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(tasks(&found), expected);
}

/// After a rollback, records that only a newer version can read may be first in the index. The
/// pages continue past them to later entries. The case has 40 of them, lower limits, and one
/// readable webhook behind them.
async fn unreadable_records_do_not_block_later_entries(fixture: Fixture) {
    let mut unreadable = BTreeSet::new();
    for index in 0..40 {
        let webhook = due_at(&fixture, fixture.at(index / 20)).await;
        fixture.backend.plant_record(&webhook.id, &super::unreadable::newer(&webhook.id)).await;
        unreadable.insert(webhook.id.task);
    }
    let behind = due_at(&fixture, fixture.at(60_000)).await;
    for limit in [1, 3, 10] {
        eventually("the entry behind them is reached", || async {
            let found = pages(&fixture, fixture.at(60_000), None, limit).await;
            same(&found.len(), &41)?;
            same(&found.iter().any(|entry| entry.id == behind.id), &true)
        })
        .await;
    }
    for entry in pages(&fixture, fixture.at(60_000), None, 3).await {
        let read = fixture.store.get(entry.id.webhook().unwrap()).await;
        let refused = matches!(read, Err(StoreError::Unreadable { .. }));
        assert_eq!(refused, unreadable.contains(&entry.id.task()), "{read:?}");
    }
}

/// A read can start at a time. It includes entries due at that time and no earlier ones. The case
/// reads from times around the due times.
async fn a_read_can_start_at_a_time(fixture: Fixture) {
    let mut expected = Vec::new();
    for millis in [998, 999, 1000, 1000, 1001, 5000] {
        expected.push((millis, due_at(&fixture, fixture.at(millis)).await.id.task));
    }
    for begin in [0, 999, 1000, 1001, 1002, 5001] {
        let mut wanted: Vec<TaskId> =
            expected.iter().filter(|(at, _)| *at >= begin).map(|(_, task)| *task).collect();
        wanted.sort();
        for limit in [1, MAX_READ] {
            eventually(&format!("from {begin} on"), || async {
                let from = DueCursor::before(fixture.at(begin));
                same(&tasks(&pages(&fixture, fixture.at(5000), Some(from), limit).await), &wanted)
            })
            .await;
        }
    }
}
