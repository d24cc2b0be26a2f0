//! The pages of lists of webhooks: direct ones, deliveries with a record, and deliveries without.

use ::redis::{RedisResult, cmd};
use futures_util::future::join_all;

use super::{
    RedisStore, keys,
    lists::{CHUNK, unless_foreign},
    merged::{self, IndexRange, Order},
    records::{readable, readable_webhook, sortable, unavailable},
};
use crate::{
    applications::{message::PublishedMessage, standing::Standing},
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    record::Record,
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, Filter, ListPosition, Listed, MAX_READ,
        Page, StoreError,
    },
};

impl RedisStore {
    /// A page of webhooks, the newest first.
    pub(super) async fn list_webhooks(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let before = filter.created_before.map(|time| ListPosition::at(TaskId::first_at(time)));
        let end = [after, before].into_iter().flatten().min();
        // Members of the indexes of statuses begin with the status.
        let by_reference = filter.reference.as_ref().map(|reference| format!("ref:{reference}"));
        let (indexes, begin) = match (&by_reference, filter.status) {
            (Some(index), _) => (vec![index.as_str()], String::new()),
            // No index holds delivered webhooks. Most webhooks are delivered, so the order of
            // creation serves as well.
            (None, None | Some(Status::Delivered)) => (vec!["time"], String::new()),
            (None, Some(status)) => (vec!["status", "status2"], format!("{}:", status.code())),
        };
        // '~' sorts behind every position.
        let from = end.map_or_else(|| format!("({begin}~"), |end| format!("({begin}{end}"));
        let to = format!("[{begin}");
        let range = merged::read(&self.connection, &indexes, &from, &to, Order::Descending).await;
        let mut page = self.page(filter, end, limit, range.map_err(unavailable)?).await?;
        if let Some(task) = filter.reference.as_ref().and_then(ReferenceId::generated_for) {
            for listed in self.webhooks_of(task, filter).await?.1 {
                if !listed.webhook.referenced {
                    page.insert(listed, limit, end, place);
                }
            }
        }
        Ok(page)
    }

    /// The webhooks of the entries in this range that match and are before `end`. An entry of a
    /// message or of a delivery stands for all deliveries of the message.
    async fn page(
        &self,
        filter: &Filter,
        end: Option<ListPosition>,
        limit: usize,
        range: IndexRange,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let mut tasks: Vec<TaskId> =
            range.members.iter().filter_map(|member| merged::task(member)).collect();
        tasks.dedup();
        let mut page = Page { items: Vec::new(), next: None };
        let (mut examined, mut read) = (0, 0);
        while examined < tasks.len() && page.items.len() < limit && read < MAX_READ {
            let chunk = (limit - page.items.len()).clamp(CHUNK.0, CHUNK.1);
            let chunk = &tasks[examined..tasks.len().min(examined + chunk)];
            let found = chunk.iter().map(|task| self.webhooks_of(*task, filter));
            for found in join_all(found).await {
                if page.items.len() >= limit {
                    break;
                }
                let (count, listed) = found?;
                examined += 1;
                read += count;
                let is_next = |listed: &Listed| end.is_none_or(|end| place(listed) < end);
                page.items.extend(listed.into_iter().filter(is_next));
            }
        }
        page.next = if page.items.len() > limit {
            page.items.truncate(limit);
            page.items.last().map(place)
        } else if examined < tasks.len() {
            tasks.get(examined - 1).map(|task| ListPosition::at(*task))
        } else {
            range.next.as_deref().and_then(merged::task).map(ListPosition::at)
        };
        Ok(page)
    }

    /// How many keys were read, and the webhooks under a task id that match, the last position
    /// first.
    async fn webhooks_of(
        &self,
        task: TaskId,
        filter: &Filter,
    ) -> Result<(usize, Vec<Listed>), StoreError> {
        let Some((record, url)) = self.read_direct(task).await? else { return Ok((1, Vec::new())) };
        let now = self.clock.now();
        match readable(&record) {
            Some(Record::Webhook(webhook)) if filter.matches(&webhook, now) => {
                Ok((1, listed(*webhook, url).into_iter().collect()))
            }
            // A reference id finds direct webhooks only.
            Some(Record::Message(message)) if filter.reference.is_none() => {
                let Some(standing) = self.standing_of_listed(*message, None).await? else {
                    return Ok((1, Vec::new()));
                };
                let mut webhooks = standing.visible_deliveries(now);
                webhooks.retain(|webhook| filter.matches(webhook, now));
                webhooks.sort_by_key(|webhook| std::cmp::Reverse(webhook.id.endpoint));
                let count = 1 + standing.message.plan.len();
                let delivery = |webhook| Listed { webhook, url: String::new() };
                Ok((count, webhooks.into_iter().map(delivery).collect()))
            }
            _ => Ok((1, Vec::new())),
        }
    }

