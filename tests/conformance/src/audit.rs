//! The audit: it finds each webhook without a holder once, and its position moves only from where
//! it is.

use std::{sync::Arc, time::Duration};

use shared::{
    clock::Timestamp,
    id::TaskId,
    model::Webhook,
    model::{Function, Why},
    store::{AdvanceAuditError, ClockFault, DueCursor, SweepReport, Unindexed},
};

use super::{
    Case, Fixture, area,
    fixture::{fresh_reference, new_webhook},
    steps::{OURS, answered},
};

fn refused(moved: &Result<(), AdvanceAuditError>) {
    assert!(matches!(moved, Err(AdvanceAuditError::Moved)), "{moved:?}");
}

pub(super) fn cases() -> Vec<Case> {
    area![
        only_what_is_unfinished_and_unindexed_is_answered,
        a_range_begins_with_its_start_and_ends_before_its_end,
        a_range_across_midnight_is_complete,
        every_one_of_many_is_answered_exactly_once,
        what_is_adopted_between_pages_does_not_hide_others,
        the_position_moves_only_from_where_it_is,
        the_position_moves_back_on_the_same_condition,
        of_racing_moves_one_wins,
        the_sweep_s_report_is_kept,
    ]
}

/// The audit reads the webhooks that could be lost and no others, and returns their records. The
/// case has one webhook of each kind in the same range.
async fn only_what_is_unfinished_and_unindexed_is_answered(fixture: Fixture) {
    let now = fixture.now();
    let create = async || fixture.created_with(fixture.epoch, &fresh_reference()).await;
    let pending = create().await;
    let claimed =
        fixture.step(&create().await, |rules, webhook| rules.claim(webhook, OURS, now)).await;
    let held = create().await;
    fixture
        .step(&held, |rules, webhook| rules.adopt(webhook, now, (Function::Api, Why::Unsent), now))
        .await;
    for code in [200, 410, 500] {
        let claimed =
            fixture.step(&create().await, |rules, webhook| rules.claim(webhook, OURS, now)).await;
        fixture
            .step(&claimed, |rules, webhook| {
                rules.conclude(webhook, OURS, &answered(code), now, 0.5)
            })
            .await;
    }
    let deleted = create().await;
    fixture.store.delete(&deleted.id).await.unwrap();
    for store in [&fixture.store, &fixture.other] {
        let page = store.list_unindexed(fixture.epoch, fixture.at(1), None).await.unwrap();
        let mut items: Vec<Webhook> =
            page.items.into_iter().filter_map(Unindexed::webhook).collect();
        items.sort_by_key(|webhook| webhook.id.task);
        let mut expected = vec![pending.clone(), claimed.clone()];
        expected.sort_by_key(|webhook| webhook.id.task);
        assert_eq!(items, expected);
    }
}

/// Adjacent ranges have no gap and no overlap: `[from, until)`. The case has webhooks a
/// millisecond before, at and after the boundaries.
async fn a_range_begins_with_its_start_and_ends_before_its_end(fixture: Fixture) {
    let mut tasks = Vec::new();
    for millis in [999, 1000, 1001, 59_999, 60_000] {
        tasks.push(fixture.created_with(fixture.at(millis), &fresh_reference()).await.id.task);
    }
    assert_eq!(fixture.list_unindexed(fixture.at(1000), fixture.at(60_000)).await, tasks[1..4]);
    assert_eq!(fixture.list_unindexed(fixture.at(1000), fixture.at(1001)).await, tasks[1..2]);
    assert_eq!(fixture.list_unindexed(fixture.at(1000), fixture.at(1000)).await, []);
    assert_eq!(fixture.list_unindexed(fixture.at(0), fixture.at(1000)).await, tasks[..1]);
}

/// A range is read completely, even if the backend stores days separately. The case has webhooks on
/// both sides of a midnight, and empty days in between.
async fn a_range_across_midnight_is_complete(fixture: Fixture) {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let midnight = (fixture.epoch.as_millis() / DAY_MS + 1) * DAY_MS;
    let mut tasks = Vec::new();
    for millis in [-1, 0, 1, 4 * DAY_MS] {
        let created_at = Timestamp::from_millis(midnight + millis);
        tasks.push(fixture.created_with(created_at, &fresh_reference()).await.id.task);
    }
    let at = |millis| Timestamp::from_millis(midnight + millis);
    assert_eq!(fixture.list_unindexed(at(-1000), at(1000)).await, tasks[..3]);
    assert_eq!(fixture.list_unindexed(at(-1000), at(5 * DAY_MS)).await, tasks);
}

/// A minute can have more webhooks than a page. All of them were read when `next` is none. The case
/// has more webhooks than one call reads, half of them finished, many in the same millisecond.
async fn every_one_of_many_is_answered_exactly_once(fixture: Fixture) {
    let mut expected = Vec::new();
    for chunk in 0..13 {
        let writers: Vec<_> = (0..100_i64)
            .map(|index| {
                let (store, rules) = (
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other }),
                    fixture.rules.clone(),
                );
                let created_at = fixture.at((chunk * 100 + index) / 7);
                tokio::spawn(async move {
                    let webhook =
                        rules.create(new_webhook(created_at, &fresh_reference()), created_at);
                    store.create(&webhook, &super::fixture::content(&webhook)).await.unwrap();
                    if index % 2 == 0 {
                        return Some(webhook.id.task);
                    }
                    let claimed = rules.claim(&webhook, OURS, created_at).unwrap();
                    let delivered =
                        rules.conclude(&claimed, OURS, &answered(200), created_at, 0.5).unwrap();
                    store.write(&webhook, &delivered).await.unwrap();
                    None
                })
            })
            .collect();
        for writer in writers {
            expected.extend(writer.await.unwrap());
        }
    }
    expected.sort();
    assert_eq!(fixture.list_unindexed(fixture.epoch, fixture.at(60_000)).await, expected);
}

