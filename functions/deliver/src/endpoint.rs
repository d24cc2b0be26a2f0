//! The endpoint of a delivery: its settings, and what a request to it needs.
//!
//! The document of the application comes from this process's cache, so a change takes effect within
//! `ENDPOINT_CACHE_MS`. Only a consistent read shows that an endpoint is missing or disabled: the
//! cached copy may be older than the endpoint itself.
//!
//! | document, endpoint | action |
//! |---|---|
//! | endpoint enabled | attempt |
//! | endpoint missing, or its application deleted | fail with `endpoint_deleted` |
//! | endpoint disabled | fail with `endpoint_disabled` |
//! | no document at all | defer: a message names the application, so the store lost it |
//! | a secret or a header does not open | defer: an operator can mend it |
//!
//! A delivery is deferred by `unusable_endpoint` each time. Once that has used up the budget of its
//! deferrals, it fails with `undeliverable`. It is never sent with fewer secrets or headers.

use std::{sync::Arc, time::Duration};

use shared::{
    applications::{
        application::Application,
        endpoint::Endpoint,
        matching::match_message,
        secrets::{live, signers},
    },
    model::Webhook,
    planted::{self, Bug},
    sealing::NoMasterKey,
    sender::destination_key,
    signing::Secret,
    store::StoreError,
    transition::{EndpointTerms, GiveUp, Rules, with_endpoint_revision},
};

use crate::{host_limiter::Place, turn::HeldTurn, worker::Deliver};

/// What the steps on one webhook go by.
#[derive(Clone, Debug)]
pub(crate) struct Work<'a> {
    /// What its message keeps.
    pub(crate) turn: &'a HeldTurn,
    /// The rules. Those of a delivery have its endpoint's retry policy.
    pub(crate) rules: Arc<Rules>,
    /// The endpoint of a delivery.
    pub(crate) endpoint: Option<EndpointInUse>,
}

/// An enabled endpoint, as a document of its application has it.
#[derive(Clone, Debug)]
pub(crate) struct EndpointInUse {
    application: Arc<Application>,
    /// Its place in the document.
    index: usize,
    terms: EndpointTerms,
    /// Scheme, host and port of its URL.
    origin: String,
}

/// What a request to an endpoint needs.
#[derive(Debug)]
pub(crate) struct OpenEndpoint {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    /// All live secrets, newest first. There is at least one.
    pub(crate) secrets: Vec<Secret>,
    /// The endpoint's own deadline of an attempt.
    pub(crate) timeout: Option<Duration>,
}

/// Why a delivery has no endpoint to go to.
#[derive(Debug)]
pub(crate) enum NoEndpoint {
    /// It was deleted, or it is disabled.
    GiveUp(GiveUp),
    /// The store has no document of the application.
    NoDocument,
    /// The store failed.
    Store(StoreError),
}

impl<'a> Work<'a> {
    /// Where the webhook's attempts go.
    pub(crate) fn place<'w>(&'w self, webhook: &'w Webhook) -> Place<'w> {
        let destination = &webhook.destination;
        match &self.endpoint {
            None => Place { destination, origin: destination, application: None },
            Some(endpoint) => Place {
                destination,
                origin: &endpoint.origin,
                application: Some(endpoint.application.id.as_str()),
            },
        }
    }

    /// The record after an attempt, which notes the endpoint's revision.
    pub(crate) fn noted(&self, next: Webhook) -> Webhook {
        match &self.endpoint {
            None => next,
            Some(endpoint) => with_endpoint_revision(next, &endpoint.terms),
        }
    }

    /// The work on a delivery whose endpoint is unknown.
    pub(crate) fn without_endpoint(turn: &'a HeldTurn, rules: &Rules) -> Self {
        Self { turn, rules: Arc::new(rules.clone()), endpoint: None }
    }
}

/// Whether a message like that of the delivery would go to its endpoint now. Only a planted bug
/// asks.
fn is_matched(application: &Application, delivery: &Webhook) -> bool {
    let event_type = delivery.event_type.as_ref().and_then(|text| text.parse().ok());
    let plan = event_type.map(|event_type| match_message(application, &event_type));
    plan.zip(delivery.id.endpoint).is_some_and(|(plan, id)| plan.planned.contains(&id))
}

