//! `GET /applications`, `GET /applications/{application_id}` and its list of changes.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    applications::{access::Action, application::Application, id::ApplicationId},
    store::{DestinationActivity, MAX_TARGETS, Page, Store, StoreError, TargetState},
    traffic::target::TargetKey,
};
use utoipa::ToSchema;

use crate::{
    app::App,
    application_view::{ApplicationStateView, ApplicationView, ChangeView, EndpointState},
    edge::permission::InApplication,
    input::{
        cursor,
        query::{self, Query},
    },
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE},
    openapi::{errors, parameters},
    paging::{Pages, Placed},
    problem::Problem,
    respond,
};

/// The documents that are read at a time. A document can be as large as many webhooks.
const MAX_CHUNK: usize = 10;

/// The concurrent reads of targets for one request.
const MAX_CONCURRENT_READS: usize = 20;

#[derive(Serialize, ToSchema)]
struct ApplicationList {
    #[schema(max_items = 100, value_type = Vec<ApplicationView<'static>>)]
    items: Vec<Box<RawValue>>,
    #[schema(minimum = 1, maximum = 100)]
    page_size: usize,
    /// The cursor of the next page, or null if this page is the last one.
    next_cursor: Option<String>,
}

/// List applications
///
/// In the order of their IDs. The list may lack the latest changes for a moment.
#[utoipa::path(
    get, path = "/applications", tag = "Applications", operation_id = "list_applications",
    params(parameters::PageSize, parameters::Cursor),
    responses((status = 200, description = "A page.", body = ApplicationList), errors::Unclear),
)]
pub(crate) async fn application_list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &["cursor", "page_size"]);
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let (after, page) = cursor::read(query)?;
    let _permit = app.capacity.records(page_size).await?;
    let (items, next) = read_page(&app, after, page_size).await?;
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    Ok(respond::json(StatusCode::OK, &ApplicationList { items, page_size, next_cursor }))
}

async fn read_page(
    app: &App,
    mut after: Option<ApplicationId>,
    page_size: usize,
) -> Result<(Vec<Box<RawValue>>, Option<ApplicationId>), Problem> {
    let mut pages = Pages::new(page_size, 0);
    // Deleted applications are skipped, so a page of the store can be empty.
    let mut left_to_read = page_size.max(MAX_PAGE_SIZE);
    loop {
        let limit = pages.missing().min(MAX_CHUNK);
        let Page { items, next } = app.context.store.applications(after.as_ref(), limit).await?;
        for application in items.iter().filter(|application| !application.is_deleted()) {
            let view = ApplicationView::of(application);
            if pages.add(&view, application.id.clone())? == Placed::Beyond {
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

/// Get an application
///
/// With the state of its endpoints. Requires the scope `read`.
#[utoipa::path(
    get, path = "/applications/{application_id}", tag = "Applications",
    operation_id = "show_application",
    params(parameters::ApplicationId),
    responses(
        (status = 200, description = "The application.", body = ApplicationStateView<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn application_get(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::GetApplication as usize }>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let application = application.current(&app).await?;
    let now = app.now();
    let targets = targets(&app, &application).await?;
    let totals = app.context.store.destinations(now).await?;
    let activity: HashMap<&str, &DestinationActivity> =
        totals.iter().map(|totals| (&*totals.destination, &totals.activity)).collect();
    let endpoints = application.endpoints.iter().map(|endpoint| {
        let key = TargetKey::endpoint(&application.id, endpoint.id);
        let activity = activity.get(key.as_str()).copied();
        EndpointState::of(endpoint, targets.get(&key), activity, now)
    });
    let view = ApplicationStateView {
        application: ApplicationView::of(&application),
        endpoints: endpoints.collect(),
    };
    Ok(respond::json(StatusCode::OK, &view))
}

/// The targets of its endpoints. If the store has more restricting targets than it lists, each
/// endpoint's is read by its key.
async fn targets(
    app: &App,
    application: &Application,
) -> Result<HashMap<TargetKey, TargetState>, Problem> {
    let store = &app.context.store;
    let listed = store.targets(app.now()).await?;
    let keys = application.endpoints.iter();
    let keys = keys.map(|endpoint| TargetKey::endpoint(&application.id, endpoint.id));
    if listed.len() < MAX_TARGETS {
        let by_key = listed
            .into_iter()
            .filter_map(|state| Some((state.target.as_ref()?.key.clone(), state)));
        return Ok(by_key.collect());
    }
    // Each future owns its parts, so that the handler's future is `Send`.
    let reads: Vec<_> = keys.map(|key| read_target(Arc::clone(store), key)).collect();
    Ok(stream::iter(reads).buffer_unordered(MAX_CONCURRENT_READS).try_collect().await?)
}

async fn read_target(
    store: Arc<dyn Store>,
    key: TargetKey,
) -> Result<(TargetKey, TargetState), StoreError> {
    store.target(&key).await.map(|state| (key, state))
}

#[derive(Serialize, ToSchema)]
struct ChangeList<'a> {
    #[schema(max_items = 100)]
    items: Vec<ChangeView<'a>>,
}

/// List the changes of an application
///
/// The newest 100, newest first: who changed what. No value of a field is listed.
#[utoipa::path(
    get, path = "/applications/{application_id}/changes", tag = "Applications",
    operation_id = "list_changes",
    params(parameters::ApplicationId),
    responses(
        (status = 200, description = "The changes.", body = ChangeList<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn application_changes(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ListChanges as usize }>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let application = application.current(&app).await?;
    let items = application.changes.iter().rev().map(ChangeView::of).collect();
    Ok(respond::json(StatusCode::OK, &ChangeList { items }))
}
