//! The event files from the README, each sent to its function, and the caller identity that `api`
//! derives from its events.

use harness::{binaries::workspace, functions::functions, lambda::Lambda, stack::Launch};
use serde_json::{Value, json};

/// Each function accepts its events in AWS's formats and responds in the format that the sender
/// expects. The test runs the real binaries and checks their responses. The webhook is accepted.
/// The message of a newer version is returned as a failure, and the other one is not.
#[tokio::test(flavor = "multi_thread")]
async fn each_function_accepts_its_event_files() {
    let launch = Launch::fresh().unwrap();
    let lambda = Lambda::start(functions(&launch, &[]), launch.folder()).await.unwrap();
    let mut files: Vec<String> = std::fs::read_dir(workspace().join("tests/events"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "api-alb.json",
            "api-http-api.json",
            "api-local.json",
            "api-rest.json",
            "api.json",
            "deliver.json",
            "dlq.json",
            "sweep.json"
        ]
    );
    for file in files {
        let event = std::fs::read(workspace().join("tests/events").join(&file)).unwrap();
        let name = file.split(['.', '-']).next().unwrap();
        let answer: Value =
            serde_json::from_slice(&lambda.call(name, event).await.unwrap()).unwrap();
        match name {
            "api" => {
                assert_eq!(answer["statusCode"], 202, "{file}: {answer}");
                let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
                assert_eq!(
                    (&body["reference_id"], &body["status"]),
                    (&json!("event"), &json!("pending")),
                    "{file}"
                );
            }
            "deliver" => {
                let id = "059f36b4-87a3-44ab-83d2-661975480002";
                let newer = json!({"batchItemFailures": [{"itemIdentifier": id}]});
                assert_eq!(answer, newer, "{file}");
            }
            "dlq" => assert_eq!(answer, json!({"batchItemFailures": []}), "{file}"),
            _ => assert_eq!(answer, Value::Null, "{file}"),
        }
    }
}

/// `API_AUTH=local` accepts the event of the local function URL. It refuses AWS's events, whose
/// `Host` is not loopback, and requests from web pages.
#[tokio::test(flavor = "multi_thread")]
async fn local_auth_refuses_cross_origin_requests() {
    let launch = Launch::fresh().unwrap();
    let lambda =
        Lambda::start(functions(&launch, &[("API_AUTH", "local")]), launch.folder()).await.unwrap();
    assert_eq!(status(&lambda, &event("api-local.json", |_| {})).await, 202);
    for file in ["api.json", "api-http-api.json", "api-rest.json", "api-alb.json"] {
        assert_eq!(status(&lambda, &event(file, |_| {})).await, 403, "{file}");
    }
    for (name, value, code) in [
        ("origin", "https://evil.example", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("host", "evil.example:9000", 403),
        ("content-type", "text/plain", 415),
        ("content-type", "", 415),
        ("origin", "http://127.0.0.1:9000", 202),
    ] {
        let event = event("api-local.json", |event| event["headers"][name] = json!(value));
        assert_eq!(status(&lambda, &event).await, code, "{name}: {value}");
    }
}

/// A retry by another session of the same role gets the first response. Another role is another
/// caller.
#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_belongs_to_the_role_and_not_to_its_session() {
    let launch = Launch::fresh().unwrap();
    let lambda = Lambda::start(functions(&launch, &[]), launch.folder()).await.unwrap();
    let by = async |file: &str, arn: &str| {
        let event = event(file, |event| {
            let iam = json!({"userArn": format!("arn:aws:sts::123456789012:assumed-role/{arn}")});
            match file {
                "api-rest.json" => {
                    event["requestContext"]["identity"]["userArn"] = iam["userArn"].clone();
                    event["multiValueHeaders"]["idempotency-key"] = json!(["event-17"]);
                }
                _ => event["requestContext"]["authorizer"] = json!({"iam": iam}),
            }
            event["headers"]["idempotency-key"] = json!("event-17");
        });
        let answer: Value =
            serde_json::from_slice(&lambda.call("api", event.to_string()).await.unwrap()).unwrap();
        assert_eq!(answer["statusCode"], 202, "{answer}");
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        body["webhook_id"].as_str().unwrap().to_owned()
    };
    let first = by("api.json", "publisher/task-1").await;
    assert_eq!(by("api.json", "publisher/task-2").await, first);
    assert_eq!(by("api-rest.json", "publisher/task-3").await, first);
    assert_ne!(by("api.json", "reporter/task-1").await, first);
}

/// The event of a file in `tests/events`, with a change.
fn event(file: &str, change: impl FnOnce(&mut Value)) -> Value {
    let text = std::fs::read(workspace().join("tests/events").join(file)).unwrap();
    let mut event = serde_json::from_slice(&text).unwrap();
    change(&mut event);
    event
}

async fn status(lambda: &Lambda, event: &Value) -> u16 {
    let answer: Value =
        serde_json::from_slice(&lambda.call("api", event.to_string()).await.unwrap()).unwrap();
    answer["statusCode"].as_u64().unwrap() as u16
}
