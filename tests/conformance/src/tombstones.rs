//! Tombstone ids: what was deleted is not created again, and what was barred is never created.

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
        what_was_deleted_is_not_created_again,
        what_is_barred_is_never_created,
        what_exists_is_not_barred,
        of_a_racing_create_and_bar_one_wins,
    ]
}

fn new(fixture: &Fixture) -> Webhook {
    fixture.rules.create(new_webhook(fixture.now(), &fresh_reference()), fixture.now())
}

/// Nothing of it is there for any reader, content included.
async fn assert_nothing_is_there(fixture: &Fixture, webhook: &Webhook) {
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

/// A create under the id of a deleted webhook is refused, with that reason, for as long as a key
/// may stand for the id. Proved on a webhook of each way to be deleted, right away and a day later.
async fn what_was_deleted_is_not_created_again(fixture: Fixture) {
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
        assert_nothing_is_there(&fixture, &pending).await;
    }
}

/// A create under a barred id is refused, with that reason, and leaves nothing. Proved through the
/// other handle, twice.
async fn what_is_barred_is_never_created(fixture: Fixture) {
    let webhook = new(&fixture);
    for _ in 0..2 {
        assert_eq!(
            fixture.store.tombstone_id(&webhook.id).await.unwrap(),
            IdState::Tombstone(Tombstone::Unused)
        );
        let created = fixture.other.create(&webhook, &content(&webhook)).await;
        assert!(matches!(created, Err(CreateError::Tombstone(Tombstone::Unused))), "{created:?}");
    }
    assert_nothing_is_there(&fixture, &webhook).await;
}

/// A webhook that is there is answered, and goes on. Proved by claiming it afterwards; once it is
/// deleted, the id is retired as such.
async fn what_exists_is_not_barred(fixture: Fixture) {
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

/// Either the webhook is created, and who bars its id is told so, or it is not and never will be.
/// Proved by rounds of two tasks over two handles.
async fn of_a_racing_create_and_bar_one_wins(fixture: Fixture) {
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
        let standing = fixture.other.tombstone_id(&webhook.id).await.unwrap();
        let created = creating.await.unwrap();
        let there = fixture.store.get(&webhook.id).await.unwrap();
        match created {
            Ok(()) => {
                assert_eq!(standing, IdState::Webhook(Box::new(webhook.clone())), "round {round}");
                assert_eq!(there, Some(webhook), "round {round}");
            }
            Err(CreateError::Tombstone(Tombstone::Unused)) => {
                assert_eq!(standing, IdState::Tombstone(Tombstone::Unused), "round {round}");
                assert_eq!(there, None, "round {round}");
            }
            Err(error) => panic!("round {round}: {error:?}"),
        }
    }
}
