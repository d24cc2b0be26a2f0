//! Sends webhooks through a deployed stack and measures their use of AWS.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    invocations::Invocations,
    prices::Prices,
    proxy::Proxy,
    report::{CostReport, Idle, Row},
};
use harness::{
    aws::{AwsError, AwsStack},
    client::ClientError,
    receiver::{Receiver, ReceiverError, Reply},
};

/// Age at which the audit reads a webhook. The default is a quarter of an hour.
const AUDIT_AGE: Duration = Duration::from_secs(20);

/// Concurrent requests.
const CONNECTIONS: usize = 8;

/// Webhooks per request to `/webhooks/batch`.
const BATCH: u32 = 100;

/// The work is complete once the stack has sent no request to AWS for this long.
const QUIET: Duration = Duration::from_secs(4);

/// Maximum duration of a scenario.
const BOUND: Duration = Duration::from_secs(600);

/// Measures the cost of a webhook on AWS: deploys the template to an emulator, sends webhooks,
/// counts the billed requests, and applies list prices.
///
/// Needs python3. Builds the functions as for a release, which takes minutes the first time.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cost",
    version,
    after_help = "Exit codes: 0 success, 2 invalid usage, 3 the measurement failed."
)]
pub struct Plan {
    /// Webhooks per scenario.
    #[arg(long, default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub webhooks: u32,

    /// Run only scenarios whose name contains this text.
    #[arg(long)]
    pub only: Option<String>,

    /// Print JSON instead of the tables.
    #[arg(long)]
    pub json: bool,
}

/// The reason for a failed measurement.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The deployed stack failed.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// An API request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The receiver failed.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// A port or a file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The price list is invalid.
    #[error("infra/prices.json is invalid")]
    Prices(#[from] serde_json::Error),
    /// A scenario did not finish.
    #[error("{0}")]
    Stuck(String),
}

/// One kind of webhook or message.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    payload_bytes: usize,
    with_reference: bool,
    in_batches: bool,
    failures: u32,
    /// The endpoints of the application that messages are published to. `None`: direct webhooks.
    endpoints: Option<u32>,
}

/// A webhook of 1 KiB that is delivered at once.
const PLAIN: Scenario = Scenario {
    name: "1 KiB",
    payload_bytes: 1024,
    with_reference: false,
    in_batches: false,
    failures: 0,
    endpoints: None,
};

const SCENARIOS: [Scenario; 9] = [
    PLAIN,
    Scenario { name: "400 bytes", payload_bytes: 400, ..PLAIN },
    Scenario { name: "1 KiB, with a reference id", with_reference: true, ..PLAIN },
    Scenario { name: "1 KiB, by /webhooks/batch", in_batches: true, ..PLAIN },
    Scenario {
        name: "400 bytes, by /webhooks/batch",
        payload_bytes: 400,
        in_batches: true,
        ..PLAIN
    },
    Scenario { name: "1 KiB, fails twice, then succeeds", failures: 2, ..PLAIN },
    Scenario { name: "message to 1 endpoint, 1 KiB", endpoints: Some(1), ..PLAIN },
    Scenario { name: "message to 2 endpoints, 1 KiB", endpoints: Some(2), ..PLAIN },
    Scenario { name: "message to 10 endpoints, 1 KiB", endpoints: Some(10), ..PLAIN },
];

impl Scenario {
    /// Deliveries of one webhook or message.
    fn deliveries(&self) -> u32 {
        self.endpoints.unwrap_or(1)
    }

    /// The application that messages are published to.
    fn application(&self) -> String {
        format!("cost-{}", self.deliveries())
    }
}

