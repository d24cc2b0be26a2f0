//! Permission: a handler gets its application only from [`InApplication`], which names the action
//! and asks [`Access::may`](shared::applications::access::Access::may). The boundary asks for all
//! routes that belong to no application ([`ask_outside`]).

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use shared::applications::{access::Action, application::Application, id::ApplicationId};

use crate::{
    app::{App, Call},
    edge::auth::{self, Caller},
    problem::Problem,
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

    async fn from_request_parts(parts: &mut Parts, state: &Arc<App>) -> Result<Self, Problem> {
        let call = Call::of(parts)?;
        let parameters = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::no_such_application())?;
        let named = parameters.iter().find(|(name, _)| *name == PARAMETER);
        let id: ApplicationId =
            named.and_then(|(_, id)| id.parse().ok()).ok_or_else(Problem::no_such_application)?;
        call.caller.may(Action::ALL[ACTION], Some(&id))?;
        Ok(Self(Permitted { id }))
    }
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

    fn existing(&self, found: Option<Arc<Application>>) -> Result<Arc<Application>, Problem> {
        let existing = found.filter(|found| !found.is_deleted() && found.id == self.id);
        existing.ok_or_else(Problem::no_such_application)
    }
}
