//! The contract of [`Lists`]. A list reads a range of one index over all shards, at most
//! [`MAX_READ`] entries, and then the records, which decide. `due` reads the due index.

use ::redis::{RedisError, RedisResult, cmd};
use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    RedisStore, due, keys,
    merged::{self, IndexRange, Order},
    records::{is_foreign, readable, sortable, unavailable},
};
use crate::{
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    redis::Connection,
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DuePage, Filter,
        ListPosition, Listed, Lists, MAX_READ, Page, StoreError, Unindexed,
    },
};

#[async_trait]
impl Lists for RedisStore {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let after = after.map(|after| after.task);
        list(&self.connection, filter, after, limit, self.clock.now())
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
        dead_letters(&self.connection, reference, after, limit, self.clock.now()).await
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        due::read(&self.connection, until, after, limit).await.map_err(unavailable)
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        list_unindexed(&self.connection, from, until, after).await.map(|page| Page {
            items: page
                .items
                .into_iter()
                .map(|webhook| Unindexed::Webhook(Box::new(webhook)))
                .collect(),
            next: page.next,
        })
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let read = |shard| {
            let mut command = cmd("HMGET");
            command.arg(self.connection.key_of_shard(shard, "counts"));
            for status in Status::ALL {
                command.arg(status.code());
            }
            command
        };
        let found: Vec<Vec<Option<i64>>> =
            merged::of_each_shard(&self.connection, read).await.map_err(unavailable)?;
        let count = |status: Status| -> i64 {
            found.iter().filter_map(|counts| counts.get(status.index()).copied().flatten()).sum()
        };
        Ok(Status::ALL.map(|status| count(status).max(0) as u64))
    }
}

/// The fewest and the most records that one round trip reads.
const CHUNK: (usize, usize) = (16, 100);

/// A record and its URL. Bytes, because a value that is not text must not hide the others.
type Read = (Option<Vec<u8>>, Option<Vec<u8>>);

async fn list(
    connection: &Connection,
    filter: &Filter,
    after: Option<TaskId>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<Listed, TaskId>, StoreError> {
    let end = [after, filter.created_before.map(TaskId::first_at)].into_iter().flatten().min();
    // Members of the index of statuses begin with the status.
    let (index, begin) = match (&filter.reference, filter.status) {
        (Some(reference), _) => (format!("ref:{reference}"), String::new()),
        // No index holds delivered webhooks. Most webhooks are delivered, so the order of creation
        // serves as well.
        (None, None | Some(Status::Delivered)) => ("time".to_owned(), String::new()),
        (None, Some(status)) => ("status".to_owned(), format!("{}:", status.code())),
    };
    let wanted = Wanted { filter, limit: limit.clamp(1, MAX_READ), now };
    // '~' sorts behind every task id.
    let from = end.map_or_else(|| format!("({begin}~"), |end| format!("({begin}{end}"));
    let (next, items) = wanted.walk(connection, &index, &from, &format!("[{begin}")).await?;
    let mut page = Page { items, next: next.as_deref().and_then(merged::task) };
    let place = |listed: &Listed| listed.webhook.id.task;
    if let Some(listed) = wanted.generated(connection).await? {
        page.insert(listed, wanted.limit, end, place);
    }
    Ok(page)
}

async fn dead_letters(
    connection: &Connection,
    reference: Option<&ReferenceId>,
    after: Option<DeadLetterPosition>,
    limit: usize,
    now: Timestamp,
) -> Result<DeadLetters, StoreError> {
    let filter = Filter {
        reference: reference.cloned(),
        status: Some(Status::Failed),
        created_before: None,
    };
    let wanted = Wanted { filter: &filter, limit: limit.clamp(1, MAX_READ), now };
    let index =
        reference.map_or_else(|| "dead".to_owned(), |reference| format!("dead:{reference}"));
    let from = after.map_or_else(
        || "+".to_owned(),
        |after| format!("({}:{}", sortable(after.archived_at), after.task),
    );
    let (next, items) = wanted.walk(connection, &index, &from, "-").await?;
    let mut page = Page { items, next: next.as_deref().and_then(position) };
    let place = |listed: &Listed| DeadLetterPosition {
        archived_at: listed.webhook.archived_at.unwrap_or_default(),
        task: listed.webhook.id.task,
        endpoint: listed.webhook.id.endpoint,
    };
    if let Some(listed) =
        wanted.generated(connection).await?.filter(|listed| listed.webhook.is_dead_letter())
    {
        page.insert(listed, wanted.limit, after, place);
    }
    Ok(page)
}

fn position(member: &str) -> Option<DeadLetterPosition> {
    let (archived_at, task) = member.split_once(':')?;
    Some(DeadLetterPosition {
        archived_at: Timestamp::from_millis(archived_at.parse().ok()?),
        task: task.parse().ok()?,
        endpoint: None,
    })
}

/// Which entries of its index a list returns, and how many.
struct Wanted<'a> {
    filter: &'a Filter,
    limit: usize,
    now: Timestamp,
}