/// Deploys the template and measures each scenario.
pub async fn run(plan: &Plan) -> Result<CostReport, CostError> {
    let prices = Prices::listed()?;
    let proxy = Proxy::start().await?;
    let endpoint = proxy.endpoint();
    let age = AUDIT_AGE.as_millis().to_string();
    let parameters =
        [("AuditAgeMs", age), ("RetryBaseDelayMs", "2000".into()), ("LogLevel", "info".into())];
    shared::complain!("cost: building and deploying the functions");
    let stack = tokio::task::spawn_blocking(move || {
        let parameters: Vec<(&str, &str)> =
            parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        AwsStack::deployed_behind(&endpoint, &parameters)
    });
    let stack = stack.await.map_err(|error| CostError::Stuck(error.to_string()))??;
    proxy.forward_to(stack.endpoint());
    let mut lab = Lab { stack, proxy, memory: BTreeMap::new(), fixed_reads: 0.0 };
    let idle = lab.measure_idle().await?;
    let mut rows = Vec::new();
    for scenario in SCENARIOS
        .iter()
        .filter(|scenario| plan.only.as_ref().is_none_or(|part| scenario.name.contains(part)))
    {
        shared::complain!("cost: {} deliveries: {}", plan.webhooks, scenario.name);
        // The same number of deliveries.
        let webhooks = (plan.webhooks / scenario.deliveries()).max(1);
        rows.push(lab.measure(scenario, webhooks).await?);
    }
    Ok(CostReport { webhooks: plan.webhooks, rows, idle, prices })
}

/// The stack and its measuring instruments.
struct Lab {
    stack: AwsStack,
    proxy: Proxy,
    memory: BTreeMap<&'static str, f64>,
    /// Read units of a sweep run without work.
    fixed_reads: f64,
}

/// The name of a function in a stack named posthaste.
fn function(name: &str) -> String {
    format!("posthaste-{name}")
}

/// The functions, by the last part of their names.
const FUNCTIONS: [&str; 4] = ["api", "deliver", "sweep", "dlq"];

impl Lab {
    /// Measures a sweep run without work. Deletes the schedule first, so that no other run
    /// interferes.
    async fn measure_idle(&mut self) -> Result<Idle, CostError> {
        let schedules =
            self.stack.rest("scheduler", Method::GET, "schedules", &Value::Null).await?;
        for schedule in schedules["Schedules"].as_array().into_iter().flatten() {
            let path = format!("schedules/{}", schedule["Name"].as_str().unwrap_or_default());
            self.stack.rest("scheduler", Method::DELETE, &path, &Value::Null).await?;
        }
        for name in FUNCTIONS {
            let path = format!("functions/{}/configuration", function(name));
            let configuration = self.stack.lambda(Method::GET, &path, &Value::Null).await?;
            self.memory.insert(name, configuration["MemorySize"].as_f64().unwrap_or_default());
        }
        // The first run audits one day, and the second writes the totals of the first.
        for _ in 0..2 {
            self.sweep().await?;
            sleep(AUDIT_AGE).await;
        }
        self.quiet().await?;
        let since = now_ms();
        self.proxy.take();
        self.sweep().await?;
        let tallies = self.proxy.take();
        let invocations = self.invocations(since, &["sweep"]).await?;
        let units = |of: fn(&super::proxy::Tally) -> f64| tallies.values().map(of).sum::<f64>();
        let idle = Idle {
            write_units: units(|tally| tally.write_units),
            read_units: units(|tally| tally.read_units),
            sqs_requests: units(|tally| tally.billed as f64),
            sweep: invocations.get("sweep").copied().unwrap_or_default(),
        };
        self.fixed_reads = idle.read_units;
        Ok(idle)
    }

    async fn sweep(&self) -> Result<(), CostError> {
        let path = format!("functions/{}/invocations", function("sweep"));
        self.stack.lambda(Method::POST, &path, &json!({})).await?;
        Ok(())
    }

    /// Waits until the stack sends no request to AWS.
    async fn quiet(&self) -> Result<(), CostError> {
        let started = Instant::now();
        let (mut seen, mut since) = (self.proxy.requests(), Instant::now());
        while since.elapsed() < QUIET {
            if started.elapsed() > BOUND {
                return Err(CostError::Stuck(format!(
                    "the stack still sends requests after {} s",
                    BOUND.as_secs()
                )));
            }
            sleep(Duration::from_millis(100)).await;
            let requests = self.proxy.requests();
            if requests != seen {
                (seen, since) = (requests, Instant::now());
            }
        }
        Ok(())
    }

