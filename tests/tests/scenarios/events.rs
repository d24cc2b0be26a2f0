//! The event files that the README shows, each given to the function that it is for.

use posthaste_tests::{binaries::workspace, lambda::Lambda, stack::Launch};
use serde_json::{Value, json};

use crate::functions::functions;

/// Each function understands its events in the shapes that AWS gives them, and answers in the shape that their sender expects. Proved with
/// the real binaries, by what each answers: the webhook is accepted; the message of a newer version goes back and the other does not.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_file_is_understood_by_its_function() {
    let launch = Launch::fresh().unwrap();
    let lambda = Lambda::start(functions(&launch, &[]), launch.folder()).await.unwrap();
    let mut files: Vec<String> = std::fs::read_dir(workspace().join("tests/events"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["api-alb.json", "api-http-api.json", "api-rest.json", "api.json", "deliver.json", "dlq.json", "sweep.json"]
    );
    for file in files {
        let event = std::fs::read(workspace().join("tests/events").join(&file)).unwrap();
        let name = file.split(['.', '-']).next().unwrap();
        let answer: Value = serde_json::from_slice(&lambda.call(name, event).await.unwrap()).unwrap();
        match name {
            "api" => {
                assert_eq!(answer["statusCode"], 202, "{file}: {answer}");
                let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
                assert_eq!((&body["reference_id"], &body["status"]), (&json!("event"), &json!("pending")), "{file}");
            }
            "deliver" => {
                let newer = json!({"batchItemFailures": [{"itemIdentifier": "059f36b4-87a3-44ab-83d2-661975480002"}]});
                assert_eq!(answer, newer, "{file}");
            }
            "dlq" => assert_eq!(answer, json!({"batchItemFailures": []}), "{file}"),
            _ => assert_eq!(answer, Value::Null, "{file}"),
        }
    }
}
