//! The ledger of applications: what the world knows of documents, messages and deliveries on its
//! own. The checks are in `checks::published` and `checks::deliveries`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shared::{
    applications::{
        application::Application,
        endpoint::Endpoint,
        id::{ApplicationId, EndpointId},
        message::PublishedMessage,
    },
    clock::Timestamp,
    config::Config,
    id::{MessageId, TaskId, WebhookId},
    model::Webhook,
    retry::RetryPolicy,
    status::Status,
    store::ListPosition,
};

use super::records::Records;
use crate::plan::Plan;

/// The ledger.
#[derive(Debug)]
pub(crate) struct Published {
    /// `ENDPOINT_CACHE_MS`.
    pub(crate) cache: Duration,
    /// How long a process may hold a document before it uses it, beyond the cache.
    pub(crate) slow: Duration,
    /// The retry policy of endpoints.
    pub(crate) retry: RetryPolicy,
    /// The stored versions of each document, and since when each one was stored.
    pub(crate) versions: BTreeMap<ApplicationId, Vec<(Timestamp, Application)>>,
    /// The signing secret that the receiver of each endpoint knows.
    pub(crate) secrets: BTreeMap<EndpointId, String>,
    pub(crate) messages: BTreeMap<TaskId, Ledger>,
    /// The messages with a delivery that has not ended and was not deleted.
    pub(crate) open: BTreeSet<TaskId>,
    /// The message that the caller got first for each payload number.
    pub(crate) first_id: BTreeMap<u64, MessageId>,
    /// Messages that callers got with a 202, and their plans as answered.
    pub(crate) accepted: BTreeMap<MessageId, BTreeSet<EndpointId>>,
    /// The looks of a sweep process at messages that it has not moved on yet.
    pub(crate) sent: BTreeSet<(u32, TaskId)>,
    /// Endpoints whose sealed secret somebody has replaced in the store.
    pub(crate) tampered: BTreeSet<EndpointId>,
}

/// A message.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) id: MessageId,
    pub(crate) application: ApplicationId,
    pub(crate) plan: Vec<EndpointId>,
    /// Whether it had to wait for its `deliver_at`.
    pub(crate) is_scheduled: bool,
    /// The number of writes after it was created.
    pub(crate) writes: u32,
    /// The document was deleted from the store, or the store purged it.
    pub(crate) is_gone: bool,
    /// A caller got the 204.
    pub(crate) deletion_confirmed: bool,
    pub(crate) deliveries: BTreeMap<EndpointId, DeliveryLedger>,
}

/// A delivery.
#[derive(Debug, Default)]
pub(crate) struct DeliveryLedger {
    /// Whether it ever had a record.
    pub(crate) begun: bool,
    /// Whether a false dead letter took the place of its record, which was gone.
    pub(crate) replaced: bool,
    /// Whether a marker was put in its place.
    pub(crate) marked: bool,
    /// How it ended last. `None`: it is unfinished.
    pub(crate) ended: Option<Status>,
    /// The number of writes of its record.
    pub(crate) writes: u32,
    /// The number of times that it was sent again.
    pub(crate) restarts: u32,
}

impl Published {
    pub(crate) fn new(plan: &Plan, config: &Config) -> Self {
        let is_slow = plan.stall > 0.0 || plan.store_after > 0.0 || plan.death > 0.0;
        Self {
            cache: config.endpoint_cache,
            slow: Duration::from_secs(if is_slow { 50 } else { 4 }),
            retry: config.endpoint_retry.clone(),
            versions: BTreeMap::new(),
            secrets: BTreeMap::new(),
            messages: BTreeMap::new(),
            open: BTreeSet::new(),
            first_id: BTreeMap::new(),
            accepted: BTreeMap::new(),
            sent: BTreeSet::new(),
            tampered: BTreeSet::new(),
        }
    }

    /// The documents that were stored at some time in this span.
    pub(crate) fn documents(
        &self,
        id: &ApplicationId,
        from: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = &Application> {
        let versions = self.versions.get(id).map_or(&[][..], Vec::as_slice);
        let ends = versions.iter().skip(1).map(|(since, _)| Some(*since)).chain([None]);
        let lived = versions.iter().zip(ends);
        lived
            .filter(move |((since, _), end)| *since <= until && end.is_none_or(|end| end >= from))
            .map(|((_, document), _)| document)
    }

    /// The endpoint as it was stored at some time in this span, in each version.
    pub(crate) fn endpoints(
        &self,
        application: &ApplicationId,
        id: EndpointId,
        from: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = &Endpoint> {
        self.documents(application, from, until).filter_map(move |document| document.endpoint(id))
    }

    /// The latest version of an endpoint, deleted or not.
    pub(crate) fn endpoint(
        &self,
        application: &ApplicationId,
        id: EndpointId,
    ) -> Option<&Endpoint> {
        let versions = self.versions.get(application)?;
        versions.iter().rev().find_map(|(_, document)| document.endpoint(id))
    }

    /// The retry policy of a delivery. No world changes it.
    pub(crate) fn policy_of(&self, delivery: &Webhook) -> Option<RetryPolicy> {
        let application = delivery.application.as_ref()?;
        let endpoint = self.endpoint(application, delivery.id.endpoint?)?;
        Some(self.retry.with(endpoint.retry.as_ref()))
    }

    pub(crate) fn delivery(&self, id: &WebhookId) -> Option<&DeliveryLedger> {
        self.messages.get(&id.task)?.deliveries.get(&id.endpoint?)
    }

    pub(crate) fn delivery_mut(&mut self, id: &WebhookId) -> Option<&mut DeliveryLedger> {
        self.messages.get_mut(&id.task)?.deliveries.get_mut(&id.endpoint?)
    }

    /// Called after a delivery of the message began, ended or was deleted.
    pub(crate) fn changed(&mut self, task: TaskId) {
        let deliveries = self.messages.get(&task).map(|ledger| ledger.deliveries.values());
        let mut deliveries = deliveries.into_iter().flatten();
        if deliveries.all(|known| known.ended.is_some() || known.marked) {
            self.open.remove(&task);
        } else {
            self.open.insert(task);
        }
    }

    /// The messages that are not in the due index, with the first delivery of each that is not
    /// accounted for.
    pub(crate) fn at_large<'a>(
        &'a self,
        records: &'a Records,
    ) -> impl Iterator<Item = (&'a PublishedMessage, WebhookId)> {
        self.open.iter().filter_map(|task| {
            let (message, _) = records.published.get(task)?;
            let missed = (!message.is_due()).then(|| self.unaccounted(*task, records));
            Some((message, missed.flatten()?))
        })
    }

    /// The first planned delivery that is neither finished, deleted, nor in the due index. `None`:
    /// all are accounted for.
    pub(crate) fn unaccounted(&self, task: TaskId, records: &Records) -> Option<WebhookId> {
        let ledger = self.messages.get(&task)?;
        let mut planned = ledger.plan.iter().map(|endpoint| ledger.id.delivery(*endpoint));
        planned.find(|id| !self.is_accounted(id, records))
    }

    fn is_accounted(&self, id: &WebhookId, records: &Records) -> bool {
        if let Some((webhook, _)) = records.stored(id) {
            // The version that wrote it processes it.
            let is_unreadable = records.is_unreadable(ListPosition::of(id));
            return is_unreadable || webhook.status.is_finished() || webhook.due_at.is_some();
        }
        self.delivery(id).is_some_and(|known| known.begun || known.marked)
    }
}
