//! `GET /webhook-statuses`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::store::MAX_READ;

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters};
use crate::{
    app::App,
    cursor,
    idempotency::answer,
    problem::Problem,
    query::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Query},
    view::{WebhookView, to_json},
};

/// The last page that can be asked for by its number.
pub(crate) const MAX_PAGE: usize = 100;

const PARAMETERS: [&str; 5] = ["reference_id", "status", "page", "page_size", "cursor"];

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = WebhookList))]
struct Listing<'a> {
    #[cfg_attr(feature = "openapi", schema(max_items = 100))]
    items: Vec<WebhookView<'a>>,
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    page: usize,
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100))]
    page_size: usize,
    next_cursor: Option<String>,
}

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/webhook-statuses", tag = "Webhooks", operation_id = "list_webhooks",
    summary = "Webhooks, newest first",
    params(parameters::Reference, parameters::Status, parameters::Page, parameters::PageSize, parameters::Cursor),
    responses((status = 200, description = "One page.", body = Listing<'static>), errors::Unclear),
))]
/// By `page`, everything before it is read too, so it goes only as far as one call may read; by `cursor`, it costs one page
/// wherever that is.
pub(crate) async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &PARAMETERS);
    let filter = query.filter(app.now());
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let page = query.number("page", 1, MAX_PAGE);
    let cursor = query.get("cursor").map(str::to_owned);
    if cursor.is_some() && query.get("page").is_some() {
        query.faults.add("page", "cannot be given together with cursor; the cursor says where the page begins");
    }
    if page * page_size > MAX_READ {
        query.faults.add("page", format!("times page_size must be at most {MAX_READ}; go on with next_cursor instead"));
    }
    query.faults.check()?;
    let (after, page, skipped) = match cursor {
        Some(cursor) => {
            let (after, page) = cursor::decode(&cursor)?;
            (Some(after), page, 0)
        }
        None => (None, page, (page - 1) * page_size),
    };
    let found = app.context.store.list(&filter, after, skipped + page_size).await?;
    let shown = found.items.iter().skip(skipped);
    let listing = Listing {
        items: shown.map(|listed| WebhookView::new(&listed.webhook, &listed.url, &app.context.rules)).collect(),
        page,
        page_size,
        next_cursor: found.next.map(|next| cursor::encode(next, page.saturating_add(1))),
    };
    Ok(answer(StatusCode::OK, to_json(&listing)))
}
