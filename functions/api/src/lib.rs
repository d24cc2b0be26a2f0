//! The function `api`: HTTP in, one call of the store or the queue, the answer out.
//!
//! | module | what it holds |
//! |---|---|
//! | `boundary` | around every request: correlation id, who may call, the log of what went wrong |
//! | `lambda`, `stage` | the events that hold requests on Lambda; a path without API Gateway's stage |
//! | `auth`, `correlation`, `app` | who may call; the call's name; what handlers share |
//! | `accept`, `batch`, `test_webhook` | what makes webhooks |
//! | `submission`, `fields`, `body`, `query` | what callers may say, judged field by field |
//! | `dispatch` | create, then send; and what if the queue does not take it |
//! | `idempotency` | the same request twice does the same as once |
//! | `status`, `list`, `explain` | what is known of webhooks |
//! | `cleanup`, `resend`, `dead_letters` | what operators do with them |
//! | `destinations`, `health`, `metrics` | how it goes |
//! | `view`, `cursor`, `problem` | the shapes of answers, of places in lists, of errors |
//!
//! The way of a webhook: `boundary` lets the request in; `accept` reads it into a `submission`; `dispatch` makes its record and
//! stores it, and sends the message; `view` shapes the 202.
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
mod metrics;
mod problem;
mod query;
mod resend;
mod stage;
mod status;
mod submission;
mod test_webhook;
mod view;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    middleware,
    routing::{get, post},
};
use shared::context::Context;

use app::App;
pub use auth::Access;
pub use lambda::on_lambda;

/// The API, for whoever `access` lets in.
pub fn router(context: Context, access: Access) -> Router {
    let app = App::new(context, access);
    Router::new()
        .route("/webhooks", post(accept::accept))
        .route("/webhooks/batch", post(batch::accept))
        .route("/webhooks/{webhook_id}/resend", post(resend::resend))
        .route("/webhooks/{webhook_id}/explain", get(explain::explain))
        .route("/test-webhook", post(test_webhook::accept))
        .route("/webhook-status/{webhook_id}", get(status::show).delete(status::delete))
        .route("/webhook-statuses", get(list::list).delete(cleanup::delete))
        .route("/webhook-cleanup", post(cleanup::clean_up))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/redrive", post(dead_letters::redrive_many))
        .route("/dead-letters/{webhook_id}", get(dead_letters::show).delete(dead_letters::delete))
        .route("/dead-letters/{webhook_id}/redrive", post(dead_letters::redrive))
        .route("/destinations", get(destinations::list))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::show))
        .fallback(boundary::not_found)
        .method_not_allowed_fallback(boundary::other_method)
        .layer(middleware::from_fn_with_state(app.clone(), boundary::around))
        .with_state(app)
}

/// The same rule of who may call around another router: for one that passes requests to the API in another process.
pub fn guarded(router: Router, access: Access) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::new(access), boundary::admitted_only))
}

/// `GET /metrics` alone, without a key: for a port of its own that only the machine's Prometheus reaches.
pub fn metrics_router(context: Context) -> Router {
    Router::new()
        .route("/metrics", get(async |State(context): State<Context>| metrics::of(&context).await))
        .fallback(boundary::not_found)
        .method_not_allowed_fallback(boundary::other_method)
        .with_state(context)
}
