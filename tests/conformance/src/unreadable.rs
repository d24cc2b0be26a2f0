//! Records that this version cannot read: reported by id, left unchanged, and no obstacle to other
//! records.

use shared::{
    id::WebhookId,
    model::{InvalidRecord, SCHEMA},
    store::{CreateError, Filter, StoreError, Tombstone, WriteError},
};

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, fresh_reference, same},
    steps::OURS,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_newer_record_is_refused_and_not_changed,
        a_newer_record_does_not_hide_other_records,
        an_operator_can_delete_a_newer_record
    ]
}

/// A record of a newer version, in a different shape.
pub(super) fn newer(id: &WebhookId) -> String {
    format!(r#"{{"v":{},"id":"{id}","r":"another shape"}}"#, SCHEMA + 1)
}

fn is_too_new(error: &StoreError, id: &str) -> bool {
    matches!(error, StoreError::Unreadable { id: named,
        source: InvalidRecord::TooNew { found } } if named == id && *found == SCHEMA + 1)
}

/// After a rollback, the records of the newer version survive. Every call that needs such a record
/// returns an error, and no write replaces it. The case reads, writes, and reads again.
async fn a_newer_record_is_refused_and_not_changed(fixture: Fixture) {
    let webhook = fixture.created().await;
    let claimed = fixture.rules.claim(&webhook, OURS, fixture.now()).unwrap();
    fixture.backend.plant_record(&webhook.id, &newer(&webhook.id)).await;
    let id = webhook.id.to_string();
    for store in [&fixture.store, &fixture.other] {
        assert!(is_too_new(&store.get(&webhook.id).await.unwrap_err(), &id));
        assert!(is_too_new(&store.open(&webhook.id).await.unwrap_err(), &id));
        for error in [
            store.write(&webhook, &claimed).await.unwrap_err(),
            store.write_and_open(&webhook, &claimed).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(
                matches!(&error, WriteError::Store(error) if is_too_new(error, &id)),
                "{error:?}"
            );
        }
        assert!(is_too_new(&store.get(&webhook.id).await.unwrap_err(), &id));
    }
}

/// A newer record does not stop lists and the audit from reading the others. The case uses one
/// among four.
async fn a_newer_record_does_not_hide_other_records(fixture: Fixture) {
    let reference = fresh_reference();
    let mut webhooks = Vec::new();
    for millis in 0..4 {
        webhooks.push(fixture.created_with(fixture.at(millis), &reference).await);
    }
    let planted = webhooks.remove(1);
    fixture.backend.plant_record(&planted.id, &newer(&planted.id)).await;
    let expected: Vec<_> = webhooks.iter().map(|webhook| webhook.id.task).collect();
    assert_eq!(fixture.list_unindexed(fixture.epoch, fixture.at(4)).await, expected);
    let by_reference = Filter { reference: Some(reference), ..Filter::default() };
    let by_time = Filter { created_before: Some(fixture.at(4)), ..Filter::default() };
    for filter in [by_reference, by_time] {
        eventually("the others are listed", || async {
            let mut found: Vec<_> = fixture
                .store
                .list(&filter, None, 10)
                .await
                .unwrap()
                .items
                .iter()
                .map(|listed| listed.webhook.id.task)
                .collect();
            found.retain(|task| task.created_at() >= fixture.epoch);
            found.reverse();
            same(&found, &expected)
        })
        .await;
    }
}

/// An operator can delete a newer record with its content, and its id gets a tombstone. The case
/// deletes the webhook and creates it again.
async fn an_operator_can_delete_a_newer_record(fixture: Fixture) {
    let webhook = fixture.created().await;
    fixture.backend.plant_record(&webhook.id, &newer(&webhook.id)).await;
    fixture.other.delete(&webhook.id).await.unwrap();
    assert_eq!(fixture.store.get(&webhook.id).await.unwrap(), None);
    assert!(!fixture.backend.has_content(&webhook.id).await);
    let again = fixture.store.create(&webhook, &content(&webhook)).await;
    assert!(matches!(again, Err(CreateError::Tombstone(Tombstone::Deleted))), "{again:?}");
}