    /// The standing of a message in a list. `None` also if another program wrote under its keys.
    pub(super) async fn standing_of_listed(
        &self,
        message: PublishedMessage,
        audited_until: Option<Timestamp>,
    ) -> Result<Option<Standing>, StoreError> {
        match self.standing_of(message, audited_until).await {
            Err(StoreError::Unreadable { id, source }) => {
                tracing::warn!(message_id = id, error = %source, "Skipped a message");
                Ok(None)
            }
            read => read,
        }
    }

    /// A page of dead letters, the latest archived first.
    pub(super) async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let indexes = match filter {
            DeadLetterFilter::All => vec!["dead".to_owned(), "dead2".to_owned()],
            DeadLetterFilter::Reference(reference) => vec![format!("dead:{reference}")],
            DeadLetterFilter::Endpoint(_, endpoint) => vec![keys::dead_letters_of(*endpoint)],
        };
        let indexes: Vec<&str> = indexes.iter().map(String::as_str).collect();
        let from = after.map_or_else(|| "+".to_owned(), |after| format!("({}", member(&after)));
        let range = merged::read(&self.connection, &indexes, &from, "-", Order::Descending).await;
        let IndexRange { members, next } = range.map_err(unavailable)?;
        let (mut items, mut examined) = (Vec::new(), 0);
        while examined < members.len() && items.len() < limit {
            let chunk = (limit - items.len()).clamp(CHUNK.0, CHUNK.1);
            let chunk = &members[examined..members.len().min(examined + chunk)];
            let found = chunk.iter().map(|member| self.dead_letter(merged::position(member)));
            for found in join_all(found).await {
                if items.len() == limit {
                    break;
                }
                examined += 1;
                items.extend(found?.filter(|listed| filter.matches(&listed.webhook)));
            }
        }
        let next = if examined < members.len() { members.get(examined - 1).cloned() } else { next };
        let mut page = Page { items, next: next.as_deref().and_then(dead_letter_position) };
        if let DeadLetterFilter::Reference(reference) = filter
            && let Some(task) = reference.generated_for()
        {
            let found = self.dead_letter(Some(ListPosition::at(task))).await?;
            let found = found.filter(|listed| !listed.webhook.referenced);
            if let Some(listed) = found.filter(|listed| filter.matches(&listed.webhook)) {
                page.insert(listed, limit, after, dead_letter_place);
            }
        }
        Ok(page)
    }

    async fn dead_letter(&self, at: Option<ListPosition>) -> Result<Option<Listed>, StoreError> {
        let Some(at) = at else { return Ok(None) };
        let read = if at.endpoint.is_none() {
            self.read_direct(at.task).await?
        } else {
            self.read_field(&keys::record_key(&self.connection, at), "r", at.task)
                .await?
                .map(|record| (record, Some(Vec::new())))
        };
        let Some((record, url)) = read else { return Ok(None) };
        let now = self.clock.now();
        let webhook = readable_webhook(&record)
            .filter(|webhook| webhook.is_dead_letter() && !webhook.is_expired(now));
        Ok(webhook.and_then(|webhook| listed(webhook, url)))
    }

    /// The record under a task id, and the URL of its content.
    async fn read_direct(&self, task: TaskId) -> Result<Option<Read>, StoreError> {
        let record = keys::record_key(&self.connection, ListPosition::at(task));
        let content = keys::content_key(&self.connection, task);
        let (record, url) = tokio::try_join!(
            self.read_field(&record, "r", task),
            self.read_field(&content, "u", task)
        )?;
        Ok(record.map(|record| (record, url)))
    }

    /// A field, unless another program wrote under the key. Bytes, because a value that is not text
    /// must not hide the others.
    async fn read_field(
        &self,
        key: &str,
        field: &str,
        task: TaskId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let read: RedisResult<Option<Vec<u8>>> =
            self.connection.ask(cmd("HGET").arg(key).arg(field)).await;
        Ok(unless_foreign(task, read)?.flatten())
    }
}

/// A record, and the URL of its content, if that can be read.
type Read = (Vec<u8>, Option<Vec<u8>>);

fn listed(webhook: Webhook, url: Option<Vec<u8>>) -> Option<Listed> {
    Some(Listed { webhook, url: String::from_utf8_lossy(&url?).into_owned() })
}

fn place(listed: &Listed) -> ListPosition {
    ListPosition::of(&listed.webhook.id)
}

fn dead_letter_place(listed: &Listed) -> DeadLetterPosition {
    DeadLetterPosition {
        archived_at: listed.webhook.archived_at.unwrap_or_default(),
        task: listed.webhook.id.task,
        endpoint: listed.webhook.id.endpoint,
    }
}

/// The member of the index of dead letters.
fn member(position: &DeadLetterPosition) -> String {
    let DeadLetterPosition { archived_at, task, endpoint } = *position;
    format!("{}:{}", sortable(archived_at), ListPosition { task, endpoint })
}

fn dead_letter_position(member: &str) -> Option<DeadLetterPosition> {
    let (archived_at, place) = member.split_once(':')?;
    let ListPosition { task, endpoint } = place.parse().ok()?;
    let archived_at = Timestamp::from_millis(archived_at.parse().ok()?);
    Some(DeadLetterPosition { archived_at, task, endpoint })
}
