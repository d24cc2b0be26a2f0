//! The documents of applications: written on their revision only, and listed by their ids.

use std::time::Duration;

use shared::{
    applications::{
        application::{Application, MAX_DOCUMENT_BYTES, MAX_ENDPOINTS},
        change::{Actor, ApplicationInput},
        endpoint::{DisabledWhy, Endpoint, Given, Metadata, SealedHeader},
        id::{ApplicationId, EndpointId},
        secrets::{SecretKind, StoredSecret},
    },
    clock::Timestamp,
    model::{APPLICATIONS_SCHEMA, InvalidRecord},
    store::{MAX_READ, StoreError, WriteApplicationError},
};

use super::{
    Case, Fixture, area,
    fixture::{eventually, same},
    races::run_concurrently,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        an_absent_application_is_none,
        an_application_is_visible_to_every_handle,
        an_application_is_written_on_its_revision_only,
        a_repeated_write_succeeds,
        one_of_racing_creates_wins,
        racing_changes_are_all_kept,
        a_full_application_is_kept,
        applications_are_listed_in_the_order_of_their_ids,
        a_deleted_application_stays,
        a_newer_document_is_refused_and_not_changed,
        a_newer_document_does_not_hide_others,
    ]
}

fn fresh_id() -> ApplicationId {
    format!("app-{:016x}", rand::random::<u64>()).parse().unwrap()
}

fn actor(now: Timestamp) -> Actor<'static> {
    Actor { by: "key", why: DisabledWhy::Operator, now }
}

fn new(id: &ApplicationId, now: Timestamp) -> Application {
    Application::new(id.clone(), ApplicationInput::default(), actor(now)).unwrap()
}

fn renamed(application: &Application, name: &str, now: Timestamp) -> Application {
    let input = ApplicationInput { name: Given::Value(name.to_owned()), ..Default::default() };
    application.put(input, actor(now)).unwrap()
}

/// This many random characters, which do not deflate well.
fn noise(characters: usize) -> String {
    let digits = (0..=characters / 16).map(|_| format!("{:016x}", rand::random::<u64>()));
    digits.collect::<String>()[..characters].to_owned()
}

/// An endpoint with every kind of field, and this many random characters.
fn endpoint(size: usize, now: Timestamp) -> Endpoint {
    Endpoint {
        id: EndpointId::mint(rand::random()),
        revision: 3,
        created_at: now,
        updated_at: now.plus(Duration::from_secs(1)),
        url: "https://example.com/hooks?é".to_owned(),
        event_types: Some(vec!["order.*".parse().unwrap(), "invoice.paid".parse().unwrap()]),
        headers: vec![SealedHeader { name: "x-token".to_owned(), sealed: noise(size / 2).into() }],
        secrets: vec![StoredSecret {
            id: format!("sec-{:016x}", rand::random::<u64>()).parse().unwrap(),
            kind: SecretKind::V1,
            sealed: noise(size / 2).into(),
            created_at: now,
            expires_at: None,
        }],
        retry: None,
        timeout_ms: Some(7000),
        description: Some("the shop’s".to_owned()),
        metadata: Metadata::from([("team".to_owned(), "a".to_owned())]),
        disabled: None,
    }
}

async fn stored(fixture: &Fixture, id: &ApplicationId) -> Option<Application> {
    let found = fixture.store.application(id).await.unwrap();
    assert_eq!(fixture.other.application(id).await.unwrap(), found, "both handles agree");
    found
}

fn assert_changed(written: Result<(), WriteApplicationError>, stored: Option<&Application>) {
    match written {
        Err(WriteApplicationError::Changed(found)) => assert_eq!(found.as_deref(), stored),
        other => panic!("{other:?}"),
    }
}

/// A read of an unknown id finds nothing, and neither does one of an id that differs in case. The
/// case tries both, and a change of what does not exist.
async fn an_absent_application_is_none(fixture: Fixture) {
    let (id, now) = (fresh_id(), fixture.now());
    assert_eq!(stored(&fixture, &id).await, None);
    let first = new(&id, now);
    let changed = renamed(&first, "x", now);
    assert_changed(fixture.store.write_application(Some(first.revision), &changed).await, None);
    assert_eq!(stored(&fixture, &id).await, None, "a change creates nothing");
    fixture.store.write_application(None, &first).await.unwrap();
    let upper: ApplicationId = id.as_str().to_uppercase().parse().unwrap();
    assert_eq!(stored(&fixture, &upper).await, None);
}

