//! A hanging destination with half of the traffic does not delay other destinations. It loses no
//! webhook, and its deferred webhooks spend no attempt. `load --spawn --fairness` measures by how
//! much other webhooks are delayed.

use std::{collections::HashSet, time::Duration};

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
    wait::wait_until,
};
use serde_json::json;

/// Webhooks for each of the two destinations.
const EACH: usize = 40;

/// Concurrent attempts in all and for one destination.
const SLOTS: &str = "16";
const HOST_SLOTS: usize = 4;

/// The response time of the hanging destination, and the deadline of an attempt: longer than the
/// test. Without the limit per destination, the hanging one would use all slots for this long.
const HANG: Duration = Duration::from_secs(3600);
const DELIVERY_TIMEOUT_MS: &str = "300000";

/// Webhooks have been deferred up to four times when the destination starts to respond, and may be
/// deferred again for up to 32 s. The rest is for a busy machine.
const BOUND: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_destination_holds_no_more_than_its_limit() {
    let _turn = crate::turn().await;
    let hanging =
        Receiver::builder().script(|_| Reply::status(200).after(HANG)).start().await.unwrap();
    let well = Receiver::start().await.unwrap();
    let launch = Launch::fresh()
        .unwrap()
        .set("DELIVERY_TIMEOUT_MS", DELIVERY_TIMEOUT_MS)
        .set("LEASE_MS", "360000")
        .set("REQUEUE_GRACE_MS", "3000000")
        .set("DELIVER_CONCURRENCY", SLOTS)
        .set("DELIVER_HOST_CONCURRENCY", &HOST_SLOTS.to_string())
        .set("RETRY_BASE_DELAY_MS", "10")
        .set("CIRCUIT_FAILURES", "0");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let [mut to_hanging, mut to_well] = [Vec::new(), Vec::new()];
    for _ in 0..EACH {
        to_hanging.push(api.test_webhook(&hanging.url("/x"), &json!({})).await.unwrap().webhook_id);
        to_well.push(api.test_webhook(&well.url("/x"), &json!({})).await.unwrap().webhook_id);
    }

    // All other webhooks arrive during the first attempts at the hanging destination.
    well.wait_for(EACH, BOUND).await.unwrap();
    let held = hanging.wait_for(HOST_SLOTS, BOUND).await.unwrap();
    let held: HashSet<&str> = held.iter().map(|request| request.webhook_id().unwrap()).collect();
    assert_eq!(held.len(), HOST_SLOTS, "no more concurrent attempts than its limit");
    for id in &to_hanging {
        assert!(
            api.webhook(id).await.unwrap().attempts.is_empty(),
            "the others arrived before an attempt at the hanging destination ended"
        );
    }

    let are_deferred = async || {
        let mut deferred = 0;
        for id in &to_hanging {
            deferred += usize::from(api.webhook(id).await.unwrap().status == "retrying");
        }
        deferred == EACH - HOST_SLOTS
    };
    wait_until("all webhooks over the limit are deferred", BOUND, are_deferred).await;
    // From now on the destination responds. The attempts in flight fail and are repeated. Deferred
    // webhooks spend no attempt.
    hanging.answer_with(|_| Reply::status(200));
    hanging.hang_up();
    let all = [to_hanging.clone(), to_well].concat();
    assert_eq!(
        ledger::settle(&api, &all, BOUND).await.statuses,
        [("delivered".to_owned(), 2 * EACH)].into()
    );
    let mut deferred = 0;
    for id in &to_hanging {
        let explained = api.explain(id).await.unwrap();
        let steps: Vec<&str> = explained["steps"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|step| step["transition"].as_str())
            .collect();
        let attempts = api.webhook(id).await.unwrap().attempt_count;
        assert_eq!(attempts, if held.contains(id.as_str()) { 2 } else { 1 }, "{explained}");
        assert_eq!(
            explained["budget"]["rescues"]["used"], 0,
            "no message was received too often: {explained}"
        );
        deferred += usize::from(steps.contains(&"defer"));
    }
    println!(
        "while {HOST_SLOTS} of {EACH} webhooks to the hanging destination were in flight and \
         {deferred} deferred, {EACH} others arrived"
    );
    assert!(deferred > 0, "webhooks over the limit were deferred");
    ledger::close(&api, stack, &launch).await;
}
