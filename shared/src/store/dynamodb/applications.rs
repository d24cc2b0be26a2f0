//! The contract of [`Applications`]: one item for each application.
//!
//! The item has the key `app/{id}`, `-`, the revision `v`, and the document's JSON, deflated, as
//! `d`. `i` (`apps/{0..3}`) and `j` (the id) put it into the index `work`, which so lists the ids
//! in order.

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::{
    DynamoStore,
    item::{Item, deflated, inflated, key, number, text, text_of},
    message_item::APPLICATION_PARTS,
    shards::{END, base_key},
    table::{Condition, Range, Refused},
};
use crate::{
    applications::{application::Application, id::ApplicationId},
    model::InvalidRecord,
    store::{
        Applications, Page, StoreError, WriteApplicationError,
        shard::{ShardHash, shard},
    },
};

/// The size limit of an inflated document.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The most documents on a page. `BatchGetItem` returns at most 16 MB.
const MAX_PAGE: usize = 100;

#[async_trait]
impl Applications for DynamoStore {
    async fn application(&self, id: &ApplicationId) -> Result<Option<Application>, StoreError> {
        match self.table.get(application_key(id), true).await? {
            Some(item) => application_of(id, &item).map(Some),
            None => Ok(None),
        }
    }

    async fn write_application(
        &self,
        before: Option<u64>,
        after: &Application,
    ) -> Result<(), WriteApplicationError> {
        let condition = before.map_or_else(Condition::absent, Condition::revision);
        let stored = match self.table.put_if(application_item(after), condition).await {
            Ok(()) => return Ok(()),
            Err(Refused::Failed(error)) => return Err(error.into()),
            Err(Refused::Missing) => return Err(WriteApplicationError::Changed(None)),
            Err(Refused::Found(item)) => application_of(&after.id, &item)?,
        };
        if stored == *after {
            return Ok(());
        }
        Err(WriteApplicationError::Changed(Some(Box::new(stored))))
    }

    async fn applications(
        &self,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let parts = (0..APPLICATION_PARTS).map(|part| self.application_ids(part, after, limit + 1));
        let mut entries: Vec<Item> = try_join_all(parts).await?.into_iter().flatten().collect();
        entries.sort_by(|a, b| text_of(a, "j").cmp(&text_of(b, "j")));
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| has_more);
        let next = next.and_then(|entry| text_of(entry, "j")?.parse().ok());
        let items = self.table.batch_get(entries.iter().map(base_key).collect()).await?;
        let items = items.iter().filter_map(readable).collect();
        Ok(Page { items, next })
    }
}

impl DynamoStore {
    /// The index entries of a partition after this id, in order.
    async fn application_ids(
        &self,
        part: u8,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Vec<Item>, StoreError> {
        // No id contains a space, and every other character of ids sorts after it.
        let low = after.map_or_else(|| "-".to_owned(), |after| format!("{after} "));
        let range = Range {
            index: Some("work"),
            keys: ("i", "j"),
            partition: partition(part),
            between: (low, END.to_owned()),
            backwards: false,
            filter: None,
            consistent: false,
        };
        Ok(self.table.query(&range, limit, None).await?.items)
    }
}

fn partition(part: u8) -> String {
    format!("apps/{part}")
}

fn application_key(id: &ApplicationId) -> Item {
    key(format!("app/{id}"), "-")
}

pub(super) fn application_item(application: &Application) -> Item {
    let id = &application.id;
    let mut item = application_key(id);
    let part = shard(id.as_str().as_bytes(), ShardHash::Fnv1a, APPLICATION_PARTS);
    item.insert("v".to_owned(), number(application.revision));
    item.insert("d".to_owned(), deflated(application.to_json().as_bytes()));
    item.insert("i".to_owned(), text(partition(part)));
    item.insert("j".to_owned(), text(id.as_str()));
    item
}

/// Reads an item.
pub(super) fn read(item: &Item) -> Result<Application, InvalidRecord> {
    let malformed = |why: &str| InvalidRecord::Malformed(serde::de::Error::custom(why));
    let json = inflated(item.get("d"), MAX_BYTES).ok_or_else(|| malformed("it is not deflated"))?;
    Application::from_json(std::str::from_utf8(&json).map_err(|_| malformed("it is not text"))?)
}

fn application_of(id: &ApplicationId, item: &Item) -> Result<Application, StoreError> {
    read(item).map_err(|source| StoreError::unreadable(id, source))
}

fn readable(item: &Item) -> Option<Application> {
    read(item)
        .inspect_err(|error| {
            let key = text_of(item, "p");
            tracing::warn!(key, %error, "Skipped an application that cannot be read");
        })
        .ok()
}
