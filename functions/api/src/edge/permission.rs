//! Permission: a handler gets its application only from [`InApplication`], which names the action
//! and asks [`Access::may`](shared::applications::access::Access::may). The boundary asks for all
//! routes that belong to no application ([`ask_outside`]).

use std::{str::FromStr, sync::Arc};

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use shared::applications::{
    access::Action,
    application::Application,
    id::{ApplicationId, EndpointId},
    keys::ApplicationKeyId,
};

use crate::{
    app::{App, Call},
    edge::auth::{self, Caller},
    problem::{Problem, ProblemKind},
};

/// The list of applications. It belongs to none.
const LIST: &str = "/applications";

/// The parameter of the path that names the application.
const PARAMETER: &str = "application_id";

/// Refuses an application key on the routes that belong to no application, except on those that
/// need no key.
pub(crate) fn ask_outside(caller: &Caller, path: &str) -> Result<(), Problem> {
    let is_inside = path.strip_prefix(LIST).is_some_and(|rest| rest.starts_with('/'));
    if is_inside || auth::is_public(path) {
        return Ok(());
    }
    let action = if path == LIST { Action::ListApplications } else { Action::Operate };
    caller.may(action, None)
}

/// The application in the path, if the caller may do `Action::ALL[ACTION]` with it. A handler names
/// the action:
///
/// ```ignore
/// InApplication(application): InApplication<{ Action::GetApplication as usize }>,
/// ```
///
/// Another application than the caller's is a 404 with the bytes of one that does not exist. A
/// missing scope is a 403. Whether the application exists is for [`Permitted`] to find out.
#[derive(Debug)]
pub(crate) struct InApplication<const ACTION: usize>(pub(crate) Permitted);

/// An application that the caller may do something with.
#[derive(Clone, Debug)]
pub(crate) struct Permitted {
    id: ApplicationId,
}

// `Action::ALL` has the order of the declaration.
const _: () = {
    let mut index = 0;
    while index < Action::ALL.len() {
        assert!(Action::ALL[index] as usize == index);
        index += 1;
    }
};

impl<const ACTION: usize> FromRequestParts<Arc<App>> for InApplication<ACTION> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let call = Call::of(parts)?;
        let action = Action::ALL[ACTION];
        match named::<ApplicationId>(parts, PARAMETER).await {
            Some(Ok(id)) => {
                call.caller.may(action, Some(&id))?;
                Ok(Self(Permitted { id }))
            }
            // It is the caller's to choose.
            Some(Err(invalid)) if action == Action::PutApplication => {
                call.caller.may(action, None)?;
                let kind = ProblemKind::InvalidFields;
                Err(Problem::about(kind, PARAMETER, invalid.to_string()))
            }
            _ => Err(Problem::no_such_application()),
        }
    }
}

/// The endpoint ID in the path. `None`: it is malformed, so there is no such endpoint. The handler
/// answers that after it has found the application.
#[derive(Debug)]
pub(crate) struct EndpointInPath(pub(crate) Option<EndpointId>);

impl<S: Send + Sync> FromRequestParts<S> for EndpointInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(named(parts, "endpoint_id").await.and_then(Result::ok)))
    }
}

/// The ID of an application key in the path. `None`: it is malformed.
#[derive(Debug)]
pub(crate) struct KeyInPath(pub(crate) Option<ApplicationKeyId>);

impl<S: Send + Sync> FromRequestParts<S> for KeyInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(named(parts, "key_id").await.and_then(Result::ok)))
    }
}

/// The parameter of the path with this name.
async fn named<T: FromStr>(parts: &mut Parts, name: &str) -> Option<Result<T, T::Err>> {
    let parameters = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| value.parse())
}

impl Permitted {
    /// Its id.
    pub(crate) const fn id(&self) -> &ApplicationId {
        &self.id
    }

    /// Its document, at most `ENDPOINT_CACHE_MS` old. An absent or deleted application is a 404.
    pub(crate) async fn document(&self, app: &App) -> Result<Arc<Application>, Problem> {
        self.existing(app.context.application(&self.id).await?.map(|found| found.application))
    }

    /// Its document as it is stored now. An absent or deleted application is a 404.
    pub(crate) async fn current(&self, app: &App) -> Result<Arc<Application>, Problem> {
        self.existing(app.context.read_application(&self.id).await?.map(|found| found.application))
    }

    /// The document that was found, unless the application is absent or deleted.
    pub(crate) fn existing(
        &self,
        found: Option<Arc<Application>>,
    ) -> Result<Arc<Application>, Problem> {
        let existing = found.filter(|found| !found.is_deleted() && found.id == self.id);
        existing.ok_or_else(Problem::no_such_application)
    }
}
