//! No response to one customer has anything of another.

use reqwest::Method;
use serde_json::{Value, json};

use crate::customers::{
    call, create_endpoint, create_key, delivery_ids, get, operate, post, put, stack, text,
};

const CANARY: &str = "canary-of-globex-71d0";

/// Globex publishes a message whose payload, reference and event type are canaries. A key of acme
/// then asks every route of messages and deliveries for it, in its own application and in globex.
#[tokio::test]
async fn no_response_has_another_customers_data() {
    let stack = stack().await;
    for id in ["acme", "globex"] {
        put(&stack, id).await;
        create_endpoint(&stack, id, json!({"description": format!("{CANARY}-{id}")})).await;
    }
    let (_, key) = create_key(&stack, "acme", &["publish", "read", "manage"]).await;
    let body = json!({"event_type": CANARY, "payload": {"x": CANARY}, "reference_id": CANARY});
    let published = post(&stack, "/applications/globex/messages", &body).await.json(202);
    let (message, delivery) = (text(&published, "message_id"), delivery_ids(&published).remove(0));
    let endpoint = text(&published["deliveries"][0], "endpoint_id");
    stack.bury(&delivery).await;
    let own = json!({"event_type": "a", "payload": 1});
    post(&stack, "/applications/acme/messages", &own).await.json(202);

    let objects = [
        (Method::GET, format!("/messages/{message}")),
        (Method::GET, format!("/messages/{message}?include=payload")),
        (Method::DELETE, format!("/messages/{message}")),
        (Method::POST, format!("/messages/{message}/resend")),
        (Method::GET, format!("/deliveries/{delivery}")),
        (Method::GET, format!("/deliveries/{delivery}?include=payload")),
        (Method::GET, format!("/deliveries/{delivery}/explain")),
        (Method::POST, format!("/deliveries/{delivery}/resend")),
        (Method::POST, format!("/endpoints/{endpoint}/test")),
    ];
    let lists = [
        format!("/messages?reference_id={CANARY}"),
        format!("/messages?event_type={CANARY}"),
        format!("/messages?endpoint_id={endpoint}"),
        format!("/deliveries?endpoint_id={endpoint}"),
        format!("/deliveries?endpoint_id={endpoint}&status=dead"),
        "/deliveries?status=dead".to_owned(),
    ];
    for application in ["acme", "globex"] {
        for (method, path) in &objects {
            let path = format!("/applications/{application}{path}");
            let answer = call(&stack, &key, method.clone(), &path, &Value::Null).await;
            assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text);
            assert!(!answer.text.contains(CANARY), "{method} {path}: {}", answer.text);
            // An operator who mixes two applications up finds nothing either.
            if application == "acme" {
                operate(&stack, method.clone(), &path, &Value::Null).await.problem(404);
            }
        }
        for path in &lists {
            let path = format!("/applications/{application}{path}");
            let answer = call(&stack, &key, Method::GET, &path, &Value::Null).await;
            if application == "acme" {
                assert_eq!(answer.json(200)["items"], json!([]), "{path}");
            } else {
                answer.problem(404);
            }
            assert!(!answer.text.contains(CANARY), "{path}: {}", answer.text);
        }
    }
    for path in ["/applications/acme/messages", "/applications/acme/deliveries"] {
        let answer = call(&stack, &key, Method::GET, path, &Value::Null).await;
        assert_eq!(answer.json(200)["items"].as_array().unwrap().len(), 1);
        assert!(!answer.text.contains(CANARY));
    }
    // A plan of acme never names an endpoint of globex.
    let body = json!({"event_type": CANARY, "payload": 1});
    let path = "/applications/acme/messages";
    let answer = call(&stack, &key, Method::POST, path, &body).await.json(202);
    assert_eq!(answer["deliveries"].as_array().unwrap().len(), 1);
    assert!(!answer.to_string().contains(&endpoint));
    // Its owner still has everything.
    let owned = format!("/applications/globex/messages/{message}?include=payload");
    assert_eq!(get(&stack, &owned).await.json(200)["payload"], json!({"x": CANARY}));
}
