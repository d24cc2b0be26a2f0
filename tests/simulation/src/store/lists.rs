//! Lists, and the due index.

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    id::TaskId,
    model::{Content, Webhook},
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DueEntry, DueId, DuePage,
        DuePlace, Filter, ListPosition, Listed, Lists, MAX_READ, Page, StoreError, Unindexed,
    },
};

use crate::{
    state::State,
    world::{Process, Services},
};

#[async_trait]
impl Lists for Services {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let filter = filter.clone();
        let page = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let after = after.map(|after| after.task);
            let older = state
                .records
                .webhooks
                .values()
                .rev()
                .filter(|(webhook, _)| after.is_none_or(|after| webhook.id.task < after));
            let known =
                older.filter(|(webhook, _)| !state.records.newer.contains(&webhook.id.task));
            let wanted = known.filter(|(webhook, _)| filter.matches(webhook, now));
            let mut items: Vec<Listed> = wanted.take(limit + 1).map(listed).collect();
            let more = items.len() > limit;
            items.truncate(limit);
            Page {
                next: items.last().filter(|_| more).map(|last| ListPosition::of(&last.webhook.id)),
                items,
            }
        };
        self.call("list", page).await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let filter = filter.clone();
        let page = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let known = state
                .records
                .webhooks
                .values()
                .filter(|(webhook, _)| !state.records.newer.contains(&webhook.id.task));
            let all =
                known.filter(|(webhook, _)| webhook.is_dead_letter() && !webhook.is_expired(now));
            let wanted = all.filter(|(webhook, _)| filter.matches(webhook));
            let mut items: Vec<Listed> = wanted.map(listed).collect();
            items.sort_by_key(|listed| std::cmp::Reverse(position(listed)));
            items.retain(|listed| after.is_none_or(|after| position(listed) < after));
            let more = items.len() > limit;
            items.truncate(limit);
            Page { next: items.last().filter(|_| more).map(position), items }
        };
        self.call("dead_letters", page).await
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        // Pages are small, so that sweeps die and overlap between pages.
        let limit = limit.min(2);
        let after = after.map(|cursor| cursor.part(0)).unwrap_or_default();
        let page = move |state: &mut State, _: &Process| {
            let due = state.records.due.iter().filter(|(at, task)| match &after {
                DuePlace::Start => true,
                DuePlace::After { due_at, name } => {
                    (*at, task.to_string()) > (*due_at, name.clone())
                }
                DuePlace::End => false,
            });
            let read: Vec<(Timestamp, TaskId)> =
                due.take_while(|(at, _)| *at <= until).take(limit).copied().collect();
            let last = read.last().map(|(at, task)| (*at, task.to_string()));
            let next =
                DueCursor::new(vec![DuePlace::after(last, read.len() == limit)]).unfinished();
            let entry = |(due_at, task)| {
                let (webhook, _) = state.records.webhooks.get(&task)?;
                Some(DueEntry { id: DueId::Webhook(webhook.id.clone()), due_at })
            };
            DuePage { entries: read.into_iter().filter_map(entry).collect(), nameless: 0, next }
        };
        self.call("due", page).await
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        let page = move |state: &mut State, _: &Process| {
            let range =
                state.records.webhooks.range(TaskId::first_at(from)..TaskId::first_at(until));
            let unread = range
                .map(|(_, (webhook, _))| webhook)
                .filter(|webhook| after.is_none_or(|after| webhook.id.task > after));
            // Pages are small, so that sweeps die and overlap between pages.
            let read: Vec<Webhook> = unread.take(3).cloned().collect();
            let next = read.last().filter(|_| read.len() == 3).map(|last| last.id.task);
            let known =
                read.into_iter().filter(|webhook| !state.records.newer.contains(&webhook.id.task));
            let items = known
                .filter(|webhook| !webhook.status.is_finished() && webhook.due_at.is_none())
                .map(|webhook| Unindexed::Webhook(Box::new(webhook)))
                .collect();
            Page { items, next }
        };
        self.call("list_unindexed", page).await
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let counts = |state: &mut State, _: &Process| {
            let mut counts = [0; Status::ALL.len()];
            for (webhook, _) in state.records.webhooks.values().rev().take(MAX_READ) {
                counts[webhook.status.index()] += 1;
            }
            counts
        };
        self.call("counts", counts).await
    }
}

fn listed((webhook, content): &(Webhook, Content)) -> Listed {
    Listed { webhook: webhook.clone(), url: content.url.clone() }
}

fn position(listed: &Listed) -> DeadLetterPosition {
    DeadLetterPosition {
        archived_at: listed.webhook.archived_at.unwrap_or_default(),
        task: listed.webhook.id.task,
        endpoint: listed.webhook.id.endpoint,
    }
}
