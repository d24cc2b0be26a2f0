//! Conditional writes of a message: only over the record that was read, and never creating one.

use shared::{
    applications::message::PublishedMessage,
    store::{MessageFilter, WriteMessageError},
};

use super::published::{content, extended, fresh_endpoints, new_message};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, same},
    races::run_concurrently,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_write_replaces_the_message_and_keeps_the_content,
        a_message_is_written_on_its_revision_only,
        a_repeated_write_of_a_message_succeeds,
        a_write_creates_no_message,
        racing_writes_are_all_kept,
    ]
}

fn assert_conflict(written: Result<(), WriteMessageError>, stored: &PublishedMessage) {
    match written {
        Err(WriteMessageError::Conflict(found)) => assert_eq!(*found, *stored),
        other => panic!("{other:?}"),
    }
}

/// A write over the stored message takes effect for every handle, and the content stays. The case
/// writes a longer plan and then a deletion.
async fn a_write_replaces_the_message_and_keeps_the_content(fixture: Fixture) {
    let first = fixture.published(1).await;
    let now = fixture.now();
    let second = extended(&first, fresh_endpoints(1)[0], now);
    fixture.other.write_message(&first, &second).await.unwrap();
    assert_eq!(fixture.store.message(&first.id).await.unwrap(), Some(second.clone()));
    let third =
        fixture.move_message(&second, |rules, message| rules.start_deleting(message, now)).await;
    for store in [&fixture.store, &fixture.other] {
        let found = store.open_message(&first.id).await.unwrap();
        assert_eq!(found, Some((third.clone(), content(&first.id))));
        let by_application = MessageFilter::all(first.application.clone());
        let listed = || store.list_messages(&by_application, None, 10);
        eventually("the list has the latest record", || async {
            same(&listed().await.unwrap().items, &vec![third.clone()])
        })
        .await;
    }
}

/// A write over a record that is no longer the stored one changes nothing and returns the stored
/// one. The case tries an older and a newer revision, through both handles.
async fn a_message_is_written_on_its_revision_only(fixture: Fixture) {
    let first = fixture.published(1).await;
    let now = fixture.now();
    let second = fixture.held(&first, now).await;
    let stale = fixture.rules.start_deleting(&first, now).unwrap();
    let newer = PublishedMessage { revision: second.revision + 1, ..second.clone() };
    let newest = PublishedMessage { revision: second.revision + 2, ..second.clone() };
    for store in [&fixture.store, &fixture.other] {
        for (before, after) in [(&first, &stale), (&newer, &newest)] {
            assert_conflict(store.write_message(before, after).await, &second);
            assert_eq!(fixture.store.message(&first.id).await.unwrap().as_ref(), Some(&second));
        }
    }
    eventually("its place in the due index is that of the stored record", || async {
        same(&fixture.message_due_at(&first.id).await, &second.due_at)
    })
    .await;
}

/// A caller whose answer was lost repeats the write and learns that it took effect. Another write
/// of the same revision is refused. The case makes both, through both handles.
async fn a_repeated_write_of_a_message_succeeds(fixture: Fixture) {
    let first = fixture.published(1).await;
    let now = fixture.now();
    let second = fixture.held(&first, now).await;
    for store in [&fixture.other, &fixture.store] {
        store.write_message(&first, &second).await.unwrap();
    }
    let other = fixture.rules.start_deleting(&first, now).unwrap();
    assert_eq!(other.revision, second.revision);
    assert_conflict(fixture.other.write_message(&first, &other).await, &second);
    assert_eq!(fixture.store.message(&first.id).await.unwrap(), Some(second));
}

/// A write never creates a message. The case writes one that was never published, and one that was
/// deleted. Neither exists afterwards, nor is in an index.
async fn a_write_creates_no_message(fixture: Fixture) {
    let now = fixture.now();
    let unknown = fixture.rules.publish(new_message(now, 1), now);
    let deleted = fixture.published(1).await;
    fixture.store.delete_message(&deleted).await.unwrap();
    for message in [&unknown, &deleted] {
        let after = fixture.rules.start_deleting(message, now).unwrap();
        for store in [&fixture.store, &fixture.other] {
            let written = store.write_message(message, &after).await;
            assert!(matches!(written, Err(WriteMessageError::Missing)), "{written:?}");
        }
        assert_eq!(fixture.store.message(&message.id).await.unwrap(), None);
        assert_eq!(fixture.message_due_at(&message.id).await, None);
        let filter = MessageFilter::all(message.application.clone());
        eventually("nothing is listed", || async {
            same(&fixture.store.list_messages(&filter, None, 10).await.unwrap().items, &vec![])
        })
        .await;
    }
}

/// Each write is made from the latest record, so none undoes another. In the case, four tasks
/// extend the plan ten times each. One of them wins at each revision, and the others get the record
/// that beat them.
async fn racing_writes_are_all_kept(fixture: Fixture) {
    const WRITES: usize = 10;
    let first = fixture.published(1).await;
    let now = fixture.now();
    let results = run_concurrently(&fixture, 4, |_, store| {
        let mut current = first.clone();
        async move {
            let mut written = Vec::new();
            while written.len() < WRITES {
                let next = extended(&current, fresh_endpoints(1)[0], now);
                match store.write_message(&current, &next).await {
                    Ok(()) => {
                        written.push((next.revision, next.plan.last().unwrap().endpoint));
                        current = next;
                    }
                    Err(WriteMessageError::Conflict(newer)) => {
                        assert!(newer.revision > current.revision, "the record did not change");
                        current = *newer;
                    }
                    other => panic!("{other:?}"),
                }
            }
            written
        }
    })
    .await;
    let mut written = results.concat();
    written.sort();
    let (revisions, endpoints): (Vec<_>, Vec<_>) = written.into_iter().unzip();
    let last = first.revision + 4 * WRITES as u64;
    assert_eq!(revisions, (first.revision + 1..=last).collect::<Vec<_>>(), "one wins at each");
    let stored = fixture.other.message(&first.id).await.unwrap().unwrap();
    let plan: Vec<_> = stored.plan.iter().skip(1).map(|entry| entry.endpoint).collect();
    assert_eq!((plan, stored.revision), (endpoints, last));
    eventually("it has one entry in the due index", || async {
        same(&fixture.message_due_at(&first.id).await, &Some(now))
    })
    .await;
}
