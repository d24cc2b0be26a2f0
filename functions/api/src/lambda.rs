//! The API as a Lambda function: events of function URLs, HTTP APIs, REST APIs and load balancers
//! in, answers in their shapes out.

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

use crate::stage::without_stage;

/// A path that no route has.
const NOWHERE: &str = "/-";

/// What the runtime calls. Every event that is one of HTTP is answered.
///
/// The library makes a URL of an event's scheme, host, path and query, and panics if they do not
/// make one. API Gateway decodes paths, and a load balancer passes on any `Host`, so such an event
/// is a caller's mistake and no reason for an invocation to fail: it is answered as a request for a
/// route that there is not.
pub fn on_lambda(
    router: Router,
) -> impl Service<LambdaEvent<LambdaRequest>, Response = impl Serialize, Error = Infallible> + Clone
{
    // Outside of the router, which chooses the route before it runs anything of its own.
    let adapter = Adapter::from(MapRequest::new(router, without_stage::<Body>));
    service_fn(move |event: LambdaEvent<LambdaRequest>| {
        let mut adapter = adapter.clone();
        let instead = to_nowhere(&event.payload);
        // The URL is made before the call returns its future.
        let called = catch_unwind(AssertUnwindSafe(|| adapter.call(event)));
        called.unwrap_or_else(|_| adapter.call(LambdaEvent::new(instead, Context::default())))
    })
}

/// An event of the same source and caller that names no route.
fn to_nowhere(event: &LambdaRequest) -> LambdaRequest {
    let without_url = |headers: &HeaderMap| {
        let mut headers = headers.clone();
        headers.remove(header::HOST);
        headers.remove("x-forwarded-proto");
        headers
    };
    let path = Some(NOWHERE.to_owned());
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
