//! What the audit and a recovery find of messages and deliveries.

use std::collections::BTreeMap;

use super::{
    messages::{endpoint, new_message},
    *,
};
use crate::{
    applications::{message::PublishedMessage, standing::Found},
    store::{AdvanceAuditError, DueId, FIRST_OVERLAP, Messages, Unindexed},
};

/// The audit returns a message with a delivery that nothing holds, with all that it found.
#[tokio::test]
async fn the_audit_finds_messages_that_nothing_holds() {
    let fixture = fixture();
    let unsent = fixture.publish(1, [1, 2]).await;
    let done = fixture.publish(2, [1]).await;
    fixture.finish(&done, 1).await;
    let leased = fixture.publish(3, [1]).await;
    let claimed = fixture.start(&leased, 1).await;
    let mut scheduled = new_message(fixture.task(4), [1]);
    scheduled.deliver_at = Some(fixture.now().plus(DAY));
    fixture.store_message(scheduled).await;
    let direct = fixture.accept(5).await;
    let (from, until) = (BEGIN, BEGIN.plus(Duration::from_secs(60)));
    let page = fixture.store.list_unindexed(from, until, None).await.unwrap();
    assert_eq!(page.next, None);
    let [Unindexed::Message(first), Unindexed::Message(second), Unindexed::Webhook(third)] =
        &page.items[..]
    else {
        panic!("{page:?}")
    };
    assert_eq!((&first.message, first.found.len()), (&unsent, 0));
    assert_eq!(second.found, BTreeMap::from([(endpoint(1), Found::Record(Box::new(claimed)))]));
    assert_eq!(**third, direct);
    let page = fixture.store.list_unindexed(from, until, Some(leased.id.task)).await.unwrap();
    assert_eq!(page.items.len(), 1);
}

/// The audit of this version begins an hour before the position of an older one.
#[tokio::test]
async fn the_audit_goes_on_from_an_older_position_an_hour_earlier() {
    let fixture = fixture();
    assert_eq!(fixture.store.audited_until().await.unwrap(), None);
    let old = fixture.now();
    fixture
        .raw()
        .execute("INSERT INTO sweep VALUES ('audited_until', ?1)", [old.as_millis()])
        .unwrap();
    let from = old.minus(FIRST_OVERLAP);
    assert_eq!(fixture.store.audited_until().await.unwrap(), Some(from));
    for wrong in [None, Some(old)] {
        let moved = fixture.store.advance_audit(wrong, old).await.unwrap_err();
        assert!(matches!(moved, AdvanceAuditError::Moved), "{moved}");
    }
    let to = from.plus(Duration::from_secs(60));
    fixture.store.advance_audit(Some(from), to).await.unwrap();
    assert_eq!(fixture.store.audited_until().await.unwrap(), Some(to));
    let both = format!("sweep WHERE value = {} AND name LIKE '%audited_until'", to.as_millis());
    assert_eq!(fixture.rows(&both), 2);
    let message = fixture.publish(1, [1]).await;
    let standing = fixture.store.standing(&message.id).await.unwrap().unwrap();
    assert_eq!(standing.audited_until, Some(to));
}

/// Messages with deliveries that no look leads to become due. Others do not change.
#[tokio::test]
async fn a_recovery_finds_deliveries_without_a_look() {
    let fixture = fixture();
    let unsent = fixture.publish(1, [1, 2]).await;
    let looked_at = fixture.publish(2, [1]).await;
    let sent = fixture.publish(3, [1, 2]).await;
    let half_sent = fixture.publish(4, [1, 2]).await;
    let done = fixture.publish(5, [1]).await;
    fixture.finish(&done, 1).await;
    let mut scheduled = new_message(fixture.task(6), [1]);
    scheduled.deliver_at = Some(fixture.now().plus(DAY));
    let scheduled = fixture.store_message(scheduled).await;
    let leased = fixture.publish(7, [1]).await;
    let claimed = fixture.start(&leased, 1).await;
    fixture.start(&sent, 2).await;

    fixture.advance(Duration::from_secs(1));
    let now = fixture.now();
    let delivery = |message: &PublishedMessage| DueId::Webhook(message.id.delivery(endpoint(1)));
    let looks = vec![delivery(&half_sent), DueId::Message(looked_at.id.clone()), delivery(&sent)];
    let taken = fixture.store.recover_in_flight(now, Some(looks.clone())).await.unwrap();
    assert_eq!(taken, RecoveredInFlight { leases: 2, unsent: 2 });
    for message in [&unsent, &half_sent] {
        let stored = fixture.store.message(&message.id).await.unwrap().unwrap();
        assert_eq!((stored.due_at, stored.expires_at), (Some(now), None));
    }
    for message in [looked_at, sent, done, scheduled, leased] {
        assert_eq!(fixture.store.message(&message.id).await.unwrap(), Some(message));
    }
    assert_eq!(fixture.get(&claimed).await.due_at, Some(now));
    let again = fixture.store.recover_in_flight(now, Some(looks)).await.unwrap();
    assert_eq!(again, RecoveredInFlight { leases: 2, unsent: 0 }, "done again");
}

/// A message that waits for a sweep, without a look, is due at once.
#[tokio::test]
async fn a_recovery_moves_a_due_message_forward() {
    let fixture = fixture();
    let message = fixture.publish(1, [1]).await;
    let standing = fixture.store.standing(&message.id).await.unwrap().unwrap();
    let later = fixture.now().plus(DAY);
    let due = fixture.rules.adopt_message(&standing, later, fixture.now()).unwrap();
    fixture.store.write_message(&message, &due).await.unwrap();
    let taken = fixture.store.recover_in_flight(fixture.now(), Some(Vec::new())).await.unwrap();
    assert_eq!(taken, RecoveredInFlight { leases: 0, unsent: 1 });
    let stored = fixture.store.message(&message.id).await.unwrap().unwrap();
    assert_eq!(stored.due_at, Some(fixture.now()));
}
