//! Error responses: `application/problem+json` (RFC 9457).
//!
//! An error has two texts. The caller reads the [`Problem`], which never contains the text of an
//! internal error. The log contains its [`Cause`], which `boundary` logs once.

use std::{borrow::Cow, error::Error, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use shared::{
    applications::{access::Denied, endpoint, id::ApplicationId, secrets::SecretUnusable},
    id::MessageId,
    model::{InvalidRecord, truncated},
    sealing::{NoMasterKey, UnsealError},
    store::StoreError,
};

use crate::limits::MAX_FIELD_ERRORS;

/// The longest field name in a response. A longer name is cut.
const MAX_FIELD_NAME_BYTES: usize = 100;

/// When to try again after a 429 or a 503, in seconds.
pub(crate) const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The kind of a problem. It determines the status and the `type`, which programs compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    /// The body is not valid JSON.
    MalformedJson,
    /// The request is malformed in another way.
    BadRequest,
    /// The API key is missing or invalid.
    Unauthorized,
    /// A browser's request from another origin, or an application key without the permission.
    Forbidden,
    /// There is no such route or object.
    NotFound,
    /// The route does not support the method.
    MethodNotAllowed,
    /// The webhook's status does not allow the request.
    Conflict,
    /// The idempotency key was used for a different request.
    KeyReused,
    /// The body or the payload exceeds its limit.
    TooLarge,
    /// The call was made too often.
    TooManyRequests,
    /// The content type is not JSON.
    UnsupportedMediaType,
    /// Fields or parameters are invalid. Each is named.
    InvalidFields,
    /// A bug, or an unreadable record.
    Internal,
    /// The application has as many endpoints or keys, or as large a document, as it may have.
    ApplicationFull,
    /// The store is not available.
    Unavailable,
    /// There are too many concurrent requests, or the store is full. Nothing was done.
    Overloaded,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The deployment does not state who may call the API, or has no master key.
    NotConfigured,
}

impl ProblemKind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedJson => {
                (StatusCode::BAD_REQUEST, "urn:posthaste:malformed-json", "Malformed JSON")
            }
            Self::BadRequest => {
                (StatusCode::BAD_REQUEST, "urn:posthaste:bad-request", "Bad request")
            }
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "urn:posthaste:unauthorized", "Unauthorized")
            }
            Self::Forbidden => (StatusCode::FORBIDDEN, "urn:posthaste:forbidden", "Forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "urn:posthaste:not-found", "Not found"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "urn:posthaste:method-not-allowed",
                "Method not allowed",
            ),
            Self::Conflict => (StatusCode::CONFLICT, "urn:posthaste:conflict", "Conflict"),
            Self::KeyReused => (
                StatusCode::CONFLICT,
                "urn:posthaste:idempotency-key-reused",
                "Idempotency key reused",
            ),
            Self::ApplicationFull => {
                (StatusCode::CONFLICT, "urn:posthaste:application-full", "Application full")
            }
            Self::TooManyRequests => (
                StatusCode::TOO_MANY_REQUESTS,
                "urn:posthaste:too-many-requests",
                "Too many requests",
            ),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "urn:posthaste:too-large", "Too large")
            }
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "urn:posthaste:unsupported-media-type",
                "Unsupported media type",
            ),
            Self::InvalidFields => {
                (StatusCode::UNPROCESSABLE_ENTITY, "urn:posthaste:invalid-fields", "Invalid fields")
            }
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "urn:posthaste:internal", "Internal error")
            }
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "urn:posthaste:unavailable", "Unavailable")
            }
            Self::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "urn:posthaste:overloaded", "Overloaded")
            }
            Self::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "urn:posthaste:request-timeout", "Request timeout")
            }
            Self::NotConfigured => {
                (StatusCode::SERVICE_UNAVAILABLE, "urn:posthaste:not-configured", "Not configured")
            }
        }
    }
}

/// An invalid field or parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FieldError {
    /// Its name in the request: `url`, `headers.X-Foo`, `webhooks[3].url`, or a parameter's name.
    pub(crate) field: String,
    /// The fault and the fix.
    pub(crate) message: Cow<'static, str>,
}

/// Why a request failed, for the operator. It travels with the response to `boundary`, which logs
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Cause(pub(crate) Arc<dyn Error + Send + Sync>);

