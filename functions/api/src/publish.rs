//! Publishing: matches a message against its application, stores it with its plan, and sends looks.
//!
//! The accepting write is the fan-out: one record, the message, holds payload and plan. From then
//! on every planned delivery exists. The steps after it only make the deliveries fast:
//!
//! 1. A look for each delivery is sent, with the record that the delivery has by definition. A call
//!    that plans more than [`MAX_DELIVERY_LOOKS`] deliveries sends one look for each message
//!    instead, and `deliver` sends the others.
//! 2. If the queue refuses a look, the message enters the due index with the current time, and the
//!    next sweep sends a look for it.
//! 3. If that write fails too, or if this process dies before it, the audit finds the message.
//!
//! A message that no endpoint matches is not stored, unless its application keeps such messages.

use std::{collections::BTreeSet, error::Error, sync::Arc, time::Duration};

use shared::{
    applications::{
        application::Application,
        event_type::EventType,
        id::{ApplicationId, EndpointId},
        matching::{Plan, match_message},
        message::PublishedMessage,
        standing::Standing,
    },
    apply::apply_to_standing,
    id::TaskId,
    message::{Look, Message},
    model::Content,
    planted::{self, Bug},
    queue::{Lane, MAX_BATCH, Outgoing},
    store::{CreateMessageError, MessageIdState, StoreError, Tombstone},
    transition::{NewMessage, Rules},
};

use crate::{
    accept::{IdTaken, Submitted, unknown_outcome},
    accept_batch::Items,
    app::{App, Call},
    deliveries::{EndpointState, endpoint_state},
    dispatch,
    idempotency::{self, Key},
    input::publication::Publication,
    problem::{Problem, ProblemKind},
};

/// The most looks at deliveries that one call sends.
const MAX_DELIVERY_LOOKS: usize = 100;

/// A message with the endpoints that it goes to.
#[derive(Debug)]
pub(crate) struct PlannedMessage {
    application: ApplicationId,
    publication: Publication,
    plan: Plan,
    /// Whether it is stored.
    is_kept: bool,
}

/// A message that was accepted.
#[derive(Debug)]
pub(crate) enum Published {
    /// It is stored, or was until it was deleted.
    Kept {
        /// Its record as it was created or found.
        message: Box<PublishedMessage>,
        /// Whether this call has created it, or an earlier try of the same request.
        origin: Origin,
    },
    /// No endpoint matches it, so it is not stored.
    Unmatched {
        /// The application.
        application: ApplicationId,
        /// What was submitted.
        publication: Publication,
    },
}

/// Which try of a request has stored a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This one.
    New,
    /// An earlier one. Its looks may be lost.
    Earlier,
    /// An earlier one, and the message was deleted since.
    Deleted,
}

/// Matches messages against their application. Invalid items stay as they are.
///
/// Returns the key to reserve, too. A call that stores nothing reserves none, so that a repeat is
/// matched anew. But if the key is reserved, an earlier try may have stored a message, whatever
/// matches now. So each message is kept then.
pub(crate) async fn plan(
    app: &App,
    application: &ApplicationId,
    key: Option<Key>,
    publications: Items<Publication>,
) -> Result<(Option<Key>, Items<PlannedMessage>), Problem> {
    let valid = publications.iter().filter_map(|publication| publication.as_ref().ok());
    let types: Vec<&EventType> = valid.map(|publication| &publication.event_type).collect();
    let matched = match_all(app, application, &types).await?;
    let is_absent = matched.is_none();
    let (keep_unmatched, plans) = matched.map_or_else(
        || (false, vec![Plan::default(); types.len()]),
        |(application, plans)| (application.keep_unmatched, plans),
    );
    let mut plans = plans.into_iter();
    let mut planned: Items<PlannedMessage> = publications
        .into_iter()
        .map(|publication| {
            let (publication, plan) = (publication?, plans.next().unwrap_or_default());
            let is_kept = keep_unmatched || !plan.is_empty();
            Ok(PlannedMessage { application: application.clone(), publication, plan, is_kept })
        })
        .collect();
    let is_each_kept = planned.iter().flatten().all(|message| message.is_kept);
    if is_each_kept && !is_absent {
        return Ok((key, planned));
    }
    let was_tried = match &key {
        Some(key) => idempotency::is_reserved(app, key).await?,
        None => false,
    };
    if was_tried {
        planned.iter_mut().flatten().for_each(|message| message.is_kept = true);
        return Ok((key, planned));
    }
    if is_absent {
        return Err(Problem::no_such_application());
    }
    let stores_any = planned.iter().flatten().any(|message| message.is_kept);
    Ok((key.filter(|_| stores_any), planned))
}

