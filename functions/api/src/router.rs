//! The routes of the API.
//!
//! Each handler states its path, method and documentation once, in its `#[utoipa::path]`. The list
//! below adds it to the router and to the OpenAPI document. Only the test that compares the
//! document with `openapi.json` builds the document; the function's binary does not contain that
//! code.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    middleware,
    routing::{MethodFilter, get, on},
};
use http::Uri;
use serde_json::Value;
use shared::context::Context;
use utoipa::{OpenApi, Path, openapi::HttpMethod};

use crate::{
    app::App,
    edge::{auth::Access, boundary},
    openapi,
    routes::{
        application_keys, application_put, applications, dead_letter_redrive, dead_letters,
        delivery, delivery_list, destinations, endpoint_change, endpoint_create, endpoint_secret,
        endpoint_test, endpoints, health, message_create, message_create_batch, message_list,
        message_resend, message_status, metrics, overview, page, spec, test_webhook,
        webhook_cleanup, webhook_create, webhook_create_batch, webhook_explain, webhook_list,
        webhook_resend, webhook_status,
    },
};

/// Adds each handler to the router and to the OpenAPI document.
macro_rules! operations {
    ($($module:ident::$handler:ident),+ $(,)?) => { pastey::paste! {
        #[derive(OpenApi)]
        #[openapi(paths($($module::$handler),+))]
        struct Operations;

        fn operation_paths() -> Vec<String> {
            vec![$($module::[<__path_ $handler>]::path()),+]
        }

        fn add_operations(router: Router<Arc<App>>) -> Router<Arc<App>> {
            router$(.route(
                &$module::[<__path_ $handler>]::path(),
                on(methods(&$module::[<__path_ $handler>]::methods()), $module::$handler),
            ))+
        }
    }};
}

operations! {
    webhook_create::webhook_create,
    webhook_create_batch::webhook_create_batch,
    test_webhook::test_webhook_create,
    webhook_status::webhook_get,
    webhook_status::webhook_delete,
    webhook_list::webhook_list,
    webhook_cleanup::webhook_delete_many,
    webhook_cleanup::webhook_cleanup,
    webhook_resend::webhook_resend,
    webhook_explain::webhook_explain,
    message_create::message_create,
    message_create_batch::message_create_batch,
    message_list::message_list,
    message_status::message_get,
    message_status::message_delete,
    message_resend::message_resend,
    endpoint_test::endpoint_test,
    delivery_list::delivery_list,
    delivery::delivery_get,
    delivery::delivery_explain,
    delivery::delivery_resend,
    dead_letters::dead_letter_list,
    dead_letters::dead_letter_get,
    dead_letters::dead_letter_delete,
    dead_letter_redrive::dead_letter_redrive,
    dead_letter_redrive::dead_letter_redrive_many,
    destinations::destination_list,
    applications::application_list,
    application_put::application_put,
    applications::application_get,
    applications::application_changes,
    application_keys::key_create,
    application_keys::key_list,
    application_keys::key_delete,
    endpoint_create::endpoint_create,
    endpoints::endpoint_list,
    endpoints::endpoint_get,
    endpoint_change::endpoint_patch,
    endpoints::endpoint_delete,
    endpoint_change::endpoint_enable,
    endpoint_change::endpoint_disable,
    endpoint_secret::endpoint_secret_get,
    health::health_get,
    metrics::metrics_get,
    overview::overview_get,
    spec::spec_get,
}

/// The operator's page. It is for browsers and not part of the documented API.
const PAGE: &str = "/";

/// The only route of [`metrics_router`].
const METRICS: &str = "/metrics";

fn methods(methods: &[HttpMethod]) -> MethodFilter {
    let filter = |method: &HttpMethod| match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    };
    methods.iter().map(filter).reduce(MethodFilter::or).unwrap_or(MethodFilter::GET)
}

/// The API, for callers that `access` admits.
pub fn router(context: Context, access: Access) -> Router {
    let app = App::new(context, access);
    let paths: Arc<[String]> = paths().into();
    add_operations(Router::new())
        .route(PAGE, get(page::page_get))
        .fallback(async move |uri: Uri| boundary::not_found(&paths, &uri))
        .method_not_allowed_fallback(boundary::method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), boundary::handle))
        .with_state(app)
}

/// The paths of the API, with the operator's page.
pub fn paths() -> Vec<String> {
    let mut paths = operation_paths();
    paths.push(PAGE.to_owned());
    paths
}

/// The OpenAPI document that the code describes.
pub fn document() -> Value {
    openapi::document::complete(&Operations::openapi())
}

/// Applies the access rule to another router, such as one that forwards requests to the API in
/// another process.
pub fn guarded(router: Router, access: Access) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::new(access), boundary::admit_only))
}

/// `GET /metrics` alone, without a key, for a separate port on loopback. As for an API without
/// keys, the `Host` must be a loopback one. That stops a web page from reading the metrics through
/// a browser on this machine (DNS rebinding).
pub fn metrics_router(context: Context) -> Router {
    let paths: Arc<[String]> = [METRICS.to_owned()].into();
    let router = Router::new()
        .route(METRICS, get(async |State(context): State<Context>| metrics::of(&context).await))
        .fallback(async move |uri: Uri| boundary::not_found(&paths, &uri))
        .method_not_allowed_fallback(boundary::method_not_allowed)
        .with_state(context);
    guarded(router, Access::Loopback)
}
