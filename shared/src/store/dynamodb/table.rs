//! The calls to DynamoDB, and their failures.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::{
        delete_item::DeleteItemError, put_item::PutItemError, update_item::UpdateItemError,
    },
    types::{AttributeValue, KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure},
};

use super::item::{Item, number, text_of};
use crate::{aws::boxed, store::StoreError};

/// The most items of one `BatchGetItem`.
const MAX_BATCH_GET: usize = 100;

/// How often keys that DynamoDB left unprocessed are read again.
const MAX_BATCH_RETRIES: u32 = 8;

/// The table of a deployment.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) client: Client,
    pub(super) name: String,
}

/// Why a conditional call did not take effect.
#[derive(Debug)]
pub(super) enum Refused {
    /// The condition does not hold for the stored item, which this is.
    Found(Item),
    /// There is no item under the key.
    Missing,
    /// The call failed.
    Failed(StoreError),
}

/// Any failure of a call. The client has already retried what is worth it.
pub(super) fn unavailable<E>(error: SdkError<E>) -> StoreError
where
    SdkError<E>: std::error::Error + Send + Sync + 'static,
{
    StoreError::Unavailable(boxed(error))
}

/// The attributes that an update sets and removes.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    values: HashMap<String, AttributeValue>,
    sets: Vec<String>,
    removes: Vec<String>,
}

impl Change {
    /// Sets the attribute, or removes it.
    pub(super) fn put(&mut self, name: &str, value: Option<AttributeValue>) {
        match value {
            Some(value) => {
                self.sets.push(format!("#{name} = :{name}"));
                self.values.insert(format!(":{name}"), value);
            }
            None => self.removes.push(format!("#{name}")),
        }
    }

    /// Adds to a number that exists.
    pub(super) fn add(&mut self, name: &str, value: AttributeValue) {
        self.sets.push(format!("#{name} = #{name} + :{name}"));
        self.values.insert(format!(":{name}"), value);
    }

    fn expression(&self) -> String {
        let part = |word: &str, list: &[String]| {
            if list.is_empty() { String::new() } else { format!("{word} {} ", list.join(", ")) }
        };
        part("SET", &self.sets) + &part("REMOVE", &self.removes)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let sets =
            self.sets.iter().filter_map(|set| set.split_once(' ').map(|(name, _)| name.to_owned()));
        sets.chain(self.removes.iter().cloned())
    }
}

/// A condition with its values.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) expression: &'static str,
    pub(super) values: Vec<(&'static str, AttributeValue)>,
}

impl Condition {
    /// Holds if there is no item under the key.
    pub(super) const fn absent() -> Self {
        Self { expression: "attribute_not_exists(p)", values: Vec::new() }
    }

    /// Holds if there is an item under the key.
    pub(super) const fn present() -> Self {
        Self { expression: "attribute_exists(p)", values: Vec::new() }
    }

    /// Holds if the stored item has this revision.
    pub(super) fn revision(revision: u64) -> Self {
        Self { expression: "v = :revision", values: vec![(":revision", number(revision))] }
    }
}

/// A range of an index or of a partition.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// The index. `None`: the table itself.
    pub(super) index: Option<&'static str>,
    /// The names of its partition key and sort key.
    pub(super) keys: (&'static str, &'static str),
    /// The partition.
    pub(super) partition: String,
    /// The lowest and the highest sort key, both inclusive.
    pub(super) between: (String, String),
    /// Whether to read in descending order.
    pub(super) backwards: bool,
    /// A filter. Entries that it leaves out cost the same.
    pub(super) filter: Option<&'static str>,
    /// Whether the read is strongly consistent. An index does not support that.
    pub(super) consistent: bool,
}

/// What one `Query` found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) items: Vec<Item>,
    /// The entries read, including those that the filter left out.
    pub(super) read: usize,
    /// The last entry read, if there may be more after it.
    pub(super) last: Option<Item>,
}