impl EndpointInUse {
    fn endpoint(&self) -> &Endpoint {
        &self.application.endpoints[self.index]
    }
}

impl Deliver {
    /// What the steps on this webhook go by.
    pub(crate) async fn work<'a>(
        &self,
        webhook: &Webhook,
        turn: &'a HeldTurn,
    ) -> Result<Work<'a>, NoEndpoint> {
        let context = &self.context;
        let (Some(id), Some(endpoint_id)) = (&webhook.application, webhook.id.endpoint) else {
            return Ok(Work { turn, rules: Arc::clone(&context.rules), endpoint: None });
        };
        let in_use = |application: &Arc<Application>| {
            if planted::is(Bug::PlanFromNow) && !is_matched(application, webhook) {
                return Err(NoEndpoint::GiveUp(GiveUp::EndpointDeleted));
            }
            if application.is_deleted() {
                return Err(NoEndpoint::GiveUp(GiveUp::EndpointDeleted));
            }
            let is_it = |endpoint: &Endpoint| endpoint.id == endpoint_id;
            match application.endpoints.iter().position(is_it) {
                None => Err(NoEndpoint::GiveUp(GiveUp::EndpointDeleted)),
                Some(index) if application.endpoints[index].is_enabled() => {
                    Ok(self.in_use(application, index))
                }
                Some(_) => Err(NoEndpoint::GiveUp(GiveUp::EndpointDisabled)),
            }
        };
        let cached = context.application(id).await.map_err(NoEndpoint::Store)?;
        let endpoint = match cached.map(|cached| in_use(&cached.application)) {
            Some(Ok(endpoint)) => endpoint,
            Some(Err(gone)) if planted::is(Bug::GoneByCache) => return Err(gone),
            Some(Err(_)) => {
                let current = context.read_application(id).await.map_err(NoEndpoint::Store)?;
                in_use(&current.ok_or(NoEndpoint::NoDocument)?.application)?
            }
            // What is not cached was read just now.
            None => return Err(NoEndpoint::NoDocument),
        };
        let rules = Arc::new(context.rules.for_endpoint(&endpoint.terms));
        Ok(Work { turn, rules, endpoint: Some(endpoint) })
    }

    fn in_use(&self, application: &Arc<Application>, index: usize) -> EndpointInUse {
        let endpoint = &application.endpoints[index];
        let retry = self.context.config.endpoint_retry.with(endpoint.retry.as_ref());
        // A URL that is refused has no origin, and its attempt fails.
        let origin = self.context.guard.check_url(&endpoint.url);
        EndpointInUse {
            application: Arc::clone(application),
            index,
            terms: EndpointTerms { revision: endpoint.revision, retry },
            origin: origin.map(|url| destination_key(&url)).unwrap_or_default(),
        }
    }

    /// What a request to the endpoint needs. An error says what an operator must do.
    pub(crate) fn open_endpoint(&self, in_use: &EndpointInUse) -> Result<OpenEndpoint, String> {
        let keys = self.context.config.master_keys.as_ref();
        let keys = keys.ok_or_else(|| NoMasterKey.to_string())?;
        let (application, endpoint) = (&in_use.application.id, in_use.endpoint());
        let now = self.context.clock.now();
        let secrets = signers(&endpoint.secrets, application, endpoint.id, keys, now);
        let secrets = secrets.map_err(|error| format!("one of its secrets is {error}"))?;
        if live(&endpoint.secrets, now).next().is_none() {
            return Err("it has no secret that is live; create the endpoint anew".to_owned());
        }
        let headers = endpoint.open_headers(application, keys);
        let headers = headers.map_err(|error| format!("one of its headers is {error}"))?;
        let timeout = endpoint.timeout_ms.map(Duration::from_millis);
        Ok(OpenEndpoint { url: endpoint.url.clone(), headers, secrets, timeout })
    }
}
