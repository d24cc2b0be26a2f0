//! Concurrent writers over two handles. Each case runs many rounds, because a race condition does
//! not show each time.

use std::{sync::Arc, time::Duration};

use shared::{
    apply::{Applied, apply, apply_and_open},
    model::{ClaimId, Webhook},
    status::Status,
    store::Store,
    transition::Refusal,
};
use tokio::sync::Barrier;

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, fresh_reference, new_webhook, same},
    steps::{Kind, OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        one_of_racing_claims_wins,
        a_stale_outcome_is_refused_after_a_new_claim,
        one_of_racing_outcomes_is_kept,
        an_outcome_and_a_requeue_both_take_effect,
        a_write_during_a_delete_restores_nothing,
        five_hundred_concurrent_webhooks_are_all_delivered,
    ]
}

/// Runs the closure in this many tasks that start together. Even tasks use one handle, odd ones the
/// other.
pub(super) async fn run_concurrently<T, F, Fut>(fixture: &Fixture, tasks: usize, work: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(usize, Arc<dyn Store>) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(tasks));
    let spawned: Vec<_> = (0..tasks)
        .map(|index| {
            let future = work(
                index,
                Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other }),
            );
            let start = Arc::clone(&start);
            tokio::spawn(async move {
                start.wait().await;
                future.await
            })
        })
        .collect();
    let mut results = Vec::with_capacity(tasks);
    for task in spawned {
        results.push(task.await.unwrap());
    }
    results
}

/// The fence of `docs/architecture.md#claims`: of any number of workers, one starts an attempt. In
/// each round, four workers claim a webhook. One succeeds, the others are refused because of its
/// lease, and the record has its claim.
async fn one_of_racing_claims_wins(fixture: Fixture) {
    for round in 0..50 {
        let kind = if round % 2 == 0 { Kind::Pending } else { Kind::LeaseOver };
        let seen = kind.make(&fixture).await;
        let now = fixture.now();
        let results = run_concurrently(&fixture, 4, |index, store| {
            let (rules, seen) = (fixture.rules.clone(), seen.clone());
            async move {
                let claim = ClaimId(100 + index as u64);
                apply_and_open(&*store, seen, |webhook| rules.claim(webhook, claim, now))
                    .await
                    .unwrap()
            }
        })
        .await;
        let mut winners = Vec::new();
        for result in results {
            match result {
                Applied::Done(record, opened) => {
                    assert_eq!(opened, content(&seen));
                    winners.push(record);
                }
                Applied::Refused(Refusal::Leased(_), _) => {}
                other => panic!("{other:?}"),
            }
        }
        let [winner] = winners.as_slice() else {
            panic!("round {round}: {} workers got the claim", winners.len())
        };
        assert_eq!(fixture.store.get(&seen.id).await.unwrap().as_ref(), Some(winner));
        assert_eq!(winner.attempt_count, seen.attempt_count + 1);
    }
}

/// A worker whose lease has expired cannot overwrite the next worker's claim. The case writes its
/// outcome after the second claim, from the record it knows and from the stored one.
async fn a_stale_outcome_is_refused_after_a_new_claim(fixture: Fixture) {
    let lost = Kind::LeaseOver.make(&fixture).await;
    let now = fixture.now();
    let taken = fixture.rules.claim(&lost, ClaimId(77), now).unwrap();
    fixture.other.write(&lost, &taken).await.unwrap();
    for code in [200, 500, 410] {
        let late = apply(&*fixture.store, lost.clone(), |webhook| {
            fixture.rules.conclude(webhook, OURS, &answered(code), now, 0.5)
        });
        match late.await.unwrap() {
            Applied::Refused(Refusal::NotOurClaim, stored) => assert_eq!(stored, taken),
            other => panic!("{other:?}"),
        }
        assert_eq!(fixture.store.get(&lost.id).await.unwrap(), Some(taken.clone()));
    }
}