/// Once a write returns, every process reads it. The case creates and changes a document, and reads
/// it through both handles.
async fn an_application_is_visible_to_every_handle(fixture: Fixture) {
    let (id, now) = (fresh_id(), fixture.now());
    let first = new(&id, now);
    fixture.store.write_application(None, &first).await.unwrap();
    assert_eq!(stored(&fixture, &id).await, Some(first.clone()));
    let mut second = renamed(&first, "Ünï 😀", now.plus(Duration::from_secs(1)));
    second.endpoints.push(endpoint(40, now));
    second.tokens_not_before = Some(now);
    fixture.other.write_application(Some(first.revision), &second).await.unwrap();
    assert_eq!(stored(&fixture, &id).await, Some(second));
}

/// A write takes effect only on the revision that it was made from. A refusal returns what is
/// stored. The case tries no revision, an older one and a newer one, through both handles.
async fn an_application_is_written_on_its_revision_only(fixture: Fixture) {
    let (id, now) = (fresh_id(), fixture.now());
    let first = new(&id, now);
    fixture.store.write_application(None, &first).await.unwrap();
    let second = renamed(&first, "second", now);
    fixture.other.write_application(Some(first.revision), &second).await.unwrap();
    let newer = renamed(&renamed(&second, "third", now), "fourth", now);
    let again = Application { name: Some("again".to_owned()), ..first.clone() };
    for (before, after) in [
        (None, &again),
        (Some(first.revision), &renamed(&first, "stale", now)),
        (Some(second.revision + 1), &newer),
    ] {
        for store in [&fixture.store, &fixture.other] {
            assert_changed(store.write_application(before, after).await, Some(&second));
            assert_eq!(stored(&fixture, &id).await.as_ref(), Some(&second), "{before:?}");
        }
    }
}

/// A caller whose answer was lost repeats the write and learns that it took effect. The case
/// repeats a create and a change, through the other handle, and then writes something else.
async fn a_repeated_write_succeeds(fixture: Fixture) {
    let (id, now) = (fresh_id(), fixture.now());
    let first = new(&id, now);
    let second = renamed(&first, "second", now);
    for store in [&fixture.store, &fixture.other] {
        store.write_application(None, &first).await.unwrap();
    }
    for store in [&fixture.store, &fixture.other] {
        store.write_application(Some(first.revision), &second).await.unwrap();
    }
    let other = renamed(&first, "other", now);
    let refused = fixture.store.write_application(Some(first.revision), &other).await;
    assert_changed(refused, Some(&second));
    assert_changed(fixture.store.write_application(None, &first).await, Some(&second));
    assert_eq!(stored(&fixture, &id).await, Some(second));
}

