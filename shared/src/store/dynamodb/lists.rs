//! The contract of [`Lists`]: by time, by reference, dead letters. `shards` reads the indexes.
//!
//! A list reads records until its page is full, [`MAX_READ`] entries are read, or none is left. So
//! a page may be short and still have a `next`: the position of the last entry that was read.

use async_trait::async_trait;

use super::{
    DynamoStore,
    item::{Item, day, day_of, inline_content, readable, record_key, sortable, text_of},
    shards::{self, END, Merge, archived, latest_archived, newest_of_day},
    table::Range,
};
use crate::{
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DuePage, Filter,
        ListPosition, Listed, Lists, MAX_READ, Page, StoreError, Unindexed,
    },
};

#[async_trait]
impl Lists for DynamoStore {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let after = after.map(|after| after.task);
        self.list_webhooks(filter, after, limit)
            .await
            .map(|page| Page { items: page.items, next: page.next.map(ListPosition::at) })
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let reference = match filter {
            DeadLetterFilter::Reference(reference) => Some(reference),
            _ => None,
        };
        self.list_dead_letters(reference, after, limit).await
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        shards::due(&self.table, until, after, limit).await
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        shards::list_unindexed(&self.table, from, until, after).await.map(|page| Page {
            items: page
                .items
                .into_iter()
                .map(|webhook| Unindexed::Webhook(Box::new(webhook)))
                .collect(),
            next: page.next,
        })
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        self.count_newest().await
    }
}

/// The most index entries whose records one call reads.
const CHUNK: usize = 100;

impl DynamoStore {
    async fn list_webhooks(
        &self,
        filter: &Filter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError> {
        let end = [after, filter.created_before.map(TaskId::first_at)].into_iter().flatten().min();
        let limit = limit.clamp(1, MAX_READ);
        let Some(reference) = &filter.reference else {
            return self.newest(filter, end, limit).await;
        };
        let mut page = self.by_reference(filter, reference, end, limit).await?;
        if let Some(listed) = self.generated(filter).await? {
            page.insert(listed, limit, end, |listed| listed.webhook.id.task);
        }
        Ok(page)
    }

    /// All webhooks, newest first: day by day, and within a day all shards together.
    async fn newest(
        &self,
        filter: &Filter,
        end: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError> {
        let mut newest = Newest::before(self, end.unwrap_or_else(|| TaskId::first_at(FAR)), limit);
        let mut found: Vec<(Webhook, Item)> = Vec::new();
        let mut next = None;
        while let Some(item) = newest.next().await? {
            let task = text_of(&item, "s").and_then(|task| task.parse().ok());
            if let Some(webhook) =
                readable(&item).filter(|webhook| filter.matches(webhook, self.clock.now()))
            {
                found.push((webhook, item));
            }
            if found.len() >= limit || newest.read >= MAX_READ {
                next = task;
                break;
            }
        }
        Ok(Page { items: self.with_urls(found).await?, next })
    }

    async fn by_reference(
        &self,
        filter: &Filter,
        reference: &ReferenceId,
        end: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError> {
        let range = Range {
            index: Some("reference"),
            keys: ("r", "s"),
            partition: reference.to_string(),
            between: ("0".to_owned(), end.map_or_else(|| END.to_owned(), |end| end.to_string())),
            backwards: true,
            filter: None,
            consistent: false,
        };
        let mut entries = Merge::new(&self.table, vec![range], limit.clamp(2, CHUNK));
        let (mut found, mut next) = (Vec::new(), None);
        'pages: loop {
            // The upper bound of a range is inclusive.
            let chunk = self
                .chunk(&mut entries, |entry| {
                    end.is_none_or(|end| task_of(entry).is_some_and(|task| task < end))
                })
                .await?;
            if chunk.is_empty() {
                break;
            }
            for item in self.table.batch_get(chunk.iter().map(base_key).collect()).await? {
                let task = task_of(&item);
                if let Some(webhook) =
                    readable(&item).filter(|webhook| filter.matches(webhook, self.clock.now()))
                {
                    found.push((webhook, item));
                }
                if found.len() >= limit {
                    next = task;
                    break 'pages;
                }
            }
            if entries.read >= MAX_READ {
                next = chunk.last().and_then(task_of);
                break;
            }
        }
        Ok(Page { items: self.with_urls(found).await?, next })
    }

    /// The next index entries, up to [`CHUNK`].
    async fn chunk(
        &self,
        entries: &mut Merge<'_>,
        wanted: impl Fn(&Item) -> bool,
    ) -> Result<Vec<Item>, StoreError> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let Some(entry) = entries.next().await? else { break };
            if wanted(&entry) {
                chunk.push(entry);
            }
        }
        Ok(chunk)
    }

    /// The webhook that the filter's reference id was generated for: it has no index entry.
    async fn generated(&self, filter: &Filter) -> Result<Option<Listed>, StoreError> {
        let Some(task) = filter.reference.as_ref().and_then(ReferenceId::generated_for) else {
            return Ok(None);
        };
        let Some(item) = self.table.get(record_key(task), true).await? else { return Ok(None) };
        let webhook = readable(&item)
            .filter(|webhook| !webhook.referenced && filter.matches(webhook, self.clock.now()));
        let Some(webhook) = webhook else { return Ok(None) };
        Ok(self.with_urls(vec![(webhook, item)]).await?.pop())
    }

