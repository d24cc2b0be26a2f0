//! One run of the tool, from the ceiling to the result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    LoadError,
    arrival::{Arrivals, LoadReceiver},
    closed::{Posted, post_all},
    fairness, fan_out,
    figures::{Faults, Quantiles, milliseconds},
    machine::{Usage, disk_sync, usage},
    open::{Pace, in_the_background, nothing_accepted},
    overload,
    plan::{Plan, Run},
    report::{Latency, Results, Throughput},
    wire::{Server, Template, run_name},
};
use harness::{progress::Ticker, stack::Launch};

/// Minimum number of requests to measure the ceiling with.
const CEILING_REQUESTS: u32 = 50_000;

/// The system records outcomes after the last arrival. This is part of its CPU time.
const SETTLE: Duration = Duration::from_millis(500);

/// The interval between two requests for the status of an external receiver.
const STATUS_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The system under test.
struct System {
    api: Server,
    pids: Vec<u32>,
}

impl System {
    fn usage(&self) -> Result<Option<Usage>, LoadError> {
        if self.pids.is_empty() { Ok(None) } else { usage(&self.pids).map(Some) }
    }
}

/// Runs a plan.
pub async fn run(plan: &Plan) -> Result<Results, LoadError> {
    let folder = plan.disk_folder()?;
    let mut results =
        Results { disk_sync: Some(disk_sync(&folder, Duration::ZERO)?), ..Results::default() };
    let Some(binary) = &plan.spawn else {
        let system = System { api: Server::of(&plan.api_url)?, pids: plan.pid.clone() };
        measure(plan, &system, &mut results).await?;
        return Ok(results);
    };
    if plan.fairness {
        results.fairness = fairness::measure(plan, binary, &folder).await?;
        return Ok(results);
    }
    let launch = Launch::of(binary, &folder)?;
    let stack = launch.start()?;
    plan.say(format_args!(
        "started {} as process {} at {}",
        binary.display(),
        stack.pid(),
        stack.url()
    ));
    results.ready_ms = Some(milliseconds(stack.ready_after()));
    let system = System { api: Server::of(&stack.url())?, pids: vec![stack.pid()] };
    if plan.overload {
        results.overload = Some(overload::measure(plan, &stack).await?);
    } else {
        measure(plan, &system, &mut results).await?;
    }
    results.data_mib = Some(launch.bytes_on_disk() as f64 / 1_048_576.0);
    results.exit_ms = Some(milliseconds(stack.stop()?));
    Ok(results)
}

async fn measure(plan: &Plan, system: &System, results: &mut Results) -> Result<(), LoadError> {
    if let Some(endpoints) = plan.endpoints {
        results.fan_out = Some(fan_out::measure(plan, &system.api, endpoints).await?);
        return Ok(());
    }
    for run in plan.runs() {
        match run {
            Run::Throughput { webhooks } => {
                plan.say(format_args!(
                    "measuring the ceiling, then {webhooks} webhooks over {} connections",
                    plan.connections
                ));
                results.throughput = Some(throughput(plan, system, webhooks).await?);
            }
            Run::Latency { webhooks, rate } => {
                let disk = disk_sync(&plan.disk_folder()?, Duration::from_secs_f64(1.0 / rate))?;
                results.disk_sync_at_rate = Some(disk.times);
                plan.say(format_args!(
                    "measuring {webhooks} webhooks at {rate} per second ({:.0} s)",
                    f64::from(webhooks) / rate
                ));
                results.latency = Some(latency(plan, system, webhooks, rate).await?);
            }
        }
    }
    results.peak_memory_mib = system.usage()?.map(|used| used.peak_kib as f64 / 1024.0);
    Ok(())
}

