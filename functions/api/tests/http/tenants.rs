//! Every route below `/applications` with every set of scopes, and from another application.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    customers::{call, create_endpoint, create_key, operate, put, stack},
    harness::{Answer, Stack},
};

/// Routes that are for full access alone.
const FULL: &str = "full";

/// What each route below an application requires.
const REQUIRED: [(&str, &str, &str); 32] = [
    ("put", "", FULL),
    ("get", "", "read"),
    ("get", "/changes", FULL),
    ("post", "/keys", FULL),
    ("get", "/keys", FULL),
    ("delete", "/keys/{key_id}", FULL),
    ("post", "/endpoints", "manage"),
    ("get", "/endpoints", "read"),
    ("get", "/endpoints/{endpoint_id}", "read"),
    ("patch", "/endpoints/{endpoint_id}", "manage"),
    ("delete", "/endpoints/{endpoint_id}", "manage"),
    ("post", "/endpoints/{endpoint_id}/enable", "manage"),
    ("post", "/endpoints/{endpoint_id}/disable", "manage"),
    ("get", "/endpoints/{endpoint_id}/secret", "manage"),
    ("post", "/endpoints/{endpoint_id}/test", "manage"),
    ("post", "/messages", "publish"),
    ("post", "/messages/batch", "publish"),
    ("get", "/messages", "read"),
    ("get", "/messages/{message_id}", "read"),
    ("delete", "/messages/{message_id}", "manage"),
    ("post", "/messages/{message_id}/resend", "manage"),
    ("get", "/deliveries", "read"),
    ("get", "/deliveries/{delivery_id}", "read"),
    ("get", "/deliveries/{delivery_id}/explain", "read"),
    ("post", "/deliveries/{delivery_id}/resend", "manage"),
    // Not routed yet.
    ("delete", "", FULL),
    ("post", "/endpoints/{endpoint_id}/secret/rotate", "manage"),
    ("post", "/endpoints/{endpoint_id}/recover", "manage"),
    ("delete", "/messages/{message_id}/payload", "manage"),
    ("get", "/jobs", "read"),
    ("post", "/preview", "manage"),
    ("post", "/portal", FULL),
];

const SCOPES: [&[&str]; 7] = [
    &["publish"],
    &["read"],
    &["manage"],
    &["publish", "read"],
    &["publish", "manage"],
    &["read", "manage"],
    &["publish", "read", "manage"],
];

/// The routes of the document below an application, with the rest of their path.
fn routes() -> Vec<(Method, String)> {
    let document = api::document();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let Some(rest) = path.strip_prefix("/applications/{application_id}") else { continue };
        for method in operations.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            routes.push((method, rest.to_owned()));
        }
    }
    assert!(routes.len() >= 14, "{routes:?}");
    routes
}

fn required(method: &Method, rest: &str) -> &'static str {
    let matches = |(known, path, _): &&(&str, &str, &str)| {
        known.eq_ignore_ascii_case(method.as_str()) && *path == rest
    };
    let found = REQUIRED.iter().find(matches);
    found.unwrap_or_else(|| panic!("{method} …{rest} is not in the table")).2
}

fn permits(scopes: &[&str], required: &str) -> bool {
    scopes.contains(&required) || (required == "read" && scopes.contains(&"manage"))
}

/// The objects that paths name. Those of messages do not exist.
struct Objects {
    endpoint_id: String,
    key_id: String,
}

impl Objects {
    async fn of(stack: &Stack, application: &str) -> Self {
        let more = json!({"description": format!("canary of {application}"),
            "url": format!("https://{application}.example/canary")});
        let (_, endpoint) = create_endpoint(stack, application, more).await;
        let (key_id, _) = create_key(stack, application, &["read"]).await;
        Self { endpoint_id: endpoint["endpoint_id"].as_str().unwrap().to_owned(), key_id }
    }

    fn path(&self, application: &str, rest: &str) -> String {
        let message = "order-1_01890a5d-ac96-774b-bcce-b302099a8057";
        let rest = rest
            .replace("{endpoint_id}", &self.endpoint_id)
            .replace("{key_id}", &self.key_id)
            .replace("{message_id}", message)
            .replace("{delivery_id}", &format!("{message}.{}", self.endpoint_id));
        format!("/applications/{application}{rest}")
    }
}

/// A call with an empty object if the method may have a body. It changes nothing that other calls
/// need: deletes are made last.
async fn try_route(stack: &Stack, key: &str, method: &Method, path: &str) -> Answer {
    let has_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    let body = if has_body { json!({}) } else { Value::Null };
    call(stack, key, method.clone(), path, &body).await
}

