//! `GET /openapi.json`: the API described in OpenAPI 3.1.
//!
//! The document is made from the code by a test (`tests/openapi.rs`, which the feature `openapi` is
//! for) and stands in `openapi.json`, which is compiled in as it is: the function carries the text
//! and not what makes it. The same test fails when the two differ.

#[cfg(feature = "openapi")]
mod document;
#[cfg(feature = "openapi")]
pub(crate) mod errors;
#[cfg(feature = "openapi")]
mod examples;
#[cfg(feature = "openapi")]
pub(crate) mod parameters;
#[cfg(feature = "openapi")]
pub(crate) mod schemas;

use axum::{extract::RawQuery, response::Response};
use http::StatusCode;

use crate::{idempotency::answer, problem::Problem, query};

#[cfg(feature = "openapi")]
pub use document::document;

/// What `tests/openapi.rs` has made of the code.
const DOCUMENT: &str = include_str!("../openapi.json");

/// This document
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/openapi.json", tag = "Watching", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
))]
pub(crate) async fn show(RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    Ok(answer(StatusCode::OK, DOCUMENT.to_owned()))
}