/// The audit misses no webhook although it adopts the ones it has read before it continues. The
/// case adopts the webhooks of each page before it reads the next one.
async fn what_is_adopted_between_pages_does_not_hide_others(fixture: Fixture) {
    let mut expected = Vec::new();
    for index in 0..250 {
        expected
            .push(fixture.created_with(fixture.at(index / 10), &fresh_reference()).await.id.task);
    }
    expected.sort();
    let mut found: Vec<TaskId> = Vec::new();
    let mut after = None;
    loop {
        let page =
            fixture.store.list_unindexed(fixture.epoch, fixture.at(60_000), after).await.unwrap();
        for webhook in page.items.into_iter().filter_map(Unindexed::webhook) {
            fixture.step(&webhook, |rules, webhook| rules.audit(webhook, fixture.now())).await;
            found.push(webhook.id.task);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
        assert!(found.len() <= 250);
    }
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(fixture.list_unindexed(fixture.epoch, fixture.at(60_000)).await, []);
}

/// Two overlapping sweeps cannot move the position past a minute that neither has read. The case
/// moves it from the right and from wrong positions, over both handles.
async fn the_position_moves_only_from_where_it_is(fixture: Fixture) {
    let start = fixture.store.audited_until().await.unwrap();
    let (first, second) = (fixture.at(60_000), fixture.at(120_000));
    fixture.store.advance_audit(start, first).await.unwrap();
    assert_eq!(fixture.other.audited_until().await.unwrap(), Some(first));
    refused(&fixture.other.advance_audit(start, second).await);
    refused(&fixture.other.advance_audit(None, second).await);
    refused(&fixture.other.advance_audit(Some(second), second).await);
    assert_eq!(fixture.store.audited_until().await.unwrap(), Some(first));
    fixture.other.advance_audit(Some(first), second).await.unwrap();
    assert_eq!(fixture.store.audited_until().await.unwrap(), Some(second));
}

/// A position that a wrong clock moved too far can be moved back, by one sweep only, and only if no
/// other sweep has moved it since. The case moves it back by a day, over both handles.
async fn the_position_moves_back_on_the_same_condition(fixture: Fixture) {
    let start = fixture.store.audited_until().await.unwrap();
    let (ahead, right) = (fixture.at(40 * 86_400_000), fixture.at(-86_400_000));
    fixture.store.advance_audit(start, ahead).await.unwrap();
    refused(&fixture.other.advance_audit(start, right).await);
    fixture.other.advance_audit(Some(ahead), right).await.unwrap();
    refused(&fixture.store.advance_audit(Some(ahead), right).await);
    assert_eq!(fixture.store.audited_until().await.unwrap(), Some(right));
}

/// Of two sweeps that move the position at the same time, one succeeds. The case races them in
/// rounds over two handles. The first round starts without a position if the store is new.
async fn of_racing_moves_one_wins(fixture: Fixture) {
    for round in 1..50 {
        let from = fixture.store.audited_until().await.unwrap();
        let moves = [&fixture.store, &fixture.other, &fixture.store, &fixture.other]
            .into_iter()
            .enumerate()
            .map(|(index, store)| {
                let (store, to) = (Arc::clone(store), fixture.at(round * 60_000 + index as i64));
                tokio::spawn(async move {
                    match store.advance_audit(from, to).await {
                        Ok(()) => Some(to),
                        Err(AdvanceAuditError::Moved) => None,
                        Err(AdvanceAuditError::Store(error)) => panic!("{error:?}"),
                    }
                })
            });
        let mut winners = Vec::new();
        for task in moves.collect::<Vec<_>>() {
            winners.extend(task.await.unwrap());
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(fixture.other.audited_until().await.unwrap(), winners.pop());
    }
}

/// Every handle reads the latest report of the sweep. The case writes two reports.
async fn the_sweep_s_report_is_kept(fixture: Fixture) {
    for lag_ms in [0, u64::from(u32::MAX) + 7] {
        let fault = ClockFault {
            found_at: fixture.now(),
            ahead_ms: 1 << 41,
            left: Some(DueCursor::before(fixture.now())),
        };
        let report = SweepReport {
            ran_at: fixture.now(),
            lag_ms,
            counts: [1, 0, 3, 1 << 40, 5],
            unreadable: lag_ms,
            unreadable_may_be_more: lag_ms > 0,
            resume: (lag_ms > 0).then(|| DueCursor::before(fixture.now())),
            began_at: (lag_ms > 0).then(|| fixture.now()),
            clock_fault: (lag_ms > 0).then_some(fault),
        };
        fixture.store.report_sweep(&report).await.unwrap();
        assert_eq!(fixture.other.last_sweep().await.unwrap(), Some(report));
        fixture.clock.advance(Duration::from_secs(1));
    }
}