/// Why a request failed, for its caller.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: ProblemKind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    cause: Option<Cause>,
}

impl Problem {
    /// A problem with a sentence for the caller.
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), cause: None }
    }

    /// A problem with one field or parameter.
    pub(crate) fn about(
        kind: ProblemKind,
        field: &str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let message = sentence(message.into());
        let detail = format!("{field}: {message}");
        Self {
            errors: vec![FieldError { field: field.to_owned(), message }],
            ..Self::new(kind, detail)
        }
    }

    /// Adds the cause for the log.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Cause(Arc::new(cause)));
        self
    }

    /// The webhook does not exist.
    pub(crate) fn no_such_webhook() -> Self {
        Self::new(
            ProblemKind::NotFound,
            "No webhook with this ID. It may have expired or been deleted.",
        )
    }

    /// The application does not exist, or is another one than that of the caller's key.
    pub(crate) fn no_such_application() -> Self {
        Denied::NotFound.into()
    }

    /// The application has no such endpoint.
    pub(crate) fn no_such_endpoint() -> Self {
        Self::new(ProblemKind::NotFound, "No endpoint with this ID. It may have been deleted.")
    }

    /// The application has no such key.
    pub(crate) fn no_such_key() -> Self {
        Self::new(ProblemKind::NotFound, "No key with this ID. It may have been deleted.")
    }

    /// The application has no room. `fault` begins with the application.
    pub(crate) fn application_full(fault: &str) -> Self {
        Self::new(ProblemKind::ApplicationFull, capitalized(fault))
    }

    /// A secret must be sealed or opened, and there is no master key.
    pub(crate) fn no_master_key() -> Self {
        Self::new(ProblemKind::NotConfigured, sentence(NoMasterKey.to_string().into()))
            .because(NoMasterKey)
    }

    /// The ID is a message's, and the caller looked for a webhook.
    pub(crate) fn is_message(application: &ApplicationId, id: &MessageId) -> Self {
        Self::new(
            ProblemKind::NotFound,
            format!(
                "This is the ID of a published message. Use GET \
                 /applications/{application}/messages/{id}."
            ),
        )
    }

    /// The message is being deleted, so nothing of it is sent again.
    pub(crate) fn being_deleted() -> Self {
        Self::new(
            ProblemKind::Conflict,
            "The message is being deleted, so it cannot be sent again.",
        )
    }

    /// The application has no such message.
    pub(crate) fn no_such_message() -> Self {
        Self::new(
            ProblemKind::NotFound,
            "No message with this ID. It may have expired or been deleted.",
        )
    }

    /// The application has no such delivery.
    pub(crate) fn no_such_delivery() -> Self {
        Self::new(
            ProblemKind::NotFound,
            "No delivery with this ID. It may have expired or been deleted.",
        )
    }

    /// The dead letter does not exist.
    pub(crate) fn no_such_dead_letter() -> Self {
        Self::new(
            ProblemKind::NotFound,
            "No dead letter with this ID. A failed webhook becomes a dead letter moments later.",
        )
    }

    /// A bug.
    pub(crate) fn internal() -> Self {
        Self::new(
            ProblemKind::Internal,
            "An internal error occurred. The log contains the details under the correlation ID.",
        )
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind, ProblemKind::Unavailable | ProblemKind::Overloaded)
    }

    /// Its kind.
    #[cfg(test)]
    pub(crate) const fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// Its cause, for the log.
    pub(crate) const fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let problem = match &error {
            StoreError::Unavailable(_) => Self::new(
                ProblemKind::Unavailable,
                "The store is not available. Try again shortly.",
            ),
            StoreError::Full(_) => Self::new(
                ProblemKind::Overloaded,
                "The store is full. The request had no effect. Try again later.",
            ),
            // An instance of the newer version, if there is one, can respond.
            StoreError::Unreadable { source: InvalidRecord::TooNew { .. }, .. } => Self::new(
                ProblemKind::Unavailable,
                "A newer version of Posthaste has written this record. Try again shortly.",
            ),
            StoreError::Unreadable { .. } => Self::new(
                ProblemKind::Internal,
                "The stored record is unreadable. The log contains the details.",
            ),
        };
        problem.because(error)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let kind = match denied {
            Denied::NotFound => ProblemKind::NotFound,
            Denied::ScopeMissing(_) | Denied::FullOnly => ProblemKind::Forbidden,
        };
        Self::new(kind, denied.to_string())
    }
}

