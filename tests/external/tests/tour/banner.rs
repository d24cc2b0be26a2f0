//! The `curl` line that the local stack prints at its start.

use std::time::Duration;

use harness::{client::ApiClient, ledger, receiver::Receiver, stack::Launch};

const BOUND: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn the_curl_line_that_it_prints_works_as_printed() {
    // The line posts to 127.0.0.1:9001; the receiver's port is put in its place, and a shell runs
    // it.
    let receiver = Receiver::start().await.unwrap();
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let log = launch.log();
    assert!(
        log.contains(&stack.url()) && log.contains(&stack.metrics_url()) && log.contains("SQLite"),
        "{log}"
    );
    let line = log
        .lines()
        .find(|line| line.trim_start().starts_with("curl "))
        .expect("there is a curl line");
    let line = line.replace("127.0.0.1:9001", &receiver.address().to_string());
    let output = tokio::process::Command::new("sh").args(["-c", &line]).output().await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids = [answer["webhook_id"].as_str().unwrap().to_owned()];
    let api = ApiClient::new(&stack.url(), None).unwrap();
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("delivered".to_owned(), 1)].into()
    );
    let metrics = reqwest_get(&stack.metrics_url()).await;
    assert!(metrics.contains("# TYPE webhook_delivery_total counter"), "{metrics}");
    ledger::close(&api, stack, &launch).await;
}

async fn reqwest_get(url: &str) -> String {
    let base = url.trim_end_matches("/metrics");
    ApiClient::new(base, None)
        .unwrap()
        .call(http::Method::GET, &["metrics"], &[], None)
        .await
        .unwrap()
        .body
}
