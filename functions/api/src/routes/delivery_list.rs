//! `GET /applications/{application_id}/deliveries`.
//!
//! No index has an application's deliveries. The list is made of its messages and the keys of their
//! deliveries, and reads at most [`MAX_MESSAGES`] messages. The dead letters of an endpoint have an
//! index of their own.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    applications::{access::Action, id::EndpointId},
    id::TaskId,
    model::Webhook,
    status::Status,
    store::{DeadLetterFilter, DeadLetterPosition, ListPosition, MessageFilter},
};
use utoipa::ToSchema;

use crate::{
    app::App,
    deliveries::Documents,
    dispatch,
    edge::permission::{InApplication, Permitted},
    input::{
        cursor::{self, DeliveryPosition},
        query::Query,
    },
    limits::{DEAD, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE},
    message_view::DeliveryView,
    openapi::{errors, parameters},
    paging::{MAX_CHUNK, Pages, Placed},
    problem::Problem,
    respond,
    routes::dead_letters::position_of,
};

/// The messages that one call reads with their deliveries.
const MAX_MESSAGES: usize = 100;

/// The messages whose deliveries are read at a time.
const MESSAGES_AT_ONCE: usize = 10;

#[derive(Serialize, ToSchema)]
struct DeliveryList {
    #[schema(max_items = 100, value_type = Vec<DeliveryView<'static>>)]
    items: Vec<Box<RawValue>>,
    #[schema(minimum = 1, maximum = 100)]
    page_size: usize,
    /// The cursor of the next page, or null if this page is the last one.
    next_cursor: Option<String>,
}

/// Which deliveries the list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Every,
    With(Status),
    Dead,
}

impl Wanted {
    fn includes(self, webhook: &Webhook) -> bool {
        match self {
            Self::Every => true,
            Self::With(status) => webhook.status == status,
            Self::Dead => webhook.is_dead_letter(),
        }
    }
}

/// List deliveries
///
/// The deliveries of the newest messages come first. With `status=dead` and `endpoint_id`, the
/// latest dead letters come first. A page can have fewer items than `page_size`, or none, and a
/// `next_cursor` too.
#[utoipa::path(
    get, path = "/applications/{application_id}/deliveries", tag = "Deliveries",
    operation_id = "list_deliveries",
    params(
        parameters::ApplicationId, parameters::ByEndpoint, parameters::DeliveryStatus,
        parameters::PageSize, parameters::Cursor,
    ),
    responses(
        (status = 200, description = "A page.", body = DeliveryList),
        errors::Unclear, errors::Missing,
    ),
)]
pub(crate) async fn delivery_list(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ListDeliveries as usize }>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query =
        Query::parse(query.as_deref(), &["endpoint_id", "status", "page_size", "cursor"]);
    let endpoint = query.endpoint();
    let wanted = match query.get("status") {
        None => Wanted::Every,
        Some(DEAD) => Wanted::Dead,
        Some(_) => query.status(&[DEAD]).map_or(Wanted::Every, Wanted::With),
    };
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let (items, next_cursor) = if let (Wanted::Dead, Some(endpoint)) = (wanted, endpoint) {
        let (after, page) = cursor::read(query)?;
        application.document(&app).await?;
        let (items, next) = dead(&app, &application, endpoint, after, page_size).await?;
        (items, next.map(|next| cursor::encode(next, page.saturating_add(1))))
    } else {
        let (after, page) = cursor::read(query)?;
        application.document(&app).await?;
        let filter = MessageFilter { endpoint, ..MessageFilter::all(application.id().clone()) };
        let after = after.map(|DeliveryPosition(after)| after);
        let (items, next) = newest(&app, &filter, wanted, after, page_size).await?;
        let next = next.map(DeliveryPosition);
        (items, next.map(|next| cursor::encode(next, page.saturating_add(1))))
    };
    Ok(respond::json(StatusCode::OK, &DeliveryList { items, page_size, next_cursor }))
}

