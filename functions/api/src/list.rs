//! `GET /webhook-statuses`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    id::TaskId,
    store::{Filter, MAX_READ, Page},
};

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters};
use crate::{
    app::App,
    cursor,
    idempotency::answer,
    listing::{MAX_CHUNK, Pages, Placed},
    problem::Problem,
    query::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Query},
    view::{WebhookView, to_json},
};

/// The last page that can be asked for by its number.
pub(crate) const MAX_PAGE: usize = 100;

const PARAMETERS: [&str; 5] = ["reference_id", "status", "page", "page_size", "cursor"];

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = WebhookList))]
struct Listing {
    #[cfg_attr(feature = "openapi", schema(max_items = 100,
        value_type = Vec<WebhookView<'static>>))]
    items: Vec<Box<RawValue>>,
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    page: usize,
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100))]
    page_size: usize,
    next_cursor: Option<String>,
}

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/webhook-statuses", tag = "Webhooks", operation_id = "list_webhooks",
    summary = "Webhooks, newest first",
    description = "A page ends before `page_size` where it would have more than 2.5 MiB. `page` \
        counts the pages as they are: page 2 begins where page 1 ended.",
    params(parameters::Reference, parameters::Status, parameters::Page, parameters::PageSize,
        parameters::Cursor),
    responses((status = 200, description = "One page.", body = Listing), errors::Unclear),
))]
/// By `page`, everything before it is read too, so it goes only as far as one call may read; by
/// `cursor`, it costs one page wherever that is.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &PARAMETERS);
    let filter = query.filter(app.now());
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let page = query.number("page", 1, MAX_PAGE);
    let cursor = query.get("cursor").map(str::to_owned);
    if cursor.is_some() && query.get("page").is_some() {
        query.field_errors.add(
            "page",
            "cannot be given together with cursor; the cursor says where the page begins",
        );
    }
    if page * page_size > MAX_READ {
        query.field_errors.add(
            "page",
            format!("times page_size must be at most {MAX_READ}; go on with next_cursor instead"),
        );
    }
    query.field_errors.check()?;
    let (after, page, to_skip) = match cursor {
        Some(cursor) => {
            let (after, page) = cursor::decode(&cursor)?;
            (Some(after), page, 0)
        }
        None => (None, page, page - 1),
    };
    let _room = app.room.records(MAX_CHUNK).await?;
    let (items, next) = read_page(&app, &filter, after, Pages::new(page_size, to_skip)).await?;
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    Ok(answer(StatusCode::OK, to_json(&Listing { items, page, page_size, next_cursor })))
}

/// The page, and where the next one begins.
async fn read_page(
    app: &App,
    filter: &Filter,
    mut after: Option<TaskId>,
    mut pages: Pages<TaskId>,
) -> Result<(Vec<Box<RawValue>>, Option<TaskId>), Problem> {
    let mut left_to_read = MAX_READ;
    loop {
        let limit = pages.missing().min(MAX_CHUNK);
        let Page { items, next } = app.context.store.list(filter, after, limit).await?;
        for listed in &items {
            let view = WebhookView::new(&listed.webhook, &listed.url, &app.context.rules);
            if pages.add(&view, listed.webhook.id.task)? == Placed::Beyond {
                let last = pages.last();
                return Ok((pages.into_items(), last));
            }
        }
        left_to_read = left_to_read.saturating_sub(limit);
        // A chunk of the store may be short, and the page is then.
        if next.is_none() || pages.missing() == 0 || left_to_read == 0 {
            return Ok((pages.into_items(), next));
        }
        after = next;
    }
}
