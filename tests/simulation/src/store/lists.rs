//! Lists, and the due index.

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    id::TaskId,
    model::{Content, Webhook},
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DueEntry, DuePage, DuePlace,
        Filter, ListPosition, Listed, Lists, MAX_READ, Page, StoreError, SweepState, Unindexed,
    },
};

use crate::{
    state::{
        State,
        records::{Records, is_at_large},
    },
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
            let known = |webhook: &Webhook| {
                let position = ListPosition::of(&webhook.id);
                let by_reference = filter.reference.is_some();
                after.is_none_or(|after| position < after)
                    && !state.records.is_unreadable(position)
                    && !(by_reference && webhook.id.is_delivery())
                    && filter.matches(webhook, now)
            };
            let stored = state.records.webhooks.values().rev();
            let stored = stored.filter(|(webhook, _)| known(webhook)).take(limit + 1).map(listed);
            let unstarted = unstarted_deliveries(&state.records, now).into_iter();
            let unstarted = unstarted.filter(known).map(of_no_record);
            let mut items: Vec<Listed> = stored.chain(unstarted).collect();
            items.sort_by_key(|listed| std::cmp::Reverse(ListPosition::of(&listed.webhook.id)));
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
            let known =
                state.records.webhooks.values().filter(|(webhook, _)| {
                    !state.records.is_unreadable(ListPosition::of(&webhook.id))
                });
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
            let due = state.records.due.iter().filter(|(at, position)| match &after {
                DuePlace::Start => true,
                DuePlace::After { due_at, name } => {
                    (*at, position.to_string()) > (*due_at, name.clone())
                }
                DuePlace::End => false,
            });
            let read: Vec<(Timestamp, ListPosition)> =
                due.take_while(|(at, _)| *at <= until).take(limit).copied().collect();
            let last = read.last().map(|(at, position)| (*at, position.to_string()));
            let next =
                DueCursor::new(vec![DuePlace::after(last, read.len() == limit)]).unfinished();
            let entry =
                |(due_at, position)| Some(DueEntry { id: state.records.named(position)?, due_at });
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
        let audited_until =
            if self.0.world.plan.has_applications() { self.audited_until().await? } else { None };
        let page = move |state: &mut State, process: &Process| {
            let records = &state.records;
            let (from, until) = (TaskId::first_at(from), TaskId::first_at(until));
            let direct = records.webhooks.range(ListPosition::at(from)..ListPosition::at(until));
            let direct = direct.map(|(position, _)| *position);
            let direct = direct.filter(|at| at.endpoint.is_none()).map(|at| at.task);
            let published = records.published.range(from..until).map(|(task, _)| *task);
            let mut unread: Vec<TaskId> = direct.chain(published).collect();
            unread.retain(|task| after.is_none_or(|after| *task > after));
            unread.sort();
            // Pages are small, so that sweeps die and overlap between pages.
            unread.truncate(3);
            let next = unread.last().filter(|_| unread.len() == 3).copied();
            let now = process.local_now();
            let found = unread.into_iter().filter_map(|task| {
                if let Some((webhook, _)) = records.direct(task) {
                    let unheld = is_at_large(webhook) && !records.newer.contains(&task);
                    return unheld.then(|| Unindexed::Webhook(Box::new(webhook.clone())));
                }
                let (message, _) = records.published.get(&task)?;
                let (message, _) = records.message(&message.id, now)?;
                let standing = records.standing(message, audited_until, now);
                standing.is_unheld().then(|| Unindexed::Message(Box::new(standing)))
            });
            Page { items: found.collect(), next }
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

/// The deliveries without a record that readers see.
fn unstarted_deliveries(records: &Records, now: Timestamp) -> Vec<Webhook> {
    let existing = records
        .published
        .values()
        .filter_map(|(message, _)| records.message(&message.id, now).map(|(message, _)| message));
    let visible = existing.flat_map(|message| {
        let mut standing = records.standing(message, None, now);
        standing.message.plan.retain(|entry| !standing.found.contains_key(&entry.endpoint));
        standing.visible_deliveries(now)
    });
    visible.collect()
}

fn of_no_record(webhook: Webhook) -> Listed {
    Listed { webhook, url: String::new() }
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
