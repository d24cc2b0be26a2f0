//! Removes the stage of API Gateway from a request's path. The stage precedes the path and is not
//! part of any route.

use http::{Request, Uri, uri::PathAndQuery};
use lambda_http::request::RequestContext;

/// The request without its stage: `/prod/webhooks` in the stage `prod` becomes `/webhooks`.
/// Function URLs and load balancers have no stages, and no path contains the stage `$default`.
pub(crate) fn without_stage<B>(mut request: Request<B>) -> Request<B> {
    let stage = match request.extensions().get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV1(context)) => context.stage.as_deref(),
        Some(RequestContext::ApiGatewayV2(context)) => context.stage.as_deref(),
        _ => None,
    };
    if let Some(path) = stage.and_then(|stage| strip(request.uri(), stage)) {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(path);
        // The path still starts with a slash, so the parts are still a URI.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

fn strip(uri: &Uri, stage: &str) -> Option<PathAndQuery> {
    let rest = uri.path_and_query()?.as_str().strip_prefix('/')?.strip_prefix(stage)?;
    match rest.bytes().next() {
        Some(b'/') => rest.parse().ok(),
        Some(b'?') | None => format!("/{rest}").parse().ok(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_first_segment_is_a_stage() {
        for (path, without) in [
            ("/prod/webhooks?a=/prod/x", Some("/webhooks?a=/prod/x")),
            ("https://host/prod", Some("/")),
            ("/prod?a=b", Some("/?a=b")),
            ("/production/webhooks", None),
            ("/webhooks/prod/x", None),
        ] {
            let found = strip(&path.parse().unwrap(), "prod");
            assert_eq!(found.as_ref().map(PathAndQuery::as_str), without, "{path}");
        }
    }
}