/// One outcome is written, even if a late worker and a new one write at the same time. In each
/// round, a late success races a new claim. The record contains either one, never a mix.
async fn one_of_racing_outcomes_is_kept(fixture: Fixture) {
    for round in 0..50 {
        let lost = Kind::LeaseOver.make(&fixture).await;
        let now = fixture.now();
        let results = run_concurrently(&fixture, 2, |index, store| {
            let (rules, seen) = (fixture.rules.clone(), lost.clone());
            async move {
                let late = (index + round) % 2 == 0;
                let applied = apply(&*store, seen, |webhook| {
                    if late {
                        rules.conclude(webhook, OURS, &answered(200), now, 0.5)
                    } else {
                        rules.claim(webhook, ClaimId(5), now)
                    }
                });
                (late, applied.await.unwrap())
            }
        })
        .await;
        let stored = fixture.store.get(&lost.id).await.unwrap().unwrap();
        for (late, applied) in results {
            match applied {
                Applied::Done(record, ()) => assert_eq!(record, stored, "round {round}"),
                Applied::Refused(Refusal::NotOurClaim, _) => {
                    assert!(late && stored.status == Status::InProgress);
                }
                Applied::Refused(Refusal::Finished(_), _) => {
                    assert!(!late && stored.status == Status::Delivered);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Writes of different functions do not undo each other. The sweep's due time does not return a
/// delivered webhook to the index, and the sweep does not overwrite the outcome. In each round,
/// both write at the same time.
async fn an_outcome_and_a_requeue_both_take_effect(fixture: Fixture) {
    for round in 0..50 {
        let held = Kind::PendingHeld.make(&fixture).await;
        let claimed =
            fixture.step(&held, |rules, webhook| rules.claim(webhook, OURS, fixture.now())).await;
        let (now, seen) = (fixture.now(), claimed.due_at.unwrap());
        let results = run_concurrently(&fixture, 2, |index, store| {
            let (rules, claimed) = (fixture.rules.clone(), claimed.clone());
            async move {
                let sweep = (index + round) % 2 == 0;
                let applied = apply(&*store, claimed, |webhook| {
                    if sweep {
                        rules.requeue(webhook, seen, now)
                    } else {
                        rules.conclude(webhook, OURS, &answered(200), now, 0.5)
                    }
                });
                (sweep, applied.await.unwrap())
            }
        })
        .await;
        for (sweep, applied) in results {
            let done = matches!(applied, Applied::Done(..));
            assert!(
                done || (sweep && matches!(applied, Applied::Refused(Refusal::DueMoved, _))),
                "{applied:?}"
            );
        }
        let stored = fixture.other.get(&held.id).await.unwrap().unwrap();
        assert_eq!((stored.status, stored.due_at), (Status::Delivered, None), "round {round}");
        eventually("the webhook left the index", || async {
            same(&fixture.due_at(&held.id).await, &None)
        })
        .await;
    }
}

/// A write during a delete restores nothing. In each round, a claim and its outcome race a delete.
/// Afterwards there is no record, content or index entry.
async fn a_write_during_a_delete_restores_nothing(fixture: Fixture) {
    for round in 0..50 {
        let held = Kind::PendingHeld.make(&fixture).await;
        let now = fixture.now();
        run_concurrently(&fixture, 2, |index, store| {
            let (rules, held) = (fixture.rules.clone(), held.clone());
            async move {
                if (index + round) % 2 == 0 {
                    store.delete(&held.id).await.unwrap();
                    return;
                }
                let claim =
                    apply_and_open(&*store, held, |webhook| rules.claim(webhook, OURS, now))
                        .await
                        .unwrap();
                let Applied::Done(claimed, _) = claim else { return };
                let report = answered(500);
                apply(&*store, claimed, |webhook| rules.conclude(webhook, OURS, &report, now, 0.5))
                    .await
                    .unwrap();
            }
        })
        .await;
        for store in [&fixture.store, &fixture.other] {
            assert_eq!(store.open(&held.id).await.unwrap(), None, "round {round}");
        }
        eventually("the webhook left the index", || async {
            same(&fixture.due_at(&held.id).await, &None)
        })
        .await;
    }
}

/// Writers of different webhooks do not interfere. In the case, 500 tasks on two handles each
/// deliver one webhook, and none is refused.
async fn five_hundred_concurrent_webhooks_are_all_delivered(fixture: Fixture) {
    let created_at = fixture.now();
    let delivered: Vec<Webhook> = run_concurrently(&fixture, 500, |_, store| {
        let rules = fixture.rules.clone();
        async move {
            let webhook = rules.create(new_webhook(created_at, &fresh_reference()), created_at);
            store.create(&webhook, &content(&webhook)).await.unwrap();
            let claimed = rules.claim(&webhook, OURS, created_at).unwrap();
            assert_eq!(store.write_and_open(&webhook, &claimed).await.unwrap(), content(&webhook));
            let delivered =
                rules.conclude(&claimed, OURS, &answered(200), created_at, 0.5).unwrap();
            store.write(&claimed, &delivered).await.unwrap();
            delivered
        }
    })
    .await;
    for webhook in &delivered {
        assert_eq!(fixture.store.get(&webhook.id).await.unwrap().as_ref(), Some(webhook));
    }
    assert_eq!(
        fixture.list_unindexed(created_at, created_at.plus(Duration::from_millis(1))).await,
        []
    );
}
