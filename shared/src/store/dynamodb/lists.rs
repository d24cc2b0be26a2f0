//! The contract of [`Lists`]: by time, by reference, dead letters. `shards` reads the indexes.
//!
//! A list reads records until its page is full, [`MAX_READ`] entries are read, or none is left. So
//! a page may be short and still have a `next`: the position of the last entry that was read.

use async_trait::async_trait;

use super::{
    DynamoStore,
    item::{Item, inline_content, readable_webhook, record_key, sortable, text_of},
    message_item::{
        APPLICATION_PARTS, exists, messages_partition, readable_message, referenced_partition,
    },
    newest::{CHUNK, Newest},
    shards::{self, END, Merge, archived, base_key, latest_archived},
    table::Range,
};
use crate::{
    applications::message::PublishedMessage,
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DuePage, Filter,
        ListPosition, Listed, Lists, MAX_READ, MessageFilter, Page, StoreError, Unindexed,
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
        self.list_webhooks(filter, after, limit).await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        self.list_dead_letters(filter, after, limit).await
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
        self.read_unindexed(from, until, after).await
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        self.count_newest().await
    }
}

impl DynamoStore {
    async fn list_webhooks(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let created_before = filter.created_before.map(TaskId::first_at).map(ListPosition::at);
        let end = [after, created_before].into_iter().flatten().min();
        let limit = limit.clamp(1, MAX_READ);
        let Some(reference) = &filter.reference else {
            return self.newest(filter, end, limit).await;
        };
        // Direct webhooks only.
        let end = end.map(|end| end.task);
        let mut page = self.by_reference(filter, reference, end, limit).await?;
        if let Some(listed) = self.generated(filter).await? {
            page.insert(listed, limit, end, |listed| listed.webhook.id.task);
        }
        Ok(Page { items: page.items, next: page.next.map(ListPosition::at) })
    }

