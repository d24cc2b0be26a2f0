//! The contract of [`Webhooks`].
//!
//! **A content's time to live** (`ce` of its record, `x` of its items) begins with the create, so
//! DynamoDB deletes a content whose record was never written. It ends [`SPARE`] after the webhook
//! would expire if it finished now. An unfinished webhook is written repeatedly: the sweep moves
//! its due entry at least every six hours. A write that finds less than half of [`SPARE`] left
//! extends the content's time to live first. So an unfinished webhook loses its content only if no
//! function runs for that long.

use std::{fmt::Display, sync::PoisonError, time::Duration};

use async_trait::async_trait;

use super::{
    DynamoStore,
    item::{
        Item, changing, content, content_keys, day, day_item, inline_content, new_items, number,
        number_of, seconds, tombstone, tombstone_item, webhook_key, webhook_of,
    },
    table::{Change, Condition, Refused},
};
use crate::{
    applications::message::MESSAGE_SPARE,
    id::{TaskId, WebhookId},
    model::{Content, Webhook},
    random::write_name,
    store::{CreateError, DeleteError, IdState, StoreError, Tombstone, Webhooks, WriteError},
};

/// How much longer than its record a content lives.
pub(super) const SPARE: Duration = Duration::from_secs(15 * 24 * 3600);

/// Days that a process remembers as marked.
const MAX_MARKED_DAYS: usize = 64;

/// How often a create is tried if the record that it finds has expired.
pub(super) const MAX_CREATE_TRIES: u32 = 3;

#[async_trait]
impl Webhooks for DynamoStore {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        self.create_webhook(webhook, content).await
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        self.bar_id(id).await
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        Ok(self.find(id).await?.map(|(webhook, _)| webhook))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let Some((webhook, item)) = self.find(id).await? else { return Ok(None) };
        match self.content_for(id, &item).await? {
            Some(content) => Ok(Some((webhook, content))),
            // Another call deleted the webhook, or it never was whole.
            None => match self.find(id).await? {
                Some(_) => Err(StoreError::malformed(id, "its content is missing")),
                None => Ok(None),
            },
        }
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        if is_first_of_delivery(before) {
            return self.put_first(before, after).await.map(drop);
        }
        self.replace(before, after, false).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        let content = match before.id.message_id() {
            Some(message) if is_first_of_delivery(before) => {
                let item = self.put_first(before, after).await?;
                self.content_of(&message, message.task, &item).await?
            }
            _ => {
                let item = self.replace(before, after, true).await?;
                self.content_for(&after.id, &item).await?
            }
        };
        match content {
            Some(content) => Ok(content),
            None => match self.find(&after.id).await? {
                Some(_) => Err(StoreError::malformed(&after.id, "its content is missing").into()),
                None => Err(WriteError::Missing),
            },
        }
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        self.remove(id, None).await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        self.remove(&seen.id, Some(seen)).await
    }
}

impl DynamoStore {
    async fn create_webhook(
        &self,
        webhook: &Webhook,
        content: &Content,
    ) -> Result<(), CreateError> {
        self.mark_day(day(webhook.id.task.created_at())).await?;
        let name = write_name();
        let last_look = webhook.due_at.unwrap_or(webhook.created_at).max(webhook.created_at);
        let content_expires =
            webhook.expires_at.unwrap_or(last_look.plus(self.retention)).plus(SPARE);
        let (item, parts) = new_items(webhook, content, &name, content_expires);
        for part in &parts {
            self.table.put(part.clone()).await?;
        }
        let created = self.put_new(webhook, item).await;
        if matches!(created, Err(CreateError::Conflict(_) | CreateError::Tombstone(_))) {
            self.drop_orphans(parts).await;
        }
        created
    }

    /// Deletes the content of a record that was not created. No reader finds these items, and if
    /// this fails, their time to live deletes them.
    pub(super) async fn drop_orphans(&self, parts: Vec<Item>) {
        for part in parts {
            let _ = self.table.delete_if(position(&part), Condition::present()).await;
        }
    }

