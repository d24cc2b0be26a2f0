//! A store and a queue that wrap real ones and fail as a test requests.

mod faults;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::{
    applications::{
        application::Application, id::ApplicationId, message::PublishedMessage, standing::Standing,
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::{Content, Webhook},
    queue::{Depth, Lane, Outgoing, Queue, QueueError, Received, SendError},
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

pub(crate) use self::faults::{Fault, Faults};

fn store_error() -> StoreError {
    StoreError::Unavailable("internal detail that no caller may see".into())
}

fn queue_error() -> QueueError {
    QueueError("internal detail that no caller may see".into())
}

#[derive(Debug)]
pub(crate) struct FaultyStore {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) faults: Arc<Faults>,
}

#[derive(Debug)]
pub(crate) struct FaultyQueue {
    pub(crate) inner: Arc<dyn Queue>,
    pub(crate) faults: Arc<Faults>,
}

/// The call with its fault, if it has one.
macro_rules! through {
    ($self:ident, $part:literal, $call:literal, $error:expr, $inner:expr) => {
        match $self.faults.note($part, $call) {
            None => $inner.await,
            Some(Fault::Down | Fault::DownAfter(_)) => Err($error),
            Some(Fault::AnswerLost) => {
                let _ = $inner.await;
                Err($error)
            }
            Some(Fault::Silent) => std::future::pending().await,
            Some(Fault::Held) => {
                $self.faults.held($part, $call).await;
                $inner.await
            }
            Some(Fault::Panic) => panic!("told to"),
        }
    };
}

macro_rules! store {
    ($self:ident, $call:literal, $inner:expr) => {
        through!($self, "store", $call, store_error().into(), $inner)
    };
}

#[async_trait]
impl Store for FaultyStore {
    async fn ping(&self) -> Result<(), StoreError> {
        store!(self, "ping", self.inner.ping())
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        let planted = self.faults.warnings.lock().unwrap().clone();
        store!(self, "warnings", std::future::ready(Ok::<_, StoreError>(planted)))
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        Ok(None)
    }

    async fn maintain(&self, now: Timestamp, until: Timestamp) -> Result<(), StoreError> {
        store!(self, "maintain", self.inner.maintain(now, until))
    }
}

#[async_trait]
impl Webhooks for FaultyStore {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        store!(self, "create", self.inner.create(webhook, content))
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        store!(self, "tombstone_id", self.inner.tombstone_id(id))
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        store!(self, "get", self.inner.get(id))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        store!(self, "open", self.inner.open(id))
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        store!(self, "write", self.inner.write(before, after))
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        store!(self, "write_and_open", self.inner.write_and_open(before, after))
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        store!(self, "delete", self.inner.delete(id))
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        store!(self, "delete", self.inner.delete_unchanged(seen))
    }
}

#[async_trait]
impl Messages for FaultyStore {
    async fn create_message(
        &self,
        message: &PublishedMessage,
        content: &Content,
    ) -> Result<(), CreateMessageError> {
        store!(self, "create_message", self.inner.create_message(message, content))
    }

    async fn tombstone_message_id(&self, id: &MessageId) -> Result<MessageIdState, StoreError> {
        store!(self, "tombstone_message_id", self.inner.tombstone_message_id(id))
    }

    async fn message(&self, id: &MessageId) -> Result<Option<PublishedMessage>, StoreError> {
        store!(self, "message", self.inner.message(id))
    }

    async fn open_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError> {
        store!(self, "open_message", self.inner.open_message(id))
    }

    async fn write_message(
        &self,
        before: &PublishedMessage,
        after: &PublishedMessage,
    ) -> Result<(), WriteMessageError> {
        store!(self, "write_message", self.inner.write_message(before, after))
    }

    async fn delivery(&self, id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError> {
        store!(self, "delivery", self.inner.delivery(id))
    }

    async fn standing(&self, id: &MessageId) -> Result<Option<Standing>, StoreError> {
        store!(self, "standing", self.inner.standing(id))
    }

    async fn put_marker(&self, id: &WebhookId, until: Timestamp) -> Result<(), StoreError> {
        store!(self, "put_marker", self.inner.put_marker(id, until))
    }

    async fn delete_message(&self, seen: &PublishedMessage) -> Result<(), DeleteError> {
        store!(self, "delete_message", self.inner.delete_message(seen))
    }

    async fn list_messages(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        store!(self, "list_messages", self.inner.list_messages(filter, after, limit))
    }
}

#[async_trait]
impl Applications for FaultyStore {
    async fn application(&self, id: &ApplicationId) -> Result<Option<Application>, StoreError> {
        store!(self, "application", self.inner.application(id))
    }

