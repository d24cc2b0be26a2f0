//! A response of the API, and the checks of its status and body.

use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use super::{
    error::{ClientError, Problem},
    model::Accepted,
};

/// The maximum number of characters of an unexpected body that an error shows.
const MAX_EXCERPT_CHARS: usize = 300;

/// A response whose status has not been checked.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request, as messages show it: `GET /health`.
    pub asked: String,
    /// The status code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Parses the body as JSON. Fails unless the response has this status code.
    pub fn expect<T: DeserializeOwned>(self, status: StatusCode) -> Result<T, ClientError> {
        if self.status != status {
            return Err(self.refused());
        }
        serde_json::from_str(&self.body).map_err(|source| {
            let excerpt = excerpt(&self.body);
            ClientError::Unreadable { asked: self.asked, excerpt, source }
        })
    }

    /// Fails unless the response has this status code.
    pub fn expect_empty(self, status: StatusCode) -> Result<(), ClientError> {
        if self.status == status { Ok(()) } else { Err(self.refused()) }
    }

    /// The problem details in the body (RFC 9457), if the content type and the fields match.
    pub fn problem(&self) -> Option<Problem> {
        let kind = self.headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
        kind.starts_with("application/problem+json")
            .then(|| serde_json::from_str(&self.body).ok())?
    }

    /// The `x-correlation-id` header.
    pub fn correlation_id(&self) -> Option<String> {
        self.headers.get("x-correlation-id")?.to_str().ok().map(str::to_owned)
    }

    pub(super) fn accepted(self) -> Result<Accepted, ClientError> {
        let correlation_id = self.correlation_id();
        let mut accepted: Accepted = self.expect(StatusCode::ACCEPTED)?;
        accepted.correlation_id = accepted.correlation_id.or(correlation_id);
        Ok(accepted)
    }

    fn refused(self) -> ClientError {
        match self.problem() {
            Some(problem) => ClientError::Problem {
                asked: self.asked,
                status: self.status,
                problem: Box::new(problem),
            },
            None => ClientError::Unexpected {
                asked: self.asked,
                status: self.status,
                excerpt: excerpt(&self.body),
            },
        }
    }
}

fn excerpt(body: &str) -> String {
    if body.is_empty() {
        return "(empty)".into();
    }
    let mut text: String = body.chars().take(MAX_EXCERPT_CHARS).collect();
    if text.len() < body.len() {
        text.push('…');
    }
    text
}
