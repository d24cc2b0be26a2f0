//! `POST /test-webhook?webhook_url=U`: any JSON, to see a delivery work.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde_json::value::RawValue;

use crate::{
    accept::{accept_one, max_body_bytes},
    app::{App, Call},
    body::read_json,
    fields,
    idempotency::Key,
    problem::Problem,
    query::Query,
    submission::Submission,
    view,
};

/// The parameter with the URL.
const WEBHOOK_URL: &str = "webhook_url";

pub(crate) async fn accept(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut query = Query::parse(parts.uri.query(), &[WEBHOOK_URL]);
    if query.get(WEBHOOK_URL).is_none() {
        query.faults.add(WEBHOOK_URL, "is missing; it is where the webhook goes, percent-encoded");
    }
    let url = query.get(WEBHOOK_URL).unwrap_or_default().to_owned();
    query.faults.check()?;
    let body = read_json(&parts.headers, body, max_body_bytes(&app)).await?;
    let payload: &RawValue = fields::parse(&body, "must be JSON")?;
    let submission = Submission::test(&app.context, WEBHOOK_URL, &url, payload)?;
    let key = Key::of(&parts, &call, &body)?;
    accept_one(&app, &call, key.as_ref(), &submission, view::test_accepted).await
}
