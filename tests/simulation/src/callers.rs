//! Callers, who send webhooks, and operators, who meddle. Both go through the API's own router.

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

/// How often a caller with a key tries again.
const MAX_TRIES: u32 = 8;

/// The function `api`, and its warm processes.
#[derive(Clone, Debug, Default)]
pub(super) struct Api {
    idle: Arc<Mutex<Vec<Warm>>>,
}

/// A process that can be called again.
type Warm = (Arc<Process>, Router);

/// What came back, and from whom.
#[derive(Debug)]
struct Called {
    status: StatusCode,
    body: Value,
    /// The answer that was given to an earlier request with this key; this one did nothing.
    replayed: bool,
    process: Arc<Process>,
}

impl Api {
    /// One request. `None`: no answer.
    async fn call(
        &self,
        world: &Arc<World>,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Option<Called> {
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
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        let Ok(request) = request else { unreachable!("the parts are good") };
        let Ok(response) = invoke(&process, router.clone().oneshot(request)).await?;
        let replayed = response.headers().contains_key("idempotent-replayed");
        let (status, body) = read(response).await;
        process.note(|| format!("answers {status} {body}"));
        let called = Called { status, body, replayed, process: Arc::clone(&process) };
        world.change(|state| {
            state.watch.must(called.status != StatusCode::INTERNAL_SERVER_ERROR, || {
                "the API answered 500".to_owned()
            });
        });
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((process, router));
        Some(called)
    }
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Starts everybody.
pub(super) fn start(world: &Arc<World>) {
    let api = Api::default();
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
    for number in 0..world.plan.strays {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(world.below(world.plan.faults_end_s * 1000)))
                .await;
            stray(&world, number);
        });
    }
    for _ in 0..world.plan.newer {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(world.below(world.plan.faults_end_s * 1000)))
                .await;
            newer(&world);
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

