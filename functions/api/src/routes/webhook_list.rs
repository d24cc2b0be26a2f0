//! `GET /webhook-statuses`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::store::{Filter, ListPosition, MAX_READ, Page};
use utoipa::ToSchema;

use crate::{
    app::App,
    deliveries::Documents,
    input::{cursor, query::Query},
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE, MAX_PAGE_SIZE},
    openapi::{errors, parameters},
    paging::{MAX_CHUNK, Pages, Placed},
    problem::Problem,
    respond,
    view::WebhookView,
};

const PARAMETERS: [&str; 5] = ["reference_id", "status", "page", "page_size", "cursor"];

#[derive(Serialize, ToSchema)]
struct WebhookList {
    #[schema(max_items = 100, value_type = Vec<WebhookView<'static>>)]
    items: Vec<Box<RawValue>>,
    #[schema(minimum = 1)]
    page: usize,
    #[schema(minimum = 1, maximum = 100)]
    page_size: usize,
    /// The cursor of the next page, or null if this page is the last one.
    next_cursor: Option<String>,
}

/// List webhooks
///
/// The newest webhooks come first. Deliveries of messages are included, except with a
/// `reference_id`: that finds direct webhooks only. A page ends before `page_size` items if more of
/// them would make it larger than 2.5 MiB. Use `cursor` for long lists: `page` also reads all pages
/// before it.
#[utoipa::path(
    get, path = "/webhook-statuses", tag = "Webhooks", operation_id = "list_webhooks",
    params(
        parameters::Reference, parameters::Status, parameters::Page, parameters::PageSize,
        parameters::Cursor,
    ),
    responses((status = 200, description = "A page.", body = WebhookList), errors::Unclear),
)]
pub(crate) async fn webhook_list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &PARAMETERS);
    let filter = query.filter(app.now());
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let page = query.number("page", 1, MAX_PAGE);
    if query.get("cursor").is_some() && query.get("page").is_some() {
        query.field_errors.add("page", "cannot be combined with cursor. Omit one of them");
    }
    if page * page_size > MAX_READ {
        let message =
            format!("times page_size must be at most {MAX_READ}. Use next_cursor to read on");
        query.field_errors.add("page", message);
    }
    let (after, page_of_cursor) = cursor::read(query)?;
    // A cursor costs one page. A page number costs all pages up to it.
    let (page, to_skip) = if after.is_some() { (page_of_cursor, 0) } else { (page, page - 1) };
    let _permit = app.capacity.records(MAX_CHUNK).await?;
    let (items, next) = read_page(&app, &filter, after, Pages::new(page_size, to_skip)).await?;
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    let list = WebhookList { items, page, page_size, next_cursor };
    Ok(respond::json(StatusCode::OK, &list))
}

/// Reads the requested page. Returns its items, and the position after which the next page starts.
async fn read_page(
    app: &App,
    filter: &Filter,
    mut after: Option<ListPosition>,
    mut pages: Pages<ListPosition>,
) -> Result<(Vec<Box<RawValue>>, Option<ListPosition>), Problem> {
    let mut left_to_read = MAX_READ;
    loop {
        let limit = pages.missing().min(MAX_CHUNK);
        let Page { items, next } = app.context.store.list(filter, after, limit).await?;
        let documents = Documents::of(app, items.iter().map(|listed| &listed.webhook)).await?;
        for listed in &items {
            let rules = documents.rules(app, &listed.webhook);
            let url = documents.url(&listed.webhook, &listed.url);
            let view = WebhookView::new(&listed.webhook, url, &rules);
            if pages.add(&view, ListPosition::of(&listed.webhook.id))? == Placed::Beyond {
                let last = pages.last();
                return Ok((pages.into_items(), last));
            }
        }
        left_to_read = left_to_read.saturating_sub(limit);
        // The store may return fewer webhooks than requested, so the page may have fewer, too.
        if next.is_none() || pages.missing() == 0 || left_to_read == 0 {
            return Ok((pages.into_items(), next));
        }
        after = next;
    }
}
