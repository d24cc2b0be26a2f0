//! The errors of the client. The tools print them, so each error names the request and the
//! response, and suggests a fix where the cause is likely.

use http::StatusCode;
use serde::Deserialize;

/// The problem details of an error response (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// The problem type.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short text for people.
    pub title: String,
    /// The status code.
    pub status: u16,
    /// The details of this occurrence.
    #[serde(default)]
    pub detail: String,
    /// The invalid fields.
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// An invalid field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FieldError {
    /// The name of the field.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        for error in &self.errors {
            write!(f, " [{}: {}]", error.field, error.message)?;
        }
        Ok(())
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client cannot be created.
    #[error("{0}")]
    Setup(String),
    /// The API did not respond.
    #[error("{asked}: no response from {base} ({}){}", root_cause(source), start_hint(source))]
    Unreachable {
        /// The request.
        asked: String,
        /// The URL of the API.
        base: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The API rejected the request with problem details.
    #[error("{asked} returned {}, {problem}{}", status.as_u16(), hint(*status, problem))]
    Problem {
        /// The request.
        asked: String,
        /// The status code.
        status: StatusCode,
        /// The problem details.
        problem: Box<Problem>,
    },
    /// The API returned an unexpected status code without problem details.
    #[error("{asked} returned the unexpected status code {status}: {excerpt}")]
    Unexpected {
        /// The request.
        asked: String,
        /// The status code.
        status: StatusCode,
        /// The start of the body.
        excerpt: String,
    },
    /// The API returned the expected status code with an unexpected body.
    #[error("{asked} returned an unexpected body: {source}; the body starts with: {excerpt}")]
    Unreadable {
        /// The request.
        asked: String,
        /// The start of the body.
        excerpt: String,
        /// The parse error.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// The status code of an error response.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Problem { status, .. } | Self::Unexpected { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether a retry may succeed: the API did not respond, or returned 503.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || self.status() == Some(StatusCode::SERVICE_UNAVAILABLE)
    }
}

fn start_hint(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "; start the local stack with: cargo run --release -p local"
    } else {
        ""
    }
}

fn hint(status: StatusCode, problem: &Problem) -> &'static str {
    let mentions_private = || {
        let text = problem.to_string().to_lowercase();
        text.contains("private") || text.contains("globally routable") || text.contains("loopback")
    };
    match status {
        StatusCode::UNAUTHORIZED => "; give the key with --api-key",
        StatusCode::UNPROCESSABLE_ENTITY if mentions_private() => {
            "; for a receiver on this machine, start the stack with ALLOW_PRIVATE_DESTINATIONS=true"
        }
        _ => "",
    }
}

/// The innermost cause. It says what happened (`Connection refused`); the outer ones only name
/// layers.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
