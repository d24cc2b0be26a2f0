//! One hanging receiver under many names, each of which is a destination. It delays neither a
//! destination that responded before nor a new one.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use harness::{client::ApiClient, ledger, receiver::Receiver, stack::Launch};
use serde_json::json;

/// Three times the number of slots of a stack.
const NAMES: u16 = 384;

/// Longer than the test. No hanging attempt ends during it.
const DELIVERY_TIMEOUT_MS: &str = "300000";

/// The bound for other destinations. Without the limits they would wait for an attempt's deadline.
const SERVED_BOUND: Duration = Duration::from_secs(60);

const BOUND: Duration = Duration::from_secs(120);

/// Listeners that never accept, each at its own address. Connections stay in their backlog.
fn hanging() -> Vec<TcpListener> {
    let address = |n: u16| Ipv4Addr::new(127, 77, (n >> 8) as u8, n as u8);
    (1..=NAMES).map(|n| TcpListener::bind((address(n), 0)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_receiver_under_many_names_delays_no_other() {
    let _turn = crate::turn().await;
    let hanging = hanging();
    let [known, new] = [Receiver::start().await.unwrap(), Receiver::start().await.unwrap()];
    let launch = Launch::fresh()
        .unwrap()
        .set("DELIVERY_TIMEOUT_MS", DELIVERY_TIMEOUT_MS)
        .set("LEASE_MS", "360000")
        .set("REQUEUE_GRACE_MS", "3000000")
        .set("RETRY_BASE_DELAY_MS", "10")
        .set("CIRCUIT_FAILURES", "0")
        .set("RUST_LOG", "warn");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = vec![api.test_webhook(&known.url("/x"), &json!({})).await.unwrap().webhook_id];
    known.wait_for(1, BOUND).await.unwrap();
    let mut held = Vec::new();
    for listener in &hanging {
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        held.push(api.test_webhook(&url, &json!({})).await.unwrap().webhook_id);
    }

    for (receiver, count, what) in
        [(&known, 2, "a known destination"), (&new, 1, "a new destination")]
    {
        let sent = Instant::now();
        ids.push(api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id);
        receiver
            .wait_for(count, SERVED_BOUND)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        println!("{what} was served after {:?}", sent.elapsed());
    }
    for id in &held {
        let attempts = api.webhook(id).await.unwrap().attempts;
        assert!(attempts.is_empty(), "a hanging attempt has ended: {attempts:?}");
    }

    // Connections in a backlog are reset now, and new ones are refused.
    drop(hanging);
    ids.extend(held);
    let statuses = ledger::settle(&api, &ids, BOUND).await.statuses;
    assert_eq!(
        statuses,
        [("delivered".to_owned(), 3), ("failed".to_owned(), usize::from(NAMES))].into()
    );
    ledger::close(&api, stack, &launch).await;
}