impl Wanted<'_> {
    /// Reads the index backwards, and the records of its entries until the page is full. Returns
    /// where the next page begins, and the webhooks.
    async fn walk(
        &self,
        connection: &Connection,
        index: &str,
        from: &str,
        to: &str,
    ) -> Result<(Option<String>, Vec<Listed>), StoreError> {
        let read = merged::read(connection, index, from, to, Order::Descending).await;
        let IndexRange { members, next } = read.map_err(unavailable)?;
        let (mut items, mut examined) = (Vec::new(), 0);
        while examined < members.len() && items.len() < self.limit {
            let chunk = (self.limit - items.len()).clamp(CHUNK.0, CHUNK.1);
            let chunk = &members[examined..members.len().min(examined + chunk)];
            for read in read_all(connection, chunk).await? {
                if items.len() == self.limit {
                    break;
                }
                examined += 1;
                items.extend(read.and_then(|(record, url)| self.take(&record?, &url?)));
            }
        }
        let next = if examined < members.len() { members.get(examined - 1).cloned() } else { next };
        Ok((next, items))
    }

    fn take(&self, record: &[u8], url: &[u8]) -> Option<Listed> {
        let webhook = readable(record).filter(|webhook| self.filter.matches(webhook, self.now))?;
        Some(Listed { webhook, url: String::from_utf8_lossy(url).into_owned() })
    }

    /// The webhook that the filter's reference id was generated for.
    async fn generated(&self, connection: &Connection) -> Result<Option<Listed>, StoreError> {
        let Some(task) = self.filter.reference.as_ref().and_then(ReferenceId::generated_for) else {
            return Ok(None);
        };
        let read =
            read_one(connection, task).await?.and_then(|(record, url)| self.take(&record?, &url?));
        Ok(read.filter(|listed| !listed.webhook.referenced))
    }
}

/// The records and URLs of these members, in their order.
async fn read_all(
    connection: &Connection,
    members: &[String],
) -> Result<Vec<Option<Read>>, StoreError> {
    let read = async |member: &String| match merged::task(member) {
        Some(task) => read_one(connection, task).await,
        None => Ok(None),
    };
    join_all(members.iter().map(read)).await.into_iter().collect()
}

/// `None` if another program wrote under its keys. Such a key must not hide other webhooks.
async fn read_one(connection: &Connection, task: TaskId) -> Result<Option<Read>, StoreError> {
    let record = cmd("HGET").arg(keys::record_key(connection, task)).arg("r").clone();
    let url = cmd("HGET").arg(keys::content_key(connection, task)).arg("u").clone();
    let (record, url) = tokio::join!(connection.ask(&record), connection.ask(&url));
    Ok(unless_foreign(task, record)?.zip(unless_foreign(task, url)?))
}

fn unless_foreign<T>(task: TaskId, answer: RedisResult<T>) -> Result<Option<T>, StoreError> {
    let left_out = |error: &RedisError| {
        tracing::warn!(%task, %error,
            "Skipped a webhook: another program wrote under its key");
    };
    match answer {
        Err(error) if is_foreign(&error) => Ok(None).inspect(|_: &Option<T>| left_out(&error)),
        answer => answer.map(Some).map_err(unavailable),
    }
}

/// Lists unfinished webhooks that are not in the due index. Of a finished webhook, which most are,
/// it reads only status and due time.
async fn list_unindexed(
    connection: &Connection,
    from: Timestamp,
    until: Timestamp,
    after: Option<TaskId>,
) -> Result<Page<Webhook, TaskId>, StoreError> {
    let begin =
        after.map_or_else(|| format!("[{}", TaskId::first_at(from)), |after| format!("({after}"));
    let end = format!("({}", TaskId::first_at(until));
    let read = merged::read(connection, "time", &begin, &end, Order::Ascending).await;
    let IndexRange { members, next } = read.map_err(unavailable)?;
    let tasks: Vec<TaskId> = members.iter().filter_map(|member| merged::task(member)).collect();
    let unindexed = async |&task: &TaskId| {
        let command =
            cmd("HMGET").arg(keys::record_key(connection, task)).arg("s").arg("d").clone();
        let found = unless_foreign(
            task,
            connection.ask::<(Option<String>, Option<String>)>(&command).await,
        )?;
        let Some((Some(status), due_at)) = found else { return Ok(None) };
        Ok((!is_finished(&status) && due_at.is_none_or(|due_at| due_at.is_empty())).then_some(task))
    };
    let unindexed: Vec<Option<TaskId>> = join_all(tasks.iter().map(unindexed))
        .await
        .into_iter()
        .collect::<Result<_, StoreError>>()?;
    let record = async |task: TaskId| {
        let command = cmd("HGET").arg(keys::record_key(connection, task)).arg("r").clone();
        unless_foreign(task, connection.ask::<Option<Vec<u8>>>(&command).await)
    };
    let mut items = Vec::new();
    for found in join_all(unindexed.into_iter().flatten().map(record)).await {
        items.extend(found?.flatten().and_then(|record| readable(&record)));
    }
    items.retain(|webhook| !webhook.status.is_finished() && webhook.due_at.is_none());
    Ok(Page { items, next: next.as_deref().and_then(merged::task) })
}

fn is_finished(status: &str) -> bool {
    [Status::Delivered, Status::Failed]
        .into_iter()
        .any(|finished| finished.code().to_string() == status)
}
