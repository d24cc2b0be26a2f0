//! Webhooks of both kinds as readers see them: direct ones, and deliveries with or without a
//! record. A delivery has the URL and the retry policy of its endpoint.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::value::RawValue;
use shared::{
    applications::{
        application::Application,
        endpoint::Endpoint,
        id::{ApplicationId, EndpointId},
    },
    config::Config,
    id::{MessageId, WebhookId},
    model::Webhook,
    store::{DeleteError, StoreError},
    transition::{EndpointTerms, Rules},
};

use crate::{app::App, dispatch, problem::Problem};

/// How often a delete starts again because the delivery got its first record in the meantime.
const MAX_DELETE_TRIES: u32 = 8;

/// An endpoint, as its application's document has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EndpointState {
    /// It receives deliveries.
    Enabled(Box<Endpoint>),
    /// It receives nothing.
    Disabled(Box<Endpoint>),
    /// The application does not have it, or no longer.
    Deleted,
    /// There is no such application, or it was deleted.
    NoApplication,
}

/// The state of an endpoint. The document is at most `ENDPOINT_CACHE_MS` old. That the endpoint
/// receives nothing is concluded only from a recent copy.
pub(crate) async fn endpoint_state(
    app: &App,
    application: &ApplicationId,
    endpoint: EndpointId,
) -> Result<EndpointState, StoreError> {
    let context = &app.context;
    let Some(found) = context.application(application).await? else {
        return Ok(EndpointState::NoApplication);
    };
    let state = EndpointState::of(&found.application, endpoint);
    if matches!(state, EndpointState::Enabled(_)) || found.is_recent(&*context.clock) {
        return Ok(state);
    }
    let newer = context.read_application(application).await?;
    Ok(newer.map_or(EndpointState::NoApplication, |newer| {
        EndpointState::of(&newer.application, endpoint)
    }))
}

impl EndpointState {
    fn of(application: &Application, id: EndpointId) -> Self {
        match application.endpoint(id) {
            _ if application.is_deleted() => Self::NoApplication,
            None => Self::Deleted,
            Some(endpoint) if endpoint.is_enabled() => Self::Enabled(Box::new(endpoint.clone())),
            Some(endpoint) => Self::Disabled(Box::new(endpoint.clone())),
        }
    }

    /// The endpoint, if there is one.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Enabled(endpoint) | Self::Disabled(endpoint) => Some(endpoint),
            Self::Deleted | Self::NoApplication => None,
        }
    }

    /// Why nothing is sent to it: the end of a sentence. `None`: it receives deliveries.
    pub(crate) const fn obstacle(&self) -> Option<&'static str> {
        match self {
            Self::Enabled(_) => None,
            Self::Disabled(_) => Some("is disabled"),
            Self::Deleted => Some("was deleted"),
            Self::NoApplication => Some("has no application any more"),
        }
    }
}

/// The state of a delivery's endpoint. `None`: a direct webhook.
pub(crate) async fn endpoint_of(
    app: &App,
    webhook: &Webhook,
) -> Result<Option<EndpointState>, StoreError> {
    match (&webhook.application, webhook.id.endpoint) {
        (Some(application), Some(endpoint)) => {
            endpoint_state(app, application, endpoint).await.map(Some)
        }
        _ => Ok(None),
    }
}

/// The rules of a delivery to this endpoint. Without the endpoint, those of one without settings.
pub(crate) fn rules_of(rules: &Rules, config: &Config, endpoint: Option<&Endpoint>) -> Rules {
    let overrides = endpoint.and_then(|endpoint| endpoint.retry.as_ref());
    let revision = endpoint.map_or(0, |endpoint| endpoint.revision);
    rules.for_endpoint(&EndpointTerms { revision, retry: config.endpoint_retry.with(overrides) })
}

/// The webhook with this ID.
pub(crate) async fn find(app: &App, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
    let Some(endpoint) = id.endpoint else { return app.context.store.get(id).await };
    let stored = app.context.store.delivery(id).await?;
    Ok(stored.and_then(|stored| stored.visible(endpoint, app.now())))
}

/// A webhook with what readers see besides its record.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) webhook: Webhook,
    pub(crate) payload: Box<RawValue>,
    /// The URL of a direct webhook. Empty for an unreadable queue message.
    url: String,
    /// The endpoint of a delivery.
    pub(crate) endpoint: Option<EndpointState>,
    /// Whether the message of a delivery is being deleted.
    pub(crate) is_deleting: bool,
}

/// The webhook with this ID, its payload and its URL.
pub(crate) async fn open(app: &App, id: &WebhookId) -> Result<Option<Opened>, StoreError> {
    let store = &app.context.store;
    let Some(message) = id.message_id() else {
        let opened = store.open(id).await?;
        return Ok(opened.map(|(webhook, content)| Opened {
            webhook,
            payload: content.payload,
            url: content.url,
            endpoint: None,
            is_deleting: false,
        }));
    };
    let Some(webhook) = find(app, id).await? else { return Ok(None) };
    let Some((message, content)) = store.open_message(&message).await? else { return Ok(None) };
    let endpoint = endpoint_of(app, &webhook).await?;
    let (payload, url) = (content.payload, content.url);
    Ok(Some(Opened { webhook, payload, url, endpoint, is_deleting: message.deleting }))
}

