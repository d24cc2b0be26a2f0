//! The contract of [`Webhooks`].
//!
//! **A content's time to live** (`ce` of its record, `x` of its items) begins with the create, so
//! DynamoDB deletes a content whose record was never written. It ends [`SPARE`] after the webhook
//! would expire if it finished now. An unfinished webhook is written repeatedly: the sweep moves
//! its due entry at least every six hours. A write that finds less than half of [`SPARE`] left
//! extends the content's time to live first. So an unfinished webhook loses its content only if no
//! function runs for that long.

use std::{sync::PoisonError, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    operation::transact_write_items::TransactWriteItemsError,
    types::{Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem},
};

use super::{
    DynamoStore,
    item::{
        Item, changing, content, content_keys, day, day_item, inline_content, new_items, number,
        number_of, record, record_key, record_of, seconds, tombstone, tombstone_item,
    },
    table::{Change, Condition, Refused, found, unavailable},
};
use crate::{
    aws::boxed,
    id::WebhookId,
    model::{Content, Webhook},
    random::write_name,
    store::{
        CreateError, DeleteError, IdState, StoreError, Tombstone, Webhooks, WriteError,
        tombstone_expires_at,
    },
};

/// How much longer than its record a content lives.
const SPARE: Duration = Duration::from_secs(15 * 24 * 3600);

/// Days that a process remembers as marked.
const MAX_MARKED_DAYS: usize = 64;

