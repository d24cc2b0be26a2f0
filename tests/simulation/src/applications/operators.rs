//! Operators: they create applications and endpoints, change them, and delete and resend what was
//! published.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use shared::{
    applications::id::{ApplicationId, EndpointId},
    id::{MessageId, TaskId},
    store::ListPosition,
};

use super::{Applications, application_id, publishers::publish};
use crate::{
    callers::{Api, ApiRequest, ApiResponse},
    destination::HOSTS,
    world::World,
};

/// The number of the first publisher of those that publish around a change.
const FIRST_CHANGE: u64 = 1000;

/// For how many seconds the newer version waits for a delivery to write to: four hours.
const NEWER_TRIES: u32 = 4 * 3600;

/// How often an operator repeats a request that got no answer.
const MAX_TRIES: u32 = 40;

pub(super) fn start(world: &Arc<World>, api: &Api, load: &Applications) {
    for number in 0..load.count {
        let (world, api, endpoints) = (Arc::clone(world), api.clone(), load.endpoints);
        world.busy.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            set_up(&world, &api, &application_id(number), endpoints).await;
            world.busy.fetch_sub(1, Relaxed);
        });
    }
    let (changes, operations) = (load.changes, load.operations);
    for number in 0..changes + operations {
        let (world, api) = (Arc::clone(world), api.clone());
        let application = application_id(number % load.count);
        // Nothing is busy while an operator waits for another day. The world lasts longer.
        let wait = draw_time(&world, number >= changes);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            world.busy.fetch_add(1, Relaxed);
            if number < changes {
                change_and_publish(&world, &api, &application, number).await;
            } else {
                operate(&world, &api, &application).await;
            }
            world.busy.fetch_sub(1, Relaxed);
        });
    }
    if let Some((from, until)) = load.newer {
        tokio::spawn(act_as_newer_version(Arc::clone(world), from, until));
    }
}

