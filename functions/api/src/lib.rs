//! The function `api`: HTTP in, one call of the store or the queue, the answer out.
//!
//! | module | what it holds |
//! |---|---|
//! | `boundary` | around every request: correlation id, who may call, the log of what went wrong |
//! | `lambda`, `stage` | the events that hold requests on Lambda; a path without API Gateway's stage |
//! | `auth`, `correlation`, `trace`, `app` | who may call; the call's name; the trace it is part of; what handlers share |
//! | `room` | how many requests are worked on at a time, and how many bytes they hold |
//! | `accept`, `batch`, `test_webhook` | what makes webhooks |
//! | `submission`, `fields`, `body`, `query` | what callers may say, judged field by field |
//! | `dispatch` | create, then send; and what if the queue does not take it |
//! | `idempotency` | the same request twice does the same as once |
//! | `status`, `list`, `explain` | what is known of webhooks |
//! | `cleanup`, `resend`, `dead_letters` | what operators do with them |
//! | `destinations`, `health`, `metrics`, `overview` | how it goes |
//! | `page` | the operator's page |
//! | `openapi` | all of that, described for programs |
//! | `view`, `listing`, `cursor`, `problem` | the shapes of answers, of lists, of places in lists, of errors |
//!
//! The way of a webhook: `boundary` lets the request in; `accept` reads it into a `submission`;
//! `dispatch` makes its record and stores it, and sends the message; `view` shapes the 202.
//!
//! The router is the same on Lambda and in the local stack. It keeps nothing between requests.

mod accept;
mod app;
mod auth;
mod batch;
mod body;
mod boundary;
mod cleanup;
mod correlation;
mod cursor;
mod dead_letters;
mod destinations;
mod dispatch;
mod explain;
mod fields;
mod health;
mod idempotency;
mod lambda;
mod list;
mod listing;
mod metrics;
mod openapi;
mod overview;
mod page;
mod problem;
mod query;
mod resend;
mod room;
mod stage;
mod status;
mod submission;
mod test_webhook;
mod trace;
mod view;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    middleware,
    routing::{MethodRouter, get, post},
};
use http::Uri;
use shared::context::Context;

use app::App;
pub use auth::Access;
pub use lambda::on_lambda;
#[cfg(feature = "openapi")]
pub use openapi::document;

/// The API, for whoever `access` lets in.
pub fn router(context: Context, access: Access) -> Router {
    let app = App::new(context, access);
    let routes = routes();
    let paths: Vec<&'static str> = routes.iter().map(|(path, _)| *path).collect();
    routes
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .fallback(async move |uri: Uri| boundary::not_found(&paths, &uri))
        .method_not_allowed_fallback(boundary::other_method)
        .layer(middleware::from_fn_with_state(app.clone(), boundary::around))
        .with_state(app)
}

/// The paths of the API, for who compares them with the OpenAPI document.
#[cfg(feature = "openapi")]
pub fn paths() -> Vec<&'static str> {
    routes().into_iter().map(|(path, _)| path).collect()
}

fn routes() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/webhooks", post(accept::accept)),
        ("/webhooks/batch", post(batch::accept)),
        ("/webhooks/{webhook_id}/resend", post(resend::resend)),
        ("/webhooks/{webhook_id}/explain", get(explain::explain)),
        ("/test-webhook", post(test_webhook::accept)),
        ("/webhook-status/{webhook_id}", get(status::show).delete(status::delete)),
        ("/webhook-statuses", get(list::list).delete(cleanup::delete)),
        ("/webhook-cleanup", post(cleanup::clean_up)),
        ("/dead-letters", get(dead_letters::list)),
        ("/dead-letters/redrive", post(dead_letters::redrive_many)),
        ("/dead-letters/{webhook_id}", get(dead_letters::show).delete(dead_letters::delete)),
        ("/dead-letters/{webhook_id}/redrive", post(dead_letters::redrive)),
        ("/destinations", get(destinations::list)),
        ("/health", get(health::health)),
        ("/metrics", get(metrics::show)),
        ("/overview", get(overview::show)),
        ("/openapi.json", get(openapi::show)),
        ("/", get(page::show)),
    ]
}

/// The same rule of who may call around another router: for one that passes requests to the API in
/// another process.
pub fn guarded(router: Router, access: Access) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::new(access), boundary::admitted_only))
}

/// `GET /metrics` alone, without a key: for a port of its own on loopback. As for the API without
/// keys, the `Host` must be a loopback one, so that no web page reads it through its visitor's
/// browser (DNS rebinding).
pub fn metrics_router(context: Context) -> Router {
    let router = Router::new()
        .route("/metrics", get(async |State(context): State<Context>| metrics::of(&context).await))
        .fallback(async |uri: Uri| boundary::not_found(&["/metrics"], &uri))
        .method_not_allowed_fallback(boundary::other_method)
        .with_state(context);
    guarded(router, Access::Loopback)
}
