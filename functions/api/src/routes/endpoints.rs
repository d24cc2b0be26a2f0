//! `GET /applications/{application_id}/endpoints`, and `GET` and `DELETE` of one endpoint.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::applications::access::Action;
use utoipa::ToSchema;

use crate::{
    app::{App, Call},
    application_view::EndpointView,
    edge::permission::{EndpointInPath, InApplication},
    edit::{Editor, edit},
    input::{
        cursor::{self, EndpointPosition},
        query::{self, Query},
    },
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE},
    openapi::{errors, parameters},
    paging::{Pages, Placed},
    problem::Problem,
    respond,
};

#[derive(Serialize, ToSchema)]
struct EndpointList {
    #[schema(max_items = 100, value_type = Vec<EndpointView<'static>>)]
    items: Vec<Box<RawValue>>,
    #[schema(minimum = 1, maximum = 100)]
    page_size: usize,
    /// The cursor of the next page, or null if this page is the last one.
    next_cursor: Option<String>,
}

/// List endpoints
///
/// The oldest come first, without secrets. Requires the scope `read`.
#[utoipa::path(
    get, path = "/applications/{application_id}/endpoints", tag = "Endpoints",
    operation_id = "list_endpoints",
    params(parameters::ApplicationId, parameters::PageSize, parameters::Cursor),
    responses(
        (status = 200, description = "A page.", body = EndpointList),
        errors::Unclear, errors::Missing,
    ),
)]
pub(crate) async fn endpoint_list(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ListEndpoints as usize }>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &["cursor", "page_size"]);
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let (after, page) = cursor::read::<EndpointPosition>(query)?;
    let application = application.current(&app).await?;
    let position = |endpoint: &shared::applications::endpoint::Endpoint| EndpointPosition {
        created_at: endpoint.created_at,
        endpoint: endpoint.id,
    };
    // Oldest first, whatever the clocks of their writers were. So an endpoint that is created or
    // deleted between two pages moves no other one.
    let mut endpoints: Vec<_> = application.endpoints.iter().collect();
    endpoints.sort_by_key(|endpoint| position(endpoint));
    let rest =
        endpoints.into_iter().filter(|endpoint| after.is_none_or(|it| position(endpoint) > it));
    let (mut pages, mut next) = (Pages::new(page_size, 0), None);
    for endpoint in rest {
        if pages.add(&EndpointView::of(endpoint), position(endpoint))? == Placed::Beyond {
            next = pages.last();
            break;
        }
    }
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    let list = EndpointList { items: pages.into_items(), page_size, next_cursor };
    Ok(respond::json(StatusCode::OK, &list))
}

/// Get an endpoint
///
/// Without secrets. The values of its headers are shown as `***`. Requires the scope `read`.
#[utoipa::path(
    get, path = "/applications/{application_id}/endpoints/{endpoint_id}", tag = "Endpoints",
    operation_id = "show_endpoint",
    params(parameters::ApplicationId, parameters::EndpointId),
    responses(
        (status = 200, description = "The endpoint.", body = EndpointView<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn endpoint_get(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::GetEndpoint as usize }>,
    EndpointInPath(id): EndpointInPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let application = application.current(&app).await?;
    let endpoint =
        id.and_then(|id| application.endpoint(id)).ok_or_else(Problem::no_such_endpoint)?;
    Ok(respond::json(StatusCode::OK, &EndpointView::of(endpoint)))
}

/// Delete an endpoint
///
/// Its ID is never used again. Deliveries under way fail with `endpoint_deleted` within
/// `ENDPOINT_CACHE_MS` of the next look at them; attempts in flight go on. Requires the scope
/// `manage`.
#[utoipa::path(
    delete, path = "/applications/{application_id}/endpoints/{endpoint_id}", tag = "Endpoints",
    operation_id = "delete_endpoint",
    params(parameters::ApplicationId, parameters::EndpointId),
    responses((status = 204, description = "The endpoint is deleted."), errors::Missing),
)]
pub(crate) async fn endpoint_delete(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::DeleteEndpoint as usize }>,
    EndpointInPath(id): EndpointInPath,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    query::none(query.as_deref())?;
    let editor = Editor::of(&app, &call);
    edit(&app, &application, |seen| {
        let id = id.ok_or_else(Problem::no_such_endpoint)?;
        Ok(seen.delete_endpoint(id, editor.actor())?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
