//! A proxy between the functions and the emulator. It counts each request and the units that AWS
//! bills for it.
//!
//! The functions sign their requests for the proxy's address, and the proxy forwards them
//! unchanged. After an update, the proxy reads the item from the emulator to know its size.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use axum::{Router, body::Body, extract::State, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::units::{Item, Mirror, QueryRange};
use harness::client::http_client;

/// The largest request or response to forward: larger than DynamoDB's limit.
const MAX_BODY_BYTES: usize = 20 * 1024 * 1024;

/// Bytes of a billed SQS request.
const SQS_CHUNK_BYTES: usize = 64 * 1024;

/// The requests of one kind by one function.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Number of requests.
    pub requests: u64,
    /// Of DynamoDB.
    pub write_units: f64,
    /// Of DynamoDB.
    pub read_units: f64,
    /// Of SQS: 64 KiB each.
    pub billed: u64,
    /// Messages sent to SQS.
    pub messages: u64,
}

/// The tallies by function and operation.
pub type Tallies = BTreeMap<(String, String), Tally>;

/// The sum over all requests.
pub(super) fn sum_of(tallies: &Tallies, of: fn(&Tally) -> f64) -> f64 {
    tallies.values().map(of).sum()
}

#[derive(Debug)]
struct Shared {
    upstream: OnceLock<String>,
    http: reqwest::Client,
    counted: Mutex<(Mirror, Tallies)>,
}

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1. Returns 503 until it knows the emulator's address.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let http = http_client().map_err(std::io::Error::other)?;
        let shared =
            Arc::new(Shared { upstream: OnceLock::new(), http, counted: Mutex::default() });
        let router = Router::new().fallback(forward).with_state(Arc::clone(&shared));
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shared, server })
    }

    /// Its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the emulator's address.
    pub fn forward_to(&self, endpoint: &str) {
        let _ = self.shared.upstream.set(endpoint.to_owned());
    }

    /// The tallies since the last call.
    pub fn take(&self) -> Tallies {
        std::mem::take(&mut self.shared.counted.lock().unwrap_or_else(PoisonError::into_inner).1)
    }
}