async fn throughput(plan: &Plan, system: &System, webhooks: u32) -> Result<Throughput, LoadError> {
    let ceiling_per_second = ceiling(plan, webhooks.max(CEILING_REQUESTS)).await?;
    plan.say(format_args!(
        "ceiling: {ceiling_per_second:.0} requests per second directly to the receiver"
    ));
    let before = system.usage()?;
    let (posted, took, duplicates) = match &plan.receiver_url {
        None => to_built_in_receiver(plan, system, webhooks).await?,
        Some(url) => to_external_receiver(plan, system, webhooks, url).await?,
    };
    tokio::time::sleep(SETTLE).await;
    let cpu_ms_per_webhook = cpu_per_webhook(before, system.usage()?, webhooks);
    let accepted = posted.answered(202) as f64;
    Ok(Throughput {
        webhooks,
        connections: plan.connections,
        payload_bytes: plan.payload_bytes,
        ceiling_per_second,
        accepted_per_second: accepted / posted.took.as_secs_f64(),
        delivered_per_second: accepted / took.as_secs_f64(),
        seconds: took.as_secs_f64(),
        cpu_ms_per_webhook,
        faults: faults(posted.answers, posted.broken, posted.first_refusal, duplicates),
    })
}

/// Requests per second, posting directly to the receiver.
async fn ceiling(plan: &Plan, requests: u32) -> Result<f64, LoadError> {
    let arrivals = Arrivals::new(run_name(), requests);
    let ours = if plan.receiver_url.is_none() {
        Some(LoadReceiver::start(Arc::clone(&arrivals))?)
    } else {
        None
    };
    let url =
        ours.as_ref().map(LoadReceiver::url).or(plan.receiver_url.as_deref()).unwrap_or_default();
    let server = Server::of(url)?;
    let template = Template::direct(&server, arrivals.run(), plan.payload_bytes);
    let posted = post_all(&server, &template, requests, plan.connections, 200).await?;
    if let Some(refusal) = posted.first_refusal {
        return Err(LoadError::Protocol(format!(
            "the receiver at {url} must return 200 to every request, but returned: {refusal}"
        )));
    }
    ours.map(LoadReceiver::stop).transpose()?;
    Ok(f64::from(requests) / posted.took.as_secs_f64())
}

/// Posts all webhooks and waits until the built-in receiver has all accepted ones. Returns the time
/// and the number of duplicates.
async fn to_built_in_receiver(
    plan: &Plan,
    system: &System,
    webhooks: u32,
) -> Result<(Posted, Duration, u64), LoadError> {
    let arrivals = Arrivals::new(run_name(), webhooks);
    let receiver = LoadReceiver::start(Arc::clone(&arrivals))?;
    let key = plan.api_key.as_deref();
    let template =
        Template::submission(&system.api, key, receiver.url(), arrivals.run(), plan.payload_bytes);
    let _ticker = ticker(&arrivals, webhooks);
    let posted = post_all(&system.api, &template, webhooks, plan.connections, 202).await?;
    none_accepted(&posted)?;
    arrivals.wait_for(posted.answered(202), plan.arrival_bound()).await?;
    let first_sent = posted.first_sent.unwrap_or(arrivals.epoch());
    let took = (arrivals.epoch() + arrivals.latest()).saturating_duration_since(first_sent);
    let counts = receiver.stop()?;
    if counts.distinct_webhook_ids < posted.answered(202) {
        return Err(LoadError::Protocol(format!(
            "{} webhooks arrived with {} distinct webhook-ids",
            arrivals.distinct(),
            counts.distinct_webhook_ids
        )));
    }
    Ok((posted, took, arrivals.duplicates()))
}

/// Prints the number of arrivals until it is dropped.
fn ticker(arrivals: &Arc<Arrivals>, webhooks: u32) -> Ticker {
    let arrivals = Arc::clone(arrivals);
    Ticker::start("load", "webhooks arrived", webhooks.into(), move || arrivals.distinct())
}

