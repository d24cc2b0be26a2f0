//! Errors as callers see them: `application/problem+json` (RFC 9457).
//!
//! What a caller reads ([`Problem`]) and what the log holds (its [`Cause`]) are two texts: no
//! answer holds an internal error's wording, and the cause is logged once, at the boundary.

use std::{borrow::Cow, error::Error, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use shared::{
    model::{InvalidRecord, truncated},
    store::StoreError,
};

/// The most wrong fields that one answer names.
pub(crate) const MAX_FIELD_ERRORS: usize = 20;

/// Bytes of a field's name that are repeated to the caller.
const MAX_FIELD_NAME_BYTES: usize = 100;

/// When to ask again after a 503.
pub(crate) const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What sort of problem; gives the status, and the `type` that a program can compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The body is not JSON.
    MalformedJson,
    /// Something else about the request cannot be understood.
    BadRequest,
    /// No key, or a wrong one.
    Unauthorized,
    /// A browser's request from another site.
    Forbidden,
    /// No such route, webhook or dead letter.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// Not possible in the webhook's present status.
    Conflict,
    /// The idempotency key stands for another request.
    KeyReused,
    /// The body or the payload exceeds its limit.
    TooLarge,
    /// The body is not said to be JSON.
    UnsupportedMediaType,
    /// Fields or parameters are wrong; each is named.
    InvalidFields,
    /// Ours.
    Internal,
    /// The store did not answer.
    Unavailable,
    /// Too many requests at a time; nothing was done.
    Overloaded,
    /// The body took too long to come.
    RequestTimeout,
    /// Nobody has set who may call.
    NotConfigured,
}

impl Kind {
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

/// One wrong field or parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FieldError {
    /// As the caller wrote it: `url`, `headers.X-Foo`, `webhooks[3].url`, or a parameter's name.
    pub(crate) field: String,
    /// What it must be.
    pub(crate) message: Cow<'static, str>,
}

/// Why a request was not done, for whoever operates Posthaste. Travels with the response to the
/// boundary, which logs it.
#[derive(Clone, Debug)]
pub(crate) struct Cause(pub(crate) Arc<dyn Error + Send + Sync>);

/// Why a request was not done, for its caller.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    cause: Option<Cause>,
}

impl Problem {
    /// A problem with a sentence for the caller.
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), cause: None }
    }

    /// The same, naming the one field or parameter that it is about.
    pub(crate) fn about(kind: Kind, field: &str, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        let detail = format!("{field}: {message}");
        Self {
            errors: vec![FieldError { field: field.to_owned(), message }],
            ..Self::new(kind, detail)
        }
    }

    /// With what the log says about it.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Cause(Arc::new(cause)));
        self
    }

    /// There is no such webhook, or no more.
    pub(crate) fn no_such_webhook() -> Self {
        Self::new(
            Kind::NotFound,
            "There is no webhook with this id; it may have expired or been deleted.",
        )
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Overloaded)
    }

    /// What sort.
    #[cfg(test)]
    pub(crate) const fn kind(&self) -> Kind {
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
                Kind::Unavailable,
                "The store cannot be reached at the moment; try again.",
            ),
            StoreError::Full(_) => {
                Self::new(Kind::Overloaded, "The store is full. Nothing was done. Try again later.")
            }
            // A newer version runs beside this one, or ran before it; that instance can answer.
            StoreError::Unreadable { source: InvalidRecord::TooNew { .. }, .. } => Self::new(
                Kind::Unavailable,
                "This webhook was written by a newer version of Posthaste; try again.",
            ),
            StoreError::Unreadable { .. } => {
                Self::new(Kind::Internal, "What is stored of this webhook cannot be read.")
            }
        };
        problem.because(error)
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
            Kind::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            Kind::Unavailable | Kind::Overloaded | Kind::NotConfigured => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER)
            }
            _ => None,
        };
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

/// Gathers wrong fields, so that one answer names them all.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// One more, up to [`MAX_FIELD_ERRORS`].
    pub(crate) fn add(&mut self, field: &str, message: impl Into<Cow<'static, str>>) {
        if self.0.len() < MAX_FIELD_ERRORS {
            self.0.push(FieldError {
                field: truncated(field, MAX_FIELD_NAME_BYTES).to_owned(),
                message: message.into(),
            });
        }
    }

    /// Ok if there was none; else a 422 that names each.
    pub(crate) fn check(self) -> Result<(), Problem> {
        let detail: Cow<'static, str> = match self.0.as_slice() {
            [] => return Ok(()),
            [only] => format!("{}: {}", only.field, only.message).into(),
            several => format!("{} fields are not valid; see errors.", several.len()).into(),
        };
        Err(Problem { errors: self.0, ..Problem::new(Kind::InvalidFields, detail) })
    }
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
    fn wrong_fields_are_named_up_to_a_limit() {
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
