//! `GET /applications/{application_id}/messages`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    applications::access::Action,
    id::TaskId,
    store::{MAX_READ, MessageFilter, Page},
};
use utoipa::ToSchema;

use crate::{
    app::App,
    edge::permission::InApplication,
    input::{cursor, query::Query},
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE},
    message_view::MessageView,
    openapi::{errors, parameters},
    paging::{MAX_CHUNK, Pages, Placed},
    problem::Problem,
    respond,
};

const PARAMETERS: [&str; 7] =
    ["endpoint_id", "event_type", "reference_id", "since", "until", "page_size", "cursor"];

#[derive(Serialize, ToSchema)]
struct MessageList {
    #[schema(max_items = 100, value_type = Vec<MessageView<'static>>)]
    items: Vec<Box<RawValue>>,
    #[schema(minimum = 1, maximum = 100)]
    page_size: usize,
    /// The cursor of the next page, or null if this page is the last one.
    next_cursor: Option<String>,
}

/// List messages
///
/// The newest messages come first. A page can have fewer items than `page_size`, or none, and a
/// `next_cursor` too.
#[utoipa::path(
    get, path = "/applications/{application_id}/messages", tag = "Messages",
    operation_id = "list_messages",
    params(
        parameters::ApplicationId, parameters::ByEndpoint, parameters::EventType,
        parameters::Reference, parameters::Since, parameters::Until, parameters::PageSize,
        parameters::Cursor,
    ),
    responses(
        (status = 200, description = "A page.", body = MessageList),
        errors::Unclear, errors::Missing,
    ),
)]
pub(crate) async fn message_list(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ListMessages as usize }>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &PARAMETERS);
    let filter = MessageFilter {
        application: application.id().clone(),
        endpoint: query.endpoint(),
        event_type: query.event_type(),
        reference: query.reference(),
        since: query.time("since"),
        until: query.time("until"),
    };
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let (after, page) = cursor::read(query)?;
    application.document(&app).await?;
    let _permit = app.capacity.records(MAX_CHUNK).await?;
    let (items, next) = read_page(&app, &filter, after, page_size).await?;
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    Ok(respond::json(StatusCode::OK, &MessageList { items, page_size, next_cursor }))
}

/// Reads a page. Returns its items, and the position after which the next page starts.
async fn read_page(
    app: &App,
    filter: &MessageFilter,
    mut after: Option<TaskId>,
    page_size: usize,
) -> Result<(Vec<Box<RawValue>>, Option<TaskId>), Problem> {
    let mut pages = Pages::new(page_size, 0);
    let mut left_to_read = MAX_READ;
    loop {
        let limit = pages.missing().min(MAX_CHUNK);
        let Page { items, next } = app.context.store.list_messages(filter, after, limit).await?;
        for message in items.iter().filter(|message| filter.matches(message)) {
            if pages.add(&MessageView::of(message), message.id.task)? == Placed::Beyond {
                let last = pages.last();
                return Ok((pages.into_items(), last));
            }
        }
        left_to_read = left_to_read.saturating_sub(limit);
        if next.is_none() || pages.missing() == 0 || left_to_read == 0 {
            return Ok((pages.into_items(), next));
        }
        after = next;
    }
}