/// Asks for one webhook, or a batch of them, until it is accepted or nobody can know.
async fn submit(world: &Arc<World>, api: &Api, number: u64) {
    let varied = world.plan.varied;
    let items: u64 = if varied && world.below(5) == 0 { 2 + world.below(3) } else { 1 };
    let webhooks: Vec<Value> = (0..items).map(|item| webhook(world, number + item)).collect();
    let key = (varied && world.below(2) == 0).then(|| format!("key-{number}"));
    let (path, body) = match &webhooks[..] {
        [one] => ("/webhooks", one.clone()),
        all => ("/webhooks/batch", json!({"webhooks": all})),
    };
    // Some callers ask again although they were answered: their answer was lost on its way.
    let mut again = if key.is_some() && world.below(3) == 0 { 2 } else { 0 };
    for _ in 0..MAX_TRIES {
        let called = api.call(world, Method::POST, path, key.as_deref(), Some(&body)).await;
        let mut wait_ms = 200 + world.below(25_000);
        match called {
            Some(called) if called.status == StatusCode::ACCEPTED => {
                let whole = accepted(world, &called, number, key.is_some());
                if key.is_none() || (whole && again == 0) {
                    return;
                }
                if whole {
                    again -= 1;
                    wait_ms = world.below(300_000);
                }
            }
            Some(called) if called.status != StatusCode::SERVICE_UNAVAILABLE => {
                return world.change(|state| {
                    state.watch.must(false, || format!("a webhook was refused: {called:?}"));
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

/// Somebody sends what is no message of ours.
fn stray(world: &World, number: u64) {
    let lane = if world.below(2) == 0 { Lane::Webhooks } else { Lane::DeadLetters };
    world.change(|state| {
        let (text, now) = (format!("stray {number}"), state.now());
        state.note(&"somebody", || format!("sends {text:?} to {lane:?}"));
        state.messages.plant(lane, &text, now);
        state.watch.strays += 1;
    });
    world.sent.notify_waiters();
}

/// A newer version sends a message, or writes to a webhook that is on its way.
fn newer(world: &World) {
    let lane = if world.below(2) == 0 { Lane::Webhooks } else { Lane::DeadLetters };
    world.change(|state| {
        let now = state.now();
        let open = |task: &TaskId| {
            state
                .records
                .webhooks
                .get(task)
                .is_some_and(|(webhook, _)| !webhook.status.is_finished())
        };
        let open: Vec<TaskId> =
            state.watch.accepted.iter().map(|id| id.task).filter(open).collect();
        if let Some(task) = open.get(state.chance.below(2 * open.len() as u64) as usize).copied() {
            state.note(&"newer", || format!("writes to webhook {task}"));
            state.records.newer.insert(task);
        } else {
            state.note(&"newer", || format!("sends a message to {lane:?}"));
            state.messages.plant(lane, NEWER, now);
            state.watch.newer_sent += 1;
        }
    });
    world.sent.notify_waiters();
}

/// The newer version comes back: from then on everything can be read.
async fn roll_forward(world: Arc<World>) {
    tokio::time::sleep(Duration::from_secs(world.plan.faults_end_s)).await;
    world.change(|state| {
        state.note(&"newer", || "takes over".to_owned());
        state.records.newer.clear();
        let (sent, left) = (state.watch.newer_sent, state.messages.take_newer());
        state.watch.must(left == sent, || {
            format!("{left} of {sent} messages of a newer version are left")
        });
    });
}

/// Deletes one of what was created for these numbers, which an operator sees in the list before its
/// caller has an answer.
async fn cancel(world: &Arc<World>, api: &Api, numbers: std::ops::Range<u64>) {
    let found = {
        let state = world.state();
        let created = numbers.filter_map(|number| state.watch.created_for.get(&number)).flatten();
        created
            .filter_map(|task| state.records.webhooks.get(task))
            .map(|(webhook, _)| webhook.id.clone())
            .next()
    };
    let Some(id) = found else { return };
    let called =
        api.call(world, Method::DELETE, &format!("/webhook-status/{id}"), None, None).await;
    if called.is_some_and(|called| called.status == StatusCode::NO_CONTENT) {
        gone(world, &id);
    }
}

/// Takes note of a 204 to a deletion.
fn gone(world: &World, id: &WebhookId) {
    world.change(|state| {
        let there = state.records.webhooks.contains_key(&id.task);
        state.watch.must(!there, || format!("{id} is there after a 204 to its deletion"));
        state.watch.gone.insert(id.clone());
    });
}

/// A webhook that carries this number.
fn webhook(world: &Arc<World>, number: u64) -> Value {
    let host = if world.plan.stopped.is_some() {
        HOSTS[0]
    } else {
        HOSTS[world.below(HOSTS.len() as u64) as usize]
    };
    let mut webhook = json!({"url": format!("https://{host}/hook"), "payload": {"n": number}});
    if !world.plan.varied {
        return webhook;
    }
    if world.below(3) == 0 {
        webhook["reference_id"] = json!(format!("order-{}", world.below(3)));
    }
    if world.below(6) == 0 {
        let at = world.now().plus(Duration::from_millis(world.below(2_400_000)));
        world.state().watch.wanted_at.insert(number, at);
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

/// Takes note of a 202. Whether each item of it was accepted.
fn accepted(world: &Arc<World>, called: &Called, first: u64, keyed: bool) -> bool {
    let results = called.body.get("results").and_then(Value::as_array);
    let single = [called.body.clone()];
    let results = results.map_or(&single[..], Vec::as_slice);
    let untroubled = !called.replayed && called.process.troubles.load(Relaxed) == 0;
    let mut whole = true;
    for (number, result) in (first..).zip(results) {
        let Some(id) = result["webhook_id"].as_str().and_then(|id| id.parse::<WebhookId>().ok())
        else {
            whole = false;
            continue;
        };
        world.change(|state| {
            let created = state.watch.created_for.get(&number).cloned().unwrap_or_default();
            state.watch.must(created.contains(&id.task), || {
                format!("{id} was accepted, and never created for number {number}")
            });
            let twice = keyed && state.watch.is_twice(number);
            state.watch.must(!twice, || {
                format!("number {number} was created {} times under one key", created.len())
            });
            let told = state.watch.told.entry(number).or_insert_with(|| id.clone()).clone();
            state.watch.must(told == id, || {
                format!("number {number} was answered as {told} and then as {id}")
            });
            state.watch.accepted.insert(id.clone());
            let honest = world.plan.lost == 0.0;
            if let Some((webhook, _)) =
                state.records.webhooks.get(&id.task).filter(|_| honest && untroubled)
            {
                let held = webhook.status.is_finished()
                    || webhook.due_at.is_some()
                    || state.messages.lead_to(&id);
                let name = short(webhook);
                state.watch.must(held, || format!("{name} was accepted, and nothing holds it"));
            }
        });
    }
    whole
}

/// A webhook that has failed and is not archived yet, if there is one soon: to meddle while it is.
async fn just_failed(world: &Arc<World>) -> Option<WebhookId> {
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

/// One call of an operator.
async fn operate(world: &Arc<World>, api: &Api) {
    let known: Vec<WebhookId> = world.state().watch.accepted.iter().cloned().collect();
    let Some(id) = known.get(world.below(known.len() as u64) as usize) else { return };
    let reference = format!("order-{}", world.below(3));
    let failing = if world.below(3) == 0 { just_failed(world).await } else { None };
    let id = failing.as_ref().unwrap_or(id);
    let (method, path) = match if failing.is_some() { 2 } else { world.below(10) } {
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
        let called = api.call(world, method.clone(), &path, key.as_deref(), None).await;
        let Some(called) = called.filter(|called| called.status != StatusCode::SERVICE_UNAVAILABLE)
        else {
            tokio::time::sleep(Duration::from_millis(200 + world.below(9000))).await;
            continue;
        };
        if called.status == StatusCode::NO_CONTENT {
            gone(world, id);
        }
        return;
    }
}
