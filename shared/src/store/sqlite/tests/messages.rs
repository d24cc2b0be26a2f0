//! Messages, their deliveries, and what occupies their keys.

use std::collections::BTreeMap;

use super::*;
use crate::{
    applications::{
        id::EndpointId,
        matching::Plan,
        message::{KEY_OCCUPIED, PublishedMessage, occupied_until},
        standing::Found,
    },
    id::MessageId,
    store::{
        AdvanceAuditError, Applications, CreateError, CreateMessageError, DeadLetterFilter,
        DeadLetterPosition, DeleteError, FIRST_OVERLAP, IdState, ListPosition, Listed,
        MessageFilter, MessageIdState, Messages, Page, Tombstone, Unindexed, WriteApplicationError,
        WriteMessageError,
    },
    transition::NewMessage,
};

fn endpoint(n: u8) -> EndpointId {
    EndpointId::mint([n; 10])
}

fn payload() -> Content {
    let payload = serde_json::value::RawValue::from_string(r#"{"a": 1.0}"#.to_owned()).unwrap();
    Content { url: String::new(), headers: Vec::new(), payload }
}

fn new_message(task: TaskId, endpoints: impl IntoIterator<Item = u8>) -> NewMessage {
    NewMessage {
        id: MessageId { reference: ReferenceId::generated(task), task },
        application: "cust-7".parse().unwrap(),
        referenced: false,
        correlation_id: "cor".to_owned(),
        event_type: "order.paid".parse().unwrap(),
        trace: None,
        deliver_at: None,
        plan: Plan { planned: endpoints.into_iter().map(endpoint).collect(), off: Vec::new() },
    }
}

impl Fixture {
    async fn store_message(&self, new: NewMessage) -> PublishedMessage {
        let message = self.rules.publish(new, self.now());
        self.store.create_message(&message, &payload()).await.unwrap();
        message
    }

    async fn publish(&self, n: u16, endpoints: impl IntoIterator<Item = u8>) -> PublishedMessage {
        self.store_message(new_message(self.task(n), endpoints)).await
    }

    /// Claims the delivery, which has no record.
    async fn start(&self, message: &PublishedMessage, n: u8) -> Webhook {
        let first = Rules::delivery(message, endpoint(n)).unwrap();
        let claimed = self.rules.claim(&first, ClaimId(7), self.now()).unwrap();
        self.store.write(&first, &claimed).await.unwrap();
        claimed
    }

    async fn finish(&self, message: &PublishedMessage, n: u8) -> Webhook {
        self.conclude(&self.start(message, n).await, None).await
    }

    /// Makes the delivery a dead letter.
    async fn bury(&self, message: &PublishedMessage, n: u8) -> Webhook {
        let refused = Some(crate::model::ErrorKind::RefusedAddress);
        let mut last = self.start(message, n).await;
        last = self.conclude(&last, refused).await;
        while last.status != crate::status::Status::Failed {
            self.advance(DAY);
            last = self.conclude(&self.claim(&last).await, refused).await;
        }
        let dead = self.rules.archive(&last, self.now()).unwrap();
        self.store.write(&last, &dead).await.unwrap();
        dead
    }

    async fn found(&self, message: &PublishedMessage) -> BTreeMap<EndpointId, Found> {
        self.store.standing(&message.id).await.unwrap().unwrap().found
    }

    /// Purges everything that has expired by now.
    async fn purge(&self) {
        self.store.maintain(self.now(), self.now()).await.unwrap();
        for _ in 0..10 {
            self.advance(MIN_APART);
            self.store.maintain(self.now(), self.now()).await.unwrap();
        }
    }

    fn all_lists(&self) -> Filter {
        Filter::default()
    }

    /// Every page of the list, each of at most this many entries.
    async fn walk(&self, filter: &Filter, limit: usize) -> Vec<Listed> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let Page { items, next } = self.store.list(filter, after, limit).await.unwrap();
            assert!(items.len() <= limit);
            all.extend(items);
            after = next;
            if after.is_none() {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn a_delivery_starts_once_and_only_with_its_message() {
    let fixture = fixture();
    let message = fixture.publish(1, [1, 2]).await;
    let first = Rules::delivery(&message, endpoint(1)).unwrap();
    assert_eq!(fixture.store.get(&first.id).await.unwrap(), None);
    let claimed = fixture.rules.claim(&first, ClaimId(7), fixture.now()).unwrap();
    assert_eq!(fixture.store.write_and_open(&first, &claimed).await.unwrap(), payload());
    fixture.store.write(&first, &claimed).await.unwrap();
    let other = fixture.rules.claim(&first, ClaimId(8), fixture.now()).unwrap();
    let error = fixture.store.write(&first, &other).await.unwrap_err();
    assert!(matches!(error, WriteError::Conflict(stored) if *stored == claimed));
    assert_eq!(fixture.store.open(&first.id).await.unwrap(), Some((claimed.clone(), payload())));
    // Neither a message nor a webhook is found under the other's id.
    let direct = crate::id::WebhookId::direct(message.id.reference.clone(), message.id.task);
    assert_eq!(fixture.store.get(&direct).await.unwrap(), None);
    assert_eq!(fixture.store.open(&direct).await.unwrap(), None);
    assert!(matches!(fixture.store.delete(&direct).await, Err(DeleteError::Missing)));
    let stored = fixture.store.delivery(&claimed.id).await.unwrap().unwrap();
    assert_eq!(
        (stored.message, stored.found),
        (message.clone(), Some(Found::Record(Box::new(claimed))))
    );
    assert_eq!(fixture.store.counts().await.unwrap(), [0, 1, 0, 0, 0]);
    // Without the message.
    let never = fixture.rules.publish(new_message(fixture.task(2), [1]), fixture.now());
    let first = Rules::delivery(&never, endpoint(1)).unwrap();
    let claimed = fixture.rules.claim(&first, ClaimId(7), fixture.now()).unwrap();
    assert!(matches!(fixture.store.write(&first, &claimed).await, Err(WriteError::Missing)));
    assert_eq!(fixture.rows("webhooks"), 2);
}

/// The same task id with another reference id names nothing.
#[tokio::test]
async fn a_message_and_its_deliveries_have_one_name() {
    let fixture = fixture();
    let message = fixture.publish(1, [1, 2]).await;
    let started = fixture.start(&message, 1).await;
    let mut other = message.clone();
    other.id.reference = "other".parse().unwrap();
    for n in [1, 2] {
        let first = Rules::delivery(&other, endpoint(n)).unwrap();
        let claimed = fixture.rules.claim(&first, ClaimId(7), fixture.now()).unwrap();
        let error = fixture.store.write(&first, &claimed).await.unwrap_err();
        assert!(matches!(error, WriteError::Missing), "{error}");
        assert_eq!(fixture.store.delivery(&first.id).await.unwrap(), None);
        assert!(matches!(fixture.store.delete(&first.id).await, Err(DeleteError::Missing)));
    }
    let stranger = Webhook { id: other.id.delivery(endpoint(1)), ..started.clone() };
    let done = fixture.conclude_of(&stranger);
    assert!(matches!(fixture.store.write(&stranger, &done).await, Err(WriteError::Missing)));
    let deleting = fixture.rules.start_deleting(&other, fixture.now()).unwrap();
    let again = PublishedMessage { revision: 9, ..deleting.clone() };
    for before in [&other, &deleting] {
        let error = fixture.store.write_message(before, &again).await.unwrap_err();
        assert!(matches!(error, WriteMessageError::Missing), "{error}");
    }
    assert!(matches!(fixture.store.delete_message(&other).await, Err(DeleteError::Missing)));
    assert_eq!(fixture.store.message(&other.id).await.unwrap(), None);
    assert_eq!(fixture.store.open_message(&other.id).await.unwrap(), None);
    assert_eq!(fixture.store.standing(&other.id).await.unwrap(), None);
    assert_eq!(fixture.get(&started).await, started);
    assert_eq!(fixture.store.message(&message.id).await.unwrap(), Some(message));
}

#[tokio::test]
async fn an_id_is_a_webhooks_or_a_messages() {
    let fixture = fixture();
    let message = fixture.publish(1, [1]).await;
    let webhook = fixture.accept(2).await;
    let direct = fixture.rules.create(new_webhook(message.id.task), fixture.now());
    let error = fixture.store.create(&direct, &content()).await.unwrap_err();
    assert!(matches!(error, CreateError::Store(StoreError::Unreadable { .. })), "{error}");
    let unused = IdState::Tombstone(Tombstone::Unused);
    assert_eq!(fixture.store.tombstone_id(&direct.id).await.unwrap(), unused);
    let other = fixture.rules.publish(new_message(webhook.id.task, [1]), fixture.now());
    let error = fixture.store.create_message(&other, &payload()).await.unwrap_err();
    assert!(matches!(error, CreateMessageError::Store(_)), "{error}");
    assert_eq!(fixture.store.message(&other.id).await.unwrap(), None);
    assert_eq!(fixture.store.standing(&other.id).await.unwrap(), None);
    let state = fixture.store.tombstone_message_id(&other.id).await.unwrap();
    assert_eq!(state, MessageIdState::Tombstone(Tombstone::Unused));
    let state = fixture.store.tombstone_message_id(&message.id).await.unwrap();
    assert_eq!(state, MessageIdState::Message(Box::new(message.clone())));
    let error = fixture.store.create_message(&message, &payload()).await.unwrap_err();
    assert!(matches!(error, CreateMessageError::Conflict(stored) if *stored == message));
    assert_eq!(fixture.store.open_message(&message.id).await.unwrap(), Some((message, payload())));
    assert_eq!(fixture.get(&webhook).await, webhook);
    assert_eq!(fixture.rows("retired"), 0, "nothing barred what exists");
}

#[tokio::test]
async fn a_write_of_a_message_is_conditional_on_its_revision() {
    let fixture = fixture();
    let message = fixture.publish(1, [1]).await;
    let deleting = fixture.rules.start_deleting(&message, fixture.now()).unwrap();
    fixture.store.write_message(&message, &deleting).await.unwrap();
    fixture.store.write_message(&message, &deleting).await.unwrap();
    let other = PublishedMessage { requeues: 9, revision: 3, ..deleting.clone() };
    let error = fixture.store.write_message(&message, &other).await.unwrap_err();
    assert!(matches!(error, WriteMessageError::Conflict(stored) if *stored == deleting));
    let due = fixture.store.due(fixture.now(), None, 10).await.unwrap().entries;
    assert_eq!(due[0].id, DueId::Message(message.id.clone()));
    assert!(matches!(fixture.store.delete_message(&message).await, Err(DeleteError::Changed)));
    fixture.store.delete_message(&deleting).await.unwrap();
    assert!(matches!(fixture.store.delete_message(&deleting).await, Err(DeleteError::Missing)));
    let error = fixture.store.write_message(&deleting, &other).await.unwrap_err();
    assert!(matches!(error, WriteMessageError::Missing));
    let state = fixture.store.tombstone_message_id(&message.id).await.unwrap();
    assert_eq!(state, MessageIdState::Tombstone(Tombstone::Deleted));
    assert_eq!((fixture.rows("webhooks"), fixture.rows("contents")), (0, 0));
}

#[tokio::test]
async fn a_marker_occupies_its_key() {
    let fixture = fixture();
    let message = fixture.publish(1, [1, 2, 3]).await;
    let first = Rules::delivery(&message, endpoint(1)).unwrap();
    fixture.store.delete_unchanged(&first).await.unwrap();
    assert!(matches!(fixture.store.delete_unchanged(&first).await, Err(DeleteError::Missing)));
    assert!(matches!(fixture.store.delete(&first.id).await, Err(DeleteError::Missing)));
    let claimed = fixture.rules.claim(&first, ClaimId(7), fixture.now()).unwrap();
    assert!(matches!(fixture.store.write(&first, &claimed).await, Err(WriteError::Missing)));
    // In place of a record.
    let started = fixture.start(&message, 2).await;
    let unstarted = Rules::delivery(&message, endpoint(2)).unwrap();
    assert!(matches!(fixture.store.delete_unchanged(&unstarted).await, Err(DeleteError::Changed)));
    fixture.store.put_marker(&started.id, fixture.now().plus(DAY)).await.unwrap();
    let after = fixture.conclude_of(&started);
    assert!(matches!(fixture.store.write(&started, &after).await, Err(WriteError::Missing)));
    assert_eq!(fixture.store.counts().await.unwrap(), [0; 5]);
    let found = fixture.found(&message).await;
    assert_eq!(found, BTreeMap::from([1, 2].map(|n| (endpoint(n), Found::Marker))));
    // Of a record, without a revision.
    let started = fixture.start(&message, 3).await;
    fixture.store.delete(&started.id).await.unwrap();
    let until = fixture.now().plus(KEY_OCCUPIED);
    let row = |n| format!("webhooks WHERE kind = 3 AND expires_at = {n}");
    assert_eq!(fixture.rows(&row(until.as_millis())), 2);
    // A later time stays.
    fixture.store.put_marker(&started.id, fixture.now().plus(DAY)).await.unwrap();
    assert_eq!(fixture.rows(&row(until.as_millis())), 2);
    fixture.advance(DAY * 19);
    fixture.purge().await;
    assert_eq!(fixture.rows("webhooks WHERE kind = 3"), 2, "one marker had a day only");
    fixture.advance(DAY);
    fixture.purge().await;
    assert_eq!(fixture.rows("webhooks WHERE kind = 3"), 0);
}

/// The record of a delivery expires, its message later, and its key last.
#[tokio::test]
async fn an_expired_delivery_occupies_its_key() {
    let fixture = fixture();
    let message = fixture.publish(1, [1]).await;
    let first = Rules::delivery(&message, endpoint(1)).unwrap();
    let done = fixture.finish(&message, 1).await;
    let expires_at = done.expires_at.unwrap();
    fixture.advance(expires_at.since(fixture.now()));
    let claimed = fixture.rules.claim(&first, ClaimId(8), fixture.now()).unwrap();
    for purged in [false, true] {
        assert_eq!(fixture.store.get(&done.id).await.unwrap(), None);
        assert!(matches!(fixture.store.write(&first, &claimed).await, Err(WriteError::Missing)));
        assert!(matches!(fixture.store.delete(&done.id).await, Err(DeleteError::Missing)));
        let found = fixture.found(&message).await;
        assert_eq!(found, BTreeMap::from([(endpoint(1), Found::Expired)]), "purged: {purged}");
        fixture.purge().await;
    }
    assert_eq!(fixture.rows("webhooks WHERE kind = 4 AND record = ''"), 1);
    assert_eq!(fixture.store.counts().await.unwrap(), [0; 5]);
    fixture.advance(message.expires_at.unwrap().since(fixture.now()));
    fixture.purge().await;
    assert_eq!(fixture.store.message(&message.id).await.unwrap(), None);
    assert_eq!(fixture.rows("contents"), 0);
    fixture.advance(occupied_until(expires_at).since(fixture.now()));
    fixture.advance(Duration::from_secs(1));
    fixture.purge().await;
    assert_eq!(fixture.rows("webhooks"), 0);
}

/// A message outlives its time while a delivery is unfinished or a dead letter.
#[tokio::test]
async fn a_delivery_holds_its_message() {
    let fixture = fixture();
    let message = fixture.publish(1, [1, 2]).await;
    let dead = fixture.bury(&message, 1).await;
    let open = fixture.start(&message, 2).await;
    fixture.advance(message.expires_at.unwrap().since(fixture.now()));
    assert!(message.is_expired(fixture.now()));
    let check = async |exists: bool| {
        let found = fixture.store.message(&message.id).await.unwrap();
        assert_eq!(found.is_some(), exists);
        let filter = MessageFilter::all(message.application.clone());
        let page = fixture.store.list_messages(&filter, None, 10).await.unwrap();
        assert_eq!(page.items.len(), usize::from(exists));
        let content = fixture.store.open_message(&message.id).await.unwrap();
        assert_eq!(content.is_some(), exists);
    };
    check(true).await;
    fixture.purge().await;
    check(true).await;
    let done = fixture.conclude_of(&open);
    fixture.store.write(&open, &done).await.unwrap();
    let is_dead = dead.expires_at.unwrap() > fixture.now();
    check(is_dead).await;
    if is_dead {
        fixture.store.delete(&dead.id).await.unwrap();
        check(false).await;
    }
    fixture.advance(DAY);
    fixture.purge().await;
    assert_eq!(fixture.rows("webhooks WHERE kind = 1"), 0);
    assert_eq!(fixture.rows("contents"), 0);
    assert_eq!(fixture.store.open(&done.id).await.unwrap(), None);
    assert_eq!(fixture.store.get(&done.id).await.unwrap(), Some(done));
}

/// Lists have each delivery once, in their order, whatever the size of the page, with and without a
/// record.
#[tokio::test]
async fn lists_have_deliveries_with_and_without_records() {
    let fixture = fixture();
    let direct = fixture.accept(1).await;
    let message = fixture.publish(2, [5, 1, 4, 2, 3]).await;
    let other = fixture.publish(3, [1]).await;
    let last = fixture.accept(4).await;
    let (done, open) = (fixture.finish(&message, 2).await, fixture.start(&message, 4).await);
    let gone = Rules::delivery(&message, endpoint(5)).unwrap();
    fixture.store.delete_unchanged(&gone).await.unwrap();
    let unstarted = |message, n| Rules::delivery(message, endpoint(n)).unwrap();
    let all = [
        last.clone(),
        unstarted(&other, 1),
        open.clone(),
        unstarted(&message, 3),
        done,
        unstarted(&message, 1),
        direct.clone(),
    ];
    let pending = [
        last.clone(),
        unstarted(&other, 1),
        unstarted(&message, 3),
        unstarted(&message, 1),
        direct.clone(),
    ];
    let of = |status| Filter { status: Some(status), ..fixture.all_lists() };
    for limit in 1..10 {
        let webhooks = async |filter| -> Vec<Webhook> {
            let listed = fixture.walk(&filter, limit).await;
            listed.into_iter().map(|listed| listed.webhook).collect()
        };
        assert_eq!(webhooks(fixture.all_lists()).await, all, "{limit}");
        assert_eq!(webhooks(of(crate::status::Status::Pending)).await, pending, "{limit}");
        assert_eq!(webhooks(of(crate::status::Status::InProgress)).await, [open.clone()]);
        assert_eq!(webhooks(of(crate::status::Status::Failed)).await, []);
    }
    // A position between the keys.
    let after = ListPosition { task: message.id.task, endpoint: Some(endpoint(3)) };
    let page = fixture.store.list(&fixture.all_lists(), Some(after), 1).await.unwrap();
    assert_eq!(page.items[0].webhook, all[4]);
    // The index of pending webhooks loses a message with its last delivery.
    assert_eq!(fixture.rows("webhooks WHERE kind = 1 AND status = 0"), 2);
    for n in [1, 3] {
        fixture.start(&message, n).await;
    }
    assert_eq!(fixture.rows("webhooks WHERE kind = 1 AND status = 0"), 1);
    let reference = Some(message.id.reference.clone());
    let filter = Filter { reference, ..fixture.all_lists() };
    assert!(
        fixture.walk(&filter, 10).await.is_empty(),
        "a reference ID finds direct webhooks only"
    );
}

#[tokio::test]
async fn an_endpoints_dead_letters_are_one_query() {
    let fixture = fixture();
    let message = fixture.publish(1, [1, 2]).await;
    let other = fixture.publish(2, [1]).await;
    let dead = [
        fixture.bury(&message, 1).await,
        fixture.bury(&message, 2).await,
        fixture.bury(&other, 1).await,
    ];
    let list = async |filter: DeadLetterFilter| -> Vec<Webhook> {
        let (mut all, mut after) = (Vec::new(), None::<DeadLetterPosition>);
        loop {
            let page = fixture.store.dead_letters(&filter, after, 1).await.unwrap();
            all.extend(page.items.into_iter().map(|listed| listed.webhook));
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    };
    let [a, b, c] = dead;
    assert_eq!(list(DeadLetterFilter::All).await, [c.clone(), b, a.clone()]);
    let application = || message.application.clone();
    assert_eq!(list(DeadLetterFilter::Endpoint(application(), endpoint(1))).await, [c, a]);
    assert_eq!(list(DeadLetterFilter::Endpoint(application(), endpoint(9))).await, []);
    let stranger = "cust-8".parse().unwrap();
    assert_eq!(list(DeadLetterFilter::Endpoint(stranger, endpoint(1))).await, []);
    let reference = message.id.reference.clone();
    assert_eq!(list(DeadLetterFilter::Reference(reference)).await, []);
}

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

impl Fixture {
    /// What a successful attempt makes of a claimed webhook.
    fn conclude_of(&self, claimed: &Webhook) -> Webhook {
        self.rules.conclude(claimed, ClaimId(7), &report(None), self.now(), 0.5).unwrap()
    }
}

#[tokio::test]
async fn an_applications_messages_are_listed_newest_first() {
    let fixture = fixture();
    let mut messages = Vec::new();
    for n in 0..4_u8 {
        let mut new = new_message(fixture.task(n.into()), [n % 2]);
        if n < 2 {
            (new.id.reference, new.referenced) = ("order-7".parse().unwrap(), true);
        }
        messages.push(fixture.store_message(new).await);
        fixture.advance(Duration::from_millis(10));
    }
    let mut stranger = new_message(fixture.task(9), [1]);
    stranger.application = "cust-8".parse().unwrap();
    (stranger.id.reference, stranger.referenced) = ("order-7".parse().unwrap(), true);
    fixture.store_message(stranger).await;
    let all = MessageFilter::all(messages[0].application.clone());
    let list = async |filter: MessageFilter| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = fixture.store.list_messages(&filter, after, 1).await.unwrap();
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    };
    let of = |numbers: &[usize]| numbers.iter().map(|n| messages[*n].clone()).collect::<Vec<_>>();
    assert_eq!(list(all.clone()).await, of(&[3, 2, 1, 0]));
    let endpoint = Some(endpoint(1));
    assert_eq!(list(MessageFilter { endpoint, ..all.clone() }).await, of(&[3, 1]));
    let reference = "order-7".parse().ok();
    assert_eq!(list(MessageFilter { reference, ..all.clone() }).await, of(&[1, 0]));
    let reference = Some(messages[2].id.reference.clone());
    assert_eq!(list(MessageFilter { reference, ..all.clone() }).await, of(&[2]));
    let (since, until) = (messages[1].created_at, messages[3].created_at);
    let filter = MessageFilter { since: Some(since), until: Some(until), ..all.clone() };
    assert_eq!(list(filter).await, of(&[2, 1]));
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
    let next = crate::applications::application::Application { revision: 2, ..least.clone() };
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
