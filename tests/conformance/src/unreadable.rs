//! Records that this version cannot read: named as such, left alone, and in nobody's way.

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
        a_newer_record_is_refused_by_name_and_not_changed,
        a_newer_record_does_not_hide_the_others,
        an_operator_can_delete_a_newer_record
    ]
}

/// A record of a newer version, whose other fields need not be ours.
pub(super) fn newer(id: &WebhookId) -> String {
    format!(r#"{{"v":{},"id":"{id}","r":"another shape"}}"#, SCHEMA + 1)
}

fn is_too_new(error: &StoreError, id: &str) -> bool {
    matches!(error, StoreError::Unreadable { id: named,
        source: InvalidRecord::TooNew { found } } if named == id && *found == SCHEMA + 1)
}

/// After a roll-back, what a newer version made must survive: every call that needs the record says
/// so, and no write replaces it. Proved by reading and by writing, then by reading again.
async fn a_newer_record_is_refused_by_name_and_not_changed(fixture: Fixture) {
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

/// One such record does not stop lists and the audit from getting at the rest. Proved with one
/// among four.
async fn a_newer_record_does_not_hide_the_others(fixture: Fixture) {
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

/// What cannot be read can be deleted, content and all, and its id is retired. Proved by deleting,
/// then by creating the same webhook.
async fn an_operator_can_delete_a_newer_record(fixture: Fixture) {
    let webhook = fixture.created().await;
    fixture.backend.plant_record(&webhook.id, &newer(&webhook.id)).await;
    fixture.other.delete(&webhook.id).await.unwrap();
    assert_eq!(fixture.store.get(&webhook.id).await.unwrap(), None);
    assert!(!fixture.backend.has_content(&webhook.id).await);
    let again = fixture.store.create(&webhook, &content(&webhook)).await;
    assert!(matches!(again, Err(CreateError::Tombstone(Tombstone::Deleted))), "{again:?}");
}
