//! Clients that go on through refusals, while something is away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use posthaste_tests::client::ApiClient;
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

const BOUND: Duration = Duration::from_secs(60);

const CLIENTS: usize = 8;

/// What the clients have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) accepted: AtomicUsize,
    pub(crate) refused: AtomicUsize,
    stopping: AtomicBool,
}

/// Clients that post until they are told to stop.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) seen: Arc<Seen>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    /// Each refusal must have one of these statuses.
    pub(crate) fn start(api_url: &str, receiver_url: &str, refusals: &'static [u16]) -> Self {
        let seen = Arc::new(Seen::default());
        let post = || tokio::spawn(post_through(api_url.to_owned(), receiver_url.to_owned(), refusals, Arc::clone(&seen)));
        Self { tasks: (0..CLIENTS).map(|_| post()).collect(), seen }
    }

    /// The ids of what was answered with a 202.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.seen.stopping.store(true, Ordering::SeqCst);
        let mut accepted = Vec::new();
        for task in self.tasks {
            accepted.extend(task.await.unwrap());
        }
        accepted
    }
}

async fn post_through(api_url: String, receiver_url: String, refusals: &'static [u16], seen: Arc<Seen>) -> Vec<String> {
    let api = ApiClient::new(&api_url, None).unwrap();
    let mut accepted = Vec::new();
    while !seen.stopping.load(Ordering::SeqCst) {
        match api.test_webhook(&receiver_url, &json!({})).await {
            Ok(answer) => {
                accepted.push(answer.webhook_id);
                seen.accepted.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                assert!(error.status().is_some_and(|status| refusals.contains(&status.as_u16())), "{error}");
                seen.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    accepted
}

/// Waits until the count has grown by so much.
pub(crate) async fn wait_for_more(what: &str, count: &AtomicUsize, more: usize) {
    let (started, before) = (Instant::now(), count.load(Ordering::SeqCst));
    while count.load(Ordering::SeqCst) < before + more {
        assert!(started.elapsed() < BOUND, "{what}: none within {BOUND:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
