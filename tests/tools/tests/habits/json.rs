//! `--json`: standard output is JSON and nothing else, whatever the verdict; what is for people
//! goes to standard error.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use harness::{
    binaries::binary,
    client::{ApiClient, NewWebhook},
    habits::{piped, text},
    receiver::Receiver,
    stack::Launch,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::tool;

/// Every test tool against a real stack and a real receiver, as a user pipes it into another
/// program.
#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_of_a_test_tool_parses() {
    let receiver = Receiver::builder()
        .behaviour(harness::receiver::Behaviour::default())
        .start()
        .await
        .unwrap();
    let launch =
        Launch::fresh().unwrap().set("RETRY_BASE_DELAY_MS", "50").set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let receiver_url = format!("http://{}", receiver.address());
    for name in ["test-webhook-failure", "test-webhook-dlq-simple", "test-webhook-dlq"] {
        let run = |api_url: &str| {
            let arguments = [
                "--json",
                "--api-url",
                api_url,
                "--receiver-url",
                &receiver_url,
                "--lateness-ms",
                "60000",
            ];
            piped(
                tool(name)
                    .args(arguments)
                    .env("RETRY_BASE_DELAY_MS", "50")
                    .env("MIN_RETRY_DELAY_MS", "0"),
            )
        };
        let output = run(&stack.url());
        let verdict: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        assert_eq!(
            (output.status.code(), &verdict["passed"]),
            (Some(0), &true.into()),
            "{name}: {verdict:#}"
        );
        assert!(
            verdict["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true),
            "{name}: {verdict:#}"
        );
        assert!(text(&output.stderr).contains("PASSED"), "{name} tells people nothing");
        // Nobody listens at port 1.
        let output = run("http://127.0.0.1:1");
        let verdict: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        assert_eq!(verdict["passed"], false, "{name}: {verdict:#}");
        assert!(
            verdict["stopped"].as_str().unwrap().contains("127.0.0.1:1"),
            "{name}: {verdict:#}"
        );
    }
    stack.stop().unwrap();
}

#[test]
fn the_figures_of_load_parse() {
    let folder = tempfile::tempdir().unwrap();
    let spawn = format!("--spawn={}", binary("local").unwrap().display());
    let output = piped(tool("load").current_dir(folder.path()).args([
        "--json",
        &spawn,
        "--webhooks",
        "50",
        "--latency-webhooks",
        "20",
    ]));
    let figures: Value = serde_json::from_str(&text(&output.stdout))
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    assert_eq!(output.status.code(), Some(0), "{figures:#}");
    assert_eq!(
        (&figures["throughput"]["webhooks"], &figures["latency"]["webhooks"]),
        (&50.into(), &20.into()),
        "{figures:#}"
    );
    assert!(text(&output.stderr).contains("measuring"), "nothing is told while it measures");
}

/// Each line of the receiver is one object: where it listens, what came, what it counted.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_receiver_parses() {
    let mut receiver = Ended(
        tool("webhook-receiver")
            .args(["--json", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(receiver.0.stdout.take().unwrap())
        .lines()
        .map(|line| text(line.unwrap().as_bytes()));
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap()).unwrap();
    let listening = next()["listening"].as_str().unwrap().to_owned();
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let payload = json!({"hello": "world"});
    let webhook =
        NewWebhook { url: &format!("{listening}x"), payload: &payload, reference_id: None };
    let id = api.submit(&webhook).await.unwrap().webhook_id;
    assert_eq!(next()["webhook_id"], json!(id));
    kill_process(Pid::from_child(&receiver.0), Signal::TERM).unwrap();
    assert_eq!(next()["stopped"]["received"], 1);
    assert_eq!(receiver.0.wait().unwrap().code(), Some(0));
    stack.stop().unwrap();
}

/// A process that ends with its holder.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Does nothing if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