impl Opened {
    /// Where it is sent. `None`: to an endpoint that does not exist any more.
    pub(crate) fn url(&self) -> Option<&str> {
        match &self.endpoint {
            None => Some(&self.url),
            Some(state) => state.endpoint().map(|endpoint| endpoint.url.as_str()),
        }
    }

    /// Whether it is an unreadable queue message, which has no URL.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.endpoint.is_none() && self.url.is_empty()
    }

    /// The rules that apply to it.
    pub(crate) fn rules<'a>(&self, app: &'a App) -> Cow<'a, Rules> {
        rules_for(app, self.endpoint.as_ref())
    }
}

/// The rules of a webhook with this endpoint, if it has one.
pub(crate) fn rules_for<'a>(app: &'a App, endpoint: Option<&EndpointState>) -> Cow<'a, Rules> {
    let context = &app.context;
    match endpoint {
        None => Cow::Borrowed(&*context.rules),
        Some(state) => Cow::Owned(rules_of(&context.rules, &context.config, state.endpoint())),
    }
}

/// The documents of the applications of a list's deliveries.
#[derive(Debug)]
pub(crate) struct Documents(HashMap<ApplicationId, Arc<Application>>);

impl Documents {
    /// Reads the documents, each at most `ENDPOINT_CACHE_MS` old. An unreadable one is left out:
    /// it must not hide the list.
    pub(crate) async fn of<'a>(
        app: &App,
        webhooks: impl Iterator<Item = &'a Webhook>,
    ) -> Result<Self, Problem> {
        let ids: BTreeSet<&ApplicationId> =
            webhooks.filter_map(|webhook| webhook.application.as_ref()).collect();
        let reads = ids.into_iter().map(async |id| match app.context.application(id).await {
            Ok(found) => Ok(found.map(|found| (id.clone(), found.application))),
            Err(StoreError::Unreadable { .. }) => Ok(None),
            Err(error) => Err(error),
        });
        let found = dispatch::concurrently(reads.collect()).await;
        let found = found.into_iter().collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Self(found.into_iter().flatten().collect()))
    }

    fn endpoint(&self, webhook: &Webhook) -> Option<&Endpoint> {
        self.0.get(webhook.application.as_ref()?)?.endpoint(webhook.id.endpoint?)
    }

    /// Where the webhook is sent. `url` is that of a direct webhook.
    pub(crate) fn url<'a>(&'a self, webhook: &Webhook, url: &'a str) -> Option<&'a str> {
        if webhook.id.is_delivery() {
            return self.endpoint(webhook).map(|endpoint| endpoint.url.as_str());
        }
        Some(url)
    }

    /// The rules that apply to the webhook.
    pub(crate) fn rules<'a>(&self, app: &'a App, webhook: &Webhook) -> Cow<'a, Rules> {
        let context = &app.context;
        if webhook.id.is_delivery() {
            let endpoint = self.endpoint(webhook);
            return Cow::Owned(rules_of(&context.rules, &context.config, endpoint));
        }
        Cow::Borrowed(&*context.rules)
    }

    /// Whether something is sent to the delivery's endpoint. True for a direct webhook.
    pub(crate) fn is_receiving(&self, webhook: &Webhook) -> bool {
        !webhook.id.is_delivery() || self.endpoint(webhook).is_some_and(Endpoint::is_enabled)
    }
}

/// Deletes the webhook. Of a delivery, a marker stays, whether or not it had a record.
pub(crate) async fn delete(app: &App, id: &WebhookId) -> Result<(), DeleteError> {
    let store = &app.context.store;
    if !id.is_delivery() {
        return store.delete(id).await;
    }
    for _ in 0..MAX_DELETE_TRIES {
        let Some(webhook) = find(app, id).await? else { return Err(DeleteError::Missing) };
        if webhook.revision > 0 {
            return store.delete(id).await;
        }
        match store.delete_unchanged(&webhook).await {
            // A worker has claimed it.
            Err(DeleteError::Changed) => {}
            done => return done,
        }
    }
    Err(StoreError::Unavailable("the delivery changed again and again".into()).into())
}

/// The problem of a webhook that does not exist. Operators who look for a message's ID learn where
/// the message is.
pub(crate) async fn missing(app: &App, id: &WebhookId) -> Problem {
    let WebhookId { reference, task, endpoint: None } = id else {
        return Problem::no_such_webhook();
    };
    let id = MessageId { reference: reference.clone(), task: *task };
    match app.context.store.message(&id).await {
        Ok(Some(message)) => Problem::is_message(&message.application, &id),
        Ok(None) | Err(StoreError::Unreadable { .. }) => Problem::no_such_webhook(),
        Err(error) => error.into(),
    }
}
