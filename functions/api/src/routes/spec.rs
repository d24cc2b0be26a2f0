//! `GET /openapi.json`: this API, described in OpenAPI 3.1.

use axum::{extract::RawQuery, response::Response};
use http::StatusCode;

use crate::{input::query, problem::Problem, respond};

/// The checked-in document. A test compares it with the code.
const DOCUMENT: &str = include_str!("../../openapi.json");

/// Get this document
#[utoipa::path(
    get, path = "/openapi.json", tag = "Watching", operation_id = "openapi",
    responses((status = 200, description = "The OpenAPI 3.1 document.", body = Object)),
)]
pub(crate) async fn spec_get(RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    Ok(respond::json_text(StatusCode::OK, DOCUMENT))
}
