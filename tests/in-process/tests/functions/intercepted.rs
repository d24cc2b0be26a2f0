//! A store whose calls a test can delay, fail or panic.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use shared::{
    applications::{
        application::Application, id::ApplicationId, message::PublishedMessage, standing::Standing,
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::{Content, Webhook},
    status::Status,
    store::{
        Activity, AdvanceAuditError, Applications, CreateError, CreateMessageError,
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DeleteError, DestinationTotals,
        DiskUsage, DueCursor, DuePage, Filter, IdState, IdempotencyKeys, ListPosition, Listed,
        Lists, MessageFilter, MessageIdState, Messages, Page, ReplaceCountersError,
        ReplaceReservationError, Reservation, ReserveError, Store, StoreError, StoredDelivery,
        StoredReservation, SweepReport, SweepState, TakenSlots, TargetState, Targets, Totals,
        Unindexed, Webhooks, WriteApplicationError, WriteError, WriteMessageError,
        WriteTargetError,
    },
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
};

/// A call that a test can intercept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'a> {
    /// A read of this webhook.
    Read(&'a WebhookId),
    /// A write that makes the webhook this one.
    Write(&'a Webhook),
    /// A claim of this webhook.
    Claim(&'a WebhookId),
    /// A read of a delivery and its message.
    ReadDelivery,
    /// A read of a message and its deliveries.
    Standing,
    WriteMessage,
    PutMarker,
    DeleteMessage(&'a MessageId),
    ReadApplication,
    Maintain,
    ReadTargets,
    WriteTarget,
    TakeSlots(&'a TargetKey),
    ReplaceCounters(&'a TargetKey),
}

/// Runs before each of these calls. If it returns an error, so does the call.
#[async_trait]
pub(crate) trait Interceptor: Debug + Send + Sync {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError>;
}

/// The store with its interceptor.
#[derive(Debug)]
pub(crate) struct Intercepted {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) interceptor: Arc<dyn Interceptor>,
}

#[async_trait]
impl Store for Intercepted {
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        self.inner.warnings().await
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        self.inner.disk_usage().await
    }

    async fn maintain(&self, now: Timestamp, until: Timestamp) -> Result<(), StoreError> {
        self.interceptor.before(Call::Maintain).await?;
        self.inner.maintain(now, until).await
    }
}

#[async_trait]
impl Webhooks for Intercepted {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        self.inner.create(webhook, content).await
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        self.inner.tombstone_id(id).await
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        self.interceptor.before(Call::Read(id)).await?;
        self.inner.get(id).await
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        self.inner.open(id).await
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.interceptor.before(Call::Write(after)).await?;
        self.inner.write(before, after).await
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        self.interceptor.before(Call::Claim(&after.id)).await?;
        self.inner.write_and_open(before, after).await
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        self.inner.delete(id).await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        self.inner.delete_unchanged(seen).await
    }
}

#[async_trait]
impl Messages for Intercepted {
    async fn create_message(
        &self,
        message: &PublishedMessage,
        content: &Content,
    ) -> Result<(), CreateMessageError> {
        self.inner.create_message(message, content).await
    }

    async fn tombstone_message_id(&self, id: &MessageId) -> Result<MessageIdState, StoreError> {
        self.inner.tombstone_message_id(id).await
    }

    async fn message(&self, id: &MessageId) -> Result<Option<PublishedMessage>, StoreError> {
        self.inner.message(id).await
    }

    async fn open_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError> {
        self.inner.open_message(id).await
    }

    async fn write_message(
        &self,
        before: &PublishedMessage,
        after: &PublishedMessage,
    ) -> Result<(), WriteMessageError> {
        self.interceptor.before(Call::WriteMessage).await?;
        self.inner.write_message(before, after).await
    }

    async fn delivery(&self, id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError> {
        self.interceptor.before(Call::ReadDelivery).await?;
        self.inner.delivery(id).await
    }

    async fn standing(&self, id: &MessageId) -> Result<Option<Standing>, StoreError> {
        self.interceptor.before(Call::Standing).await?;
        self.inner.standing(id).await
    }

    async fn put_marker(&self, id: &WebhookId, until: Timestamp) -> Result<(), StoreError> {
        self.interceptor.before(Call::PutMarker).await?;
        self.inner.put_marker(id, until).await
    }

    async fn delete_message(&self, seen: &PublishedMessage) -> Result<(), DeleteError> {
        self.interceptor.before(Call::DeleteMessage(&seen.id)).await?;
        self.inner.delete_message(seen).await
    }

    async fn list_messages(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        self.inner.list_messages(filter, after, limit).await
    }
}

#[async_trait]
impl Applications for Intercepted {
    async fn application(&self, id: &ApplicationId) -> Result<Option<Application>, StoreError> {
        self.interceptor.before(Call::ReadApplication).await?;
        self.inner.application(id).await
    }

    async fn write_application(
        &self,
        before: Option<u64>,
        after: &Application,
    ) -> Result<(), WriteApplicationError> {
        self.inner.write_application(before, after).await
    }

    async fn applications(
        &self,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError> {
        self.inner.applications(after, limit).await
    }
}

#[async_trait]
impl Lists for Intercepted {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        self.inner.list(filter, after, limit).await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        self.inner.dead_letters(filter, after, limit).await
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        self.inner.due(until, after, limit).await
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        self.inner.list_unindexed(from, until, after).await
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        self.inner.counts().await
    }
}

#[async_trait]
impl SweepState for Intercepted {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.audited_until().await
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        self.inner.advance_audit(from, to).await
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        self.inner.report_sweep(report).await
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        self.inner.last_sweep().await
    }
}

#[async_trait]
impl IdempotencyKeys for Intercepted {
    async fn reservation(&self, key: &str) -> Result<Option<StoredReservation>, StoreError> {
        self.inner.reservation(key).await
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        self.inner.reserve(key, reservation).await
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        self.inner.replace_reservation(key, before, after).await
    }
}

#[async_trait]
impl Totals for Intercepted {
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        self.inner.add_activity(activity, now).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.inner.counters().await
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        self.inner.destinations(now).await
    }
}

#[async_trait]
impl Targets for Intercepted {
    async fn target(&self, key: &TargetKey) -> Result<TargetState, StoreError> {
        self.interceptor.before(Call::ReadTargets).await?;
        self.inner.target(key).await
    }

    async fn write_target(
        &self,
        before: Option<u64>,
        after: &Target,
    ) -> Result<(), WriteTargetError> {
        self.interceptor.before(Call::WriteTarget).await?;
        self.inner.write_target(before, after).await
    }

    async fn targets(&self, now: Timestamp) -> Result<Vec<TargetState>, StoreError> {
        self.interceptor.before(Call::ReadTargets).await?;
        self.inner.targets(now).await
    }

    async fn take_slots(&self, key: &TargetKey, take: &Take) -> Result<TakenSlots, StoreError> {
        self.interceptor.before(Call::TakeSlots(key)).await?;
        self.inner.take_slots(key, take).await
    }

    async fn replace_counters(
        &self,
        key: &TargetKey,
        before: Option<&Counters>,
        after: &Counters,
    ) -> Result<(), ReplaceCountersError> {
        self.interceptor.before(Call::ReplaceCounters(key)).await?;
        self.inner.replace_counters(key, before, after).await
    }
}