/// The application, and the plans of messages with these event types. `None`: it does not exist.
///
/// The document is at most `ENDPOINT_CACHE_MS` old. That an endpoint does not match, or that the
/// application was deleted, is concluded only from a recent copy. So a message that is published
/// after its endpoint was created goes there.
async fn match_all(
    app: &App,
    id: &ApplicationId,
    types: &[&EventType],
) -> Result<Option<(Arc<Application>, Vec<Plan>)>, StoreError> {
    let context = &app.context;
    let plans_of = |application: &Application| -> Vec<Plan> {
        types.iter().map(|event_type| match_message(application, event_type)).collect()
    };
    let Some(mut found) = context.application(id).await? else { return Ok(None) };
    let mut plans = plans_of(&found.application);
    let is_doubtful =
        found.application.is_deleted() || plans.iter().any(|plan| plan.planned.is_empty());
    if is_doubtful && !found.is_recent(&*context.clock) {
        let Some(newer) = context.read_application(id).await? else { return Ok(None) };
        found = newer;
        plans = plans_of(&found.application);
    }
    Ok((!found.application.is_deleted()).then_some((found.application, plans)))
}

/// A message for one endpoint alone, without matching. A retry of a request that has reserved its
/// key goes on, whatever has become of the endpoint.
pub(crate) async fn plan_for(
    app: &App,
    application: &ApplicationId,
    endpoint: EndpointId,
    key: Option<&Key>,
    publication: Publication,
) -> Result<PlannedMessage, Problem> {
    let was_tried = match key {
        Some(key) => idempotency::is_reserved(app, key).await?,
        None => false,
    };
    if !was_tried {
        match endpoint_state(app, application, endpoint).await? {
            EndpointState::Enabled(_) => {}
            EndpointState::Disabled(_) => {
                return Err(Problem::new(
                    ProblemKind::Conflict,
                    "The endpoint is disabled, so nothing is sent to it. Enable it first.",
                ));
            }
            EndpointState::Deleted => return Err(Problem::no_such_endpoint()),
            EndpointState::NoApplication => return Err(Problem::no_such_application()),
        }
        app.test_limiter.take(application, endpoint, app.context.clock.monotonic())?;
    }
    let plan = Plan { planned: vec![endpoint], off: Vec::new() };
    Ok(PlannedMessage { application: application.clone(), publication, plan, is_kept: true })
}

impl PlannedMessage {
    /// The record of the message with this ID.
    fn record(&self, app: &App, call: &Call, task: TaskId) -> Box<PublishedMessage> {
        let Publication { event_type, reference, deliver_at, .. } = &self.publication;
        let new = NewMessage {
            id: self.publication.id(task),
            application: self.application.clone(),
            referenced: reference.is_some(),
            correlation_id: call.correlation_id.as_ref().to_owned(),
            event_type: event_type.clone(),
            trace: call.trace.clone(),
            deliver_at: *deliver_at,
            plan: self.plan.clone(),
        };
        Box::new(app.context.rules.publish(new, task.created_at()))
    }

    fn content(&self) -> Content {
        let payload = self.publication.payload.clone();
        Content { url: String::new(), headers: Vec::new(), payload }
    }

    /// The result for a message that an earlier try of the request has stored with this ID.
    fn earlier(&self, task: TaskId, found: Box<PublishedMessage>) -> Result<Published, Problem> {
        if found.id == self.publication.id(task) && found.application == self.application {
            return Ok(Published::Kept { message: found, origin: Origin::Earlier });
        }
        Err(unknown_outcome().because(IdTaken(task)))
    }

    fn deleted(&self, app: &App, call: &Call, task: TaskId) -> Published {
        Published::Kept { message: self.record(app, call, task), origin: Origin::Deleted }
    }

    fn unmatched(&self) -> Published {
        let (application, publication) = (self.application.clone(), self.publication.clone());
        Published::Unmatched { application, publication }
    }
}

impl Submitted for PlannedMessage {
    type Accepted = Published;

    async fn create(
        &self,
        app: &App,
        call: &Call,
        task: TaskId,
    ) -> Result<Option<Published>, Problem> {
        if !self.is_kept {
            return Ok(Some(self.unmatched()));
        }
        let message = self.record(app, call, task);
        match app.context.store.create_message(&message, &self.content()).await {
            Ok(()) => Ok(Some(Published::Kept { message, origin: Origin::New })),
            Err(CreateMessageError::Conflict(existing)) => self.earlier(task, existing).map(Some),
            Err(CreateMessageError::Tombstone(Tombstone::Deleted)) => {
                Ok(Some(Published::Kept { message, origin: Origin::Deleted }))
            }
            Err(CreateMessageError::Tombstone(Tombstone::Unused)) => Ok(None),
            Err(CreateMessageError::Store(error @ StoreError::Unavailable(_))) => {
                Err(unknown_outcome().because(error))
            }
            Err(CreateMessageError::Store(error)) => Err(error.into()),
        }
    }