    async fn put_new(&self, webhook: &Webhook, item: Item) -> Result<(), CreateError> {
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
                return Err(CreateError::Tombstone(why));
            }
            let Some(earlier) = webhook_of(&webhook.id, &stored)? else {
                let why = "its task ID is that of a message";
                return Err(StoreError::malformed(&webhook.id, why).into());
            };
            if !earlier.is_expired(self.clock.now()) {
                // The client sent this create twice: no other create has this content's name.
                let is_ours = earlier == *webhook
                    && stored.get("ck") == item.get("ck")
                    && stored.get("c") == item.get("c");
                return if is_ours {
                    Ok(())
                } else {
                    Err(CreateError::Conflict(Box::new(earlier)))
                };
            }
            condition = Condition::revision(earlier.revision);
        }
        Err(StoreError::Unavailable("an expired record changed again and again".into()).into())
    }

    /// Marks the day, so lists can skip days without webhooks. A create marks the day before it
    /// writes the record, so no webhook is in an unmarked day.
    pub(super) async fn mark_day(&self, day: i64) -> Result<(), StoreError> {
        if self.marked_days.lock().unwrap_or_else(PoisonError::into_inner).contains(&day) {
            return Ok(());
        }
        self.table.put(day_item(day)).await?;
        let mut marked = self.marked_days.lock().unwrap_or_else(PoisonError::into_inner);
        if marked.len() >= MAX_MARKED_DAYS {
            marked.clear();
        }
        marked.insert(day);
        Ok(())
    }

    async fn bar_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        let Some(stored) = self.put_tombstone(id.task).await? else {
            return Ok(IdState::Tombstone(Tombstone::Unused));
        };
        if let Some(why) = tombstone(&stored) {
            return Ok(IdState::Tombstone(why));
        }
        Ok(match webhook_of(id, &stored)? {
            // A message has the key. No webhook can be created under it.
            None => IdState::Tombstone(Tombstone::Unused),
            Some(webhook) if webhook.is_expired(self.clock.now()) => {
                IdState::Tombstone(Tombstone::Deleted)
            }
            Some(webhook) => IdState::Webhook(Box::new(webhook)),
        })
    }

    /// Bars the task id if nothing is stored under it. Otherwise returns what is.
    pub(super) async fn put_tombstone(&self, task: TaskId) -> Result<Option<Item>, StoreError> {
        let item = tombstone_item(task, Tombstone::Unused);
        match self.table.put_if(item, Condition::absent()).await {
            Ok(()) => Ok(None),
            Err(Refused::Found(stored)) => Ok(Some(stored)),
            Err(Refused::Failed(error)) => Err(error),
            Err(Refused::Missing) => {
                Err(StoreError::Unavailable("the id changed while it was barred".into()))
            }
        }
    }

    /// The record and its item, if the webhook exists for a reader.
    async fn find(&self, id: &WebhookId) -> Result<Option<(Webhook, Item)>, StoreError> {
        let Some(item) =
            self.table.get(webhook_key(id), true).await?.filter(|item| tombstone(item).is_none())
        else {
            return Ok(None);
        };
        let Some(webhook) = webhook_of(id, &item)? else { return Ok(None) };
        // The task id alone finds the item, so the reference id has to match too.
        let is_there = webhook.id == *id && !webhook.is_expired(self.clock.now());
        Ok(is_there.then_some((webhook, item)))
    }

    /// The content of a webhook with this item. That of a delivery is its message's.
    pub(super) async fn content_for(
        &self,
        id: &WebhookId,
        item: &Item,
    ) -> Result<Option<Content>, StoreError> {
        match id.message_id() {
            Some(message) => self.content_of_message(&message).await,
            None => self.content_of(id, id.task, item).await,
        }
    }

    /// The content of a record, from its item or from items of its own.
    pub(super) async fn content_of(
        &self,
        id: &(impl Display + Sync),
        task: TaskId,
        item: &Item,
    ) -> Result<Option<Content>, StoreError> {
        if let Some(inline) = inline_content(id, item) {
            return inline.map(Some);
        }
        let mut parts = Vec::new();
        for key in content_keys(item, task) {
            // A content never changes, so a stale replica's answer is right. If that replica has
            // none yet, a consistent read finds it.
            let part = match self.table.get(key.clone(), false).await? {
                Some(part) => Some(part),
                None => self.table.get(key, true).await?,
            };
            let Some(part) = part else { return Ok(None) };
            parts.push(part);
        }
        let bytes: Option<Vec<&[u8]>> =
            parts.iter().map(|part| part.get("c")?.as_b().ok().map(AsRef::as_ref)).collect();
        match bytes {
            Some(bytes) if !bytes.is_empty() => content(id, &bytes).map(Some),
            _ => Err(StoreError::malformed(id, "its content is not stored as one")),
        }
    }

    /// Replaces `before` with `after`. Returns the item if `whole`, which leads to the content.
    async fn replace(
        &self,
        before: &Webhook,
        after: &Webhook,
        whole: bool,
    ) -> Result<Item, WriteError> {
        debug_assert!(
            before.id == after.id && before.revision < after.revision,
            "not made by a transition"
        );
        let now = self.clock.now();
        if before.is_expired(now) {
            // The stored record is `before`, which has expired, or another one, which a read finds.
            return match self.find(&before.id).await? {
                Some((stored, _)) => Err(WriteError::Conflict(Box::new(stored))),
                None => Err(WriteError::Missing),
            };
        }
        let is_delivery = before.id.is_delivery();
        let lasts = after.expires_at.unwrap_or(now.max(after.due_at.unwrap_or(now)));
        let spare = if is_delivery { MESSAGE_SPARE } else { SPARE };
        let mut condition = of_webhook(before);
        condition.expression = if is_delivery {
            "v = :revision AND ce >= :lasts"
        } else {
            "v = :revision AND attribute_not_exists(k) AND (attribute_not_exists(ce) OR ce >= \
             :lasts)"
        };
        condition.values.push((":lasts", number(seconds(lasts.plus(spare / 2)))));
        let mut change = Change::default();
        for (name, value) in changing(after) {
            change.put(name, value);
        }
        let key = webhook_key(&after.id);
        let mut written = self.table.update_if(key.clone(), change.clone(), condition, whole).await;
        if let Err(Refused::Found(stored)) = &written
            && number_of(stored, "v") == Some(before.revision as i64)
            && stored.contains_key("k") == is_delivery
        {
            let longer = lasts.plus(self.retention).plus(spare);
            let expires = if let Some(message) = before.id.message_id() {
                // Without a message, a marker or the next look ends the delivery.
                self.prolong(&message, None, after).await?.unwrap_or(longer)
            } else {
                self.lift_content(stored, after.id.task, seconds(longer)).await?;
                longer
            };
            change.put("ce", Some(number(seconds(expires))));
            written = self.table.update_if(key, change, of_webhook(before), whole).await;
        }
        written.or_else(|refused| self.refused(refused, before, after))
    }

    pub(super) fn refused(
        &self,
        refused: Refused,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Item, WriteError> {
        let stored_item = match refused {
            Refused::Failed(error) => return Err(error.into()),
            Refused::Missing => return Err(WriteError::Missing),
            Refused::Found(item) => item,
        };
        if tombstone(&stored_item).is_some() {
            return Err(WriteError::Missing);
        }
        let Some(stored) = webhook_of(&before.id, &stored_item)? else {
            return Err(WriteError::Missing);
        };
        if stored == *after {
            return Ok(stored_item);
        }
        if stored.id != before.id || stored.is_expired(self.clock.now()) {
            return Err(WriteError::Missing);
        }
        Err(WriteError::Conflict(Box::new(stored)))
    }

    /// Extends the content's time to live, before its record says so.
    pub(super) async fn lift_content(
        &self,
        item: &Item,
        task: TaskId,
        expires: i64,
    ) -> Result<(), StoreError> {
        for key in content_keys(item, task) {
            let mut change = Change::default();
            change.put("x", Some(number(expires)));
            let condition = Condition::present();
            match self.table.update_if(key, change, condition, false).await {
                Ok(_) => {}
                Err(Refused::Failed(error)) => return Err(error),
                // The content was deleted. The write of the record will find that out.
                Err(Refused::Missing | Refused::Found(_)) => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Whether a write of this record is a delivery's first.
fn is_first_of_delivery(before: &Webhook) -> bool {
    before.revision == 0 && before.id.is_delivery()
}

/// Holds if the stored item is a webhook with this one's revision, and not a message.
pub(super) fn of_webhook(webhook: &Webhook) -> Condition {
    let mut condition = Condition::revision(webhook.revision);
    if !webhook.id.is_delivery() {
        condition.expression = "v = :revision AND attribute_not_exists(k)";
    }
    condition
}

/// An item's key.
fn position(item: &Item) -> Item {
    item.iter()
        .filter(|(name, _)| matches!(name.as_str(), "p" | "s"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
