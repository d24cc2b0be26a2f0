//! Delete: nothing is left, and nothing comes back.

use std::time::Duration;

use shared::{
    apply::{Applied, apply},
    id::WebhookId,
    model::Webhook,
    store::{DeadLetterFilter, DeleteError, Filter},
};

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, fresh_reference, same},
    steps::{Event, Kind, OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        nothing_is_left_of_what_was_deleted,
        what_is_deleted_during_an_attempt_stays_deleted,
        what_has_changed_stays,
        delete_unchanged_looks_at_id_and_expiry_before_the_revision,
        others_stay
    ]
}

/// Record, content and every index entry are gone, for every handle. The case deletes a webhook of
/// each kind, so every index had an entry.
async fn nothing_is_left_of_what_was_deleted(fixture: Fixture) {
    for kind in [
        Kind::Pending,
        Kind::PendingHeld,
        Kind::LeaseLive,
        Kind::RetryingLater,
        Kind::Delivered,
        Kind::Failed,
        Kind::Archived,
    ] {
        let webhook = kind.make(&fixture).await;
        let (id, created_at) = (&webhook.id, webhook.id.task.created_at());
        assert!(fixture.backend.has_content(id).await, "{kind:?}");
        fixture.other.delete(id).await.unwrap();
        assert!(!fixture.backend.has_content(id).await, "{kind:?}: the payload goes too");
        assert_eq!(fixture.store.get(id).await.unwrap(), None, "{kind:?}");
        assert_eq!(fixture.store.open(id).await.unwrap(), None, "{kind:?}");
        let again = fixture.store.delete(id).await;
        assert!(matches!(again, Err(DeleteError::Missing)), "{kind:?}: {again:?}");
        eventually(&format!("no index has the webhook ({kind:?})"), || async {
            same(&fixture.due_at(id).await, &None)?;
            same(
                &fixture
                    .list_unindexed(created_at, created_at.plus(Duration::from_millis(1)))
                    .await
                    .contains(&id.task),
                &false,
            )?;
            let letters = DeadLetterFilter::Reference(id.reference.clone());
            let reference = Some(id.reference.clone());
            same(&fixture.store.dead_letters(&letters, None, 10).await.unwrap().items, &vec![])?;
            same(
                &fixture
                    .store
                    .list(&Filter { reference, ..Filter::default() }, None, 10)
                    .await
                    .unwrap()
                    .items,
                &vec![],
            )?;
            let all = fixture.store.list(&Filter::default(), None, 100).await.unwrap().items;
            same(&all.iter().any(|listed| listed.webhook.id == *id), &false)
        })
        .await;
    }
}

/// A delete of a record that was read has no effect if the record has changed since. The case tries
/// it with the record before and after a write.
async fn what_has_changed_stays(fixture: Fixture) {
    let seen = fixture.created().await;
    let now = fixture.now();
    let changed = fixture.step(&seen, |rules, webhook| rules.rescue(webhook, now)).await;
    assert!(matches!(fixture.other.delete_unchanged(&seen).await, Err(DeleteError::Changed)));
    assert_eq!(fixture.store.get(&seen.id).await.unwrap(), Some(changed.clone()));
    assert!(fixture.backend.has_content(&seen.id).await);
    fixture.other.delete_unchanged(&changed).await.unwrap();
    assert_eq!(fixture.store.get(&seen.id).await.unwrap(), None);
    assert!(matches!(fixture.store.delete_unchanged(&changed).await, Err(DeleteError::Missing)));
}

/// A webhook that does not exist for the caller is missing, whatever the revision: the ID names
/// none, or the webhook has expired. Such a delete leaves a record of another revision as it is.
/// The case tries the stored revision and an earlier one, another reference ID, and a clock that is
/// ahead for a moment.
async fn delete_unchanged_looks_at_id_and_expiry_before_the_revision(fixture: Fixture) {
    let stored = Kind::Delivered.make(&fixture).await;
    let earlier = Webhook { revision: stored.revision - 1, ..stored.clone() };
    let renamed = |seen: &Webhook| {
        let id = WebhookId::direct(fresh_reference(), seen.id.task);
        Webhook { id, ..seen.clone() }
    };
    let assert_missing = async |seen: &Webhook| {
        let deleted = fixture.other.delete_unchanged(seen).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{}: {deleted:?}", seen.revision);
    };
    for seen in [&stored, &earlier] {
        assert_missing(&renamed(seen)).await;
    }
    fixture.clock.set_ahead(Duration::from_secs(40 * 24 * 3600));
    assert_missing(&earlier).await;
    assert_missing(&renamed(&earlier)).await;
    fixture.clock.set_ahead(Duration::ZERO);
    let found = fixture.store.open(&stored.id).await.unwrap();
    assert_eq!(found, Some((stored.clone(), content(&stored))));
    fixture.clock.advance(fixture.rules.limits.retention);
    for seen in [&earlier, &stored] {
        assert_missing(seen).await;
    }
}

/// After a delete has returned, no claim succeeds, and the outcome of an attempt in flight creates
/// no record. The case writes both, conditionally and by `apply`.
async fn what_is_deleted_during_an_attempt_stays_deleted(fixture: Fixture) {
    let claimed = Kind::LeaseLive.make(&fixture).await;
    let pending = Kind::Pending.make(&fixture).await;
    fixture.store.delete(&claimed.id).await.unwrap();
    fixture.store.delete(&pending.id).await.unwrap();
    let now = fixture.now();
    let outcome = apply(&*fixture.other, claimed.clone(), |webhook| {
        fixture.rules.conclude(webhook, OURS, &answered(200), now, 0.5)
    });
    assert!(matches!(outcome.await.unwrap(), Applied::Missing));
    for event in [Event::Claim, Event::Audit, Event::Rescue] {
        let applied = apply(&*fixture.other, pending.clone(), |webhook| {
            event.happen(&fixture.rules, webhook, now)
        })
        .await;
        assert!(matches!(applied.unwrap(), Applied::Missing), "{event:?}");
    }
    for id in [&claimed.id, &pending.id] {
        assert_eq!(fixture.store.open(id).await.unwrap(), None);
        assert_eq!(fixture.due_at(id).await, None);
    }
}

/// A delete removes one webhook and nothing of another. The case has two with the same reference ID
/// and the same millisecond.
async fn others_stay(fixture: Fixture) {
    let reference = fresh_reference();
    let now = fixture.now();
    let (gone, stays) =
        (fixture.created_with(now, &reference).await, fixture.created_with(now, &reference).await);
    fixture.store.delete(&gone.id).await.unwrap();
    assert_eq!(
        fixture.store.open(&stays.id).await.unwrap(),
        Some((stays.clone(), content(&stays)))
    );
    let filter = Filter { reference: Some(reference), ..Filter::default() };
    eventually("only the other is listed", || async {
        let items = fixture.store.list(&filter, None, 10).await.unwrap().items;
        same(
            &items.iter().map(|listed| listed.webhook.id.task).collect::<Vec<_>>(),
            &vec![stays.id.task],
        )
    })
    .await;
}
