//! Another program that keeps a transaction open on the file.

use harness::{client::ApiClient, receiver::Receiver};
use rusqlite::Connection;

use crate::{BOUND, fresh_health, launch, ledger, post, wait_for_health, warnings};

/// More than the 32 MiB that may stay in the log. Each payload is written once without compression.
const POSTS: usize = 180;
const PAYLOAD_BYTES: usize = 200_000;

/// While the other program reads, the log grows, and health reports the reason and the size. After
/// the read ends, the log starts over.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_reader_is_reported_with_the_size_of_the_log() {
    let receiver = Receiver::start().await.unwrap();
    let launch = launch();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut accepted = vec![post(&api, &receiver.url("/x"), 10).await.unwrap()];
    let reader = Connection::open(launch.data_dir().join("posthaste.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM webhooks").unwrap();
    for _ in 0..POSTS {
        accepted.push(post(&api, &receiver.url("/x"), PAYLOAD_BYTES).await.unwrap());
    }
    let health = wait_for_health(&api, "degraded").await;
    assert!(warnings(&health).contains("another program keeps a transaction open"), "{health}");
    let log_bytes = health["store"]["disk"]["log_bytes"].as_u64().unwrap();
    assert!(log_bytes > 32 * 1024 * 1024, "{health}");

    reader.execute_batch("ROLLBACK").unwrap();
    // The next writes trigger a checkpoint.
    let started = std::time::Instant::now();
    while fresh_health(&api).await.1["status"] != "healthy" {
        assert!(started.elapsed() < BOUND);
        accepted.push(post(&api, &receiver.url("/x"), 10).await.unwrap());
    }
    let settled = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(settled.statuses, [("delivered".to_owned(), accepted.len())].into());
    ledger::end(&api, stack).await;
}
