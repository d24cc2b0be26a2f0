//! A destination that hangs, with half of the traffic, keeps nobody else from being served, loses
//! nothing, and no attempt is charged for the time that its webhooks were put off. How much later
//! the others arrive is measured by `load --spawn --fairness`.

use std::{collections::HashSet, time::Duration};

use harness::{
    client::ApiClient,
    ledger,
    receiver::{Receiver, Reply},
    stack::Launch,
};
use serde_json::json;

/// Webhooks for each of the two.
const EACH: usize = 40;

/// Attempts at a time, and how many one destination gets of them.
const SLOTS: &str = "16";
const HOST_SLOTS: usize = 4;

/// How long the hanging one takes: longer than anybody waits for it.
const HANG: Duration = Duration::from_secs(3600);

/// The deadline of an attempt. Without the limit on one destination all slots would be held by the
/// hanging one for so long.
const DELIVERY_TIMEOUT_MS: &str = "20000";

/// A webhook that is deferred for the fourth time just before the hanging one answers waits for up
/// to 128 s more.
const BOUND: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_takes_no_more_than_its_share() {
    let _turn = crate::turn().await;
    let hanging =
        Receiver::builder().script(|_| Reply::status(200).after(HANG)).start().await.unwrap();
    let well = Receiver::start().await.unwrap();
    let launch = Launch::fresh()
        .unwrap()
        .set("DELIVERY_TIMEOUT_MS", DELIVERY_TIMEOUT_MS)
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

    // All of the others arrive while the hanging one holds as many attempts as it may, none of
    // which has ended.
    well.wait_for(EACH, BOUND).await.unwrap();
    let held = hanging.wait_for(HOST_SLOTS, BOUND).await.unwrap();
    let held: HashSet<&str> = held.iter().map(|request| request.webhook_id().unwrap()).collect();
    assert_eq!(held.len(), HOST_SLOTS, "no more at a time than it may have");
    for id in &to_hanging {
        assert!(
            api.webhook(id).await.unwrap().attempts.is_empty(),
            "the others came before an attempt at the hanging one had ended"
        );
    }

    // From now on it answers. What it holds is given up at the deadline and tried again; what was
    // put off has spent nothing.
    hanging.answer_with(|_| Reply::status(200));
    let all = [to_hanging.clone(), to_well].concat();
    assert_eq!(
        ledger::settle(&api, &all, BOUND).await.statuses,
        [("delivered".to_owned(), 2 * EACH)].into()
    );
    let mut put_off = 0;
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
        put_off += usize::from(steps.contains(&"defer"));
    }
    println!(
        "while {HOST_SLOTS} of {EACH} webhooks to the hanging destination were held and {put_off} \
         put off, {EACH} others arrived"
    );
    assert!(put_off > 0, "what exceeds its share was put off");
    ledger::close(&api, stack, &launch).await;
}
