//! The processes under test, and submissions to them.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use harness::{
    client::ApiClient,
    redis_server::RedisServer,
    stack::{Launch, Stack},
};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{TrafficError, plan::Plan};

/// Webhooks in one request.
const BATCH: usize = 100;

/// Concurrent requests for the status of a webhook.
const CLIENTS: usize = 8;

/// The pause between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long the record of a webhook may lag behind its arrival.
const RECORD_BOUND: Duration = Duration::from_secs(20);

/// The shortest wait between two attempts, as in production. The harness sets 0.
const MIN_RETRY_DELAY_MS: &str = "1000";

/// Any key: the processes on one Redis server need the same one.
const MASTER_KEY: &str = "bWVhc3VyZW1lbnRzLW9ubHktbm90LWEtc2VjcmV0ISE=";

/// Running stacks on the same data. Fields are dropped in order: processes first.
#[derive(Debug)]
pub(super) struct Stacks {
    running: Vec<Stack>,
    launches: Vec<Launch>,
    /// Holds the data of the stacks.
    _redis: Option<RedisServer>,
}

/// The state of the webhooks at the end of a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    pub(super) delivered: usize,
    /// Each of them is a dead letter.
    pub(super) failed: usize,
    pub(super) unfinished: usize,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    webhook_id: Option<String>,
}

impl Stacks {
    /// Starts the stacks with these settings: `processes` of them on Redis, one otherwise.
    pub(super) fn start(
        plan: &Plan,
        processes: u32,
        settings: &[(&str, &str)],
    ) -> Result<Self, TrafficError> {
        let redis = plan.redis.then(RedisServer::start).transpose()?;
        let folder = plan.disk_folder()?;
        let count = if redis.is_some() { processes.max(1) } else { 1 };
        let mut launches = Vec::new();
        for _ in 0..count {
            let mut launch =
                Launch::of(&plan.spawn, &folder)?.set("MIN_RETRY_DELAY_MS", MIN_RETRY_DELAY_MS);
            if let Some(redis) = &redis {
                launch = launch
                    .set("MASTER_KEY", MASTER_KEY)
                    .set("STATUS_BACKEND", "redis")
                    .set("QUEUE_BACKEND", "redis")
                    .set("STATUS_REDIS_URL", &redis.url(0))
                    .set("QUEUE_REDIS_URL", &redis.url(1));
            }
            for (name, value) in settings {
                launch = launch.set(name, value);
            }
            launches.push(launch);
        }
        let running = launches.iter().map(Launch::start).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { running, launches, _redis: redis })
    }

    /// The number of processes.
    pub(super) fn processes(&self) -> usize {
        self.launches.len()
    }

    /// The URL of the first API.
    pub(super) fn url(&self) -> String {
        self.running.first().map(Stack::url).unwrap_or_default()
    }

    fn clients(&self) -> Result<Vec<ApiClient>, TrafficError> {
        let client = |stack: &Stack| ApiClient::new(&stack.url(), None);
        Ok(self.running.iter().map(client).collect::<Result<_, _>>()?)
    }

    /// Submits webhooks to this URL in batches, to all processes in turn. Returns their IDs.
    pub(super) async fn submit(
        &self,
        url: &str,
        count: usize,
    ) -> Result<Vec<String>, TrafficError> {
        let clients = self.clients()?;
        let mut clients = clients.iter().cycle();
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let Some(client) = clients.next() else { break };
            let size = BATCH.min(count - ids.len());
            let webhooks: Vec<_> = (ids.len()..ids.len() + size)
                .map(|number| json!({"url": url, "payload": {"number": number}}))
                .collect();
            let body = json!({ "webhooks": webhooks }).to_string();
            let answer = client.call(Method::POST, &["webhooks", "batch"], &[], Some(body)).await?;
            let answer: BatchAnswer = answer.expect(StatusCode::ACCEPTED)?;
            let accepted: Vec<_> =
                answer.results.into_iter().filter_map(|result| result.webhook_id).collect();
            if accepted.len() < size {
                let accepted = ids.len() + accepted.len();
                return Err(TrafficError::Refused { accepted, sent: ids.len() + size });
            }
            ids.extend(accepted);
        }
        Ok(ids)
    }

    /// Reads the state of these webhooks. Waits a little for records of those that just ended.
    pub(super) async fn outcomes(&self, ids: &[String]) -> Result<Outcomes, TrafficError> {
        let clients = self.clients()?;
        let Some(client) = clients.first() else { return Ok(Outcomes::default()) };
        let deadline = Instant::now() + RECORD_BOUND;
        let status = async |id: &String| loop {
            let webhook = client.webhook(id).await?;
            if webhook.is_finished() || Instant::now() > deadline {
                return Ok::<_, TrafficError>(webhook.status);
            }
            sleep(POLL_INTERVAL).await;
        };
        let statuses: Vec<String> =
            stream::iter(ids).map(status).buffer_unordered(CLIENTS).try_collect().await?;
        let mut outcomes = Outcomes::default();
        for status in statuses {
            match status.as_str() {
                "delivered" => outcomes.delivered += 1,
                "failed" => outcomes.failed += 1,
                _ => outcomes.unfinished += 1,
            }
        }
        Ok(outcomes)
    }

    /// Kills the stacks. Their data is not needed any more.
    pub(super) fn end(self) -> Result<(), TrafficError> {
        for stack in self.running {
            stack.crash()?;
        }
        Ok(())
    }
}

/// Waits until the condition is met, or the bound is over.
pub(super) async fn wait_until(bound: Duration, mut is_met: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
    while !is_met() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
    true
}
