//! Callers with application keys, who also try the routes of other applications, and an attacker
//! who can write to the store but has no master key.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::json;
use shared::applications::id::ApplicationId;

use super::{Applications, application_id, operators::draw_message};
use crate::{
    callers::{Api, ApiRequest},
    world::World,
};

/// The first payload number of these messages.
const FIRST_NUMBER: u64 = 2_000_000;

/// How often a caller repeats a request that got no answer.
const MAX_TRIES: u32 = 40;

pub(super) fn start(world: &Arc<World>, api: &Api, load: &Applications) {
    for number in 0..load.count {
        let (own, other) = (application_id(number), application_id((number + 1) % load.count));
        let (world, api) = (Arc::clone(world), api.clone());
        world.busy.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            let wait_ms = world.below(world.plan.busy_s * 1000);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            act(&world, &api, &own, &other, number).await;
            world.busy.fetch_sub(1, Relaxed);
        });
    }
    let world = Arc::clone(world);
    tokio::spawn(async move {
        let wait_ms = world.below(world.plan.busy_s * 1000);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let swapped = swap_secrets(&world);
        tokio::time::sleep(Duration::from_secs(60 + world.below(600))).await;
        if swapped {
            swap_back(&world);
        }
    });
}

/// Gets a key, publishes with it, and tries what it must not do.
async fn act(
    world: &Arc<World>,
    api: &Api,
    own: &ApplicationId,
    other: &ApplicationId,
    number: u64,
) {
    let scopes = [&["publish"][..], &["read"], &["manage", "publish"], &["publish", "read"]];
    let scopes = scopes[world.below(scopes.len() as u64) as usize];
    let Some(key) = create_key(world, api, own, scopes).await else { return };
    for step in 0..2 + world.below(5) {
        let wait = Duration::from_millis(world.below(60_000));
        tokio::time::sleep(wait).await;
        let number = FIRST_NUMBER + number * 100 + step;
        let (path, body) = draw_request(world, own, other, number);
        let is_own = path.starts_with(&format!("/applications/{own}/"));
        let is_publish = body.is_some();
        let method = if is_publish { Method::POST } else { Method::GET };
        let request =
            ApiRequest { body, api_key: Some(key.clone()), ..ApiRequest::new(method, &path) };
        let Some(answer) = api.send(world, request).await else { continue };
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            continue;
        }
        let needed = if is_publish { "publish" } else { "read" };
        let has_scope = scopes.contains(&needed) || (needed == "read" && scopes[0] == "manage");
        let expected: &[StatusCode] = match (is_own, has_scope) {
            // Nothing is said about another application, and not even whether it exists.
            (false, _) if path.starts_with("/applications/") => &[StatusCode::NOT_FOUND],
            (false, _) | (true, false) => &[StatusCode::FORBIDDEN],
            (true, true) => &[
                StatusCode::OK,
                StatusCode::ACCEPTED,
                StatusCode::NOT_FOUND,
                StatusCode::UNPROCESSABLE_ENTITY,
            ],
        };
        let text = answer.body.to_string();
        world.change(|state| {
            state.checks.require(expected.contains(&answer.status), || {
                format!("a key of {own} with {scopes:?} called {path}, and got {answer:?}")
            });
            let signs = [
                format!("canary {other}"),
                format!("\"canary\":\"{other}\""),
                format!(".example/{other}/"),
            ];
            let leaks = signs.iter().any(|sign| text.contains(sign));
            state.checks.require(!leaks, || {
                format!("a key of {own} called {path}, and read about {other}: {text}")
            });
        });
    }
}

/// A request, to the own application, to another one, or to no application.
fn draw_request(
    world: &World,
    own: &ApplicationId,
    other: &ApplicationId,
    number: u64,
) -> (String, Option<serde_json::Value>) {
    let at = if world.below(2) == 0 { own } else { other };
    let message = |canary: &ApplicationId| {
        let payload = json!({"n": number, "canary": canary});
        json!({"event_type": "user", "payload": payload})
    };
    // Another tenant's message below the own application, as if its id had leaked.
    let foreign = draw_message(world, other).map(|(id, endpoint)| (id.delivery(endpoint), id));
    match (world.below(9), foreign) {
        (7, Some((_, id))) => (format!("/applications/{own}/messages/{id}?include=payload"), None),
        (8, Some((id, _))) => (format!("/applications/{own}/deliveries/{id}"), None),
        (0 | 1, _) => (format!("/applications/{at}/messages"), Some(message(own))),
        (2, _) => {
            let mut body = message(own);
            body["payload"]["application_id"] = json!(other);
            (format!("/applications/{own}/messages"), Some(body))
        }
        (3, _) => (format!("/applications/{at}/messages"), None),
        (4, _) => (format!("/applications/{at}/deliveries"), None),
        (5, _) => (format!("/applications/{at}/endpoints"), None),
        _ => ("/webhook-statuses".to_owned(), None),
    }
}

async fn create_key(
    world: &Arc<World>,
    api: &Api,
    application: &ApplicationId,
    scopes: &[&str],
) -> Option<String> {
    let request = ApiRequest {
        body: Some(json!({"name": "tenant", "scopes": scopes})),
        ..ApiRequest::new(Method::POST, &format!("/applications/{application}/keys"))
    };
    for _ in 0..MAX_TRIES {
        let answer = api.send(world, request.clone()).await;
        if let Some(answer) = answer.filter(|answer| answer.status == StatusCode::CREATED) {
            return answer.body["key"].as_str().map(ToOwned::to_owned);
        }
        tokio::time::sleep(Duration::from_millis(1000 + world.below(9000))).await;
    }
    None
}

/// The attacker puts the sealed secret of an endpoint in place of another one's. Returns whether
/// there were two endpoints.
fn swap_secrets(world: &World) -> bool {
    world.change(|state| {
        let documents = state.records.applications.values();
        let endpoints = documents.flat_map(|document| document.endpoints.iter());
        let all: Vec<_> =
            endpoints.map(|endpoint| (endpoint.id, endpoint.secrets.clone())).collect();
        let [(first, _), .., (last, secrets)] = &all[..] else { return false };
        state.note(&"attacker", || format!("puts the secret of {last} in place of {first}'s"));
        let (first, stolen) = (*first, secrets.clone());
        state.checks.published.tampered.insert(first);
        for document in state.records.applications.values_mut() {
            for endpoint in &mut document.endpoints {
                if endpoint.id == first {
                    for (secret, other) in endpoint.secrets.iter_mut().zip(&stolen) {
                        secret.sealed = other.sealed.clone();
                    }
                }
            }
        }
        true
    })
}

/// The publisher restores the document.
fn swap_back(world: &World) {
    world.change(|state| {
        let versions = &state.checks.published.versions;
        let mut first_seen = Vec::new();
        for (_, document) in versions.values().flatten() {
            first_seen.extend(document.endpoints.iter().cloned());
        }
        let tampered = state.checks.published.tampered.clone();
        for document in state.records.applications.values_mut() {
            for endpoint in &mut document.endpoints {
                let original = first_seen.iter().find(|known| known.id == endpoint.id);
                if let Some(original) = original.filter(|_| tampered.contains(&endpoint.id)) {
                    endpoint.secrets = original.secrets.clone();
                }
            }
        }
        state.note(&"publisher", || "restores the document".to_owned());
    });
}
