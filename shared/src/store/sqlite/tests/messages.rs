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
        CreateError, CreateMessageError, DeleteError, DueId, IdState, Listed, MessageFilter,
        MessageIdState, Messages, Page, Tombstone, WriteMessageError,
    },
    transition::NewMessage,
};

pub(super) fn endpoint(n: u8) -> EndpointId {
    EndpointId::mint([n; 10])
}

fn payload() -> Content {
    let payload = serde_json::value::RawValue::from_string(r#"{"a": 1.0}"#.to_owned()).unwrap();
    Content { url: String::new(), headers: Vec::new(), payload }
}

pub(super) fn new_message(task: TaskId, endpoints: impl IntoIterator<Item = u8>) -> NewMessage {
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
    pub(super) async fn store_message(&self, new: NewMessage) -> PublishedMessage {
        let message = self.rules.publish(new, self.now());
        self.store.create_message(&message, &payload()).await.unwrap();
        message
    }

    pub(super) async fn publish(
        &self,
        n: u16,
        endpoints: impl IntoIterator<Item = u8>,
    ) -> PublishedMessage {
        self.store_message(new_message(self.task(n), endpoints)).await
    }

    /// Claims the delivery, which has no record.
    pub(super) async fn start(&self, message: &PublishedMessage, n: u8) -> Webhook {
        let first = Rules::delivery(message, endpoint(n)).unwrap();
        let claimed = self.rules.claim(&first, ClaimId(7), self.now()).unwrap();
        self.store.write(&first, &claimed).await.unwrap();
        claimed
    }

    pub(super) async fn finish(&self, message: &PublishedMessage, n: u8) -> Webhook {
        self.conclude(&self.start(message, n).await, None).await
    }

    /// Makes the delivery a dead letter.
    pub(super) async fn bury(&self, message: &PublishedMessage, n: u8) -> Webhook {
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
    pub(super) async fn purge(&self) {
        self.store.maintain(self.now(), self.now()).await.unwrap();
        for _ in 0..10 {
            self.advance(MIN_APART);
            self.store.maintain(self.now(), self.now()).await.unwrap();
        }
    }

    /// Every page of the list, each of at most this many entries.
    pub(super) async fn walk(&self, filter: &Filter, limit: usize) -> Vec<Listed> {
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

impl Fixture {
    /// What a successful attempt makes of a claimed webhook.
    pub(super) fn conclude_of(&self, claimed: &Webhook) -> Webhook {
        self.rules.conclude(claimed, ClaimId(7), &report(None), self.now(), 0.5).unwrap()
    }
}
