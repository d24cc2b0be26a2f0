//! Clients that go on through refusals, while something is away.

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

/// Between two requests of a client: enough of them meet the outage, and not so many that they take
/// long to ask about.
const PACE: Duration = Duration::from_millis(25);

/// What the clients have seen: how many requests were accepted and how many refused, by the phase
/// that they began in. So what happens in an outage is told from the late answers to what began
/// before it.
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
    /// What begins from now on belongs to a new phase.
    pub fn begin_phase(&self) {
        self.phases.lock().unwrap().push((0, 0));
    }

    /// Accepted and refused of what began in this phase.
    pub fn in_phase(&self) -> (usize, usize) {
        self.phases.lock().unwrap().last().copied().unwrap()
    }

    /// Accepted and refused in all.
    pub fn in_all(&self) -> (usize, usize) {
        self.phases
            .lock()
            .unwrap()
            .iter()
            .fold((0, 0), |sum, phase| (sum.0 + phase.0, sum.1 + phase.1))
    }

    /// Waits until so many more are accepted.
    pub async fn accepts(&self, when: &str, more: usize) {
        wait_for_more(&format!("accepted {when}"), || self.in_all().0, more).await;
    }

    fn phase(&self) -> usize {
        self.phases.lock().unwrap().len() - 1
    }
}

/// Clients that post until they are told to stop.
#[derive(Debug)]
pub struct Clients {
    /// Their counts so far.
    pub seen: Arc<Seen>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    /// Each refusal must have this status; a 503 says when to come again.
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

    /// The ids of what was answered with a 202.
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

/// Waits until the count has grown by so much.
pub async fn wait_for_more(what: &str, count: impl Fn() -> usize, more: usize) {
    let (started, before) = (Instant::now(), count());
    while count() < before + more {
        assert!(started.elapsed() < BOUND, "{what}: no {more} more within {BOUND:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