/// A newer version writes to an unfinished delivery, and comes back after weeks.
async fn act_as_newer_version(world: Arc<World>, from: u64, until: u64) {
    tokio::time::sleep(Duration::from_secs(from)).await;
    let mut found = None;
    for _ in 0..NEWER_TRIES {
        found = write_as_newer_version(&world);
        if found.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let Some(position) = found else { return };
    tokio::time::sleep_until(world.started + Duration::from_secs(until)).await;
    world.change(|state| {
        state.note(&"newer", || "is back".to_owned());
        state.records.newer_deliveries.remove(&position);
    });
}

/// Writes to an unfinished delivery of a message that is due, and of which earlier deliveries are
/// settled. Returns its key.
fn write_as_newer_version(world: &World) -> Option<ListPosition> {
    world.change(|state| {
        let records = &state.records;
        let settled = records.published.values().map(|(message, _)| message);
        let settled = settled.filter(|message| message.is_due() && message.settled > 0);
        let position = settled
            .flat_map(|message| records.deliveries(message.id.task))
            .find(|delivery| !delivery.status.is_finished())
            .map(|delivery| ListPosition::of(&delivery.id))?;
        state.note(&"newer", || format!("writes to delivery {position}"));
        state.records.newer_deliveries.insert(position);
        Some(position)
    })
}

/// When an operator acts. In a world of days, half of them act on another day.
fn draw_time(world: &World, in_days: bool) -> Duration {
    let days = world.plan.days();
    if in_days && days > 0 && world.below(2) == 0 {
        return Duration::from_secs(world.below(days * 24 * 3600));
    }
    Duration::from_millis(world.below(world.plan.faults_end_s * 1000))
}

/// Repeats a request until it gets an answer other than 503.
async fn persist(world: &Arc<World>, api: &Api, request: &ApiRequest) -> Option<ApiResponse> {
    for _ in 0..MAX_TRIES {
        let answer = api.send(world, request.clone()).await;
        let is_final = |answer: &ApiResponse| answer.status != StatusCode::SERVICE_UNAVAILABLE;
        if let Some(answer) = answer.filter(is_final) {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(200 + world.below(9000))).await;
    }
    None
}

async fn set_up(world: &Arc<World>, api: &Api, application: &ApplicationId, endpoints: u64) {
    let put = ApiRequest {
        body: Some(json!({"name": format!("canary {application}")})),
        ..ApiRequest::new(Method::PUT, &format!("/applications/{application}"))
    };
    let answer = persist(world, api, &put).await;
    expect(world, answer.as_ref(), &[StatusCode::CREATED, StatusCode::OK]);
    for number in 0..endpoints {
        create_endpoint(world, api, application, &format!("set-up-{number}")).await;
    }
}

fn expect(world: &World, answer: Option<&ApiResponse>, statuses: &[StatusCode]) {
    let Some(answer) = answer else { return };
    world.change(|state| {
        state.checks.require(statuses.contains(&answer.status), || {
            format!("an operator got {answer:?}, and expected one of {statuses:?}")
        });
    });
}

async fn create_endpoint(world: &Arc<World>, api: &Api, application: &ApplicationId, key: &str) {
    // One in eight never responds with 2xx. Half of them always do.
    let host = match world.below(16) {
        0..8 => 0,
        8..11 => 1,
        11..14 => 2,
        14 => 3 + world.below(2) as usize,
        _ => 5,
    };
    let mut body = json!({"url": format!("https://{}/{application}/{key}", HOSTS[host])});
    match world.below(4) {
        0 => body["event_types"] = json!(["order.*"]),
        1 => body["event_types"] = json!(["order.paid", "user"]),
        _ => {}
    }
    match world.below(4) {
        0 => body["retry"] = json!({"schedule_ms": [1000, 200_000, 5000]}),
        1 => body["retry"] = json!({"max_attempts": 3, "base_delay_ms": 2000, "factor": 2.0}),
        _ => {}
    }
    let request = ApiRequest {
        idempotency_key: Some(format!("{key}-{application}")),
        body: Some(body),
        ..ApiRequest::new(Method::POST, &format!("/applications/{application}/endpoints"))
    };
    let answer = persist(world, api, &request).await;
    expect(world, answer.as_ref(), &[StatusCode::CREATED, StatusCode::NOT_FOUND]);
    let Some(answer) = answer.filter(|answer| answer.status == StatusCode::CREATED) else { return };
    let id = answer.body["id"].as_str().or(answer.body["endpoint_id"].as_str());
    let id = id.and_then(|id| id.parse::<EndpointId>().ok());
    let secret = answer.body["secret"].as_str();
    world.change(|state| {
        let checks = &mut state.checks;
        let known = id.and_then(|id| checks.published.secrets.get(&id).cloned());
        checks.require(secret.is_some() && secret == known.as_deref(), || {
            format!("the answer {answer:?} does not have the secret {known:?}")
        });
    });
}

/// Changes an endpoint. Half of the changes happen between two messages, so that some workers have
/// just read the document that changes.
async fn change_and_publish(
    world: &Arc<World>,
    api: &Api,
    application: &ApplicationId,
    number: u64,
) {
    let publishes = world.below(2) == 0;
    let first = FIRST_CHANGE + 2 * number;
    if publishes {
        publish(world, api, application, first).await;
        tokio::time::sleep(Duration::from_millis(world.below(1500))).await;
    }
    change(world, api, application, number).await;
    if publishes {
        publish(world, api, application, first + 1).await;
    }
}

/// Changes an endpoint: creates, patches, disables, enables or deletes one.
async fn change(world: &Arc<World>, api: &Api, application: &ApplicationId, number: u64) {
    let Some(endpoint) = draw_endpoint(world, application) else { return };
    let path = format!("/applications/{application}/endpoints/{endpoint}");
    let ok: &[StatusCode] = &[StatusCode::OK, StatusCode::NO_CONTENT, StatusCode::NOT_FOUND];
    let request = match world.below(9) {
        0 | 1 => {
            let key = format!("created-{number}");
            return create_endpoint(world, api, application, &key).await;
        }
        2 => patch(&path, json!({"event_types": ["order.sent.*"]})),
        3 => patch(&path, json!({"event_types": Value::Null})),
        4 => patch(&path, json!({"url": format!("https://{}/moved/{number}", HOSTS[0])})),
        5 => patch(&path, json!({"enabled": false})),
        6 => ApiRequest::new(Method::POST, &format!("{path}/disable")),
        7 => ApiRequest::new(Method::POST, &format!("{path}/enable")),
        _ => ApiRequest::new(Method::DELETE, &path),
    };
    let answer = persist(world, api, &request).await;
    expect(world, answer.as_ref(), ok);
}

fn patch(path: &str, body: Value) -> ApiRequest {
    ApiRequest { body: Some(body), ..ApiRequest::new(Method::PATCH, path) }
}

pub(super) fn draw_endpoint(world: &World, application: &ApplicationId) -> Option<EndpointId> {
    let mut state = world.state();
    let document = state.records.applications.get(application)?;
    let ids: Vec<EndpointId> = document.endpoints.iter().map(|endpoint| endpoint.id).collect();
    ids.get(state.chance.below(ids.len() as u64) as usize).copied()
}

/// A message of this application, and an endpoint of its plan.
pub(super) fn draw_message(
    world: &World,
    application: &ApplicationId,
) -> Option<(MessageId, EndpointId)> {
    let mut state = world.state();
    let known = state.checks.published.messages.values();
    let own = known.filter(|ledger| ledger.application == *application && !ledger.plan.is_empty());
    let own: Vec<TaskId> = own.map(|ledger| ledger.id.task).collect();
    let task = own.get(state.chance.below(own.len() as u64) as usize).copied()?;
    let ledger = state.checks.published.messages.get(&task)?;
    let (id, plan) = (ledger.id.clone(), ledger.plan.clone());
    let endpoint = plan.get(state.chance.below(plan.len() as u64) as usize).copied()?;
    Some((id, endpoint))
}

/// Makes a request about a message or a delivery.
async fn operate(world: &Arc<World>, api: &Api, application: &ApplicationId) {
    let Some((message, endpoint)) = draw_message(world, application) else { return };
    let delivery = message.delivery(endpoint);
    let base = format!("/applications/{application}");
    let what = world.below(10);
    let request = match what {
        0..3 => ApiRequest::new(Method::DELETE, &format!("{base}/messages/{message}")),
        3 => ApiRequest::new(Method::POST, &format!("{base}/messages/{message}/resend")),
        4 => ApiRequest {
            body: Some(json!({"endpoint_id": endpoint})),
            ..ApiRequest::new(Method::POST, &format!("{base}/messages/{message}/resend"))
        },
        5 => ApiRequest::new(Method::POST, &format!("{base}/deliveries/{delivery}/resend")),
        6 => ApiRequest::new(Method::DELETE, &format!("/webhook-status/{delivery}")),
        7 => ApiRequest::new(Method::POST, &format!("/dead-letters/{delivery}/redrive")),
        8 => ApiRequest::new(Method::GET, &format!("{base}/messages/{message}")),
        _ => ApiRequest::new(Method::GET, &format!("{base}/deliveries?endpoint_id={endpoint}")),
    };
    let Some(answer) = persist(world, api, &request).await else { return };
    if answer.status != StatusCode::NO_CONTENT {
        return;
    }
    world.change(|state| {
        let planned = state.checks.published.messages.get_mut(&message.task);
        let planned = planned.map(|ledger| {
            ledger.deletion_confirmed |= what < 3;
            ledger.plan.clone()
        });
        let deleted = if what < 3 { planned.unwrap_or_default() } else { vec![endpoint] };
        for endpoint in deleted {
            let id = message.delivery(endpoint);
            let exists = state.records.stored(&id).is_some();
            state
                .checks
                .require(!exists, || format!("{id} exists after its deletion returned 204"));
            state.checks.deletion_confirmed.insert(id);
        }
        let exists = what < 3 && state.records.published.contains_key(&message.task);
        state
            .checks
            .require(!exists, || format!("{message} exists after its deletion returned 204"));
    });
}
