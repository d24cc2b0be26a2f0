//! The due index: in step with the records, oldest first, bounded.

use std::collections::BTreeSet;

use shared::{
    clock::Timestamp,
    id::WebhookId,
    model::{Function, Webhook, Why},
    store::{DueEntry, MAX_READ},
};

use super::{
    Case, Fixture, area,
    fixture::{eventually, fresh_reference, same},
    steps::{OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        an_entry_enters_moves_and_leaves_with_its_record,
        only_what_is_due_until_then_is_answered,
        a_limit_keeps_the_oldest,
        a_backlog_is_worked_off_in_bounded_reads,
    ]
}

/// Makes a webhook that is due at that time.
async fn due_at(fixture: &Fixture, due_at: Timestamp) -> Webhook {
    let webhook = fixture.created_with(fixture.epoch, &fresh_reference()).await;
    fixture.step(&webhook, |rules, webhook| rules.adopt(webhook, due_at, (Function::Api, Why::Unsent), fixture.epoch)).await
}

/// The entries of these webhooks among those due until then.
async fn due_of(fixture: &Fixture, ids: &[&WebhookId], until: Timestamp) -> Vec<DueEntry> {
    let mut entries = fixture.store.due(until, MAX_READ).await.unwrap();
    entries.retain(|entry| ids.contains(&&entry.id));
    entries
}

/// Each write moves the index entry along with the record: there is one entry or none, with the record's own time. Proved over a
/// life that enters, moves forward, moves back and leaves.
async fn an_entry_enters_moves_and_leaves_with_its_record(fixture: Fixture) {
    let now = fixture.now();
    let check = async |webhook: Webhook| {
        let what = format!("{} after {} writes", webhook.status, webhook.revision);
        eventually(&what, || async { same(&fixture.due_at(&webhook.id).await, &webhook.due_at) }).await;
        webhook
    };
    let created = check(fixture.created().await).await;
    let held = check(fixture.step(&created, |rules, webhook| rules.audit(webhook, now)).await).await;
    let rescued = check(fixture.step(&held, |rules, webhook| rules.rescue(webhook, now)).await).await;
    let requeued = check(fixture.step(&rescued, |rules, webhook| rules.requeue(webhook, now, now)).await).await;
    let claimed = check(fixture.step(&requeued, |rules, webhook| rules.claim(webhook, OURS, now)).await).await;
    let report = answered(500);
    let retrying = check(fixture.step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &report, now, 0.5)).await).await;
    let later = retrying.allowed_at.unwrap();
    let claimed = check(fixture.step(&retrying, |rules, webhook| rules.claim(webhook, OURS, later)).await).await;
    let report = answered(410);
    let failed = check(fixture.step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &report, later, 0.5)).await).await;
    let archived = check(fixture.step(&failed, |rules, webhook| rules.archive(webhook, later)).await).await;
    let redriven = check(fixture.step(&archived, |rules, webhook| rules.redrive(webhook, later)).await).await;
    let claimed = check(fixture.step(&redriven, |rules, webhook| rules.claim(webhook, OURS, later)).await).await;
    let report = answered(200);
    let delivered =
        check(fixture.step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &report, later, 0.5)).await).await;
    assert_eq!(delivered.due_at, None);
}

/// What is due at the given time or before is answered, with its due time, and nothing later. Proved around the millisecond.
async fn only_what_is_due_until_then_is_answered(fixture: Fixture) {
    let (early, exact, late) = (
        due_at(&fixture, fixture.at(999)).await,
        due_at(&fixture, fixture.at(1000)).await,
        due_at(&fixture, fixture.at(1001)).await,
    );
    let ids = [&early.id, &exact.id, &late.id];
    let entry = |webhook: &Webhook| DueEntry { id: webhook.id.clone(), due_at: webhook.due_at.unwrap() };
    for (until, expected) in
        [(998, vec![]), (999, vec![&early]), (1000, vec![&early, &exact]), (1001, vec![&early, &exact, &late])]
    {
        let expected: BTreeSet<_> = expected.into_iter().map(|webhook| entry(webhook).id.task).collect();
        eventually("what is due", || async {
            let found = due_of(&fixture, &ids, fixture.at(until)).await;
            let times = found.iter().all(|found| [&early, &exact, &late].into_iter().any(|webhook| entry(webhook) == *found));
            same(&times, &true)?;
            same(&found.iter().map(|entry| entry.id.task).collect(), &expected)
        })
        .await;
    }
}

/// A bounded read takes the oldest of each part of the index, so that nothing starves. Proved without knowing the parts: what a limit
/// of three leaves out has at least three older ones that it kept.
async fn a_limit_keeps_the_oldest(fixture: Fixture) {
    let mut own = BTreeSet::new();
    for index in 0..60 {
        // Not made in the order in which they fall due.
        own.insert(due_at(&fixture, fixture.at(index * 37 % 60)).await.id.task);
    }
    eventually("a limited read", || async {
        let until = fixture.at(60);
        let all = fixture.store.due(until, MAX_READ).await.unwrap();
        let kept = fixture.store.due(until, 3).await.unwrap();
        same(&all.iter().filter(|entry| own.contains(&entry.id.task)).count(), &60)?;
        let distinct: BTreeSet<_> = kept.iter().map(|entry| entry.id.task).collect();
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

/// The sweep gets through any backlog with bounded reads: what it has requeued makes room for the next. Proved by 100 entries and a
/// limit of 7; each is seen, exactly once.
async fn a_backlog_is_worked_off_in_bounded_reads(fixture: Fixture) {
    let mut waiting = BTreeSet::new();
    for index in 0..100 {
        waiting.insert(due_at(&fixture, fixture.at(index / 3)).await.id.task);
    }
    for _ in 0..1000 {
        let entries = fixture.store.due(fixture.at(100), 7).await.unwrap();
        for entry in entries.iter().filter(|entry| entry.due_at >= fixture.epoch) {
            let webhook = fixture.store.get(&entry.id).await.unwrap().unwrap();
            // An index that trails shows an entry again; the record then says that it has moved.
            if webhook.due_at == Some(entry.due_at) {
                fixture.step(&webhook, |rules, webhook| rules.requeue(webhook, entry.due_at, fixture.now())).await;
                assert!(waiting.remove(&entry.id.task), "once each");
            }
        }
        if waiting.is_empty() {
            return;
        }
    }
    panic!("{} were never answered", waiting.len());
}
