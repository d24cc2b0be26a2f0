//! Who may do what: one pure function, [`Access::may`].
//!
//! The API makes an [`Access`] of each caller that it has authenticated:
//!
//! | authenticated by | application key | access |
//! |---|---|---|
//! | a key of `API_KEYS` | – | [`Access::Full`] |
//! | the platform (`API_AUTH=iam`) | none | [`Access::Full`] |
//! | nothing but this machine (`API_AUTH=local`) | none | [`Access::Full`] |
//! | the platform, or this machine | valid | narrowed: [`Access::Key`] |
//! | the application key alone | valid | [`Access::Key`] |
//!
//! An invalid application key is refused, even if the platform has authenticated the caller.
//! Otherwise a typing error would widen its caller's access to everything.
//!
//! # Guarantees
//!
//! - A key never gets more than its scopes, and never reaches another application.
//! - Another application is [`Denied::NotFound`] for every action, whether or not it exists. So a
//!   key cannot find out which other applications exist.
//! - An action that names no application is for full access only.
//!
//! The decision knows nothing of the store. That an endpoint, message or delivery belongs to the
//! application is the store's part: each is looked up below its application.

use super::keys::{Scope, Scopes};

/// What a caller wants to do: the routes below `/applications`, and all others as
/// [`Action::Operate`]. The routes that need no key ask for no access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `PUT /applications/{app}`.
    PutApplication,
    /// `GET /applications`.
    ListApplications,
    /// `GET /applications/{app}`.
    GetApplication,
    /// `DELETE /applications/{app}`.
    DeleteApplication,
    /// `GET …/changes`. It names the callers with full access, so it is for them.
    ListChanges,
    /// `POST …/endpoints`.
    CreateEndpoint,
    /// `GET …/endpoints`.
    ListEndpoints,
    /// `GET …/endpoints/{ep}`.
    GetEndpoint,
    /// `PATCH …/endpoints/{ep}`.
    ChangeEndpoint,
    /// `DELETE …/endpoints/{ep}`.
    DeleteEndpoint,
    /// `POST …/endpoints/{ep}/enable`.
    EnableEndpoint,
    /// `POST …/endpoints/{ep}/disable`.
    DisableEndpoint,
    /// `GET …/endpoints/{ep}/secret`.
    GetSecret,
    /// `POST …/endpoints/{ep}/secret/rotate`.
    RotateSecret,
    /// `POST …/endpoints/{ep}/test`.
    TestEndpoint,
    /// `POST …/endpoints/{ep}/recover`.
    RecoverEndpoint,
    /// `POST …/messages`.
    Publish,
    /// `POST …/messages/batch`.
    PublishBatch,
    /// `GET …/messages`.
    ListMessages,
    /// `GET …/messages/{id}`.
    GetMessage,
    /// `DELETE …/messages/{id}`.
    DeleteMessage,
    /// `DELETE …/messages/{id}/payload`.
    DeletePayload,
    /// `POST …/messages/{id}/resend`.
    ResendMessage,
    /// `GET …/deliveries`.
    ListDeliveries,
    /// `GET …/deliveries/{id}`.
    GetDelivery,
    /// `GET …/deliveries/{id}/explain`.
    ExplainDelivery,
    /// `POST …/deliveries/{id}/resend`.
    ResendDelivery,
    /// `POST …/keys`.
    CreateKey,
    /// `GET …/keys`.
    ListKeys,
    /// `DELETE …/keys/{key}`.
    DeleteKey,
    /// `GET …/jobs`.
    ListJobs,
    /// `GET …/jobs/{job}`.
    GetJob,
    /// `DELETE …/jobs/{job}`.
    CancelJob,
    /// `POST …/preview`.
    Preview,
    /// `POST …/portal`.
    CreatePortal,
    /// Every other route: direct webhooks, dead letters, destinations, metrics and the overview.
    /// They belong to no application.
    Operate,
}