    async fn write_application(
        &self,
        before: Option<u64>,
        after: &Application,
    ) -> Result<(), WriteApplicationError> {
        store!(self, "write_application", self.inner.write_application(before, after))
    }

    async fn applications(
        &self,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError> {
        store!(self, "applications", self.inner.applications(after, limit))
    }
}

#[async_trait]
impl Lists for FaultyStore {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        store!(self, "list", self.inner.list(filter, after, limit))
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        store!(self, "dead_letters", self.inner.dead_letters(filter, after, limit))
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        store!(self, "due", self.inner.due(until, after, limit))
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        store!(self, "list_unindexed", self.inner.list_unindexed(from, until, after))
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        store!(self, "counts", self.inner.counts())
    }
}

#[async_trait]
impl SweepState for FaultyStore {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        store!(self, "audited_until", self.inner.audited_until())
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        store!(self, "advance_audit", self.inner.advance_audit(from, to))
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        store!(self, "report_sweep", self.inner.report_sweep(report))
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        store!(self, "last_sweep", self.inner.last_sweep())
    }
}

#[async_trait]
impl IdempotencyKeys for FaultyStore {
    async fn reservation(&self, key: &str) -> Result<Option<StoredReservation>, StoreError> {
        store!(self, "reservation", self.inner.reservation(key))
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        store!(self, "reserve", self.inner.reserve(key, reservation))
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        store!(self, "replace_reservation", self.inner.replace_reservation(key, before, after))
    }
}

#[async_trait]
impl Totals for FaultyStore {
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        store!(self, "add_activity", self.inner.add_activity(activity, now))
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        store!(self, "counters", self.inner.counters())
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        store!(self, "destinations", self.inner.destinations(now))
    }
}

#[async_trait]
impl Targets for FaultyStore {
    async fn target(&self, key: &TargetKey) -> Result<TargetState, StoreError> {
        store!(self, "target", self.inner.target(key))
    }

    async fn write_target(
        &self,
        before: Option<u64>,
        after: &Target,
    ) -> Result<(), WriteTargetError> {
        store!(self, "write_target", self.inner.write_target(before, after))
    }

    async fn targets(&self, now: Timestamp) -> Result<Vec<TargetState>, StoreError> {
        store!(self, "targets", self.inner.targets(now))
    }

    async fn take_slots(&self, key: &TargetKey, take: &Take) -> Result<TakenSlots, StoreError> {
        store!(self, "take_slots", self.inner.take_slots(key, take))
    }

    async fn replace_counters(
        &self,
        key: &TargetKey,
        before: Option<&Counters>,
        after: &Counters,
    ) -> Result<(), ReplaceCountersError> {
        store!(self, "replace_counters", self.inner.replace_counters(key, before, after))
    }
}

#[async_trait]
impl Queue for FaultyQueue {
    async fn ping(&self) -> Result<(), QueueError> {
        self.inner.ping().await
    }

    async fn warnings(&self) -> Result<Vec<String>, QueueError> {
        self.inner.warnings().await
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError> {
        let error = || SendError { failed: (0..messages.len()).collect(), source: queue_error() };
        through!(self, "queue", "send", error(), self.inner.send(lane, messages))
    }

    async fn receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Received>, QueueError> {
        through!(
            self,
            "queue",
            "receive",
            queue_error(),
            self.inner.receive(lane, max, visibility, wait)
        )
    }

    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError> {
        through!(
            self,
            "queue",
            "acknowledge",
            queue_error(),
            self.inner.acknowledge(lane, receipts)
        )
    }

    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError> {
        through!(self, "queue", "release", queue_error(), self.inner.release(lane, receipts, delay))
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        through!(self, "queue", "depth", queue_error(), self.inner.depth(lane))
    }
}
