//! Changes of an application's document: read, compute, write if it is still the same revision.
//!
//! Each write reseals every sealed value of the document under the first key of `MASTER_KEY`, which
//! ends a rotation of that key.

use std::sync::Arc;

use http::StatusCode;
use shared::{
    applications::{
        application::Application,
        change::{Actor, ApplicationInput, ChangeError},
        endpoint::DisabledWhy,
        id::ApplicationId,
    },
    clock::Timestamp,
    context::Context,
    sealing::{Binding, MasterKeys},
    store::WriteApplicationError,
};

use crate::{
    app::{App, Call},
    edge::{auth::Caller, permission::Permitted},
    problem::{FieldErrors, Problem, ProblemKind},
};

/// How often a change is computed again because another writer was first.
const MAX_ROUNDS: u32 = 8;

/// Why a change was not made.
#[derive(Debug)]
pub(crate) enum EditError {
    /// The document does not admit it.
    Change(ChangeError),
    /// The route refuses it.
    Problem(Problem),
}

impl From<ChangeError> for EditError {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

impl From<Problem> for EditError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Who makes a change, and when.
#[derive(Debug)]
pub(crate) struct Editor {
    by: String,
    why: DisabledWhy,
    pub(crate) now: Timestamp,
}

impl Editor {
    /// The caller, now.
    pub(crate) fn of(app: &App, call: &Call) -> Self {
        let why = match call.caller {
            Caller::Key { .. } => DisabledWhy::Customer,
            Caller::Full(_) | Caller::Anonymous => DisabledWhy::Operator,
        };
        Self { by: call.caller.name(), why, now: app.now() }
    }

    /// The same for a change.
    pub(crate) fn actor(&self) -> Actor<'_> {
        Actor { by: &self.by, why: self.why, now: self.now }
    }
}

/// Makes a change of an application. Returns the document after it, also if nothing changes.
///
/// `change` runs again after each conflict, on the document that the other writer left.
pub(crate) async fn edit(
    app: &App,
    application: &Permitted,
    mut change: impl FnMut(&Application) -> Result<Application, EditError>,
) -> Result<Arc<Application>, Problem> {
    let mut seen = application.current(app).await?;
    for _ in 0..MAX_ROUNDS {
        let next = match change(&seen) {
            Ok(next) => next,
            Err(EditError::Change(ChangeError::Unchanged)) => return Ok(seen),
            Err(EditError::Change(error)) => return Err(error.into()),
            Err(EditError::Problem(problem)) => return Err(problem),
        };
        match write(&app.context, Some(seen.revision), next).await? {
            Written::Done(written) => return Ok(written),
            Written::Changed(stored) => seen = application.existing(stored.map(Arc::new))?,
        }
    }
    Err(contended())
}

/// Creates an application, or replaces its settings. The status is 201 or 200.
pub(crate) async fn put(
    app: &App,
    id: &ApplicationId,
    input: &ApplicationInput,
    editor: &Editor,
) -> Result<(StatusCode, Arc<Application>), Problem> {
    let found = app.context.read_application(id).await?;
    let mut seen = found.map(|found| found.application);
    for _ in 0..MAX_ROUNDS {
        let (status, next) = match &seen {
            None => {
                let new = Application::new(id.clone(), input.clone(), editor.actor())?;
                (StatusCode::CREATED, new)
            }
            Some(stored) if stored.is_deleted() => return Err(being_deleted()),
            Some(stored) => {
                let next = stored.put(input.clone(), editor.actor())?;
                if has_settings_of(&next, stored) {
                    return Ok((StatusCode::OK, Arc::clone(stored)));
                }
                (StatusCode::OK, next)
            }
        };
        let before = seen.as_ref().map(|stored| stored.revision);
        match write(&app.context, before, next).await? {
            Written::Done(written) => return Ok((status, written)),
            Written::Changed(stored) => seen = stored.map(Arc::new),
        }
    }
    Err(contended())
}

fn has_settings_of(one: &Application, other: &Application) -> bool {
    let settings = |application: &Application| {
        (application.name.clone(), application.keep_unmatched, application.metadata.clone())
    };
    settings(one) == settings(other)
}

/// What became of a write.
enum Written {
    Done(Arc<Application>),
    /// Another writer was first. This is what is stored.
    Changed(Option<Application>),
}

async fn write(
    context: &Context,
    before: Option<u64>,
    mut next: Application,
) -> Result<Written, Problem> {
    if let Some(keys) = &context.config.master_keys {
        reseal(&mut next, keys, context);
    }
    match context.store.write_application(before, &next).await {
        Ok(()) => Ok(Written::Done(context.applications.written(&*context.clock, next))),
        Err(WriteApplicationError::Changed(stored)) => {
            Ok(Written::Changed(stored.map(|stored| *stored)))
        }
        Err(WriteApplicationError::Store(error)) => Err(error.into()),
    }
}

/// Seals every value under the first master key. A value that does not open stays as it is, because
/// its key may come back.
fn reseal(application: &mut Application, keys: &MasterKeys, context: &Context) {
    let random = &*context.random;
    for endpoint in &mut application.endpoints {
        let (id, endpoint_id) = (&application.id, endpoint.id);
        let binding = Binding::headers(id, endpoint_id);
        for header in &mut endpoint.headers {
            if let Ok(sealed) = keys.reseal(&header.sealed, &binding, random) {
                header.sealed = sealed;
            }
        }
        for secret in &mut endpoint.secrets {
            if let Ok(resealed) = secret.reseal(id, endpoint_id, keys, random) {
                *secret = resealed;
            }
        }
    }
}

/// The master keys, or a 503 that names the setting.
pub(crate) fn master_keys(context: &Context) -> Result<&MasterKeys, Problem> {
    context.config.master_keys.as_ref().ok_or_else(Problem::no_master_key)
}

fn contended() -> Problem {
    Problem::new(
        ProblemKind::Unavailable,
        "Other requests are changing this application. Try again shortly.",
    )
}

fn being_deleted() -> Problem {
    Problem::new(
        ProblemKind::Conflict,
        "The application is being deleted. Use another ID, or try again once it is gone.",
    )
}

/// The ID of a new object is taken. Only equal random bits can cause that.
#[derive(Debug, thiserror::Error)]
#[error("the ID of a new object is taken")]
struct IdTaken;

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Fields(errors) => {
                let mut field_errors = FieldErrors::default();
                field_errors.add_all(errors);
                field_errors.check().err().unwrap_or_else(Self::internal)
            }
            ChangeError::Deleted => Self::no_such_application(),
            ChangeError::NoSuchEndpoint => Self::no_such_endpoint(),
            ChangeError::NoSuchKey => Self::no_such_key(),
            ChangeError::TooManyEndpoints
            | ChangeError::TooManyKeys
            | ChangeError::TooLarge { .. } => Self::application_full(&error.to_string()),
            ChangeError::IdTaken | ChangeError::Unchanged => Self::internal().because(IdTaken),
        }
    }
}
