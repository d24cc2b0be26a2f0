//! The documents of applications.

use super::*;
use crate::{
    applications::application::Application,
    store::{Applications, WriteApplicationError},
};

#[tokio::test]
async fn an_application_is_written_on_its_revision_alone() {
    let fixture = fixture();
    let [(_, least), (_, full)] = crate::store::golden::applications::applications();
    let write = async |before, after: &_| fixture.store.write_application(before, after).await;
    let changed = |result| match result {
        Err(WriteApplicationError::Changed(stored)) => stored.map(|stored| stored.revision),
        other => panic!("{other:?}"),
    };
    assert_eq!(changed(write(Some(1), &full).await), None);
    write(None, &least).await.unwrap();
    write(None, &least).await.unwrap();
    let next = Application { revision: 2, ..least.clone() };
    assert_eq!(changed(write(None, &next).await), Some(1));
    write(Some(1), &next).await.unwrap();
    write(Some(1), &next).await.unwrap();
    assert_eq!(changed(write(Some(1), &least).await), Some(2));
    write(None, &full).await.unwrap();
    assert_eq!(fixture.store.application(&next.id).await.unwrap(), Some(next.clone()));
    let first = fixture.store.applications(None, 1).await.unwrap();
    assert_eq!((first.items, first.next.as_ref()), (vec![full.clone()], Some(&full.id)));
    let second = fixture.store.applications(first.next.as_ref(), 1).await.unwrap();
    assert_eq!((second.items, second.next), (vec![next.clone()], None));
    // A document of a newer version is never replaced, and lists leave it out.
    let newer = next.to_json().replace("\"v\":2", "\"v\":9");
    let sql = "UPDATE applications SET document = ?1 WHERE id = 'cust-7'";
    fixture.raw().execute(sql, [newer]).unwrap();
    let error = fixture.store.application(&next.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
    let error = write(Some(1), &next).await.unwrap_err();
    assert!(matches!(error, WriteApplicationError::Store(_)), "{error}");
    assert_eq!(fixture.store.applications(None, 9).await.unwrap().items, [full]);
}