    async fn measure(&self, scenario: &Scenario, webhooks: u32) -> Result<Row, CostError> {
        let failures = scenario.failures;
        let script = move |request: &harness::receiver::Received| {
            Reply::status(if request.attempt().is_some_and(|attempt| attempt <= failures) {
                503
            } else {
                200
            })
        };
        // A destination with many failures opens its circuit, so each failing one gets two
        // webhooks.
        let mut receivers = Vec::new();
        for _ in 0..if failures == 0 { 1 } else { webhooks.div_ceil(2) } {
            receivers.push(Receiver::builder().script(script).start().await?);
        }
        let urls: Vec<String> =
            receivers.iter().map(|receiver| receiver.url("/hooks/orders")).collect();
        if let Some(endpoints) = scenario.endpoints {
            self.create_application(scenario, endpoints, &urls[0]).await?;
        }
        self.quiet().await?;
        let since = now_ms();
        self.proxy.take();
        // Full batches, as under load: the trigger is off until all webhooks are queued.
        let mappings = self.hold_back(true).await?;
        self.send(scenario, webhooks, &urls).await?;
        self.release(mappings).await?;
        let expected = (webhooks * scenario.deliveries() * (failures + 1)) as usize;
        let started = Instant::now();
        while receivers.iter().map(|receiver| receiver.received().len()).sum::<usize>() < expected {
            if started.elapsed() > BOUND {
                return Err(CostError::Stuck(format!(
                    "not delivered within {} s",
                    BOUND.as_secs()
                )));
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.quiet().await?;
        let tallies = self.proxy.take();
        let mut invocations = self.invocations(since, &["api", "deliver", "dlq"]).await?;
        invocations.retain(|_, of| of.count > 0);
        // The audit reads each webhook once.
        sleep(AUDIT_AGE * 2).await;
        self.sweep().await?;
        let audit: f64 = self.proxy.take().values().map(|tally| tally.read_units).sum();
        let audit_read_units = (audit - self.fixed_reads).max(0.0);
        Ok(Row { name: scenario.name.to_owned(), webhooks, tallies, invocations, audit_read_units })
    }

    async fn create_application(
        &self,
        scenario: &Scenario,
        endpoints: u32,
        url: &str,
    ) -> Result<(), CostError> {
        let client = self.stack.client()?;
        let application = scenario.application();
        let path = ["applications", application.as_str()];
        let put = client.call(Method::PUT, &path, &[], Some("{}".to_owned())).await?;
        put.expect::<Value>(http::StatusCode::CREATED)?;
        let path = ["applications", application.as_str(), "endpoints"];
        for _ in 0..endpoints {
            let body = json!({ "url": url }).to_string();
            let created = client.call(Method::POST, &path, &[], Some(body)).await?;
            created.expect::<Value>(http::StatusCode::CREATED)?;
        }
        Ok(())
    }

    async fn send(
        &self,
        scenario: &Scenario,
        webhooks: u32,
        urls: &[String],
    ) -> Result<(), CostError> {
        let client = self.stack.client()?;
        let each = if scenario.in_batches { BATCH.min(webhooks) } else { 1 };
        let calls = stream::iter((0..webhooks).step_by(each as usize)).map(|first| {
            let item =
                |number: u32| submission(scenario, number, &urls[number as usize % urls.len()]);
            let items: Vec<Value> = (first..(first + each).min(webhooks)).map(item).collect();
            let client = &client;
            async move {
                let application = scenario.application();
                let messages = ["applications", application.as_str(), "messages"];
                let (path, body) = match items.as_slice() {
                    [one] if scenario.endpoints.is_some() => (messages.as_slice(), one.clone()),
                    [one] if !scenario.in_batches => (["webhooks"].as_slice(), one.clone()),
                    _ => (["webhooks", "batch"].as_slice(), json!({ "webhooks": items })),
                };
                let answer = client.call(Method::POST, path, &[], Some(body.to_string())).await?;
                answer.expect::<Value>(http::StatusCode::ACCEPTED)?;
                Ok::<(), CostError>(())
            }
        });
        calls.buffer_unordered(CONNECTIONS).try_collect::<()>().await
    }

    /// Stops the webhook queue's trigger while messages gather.
    async fn hold_back(&self, hold: bool) -> Result<Vec<String>, CostError> {
        let path = format!("event-source-mappings/?FunctionName={}", function("deliver"));
        let mappings = self.stack.lambda(Method::GET, &path, &Value::Null).await?;
        let ids = mappings["EventSourceMappings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["UUID"].as_str());
        let ids: Vec<String> = ids.map(str::to_owned).collect();
        for id in &ids {
            let body = json!({ "Enabled": !hold });
            self.stack.lambda(Method::PUT, &format!("event-source-mappings/{id}"), &body).await?;
        }
        Ok(ids)
    }

    async fn release(&self, mappings: Vec<String>) -> Result<(), CostError> {
        for id in mappings {
            self.stack
                .lambda(
                    Method::PUT,
                    &format!("event-source-mappings/{id}"),
                    &json!({ "Enabled": true }),
                )
                .await?;
        }
        Ok(())
    }

    /// The invocations since `since_ms`, from the functions' logs.
    async fn invocations(
        &self,
        since_ms: u64,
        functions: &[&'static str],
    ) -> Result<BTreeMap<String, Invocations>, CostError> {
        let mut found = BTreeMap::new();
        for name in functions {
            let memory_mb = self.memory.get(name).copied().unwrap_or_default();
            let mut sum = Invocations { memory_mb, ..Invocations::default() };
            let mut token: Option<String> = None;
            loop {
                let mut body = json!({ "logGroupName": format!("/aws/lambda/{}", function(name)),
                    "startTime": since_ms });
                if let Some(token) = &token {
                    body["nextToken"] = json!(token);
                }
                let page = self.stack.call("Logs_20140328.FilterLogEvents", body).await?;
                for event in page["events"].as_array().into_iter().flatten() {
                    sum.add(event["message"].as_str().unwrap_or_default());
                }
                token = page["nextToken"].as_str().map(str::to_owned);
                if token.is_none() {
                    break;
                }
            }
            found.insert((*name).to_owned(), sum);
        }
        Ok(found)
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn submission(scenario: &Scenario, number: u32, url: &str) -> Value {
    let payload = order(scenario.payload_bytes, number);
    let mut submission = match scenario.endpoints {
        Some(_) => json!({ "event_type": "order.paid", "payload": payload }),
        None => json!({ "url": url, "payload": payload }),
    };
    if scenario.with_reference {
        submission["reference_id"] = json!(format!("order-{number:06}"));
    }
    submission
}

/// A shop's order as JSON of this size. Half of it are repeated names, the other half are random
/// numbers.
fn order(bytes: usize, number: u32) -> Value {
    let mut random = StdRng::seed_from_u64(u64::from(number) << 32 | bytes as u64);
    let mut order = json!({
        "event": "order.paid", "order_id": format!("ord_{:016x}", random.next_u64()),
        "customer_id": format!("cus_{:016x}", random.next_u64()),
        "currency": "EUR", "total_cents": random.random_range(100..1_000_000),
        "paid_at": "2026-01-31T12:00:00Z", "items": [], "note": "",
    });
    let size = |order: &Value| order.to_string().len();
    loop {
        let item = json!({ "sku": format!("sku_{:012x}", random.next_u64() >> 16),
            "quantity": random.random_range(1..9),
            "unit_price_cents": random.random_range(100..100_000),
            "name": "Garden chair, folding" });
        if size(&order) + item.to_string().len() + 1 > bytes {
            break;
        }
        if let Some(items) = order["items"].as_array_mut() {
            items.push(item);
        }
    }
    let missing = bytes.saturating_sub(size(&order));
    order["note"] = json!("please ring twice ".chars().cycle().take(missing).collect::<String>());
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_the_requested_size() {
        for bytes in [400, 1024, 5000] {
            assert_eq!(order(bytes, 7).to_string().len(), bytes);
            assert_ne!(order(bytes, 7), order(bytes, 8));
        }
    }
}