/// A page, and the position after which the next one starts.
type Found<P> = (Vec<Box<RawValue>>, Option<P>);

/// The dead letters of an endpoint.
async fn dead(
    app: &App,
    application: &Permitted,
    endpoint: EndpointId,
    after: Option<DeadLetterPosition>,
    page_size: usize,
) -> Result<Found<DeadLetterPosition>, Problem> {
    let _permit = app.capacity.records(page_size).await?;
    let filter = DeadLetterFilter::Endpoint(application.id().clone(), endpoint);
    let found = app.context.store.dead_letters(&filter, after, page_size).await?;
    let letters = found.items.iter().map(|listed| &listed.webhook);
    let letters: Vec<&Webhook> = letters.filter(|letter| filter.matches(letter)).collect();
    let documents = Documents::of(app, letters.iter().copied()).await?;
    let mut pages = Pages::new(page_size, 0);
    for letter in letters {
        let position = position_of(letter);
        if add(app, &documents, &mut pages, letter, position)? == Placed::Beyond {
            let last = pages.last();
            return Ok((pages.into_items(), last));
        }
    }
    Ok((pages.into_items(), found.next))
}

/// The deliveries of the newest messages. Those of one message are in the order of positions.
async fn newest(
    app: &App,
    filter: &MessageFilter,
    wanted: Wanted,
    after: Option<ListPosition>,
    page_size: usize,
) -> Result<Found<ListPosition>, Problem> {
    let _permit = app.capacity.records(MAX_CHUNK * MESSAGES_AT_ONCE).await?;
    let mut pages = Pages::new(page_size, 0);
    // A page that ended within a message reads that message again.
    let mut next = after.and_then(|after| match after.endpoint {
        Some(_) => before(after.task),
        None => Some(after.task),
    });
    for _ in 0..MAX_MESSAGES / MESSAGES_AT_ONCE {
        let found = app.context.store.list_messages(filter, next, MESSAGES_AT_ONCE).await?;
        let own = found.items.iter().filter(|message| filter.matches(message));
        let reads = own.map(|message| app.context.store.standing(&message.id));
        let standings = dispatch::concurrently(reads.collect()).await;
        for standing in standings {
            // A message that was deleted in the meantime has none.
            let Some(standing) = standing? else { continue };
            let mut deliveries = standing.visible_deliveries(app.now());
            deliveries.sort_by_key(|delivery| std::cmp::Reverse(delivery.id.endpoint));
            let documents = Documents::of(app, deliveries.iter()).await?;
            for delivery in deliveries.iter().filter(|delivery| {
                let is_endpoint = filter.endpoint.is_none_or(|id| delivery.id.endpoint == Some(id));
                is_endpoint && wanted.includes(delivery)
            }) {
                let position = ListPosition::of(&delivery.id);
                if after.is_some_and(|after| position >= after) {
                    continue;
                }
                if add(app, &documents, &mut pages, delivery, position)? == Placed::Beyond {
                    let last = pages.last();
                    return Ok((pages.into_items(), last));
                }
            }
        }
        next = found.next;
        if next.is_none() || pages.missing() == 0 {
            break;
        }
    }
    Ok((pages.into_items(), next.map(ListPosition::at)))
}

fn add<P: Copy>(
    app: &App,
    documents: &Documents,
    pages: &mut Pages<P>,
    delivery: &Webhook,
    position: P,
) -> Result<Placed, Problem> {
    let rules = documents.rules(app, delivery);
    let view = DeliveryView::of(delivery, documents.url(delivery, ""), &rules);
    pages.add(&view, position)
}

/// The position directly before this message in a list that has the newest first. `None`: the start
/// of the list.
fn before(task: TaskId) -> Option<TaskId> {
    let number = u128::from_be_bytes(*task.as_bytes()).checked_add(1)?;
    TaskId::from_bytes(&number.to_be_bytes())
}
