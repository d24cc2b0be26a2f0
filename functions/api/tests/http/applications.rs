//! Settings, lists, state and changes of applications.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    applications::id::{ApplicationId, EndpointId},
    circuit::Settings,
    clock::Clock,
    model::{ErrorKind, LastError},
    store::{Activity, DestinationActivity},
    traffic::target::{Target, TargetKey},
};

use crate::{
    customers::{
        CACHE_MS, OPERATOR, access, call_with, create_endpoint, create_key, get, kind, operate,
        post, put, stack,
    },
    faulty::Fault,
    harness::{Answer, Stack},
};

const PATH: &str = "/applications/acme";

async fn put_settings(stack: &Stack, body: Value) -> Answer {
    operate(stack, Method::PUT, PATH, &body).await
}

fn id() -> ApplicationId {
    "acme".parse().unwrap()
}

async fn revision(stack: &Stack) -> u64 {
    stack.context.store.application(&id()).await.unwrap().unwrap().revision
}

#[tokio::test]
async fn a_put_creates_then_changes_and_equal_settings_write_nothing() {
    let stack = stack().await;
    get(&stack, PATH).await.problem(404);
    let settings = json!({"name": "Acme", "keep_unmatched": true, "metadata": {"plan": "gold"}});
    let created = put_settings(&stack, settings.clone()).await.json(201);
    assert_eq!(
        created,
        json!({
            "application_id": "acme", "name": "Acme", "keep_unmatched": true,
            "metadata": {"plan": "gold"}, "endpoint_count": 0,
            "created_at": "2027-01-15T08:00:00.000Z", "updated_at": "2027-01-15T08:00:00.000Z",
        })
    );
    assert_eq!(put_settings(&stack, settings).await.json(200), created);
    assert_eq!(revision(&stack).await, 1, "equal settings write nothing");
    create_endpoint(&stack, "acme", json!({})).await;
    // What is omitted or null gets its default.
    let changed = put_settings(&stack, json!({"name": null, "metadata": {"a": "b"}})).await;
    let changed = changed.json(200);
    assert_eq!((&changed["name"], &changed["keep_unmatched"]), (&Value::Null, &json!(false)));
    assert_eq!(changed["endpoint_count"], 1, "endpoints stay");
    let shown = get(&stack, PATH).await.json(200);
    assert_eq!(
        (&shown["metadata"], &shown["application_id"]),
        (&json!({"a": "b"}), &json!("acme"))
    );
    assert_eq!(
        operate(&stack, Method::PUT, PATH, &Value::Null).await.json(200)["name"],
        Value::Null
    );
}

#[tokio::test]
async fn every_invalid_setting_is_named() {
    let stack = stack().await;
    let fields = |answer: Answer| answer.problem(422).into_iter().collect::<BTreeSet<_>>();
    let wrong = json!({"name": 1, "keep_unmatched": "yes", "metadata": {"a": 1}, "nmae": "x"});
    let expected = ["name", "keep_unmatched", "metadata", "nmae"].map(str::to_owned).into();
    assert_eq!(fields(put_settings(&stack, wrong).await), expected);
    let long = json!({"name": "x".repeat(257), "metadata": {"a": "x".repeat(2048)}});
    let expected = ["name", "metadata"].map(str::to_owned).into();
    assert_eq!(fields(put_settings(&stack, long).await), expected);
    for id in ["posthaste", "a.b", "a%20b", &"x".repeat(65)] {
        let answer = operate(&stack, Method::PUT, &format!("/applications/{id}"), &json!({})).await;
        assert_eq!(answer.problem(422), ["application_id"], "{id}");
    }
    put_settings(&stack, json!([])).await.problem(422);
    assert_eq!(get(&stack, "/applications").await.json(200)["items"], json!([]));
}

#[tokio::test]
async fn without_a_master_key_nothing_that_needs_one_is_accepted() {
    let stack = Stack::with(&[], access()).await;
    let answer = put_settings(&stack, json!({})).await;
    answer.problem(503);
    assert_eq!(kind(&answer), "not-configured");
    assert!(answer.text.contains("MASTER_KEY") && answer.text.contains("openssl"));
    assert!(answer.header("retry-after").is_some());
    assert!(stack.context.store.application(&id()).await.unwrap().is_none());
    get(&stack, PATH).await.problem(404);
}