    async fn settle(
        &self,
        app: &App,
        call: &Call,
        task: TaskId,
    ) -> Result<Option<Published>, Problem> {
        if !self.is_kept {
            return Ok(Some(self.unmatched()));
        }
        let id = self.publication.id(task);
        match app.context.store.tombstone_message_id(&id).await? {
            MessageIdState::Message(found) => self.earlier(task, found).map(Some),
            MessageIdState::Tombstone(Tombstone::Deleted) => {
                Ok(Some(self.deleted(app, call, task)))
            }
            MessageIdState::Tombstone(Tombstone::Unused) => Ok(None),
        }
    }

    async fn existing(&self, app: &App, call: &Call, task: TaskId) -> Result<Published, Problem> {
        match app.context.store.message(&self.publication.id(task)).await? {
            Some(found) => self.earlier(task, Box::new(found)),
            None => Ok(self.deleted(app, call, task)),
        }
    }

    /// A due message gets no look: the sweep sends one when it is due.
    async fn enqueue(app: &App, accepted: &[&Published]) {
        let mut waiting: Vec<(&PublishedMessage, Origin)> = Vec::new();
        for published in accepted {
            let Published::Kept { message, origin } = published else { continue };
            tracing::debug!(message_id = %message.id, "Published message");
            let needs_looks = !message.is_due() && !message.deleting && !message.plan.is_empty();
            if needs_looks && *origin != Origin::Deleted {
                waiting.push((message, *origin));
            }
        }
        let (owners, looks) = looks_at(&waiting);
        let refused = send(app, &owners, &looks).await;
        let adoptions = refused.into_iter().filter_map(|owner| waiting.get(owner));
        let adoptions = adoptions.map(|(message, origin)| adopt(app, message, *origin));
        dispatch::concurrently(adoptions.collect()).await;
    }
}

/// The looks at these messages and their deliveries, each with the index of its message.
fn looks_at(messages: &[(&PublishedMessage, Origin)]) -> (Vec<usize>, Vec<Outgoing>) {
    let is_new = |origin: Origin| origin == Origin::New;
    let new = messages.iter().filter(|(_, origin)| is_new(*origin));
    let deliveries: usize = new.map(|(message, _)| message.plan.len()).sum();
    let by_message = deliveries > MAX_DELIVERY_LOOKS;
    let (mut owners, mut looks) = (Vec::new(), Vec::new());
    let mut add = |owner: usize, message: &PublishedMessage, body: String| {
        owners.push(owner);
        let group = message.fairness_group().to_owned();
        looks.push(Outgoing { body, delay: Duration::ZERO, group });
    };
    for (owner, (message, origin)) in messages.iter().enumerate() {
        if by_message || !is_new(*origin) {
            // Of a message of an earlier try, nobody knows which deliveries have started.
            add(owner, message, Look::Message(message.id.clone()).to_json());
            continue;
        }
        let planned = message.plan.iter().map(|entry| entry.endpoint);
        for delivery in planned.filter_map(|endpoint| Rules::delivery(message, endpoint)) {
            add(owner, message, Message::with_seen(&delivery).to_json());
        }
    }
    (owners, looks)
}

/// Sends the looks. Returns the owners of those that the queue refused.
async fn send(app: &App, owners: &[usize], looks: &[Outgoing]) -> BTreeSet<usize> {
    let batches = owners.chunks(MAX_BATCH).zip(looks.chunks(MAX_BATCH));
    let sends = batches.map(async |(owners, looks)| {
        let Err(error) = app.context.queue.send(Lane::Webhooks, looks).await else {
            return Vec::new();
        };
        tracing::warn!(
            error = &error as &dyn Error,
            messages = error.failed.len(),
            "Could not send messages to the queue. The sweep will send them."
        );
        error.failed.iter().filter_map(|index| owners.get(*index).copied()).collect()
    });
    dispatch::concurrently(sends.collect()).await.into_iter().flatten().collect()
}

/// Puts a message into the due index, so that the next sweep sends a look for it.
async fn adopt(app: &App, message: &PublishedMessage, origin: Origin) {
    if planted::is(Bug::UnsentNotHeld) {
        return;
    }
    let (now, rules) = (app.now(), &app.context.rules);
    let seen = (origin == Origin::New).then(|| Standing::of_new(message.clone()));
    let adopted = apply_to_standing(&*app.context.store, seen, &message.id, |standing| {
        rules.adopt_message(standing, now, now)
    });
    if let Err(error) = adopted.await {
        tracing::error!(
            error = &error as &dyn Error,
            message_id = %message.id,
            "Could not write the message to the due index after the queue refused a look at it. \
             The audit will find it."
        );
    }
}