#[tokio::test]
async fn every_route_asks_for_its_scope() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let objects = Objects::of(&stack, "acme").await;
    let mut routes = routes();
    routes.sort_by_key(|(method, _)| *method == Method::DELETE);
    let mut checked = BTreeMap::new();
    let mut keys = Vec::new();
    for scopes in SCOPES {
        keys.push((scopes, create_key(&stack, "acme", scopes).await.1));
    }
    for (method, rest) in &routes {
        let (required, path) = (required(method, rest), objects.path("acme", rest));
        for (scopes, key) in &keys {
            let answer = try_route(&stack, key, method, &path).await;
            let place = format!("{method} {path} with {scopes:?}: {}", answer.text);
            if permits(scopes, required) {
                assert!(!matches!(answer.status.as_u16(), 401 | 403 | 405 | 500), "{place}");
            } else {
                answer.problem(403);
                let names = if required == FULL { "API_KEYS" } else { required };
                assert!(answer.text.contains(names), "{place}");
            }
            *checked.entry(answer.status.as_u16()).or_insert(0) += 1;
        }
    }
    println!("{checked:?}");
    assert!(checked[&403] > 50 && checked[&200] > 20, "{checked:?}");
}

/// Another application, one that does not exist, and a malformed ID are the same bytes, for every
/// route and whatever the key may do.
#[tokio::test]
async fn another_application_is_one_that_does_not_exist() {
    let stack = stack().await;
    for application in ["acme", "globex"] {
        put(&stack, application).await;
    }
    let objects = Objects::of(&stack, "globex").await;
    let own = Objects::of(&stack, "acme").await;
    let before = stack.context.store.application(&"globex".parse().unwrap()).await.unwrap();
    for scopes in SCOPES {
        let (_, key) = create_key(&stack, "acme", scopes).await;
        let mut texts = BTreeSet::new();
        for (method, rest) in routes() {
            for application in ["globex", "nobody", "a.b", "Acme", "acme%2F"] {
                for objects in [&objects, &own] {
                    let path = objects.path(application, &rest);
                    let answer = try_route(&stack, &key, &method, &path).await;
                    let is_put = method == Method::PUT && application.contains(['.', '%']);
                    if is_put {
                        answer.problem(403);
                        continue;
                    }
                    answer.problem(404);
                    assert!(!answer.text.contains("canary"), "{path}");
                    texts.insert(answer.text);
                }
            }
        }
        assert_eq!(texts.len(), 1, "{scopes:?}: {texts:?}");
    }
    let after = stack.context.store.application(&"globex".parse().unwrap()).await.unwrap();
    assert_eq!(after, before);
    // The operator gets the same bytes for one that does not exist.
    let absent = operate(&stack, Method::GET, "/applications/nobody", &Value::Null).await;
    let (_, key) = create_key(&stack, "acme", &["read"]).await;
    let other = call(&stack, &key, Method::GET, "/applications/globex", &Value::Null).await;
    assert_eq!(absent.text, other.text);
    let names = |answer: &Answer| -> BTreeSet<String> {
        answer.headers.keys().map(ToString::to_string).collect()
    };
    assert_eq!(names(&absent), names(&other));
}

/// An object of another application is absent, below the own one.
#[tokio::test]
async fn an_object_of_another_application_is_absent() {
    let stack = stack().await;
    for application in ["acme", "globex"] {
        put(&stack, application).await;
    }
    let theirs = Objects::of(&stack, "globex").await;
    let (_, key) = create_key(&stack, "acme", &["publish", "read", "manage"]).await;
    for (method, rest) in routes() {
        if !rest.contains("_id}") || required(&method, &rest) == FULL {
            continue;
        }
        let answer = try_route(&stack, &key, &method, &theirs.path("acme", &rest)).await;
        answer.problem(404);
        assert!(!answer.text.contains("canary"), "{method} {rest}");
    }
}

/// Outside of its application a key gets nothing, on routes that exist and on others.
#[tokio::test]
async fn a_key_is_refused_on_every_other_route() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let (_, key) = create_key(&stack, "acme", &["publish", "read", "manage"]).await;
    let document = api::document();
    let mut refused = 0;
    let paths = document["paths"].as_object().unwrap().keys().cloned();
    for path in paths.chain(["/nowhere".to_owned(), "/applications2".to_owned()]) {
        if path.starts_with("/applications/") || path == "/health" {
            continue;
        }
        let path = path.replace("{webhook_id}", "order-1_01890a5d-ac96-774b-bcce-b302099a8057");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let answer = try_route(&stack, &key, &method, &path).await;
            answer.problem(403);
            refused += 1;
        }
    }
    assert!(refused > 50, "{refused}");
}