#[tokio::test]
async fn a_list_pages_by_id() {
    let stack = stack().await;
    for name in ["c", "B", "a-1", "a", "b_2"] {
        put(&stack, name).await;
    }
    let mut shown = Vec::new();
    let mut path = "/applications?page_size=2".to_owned();
    loop {
        let page = get(&stack, &path).await.json(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        shown.extend(items.iter().map(|item| item["application_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/applications?page_size=2&cursor={next}");
    }
    assert_eq!(shown, ["B", "a", "a-1", "b_2", "c"]);
    assert_eq!(get(&stack, "/applications?cursor=x").await.problem(400), ["cursor"]);
    assert_eq!(get(&stack, "/applications?size=1").await.problem(422), ["size"]);
}

/// A deleted application is one that does not exist, until it is gone.
#[tokio::test]
async fn a_deleted_application_is_not_found() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let (endpoint, _) = create_endpoint(&stack, "acme", json!({})).await;
    let absent = get(&stack, "/applications/nobody").await.text;
    let store = &stack.context.store;
    let mut document = store.application(&id()).await.unwrap().unwrap();
    let before = document.revision;
    (document.revision, document.deleted_at) = (before + 1, Some(stack.clock.now()));
    store.write_application(Some(before), &document).await.unwrap();
    for path in [PATH, &format!("{PATH}/endpoints"), &endpoint, &format!("{PATH}/keys")] {
        assert_eq!(get(&stack, path).await.text, absent, "{path}");
    }
    for (method, path) in [(Method::PATCH, &*endpoint), (Method::POST, &format!("{PATH}/keys"))] {
        let body = json!({"name": "n", "scopes": ["read"]});
        assert_eq!(operate(&stack, method, path, &body).await.text, absent, "{path}");
    }
    put_settings(&stack, json!({})).await.problem(409);
    assert_eq!(get(&stack, "/applications").await.json(200)["items"], json!([]));
}

#[tokio::test]
async fn the_state_of_each_endpoint_is_shown() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let mut endpoints = Vec::new();
    for enabled in [true, true, false] {
        let (_, created) = create_endpoint(&stack, "acme", json!({"enabled": enabled})).await;
        endpoints.push(created["endpoint_id"].as_str().unwrap().to_owned());
    }
    let (store, now) = (&stack.context.store, stack.clock.now());
    let endpoint: EndpointId = endpoints[1].parse().unwrap();
    let target = Target::idle(TargetKey::endpoint(&id(), endpoint));
    let settings = Settings { failures: 1, ..Settings::default() };
    store.write_target(None, &target.failed(1, &settings, now)).await.unwrap();
    let error =
        LastError { kind: ErrorKind::Timeout, status_code: None, message: "no answer".to_owned() };
    let of_one =
        DestinationActivity { delivered: 3, failed: 1, waiting: 0, last_error: Some((now, error)) };
    let destinations = [(format!("acme/{endpoint}"), of_one)].into();
    let activity = Activity { destinations, ..Activity::default() };
    store.add_activity(&activity, now).await.unwrap();
    let shown = get(&stack, PATH).await.json(200);
    let state = |index: usize| &shown["endpoints"][index];
    assert_eq!(state(0)["endpoint_id"], endpoints[0].as_str());
    assert_eq!(
        (&state(0)["circuit"], &state(0)["success_share"], &state(0)["last_error"]),
        (&json!("closed"), &Value::Null, &Value::Null)
    );
    assert_eq!(
        (&state(1)["circuit"], &state(1)["success_share"], &state(1)["failed"]),
        (&json!("open"), &json!(0.75), &json!(1))
    );
    assert!(state(1)["open_until"].is_string() && state(1)["last_error"]["kind"] == "timeout");
    assert_eq!(
        (&state(2)["enabled"], &state(2)["disabled"]["why"]),
        (&json!(false), &json!("operator"))
    );
}

#[tokio::test]
async fn changes_say_who_when_and_what_and_no_value() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let (key_id, key) = create_key(&stack, "acme", &["manage"]).await;
    let (endpoint, created) = create_endpoint(&stack, "acme", json!({})).await;
    stack.clock.advance(Duration::from_secs(1));
    let body = json!({"headers": {"x-a": "canary-value"}, "description": "canary-text"});
    call_with(&stack, &key, Method::PATCH, &endpoint, &body, &[]).await.json(200);
    let changes = get(&stack, &format!("{PATH}/changes")).await;
    let items = changes.json(200)["items"].as_array().unwrap().clone();
    let endpoint_id = created["endpoint_id"].as_str().unwrap();
    assert_eq!(
        items[0],
        json!({"at": "2027-01-15T08:00:01.000Z", "by": format!("{key_id} a name"),
            "what": format!("endpoint.changed {endpoint_id}: headers, description")})
    );
    let whats: Vec<&str> = items.iter().map(|item| item["what"].as_str().unwrap()).collect();
    assert_eq!(
        whats[1..],
        [
            &format!("endpoint.created {endpoint_id}"),
            &format!("key.created {key_id}"),
            "application.created"
        ]
    );
    assert_eq!(items[1]["by"], "API_KEYS");
    assert!(!changes.text.contains("canary") && !changes.text.contains(OPERATOR));
    for number in 0..110 {
        put_settings(&stack, json!({"name": number.to_string()})).await.json(200);
    }
    let changes = get(&stack, &format!("{PATH}/changes")).await.json(200);
    assert_eq!(changes["items"].as_array().unwrap().len(), 100);
}

