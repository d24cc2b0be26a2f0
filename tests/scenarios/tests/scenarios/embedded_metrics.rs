//! The metrics that the functions print for CloudWatch, and the trace that Lambda passes to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use harness::{
    binaries::workspace,
    client::ApiClient,
    functions::functions,
    lambda::Lambda,
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
};
use serde_json::{Value, json};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_secs(60);

const SETTINGS: [(&str, &str); 4] = [
    ("RETRY_BASE_DELAY_MS", "50"),
    ("RETRY_MAX_ATTEMPTS", "2"),
    ("CIRCUIT_FAILURES", "0"),
    ("RUST_LOG", "info"),
];

/// The attempts in this test: three first deliveries, and two webhooks with two attempts each.
const ATTEMPTS: usize = 7;

/// Limits of the format: values per metric, metrics per directive, dimensions per set, bytes per
/// line.
const MAX_VALUES: usize = 100;
const MAX_METRICS: usize = 100;
const MAX_DIMENSIONS: usize = 30;
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The complete lines that this function printed for CloudWatch.
fn embedded(launch: &Launch, function: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(launch.folder().join(format!("{function}.log"))).unwrap();
    // The last line may be incomplete.
    let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
    let lines: Vec<Value> =
        whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    lines.into_iter().filter(|line| line.get("_aws").is_some()).collect()
}

/// Checks a line against the format's rules, because CloudWatch ignores invalid lines. Returns its
/// metrics.
fn metrics(line: &Value) -> BTreeMap<String, Vec<f64>> {
    assert!(line.to_string().len() < MAX_LINE_BYTES);
    assert!(
        line["_aws"]["Timestamp"].as_i64().is_some_and(|millis| millis > 1_600_000_000_000),
        "{line}"
    );
    let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
    let mut found = BTreeMap::new();
    for directive in directives {
        assert_eq!(directive["Namespace"], "Posthaste");
        for set in directive["Dimensions"].as_array().unwrap() {
            let set = set.as_array().unwrap();
            assert!(set.len() <= MAX_DIMENSIONS);
            // Each dimension is a string member of the line.
            assert!(
                set.iter().all(|name| line[name.as_str().unwrap()]
                    .as_str()
                    .is_some_and(|value| !value.is_empty())),
                "{line}"
            );
            assert_eq!(set, &[json!("FunctionName")], "neither hosts nor webhooks");
        }
        let definitions = directive["Metrics"].as_array().unwrap();
        assert!((1..=MAX_METRICS).contains(&definitions.len()));
        for definition in definitions {
            let name = definition["Name"].as_str().unwrap();
            let unit = if name.ends_with("Seconds") { "Seconds" } else { "Count" };
            assert_eq!(definition["Unit"], unit, "{name}");
            let values = match &line[name] {
                Value::Array(values) => {
                    values.iter().map(|value| value.as_f64().unwrap()).collect()
                }
                value => vec![value.as_f64().unwrap()],
            };
            assert!(
                (1..=MAX_VALUES).contains(&values.len())
                    && values.iter().all(|value| value.is_finite() && *value >= 0.0)
            );
            assert!(found.insert(name.to_owned(), values).is_none(), "{name} twice: {line}");
        }
    }
    let members: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> =
        found.keys().map(String::as_str).chain(["_aws", "FunctionName"]).collect();
    assert_eq!(members, expected, "no other members");
    found
}

/// All values of each metric over these lines.
fn merged(lines: &[Value]) -> BTreeMap<String, Vec<f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, values) in lines.iter().flat_map(metrics) {
        all.entry(name).or_default().extend(values);
    }
    all
}

/// The sum of a counter.
fn count(all: &BTreeMap<String, Vec<f64>>, name: &str) -> u64 {
    all.get(name).map_or(0, |values| values.iter().map(|value| *value as u64).sum())
}

/// Whether the functions have printed all metrics of this test.
fn is_complete(launch: &Launch) -> bool {
    let [deliver, dlq, sweep] =
        ["deliver", "dlq", "sweep"].map(|name| merged(&embedded(launch, name)));
    let failed = sweep
        .get("WebhookKeysFailed")
        .is_some_and(|counts| counts.iter().any(|count| *count as u64 == 1));
    failed
        && count(&dlq, "TaskProcessingSuccess") >= 1
        && deliver.get("WebhookDeliverySeconds").map_or(0, Vec::len) >= ATTEMPTS
}

