//! The ledger: accepted = delivered + failed + deleted, nothing due, nothing queued, every failure
//! a dead letter.
//!
//! The functions panic if the ledger does not balance.

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "tests call this: its panics are their failures"
)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use shared::{
    clock::{Clock, SystemClock, Timestamp},
    queue::{Lane, Queue, sqlite::SqliteQueue},
    sqlite::{DATABASE_FILE, Database},
    store::{Store, sqlite::SqliteStore},
};
use tokio::time::{Instant, sleep};

use crate::{
    client::ApiClient,
    stack::{Launch, Stack},
};

/// The pause between two requests.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The maximum number of concurrent requests.
const CLIENTS: usize = 8;

/// The time limit for the last messages. A message that was handed back is received again after ten
/// seconds or more.
const CLOSE_BOUND: Duration = Duration::from_secs(60);

/// The results of the accepted webhooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The number of webhooks by status. Deleted webhooks count as `deleted`.
    pub statuses: BTreeMap<String, usize>,
    /// The number of attempts without a recorded response. Each may have reached the destination.
    pub unanswered: usize,
}

/// Waits until each of these webhooks is finished or deleted. Returns their results.
pub async fn settle(api: &ApiClient, accepted: &[String], bound: Duration) -> Ledger {
    let deadline = Instant::now() + bound;
    let mut ledger = Ledger::default();
    let mut settled =
        stream::iter(accepted).map(|id| settled(api, id, deadline)).buffer_unordered(CLIENTS);
    while let Some((status, unanswered)) = settled.next().await {
        *ledger.statuses.entry(status).or_default() += 1;
        ledger.unanswered += unanswered;
    }
    ledger
}

/// The status of a webhook, and the number of its attempts without a recorded response.
async fn settled(api: &ApiClient, id: &str, deadline: Instant) -> (String, usize) {
    let webhook = loop {
        match api.webhook(id).await {
            Ok(webhook) if webhook.is_finished() => break webhook,
            Ok(webhook) => assert!(
                Instant::now() < deadline,
                "{id} is still {} after the time limit: {webhook:?}",
                webhook.status
            ),
            Err(error) if error.status().is_some_and(|status| status == 404) => {
                return ("deleted".to_owned(), 0);
            }
            Err(error) => assert!(Instant::now() < deadline, "cannot get {id}: {error}"),
        }
        sleep(POLL_INTERVAL).await;
    };
    let unanswered = |kind: &str| matches!(kind, "interrupted" | "timeout" | "network");
    let errors = webhook.attempts.iter().filter_map(|attempt| attempt.error.as_ref());
    let count = errors.filter(|error| unanswered(&error.kind)).count();
    if webhook.status == "failed" {
        wait_for_dead_letter(api, id, deadline).await;
    }
    (webhook.status, count)
}

async fn wait_for_dead_letter(api: &ApiClient, id: &str, deadline: Instant) {
    loop {
        match api.dead_letter(id).await {
            Ok(Some(_)) => return,
            other => {
                assert!(
                    Instant::now() < deadline,
                    "{id} failed and is not a dead letter: {other:?}"
                );
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until the queues are empty, stops the stack, and checks in its file that nothing is due
/// and nothing is queued.
pub async fn close(api: &ApiClient, stack: Stack, launch: &Launch) {
    end(api, stack).await;
    let database = Database::open(&launch.data_dir().join(DATABASE_FILE)).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = SqliteStore::new(database.clone(), Arc::clone(&clock));
    assert_nothing_left(&store, &SqliteQueue::new(database, clock)).await;
}

/// Waits until the queues are empty, and stops the stack.
pub async fn end(api: &ApiClient, stack: Stack) {
    wait_for_empty_queues(api, CLOSE_BOUND).await;
    stack.stop().unwrap();
}

/// Waits until both queues are empty.
pub async fn wait_for_empty_queues(api: &ApiClient, bound: Duration) {
    let deadline = Instant::now() + bound;
    let began_at = SystemClock.now();
    loop {
        let health: serde_json::Value =
            api.health().await.unwrap().expect(http::StatusCode::OK).unwrap();
        // The stack may have cached its health before this call.
        let is_fresh = health["checked_at"]
            .as_str()
            .and_then(Timestamp::parse_rfc3339)
            .is_some_and(|at| at >= began_at);
        let depths = &health["queue"]["depths"];
        let lanes = [&depths["webhooks"], &depths["dead_letters"]];
        if is_fresh
            && lanes
                .iter()
                .all(|lane| ["ready", "in_flight", "delayed"].iter().all(|part| lane[part] == 0))
        {
            break;
        }
        assert!(Instant::now() < deadline, "messages are left: {depths}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Checks that no webhook is due, now or later, and that no message is queued.
pub async fn assert_nothing_left(store: &dyn Store, queue: &dyn Queue) {
    let far = SystemClock.now().plus(Duration::from_secs(400 * 24 * 3600));
    assert_eq!(store.due(far, None, 10).await.unwrap().entries, [], "nothing is due");
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        let depth = queue.depth(lane).await.unwrap();
        assert_eq!(
            (depth.ready, depth.delayed, depth.in_flight),
            (0, 0, 0),
            "nothing is queued in {lane:?}"
        );
    }
}