impl From<UnsealError> for Problem {
    fn from(error: UnsealError) -> Self {
        let problem = match error {
            UnsealError::UnknownKey { key_id } => Self::new(
                ProblemKind::NotConfigured,
                format!(
                    "The secret is sealed under the master key {key_id}, which MASTER_KEY does not \
                     hold. Add that key to the end of MASTER_KEY."
                ),
            ),
            UnsealError::Malformed | UnsealError::NotAuthentic { .. } => Self::internal(),
        };
        problem.because(error)
    }
}

impl From<SecretUnusable> for Problem {
    fn from(error: SecretUnusable) -> Self {
        match error {
            SecretUnusable::Unseal(error) => error.into(),
            SecretUnusable::NotASecret => Self::internal().because(error),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (status, kind, title) = self.kind.parts();
        let mut object = serializer.serialize_struct("Problem", 5)?;
        object.serialize_field("type", kind)?;
        object.serialize_field("title", title)?;
        object.serialize_field("status", &status.as_u16())?;
        object.serialize_field("detail", &self.detail)?;
        if !self.errors.is_empty() {
            object.serialize_field("errors", &self.errors)?;
        }
        object.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, ..) = self.kind.parts();
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.kind {
            ProblemKind::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            ProblemKind::Unavailable
            | ProblemKind::Overloaded
            | ProblemKind::NotConfigured
            | ProblemKind::TooManyRequests => headers.insert(header::RETRY_AFTER, RETRY_AFTER),
            _ => None,
        };
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

/// Collects invalid fields, so that one response names them all.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// Adds an error, up to [`MAX_FIELD_ERRORS`].
    pub(crate) fn add(&mut self, field: &str, message: impl Into<Cow<'static, str>>) {
        if self.0.len() < MAX_FIELD_ERRORS {
            self.0.push(FieldError {
                field: truncated(field, MAX_FIELD_NAME_BYTES).to_owned(),
                message: sentence(message.into()),
            });
        }
    }

    /// Adds the errors of a check.
    pub(crate) fn add_all(&mut self, errors: impl IntoIterator<Item = endpoint::FieldError>) {
        for error in errors {
            self.add(&error.field, error.message);
        }
    }

    /// A 422 that names each error, if there is one.
    pub(crate) fn check(self) -> Result<(), Problem> {
        let detail: Cow<'static, str> = match self.0.as_slice() {
            [] => return Ok(()),
            [only] => format!("{}: {}", only.field, only.message).into(),
            several => format!("{} fields are invalid. See errors.", several.len()).into(),
        };
        Err(Problem { errors: self.0, ..Problem::new(ProblemKind::InvalidFields, detail) })
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    sentence((first + chars.as_str()).into()).into_owned()
}

/// A message with its full stop. Messages of other crates have none.
fn sentence(mut message: Cow<'static, str>) -> Cow<'static, str> {
    if !message.ends_with('.') {
        message.to_mut().push('.');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_the_rfc_and_no_cause() {
        let error = StoreError::Unavailable("disk /var/secret is full".into());
        let json = serde_json::to_string(&Problem::from(error)).unwrap();
        let expected = r#"{"type":"urn:posthaste:unavailable","title":"Unavailable","status":503,"#;
        assert!(
            json.starts_with(expected) && !json.contains("secret") && !json.contains("errors"),
            "{json}"
        );
    }

    #[test]
    fn invalid_fields_are_named_up_to_a_limit() {
        assert!(FieldErrors::default().check().is_ok());
        let mut field_errors = FieldErrors::default();
        for index in 0..1000 {
            field_errors.add(&format!("{index}{}", "x".repeat(1000)), "is wrong");
        }
        let problem = field_errors.check().unwrap_err();
        assert_eq!(problem.errors.len(), MAX_FIELD_ERRORS);
        assert!(problem.errors.iter().all(|error| error.field.len() <= MAX_FIELD_NAME_BYTES));
    }
}