    /// All webhooks, newest first.
    async fn newest(
        &self,
        filter: &Filter,
        end: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let end = end.unwrap_or_else(|| ListPosition::at(TaskId::first_at(FAR)));
        let mut newest = Newest::before(self, end, limit);
        let mut found: Vec<(Webhook, Item)> = Vec::new();
        let mut next = None;
        'groups: while let Some(group) = newest.next_group().await? {
            let (task, now) = (group.task, self.clock.now());
            for (webhook, item) in group.webhooks(now) {
                let position = ListPosition::of(&webhook.id);
                // Of a message that a page ends in, the next page has the other deliveries.
                if position < end && filter.matches(&webhook, now) {
                    found.push((webhook, item));
                }
                if found.len() >= limit {
                    next = Some(position);
                    break 'groups;
                }
            }
            if newest.read >= MAX_READ {
                next = Some(ListPosition::at(task));
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
        let range = by_task("reference", "r", reference.to_string(), None, end);
        let page = self
            .newest_entries(vec![range], end, limit, |item| {
                readable_webhook(&item)
                    .filter(|webhook| filter.matches(webhook, self.clock.now()))
                    .map(|webhook| (webhook, item))
            })
            .await?;
        Ok(Page { items: self.with_urls(page.items).await?, next: page.next })
    }

    pub(super) async fn messages_of(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        let limit = limit.clamp(1, MAX_READ);
        let matching = |item: Item| {
            readable_message(&item).filter(|message| {
                filter.matches(message) && exists(message, &item, self.clock.now())
            })
        };
        let end = [after, filter.until.map(TaskId::first_at)].into_iter().flatten().min();
        // A generated reference id has no index entry, and names one message.
        if let Some(task) = filter.reference.as_ref().and_then(ReferenceId::generated_for) {
            let item = self.table.get(record_key(task), true).await?;
            let item = item.filter(|_| end.is_none_or(|end| task < end));
            return Ok(Page { items: item.and_then(matching).into_iter().collect(), next: None });
        }
        let (application, since) = (&filter.application, filter.since);
        let ranges = match &filter.reference {
            Some(reference) => {
                let partition = referenced_partition(application, reference.as_str());
                vec![by_task("reference", "r", partition, since, end)]
            }
            None => (0..APPLICATION_PARTS)
                .map(|part| messages_partition(application, part))
                .map(|partition| by_task("application", "a", partition, since, end))
                .collect(),
        };
        self.newest_entries(ranges, end, limit, matching).await
    }

    /// Reads the records of index entries before `end`, newest first, until a page is full.
    async fn newest_entries<T: Send>(
        &self,
        ranges: Vec<Range>,
        end: Option<TaskId>,
        limit: usize,
        pick: impl Fn(Item) -> Option<T> + Send + Sync,
    ) -> Result<Page<T, TaskId>, StoreError> {
        let mut entries = Merge::new(&self.table, ranges, limit.clamp(2, CHUNK));
        let (mut items, mut next) = (Vec::new(), None);
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
                items.extend(pick(item));
                if items.len() >= limit {
                    next = task;
                    break 'pages;
                }
            }
            if entries.read >= MAX_READ {
                next = chunk.last().and_then(task_of);
                break;
            }
        }
        Ok(Page { items, next })
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
        let webhook = readable_webhook(&item)
            .filter(|webhook| !webhook.referenced && filter.matches(webhook, self.clock.now()));
        let Some(webhook) = webhook else { return Ok(None) };
        Ok(self.with_urls(vec![(webhook, item)]).await?.pop())
    }

    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let limit = limit.clamp(1, MAX_READ);
        let before = after.map_or_else(|| END.to_owned(), letter_place);
        let chunk = limit.clamp(2, CHUNK);
        let one_list = |list| {
            Merge::new(&self.table, vec![archived("dead_reference", "l", list, &before)], chunk)
        };
        let mut entries = match filter {
            DeadLetterFilter::All => latest_archived(&self.table, &before, (chunk / 8).max(2)),
            DeadLetterFilter::Reference(reference) => one_list(reference.to_string()),
            DeadLetterFilter::Endpoint(application, endpoint) => {
                one_list(format!("{application}/{endpoint}"))
            }
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
                let letter = readable_webhook(&item).filter(|webhook| {
                    webhook.is_dead_letter()
                        && filter.matches(webhook)
                        && !webhook.is_expired(self.clock.now())
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
        if let DeadLetterFilter::Reference(reference) = filter {
            let filter = Filter { reference: Some(reference.clone()), ..Filter::default() };
            let generated = self.generated(&filter).await?;
            if let Some(listed) = generated.filter(|listed| listed.webhook.is_dead_letter()) {
                page.insert(listed, limit, after, |listed| letter_position(&listed.webhook));
            }
        }
        Ok(page)
    }

    /// Counts the newest webhooks by status. The table has no counters, and a scan would cost as
    /// much as the whole table, so this leaves out all but the newest [`MAX_READ`].
    async fn count_newest(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let end = ListPosition::at(TaskId::first_at(FAR));
        let mut newest = Newest::before(self, end, MAX_READ);
        let mut counts = [0; Status::ALL.len()];
        let mut looked_at = 0;
        while looked_at < MAX_READ {
            let Some(item) = newest.next().await? else { break };
            looked_at += 1;
            if let Some(webhook) =
                readable_webhook(&item).filter(|webhook| !webhook.is_expired(self.clock.now()))
            {
                counts[webhook.status.index()] += 1;
            }
        }
        Ok(counts)
    }

    /// Adds the URLs: from the record's item or, for a few, from the content. A delivery has none.
    async fn with_urls(&self, found: Vec<(Webhook, Item)>) -> Result<Vec<Listed>, StoreError> {
        let mut listed = Vec::with_capacity(found.len());
        for (webhook, item) in found {
            if webhook.id.is_delivery() {
                listed.push(Listed { webhook, url: String::new() });
                continue;
            }
            let url = match (text_of(&item, "u"), inline_content(&webhook.id, &item)) {
                (Some(url), _) => Some(url.to_owned()),
                (None, Some(content)) => content.ok().map(|content| content.url),
                (None, None) => {
                    self.content_for(&webhook.id, &item).await?.map(|content| content.url)
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

/// The entries of a partition of an index whose sort key is the task id, newest first.
fn by_task(
    index: &'static str,
    key: &'static str,
    partition: String,
    since: Option<Timestamp>,
    end: Option<TaskId>,
) -> Range {
    let low = since.map_or_else(|| "0".to_owned(), |since| TaskId::first_at(since).to_string());
    Range {
        index: Some(index),
        keys: (key, "s"),
        partition,
        between: (low, end.map_or_else(|| END.to_owned(), |end| end.to_string())),
        backwards: true,
        filter: None,
        consistent: false,
    }
}

fn task_of(item: &Item) -> Option<TaskId> {
    text_of(item, "s")?.parse().ok()
}

fn letter_position(letter: &Webhook) -> DeadLetterPosition {
    DeadLetterPosition {
        archived_at: letter.archived_at.unwrap_or_default(),
        task: letter.id.task,
        endpoint: letter.id.endpoint,
    }
}

/// The sort key of a dead letter's index entry.
fn letter_place(at: DeadLetterPosition) -> String {
    let position = ListPosition { task: at.task, endpoint: at.endpoint };
    format!("{}/{position}", sortable(at.archived_at))
}

fn parse_position(place: &str) -> Option<DeadLetterPosition> {
    let (archived_at, position) = place.split_once('/')?;
    let ListPosition { task, endpoint } = position.parse().ok()?;
    Some(DeadLetterPosition {
        archived_at: Timestamp::from_millis(archived_at.parse().ok()?),
        task,
        endpoint,
    })
}
