//! Callers and operators. Both send requests through the API's router.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use api::Access;
use axum::{Router, body::Body};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use shared::{
    id::{TaskId, WebhookId},
    model::Function,
    queue::Lane,
    status::Status,
};
use tower::ServiceExt;

use crate::{
    destination::HOSTS,
    platform::invoke,
    state::{messages::NEWER, records::short},
    world::{Process, World},
};

/// The maximum number of tries of a caller with an idempotency key.
const MAX_TRIES: u32 = 8;

/// The function `api`, with its warm processes.
#[derive(Clone, Debug, Default)]
pub(super) struct Api {
    idle: Arc<Mutex<Vec<Warm>>>,
}

/// A process that can be invoked again.
type Warm = (Arc<Process>, Router);

/// A request.
#[derive(Clone, Debug)]
pub(super) struct ApiRequest {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) idempotency_key: Option<String>,
    /// An application key.
    pub(super) api_key: Option<String>,
    pub(super) body: Option<Value>,
}

impl ApiRequest {
    /// A request without a body, of a caller with full access.
    pub(super) fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), idempotency_key: None, api_key: None, body: None }
    }
}

/// A response, and the process that sent it.
#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// Whether this is the stored response to an earlier request with the same key.
    replayed: bool,
    process: Arc<Process>,
}

impl Api {
    /// Sends a request. `None`: no response.
    async fn call(
        &self,
        world: &Arc<World>,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Option<ApiResponse> {
        let request = ApiRequest {
            idempotency_key: key.map(ToOwned::to_owned),
            body: body.cloned(),
            ..ApiRequest::new(method, path)
        };
        self.send(world, request).await
    }

    /// Sends a request. `None`: no response.
    pub(super) async fn send(
        &self,
        world: &Arc<World>,
        request: ApiRequest,
    ) -> Option<ApiResponse> {
        let ApiRequest { method, path, idempotency_key: key, api_key, body } = request;
        let (key, body) = (key.as_deref(), body.as_ref());
        let warm = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (process, router) = warm.unwrap_or_else(|| {
            let process = Process::start(world, Function::Api);
            let router = api::router(process.context(), Access::Platform);
            (process, router)
        });
        *process.request.lock().unwrap_or_else(PoisonError::into_inner) =
            format!("{method} {path}");
        process.note(|| format!("{method} {path} key {key:?}"));
        let mut request = Request::builder().method(method).uri(path).header("host", "api.example");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(key) = api_key {
            request = request.header("x-api-key", key);
        }
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        let Ok(request) = request else { unreachable!("the request is valid") };
        let Ok(response) = invoke(&process, router.clone().oneshot(request)).await?;
        let replayed = response.headers().contains_key("idempotent-replayed");
        let (status, body) = read(response).await;
        process.note(|| format!("returns {status} {body}"));
        let response = ApiResponse { status, body, replayed, process: Arc::clone(&process) };
        world.change(|state| {
            // A secret that somebody has replaced in the store cannot be shown.
            let is_tampered = !state.checks.published.tampered.is_empty();
            let failed = response.status == StatusCode::INTERNAL_SERVER_ERROR && !is_tampered;
            state.checks.require(!failed, || "the API returned 500".to_owned());
        });
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((process, router));
        Some(response)
    }
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Starts the callers and the operators.
pub(super) fn start(world: &Arc<World>, api: &Api) {
    let callers = world.plan.webhooks;
    for number in 0..callers {
        let (world, api) = (Arc::clone(world), api.clone());
        world.busy.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(world.below(world.plan.busy_s * 1000))).await;
            submit(&world, &api, number * 10).await;
            world.busy.fetch_sub(1, Relaxed);
        });
    }
    for number in 0..world.plan.unreadable_messages {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(world.below(world.plan.faults_end_s * 1000)))
                .await;
            send_unreadable(&world, number);
        });
    }
    for _ in 0..world.plan.newer {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(world.below(world.plan.faults_end_s * 1000)))
                .await;
            act_as_newer_version(&world);
        });
    }
    if world.plan.newer > 0 {
        tokio::spawn(roll_forward(Arc::clone(world)));
    }
    for _ in 0..world.plan.operations {
        let (world, api) = (Arc::clone(world), api.clone());
        world.busy.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(world.below(world.plan.faults_end_s * 1000)))
                .await;
            operate(&world, &api).await;
            world.busy.fetch_sub(1, Relaxed);
        });
    }
}

