//! The API as a Lambda function. It accepts the events of function URLs, HTTP APIs, REST APIs and
//! load balancers, and returns responses in their formats.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
};

use axum::Router;
use http::{HeaderMap, header};
use lambda_http::{
    Adapter, Body, Context, LambdaEvent, Service,
    aws_lambda_events::{
        alb::AlbTargetGroupRequest,
        apigw::{ApiGatewayProxyRequest, ApiGatewayV2httpRequest},
    },
    request::LambdaRequest,
    service_fn,
};
use serde::Serialize;
use tower::util::MapRequest;

use crate::edge::stage::without_stage;

/// A path without a route.
const UNKNOWN_PATH: &str = "/-";

/// The service that the runtime calls. Every HTTP event gets a response.
///
/// `lambda_http` builds a URL from the scheme, host, path and query of an event, and panics if they
/// are not a valid URL. API Gateway decodes paths, and a load balancer passes on any `Host`, so a
/// caller can cause that. The invocation must not fail: such an event gets the response for an
/// unknown route.
pub fn on_lambda(
    router: Router,
) -> impl Service<LambdaEvent<LambdaRequest>, Response = impl Serialize, Error = Infallible> + Clone
{
    // Outside the router, because a router matches the route before it runs its own layers.
    let adapter = Adapter::from(MapRequest::new(router, without_stage::<Body>));
    service_fn(move |event: LambdaEvent<LambdaRequest>| {
        let mut adapter = adapter.clone();
        let fallback = to_unknown_path(&event.payload);
        // The URL is built before the call returns its future.
        let called = catch_unwind(AssertUnwindSafe(|| adapter.call(event)));
        called.unwrap_or_else(|_| adapter.call(LambdaEvent::new(fallback, Context::default())))
    })
}

/// An event of the same source and caller, for an unknown route.
fn to_unknown_path(event: &LambdaRequest) -> LambdaRequest {
    let without_url = |headers: &HeaderMap| {
        let mut headers = headers.clone();
        headers.remove(header::HOST);
        headers.remove("x-forwarded-proto");
        headers
    };
    let path = Some(UNKNOWN_PATH.to_owned());
    match event {
        LambdaRequest::ApiGatewayV2(event) => {
            let mut instead = ApiGatewayV2httpRequest::default();
            (instead.headers, instead.raw_path) = (without_url(&event.headers), path);
            instead.request_context.authorizer.clone_from(&event.request_context.authorizer);
            LambdaRequest::ApiGatewayV2(instead)
        }
        LambdaRequest::Alb(event) => {
            let mut instead = AlbTargetGroupRequest::default();
            (instead.headers, instead.path) = (without_url(&event.headers), path);
            instead.multi_value_headers = without_url(&event.multi_value_headers);
            LambdaRequest::Alb(instead)
        }
        LambdaRequest::ApiGatewayV1(event) => {
            let mut instead = ApiGatewayProxyRequest::default();
            (instead.headers, instead.path) = (without_url(&event.headers), path);
            instead.multi_value_headers = without_url(&event.multi_value_headers);
            LambdaRequest::ApiGatewayV1(instead)
        }
        _ => LambdaRequest::Alb(AlbTargetGroupRequest::default()),
    }
}
