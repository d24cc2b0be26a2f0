//! The store: the contract of [`shared::store`] over ordered maps, with calls that fail, take long,
//! or land after their caller died.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::{
    circuit::Circuit,
    clock::Timestamp,
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, Webhook},
    status::Status,
    store::{
        Activity, AdvanceAuditError, CreateError, DeadLetterPosition, DeadLetters, DeleteError,
        DestinationTotals, DiskUsage, DueCursor, DueEntry, DuePage, DuePlace, Filter, IdState,
        IdempotencyKeys, Listed, Lists, MAX_READ, Page, ReplaceReservationError, Reservation,
        ReservationVersion, ReserveError, Store, StoreError, StoredReservation, SweepReport,
        SweepState, Tombstone, Totals, Webhooks, WriteCircuitError, WriteError,
    },
};

use crate::{
    state::{
        State,
        records::{short, too_new},
    },
    world::{Own, Process},
};

/// What becomes of one call.
enum Fate {
    Done,
    /// It fails and does nothing.
    Fails,
    /// It takes effect after this time; its caller is told that it failed, after a moment.
    Lost(Duration),
    /// Its caller dies; it takes effect after this time all the same.
    Orphaned(Duration),
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("the store of the simulation failed".into())
}

impl Own {
    fn fate(&self) -> Fate {
        let world = &self.0.world;
        if world.is_within(world.plan.outage) || world.happens(world.plan.store_before) {
            return Fate::Fails;
        }
        if world.happens(world.plan.store_after) {
            // Most of them take effect at once, some after the caller has long tried again.
            let late_ms = if world.below(3) == 0 { world.below(3000) } else { 0 };
            return Fate::Lost(Duration::from_millis(late_ms));
        }
        if world.happens(world.plan.death) {
            let late_ms = if world.below(3) == 0 { world.below(60_000) } else { 0 };
            return Fate::Orphaned(Duration::from_millis(late_ms));
        }
        Fate::Done
    }

    /// One call of the store.
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State, &Process) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let process = Arc::clone(&self.0);
        process.wait(process.latency()).await;
        let landing = Arc::clone(&self.0);
        let land = move || landing.world.change(|state| effect(state, &landing));
        let value = match self.fate() {
            Fate::Done => land(),
            Fate::Fails => {
                process.note(|| format!("{name} fails"));
                process.trouble();
                process.wait(process.latency()).await;
                return Err(unavailable());
            }
            Fate::Lost(late) => {
                process.note(|| format!("{name} fails, and takes effect in {late:?}"));
                process.trouble();
                land_after(late, land);
                process.wait(process.latency()).await;
                return Err(unavailable());
            }
            Fate::Orphaned(late) => {
                process.note(|| format!("{name} takes effect in {late:?}, without its caller"));
                process.die();
                land_after(late, land);
                std::future::pending().await
            }
        };
        process.alive().await;
        Ok(value)
    }

    /// A conditional write, and what it found.
    async fn replace(&self, before: &Webhook, after: &Webhook) -> Result<Content, WriteError> {
        let (revision, after) = (before.revision, after.clone());
        let written = self
            .call("write", move |state, process| write(state, process, revision, after))
            .await?;
        if written.is_err() {
            self.0.trouble();
        }
        written
    }
}

fn land_after<T>(late: Duration, land: impl FnOnce() -> T + Send + 'static) {
    if late.is_zero() {
        land();
    } else {
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            land();
        });
    }
}

fn write(
    state: &mut State,
    process: &Process,
    revision: u64,
    after: Webhook,
) -> Result<Content, WriteError> {
    let Some((stored, content)) = state.records.read(&after.id, process.local_now())? else {
        return Err(WriteError::Missing);
    };
    if stored == after {
        state.watch.twins += 1;
        return Ok(content);
    }
    if stored.revision != revision {
        state.note(process, || {
            format!("write of {} refused: somebody else was first", short(&after))
        });
        return Err(WriteError::Conflict(Box::new(stored)));
    }
    state.note(process, || format!("writes {}", told(&stored, &after)));
    let now = state.now();
    state.watch.written(process, &stored, &after, &state.destinations, &state.records, now);
    state.records.put(after, content.clone());
    Ok(content)
}

fn told(stored: &Webhook, after: &Webhook) -> String {
    let step = after.history.last().map_or("?", |step| step.transition.as_str());
    let times = |webhook: &Webhook| {
        let shown = |time: Option<Timestamp>| {
            time.map_or("-".to_owned(), |at| {
                format!("{at}").split('T').next_back().unwrap_or("").to_owned()
            })
        };
        format!("allowed {} due {}", shown(webhook.allowed_at), shown(webhook.due_at))
    };
    format!(
        "{}: {step}, {} -> {}, attempt {}, {}",
        short(after),
        stored.status,
        after.status,
        after.attempt_count,
        times(after)
    )
}