/// Like [`to_built_in_receiver`], with a receiver in another process.
async fn to_external_receiver(
    plan: &Plan,
    system: &System,
    webhooks: u32,
    url: &str,
) -> Result<(Posted, Duration, u64), LoadError> {
    let receiver = Server::of(url)?;
    let (ids_before, duplicates_before) = seen_by(&receiver)?;
    let key = plan.api_key.as_deref();
    let template = Template::submission(&system.api, key, url, &run_name(), plan.payload_bytes);
    let posted = post_all(&system.api, &template, webhooks, plan.connections, 202).await?;
    none_accepted(&posted)?;
    let (accepted, deadline) = (posted.answered(202), Instant::now() + plan.arrival_bound());
    loop {
        let (ids, duplicates) = seen_by(&receiver)?;
        let arrived = ids.saturating_sub(ids_before);
        if arrived >= accepted {
            let took = posted.first_sent.map_or(posted.took, |sent| sent.elapsed());
            return Ok((posted, took, duplicates.saturating_sub(duplicates_before)));
        }
        if Instant::now() > deadline {
            return Err(LoadError::Missing { arrived, accepted, bound: plan.arrival_bound() });
        }
        tokio::time::sleep(STATUS_POLL_INTERVAL).await;
    }
}

/// Distinct webhook-ids and duplicates that a receiver has counted.
fn seen_by(receiver: &Server) -> Result<(u64, u64), LoadError> {
    let (_, body) = receiver.get("/status")?;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let count = |name: &str| page.get(name).and_then(serde_json::Value::as_u64);
    match (count("distinct_webhook_ids"), count("duplicates")) {
        (Some(ids), Some(duplicates)) => Ok((ids, duplicates)),
        _ => Err(LoadError::Plan(
            "the server at --receiver-url is not webhook-receiver: GET /status returns no counts"
                .into(),
        )),
    }
}

async fn latency(
    plan: &Plan,
    system: &System,
    webhooks: u32,
    rate: f64,
) -> Result<Latency, LoadError> {
    let arrivals = Arrivals::new(run_name(), webhooks);
    let receiver = LoadReceiver::start(Arc::clone(&arrivals))?;
    let before = system.usage()?;
    let key = plan.api_key.as_deref();
    let template =
        Template::submission(&system.api, key, receiver.url(), arrivals.run(), plan.payload_bytes);
    let _ticker = ticker(&arrivals, webhooks);
    let pace = Pace { total: webhooks, rate, connections: plan.connections, limit: Duration::MAX };
    let sent = in_the_background(&system.api, template, &arrivals, pace).await?;
    if sent.accepted.is_empty() {
        return Err(nothing_accepted(sent.first_refusal));
    }
    arrivals.wait_for(sent.accepted.len() as u64, plan.arrival_bound()).await?;
    tokio::time::sleep(SETTLE).await;
    let cpu_ms_per_webhook = cpu_per_webhook(before, system.usage()?, webhooks);
    let arrival = sent
        .accepted
        .iter()
        .filter_map(|(number, due, _)| Some(arrivals.at(*number)?.saturating_sub(*due)));
    let answer = sent.accepted.iter().map(|(_, due, answered)| answered.saturating_sub(*due));
    Ok(Latency {
        webhooks,
        rate,
        arrival: Quantiles::of(arrival.collect()),
        answer: Quantiles::of(answer.collect()),
        lateness: Quantiles::of(sent.lateness),
        cpu_ms_per_webhook,
        faults: faults(sent.answers, sent.broken, sent.first_refusal, arrivals.duplicates()),
    })
}

fn none_accepted(posted: &Posted) -> Result<(), LoadError> {
    if posted.answered(202) > 0 {
        Ok(())
    } else {
        Err(nothing_accepted(posted.first_refusal.clone()))
    }
}

fn cpu_per_webhook(before: Option<Usage>, after: Option<Usage>, webhooks: u32) -> Option<f64> {
    let used = after?.cpu.saturating_sub(before?.cpu);
    Some(used.as_secs_f64() * 1e3 / f64::from(webhooks))
}

fn faults(
    answers: std::collections::BTreeMap<u16, u64>,
    unanswered: u64,
    first: Option<String>,
    duplicates: u64,
) -> Faults {
    let other_answers = answers.into_iter().filter(|(status, _)| *status != 202).collect();
    Faults { other_answers, unanswered, first, duplicates }
}