/// Submits a webhook or a batch, until it is accepted, or until the result stays unknown.
async fn submit(world: &Arc<World>, api: &Api, number: u64) {
    let varied = world.plan.varied;
    let items: u64 = if varied && world.below(5) == 0 { 2 + world.below(3) } else { 1 };
    let webhooks: Vec<Value> = (0..items).map(|item| webhook(world, number + item)).collect();
    let key = (varied && world.below(2) == 0).then(|| format!("key-{number}"));
    let (path, body) = match &webhooks[..] {
        [one] => ("/webhooks", one.clone()),
        all => ("/webhooks/batch", json!({"webhooks": all})),
    };
    // Some callers repeat the request although it was accepted, as if the response was lost.
    let mut repeats = if key.is_some() && world.below(3) == 0 { 2 } else { 0 };
    for _ in 0..MAX_TRIES {
        let response = api.call(world, Method::POST, path, key.as_deref(), Some(&body)).await;
        let mut wait_ms = 200 + world.below(25_000);
        match response {
            Some(response) if response.status == StatusCode::ACCEPTED => {
                let all = check_accepted(world, &response, number, key.is_some());
                if key.is_none() || (all && repeats == 0) {
                    return;
                }
                if all {
                    repeats -= 1;
                    wait_ms = world.below(300_000);
                }
            }
            Some(response) if response.status != StatusCode::SERVICE_UNAVAILABLE => {
                return world.change(|state| {
                    state.checks.require(false, || format!("a webhook was rejected: {response:?}"));
                });
            }
            _ if key.is_none() => return,
            _ => {}
        }
        if world.plan.operations > 0 && world.below(4) == 0 {
            cancel(world, api, number..number + items).await;
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// Sends a message that no version can parse.
fn send_unreadable(world: &World, number: u64) {
    let lane = if world.below(2) == 0 { Lane::Webhooks } else { Lane::DeadLetters };
    world.change(|state| {
        let (text, now) = (format!("stray {number}"), state.now());
        state.note(&"stranger", || format!("sends {text:?} to {lane:?}"));
        state.messages.plant(lane, &text, now);
        state.checks.unreadable_messages += 1;
    });
    world.sent.notify_waiters();
}

/// Sends a message of a newer version, or marks an unfinished webhook as written by one.
fn act_as_newer_version(world: &World) {
    let lane = if world.below(2) == 0 { Lane::Webhooks } else { Lane::DeadLetters };
    world.change(|state| {
        let now = state.now();
        let open = |task: &TaskId| {
            state.records.direct(*task).is_some_and(|(webhook, _)| !webhook.status.is_finished())
        };
        let open: Vec<TaskId> =
            state.checks.accepted.iter().map(|id| id.task).filter(open).collect();
        if let Some(task) = open.get(state.chance.below(2 * open.len() as u64) as usize).copied() {
            state.note(&"newer", || format!("writes to webhook {task}"));
            state.records.newer.insert(task);
        } else {
            state.note(&"newer", || format!("sends a message to {lane:?}"));
            state.messages.plant(lane, NEWER, now);
            state.checks.newer_sent += 1;
        }
    });
    world.sent.notify_waiters();
}

/// Returns to the newer version at the end of the faults. From then on, everything is readable.
async fn roll_forward(world: Arc<World>) {
    tokio::time::sleep(Duration::from_secs(world.plan.faults_end_s)).await;
    world.change(|state| {
        state.note(&"newer", || "is back".to_owned());
        let newer = std::mem::take(&mut state.records.newer);
        // A sweep that runs now may have read them while they were unreadable.
        if state.checks.sweeping > 0 {
            state.checks.unaudited.extend(newer);
        }
        let (sent, left) = (state.checks.newer_sent, state.messages.take_newer());
        state.checks.require(left == sent, || {
            format!("{left} of {sent} messages of a newer version are left")
        });
    });
}

/// Deletes a webhook with one of these numbers. An operator can see it in the list before its
/// caller gets a response.
async fn cancel(world: &Arc<World>, api: &Api, numbers: std::ops::Range<u64>) {
    let found = {
        let state = world.state();
        let created = numbers.filter_map(|number| state.checks.created_for.get(&number)).flatten();
        created
            .filter_map(|task| state.records.direct(*task))
            .map(|(webhook, _)| webhook.id.clone())
            .next()
    };
    let Some(id) = found else { return };
    let response =
        api.call(world, Method::DELETE, &format!("/webhook-status/{id}"), None, None).await;
    if response.is_some_and(|response| response.status == StatusCode::NO_CONTENT) {
        confirm_deletion(world, &id);
    }
}

/// Records and checks the 204 of a deletion.
fn confirm_deletion(world: &World, id: &WebhookId) {
    world.change(|state| {
        let exists = state.records.stored(id).is_some();
        state.checks.require(!exists, || format!("{id} exists after its deletion returned 204"));
        state.checks.deletion_confirmed.insert(id.clone());
    });
}

/// A webhook with this number in its payload.
fn webhook(world: &Arc<World>, number: u64) -> Value {
    let url = match world.plan.traffic {
        Some(traffic) => traffic.draw_url(&mut world.state().chance),
        None if world.plan.stopped.is_some() => format!("https://{}/hook", HOSTS[0]),
        None => format!("https://{}/hook", HOSTS[world.below(HOSTS.len() as u64) as usize]),
    };
    let mut webhook = json!({"url": url, "payload": {"n": number}});
    if !world.plan.varied {
        return webhook;
    }
    if world.below(3) == 0 {
        webhook["reference_id"] = json!(format!("order-{}", world.below(3)));
    }
    if world.below(6) == 0 {
        let at = world.now().plus(Duration::from_millis(world.below(2_400_000)));
        world.state().checks.deliver_at.insert(number, at);
        webhook["deliver_at"] = json!(at.to_string());
    }
    match world.below(8) {
        0 => {
            webhook["retry"] = json!({"max_attempts": 1 + world.below(14),
                "base_delay_ms": world.below(3000), "factor": 1.0});
        }
        1 => webhook["retry"] = json!({"schedule_ms": [1000, 200_000, 5000]}),
        2 => webhook["retry"] = json!({"max_attempts": 5, "jitter": 0.0}),
        _ => {}
    }
    webhook
}

/// Records and checks a 202. Returns whether all items were accepted.
fn check_accepted(world: &Arc<World>, response: &ApiResponse, first: u64, keyed: bool) -> bool {
    let results = response.body.get("results").and_then(Value::as_array);
    let single = [response.body.clone()];
    let results = results.map_or(&single[..], Vec::as_slice);
    let without_faults = !response.replayed && response.process.failed_calls.load(Relaxed) == 0;
    let mut all = true;
    for (number, result) in (first..).zip(results) {
        let Some(id) = result["webhook_id"].as_str().and_then(|id| id.parse::<WebhookId>().ok())
        else {
            all = false;
            continue;
        };
        world.change(|state| {
            let created = state.checks.created_for.get(&number).cloned().unwrap_or_default();
            state.checks.require(created.contains(&id.task), || {
                format!("{id} was accepted and never created for number {number}")
            });
            let twice = keyed && state.checks.has_several(number);
            state.checks.require(!twice, || {
                format!("number {number} was created {} times under one key", created.len())
            });
            let first_id =
                state.checks.first_id.entry(number).or_insert_with(|| id.clone()).clone();
            state.checks.require(first_id == id, || {
                format!("number {number} was accepted as {first_id} and then as {id}")
            });
            state.checks.accepted.insert(id.clone());
            let loses_none = world.plan.lost == 0.0;
            if let Some((webhook, _)) =
                state.records.direct(id.task).filter(|_| loses_none && without_faults)
            {
                let held = webhook.status.is_finished()
                    || webhook.due_at.is_some()
                    || state.messages.has_message_for(&id);
                let name = short(webhook);
                state.checks.require(held, || format!("{name} was accepted without a holder"));
            }
        });
    }
    all
}

/// Waits for a webhook that has failed and is not archived yet, so that an operator can interfere.
async fn wait_for_unarchived_failure(world: &Arc<World>) -> Option<WebhookId> {
    for _ in 0..2000 {
        let failed = {
            let state = world.state();
            let mut webhooks = state.records.webhooks.values().map(|(webhook, _)| webhook);
            let found = webhooks
                .find(|webhook| webhook.status == Status::Failed && webhook.archived_at.is_none());
            found.map(|webhook| webhook.id.clone())
        };
        if failed.is_some() {
            return failed;
        }
        tokio::time::sleep(Duration::from_millis(9)).await;
    }
    None
}

/// Makes a request of an operator.
async fn operate(world: &Arc<World>, api: &Api) {
    let known: Vec<WebhookId> = world.state().checks.accepted.iter().cloned().collect();
    let Some(id) = known.get(world.below(known.len() as u64) as usize) else { return };
    let reference = format!("order-{}", world.below(3));
    let unarchived =
        if world.below(3) == 0 { wait_for_unarchived_failure(world).await } else { None };
    let id = unarchived.as_ref().unwrap_or(id);
    let (method, path) = match if unarchived.is_some() { 2 } else { world.below(10) } {
        0 | 1 => (Method::DELETE, format!("/webhook-status/{id}")),
        2 | 3 => (Method::POST, format!("/webhooks/{id}/resend")),
        4 | 5 => (Method::POST, format!("/dead-letters/{id}/redrive")),
        6 => (Method::POST, "/dead-letters/redrive".to_owned()),
        7 => (Method::POST, format!("/webhook-cleanup?reference_id={reference}")),
        8 => (Method::DELETE, format!("/webhook-statuses?reference_id={reference}")),
        _ => (Method::DELETE, format!("/dead-letters/{id}")),
    };
    let key = (method == Method::POST && world.below(2) == 0)
        .then(|| format!("operator-{}", world.below(1000)));
    for _ in 0..4 {
        let response = api.call(world, method.clone(), &path, key.as_deref(), None).await;
        let Some(response) =
            response.filter(|response| response.status != StatusCode::SERVICE_UNAVAILABLE)
        else {
            tokio::time::sleep(Duration::from_millis(200 + world.below(9000))).await;
            continue;
        };
        if response.status == StatusCode::NO_CONTENT {
            confirm_deletion(world, id);
        }
        return;
    }
}
