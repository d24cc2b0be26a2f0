//! `GET /metrics`: Prometheus text. It is built from the totals in the store, so every process
//! returns the same values.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::future;
use http::header;
use shared::{
    context::Context,
    metrics::{Gauges, render},
};

use crate::{
    app::App,
    openapi::errors,
    problem::{Problem, ProblemKind},
};

/// Version 0.0.4 of the text format, which every version of Prometheus reads.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Get the metrics for Prometheus
///
/// With `ENABLE_PROMETHEUS=false`, the response is a 404.
#[utoipa::path(
    get, path = "/metrics", tag = "Watching", operation_id = "metrics",
    responses((status = 200, description = "Metrics in the Prometheus text format.", body = String,
        content_type = "text/plain"), errors::Missing),
)]
pub(crate) async fn metrics_get(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    of(&app.context).await
}

/// The metrics of this context.
pub(crate) async fn of(context: &Context) -> Result<Response, Problem> {
    if !context.config.prometheus {
        return Err(Problem::new(
            ProblemKind::NotFound,
            "Metrics are disabled. Set ENABLE_PROMETHEUS=true to enable them.",
        ));
    }
    let store = &context.store;
    let counts = async {
        // The counts of the latest sweep are at most a minute old, and reading them costs less than
        // counting.
        match store.last_sweep().await? {
            Some(report) => Ok(report.counts),
            None => store.counts().await,
        }
    };
    let now = context.clock.now();
    let (counters, counts, mut targets) =
        future::try_join3(store.counters(), counts, store.targets(now)).await?;
    // No label is a tenant's: their number has no limit.
    targets.retain(|state| state.target.as_ref().is_none_or(|target| !target.key.is_endpoint()));
    let rate_limits = context.config.rate_limits.clone();
    let text = render(&counters, &Gauges { counts, targets, rate_limits }, now);
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
}
