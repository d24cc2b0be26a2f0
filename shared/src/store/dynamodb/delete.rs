//! Deletes webhooks and messages, and leaves tombstones and markers.

use aws_sdk_dynamodb::{
    operation::transact_write_items::TransactWriteItemsError,
    types::{Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem},
};

use super::{
    DynamoStore,
    item::{
        Item, content_keys, record, record_key, tombstone, tombstone_item, webhook_key, webhook_of,
    },
    message_item::marker_item,
    table::{Condition, Refused, found, unavailable},
    webhooks::of_webhook,
};
use crate::{
    applications::message::KEY_OCCUPIED,
    aws::boxed,
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::Webhook,
    record::Record,
    store::{DeleteError, StoreError, Tombstone, tombstone_expires_at},
};

impl DynamoStore {
    /// Deletes the webhook, only at the revision of `seen` where that is given.
    pub(super) async fn remove(
        &self,
        id: &WebhookId,
        seen: Option<&Webhook>,
    ) -> Result<(), DeleteError> {
        if let Some(seen) = seen.filter(|seen| id.is_delivery() && seen.revision == 0) {
            return self.remove_unstarted(seen).await;
        }
        let stored = self.table.get(webhook_key(id), true).await?;
        let Some(item) = stored.filter(|item| tombstone(item).is_none()) else {
            return Err(DeleteError::Missing);
        };
        let stored = match record(&item) {
            Ok(Record::Webhook(webhook))
                if webhook.id == *id && !webhook.is_expired(self.clock.now()) =>
            {
                Some(webhook)
            }
            Ok(_) => return Err(DeleteError::Missing),
            // An unreadable record has no id to compare, and can still be deleted. Only a message
            // and its deliveries have a `k`.
            Err(_) if item.contains_key("k") != id.is_delivery() => {
                return Err(DeleteError::Missing);
            }
            Err(_) => None,
        };
        let condition = match seen {
            Some(seen) => of_webhook(seen),
            None => Condition {
                expression: "attribute_exists(p) AND attribute_not_exists(z)",
                values: Vec::new(),
            },
        };
        if id.is_delivery() {
            let marker = self.marker(id, stored.and_then(|webhook| webhook.allowed_at));
            return self.table.put_if(marker, condition).await.map_err(not_deleted);
        }
        self.replace_by_tombstone(id.task, condition, content_keys(&item, id.task)).await
    }

    /// Puts the marker of a delivery that has no record.
    async fn remove_unstarted(&self, seen: &Webhook) -> Result<(), DeleteError> {
        let marker = self.marker(&seen.id, seen.allowed_at);
        match self.table.put_if(marker, Condition::absent()).await {
            Ok(()) => Ok(()),
            Err(Refused::Failed(error)) => Err(error.into()),
            Err(Refused::Missing) => {
                Err(StoreError::Unavailable("the item changed while it was written".into()).into())
            }
            Err(Refused::Found(stored)) if tombstone(&stored).is_some() => {
                Err(DeleteError::Missing)
            }
            Err(Refused::Found(stored)) => {
                let is_gone = |stored: Option<Webhook>| {
                    stored.is_none_or(|stored| {
                        stored.id != seen.id || stored.is_expired(self.clock.now())
                    })
                };
                let is_gone = webhook_of(&seen.id, &stored).is_ok_and(is_gone);
                Err(if is_gone { DeleteError::Missing } else { DeleteError::Changed })
            }
        }
    }

    fn marker(&self, id: &WebhookId, allowed_at: Option<Timestamp>) -> Item {
        let now = self.clock.now();
        marker_item(id, allowed_at.map_or(now, |at| at.max(now)).plus(KEY_OCCUPIED))
    }

    /// Deletes the record of a direct webhook or a message, and its content. One call does that and
    /// puts the tombstone in the record's place.
    pub(super) async fn replace_by_tombstone(
        &self,
        task: TaskId,
        condition: Condition,
        contents: Vec<Item>,
    ) -> Result<(), DeleteError> {
        let is_young = tombstone_expires_at(task) > self.clock.now();
        let instead = is_young.then(|| tombstone_item(task, Tombstone::Deleted));
        let deleted = match (contents.is_empty(), instead) {
            (true, None) => self.table.delete_if(record_key(task), condition).await,
            (true, Some(instead)) => self.table.put_if(instead, condition).await,
            (false, instead) => self.delete_together(task, condition, instead, contents).await,
        };
        deleted.map_err(not_deleted)
    }

    /// Deletes the record, or replaces it by `instead`, and deletes its contents.
    async fn delete_together(
        &self,
        task: TaskId,
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
                let delete = delete(record_key(task))
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

/// Why the delete did not take effect.
fn not_deleted(refused: Refused) -> DeleteError {
    match refused {
        Refused::Failed(error) => error.into(),
        Refused::Missing => DeleteError::Missing,
        Refused::Found(stored) if tombstone(&stored).is_some() => DeleteError::Missing,
        Refused::Found(_) => DeleteError::Changed,
    }
}
