//! The trace that a request belongs to: the caller's (W3C Trace Context), or X-Ray's on Lambda.

use http::{HeaderName, HeaderValue, request::Parts};
use shared::trace::Trace;

/// The header with the caller's trace.
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with vendors' additions to it.
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace of the request, if it has one.
pub(crate) fn of(parts: &Parts) -> Option<Trace> {
    given(parts).or_else(|| Trace::from_xray(xray_id(parts)?))
}

/// X-Ray's header of this invocation, if Lambda passes one.
pub(crate) fn xray_id(parts: &Parts) -> Option<&str> {
    parts.extensions.get::<lambda_http::Context>()?.xray_trace_id.as_deref()
}

fn given(parts: &Parts) -> Option<Trace> {
    let mut parents = parts.headers.get_all(TRACE_PARENT).iter();
    let parent = parents.next()?;
    // With several headers, it is unclear which one is meant.
    if parents.next().is_some() {
        return None;
    }
    let states: Option<Vec<&str>> = parts.headers.get_all(TRACE_STATE).iter().map(text).collect();
    Trace::parse(text(parent)?, &states.unwrap_or_default())
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn of_headers(headers: &[(&str, &[u8])], xray: Option<&str>) -> Option<Trace> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(xray) = xray {
            let mut context = lambda_http::Context::default();
            context.xray_trace_id = Some(xray.to_owned());
            parts.extensions.insert(context);
        }
        of(&parts)
    }

    #[test]
    fn the_caller_s_trace_precedes_x_ray_s_and_an_ambiguous_one_is_ignored() {
        let xray = Some("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1");
        let given = of_headers(
            &[("traceparent", PARENT.as_bytes()), ("tracestate", b"a=1"), ("tracestate", b"b=2")],
            xray,
        )
        .unwrap();
        assert_eq!(
            (given.id.as_str(), given.state.as_deref()),
            ("4bf92f3577b34da6a3ce929d0e0e4736", Some("a=1,b=2"))
        );
        let twice: &[(&str, &[u8])] =
            &[("traceparent", PARENT.as_bytes()), ("traceparent", PARENT.as_bytes())];
        assert_eq!(of_headers(twice, None), None);
        assert_eq!(of_headers(twice, xray).unwrap().id, "5759e988bd862e3fe1be46a994272793");
        assert_eq!(of_headers(&[("traceparent", b"\xff")], None), None);
        assert_eq!(
            of_headers(&[("tracestate", b"a=1")], None),
            None,
            "without a parent there is no trace"
        );
        let broken =
            of_headers(&[("traceparent", PARENT.as_bytes()), ("tracestate", b"\xff")], None)
                .unwrap();
        assert_eq!(broken.state, None);
    }
}
