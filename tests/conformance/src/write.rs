//! Conditional writes: only over the record that was read, at most once, and never creating one.

use std::time::Duration;

use shared::{
    model::{ClaimId, Webhook},
    store::WriteError,
};

use super::{
    Case, Fixture, area,
    fixture::content,
    steps::{Kind, OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_write_replaces_the_record_and_keeps_the_content,
        a_write_from_a_stale_record_returns_the_stored_one,
        the_first_of_two_writes_at_one_revision_wins,
        a_repeated_write_succeeds,
        write_and_open_returns_the_content,
        an_expired_webhook_is_missing_for_writes,
    ]
}

/// A write over the stored record takes effect for every handle. The case reads each step of a
/// delivery through the other handle.
async fn a_write_replaces_the_record_and_keeps_the_content(fixture: Fixture) {
    let created = fixture.created().await;
    let now = fixture.now();
    let claimed = fixture.step(&created, |rules, webhook| rules.claim(webhook, OURS, now)).await;
    assert_eq!(fixture.other.get(&created.id).await.unwrap(), Some(claimed.clone()));
    let delivered = fixture.rules.conclude(&claimed, OURS, &answered(200), now, 0.5).unwrap();
    fixture.other.write(&claimed, &delivered).await.unwrap();
    assert_eq!(
        fixture.store.open(&created.id).await.unwrap(),
        Some((delivered, content(&created)))
    );
}

/// A write over a record that is no longer the stored one changes nothing and returns the stored
/// one. The case tries both kinds of write, through both handles, from an older and from a newer
/// revision.
async fn a_write_from_a_stale_record_returns_the_stored_one(fixture: Fixture) {
    let created = fixture.created().await;
    let now = fixture.now();
    let claimed = fixture.step(&created, |rules, webhook| rules.claim(webhook, OURS, now)).await;
    let stale = fixture
        .rules
        .give_up(
            &created,
            shared::transition::GiveUp::Unreadable,
            shared::model::Function::Dlq,
            now,
        )
        .unwrap();
    let newer = Webhook { revision: claimed.revision + 5, ..claimed.clone() };
    let newest = Webhook { revision: claimed.revision + 6, ..claimed.clone() };
    for (before, after) in [(&created, &stale), (&newer, &newest)] {
        for store in [&fixture.store, &fixture.other] {
            match store.write(before, after).await {
                Err(WriteError::Conflict(stored)) => assert_eq!(*stored, claimed),
                other => panic!("{other:?}"),
            }
            match store.write_and_open(before, after).await {
                Err(WriteError::Conflict(stored)) => assert_eq!(*stored, claimed),
                other => panic!("{other:?}"),
            }
            assert_eq!(fixture.store.get(&created.id).await.unwrap(), Some(claimed.clone()));
        }
    }
}

/// Two workers that read the same record write the same revision, and the first write wins. The
/// case makes two claims. The second is refused although its revision equals the stored one.
async fn the_first_of_two_writes_at_one_revision_wins(fixture: Fixture) {
    let created = fixture.created().await;
    let now = fixture.now();
    let first = fixture.rules.claim(&created, ClaimId(1), now).unwrap();
    let second = fixture.rules.claim(&created, ClaimId(2), now).unwrap();
    assert_eq!(first.revision, second.revision);
    fixture.store.write_and_open(&created, &first).await.unwrap();
    match fixture.other.write_and_open(&created, &second).await {
        Err(WriteError::Conflict(stored)) => assert_eq!(*stored, first),
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.store.get(&created.id).await.unwrap(), Some(first));
}

/// A client that lost the response repeats its write, which succeeds. The case writes twice, from a
/// new record and from one with attempts.
async fn a_repeated_write_succeeds(fixture: Fixture) {
    for kind in [Kind::Pending, Kind::RetryingAllowed] {
        let before = kind.make(&fixture).await;
        let claimed = fixture.rules.claim(&before, OURS, fixture.now()).unwrap();
        fixture.store.write(&before, &claimed).await.unwrap();
        fixture.other.write(&before, &claimed).await.unwrap();
        assert_eq!(
            fixture.store.write_and_open(&before, &claimed).await.unwrap(),
            content(&before)
        );
        assert_eq!(fixture.store.get(&before.id).await.unwrap(), Some(claimed));
    }
}

/// A claim returns the content in the same call, for each attempt. The case makes two attempts.
async fn write_and_open_returns_the_content(fixture: Fixture) {
    let mut record = fixture.created().await;
    for _ in 0..2 {
        let now = record.allowed_at.unwrap();
        let claimed = fixture.rules.claim(&record, OURS, now).unwrap();
        assert_eq!(
            fixture.other.write_and_open(&record, &claimed).await.unwrap(),
            content(&record)
        );
        record = fixture
            .step(&claimed, |rules, webhook| {
                rules.conclude(webhook, OURS, &answered(500), now, 0.5)
            })
            .await;
    }
}

/// An expired webhook is missing for writes, and no late write restores it. The case lets both
/// kinds of finished webhooks expire.
async fn an_expired_webhook_is_missing_for_writes(fixture: Fixture) {
    let finished = [Kind::Delivered.make(&fixture).await, Kind::Archived.make(&fixture).await];
    let resent: Vec<Webhook> = finished
        .iter()
        .map(|webhook| fixture.rules.resend(webhook, fixture.now()).unwrap())
        .collect();
    fixture.clock.advance(fixture.rules.limits.retention + Duration::from_secs(60));
    for (before, after) in finished.iter().zip(&resent) {
        assert!(matches!(fixture.store.write(before, after).await, Err(WriteError::Missing)));
        assert!(matches!(
            fixture.other.write_and_open(before, after).await,
            Err(WriteError::Missing)
        ));
        assert_eq!(fixture.store.get(&before.id).await.unwrap(), None);
        assert_eq!(fixture.due_at(&before.id).await, None);
    }
}
