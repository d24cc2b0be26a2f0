//! `GET /metrics`: Prometheus text, from the store's totals, so it is the same whichever process
//! answers.

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
    problem::{Kind, Problem},
};

/// Version 0.0.4 of the text format, which every Prometheus reads.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/metrics", tag = "Watching", operation_id = "metrics",
    summary = "Figures for Prometheus",
    description = "404 where they are switched off (ENABLE_PROMETHEUS=false).",
    responses((status = 200, description = "Text exposition format.", body = String,
        content_type = "text/plain"), crate::openapi::errors::Missing),
))]
pub(crate) async fn show(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    of(&app.context).await
}

/// The same without the rest of the API.
pub(crate) async fn of(context: &Context) -> Result<Response, Problem> {
    if !context.config.prometheus {
        return Err(Problem::new(
            Kind::NotFound,
            "Metrics are switched off (ENABLE_PROMETHEUS=false).",
        ));
    }
    let store = &context.store;
    let counts = async {
        // Counting can cost more than reading what the sweep counted a minute ago.
        match store.last_sweep().await? {
            Some(report) => Ok(report.counts),
            None => store.counts().await,
        }
    };
    let (counters, counts, circuits) =
        future::try_join3(store.counters(), counts, store.circuits()).await?;
    let text = render(&counters, &Gauges { counts, circuits }, context.clock.now());
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
}