    async fn list_dead_letters(
        &self,
        reference: Option<&ReferenceId>,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let limit = limit.clamp(1, MAX_READ);
        let place = |at: DeadLetterPosition| format!("{}/{}", sortable(at.archived_at), at.task);
        let before = after.map_or_else(|| END.to_owned(), place);
        let chunk = limit.clamp(2, CHUNK);
        let mut entries = match reference {
            Some(reference) => Merge::new(
                &self.table,
                vec![archived("dead_reference", "l", reference.to_string(), &before)],
                chunk,
            ),
            None => latest_archived(&self.table, &before, (chunk / 8).max(2)),
        };
        let filter = Filter {
            reference: reference.cloned(),
            status: Some(Status::Failed),
            created_before: None,
        };
        let (mut found, mut next) = (Vec::new(), None);
        'pages: loop {
            let chunk = self
                .chunk(&mut entries, |entry| {
                    text_of(entry, "j").is_some_and(|place| place < before.as_str())
                })
                .await?;
            if chunk.is_empty() {
                break;
            }
            for item in self.table.batch_get(chunk.iter().map(base_key).collect()).await? {
                let letter = readable(&item).filter(|webhook| {
                    webhook.is_dead_letter() && filter.matches(webhook, self.clock.now())
                });
                found.extend(letter.map(|letter| (letter, item)));
                if found.len() >= limit {
                    next = found.last().map(|(letter, _)| letter_position(letter));
                    break 'pages;
                }
            }
            if entries.read >= MAX_READ {
                next = chunk.last().and_then(|entry| parse_position(text_of(entry, "j")?));
                break;
            }
        }
        let mut page = Page { items: self.with_urls(found).await?, next };
        if let Some(listed) =
            self.generated(&filter).await?.filter(|listed| listed.webhook.is_dead_letter())
        {
            page.insert(listed, limit, after, |listed| letter_position(&listed.webhook));
        }
        Ok(page)
    }

    /// Counts the newest webhooks by status. The table has no counters, and a scan would cost as
    /// much as the whole table, so this leaves out all but the newest [`MAX_READ`].
    async fn count_newest(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let mut newest = Newest::before(self, TaskId::first_at(FAR), MAX_READ);
        let mut counts = [0; Status::ALL.len()];
        let mut looked_at = 0;
        while looked_at < MAX_READ {
            let Some(item) = newest.next().await? else { break };
            looked_at += 1;
            if let Some(webhook) =
                readable(&item).filter(|webhook| !webhook.is_expired(self.clock.now()))
            {
                counts[webhook.status.index()] += 1;
            }
        }
        Ok(counts)
    }

    /// Adds the URLs: from the record's item or, for a few, from the content.
    async fn with_urls(&self, found: Vec<(Webhook, Item)>) -> Result<Vec<Listed>, StoreError> {
        let mut listed = Vec::with_capacity(found.len());
        for (webhook, item) in found {
            let url = match (text_of(&item, "u"), inline_content(&webhook.id, &item)) {
                (Some(url), _) => Some(url.to_owned()),
                (None, Some(content)) => content.ok().map(|content| content.url),
                (None, None) => {
                    self.content_of(&webhook.id, &item).await?.map(|content| content.url)
                }
            };
            // A deleted or unreadable content is left out, like such a record.
            listed.extend(url.map(|url| Listed { webhook, url }));
        }
        Ok(listed)
    }
}

/// Later than every id: the year 10000.
const FAR: Timestamp = Timestamp::from_millis(253_402_300_800_000);

/// All records, newest first.
struct Newest<'a> {
    store: &'a DynamoStore,
    end: TaskId,
    chunk: usize,
    days: Merge<'a>,
    today: Option<Merge<'a>>,
    /// Records read.
    read: usize,
}

impl<'a> Newest<'a> {
    fn before(store: &'a DynamoStore, end: TaskId, limit: usize) -> Self {
        let last_day = day(end.created_at());
        let days = Range {
            index: None,
            keys: ("p", "s"),
            partition: "days".to_owned(),
            between: ("0".to_owned(), format!("{last_day:08}")),
            backwards: true,
            filter: None,
            consistent: false,
        };
        // A shard has a sixteenth of the webhooks. A larger chunk reads too much, a smaller one
        // takes more calls.
        let chunk = (limit / 8).clamp(2, MAX_READ / 16);
        Self {
            store,
            end,
            chunk,
            days: Merge::new(&store.table, vec![days], CHUNK),
            today: None,
            read: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<Item>, StoreError> {
        loop {
            if let Some(today) = &mut self.today {
                let read_before = today.read;
                let item = today.next().await?;
                self.read += today.read - read_before;
                match item {
                    Some(item) if task_of(&item).is_some_and(|task| task >= self.end) => continue,
                    Some(item) => return Ok(Some(item)),
                    None => self.today = None,
                }
            }
            let Some(marker) = self.days.next().await? else { return Ok(None) };
            let Some(day) = day_of(&marker) else { continue };
            self.today = Some(newest_of_day(&self.store.table, day, self.end, self.chunk));
        }
    }
}

fn task_of(item: &Item) -> Option<TaskId> {
    text_of(item, "s")?.parse().ok()
}

/// The key of an index entry's record.
fn base_key(entry: &Item) -> Item {
    let part = |name: &str| entry.get(name).map(|value| (name.to_owned(), value.clone()));
    [part("p"), part("s")].into_iter().flatten().collect()
}

fn letter_position(letter: &Webhook) -> DeadLetterPosition {
    DeadLetterPosition {
        archived_at: letter.archived_at.unwrap_or_default(),
        task: letter.id.task,
        endpoint: letter.id.endpoint,
    }
}

fn parse_position(place: &str) -> Option<DeadLetterPosition> {
    let (archived_at, task) = place.split_once('/')?;
    Some(DeadLetterPosition {
        archived_at: Timestamp::from_millis(archived_at.parse().ok()?),
        task: task.parse().ok()?,
        endpoint: None,
    })
}