/// How often a create is tried if the record that it finds has expired.
const MAX_CREATE_TRIES: u32 = 3;

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
        match self.content_of(id, &item).await? {
            Some(content) => Ok(Some((webhook, content))),
            // Another call deleted the webhook, or it never was whole.
            None => match self.find(id).await? {
                Some(_) => Err(StoreError::malformed(id, "its content is missing")),
                None => Ok(None),
            },
        }
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.replace(before, after, false).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        let item = self.replace(before, after, true).await?;
        match self.content_of(&after.id, &item).await? {
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
        self.remove(&seen.id, Some(seen.revision)).await
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
            // No reader finds these items. If this fails, their time to live deletes them.
            for part in parts {
                let condition = Condition::present();
                let _ = self.table.delete_if(position(&part), condition).await;
            }
        }
        created
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
            let earlier = record_of(&webhook.id, &stored)?;
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
    async fn mark_day(&self, day: i64) -> Result<(), StoreError> {
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
        let condition = Condition::absent();
        let stored =
            match self.table.put_if(tombstone_item(id.task, Tombstone::Unused), condition).await {
                Ok(()) => return Ok(IdState::Tombstone(Tombstone::Unused)),
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::Missing) => {
                    return Err(StoreError::Unavailable(
                        "the id changed while it was barred".into(),
                    ));
                }
                Err(Refused::Found(stored)) => stored,
            };
        if let Some(why) = tombstone(&stored) {
            return Ok(IdState::Tombstone(why));
        }
        let webhook = record_of(id, &stored)?;
        if webhook.is_expired(self.clock.now()) {
            return Ok(IdState::Tombstone(Tombstone::Deleted));
        }
        Ok(IdState::Webhook(Box::new(webhook)))
    }

    /// The record and its item, if the webhook exists for a reader.
    async fn find(&self, id: &WebhookId) -> Result<Option<(Webhook, Item)>, StoreError> {
        let Some(item) = self
            .table
            .get(record_key(id.task), true)
            .await?
            .filter(|item| tombstone(item).is_none())
        else {
            return Ok(None);
        };
        let webhook = record_of(id, &item)?;
        // The task id alone finds the item, so the reference id has to match too.
        let is_there = webhook.id == *id && !webhook.is_expired(self.clock.now());
        Ok(is_there.then_some((webhook, item)))
    }

    /// The content of a record, from its item or from items of its own.
    pub(super) async fn content_of(
        &self,
        id: &WebhookId,
        item: &Item,
    ) -> Result<Option<Content>, StoreError> {
        if let Some(inline) = inline_content(id, item) {
            return inline.map(Some);
        }
        let mut parts = Vec::new();
        for key in content_keys(item, id.task) {
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
        let lasts = after.expires_at.unwrap_or(now.max(after.due_at.unwrap_or(now)));
        let condition = Condition {
            expression: "v = :before AND (attribute_not_exists(ce) OR ce >= :lasts)",
            values: vec![
                (":before", number(before.revision)),
                (":lasts", number(seconds(lasts.plus(SPARE / 2)))),
            ],
        };
        let mut change = Change::default();
        for (name, value) in changing(after) {
            change.put(name, value);
        }
        match self
            .table
            .update_if(record_key(after.id.task), change.clone(), condition, whole)
            .await
        {
            Err(Refused::Found(stored))
                if number_of(&stored, "v") == Some(before.revision as i64) =>
            {
                let expires = seconds(lasts.plus(self.retention).plus(SPARE));
                self.lift_content(&stored, after, expires).await?;
                change.put("ce", Some(number(expires)));
                let condition = Condition::revision(before.revision);
                let written =
                    self.table.update_if(record_key(after.id.task), change, condition, whole).await;
                written.or_else(|refused| self.refused(refused, before, after))
            }
            written => written.or_else(|refused| self.refused(refused, before, after)),
        }
    }

    fn refused(
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
        let stored = record_of(&before.id, &stored_item)?;
        if stored == *after {
            return Ok(stored_item);
        }
        if stored.id != before.id || stored.is_expired(self.clock.now()) {
            return Err(WriteError::Missing);
        }
        Err(WriteError::Conflict(Box::new(stored)))
    }

    /// Extends the content's time to live, before its record says so.
    async fn lift_content(
        &self,
        item: &Item,
        webhook: &Webhook,
        expires: i64,
    ) -> Result<(), WriteError> {
        for key in content_keys(item, webhook.id.task) {
            let mut change = Change::default();
            change.put("x", Some(number(expires)));
            let condition = Condition::present();
            match self.table.update_if(key, change, condition, false).await {
                Ok(_) => {}
                Err(Refused::Failed(error)) => return Err(error.into()),
                // The content was deleted. The write of the record will find that out.
                Err(Refused::Missing | Refused::Found(_)) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Deletes the webhook, if it has this revision where one is given. One call deletes record and
    /// content and puts the tombstone in the record's place.
    async fn remove(&self, id: &WebhookId, revision: Option<u64>) -> Result<(), DeleteError> {
        let stored = self.table.get(record_key(id.task), true).await?;
        let Some(item) = stored.filter(|item| tombstone(item).is_none()) else {
            return Err(DeleteError::Missing);
        };
        // An unreadable record has no id to compare, and can still be deleted.
        if let Ok(webhook) = record(&item)
            && (webhook.id != *id || webhook.is_expired(self.clock.now()))
        {
            return Err(DeleteError::Missing);
        }
        let condition = match revision {
            Some(revision) => Condition::revision(revision),
            None => Condition {
                expression: "attribute_exists(p) AND attribute_not_exists(z)",
                values: Vec::new(),
            },
        };
        let is_young = tombstone_expires_at(id.task) > self.clock.now();
        let instead = is_young.then(|| tombstone_item(id.task, Tombstone::Deleted));
        let contents = content_keys(&item, id.task);
        let deleted = match (contents.is_empty(), instead) {
            (true, None) => self.table.delete_if(record_key(id.task), condition).await,
            (true, Some(instead)) => self.table.put_if(instead, condition).await,
            (false, instead) => self.delete_together(id, condition, instead, contents).await,
        };
        deleted.map_err(|refused| match refused {
            Refused::Failed(error) => error.into(),
            Refused::Missing => DeleteError::Missing,
            Refused::Found(stored) if tombstone(&stored).is_some() => DeleteError::Missing,
            Refused::Found(_) => DeleteError::Changed,
        })
    }

    /// Deletes the record, or replaces it by `instead`, and deletes its contents.
    async fn delete_together(
        &self,
        id: &WebhookId,
        condition: Condition,
        instead: Option<Item>,
        contents: Vec<Item>,
    ) -> Result<(), Refused> {
        let values: Item =
            condition.values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let values = Some(values).filter(|values| !values.is_empty());
        let all_old = ReturnValuesOnConditionCheckFailure::AllOld;
        let delete = |key: Item| Delete::builder().table_name(&self.table.name).set_key(Some(key));
        let built = |error| Refused::Failed(StoreError::Unavailable(boxed(error)));
        let first = match instead {
            None => {
                let delete = delete(record_key(id.task))
                    .condition_expression(condition.expression)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(all_old);
                TransactWriteItem::builder().delete(delete.build().map_err(built)?)
            }
            Some(instead) => {
                let put = Put::builder().table_name(&self.table.name).set_item(Some(instead));
                let put = put
                    .condition_expression(condition.expression)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(all_old);
                TransactWriteItem::builder().put(put.build().map_err(built)?)
            }
        };
        let mut call = self.table.client.transact_write_items().transact_items(first.build());
        for key in contents {
            let delete = delete(key).build().map_err(built)?;
            call = call.transact_items(TransactWriteItem::builder().delete(delete).build());
        }
        let Err(error) = call.send().await else { return Ok(()) };
        if let Some(TransactWriteItemsError::TransactionCanceledException(canceled)) =
            error.as_service_error()
            && let Some(refused) = canceled
                .cancellation_reasons()
                .iter()
                .find(|reason| reason.code() == Some("ConditionalCheckFailed"))
        {
            return Err(found(refused.item()));
        }
        Err(Refused::Failed(unavailable(error)))
    }
}

/// An item's key.
fn position(item: &Item) -> Item {
    item.iter()
        .filter(|(name, _)| matches!(name.as_str(), "p" | "s"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