fn delete(
    state: &mut State,
    process: &Process,
    id: &WebhookId,
    revision: Option<u64>,
) -> Result<(), DeleteError> {
    let Some((stored, _)) = state.records.get(id, process.local_now()).cloned() else {
        return Err(DeleteError::Missing);
    };
    if revision.is_some_and(|revision| revision != stored.revision) {
        return Err(DeleteError::Changed);
    }
    state.note(process, || format!("deletes {}, {}", short(&stored), stored.status));
    state.watch.deleted(process, &stored);
    state.records.remove(id.task);
    state.records.retired.insert(id.task, Tombstone::Deleted);
    Ok(())
}

#[async_trait]
impl Store for Own {
    async fn ping(&self) -> Result<(), StoreError> {
        self.call("ping", |_, _| ()).await
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        Ok(None)
    }

    async fn maintain(&self, _: Timestamp, _: Timestamp) -> Result<(), StoreError> {
        let Some(until) = self.0.world.horizon.look(self) else { return Ok(()) };
        let purge = move |state: &mut State, process: &Process| {
            let webhooks = state.records.webhooks.values().map(|(webhook, _)| webhook);
            let expired: Vec<Webhook> =
                webhooks.filter(|webhook| webhook.is_expired(until)).cloned().collect();
            let now = state.now();
            for webhook in expired {
                state.note(process, || format!("purges {}", short(&webhook)));
                state.watch.purged(process, &webhook, now);
                state.records.remove(webhook.id.task);
            }
        };
        self.call("maintain", purge).await
    }
}

#[async_trait]
impl Webhooks for Own {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        let (webhook, content) = (webhook.clone(), content.clone());
        let created = move |state: &mut State, process: &Process| {
            if state.records.newer.contains(&webhook.id.task) {
                return Err(too_new(&webhook.id).into());
            }
            if let Some((stored, _)) = state.records.webhooks.get(&webhook.id.task) {
                return Err(CreateError::Conflict(Box::new(stored.clone())));
            }
            if let Some(why) = state.records.retired.get(&webhook.id.task).copied() {
                state.note(process, || {
                    format!("is refused to create {}: {}", short(&webhook), why.as_str())
                });
                return Err(CreateError::Tombstone(why));
            }
            state.note(process, || format!("creates {}", short(&webhook)));
            state.watch.created(process, &webhook, &content, state.records.audited_until);
            state.records.put(webhook, content);
            Ok(())
        };
        self.call("create", created).await?
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        let (task, id) = (id.task, id.clone());
        let tombstone_id = move |state: &mut State, process: &Process| {
            if state.records.newer.contains(&task) {
                return Err(too_new(&id));
            }
            if let Some((webhook, _)) = state.records.webhooks.get(&task) {
                return Ok(IdState::Webhook(Box::new(webhook.clone())));
            }
            let why = *state.records.retired.entry(task).or_insert(Tombstone::Unused);
            state.note(process, || format!("bars an id that was {}", why.as_str()));
            Ok(IdState::Tombstone(why))
        };
        self.call("tombstone_id", tombstone_id).await?
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let id = id.clone();
        let found = move |state: &mut State, process: &Process| {
            state
                .records
                .read(&id, process.local_now())
                .map(|found| found.map(|(webhook, _)| webhook))
        };
        self.call("get", found).await?
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let id = id.clone();
        self.call("open", move |state, process| state.records.read(&id, process.local_now()))
            .await?
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.replace(before, after).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        self.replace(before, after).await
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        let id = id.clone();
        self.call("delete", move |state, process| delete(state, process, &id, None)).await?
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        let (id, revision) = (seen.id.clone(), seen.revision);
        self.call("delete", move |state, process| delete(state, process, &id, Some(revision)))
            .await?
    }
}

#[async_trait]
impl Lists for Own {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError> {
        let filter = filter.clone();
        let page = move |state: &mut State, process: &Process| {
            let now = process.local_now();
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
            Page { next: items.last().filter(|_| more).map(|last| last.webhook.id.task), items }
        };
        self.call("list", page).await
    }

