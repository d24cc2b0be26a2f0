//! Clients that keep posting through an outage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "tests call this: its panics are their failures"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::client::{Accepted, ApiClient};
use http::{Method, StatusCode};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

const BOUND: Duration = Duration::from_secs(60);

const CLIENTS: usize = 8;

/// The pause between two requests of a client. Enough requests are sent during the outage, and not
/// too many to check.
const PACE: Duration = Duration::from_millis(25);

/// The numbers of accepted and refused requests, by the phase in which each request started. This
/// separates requests of an outage from late responses to earlier ones.
#[derive(Debug)]
pub struct Seen {
    phases: Mutex<Vec<(usize, usize)>>,
    stopping: AtomicBool,
}

impl Default for Seen {
    fn default() -> Self {
        Self { phases: Mutex::new(vec![(0, 0)]), stopping: AtomicBool::default() }
    }
}

impl Seen {
    /// Starts a new phase.
    pub fn begin_phase(&self) {
        self.phases.lock().unwrap().push((0, 0));
    }

    /// Accepted and refused requests of the current phase.
    pub fn in_phase(&self) -> (usize, usize) {
        self.phases.lock().unwrap().last().copied().unwrap()
    }

    /// Accepted and refused requests in total.
    pub fn in_all(&self) -> (usize, usize) {
        self.phases
            .lock()
            .unwrap()
            .iter()
            .fold((0, 0), |sum, phase| (sum.0 + phase.0, sum.1 + phase.1))
    }

    /// Waits until this many more requests are accepted.
    pub async fn accepts(&self, when: &str, more: usize) {
        wait_for_more(&format!("accepted {when}"), || self.in_all().0, more).await;
    }

    fn phase(&self) -> usize {
        self.phases.lock().unwrap().len() - 1
    }
}

/// Clients that post until they are stopped.
#[derive(Debug)]
pub struct Clients {
    /// Their counts so far.
    pub seen: Arc<Seen>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    /// Starts the clients. Each refusal must have this status code, and a 503 `retry-after`.
    pub fn start(api_url: &str, receiver_url: &str, refusal: StatusCode) -> Self {
        let seen = Arc::new(Seen::default());
        let post = |_| {
            tokio::spawn(post_through(
                api_url.to_owned(),
                receiver_url.to_owned(),
                refusal,
                Arc::clone(&seen),
            ))
        };
        Self { tasks: (0..CLIENTS).map(post).collect(), seen }
    }

    /// Stops the clients and returns the ids of the accepted webhooks.
    pub async fn stop(self) -> Vec<String> {
        self.seen.stopping.store(true, Ordering::SeqCst);
        let mut accepted = Vec::new();
        for task in self.tasks {
            accepted.extend(task.await.unwrap());
        }
        accepted
    }
}

async fn post_through(
    api_url: String,
    receiver_url: String,
    refusal: StatusCode,
    seen: Arc<Seen>,
) -> Vec<String> {
    let api = ApiClient::new(&api_url, None).unwrap();
    let mut accepted = Vec::new();
    while !seen.stopping.load(Ordering::SeqCst) {
        let phase = seen.phase();
        let query = [("webhook_url", receiver_url.as_str())];
        let answer =
            api.call(Method::POST, &["test-webhook"], &query, Some("{}".to_owned())).await.unwrap();
        if answer.status == refusal {
            let says_when = answer.headers.contains_key("retry-after");
            assert!(says_when || refusal != StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
            seen.phases.lock().unwrap()[phase].1 += 1;
        } else {
            accepted.push(answer.expect::<Accepted>(StatusCode::ACCEPTED).unwrap().webhook_id);
            seen.phases.lock().unwrap()[phase].0 += 1;
        }
        sleep(PACE).await;
    }
    accepted
}

/// Waits until the count has grown by `more`.
pub async fn wait_for_more(what: &str, count: impl Fn() -> usize, more: usize) {
    let (started, before) = (Instant::now(), count());
    while count() < before + more {
        assert!(started.elapsed() < BOUND, "{what}: no {more} more within {BOUND:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
