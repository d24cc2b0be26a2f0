//! Every event on every kind of record, applied through the store. An allowed event is stored with
//! its index entries. A refused one changes nothing.

use std::time::Duration;

use shared::{
    apply::{Applied, apply},
    model::Webhook,
    status::Status,
    store::{DeadLetterFilter, Filter},
};

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, same},
    steps::{Event, Kind},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        from_pending,
        from_pending_in_the_due_index,
        from_scheduled,
        from_in_progress_with_a_live_lease,
        from_in_progress_with_an_expired_lease,
        from_retrying_and_allowed,
        from_retrying_and_not_yet_allowed,
        from_delivered,
        from_failed,
        from_archived,
    ]
}

async fn from_pending(fixture: Fixture) {
    check_every_event(&fixture, Kind::Pending).await;
}

async fn from_pending_in_the_due_index(fixture: Fixture) {
    check_every_event(&fixture, Kind::PendingHeld).await;
}

async fn from_scheduled(fixture: Fixture) {
    check_every_event(&fixture, Kind::Scheduled).await;
}

async fn from_in_progress_with_a_live_lease(fixture: Fixture) {
    check_every_event(&fixture, Kind::LeaseLive).await;
}

async fn from_in_progress_with_an_expired_lease(fixture: Fixture) {
    check_every_event(&fixture, Kind::LeaseOver).await;
}

async fn from_retrying_and_allowed(fixture: Fixture) {
    check_every_event(&fixture, Kind::RetryingAllowed).await;
}

async fn from_retrying_and_not_yet_allowed(fixture: Fixture) {
    check_every_event(&fixture, Kind::RetryingLater).await;
}

async fn from_delivered(fixture: Fixture) {
    check_every_event(&fixture, Kind::Delivered).await;
}

async fn from_failed(fixture: Fixture) {
    check_every_event(&fixture, Kind::Failed).await;
}

async fn from_archived(fixture: Fixture) {
    check_every_event(&fixture, Kind::Archived).await;
}

/// Record and indexes agree with the rules after every event on this kind of record. The case
/// applies each event to a new webhook, through the other handle.
async fn check_every_event(fixture: &Fixture, kind: Kind) {
    for event in Event::ALL {
        let what = format!("{kind:?} × {event:?}");
        let before = kind.make(fixture).await;
        let now = fixture.now();
        let applied = apply(&*fixture.other, before.clone(), |webhook| {
            event.happen(&fixture.rules, webhook, now)
        })
        .await
        .unwrap();
        let expected = match (applied, event.happen(&fixture.rules, &before, now)) {
            (Applied::Done(stored, ()), Ok(next)) => {
                assert_eq!(stored, next, "{what}");
                next
            }
            (Applied::Refused(refusal, stored), Err(expected)) => {
                assert_eq!((refusal, &stored), (expected, &before), "{what}");
                before
            }
            (applied, expected) => panic!("{what}: {applied:?} instead of {expected:?}"),
        };
        check_consistency(fixture, &expected, &what).await;
    }
}

/// Checks that the record, its content and every index agree.
async fn check_consistency(fixture: &Fixture, expected: &Webhook, what: &str) {
    let id = &expected.id;
    let stored = fixture.store.open(id).await.unwrap();
    assert_eq!(stored, Some((expected.clone(), content(expected))), "{what}");
    eventually(what, || async {
        same(&fixture.due_at(id).await, &expected.due_at)?;
        let created_at = id.task.created_at();
        let list_unindexed = fixture
            .list_unindexed(created_at, created_at.plus(Duration::from_millis(1)))
            .await
            .contains(&id.task);
        same(&list_unindexed, &(!expected.status.is_finished() && expected.due_at.is_none()))?;
        let letters = fixture
            .store
            .dead_letters(&DeadLetterFilter::reference(Some(&id.reference)), None, 10)
            .await
            .unwrap()
            .items;
        let all_letters = fixture
            .store
            .dead_letters(&DeadLetterFilter::reference(None), None, 100)
            .await
            .unwrap()
            .items;
        same(
            &letters.iter().any(|letter| letter.webhook == *expected),
            &expected.is_dead_letter(),
        )?;
        same(
            &all_letters.iter().any(|letter| letter.webhook.id == *id),
            &expected.is_dead_letter(),
        )?;
        for status in Status::ALL {
            let filter = Filter {
                reference: Some(id.reference.clone()),
                status: Some(status),
                created_before: None,
            };
            let listed = fixture.store.list(&filter, None, 10).await.unwrap().items;
            let found: Vec<_> =
                listed.iter().map(|listed| (&listed.webhook, &listed.url)).collect();
            let url = content(expected).url;
            let wanted = if status == expected.status { vec![(expected, &url)] } else { vec![] };
            same(&found, &wanted)?;
        }
        Ok(())
    })
    .await;
}