    async fn dead_letters(
        &self,
        reference: Option<&ReferenceId>,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let reference = reference.cloned();
        let page = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let known = state
                .records
                .webhooks
                .values()
                .filter(|(webhook, _)| !state.records.newer.contains(&webhook.id.task));
            let all =
                known.filter(|(webhook, _)| webhook.is_dead_letter() && !webhook.is_expired(now));
            let wanted = all.filter(|(webhook, _)| {
                reference.as_ref().is_none_or(|reference| *reference == webhook.id.reference)
            });
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
        // Small pages, so that runs die and meet between them.
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
                Some(DueEntry { id: webhook.id.clone(), due_at })
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
    ) -> Result<Page<Webhook, TaskId>, StoreError> {
        let page = move |state: &mut State, _: &Process| {
            let range =
                state.records.webhooks.range(TaskId::first_at(from)..TaskId::first_at(until));
            let unread = range
                .map(|(_, (webhook, _))| webhook)
                .filter(|webhook| after.is_none_or(|after| webhook.id.task > after));
            // Small pages, so that runs die and meet between them.
            let read: Vec<Webhook> = unread.take(3).cloned().collect();
            let next = read.last().filter(|_| read.len() == 3).map(|last| last.id.task);
            let known =
                read.into_iter().filter(|webhook| !state.records.newer.contains(&webhook.id.task));
            let items = known
                .filter(|webhook| !webhook.status.is_finished() && webhook.due_at.is_none())
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

#[async_trait]
impl SweepState for Own {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        self.call("audited_until", |state, _| state.records.audited_until).await
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        let advance = move |state: &mut State, process: &Process| {
            if state.records.audited_until != from {
                return Err(AdvanceAuditError::Moved);
            }
            state.note(process, || format!("has audited until {to}"));
            state.records.audited_until = Some(to);
            let now = state.now();
            state.watch.audited(process, to, &state.records, now);
            Ok(())
        };
        self.call("advance_audit", advance).await?
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        let report = report.clone();
        self.call("report_sweep", move |state, _| state.records.report = Some(report)).await
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        self.call("last_sweep", |state, _| state.records.report.clone()).await
    }
}

#[async_trait]
impl IdempotencyKeys for Own {
    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        let (key, reservation) = (key.to_owned(), reservation.clone());
        let reserve = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let reservations = &mut state.records.reservations;
            if let Some(taken) = reservations.get(&key).filter(|taken| taken.expires_at > now) {
                return Err(ReserveError::Taken(Box::new(stored(taken))));
            }
            let reserved = stored(&reservation);
            reservations.insert(key, reservation);
            Ok(reserved)
        };
        self.call("reserve", reserve).await?
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        let (key, before, after) = (key.to_owned(), before.version.clone(), after.clone());
        let replace = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let found = state.records.reservations.get_mut(&key);
            let found = found.filter(|found| found.expires_at > now);
            let found = found.ok_or(ReplaceReservationError::Missing)?;
            if stored(found).version != before {
                return Err(ReplaceReservationError::Changed);
            }
            *found = after;
            Ok(stored(found))
        };
        self.call("replace_reservation", replace).await?
    }
}

#[async_trait]
impl Totals for Own {
    async fn add_activity(&self, activity: &Activity, _: Timestamp) -> Result<(), StoreError> {
        let activity = activity.clone();
        self.call("add_activity", move |state, _| add(&mut state.records.totals, &activity)).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.call("counters", |state, _| state.records.totals.counters.clone()).await
    }

    async fn destinations(&self, _: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        self.call("destinations", |_, _| Vec::new()).await
    }

    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError> {
        let destination = destination.to_owned();
        self.call("circuit", move |state, _| state.records.circuits.get(&destination).cloned())
            .await
    }

    async fn write_circuit(
        &self,
        before: Option<u64>,
        after: &Circuit,
    ) -> Result<(), WriteCircuitError> {
        let after = after.clone();
        let write = move |state: &mut State, process: &Process| {
            let now = state.now();
            let circuits = &mut state.records.circuits;
            if circuits.get(&after.destination).map(|stored| stored.revision) != before {
                return Err(WriteCircuitError::Changed);
            }
            state.watch.circuit.written(
                &mut state.watch.violation,
                process,
                circuits.get(&after.destination),
                &after,
                now,
            );
            if after.is_idle() {
                circuits.remove(&after.destination);
            } else {
                circuits.insert(after.destination.clone(), after);
            }
            Ok(())
        };
        self.call("write_circuit", write).await?
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError> {
        self.call("circuits", |state, _| state.records.circuits.values().cloned().collect()).await
    }
}

fn stored(reservation: &Reservation) -> StoredReservation {
    let version = ReservationVersion::new(format!("{reservation:?}"));
    StoredReservation { reservation: reservation.clone(), version }
}

fn listed((webhook, content): &(Webhook, Content)) -> Listed {
    Listed { webhook: webhook.clone(), url: content.url.clone() }
}

fn position(listed: &Listed) -> DeadLetterPosition {
    DeadLetterPosition {
        archived_at: listed.webhook.archived_at.unwrap_or_default(),
        task: listed.webhook.id.task,
    }
}

fn add(totals: &mut Activity, more: &Activity) {
    for (name, count) in &more.counters {
        *totals.counters.entry(name.clone()).or_default() += count;
    }
    for (destination, did) in &more.destinations {
        let total = totals.destinations.entry(destination.clone()).or_default();
        total.delivered += did.delivered;
        total.failed += did.failed;
        total.waiting += did.waiting;
    }
}
