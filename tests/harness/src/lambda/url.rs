//! Function URLs: converts an HTTP request to an event of payload format 2.0, and the function's
//! response to an HTTP response.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    extract::{Path as Segments, Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, request::Parts};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::clock::{Clock, SystemClock};

use super::{Functions, MAX_BYTES};

/// The response of a function.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    cookies: Vec<String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

pub(super) async fn call(
    State(functions): State<Arc<Functions>>,
    Segments(segments): Segments<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let name = segments
        .into_iter()
        .find(|(key, _)| key == "name")
        .map(|(_, name)| name)
        .unwrap_or_default();
    let Some(function) = functions.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let Ok(body) = axum::body::to_bytes(body, MAX_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let event = event(&name, &parts, &body);
    let answered = function.invoke(event.to_string().into()).await.ok();
    answered
        .and_then(|answer| response(&answer))
        .unwrap_or_else(|| StatusCode::BAD_GATEWAY.into_response())
}

/// See "Invoking Lambda function URLs" in the AWS documentation, payload format version 2.0.
fn event(name: &str, parts: &Parts, body: &Bytes) -> Value {
    let path = parts
        .uri
        .path()
        .strip_prefix(&format!("/lambda-url/{name}"))
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let now = SystemClock.now();
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": parts.uri.query().unwrap_or_default(),
        "headers": joined(&parts.headers),
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": "local.lambda-url.local.on.aws",
            "domainPrefix": "local",
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "test",
            },
            "requestId": format!("url-{}", now.as_millis()),
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": now.as_millis(),
        },
        "body": if body.is_empty() { Value::Null } else { BASE64.encode(body).into() },
        "isBase64Encoded": !body.is_empty(),
    })
}

/// Joins the values of each header.
fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut joined = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let Ok(value) = value.to_str() else { continue };
        joined
            .entry(name.as_str().to_owned())
            .and_modify(|all| *all = format!("{all},{value}"))
            .or_insert(value.to_owned());
    }
    joined
}

fn response(answer: &[u8]) -> Option<Response> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let body = answer.body.unwrap_or_default();
    let body = if answer.is_base64_encoded { BASE64.decode(body).ok()? } else { body.into_bytes() };
    let mut response = http::Response::builder().status(answer.status_code);
    for (name, value) in answer.headers.iter().filter(|(name, _)| *name != "content-length") {
        response = response.header(name, value);
    }
    for cookie in &answer.cookies {
        response = response.header(http::header::SET_COOKIE, cookie);
    }
    response.body(Body::from(body)).ok()
}
