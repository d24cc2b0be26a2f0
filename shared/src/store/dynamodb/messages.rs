//! The contract of [`Messages`]. `message_item` describes the items.
//!
//! **How long a message lives.** DynamoDB deletes a message and its content by their times to live,
//! whatever state their deliveries are in. So each delivery's item has `ce`: when both expire at
//! the earliest. A write of a delivery that would leave less than 7.5 days between the end of its
//! record and `ce` first extends the content and the message ([`Rules::prolong`]). A message that
//! is due has no time to live, and gets one from its settlement on. `f` of its item is the latest
//! time to live that an extension gave it. It exists until then, whatever its record says, because
//! a later settlement may set an earlier expiry.
//!
//! **The first write of a delivery** puts its item if its key is vacant. Nothing else fences it
//! against the deletion of the message, which first puts a marker under each key.
//!
//! [`Rules::prolong`]: crate::transition::Rules::prolong

use async_trait::async_trait;

use super::{
    DynamoStore,
    item::{
        Item, content_keys, day, inline_content, number, number_of, partition_of, position_of,
        record_key, seconds, text, tombstone, webhook_key,
    },
    message_item::{
        self, Group, MESSAGE, changing_of_message, exists, first_item, kept_until, marker_item,
        message_of, new_message_items,
    },
    shards::END,
    table::{Change, Condition, Range, Refused},
    webhooks::{MAX_CREATE_TRIES, SPARE},
};
use crate::{
    applications::{
        message::{MESSAGE_SPARE, PublishedMessage},
        standing::Standing,
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::{Content, Webhook},
    random::write_name,
    store::{
        CreateMessageError, DeleteError, MAX_READ, MessageFilter, MessageIdState, Messages, Page,
        StoreError, StoredDelivery, SweepState, Tombstone, WriteError, WriteMessageError,
    },
};

/// How often a message is extended for the write of a delivery, while others change it.
const MAX_PROLONG_TRIES: u32 = 8;

#[async_trait]
impl Messages for DynamoStore {
    async fn create_message(
        &self,
        message: &PublishedMessage,
        content: &Content,
    ) -> Result<(), CreateMessageError> {
        self.mark_day(day(message.id.task.created_at())).await?;
        let last_look = message.due_at.unwrap_or(message.created_at).max(message.allowed_at);
        let expires =
            message.expires_at.unwrap_or(last_look.plus(self.retention).plus(MESSAGE_SPARE));
        let (item, parts) = new_message_items(message, content, &write_name(), expires.plus(SPARE));
        for part in &parts {
            self.table.put(part.clone()).await?;
        }
        let created = self.put_new_message(message, item).await;
        if matches!(
            created,
            Err(CreateMessageError::Conflict(_) | CreateMessageError::Tombstone(_))
        ) {
            self.drop_orphans(parts).await;
        }
        created
    }

    async fn tombstone_message_id(&self, id: &MessageId) -> Result<MessageIdState, StoreError> {
        let Some(stored) = self.put_tombstone(id.task).await? else {
            return Ok(MessageIdState::Tombstone(Tombstone::Unused));
        };
        if let Some(why) = tombstone(&stored) {
            return Ok(MessageIdState::Tombstone(why));
        }
        Ok(match message_of(id, &stored)? {
            // A webhook has the key. No message can be created under it.
            None => MessageIdState::Tombstone(Tombstone::Unused),
            Some(message) if exists(&message, &stored, self.clock.now()) => {
                MessageIdState::Message(Box::new(message))
            }
            Some(_) => MessageIdState::Tombstone(Tombstone::Deleted),
        })
    }

    async fn message(&self, id: &MessageId) -> Result<Option<PublishedMessage>, StoreError> {
        Ok(self.find_message(id, true).await?.map(|(message, _)| message))
    }

    async fn open_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError> {
        let Some((message, item)) = self.find_message(id, true).await? else { return Ok(None) };
        match self.content_of(id, id.task, &item).await? {
            Some(content) => Ok(Some((message, content))),
            // Another call deleted the message.
            None => match self.find_message(id, true).await? {
                Some(_) => Err(StoreError::malformed(id, "its content is missing")),
                None => Ok(None),
            },
        }
    }

    async fn write_message(
        &self,
        before: &PublishedMessage,
        after: &PublishedMessage,
    ) -> Result<(), WriteMessageError> {
        self.replace_message(before, after, false).await
    }

    async fn delivery(&self, id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError> {
        let (Some(message_id), now) = (id.message_id(), self.clock.now()) else { return Ok(None) };
        // The message first: a delivery that finishes between the reads is then found.
        let Some((message, _)) = self.find_message(&message_id, true).await? else {
            return Ok(None);
        };
        let item = self.table.get(webhook_key(id), true).await?;
        let found = item.map(|item| message_item::found(&item, now));
        Ok(Some(StoredDelivery { message, found }))
    }

    async fn standing(&self, id: &MessageId) -> Result<Option<Standing>, StoreError> {
        let audited_until = self.audited_until().await?;
        let range = Range {
            index: None,
            keys: ("p", "s"),
            partition: partition_of(id.task),
            between: (id.task.to_string(), format!("{}/{END}", id.task)),
            backwards: false,
            filter: None,
            consistent: true,
        };
        let mut group = Group::new(id.task);
        let mut start = None;
        loop {
            let page = self.table.query(&range, MAX_READ, start).await?;
            for item in page.items {
                if let Some(position) = position_of(&item) {
                    group.add(position, item);
                }
            }
            start = page.last;
            if start.is_none() {
                break;
            }
        }
        let Some(head) = group.head.as_ref().filter(|head| tombstone(head).is_none()) else {
            return Ok(None);
        };
        // An unreadable message fails the read.
        if message_of(id, head)?.is_none_or(|message| message.id != *id) {
            return Ok(None);
        }
        Ok(group.standing(audited_until, self.clock.now()))
    }

    async fn put_marker(&self, id: &WebhookId, until: Timestamp) -> Result<(), StoreError> {
        let condition = Condition {
            expression: "attribute_not_exists(z) OR x <= :until",
            values: vec![(":until", number(seconds(until)))],
        };
        match self.table.put_if(marker_item(id, until), condition).await {
            // A marker with a later time is there.
            Ok(()) | Err(Refused::Found(_)) => Ok(()),
            Err(Refused::Missing) => Err(changed_meanwhile()),
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    async fn delete_message(&self, seen: &PublishedMessage) -> Result<(), DeleteError> {
        let Some((_, item)) = self.find_message(&seen.id, true).await? else {
            return Err(DeleteError::Missing);
        };
        let condition = of_message(seen.revision);
        let contents = content_keys(&item, seen.id.task);
        self.replace_by_tombstone(seen.id.task, condition, contents).await
    }

    async fn list_messages(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        self.messages_of(filter, after, limit).await
    }
}

impl DynamoStore {
    async fn put_new_message(
        &self,
        message: &PublishedMessage,
        item: Item,
    ) -> Result<(), CreateMessageError> {
        let mut condition = Condition::absent();
        for _ in 0..MAX_CREATE_TRIES {
            let stored = match self.table.put_if(item.clone(), condition).await {
                Ok(()) => return Ok(()),
                Err(Refused::Failed(error)) => return Err(error.into()),
                Err(Refused::Missing) => {
                    condition = Condition::absent();
                    continue;
                }
                Err(Refused::Found(stored)) => stored,
            };
            if let Some(why) = tombstone(&stored) {
                return Err(CreateMessageError::Tombstone(why));
            }
            let Some(earlier) = message_of(&message.id, &stored)? else {
                let why = "its task ID is that of a webhook";
                return Err(StoreError::malformed(&message.id, why).into());
            };
            if exists(&earlier, &stored, self.clock.now()) {
                // The client sent this create twice: no other create has this content's name.
                let is_ours = earlier == *message
                    && stored.get("ck") == item.get("ck")
                    && stored.get("c") == item.get("c");
                return if is_ours {
                    Ok(())
                } else {
                    Err(CreateMessageError::Conflict(Box::new(earlier)))
                };
            }
            condition = of_message(earlier.revision);
        }
        Err(StoreError::Unavailable("an expired record changed again and again".into()).into())
    }

    /// The message and its item, if the message exists for a reader.
    pub(super) async fn find_message(
        &self,
        id: &MessageId,
        consistent: bool,
    ) -> Result<Option<(PublishedMessage, Item)>, StoreError> {
        let item = self.table.get(record_key(id.task), consistent).await?;
        let Some(item) = item.filter(|item| tombstone(item).is_none()) else { return Ok(None) };
        let message = message_of(id, &item)?;
        // The task id alone finds the item, so the reference id has to match too.
        let message =
            message.filter(|message| message.id == *id && exists(message, &item, self.clock.now()));
        Ok(message.map(|message| (message, item)))
    }

    /// Does the same for a reader that needs no recent state. A stale replica may have a message
    /// that was deleted, or an earlier revision of it.
    async fn find_message_cheaply(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Item)>, StoreError> {
        match self.find_message(id, false).await? {
            Some(found) => Ok(Some(found)),
            None => self.find_message(id, true).await,
        }
    }

    /// The content of a delivery: that of its message.
    pub(super) async fn content_of_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<Content>, StoreError> {
        // A content never changes, and neither does its place.
        let Some((_, item)) = self.find_message_cheaply(id).await? else { return Ok(None) };
        if let Some(inline) = inline_content(id, &item) {
            return inline.map(Some);
        }
        self.content_of(id, id.task, &item).await
    }

    /// Replaces `before` with `after`. `is_extension`: the deliveries rely on the new expiry.
    async fn replace_message(
        &self,
        before: &PublishedMessage,
        after: &PublishedMessage,
        is_extension: bool,
    ) -> Result<(), WriteMessageError> {
        debug_assert!(
            before.id == after.id && before.revision < after.revision,
            "not made by a transition"
        );
        let now = self.clock.now();
        if before.is_expired(now) {
            match self.find_message(&before.id, true).await? {
                Some((stored, _)) if stored.revision == before.revision => {}
                Some((stored, _)) => return Err(WriteMessageError::Conflict(Box::new(stored))),
                None => return Err(WriteMessageError::Missing),
            }
        }
        let lasts = after.expires_at.unwrap_or(now.max(after.due_at.unwrap_or(now)));
        let content_lasts = seconds(lasts.plus(SPARE / 2));
        let mut change = change_of(after, None);
        let mut condition = of_message(before.revision);
        condition.values.push((":lasts", number(content_lasts)));
        condition.expression = LASTS;
        if is_extension {
            change.put("f", Some(number(seconds(lasts))));
        } else if after.expires_at.is_some() {
            condition.expression = LASTS_AND_IS_KEPT;
        }
        let key = record_key(after.id.task);
        let mut written = self.table.update_if(key.clone(), change, condition, false).await;
        if let Err(Refused::Found(stored)) = &written
            && number_of(stored, "v") == Some(before.revision as i64)
            && matches!(message_of(&before.id, stored), Ok(Some(found)) if found.id == before.id)
        {
            let kept = number_of(stored, "f");
            let mut change = change_of(after, kept.filter(|_| !is_extension));
            if is_extension {
                change.put("f", Some(number(seconds(lasts))));
            }
            if number_of(stored, "ce").is_some_and(|expires| expires < content_lasts) {
                let expires = seconds(lasts.plus(self.retention).plus(SPARE));
                self.lift_content(stored, after.id.task, expires).await?;
                change.put("ce", Some(number(expires)));
            }
            let condition = of_message(before.revision);
            written = self.table.update_if(key, change, condition, false).await;
        }
        written.map(drop).or_else(|refused| self.message_refused(refused, before, after))
    }

    fn message_refused(
        &self,
        refused: Refused,
        before: &PublishedMessage,
        after: &PublishedMessage,
    ) -> Result<(), WriteMessageError> {
        let item = match refused {
            Refused::Failed(error) => return Err(error.into()),
            Refused::Missing => return Err(WriteMessageError::Missing),
            Refused::Found(item) => item,
        };
        if tombstone(&item).is_some() {
            return Err(WriteMessageError::Missing);
        }
        match message_of(&before.id, &item)? {
            Some(stored) if stored == *after => Ok(()),
            Some(stored) if stored.id == before.id && exists(&stored, &item, self.clock.now()) => {
                Err(WriteMessageError::Conflict(Box::new(stored)))
            }
            _ => Err(WriteMessageError::Missing),
        }
    }

    /// Puts the item of a delivery that had no record. Returns the item of its message.
    pub(super) async fn put_first(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Item, WriteError> {
        let Some(message_id) = before.id.message_id() else { return Err(WriteError::Missing) };
        let Some(read) = self.find_message_cheaply(&message_id).await? else {
            return Err(WriteError::Missing);
        };
        let item = read.1.clone();
        let Some(lasts) = self.prolong(&message_id, Some(read), after).await? else {
            return Err(WriteError::Missing);
        };
        match self.table.put_if(first_item(after, lasts), Condition::absent()).await {
            Ok(()) => Ok(item),
            Err(Refused::Missing) => Err(changed_meanwhile().into()),
            Err(refused) => self.refused(refused, before, after).map(|_| item),
        }
    }

    /// Extends the message, and its content, if they must live longer for this write of a delivery.
    /// Returns when they expire at the earliest. `None`: there is no message.
    pub(super) async fn prolong(
        &self,
        id: &MessageId,
        read: Option<(PublishedMessage, Item)>,
        delivery: &Webhook,
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut read = read;
        for _ in 0..MAX_PROLONG_TRIES {
            let now = self.clock.now();
            let found = match read.take() {
                Some(found) => Some(found),
                None => self.find_message(id, true).await?,
            };
            let Some((message, item)) = found else { return Ok(None) };
            let mut lasting = message.clone();
            lasting.expires_at = message.expires_at.max(message.expires_at.and(kept_until(&item)));
            let Some(next) = self.rules.prolong(&lasting, delivery, now) else {
                return Ok(Some(self.lasts(&lasting, now)));
            };
            match self.replace_message(&message, &next, true).await {
                Ok(()) => return Ok(Some(self.lasts(&next, now))),
                Err(WriteMessageError::Conflict(_)) => {}
                Err(WriteMessageError::Missing) => return Ok(None),
                Err(WriteMessageError::Store(error)) => return Err(error),
            }
        }
        Err(StoreError::Unavailable("the message changed again and again".into()))
    }

    /// When the message expires at the earliest. A due one begins to expire when it is settled.
    fn lasts(&self, message: &PublishedMessage, now: Timestamp) -> Timestamp {
        let settled = now.max(message.allowed_at);
        message.expires_at.unwrap_or(settled.plus(self.retention).plus(MESSAGE_SPARE))
    }
}

/// The record's write, with this time to live if it ends later than the record's expiry.
fn change_of(message: &PublishedMessage, kept: Option<i64>) -> Change {
    let mut change = Change::default();
    let expires = message.expires_at.map(seconds);
    for (name, value) in changing_of_message(message) {
        let kept = kept.filter(|kept| name == "x" && expires.is_some_and(|at| at < *kept));
        change.put(name, kept.map(number).or(value));
    }
    change
}

/// Holds if the stored item is a message with this revision, and its content lasts long enough.
const LASTS: &str = "k = :kind AND v = :revision AND (attribute_not_exists(ce) OR ce >= :lasts)";

/// Holds if, in addition, no delivery relies on a later expiry than the new one.
const LASTS_AND_IS_KEPT: &str = "k = :kind AND v = :revision AND (attribute_not_exists(ce) OR ce \
                                 >= :lasts) AND (attribute_not_exists(f) OR f <= :x)";

/// Holds if the stored item is a message with this revision.
fn of_message(revision: u64) -> Condition {
    Condition {
        expression: "k = :kind AND v = :revision",
        values: vec![(":kind", text(MESSAGE)), (":revision", number(revision))],
    }
}

fn changed_meanwhile() -> StoreError {
    StoreError::Unavailable("the item changed while it was written".into())
}