impl Table {
    pub(super) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    pub(super) async fn get(
        &self,
        key: Item,
        consistent: bool,
    ) -> Result<Option<Item>, StoreError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.name)
            .set_key(Some(key))
            .consistent_read(consistent);
        Ok(call.send().await.map_err(unavailable)?.item)
    }

    pub(super) async fn put(&self, item: Item) -> Result<(), StoreError> {
        self.client
            .put_item()
            .table_name(&self.name)
            .set_item(Some(item))
            .send()
            .await
            .map(drop)
            .map_err(unavailable)
    }

    pub(super) async fn put_if(&self, item: Item, condition: Condition) -> Result<(), Refused> {
        let mut call = self.client.put_item().table_name(&self.name).set_item(Some(item));
        call = call.condition_expression(condition.expression);
        for (name, value) in condition.values {
            call = call.expression_attribute_values(name, value);
        }
        let sent = call
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        sent.map(drop).map_err(|error| match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refused)) => found(refused.item()),
            _ => Refused::Failed(unavailable(error)),
        })
    }

    /// Changes an item, and returns all of it if `whole`.
    pub(super) async fn update_if(
        &self,
        key: Item,
        change: Change,
        condition: Condition,
        whole: bool,
    ) -> Result<Item, Refused> {
        let mut call = self.client.update_item().table_name(&self.name).set_key(Some(key));
        call =
            call.update_expression(change.expression()).condition_expression(condition.expression);
        for name in change.names() {
            call = call.expression_attribute_names(&name, &name[1..]);
        }
        let values = change
            .values
            .into_iter()
            .chain(condition.values.into_iter().map(|(name, value)| (name.to_owned(), value)));
        for (name, value) in values {
            call = call.expression_attribute_values(name, value);
        }
        call = call.return_values(if whole { ReturnValue::AllNew } else { ReturnValue::None });
        let sent = call
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match sent {
            Ok(answer) => Ok(answer.attributes.unwrap_or_default()),
            Err(error) => Err(match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    found(refused.item())
                }
                _ => Refused::Failed(unavailable(error)),
            }),
        }
    }

    /// Deletes an item if the condition holds.
    pub(super) async fn delete_if(&self, key: Item, condition: Condition) -> Result<(), Refused> {
        let mut call = self.client.delete_item().table_name(&self.name).set_key(Some(key));
        call = call.condition_expression(condition.expression);
        for (name, value) in condition.values {
            call = call.expression_attribute_values(name, value);
        }
        let sent = call
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        sent.map(drop).map_err(|error| match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(refused)) => {
                found(refused.item())
            }
            _ => Refused::Failed(unavailable(error)),
        })
    }

    /// One `Query`: at most `limit` entries after `start`.
    pub(super) async fn query(
        &self,
        range: &Range,
        limit: usize,
        start: Option<Item>,
    ) -> Result<Found, StoreError> {
        let (low, high) = &range.between;
        if low > high {
            return Ok(Found::default());
        }
        let mut call = self
            .client
            .query()
            .table_name(&self.name)
            .set_index_name(range.index.map(str::to_owned));
        call = call
            .key_condition_expression("#partition = :partition AND #sort BETWEEN :low AND :high")
            .expression_attribute_names("#partition", range.keys.0)
            .expression_attribute_names("#sort", range.keys.1)
            .expression_attribute_values(":partition", AttributeValue::S(range.partition.clone()))
            .expression_attribute_values(":low", AttributeValue::S(low.clone()))
            .expression_attribute_values(":high", AttributeValue::S(high.clone()))
            .scan_index_forward(!range.backwards)
            .consistent_read(range.consistent)
            .set_filter_expression(range.filter.map(str::to_owned))
            .limit(i32::try_from(limit.max(1)).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start);
        let answer = call.send().await.map_err(unavailable)?;
        let read = usize::try_from(answer.scanned_count).unwrap_or_default();
        let last = answer.last_evaluated_key.filter(|key| !key.is_empty());
        Ok(Found { items: answer.items.unwrap_or_default(), read, last })
    }

    /// Reads the items with these keys, as far as they exist, in the order of the keys.
    pub(super) async fn batch_get(&self, keys: Vec<Item>) -> Result<Vec<Item>, StoreError> {
        let order: Vec<(String, String)> = keys.iter().filter_map(name_of).collect();
        let mut found: HashMap<(String, String), Item> = HashMap::with_capacity(keys.len());
        let mut left = keys;
        let mut rounds = 0;
        while !left.is_empty() {
            let chunk: Vec<Item> = left.drain(..left.len().min(MAX_BATCH_GET)).collect();
            let wanted = KeysAndAttributes::builder().set_keys(Some(chunk)).build();
            let wanted = wanted.map_err(|error| StoreError::Unavailable(boxed(error)))?;
            let answer = self
                .client
                .batch_get_item()
                .request_items(&self.name, wanted)
                .send()
                .await
                .map_err(unavailable)?;
            for item in answer.responses.into_iter().flatten().flat_map(|(_, items)| items) {
                if let Some(name) = name_of(&item) {
                    found.insert(name, item);
                }
            }
            let unprocessed =
                answer.unprocessed_keys.into_iter().flatten().flat_map(|(_, keys)| keys.keys);
            let before = left.len();
            left.extend(unprocessed);
            if left.len() > before {
                rounds += 1;
                if rounds > MAX_BATCH_RETRIES {
                    return Err(StoreError::Unavailable(
                        "DynamoDB left keys unprocessed again and again".into(),
                    ));
                }
                tokio::time::sleep(Duration::from_millis(20 << rounds)).await;
            }
        }
        Ok(order.iter().filter_map(|name| found.remove(name)).collect())
    }
}

fn name_of(item: &Item) -> Option<(String, String)> {
    Some((text_of(item, "p")?.to_owned(), text_of(item, "s")?.to_owned()))
}

pub(super) fn found(item: Option<&Item>) -> Refused {
    match item {
        Some(item) if !item.is_empty() => Refused::Found(item.clone()),
        _ => Refused::Missing,
    }
}
