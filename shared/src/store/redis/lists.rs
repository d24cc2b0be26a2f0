//! Many webhooks: each list walks one index, over at most [`MAX_READ`] entries, within one script.

use std::cmp::Reverse;

use super::{
    SCRIPTS,
    records::{readable, sortable, unavailable},
};
use crate::{
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    redis::Connection,
    status::Status,
    store::{DeadLetterPosition, DeadLetters, Filter, Listed, MAX_READ, Page, StoreError},
};

/// A part of an index as the script answers it: where to go on, and record and URL in turn. Bytes, since one that is not text must not hide
/// the others.
type Walked = (String, Vec<Vec<u8>>);

pub(super) async fn list(
    connection: &Connection,
    filter: &Filter,
    after: Option<TaskId>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<Listed, TaskId>, StoreError> {
    let end = [after, filter.created_before.map(TaskId::first_at)].into_iter().flatten().min();
    let index = match (&filter.reference, filter.status) {
        (Some(reference), _) => format!("ref:{reference}"),
        // There is no index of what was delivered: that is most of it, so the order of creation serves as well.
        (None, None | Some(Status::Delivered)) => "time".to_owned(),
        (None, Some(status)) => format!("status:{}", status as u8),
    };
    let wanted = Wanted { filter, limit: limit.clamp(1, MAX_READ), now };
    let bound = end.map_or_else(|| "+".to_owned(), |end| format!("({end}"));
    let (next, items) = wanted.walk(connection, &index, &bound).await?;
    let mut page = Page { items, next: next.parse().ok() };
    let place = |listed: &Listed| listed.webhook.id.task;
    if let Some(listed) = wanted.made_up(connection).await? {
        insert(&mut page, listed, &wanted, end, place);
    }
    Ok(page)
}

pub(super) async fn dead_letters(
    connection: &Connection,
    reference: Option<&ReferenceId>,
    after: Option<DeadLetterPosition>,
    limit: usize,
    now: Timestamp,
) -> Result<DeadLetters, StoreError> {
    let filter = Filter { reference: reference.cloned(), status: Some(Status::Failed), created_before: None };
    let wanted = Wanted { filter: &filter, limit: limit.clamp(1, MAX_READ), now };
    let index = reference.map_or_else(|| "dead".to_owned(), |reference| format!("dead:{reference}"));
    let bound = after.map_or_else(|| "+".to_owned(), |after| format!("({}:{}", sortable(after.archived_at), after.task));
    let (next, items) = wanted.walk(connection, &index, &bound).await?;
    let mut page = Page { items, next: position(&next) };
    let place = |listed: &Listed| DeadLetterPosition {
        archived_at: listed.webhook.archived_at.unwrap_or_default(),
        task: listed.webhook.id.task,
    };
    if let Some(listed) = wanted.made_up(connection).await?.filter(|listed| listed.webhook.is_dead_letter()) {
        insert(&mut page, listed, &wanted, after, place);
    }
    Ok(page)
}

fn position(member: &str) -> Option<DeadLetterPosition> {
    let (archived_at, task) = member.split_once(':')?;
    Some(DeadLetterPosition { archived_at: Timestamp::from_millis(archived_at.parse().ok()?), task: task.parse().ok()? })
}

/// A webhook whose reference id was made up has no index entry; one whose caller copied such a reference id has. It enters this page
/// if it belongs here, and not to one before or after.
fn insert<P: Ord + Copy>(
    page: &mut Page<Listed, P>,
    listed: Listed,
    wanted: &Wanted<'_>,
    end: Option<P>,
    place: impl Fn(&Listed) -> P,
) {
    let found = place(&listed);
    if end.is_some_and(|end| found >= end) || page.next.is_some_and(|next| found < next) {
        return;
    }
    page.items.push(listed);
    page.items.sort_by_key(|listed| Reverse(place(listed)));
    if page.items.len() > wanted.limit {
        page.items.truncate(wanted.limit);
        page.next = page.items.last().map(place);
    }
}

/// What a list wants of what its index yields, and how much.
struct Wanted<'a> {
    filter: &'a Filter,
    limit: usize,
    now: Timestamp,
}

impl Wanted<'_> {
    async fn walk(&self, connection: &Connection, index: &str, bound: &str) -> Result<(String, Vec<Listed>), StoreError> {
        let status = self.filter.status.map_or_else(String::new, |status| (status as u8).to_string());
        let (now, limit) = (self.now.as_millis().to_string(), self.limit.to_string());
        let mut script = connection.call(&SCRIPTS.list, &[&now, bound, &MAX_READ.to_string(), &limit, &status]);
        script.key(connection.key(index));
        let (next, found): Walked = connection.run(&script).await.map_err(unavailable)?;
        let mut found = found.into_iter();
        let mut items = Vec::with_capacity(found.len() / 2);
        while let (Some(record), Some(url)) = (found.next(), found.next()) {
            items.extend(self.take(&record, &url));
        }
        Ok((next, items))
    }

    fn take(&self, record: &[u8], url: &[u8]) -> Option<Listed> {
        let webhook = readable(record).filter(|webhook| self.filter.matches(webhook, self.now))?;
        Some(Listed { webhook, url: String::from_utf8_lossy(url).into_owned() })
    }

    /// The webhook that the filter's reference id was made up for.
    async fn made_up(&self, connection: &Connection) -> Result<Option<Listed>, StoreError> {
        let Some(task) = self.filter.reference.as_ref().and_then(ReferenceId::made_up_for) else { return Ok(None) };
        let script = connection.call(&SCRIPTS.open, &[&self.now.as_millis().to_string(), &task.to_string()]);
        let found: Vec<Option<Vec<u8>>> = connection.run(&script).await.map_err(unavailable)?;
        let mut found = found.into_iter().flatten();
        let (Some(record), Some(url)) = (found.next(), found.next()) else { return Ok(None) };
        Ok(self.take(&record, &url).filter(|listed| !listed.webhook.referenced))
    }
}

pub(super) async fn unheld(
    connection: &Connection,
    from: Timestamp,
    until: Timestamp,
    after: Option<TaskId>,
    now: Timestamp,
) -> Result<Page<Webhook, TaskId>, StoreError> {
    let begin = after.map_or_else(|| format!("[{}", TaskId::first_at(from)), |after| format!("({after}"));
    let end = format!("({}", TaskId::first_at(until));
    let script = connection.call(&SCRIPTS.unheld, &[&now.as_millis().to_string(), &begin, &end, &MAX_READ.to_string()]);
    let (next, found): Walked = connection.run(&script).await.map_err(unavailable)?;
    Ok(Page { items: found.iter().filter_map(|record| readable(record)).collect(), next: next.parse().ok() })
}