/// Of concurrent creates of one id, one takes effect, and the others get its document. In each
/// round, four tasks on two handles race.
async fn one_of_racing_creates_wins(fixture: Fixture) {
    for round in 0..25 {
        let base = new(&fresh_id(), fixture.now());
        let results = run_concurrently(&fixture, 4, |index, store| {
            let own = Application { name: Some(format!("writer {index}")), ..base.clone() };
            async move { (store.write_application(None, &own).await, own) }
        })
        .await;
        let found = stored(&fixture, &base.id).await.unwrap();
        let mut won = 0;
        for (written, own) in results {
            match written {
                Ok(()) => {
                    won += 1;
                    assert_eq!(found, own, "round {round}");
                }
                refused => assert_changed(refused, Some(&found)),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
}

/// Each change is made from the latest document, so none undoes another. In the case, four tasks
/// add ten endpoints each. At each revision one of them wins, and the others get the document that
/// beat them.
async fn racing_changes_are_all_kept(fixture: Fixture) {
    const CHANGES: u64 = 10;
    let first = new(&fresh_id(), fixture.now());
    fixture.store.write_application(None, &first).await.unwrap();
    let results = run_concurrently(&fixture, 4, |_, store| {
        let mut current = first.clone();
        async move {
            let mut revisions = Vec::new();
            while (revisions.len() as u64) < CHANGES {
                let mut next = renamed(&current, "racing", current.updated_at);
                next.endpoints.push(endpoint(16, current.created_at));
                match store.write_application(Some(current.revision), &next).await {
                    Ok(()) => {
                        revisions.push((next.revision, next.endpoints.last().unwrap().id));
                        current = next;
                    }
                    Err(WriteApplicationError::Changed(Some(newer))) => {
                        assert!(newer.revision > current.revision, "the document did not change");
                        current = *newer;
                    }
                    other => panic!("{other:?}"),
                }
            }
            revisions
        }
    })
    .await;
    let mut added: Vec<(u64, EndpointId)> = results.concat();
    added.sort_by_key(|(revision, _)| *revision);
    let found = stored(&fixture, &first.id).await.unwrap();
    let expected: Vec<u64> = (first.revision + 1..=first.revision + 4 * CHANGES).collect();
    let (revisions, endpoints): (Vec<_>, Vec<_>) = added.into_iter().unzip();
    assert_eq!(revisions, expected, "one writer wins at each revision");
    let kept: Vec<EndpointId> = found.endpoints.iter().map(|endpoint| endpoint.id).collect();
    assert_eq!((kept, found.revision), (endpoints, first.revision + 4 * CHANGES));
}

/// The largest document is stored and changed like any other. The case has 100 endpoints that
/// deflate to little less than the limit.
async fn a_full_application_is_kept(fixture: Fixture) {
    let (id, now) = (fresh_id(), fixture.now());
    let mut full = new(&id, now);
    for _ in 0..MAX_ENDPOINTS {
        full.endpoints.push(endpoint(2050, now));
    }
    let bytes = full.deflated_bytes();
    assert!((MAX_DOCUMENT_BYTES * 9 / 10..=MAX_DOCUMENT_BYTES).contains(&bytes), "{bytes}");
    fixture.store.write_application(None, &full).await.unwrap();
    assert!(stored(&fixture, &id).await.as_ref() == Some(&full));
    let changed = renamed(&full, "changed", now);
    fixture.other.write_application(Some(full.revision), &changed).await.unwrap();
    assert!(stored(&fixture, &id).await.as_ref() == Some(&changed));
    let refused = fixture.store.write_application(Some(full.revision), &full).await;
    assert!(
        matches!(refused, Err(WriteApplicationError::Changed(Some(found))) if *found == changed)
    );
    eventually("it is listed", || async {
        same(&listed(&fixture, id.as_str(), 10).await.contains(&id), &true)
    })
    .await;
}

/// The ids of all applications that begin with the prefix, from all pages.
async fn listed(fixture: &Fixture, prefix: &str, limit: usize) -> Vec<ApplicationId> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..MAX_READ {
        let page = fixture.other.applications(after.as_ref(), limit).await.unwrap();
        assert!(page.items.len() <= limit, "{} items for a limit of {limit}", page.items.len());
        assert!(page.next.is_none() || page.next > after, "the position does not advance");
        found.extend(page.items.into_iter().map(|application| application.id));
        after = page.next;
        if after.is_none() {
            found.retain(|id| id.as_str().starts_with(prefix));
            return found;
        }
    }
    panic!("the list did not end");
}

/// The list is in the order of the ids, whatever the order of creation, and its pages have each
/// application once. The case has 24 ids that sort differently by case and by length, and limits
/// from one to more than all. It also starts behind an id that does not exist.
async fn applications_are_listed_in_the_order_of_their_ids(fixture: Fixture) {
    let prefix = format!("{:08x}", rand::random::<u32>());
    let names = ["", "-", "_", "0", "9", "A", "Z", "a", "z", "a-", "a_", "aa", "aA", "Aa"];
    let mut ids: Vec<ApplicationId> =
        names.iter().map(|name| format!("{prefix}{name}").parse().unwrap()).collect();
    ids.extend((0..10).map(|n: i32| format!("{prefix}n{n}").parse::<ApplicationId>().unwrap()));
    for index in 0..ids.len() {
        // An order of creation that differs from that of the ids.
        let id = &ids[index * 7 % ids.len()];
        fixture.store.write_application(None, &new(id, fixture.now())).await.unwrap();
    }
    ids.sort();
    for limit in [1, 2, 5, 23, 24, 25, 100] {
        eventually(&format!("pages of {limit}"), || async {
            same(&listed(&fixture, &prefix, limit).await, &ids)
        })
        .await;
    }
    for after in [ids[3].clone(), format!("{prefix}n4x").parse().unwrap()] {
        let page = fixture.store.applications(Some(&after), 3).await.unwrap();
        let found: Vec<ApplicationId> = page.items.into_iter().map(|found| found.id).collect();
        let expected: Vec<ApplicationId> =
            ids.iter().filter(|id| **id > after).take(found.len()).cloned().collect();
        assert_eq!(found, expected, "after {after}");
    }
    let last = ids.last();
    let page = fixture.store.applications(last, 100).await.unwrap();
    assert!(page.items.iter().all(|application| Some(&application.id) > last));
}

/// A deleted application keeps its document, and lists include it. It can be written again. The
/// case reads it by id and in the list.
async fn a_deleted_application_stays(fixture: Fixture) {
    let (id, now) = (fresh_id(), fixture.now());
    let first = new(&id, now);
    fixture.store.write_application(None, &first).await.unwrap();
    let gone = Application { deleted_at: Some(now), revision: first.revision + 1, ..first.clone() };
    fixture.store.write_application(Some(first.revision), &gone).await.unwrap();
    fixture.clock.advance(Duration::from_secs(400 * 24 * 3600));
    assert_eq!(stored(&fixture, &id).await, Some(gone.clone()), "documents do not expire");
    assert_changed(fixture.store.write_application(None, &first).await, Some(&gone));
    eventually("it is listed as deleted", || async {
        let items = fixture.store.applications(None, MAX_READ).await.unwrap().items;
        let found = items.into_iter().find(|application| application.id == id);
        same(&found, &Some(gone.clone()))
    })
    .await;
    let again = Application { deleted_at: None, revision: gone.revision + 1, ..first.clone() };
    fixture.other.write_application(Some(gone.revision), &again).await.unwrap();
    assert_eq!(stored(&fixture, &id).await, Some(again));
}

fn newer(id: &ApplicationId) -> String {
    format!(r#"{{"v":{},"id":"{id}","endpoints":"another shape"}}"#, APPLICATIONS_SCHEMA + 1)
}

fn is_too_new(error: &StoreError, id: &ApplicationId) -> bool {
    matches!(error, StoreError::Unreadable { id: named, source: InvalidRecord::TooNew { found } }
        if *named == id.to_string() && *found == APPLICATIONS_SCHEMA + 1)
}

/// After a rollback, the documents of the newer version survive. The case reads such a document and
/// writes it from each revision that a caller could know.
async fn a_newer_document_is_refused_and_not_changed(fixture: Fixture) {
    let (id, now) = (fresh_id(), fixture.now());
    let first = new(&id, now);
    fixture.store.write_application(None, &first).await.unwrap();
    fixture.backend.plant_application(&id, &newer(&id)).await;
    let second = renamed(&first, "second", now);
    for store in [&fixture.store, &fixture.other] {
        assert!(is_too_new(&store.application(&id).await.unwrap_err(), &id));
        for (before, after) in [(None, &first), (Some(first.revision), &second)] {
            let written = store.write_application(before, after).await;
            assert!(
                matches!(&written, Err(WriteApplicationError::Store(error)) if
                    is_too_new(error, &id)),
                "{before:?}: {written:?}"
            );
        }
        assert!(is_too_new(&store.application(&id).await.unwrap_err(), &id));
    }
}

/// A newer document does not stop the list. The case has one among five, which pages of one
/// document must pass.
async fn a_newer_document_does_not_hide_others(fixture: Fixture) {
    let prefix = format!("{:08x}-", rand::random::<u32>());
    let mut ids: Vec<ApplicationId> =
        (0..5).map(|n| format!("{prefix}{n}").parse().unwrap()).collect();
    for id in &ids {
        fixture.store.write_application(None, &new(id, fixture.now())).await.unwrap();
    }
    let planted = ids.remove(2);
    fixture.backend.plant_application(&planted, &newer(&planted)).await;
    for limit in [1, 2, 100] {
        eventually("the others are listed", || async {
            same(&listed(&fixture, &prefix, limit).await, &ids)
        })
        .await;
    }
    for id in &ids {
        assert!(stored(&fixture, id).await.is_some());
    }
}
