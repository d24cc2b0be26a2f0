//! Tombstones: a deleted webhook cannot be created again, and neither can an unused id with a
//! tombstone.

use std::{sync::Arc, time::Duration};

use shared::{
    model::Webhook,
    store::{CreateError, DeleteError, Filter, IDEMPOTENCY_TTL, IdState, Tombstone},
};
use tokio::sync::Barrier;

use super::{
    Case, Fixture, area,
    fixture::{content, fresh_reference, new_webhook},
    steps::{Kind, OURS},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_deleted_webhook_cannot_be_created_again,
        an_id_with_a_tombstone_cannot_be_created,
        an_existing_webhook_gets_no_tombstone,
        either_a_racing_create_or_the_tombstone_wins,
    ]
}

fn new(fixture: &Fixture) -> Webhook {
    fixture.rules.create(new_webhook(fixture.now(), &fresh_reference()), fixture.now())
}

/// Checks that no reader finds any part of the webhook, including its content.
async fn assert_nothing_is_stored(fixture: &Fixture, webhook: &Webhook) {
    let (id, created_at) = (&webhook.id, webhook.id.task.created_at());
    assert_eq!(fixture.other.get(id).await.unwrap(), None);
    assert_eq!(fixture.other.open(id).await.unwrap(), None);
    assert!(!fixture.backend.has_content(id).await);
    assert_eq!(fixture.due_at(id).await, None);
    assert!(
        !fixture
            .list_unindexed(created_at, created_at.plus(Duration::from_millis(1)))
            .await
            .contains(&id.task)
    );
    let all = fixture.store.list(&Filter::default(), None, 100).await.unwrap().items;
    assert!(all.iter().all(|listed| listed.webhook.id != *id));
    let claimed = fixture
        .rules
        .claim(webhook, OURS, webhook.created_at.plus(Duration::from_secs(1)))
        .unwrap();
    assert!(fixture.store.write(webhook, &claimed).await.is_err());
    assert!(matches!(fixture.store.delete(id).await, Err(DeleteError::Missing)));
}

/// A create under the id of a deleted webhook is refused with that reason while an idempotency key
/// can refer to the id. The case tries each kind of delete, at once and a day later.
async fn a_deleted_webhook_cannot_be_created_again(fixture: Fixture) {
    let pending = Kind::Pending.make(&fixture).await;
    let failed = Kind::Archived.make(&fixture).await;
    fixture.other.delete(&pending.id).await.unwrap();
    fixture.other.delete_unchanged(&failed).await.unwrap();
    for wait in [Duration::ZERO, IDEMPOTENCY_TTL] {
        fixture.clock.advance(wait);
        for webhook in [&pending, &failed] {
            let created = fixture.store.create(webhook, &content(webhook)).await;
            assert!(
                matches!(created, Err(CreateError::Tombstone(Tombstone::Deleted))),
                "{created:?}"
            );
            assert_eq!(
                fixture.other.tombstone_id(&webhook.id).await.unwrap(),
                IdState::Tombstone(Tombstone::Deleted)
            );
        }
        assert_nothing_is_stored(&fixture, &pending).await;
    }
}

/// A create under an unused id with a tombstone is refused with that reason and stores nothing. The
/// case tries twice, through the other handle.
async fn an_id_with_a_tombstone_cannot_be_created(fixture: Fixture) {
    let webhook = new(&fixture);
    for _ in 0..2 {
        assert_eq!(
            fixture.store.tombstone_id(&webhook.id).await.unwrap(),
            IdState::Tombstone(Tombstone::Unused)
        );
        let created = fixture.other.create(&webhook, &content(&webhook)).await;
        assert!(matches!(created, Err(CreateError::Tombstone(Tombstone::Unused))), "{created:?}");
    }
    assert_nothing_is_stored(&fixture, &webhook).await;
}

/// An existing webhook gets no tombstone: the call returns the webhook, which can still be claimed.
/// After a delete, the id has the tombstone of a deleted webhook.
async fn an_existing_webhook_gets_no_tombstone(fixture: Fixture) {
    let webhook = fixture.created().await;
    assert_eq!(
        fixture.other.tombstone_id(&webhook.id).await.unwrap(),
        IdState::Webhook(Box::new(webhook.clone()))
    );
    assert_eq!(
        fixture.store.open(&webhook.id).await.unwrap(),
        Some((webhook.clone(), content(&webhook)))
    );
    let now = fixture.now();
    let claimed = fixture.step(&webhook, |rules, webhook| rules.claim(webhook, OURS, now)).await;
    assert_eq!(
        fixture.other.tombstone_id(&webhook.id).await.unwrap(),
        IdState::Webhook(Box::new(claimed))
    );
    fixture.store.delete(&webhook.id).await.unwrap();
    assert_eq!(
        fixture.other.tombstone_id(&webhook.id).await.unwrap(),
        IdState::Tombstone(Tombstone::Deleted)
    );
}

/// Either the webhook is created and the tombstone call returns it, or the webhook can never be
/// created. In each round, two tasks on two handles race.
async fn either_a_racing_create_or_the_tombstone_wins(fixture: Fixture) {
    for round in 0..40 {
        let webhook = new(&fixture);
        let start = Arc::new(Barrier::new(2));
        let creating = {
            let (store, webhook, start) =
                (Arc::clone(&fixture.store), webhook.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                store.create(&webhook, &content(&webhook)).await
            })
        };
        start.wait().await;
        let state = fixture.other.tombstone_id(&webhook.id).await.unwrap();
        let created = creating.await.unwrap();
        let stored = fixture.store.get(&webhook.id).await.unwrap();
        match created {
            Ok(()) => {
                assert_eq!(state, IdState::Webhook(Box::new(webhook.clone())), "round {round}");
                assert_eq!(stored, Some(webhook), "round {round}");
            }
            Err(CreateError::Tombstone(Tombstone::Unused)) => {
                assert_eq!(state, IdState::Tombstone(Tombstone::Unused), "round {round}");
                assert_eq!(stored, None, "round {round}");
            }
            Err(error) => panic!("round {round}: {error:?}"),
        }
    }
}