/// Eight writers at a time all succeed, because each round has a winner.
#[tokio::test]
async fn concurrent_puts_create_one_application() {
    let stack = stack().await;
    let puts = (0..8).map(|number| put_settings(&stack, json!({"name": format!("{number}")})));
    let statuses: Vec<u16> =
        join_all(puts).await.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 7, "{statuses:?}");
    assert_eq!(revision(&stack).await, 8);
}

/// A write whose answer is lost is a 503. The repeated request finds its work done.
#[tokio::test]
async fn a_store_that_fails_is_a_503_and_a_repeat_settles_it() {
    let stack = stack().await;
    for (call, fault) in [
        ("application", Fault::Down),
        ("write_application", Fault::Down),
        ("write_application", Fault::AnswerLost),
    ] {
        stack.faults.set(call, fault);
        let answer = put_settings(&stack, json!({"name": "Acme"})).await;
        answer.problem(503);
        assert!(!answer.text.contains("internal detail"));
        stack.faults.heal();
    }
    put_settings(&stack, json!({"name": "Acme"})).await.json(200);
    assert_eq!(revision(&stack).await, 1);
    for (path, calls) in [
        ("/applications", &["applications"][..]),
        (PATH, &["application", "targets", "destinations"]),
        ("/applications/acme/changes", &["application"]),
        ("/applications/acme/keys", &["application"]),
        ("/applications/acme/endpoints", &["application"]),
    ] {
        for call in calls {
            stack.faults.set(call, Fault::Down);
            get(&stack, path).await.problem(503);
            stack.faults.heal();
        }
        get(&stack, path).await.json(200);
    }
}

/// Another process sees a change within `ENDPOINT_CACHE_MS`. Reads by these routes do not wait.
#[tokio::test]
async fn a_change_is_read_at_once_by_another_process() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let other = stack.another_process(access()).await;
    get(&other, PATH).await.json(200);
    let (endpoint, created) = create_endpoint(&stack, "acme", json!({})).await;
    get(&other, &endpoint).await.json(200);
    let applies_from = stack.clock.now().plus(Duration::from_millis(CACHE_MS));
    assert_eq!(created["applies_from"], applies_from.to_string());
    post(&other, &format!("{endpoint}/disable"), &Value::Null).await.json(200);
    assert_eq!(get(&stack, &endpoint).await.json(200)["enabled"], false);
}
