//! Callers that publish messages.

use std::{collections::BTreeSet, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use shared::{
    applications::id::{ApplicationId, EndpointId},
    id::{MessageId, WebhookId},
};

use super::{Applications, application_id};
use crate::{
    callers::{Api, ApiRequest, ApiResponse},
    world::World,
};

/// The maximum number of tries of a publisher with an idempotency key.
const MAX_TRIES: u32 = 8;

/// The first payload number of messages. Those of direct webhooks are lower.
const FIRST_NUMBER: u64 = 1_000_000;

/// The payload numbers that each publisher has.
const NUMBERS_EACH: u64 = 100;

const EVENT_TYPES: [&str; 4] = ["order.paid", "order.sent", "order.sent.late", "user"];

pub(super) fn start(world: &Arc<World>, api: &Api, load: &Applications) {
    for publisher in 0..load.publishers {
        let application = application_id(publisher % load.count);
        let (world, api) = (Arc::clone(world), api.clone());
        world.busy.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            let wait_ms = world.below(world.plan.busy_s * 1000);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            publish(&world, &api, &application, publisher).await;
            world.busy.fetch_sub(1, Relaxed);
        });
    }
}

/// Publishes a message or a batch, until it is accepted, or until the result stays unknown.
pub(super) async fn publish(
    world: &Arc<World>,
    api: &Api,
    application: &ApplicationId,
    publisher: u64,
) {
    let first = FIRST_NUMBER + publisher * NUMBERS_EACH;
    let items = match world.below(8) {
        0 => 2 + world.below(3),
        // A call with more than 100 looks sends one for each message.
        1 if world.plan.has_many_endpoints() => 10,
        _ => 1,
    };
    let messages: Vec<Value> =
        (first..first + items).map(|number| message(world, application, number)).collect();
    let key = (world.below(2) == 0).then(|| format!("publish-{publisher}"));
    let (path, body) = match &messages[..] {
        [one] => (format!("/applications/{application}/messages"), one.clone()),
        all => (format!("/applications/{application}/messages/batch"), json!({"messages": all})),
    };
    let mut repeats = if key.is_some() && world.below(3) == 0 { 2 } else { 0 };
    for _ in 0..MAX_TRIES {
        let request = ApiRequest {
            idempotency_key: key.clone(),
            body: Some(body.clone()),
            ..ApiRequest::new(Method::POST, &path)
        };
        let mut wait_ms = 200 + world.below(25_000);
        match api.send(world, request).await {
            Some(answer) if answer.status == StatusCode::ACCEPTED => {
                let all = check_accepted(world, &answer, application, first, key.is_some());
                if key.is_none() || (all && repeats == 0) {
                    return;
                }
                if all {
                    repeats -= 1;
                    wait_ms = world.below(300_000);
                }
            }
            // The application does not exist yet.
            Some(answer) if answer.status == StatusCode::NOT_FOUND => wait_ms += 5000,
            Some(answer) if answer.status != StatusCode::SERVICE_UNAVAILABLE => {
                return world.change(|state| {
                    state.checks.require(false, || format!("a message was rejected: {answer:?}"));
                });
            }
            _ if key.is_none() => return,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// A message with this number in its payload.
fn message(world: &Arc<World>, application: &ApplicationId, number: u64) -> Value {
    let event_type = EVENT_TYPES[world.below(EVENT_TYPES.len() as u64) as usize];
    let payload = json!({"n": number, "canary": application});
    let mut message = json!({"event_type": event_type, "payload": payload});
    if world.below(3) == 0 {
        message["reference_id"] = json!(format!("order-{}", world.below(3)));
    }
    if world.below(6) == 0 {
        let most_ms = if world.plan.days() > 0 && world.below(2) == 0 {
            20 * 24 * 3_600_000
        } else {
            2_400_000
        };
        let at = world.now().plus(Duration::from_millis(world.below(most_ms)));
        world.state().checks.deliver_at.insert(number, at);
        message["deliver_at"] = json!(at.to_string());
    }
    message
}

/// Records and checks a 202. Returns whether all items were accepted.
fn check_accepted(
    world: &Arc<World>,
    answer: &ApiResponse,
    application: &ApplicationId,
    first: u64,
    keyed: bool,
) -> bool {
    let results = answer.body.get("results").and_then(Value::as_array);
    let single = [answer.body.clone()];
    let results = results.map_or(&single[..], Vec::as_slice);
    let mut all = true;
    for (number, result) in (first..).zip(results) {
        // No endpoint matched, and the message was not kept.
        if result["kept"] == json!(false) {
            continue;
        }
        let id = result["message_id"].as_str().and_then(|id| id.parse::<MessageId>().ok());
        let Some(id) = id else {
            all = false;
            continue;
        };
        check_result(world, result, application, &id, number, keyed);
    }
    all
}

fn check_result(
    world: &Arc<World>,
    result: &Value,
    application: &ApplicationId,
    id: &MessageId,
    number: u64,
    keyed: bool,
) {
    let of = |value: &Value| value.as_str().and_then(|id| id.parse::<EndpointId>().ok());
    let deliveries = result["deliveries"].as_array().cloned().unwrap_or_default();
    let planned: BTreeSet<EndpointId> =
        deliveries.iter().filter_map(|delivery| of(&delivery["endpoint_id"])).collect();
    let ids_match = deliveries.iter().all(|delivery| {
        let answered = delivery["delivery_id"].as_str().and_then(|id| id.parse().ok());
        let expected = of(&delivery["endpoint_id"]).map(|endpoint| id.delivery(endpoint));
        expected == answered && expected.as_ref().is_some_and(WebhookId::is_delivery)
    });
    world.change(|state| {
        let checks = &mut state.checks;
        let created = checks.created_for.get(&number).cloned().unwrap_or_default();
        checks.require(created.contains(&id.task), || {
            format!("{id} was accepted and never created for number {number}")
        });
        let twice = keyed && checks.has_several(number);
        checks.require(!twice, || {
            format!("number {number} was created {} times under one key", created.len())
        });
        let known = checks.published.messages.get(&id.task);
        let stored: Option<BTreeSet<EndpointId>> =
            known.map(|ledger| ledger.plan.iter().copied().collect());
        let owner = known.map(|ledger| ledger.application.clone());
        // The plan of a message that was deleted is gone, and it is matched anew for the answer.
        let is_gone = known.is_some_and(|ledger| ledger.is_gone);
        let is_stored_plan = is_gone || stored.as_ref() == Some(&planned);
        checks.require(ids_match && is_stored_plan, || {
            format!("{id} was answered with the plan {planned:?}, and has {stored:?}")
        });
        checks.require(owner.as_ref() == Some(application), || {
            format!("{id} was published to {application}, and belongs to {owner:?}")
        });
        let first = checks.published.first_id.entry(number).or_insert_with(|| id.clone()).clone();
        checks.require(first == *id, || {
            format!("number {number} was accepted as {first} and then as {id}")
        });
        let before = checks.published.accepted.insert(id.clone(), planned.clone());
        let is_same = before.as_ref().is_none_or(|before| *before == planned);
        checks.require(is_same || is_gone, || {
            format!("{id} was answered with the plan {before:?} and then with {planned:?}")
        });
    });
}