impl Proxy {
    /// Requests since the last [`take`](Self::take).
    pub fn requests(&self) -> u64 {
        let counted = self.shared.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.1.values().map(|tally| tally.requests).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    match forwarded(&shared, request).await {
        Ok(response) => response,
        Err(why) => {
            let mut response = Response::new(Body::from(why));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }
}

async fn forwarded(shared: &Shared, request: Request<Body>) -> Result<Response, String> {
    let upstream = shared.upstream.get().ok_or("the emulator is not running yet")?;
    let (parts, body) = request.into_parts();
    let body =
        axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| error.to_string())?;
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut headers = parts.headers.clone();
    headers.remove(header::CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    let call = shared
        .http
        .request(parts.method, format!("{upstream}{path}"))
        .headers(headers)
        .body(body.clone());
    let answer = call.send().await.map_err(|error| error.to_string())?;
    let (status, answer_headers) = (answer.status(), answer.headers().clone());
    let answer_body = answer.bytes().await.map_err(|error| error.to_string())?;
    count(shared, upstream, &parts.headers, &body, status, &answer_body).await;
    let mut response = Response::new(Body::from(answer_body));
    *response.status_mut() = status;
    for (name, value) in &answer_headers {
        if *name != header::CONNECTION
            && *name != header::TRANSFER_ENCODING
            && *name != header::CONTENT_LENGTH
        {
            response.headers_mut().append(name, value.clone());
        }
    }
    Ok(response)
}

/// The calling function, from the user agent.
fn caller(headers: &HeaderMap) -> String {
    let agent = headers
        .get("x-amz-user-agent")
        .or_else(|| headers.get(header::USER_AGENT))
        .and_then(|value| value.to_str().ok());
    let name = agent.unwrap_or_default().split(' ').find_map(|part| part.strip_prefix("app/"));
    name.unwrap_or("unknown").to_owned()
}

async fn count(
    shared: &Shared,
    upstream: &str,
    headers: &HeaderMap,
    body: &Bytes,
    status: StatusCode,
    answer: &Bytes,
) {
    let Some(target) = headers.get("x-amz-target").and_then(|value| value.to_str().ok()) else {
        return;
    };
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let (service, operation) = target.split_once('.').unwrap_or((target, ""));
    let tally = match service {
        "AmazonSQS" => of_sqs(&request, body.len()),
        "DynamoDB_20120810" => {
            // Read before taking the lock.
            let left = if operation == "UpdateItem" && status.is_success() {
                read_back(shared, upstream, &request).await
            } else {
                None
            };
            let mut counted = shared.counted.lock().unwrap_or_else(PoisonError::into_inner);
            of_dynamodb(&mut counted.0, operation, &request, status, &answer, left)
        }
        _ => Tally { requests: 1, ..Tally::default() },
    };
    let mut counted = shared.counted.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = counted.1.entry((caller(headers), operation.to_owned())).or_default();
    sum.requests += tally.requests;
    sum.write_units += tally.write_units;
    sum.read_units += tally.read_units;
    sum.billed += tally.billed;
    sum.messages += tally.messages;
}

fn of_sqs(request: &Value, bytes: usize) -> Tally {
    let messages = request.get("Entries").and_then(Value::as_array).map_or(1, Vec::len) as u64;
    Tally {
        requests: 1,
        billed: bytes.div_ceil(SQS_CHUNK_BYTES).max(1) as u64,
        messages,
        ..Tally::default()
    }
}

/// The item after an update.
async fn read_back(shared: &Shared, upstream: &str, request: &Value) -> Option<Item> {
    let wanted = json!({ "TableName": request.get("TableName"), "Key": request.get("Key"),
        "ConsistentRead": true });
    let call = shared
        .http
        .post(upstream)
        .header("x-amz-target", "DynamoDB_20120810.GetItem")
        .header(header::CONTENT_TYPE, "application/x-amz-json-1.0")
        // The emulator does not check the signature of its root user.
        .header(
            header::AUTHORIZATION,
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, \
             SignedHeaders=host, Signature=0",
        )
        .body(wanted.to_string());
    let answer: Value =
        serde_json::from_slice(&call.send().await.ok()?.bytes().await.ok()?).ok()?;
    answer.get("Item")?.as_object().cloned()
}

fn of_dynamodb(
    mirror: &mut Mirror,
    operation: &str,
    request: &Value,
    status: StatusCode,
    answer: &Value,
    left: Option<Item>,
) -> Tally {
    let object =
        |name: &str| request.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let flag = |name: &str| request.get(name).and_then(Value::as_bool).unwrap_or_default();
    let refused = !status.is_success();
    let mut tally = Tally { requests: 1, ..Tally::default() };
    match operation {
        "PutItem" if refused => tally.write_units = mirror.refused(&object("Item")),
        "UpdateItem" | "DeleteItem" if refused => {
            tally.write_units = mirror.refused(&object("Key"));
        }
        _ if refused => {}
        "PutItem" => tally.write_units = mirror.write(&object("Item"), Some(object("Item"))),
        "UpdateItem" => tally.write_units = mirror.write(&object("Key"), left),
        "DeleteItem" => tally.write_units = mirror.write(&object("Key"), None),
        "TransactWriteItems" => {
            let deletes =
                request.get("TransactItems").and_then(Value::as_array).into_iter().flatten();
            for key in deletes.filter_map(|item| item.pointer("/Delete/Key")?.as_object()) {
                tally.write_units += 2.0 * mirror.write(key, None);
            }
        }
        "GetItem" => tally.read_units = mirror.read(&object("Key"), flag("ConsistentRead")),
        "BatchGetItem" => {
            for table in object("RequestItems").values() {
                let consistent =
                    table.get("ConsistentRead").and_then(Value::as_bool).unwrap_or_default();
                let keys = table
                    .get("Keys")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_object);
                tally.read_units += keys.map(|key| mirror.read(key, consistent)).sum::<f64>();
            }
        }
        "Query" => {
            let value = |name: &str| {
                request
                    .pointer(&format!("/ExpressionAttributeValues/{name}/S"))
                    .and_then(Value::as_str)
            };
            let range = QueryRange {
                index: request.get("IndexName").and_then(Value::as_str),
                partition: value(":partition").unwrap_or_default(),
                between: (value(":low").unwrap_or_default(), value(":high").unwrap_or_default()),
                backwards: request.get("ScanIndexForward").and_then(Value::as_bool) == Some(false),
                start: request.get("ExclusiveStartKey").and_then(Value::as_object),
                scanned: answer.get("ScannedCount").and_then(Value::as_u64).unwrap_or_default()
                    as usize,
            };
            tally.read_units = mirror.query(&range, flag("ConsistentRead"));
        }
        _ => {}
    }
    tally
}