/// What an action requires of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Full access. No application key has it.
    Full,
    /// Full access, or a key of the application with this scope.
    Scope(Scope),
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 36] = [
        Self::PutApplication,
        Self::ListApplications,
        Self::GetApplication,
        Self::DeleteApplication,
        Self::ListChanges,
        Self::CreateEndpoint,
        Self::ListEndpoints,
        Self::GetEndpoint,
        Self::ChangeEndpoint,
        Self::DeleteEndpoint,
        Self::EnableEndpoint,
        Self::DisableEndpoint,
        Self::GetSecret,
        Self::RotateSecret,
        Self::TestEndpoint,
        Self::RecoverEndpoint,
        Self::Publish,
        Self::PublishBatch,
        Self::ListMessages,
        Self::GetMessage,
        Self::DeleteMessage,
        Self::DeletePayload,
        Self::ResendMessage,
        Self::ListDeliveries,
        Self::GetDelivery,
        Self::ExplainDelivery,
        Self::ResendDelivery,
        Self::CreateKey,
        Self::ListKeys,
        Self::DeleteKey,
        Self::ListJobs,
        Self::GetJob,
        Self::CancelJob,
        Self::Preview,
        Self::CreatePortal,
        Self::Operate,
    ];

    /// What it requires.
    pub const fn requires(self) -> Requirement {
        match self {
            Self::PutApplication
            | Self::ListApplications
            | Self::DeleteApplication
            | Self::ListChanges
            | Self::CreateKey
            | Self::ListKeys
            | Self::DeleteKey
            | Self::CreatePortal
            | Self::Operate => Requirement::Full,
            Self::Publish | Self::PublishBatch => Requirement::Scope(Scope::Publish),
            Self::GetApplication
            | Self::ListEndpoints
            | Self::GetEndpoint
            | Self::ListMessages
            | Self::GetMessage
            | Self::ListDeliveries
            | Self::GetDelivery
            | Self::ExplainDelivery
            | Self::ListJobs
            | Self::GetJob => Requirement::Scope(Scope::Read),
            Self::CreateEndpoint
            | Self::ChangeEndpoint
            | Self::DeleteEndpoint
            | Self::EnableEndpoint
            | Self::DisableEndpoint
            | Self::GetSecret
            | Self::RotateSecret
            | Self::TestEndpoint
            | Self::RecoverEndpoint
            | Self::DeleteMessage
            | Self::DeletePayload
            | Self::ResendMessage
            | Self::ResendDelivery
            | Self::CancelJob
            | Self::Preview => Requirement::Scope(Scope::Manage),
        }
    }
}

/// What an authenticated caller may do. `A` identifies an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access<A> {
    /// Everything, in every application.
    Full,
    /// What the scopes permit, in one application.
    Key {
        /// The application whose document has the key.
        application: A,
        /// The scopes of the key.
        scopes: Scopes,
    },
}

/// Why a caller may not do it. The texts are for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The application is another one than the key's: 404. The answer must be the same as for an
    /// application that does not exist.
    #[error("There is no such application.")]
    NotFound,
    /// The key lacks a scope: 403.
    #[error("The application key lacks the scope '{0}'. Use a key that has it.")]
    ScopeMissing(Scope),
    /// No application key may do it: 403.
    #[error("An application key cannot call this route. Use a key of API_KEYS.")]
    FullOnly,
}

impl<A: PartialEq> Access<A> {
    /// The access of a caller that the platform or this machine admits, after it also presented a
    /// valid application key. It never widens: a key that would reach another application than the
    /// present one leaves the access as it is.
    #[must_use]
    pub fn narrowed(self, application: A, scopes: Scopes) -> Self {
        match self {
            Self::Full => Self::Key { application, scopes },
            Self::Key { .. } => self,
        }
    }

    /// Whether the caller may do this with this application. `None`: the action is for no
    /// application in particular.
    ///
    /// The order of the checks matters: another application is not found even where the action
    /// itself would be forbidden.
    pub fn may(&self, action: Action, application: Option<&A>) -> Result<(), Denied> {
        let Self::Key { application: own, scopes } = self else { return Ok(()) };
        match (application, action.requires()) {
            (Some(application), _) if application != own => Err(Denied::NotFound),
            (None, _) | (_, Requirement::Full) => Err(Denied::FullOnly),
            (_, Requirement::Scope(scope)) if !scopes.include(scope) => {
                Err(Denied::ScopeMissing(scope))
            }
            (Some(_), Requirement::Scope(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