/// The function binaries print valid metric lines: at most one per invocation, and none without a
/// change. The destination gets the trace that X-Ray samples, with the same id.
#[tokio::test(flavor = "multi_thread")]
async fn functions_print_metrics_for_cloudwatch() {
    let receiver =
        Receiver::builder().script(|request| match (request.uri.path(), request.attempt()) {
            ("/well", _) | ("/later", Some(2..)) => Reply::status(200),
            _ => Reply::status(500),
        });
    let receiver = receiver.start().await.unwrap();
    let launch = SETTINGS
        .iter()
        .fold(Launch::fresh().unwrap(), |launch, (variable, value)| launch.set(variable, value));
    let lambda = Lambda::start(functions(&launch, &SETTINGS), launch.folder()).await.unwrap();
    let launch = launch.instead("--functions", &lambda.endpoint());
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for path in ["/well", "/well", "/well", "/later", "/ill"] {
        ids.push(api.test_webhook(&receiver.url(path), &json!({"n": 1})).await.unwrap().webhook_id);
    }
    ledger::settle(&api, &ids, BOUND).await;
    let started = Instant::now();
    // An invocation prints after it has written its results.
    while !is_complete(&launch) {
        assert!(
            started.elapsed() < BOUND,
            "{:?}",
            ["deliver", "dlq", "sweep"].map(|name| merged(&embedded(&launch, name)))
        );
        sleep(Duration::from_millis(50)).await;
    }

    let deliver = merged(&embedded(&launch, "deliver"));
    let attempts = ["WebhookDeliveryDelivered", "WebhookDeliveryRetrying", "WebhookDeliveryFailed"]
        .map(|name| count(&deliver, name));
    assert_eq!(attempts, [4, 2, 1], "{deliver:?}");
    assert_eq!(deliver["WebhookDeliverySeconds"].len(), ATTEMPTS);
    let sweep = merged(&embedded(&launch, "sweep"));
    assert_eq!(sweep["SweepLagSeconds"].len(), sweep["TaskProcessingSeconds"].len(), "one per run");
    assert!(embedded(&launch, "api").is_empty(), "api has no metrics");
    for name in ["deliver", "dlq", "sweep"] {
        let lines = embedded(&launch, name);
        let (invocations, _) = lambda.counts(name);
        assert!(
            lines.len() as u64 <= invocations,
            "{name}: {} lines of {invocations} invocations",
            lines.len()
        );
        let text: String = lines.iter().map(Value::to_string).collect();
        assert!(!text.contains("127.0.0.1") && !text.contains("TEST-"), "{name}: {text}");
        assert!(lines.iter().all(|line| line["FunctionName"] == name));
    }
    assert!(!launch.log().contains("_aws"), "on Lambda only");
    let before = embedded(&launch, "dlq").len();
    lambda.call("dlq", json!({"Records": []}).to_string()).await.unwrap();
    assert_eq!(embedded(&launch, "dlq").len(), before, "nothing changed");

    for request in receiver.received() {
        // The emulator's roots are `1-00000000-` and 24 digits.
        let parent = request.header("traceparent").expect("the invocation is sampled");
        let fields: Vec<&str> = parent.split('-').collect();
        assert!(
            fields.len() == 4
                && fields[1].starts_with("00000000")
                && fields[1].len() == 32
                && fields[3] == "01",
            "{parent}"
        );
    }
    ledger::close(&api, stack, &launch).await;
}

/// The event of a file in `tests/events`.
fn event(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(workspace().join("tests/events").join(name)).unwrap())
        .unwrap()
}

/// The log line of an attempt contains the X-Ray trace from the SQS message, and the trace that the
/// destination gets. The test calls the functions with AWS events, one by one.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_logs_the_trace_from_sqs() {
    const XRAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
    let receiver = Receiver::start().await.unwrap();
    let launch = Launch::fresh().unwrap();
    let lambda = Lambda::start(functions(&launch, &SETTINGS), launch.folder()).await.unwrap();
    let mut call = event("api.json");
    call["body"] = json!({"url": receiver.url("/x"), "payload": 1}).to_string().into();
    let answer: Value =
        serde_json::from_slice(&lambda.call("api", call.to_string()).await.unwrap()).unwrap();
    let accepted: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    let mut batch = event("deliver.json");
    batch["Records"].as_array_mut().unwrap().truncate(1);
    batch["Records"][0]["body"] =
        json!({"v": 1, "webhook_id": accepted["webhook_id"]}).to_string().into();
    batch["Records"][0]["attributes"]["AWSTraceHeader"] = XRAY.into();
    lambda.call("deliver", batch.to_string()).await.unwrap();

    let request = receiver.wait_for(1, BOUND).await.unwrap().remove(0);
    let expected: Vec<&str> = request.header("traceparent").unwrap().split('-').collect();
    let log = std::fs::read_to_string(launch.folder().join("deliver.log")).unwrap();
    let line = log.lines().find(|line| line.contains("Sending webhook notification")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["xray_trace_id"], &line["webhook_id"]),
        (&json!(XRAY), &accepted["webhook_id"])
    );
    assert_eq!((&line["trace_id"], &line["span_id"]), (&json!(expected[1]), &json!(expected[2])));
    assert_eq!(line["correlation_id"], accepted["correlation_id"]);
}
