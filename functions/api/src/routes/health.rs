//! `GET /health`: whether webhooks are accepted and delivered.
//!
//! - `unhealthy`, status 503: the store does not answer. No webhook can be accepted.
//! - `degraded`, status 200: webhooks are accepted, but something needs attention, and deliveries
//!   may be late. The queue does not answer, or the sweep is late or behind, or there are
//!   `warnings`: store or queue approach a limit, webhooks are unreadable, or a clock is wrong.
//! - `healthy`, status 200: none of these.
//!
//! Without an API key the response contains the status only. Before the first sweep, the sweep's
//! status is `unknown`. It becomes `late` once this process has run for [`MAX_SWEEP_AGE`].

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{StatusCode, header};
use serde::Serialize;
use shared::{
    circuit::State as CircuitState,
    clock::{Timestamp, rfc3339},
    queue::Depth,
    store::SweepReport,
};
use utoipa::ToSchema;

use crate::{
    app::{App, Call},
    edge::auth::Caller,
    input::query,
    openapi::schemas,
    probe::{Findings, ProbeError},
    problem::{Problem, RETRY_AFTER},
    respond,
};

/// A sweep runs each minute. Three missed runs are a fault.
const MAX_SWEEP_AGE: Duration = Duration::from_secs(180);

/// If two clocks differ by more than this, at least one of them is wrong.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// If the sweep finds webhooks that were due for longer than this, it is behind.
const MAX_SWEEP_LAG: Duration = Duration::from_secs(300);

/// The overall status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum HealthStatus {
    Healthy,
    Degraded,
    Unhealthy,
}

/// The response with an API key, and the response without one.
#[derive(Serialize, ToSchema)]
#[schema(as = HealthAnswer)]
#[serde(untagged)]
enum HealthResponse<'a> {
    Full(Box<HealthFull<'a>>),
    Summary(HealthSummary),
}

/// The response without an API key.
#[derive(Serialize, ToSchema)]
#[schema(as = HealthWord)]
struct HealthSummary {
    status: HealthStatus,
}

/// The response with an API key.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct HealthFull<'a> {
    status: HealthStatus,
    /// When store and queue were checked. Results are reused for one second.
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    checked_at: Timestamp,
    store: StoreHealth<'a>,
    queue: QueueHealth<'a>,
    sweep: SweepHealth,
    /// The circuits of targets that are open or half-open. `GET /destinations` also lists pauses
    /// and rates.
    circuits: Vec<OpenCircuit<'a>>,
}

#[derive(Serialize, ToSchema)]
struct StoreHealth<'a> {
    status: HealthStatus,
    /// The value of `STATUS_BACKEND`.
    backend: &'static str,
    /// What an operator must do before the store fails.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<&'a str>,
    /// Present if the store is on a local disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disk: Option<DiskHealth>,
}

#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "each is a number of bytes, and units stand last")]
struct DiskHealth {
    /// Free space in the file system.
    free_bytes: u64,
    /// The size of the database.
    database_bytes: u64,
    /// The size of the write-ahead log.
    log_bytes: u64,
}

#[derive(Serialize, ToSchema)]
struct QueueHealth<'a> {
    status: HealthStatus,
    /// The value of `QUEUE_BACKEND`.
    backend: &'static str,
    depths: QueueDepths,
    /// What an operator must do before the queue fails. Warnings of the store are not repeated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<&'a str>,
}

/// The number of messages in each queue, or null if the queue did not answer.
#[derive(Serialize, ToSchema)]
struct QueueDepths {
    webhooks: Option<QueueDepth>,
    dead_letters: Option<QueueDepth>,
}

#[derive(Serialize, ToSchema)]
struct QueueDepth {
    /// Messages that a worker can receive now.
    ready: u64,
    /// Messages that a worker has received and not yet acknowledged.
    in_flight: u64,
    /// Messages that become ready later.
    delayed: u64,
}

#[derive(Serialize, ToSchema)]
struct SweepHealth {
    status: SweepStatus,
    /// When the latest sweep ran. Null before the first one.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    last_run_at: Option<Timestamp>,
    /// How long the oldest webhook that the latest sweep found had been due.
    lag_ms: Option<u64>,
    /// The number of due webhooks that the latest sweep could not read. It is a lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    unreadable: Option<u64>,
    /// What the latest sweep found that an operator must act on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SweepStatus {
    /// It ran recently, and no webhook was long overdue.
    Healthy,
    /// There is no report of a sweep yet.
    Unknown,
    /// It has not run for [`MAX_SWEEP_AGE`].
    Late,
    /// It runs, but finds webhooks that were due for longer than [`MAX_SWEEP_LAG`].
    Behind,
    /// It runs, and there are `warnings`.
    Degraded,
}

#[derive(Serialize, ToSchema)]
struct OpenCircuit<'a> {
    /// The key of the target. Scheme, host and port name a destination as a whole. With `#` and a
    /// hash of the path behind them, they name one URL.
    destination: &'a str,
    /// Open or half-open.
    #[schema(value_type = schemas::CircuitState)]
    state: CircuitState,
    /// When the next probe is allowed.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    open_until: Option<Timestamp>,
}

/// Check the health
///
/// Without an API key, the response contains the status only. Monitoring can call this every
/// second.
#[utoipa::path(
    get, path = "/health", tag = "Watching", operation_id = "health",
    security((), ("bearer" = []), ("apiKey" = [])),
    responses(
        (status = 200, description = "Healthy, or degraded: webhooks are accepted, but deliveries \
            may be late.", body = HealthResponse<'static>),
        (status = 503, description = "Unhealthy: no webhook can be accepted.",
            body = HealthResponse<'static>),
    ),
)]
pub(crate) async fn health_get(
    State(app): State<Arc<App>>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let findings = app.probes.findings(&app.context).await;
    let now = app.now();
    let config = &app.context.config;
    let store = store_health(&findings, config.status_backend.as_str());
    let queue = queue_health(&findings, config.queue_backend.as_str());
    let sweep = sweep_health(findings.sweep_report(), app.started_at, now);
    let status = overall(store.status, queue.status, sweep.status);
    let body = match call.caller {
        // An application key reads nothing about the deployment.
        Caller::Anonymous | Caller::Key { .. } => HealthResponse::Summary(HealthSummary { status }),
        Caller::Full(_) => HealthResponse::Full(Box::new(HealthFull {
            status,
            checked_at: findings.probed_at,
            store,
            queue,
            sweep,
            circuits: open_circuits(&findings, now),
        })),
    };
    if status != HealthStatus::Unhealthy {
        return Ok(respond::json(StatusCode::OK, &body));
    }
    let mut response = respond::json(StatusCode::SERVICE_UNAVAILABLE, &body);
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    Ok(response)
}

fn sweep_health(
    latest: Option<&SweepReport>,
    started_at: Timestamp,
    now: Timestamp,
) -> SweepHealth {
    let warnings = latest.map(|report| sweep_warnings(report, now)).unwrap_or_default();
    SweepHealth {
        status: sweep_status(latest, &warnings, started_at, now),
        last_run_at: latest.map(|report| report.ran_at),
        lag_ms: latest.map(|report| report.lag_ms),
        unreadable: latest.map(|report| report.unreadable).filter(|unreadable| *unreadable > 0),
        warnings,
    }
}

fn sweep_status(
    latest: Option<&SweepReport>,
    warnings: &[String],
    started_at: Timestamp,
    now: Timestamp,
) -> SweepStatus {
    match latest {
        Some(report) if now.since(report.ran_at) > MAX_SWEEP_AGE => SweepStatus::Late,
        Some(report) if Duration::from_millis(report.lag_ms) > MAX_SWEEP_LAG => SweepStatus::Behind,
        Some(_) if !warnings.is_empty() => SweepStatus::Degraded,
        Some(_) => SweepStatus::Healthy,
        None if now.since(started_at) > MAX_SWEEP_AGE => SweepStatus::Late,
        None => SweepStatus::Unknown,
    }
}

/// What the sweep found that an operator must act on.
fn sweep_warnings(report: &SweepReport, now: Timestamp) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.unreadable > 0 {
        let at_least = if report.unreadable_may_be_more { "At least " } else { "" };
        warnings.push(format!(
            "{at_least}{} due webhooks cannot be read. A newer version wrote them, or they are \
             damaged. They stay due until a version that can read them runs. The log names some \
             of them.",
            report.unreadable
        ));
    }
    let ahead = report.ran_at.since(now);
    if ahead > MAX_CLOCK_DIFFERENCE {
        warnings.push(format!(
            "The sweep's clock is {} s ahead of this function's clock, so one of them is wrong. \
             Synchronize the clocks of all machines.",
            ahead.as_secs()
        ));
    }
    if let Some(fault) = &report.clock_fault {
        warnings.push(format!(
            "A clock was {} s ahead. The sweep detected that at {} and corrects the times that \
             were written with it. Synchronize the clocks of all machines.",
            fault.ahead_ms / 1000,
            fault.found_at
        ));
    }
    warnings
}

/// If only the question about warnings failed, the part counts as healthy.
fn part_status(answers: bool, warnings: &Result<Vec<String>, ProbeError>) -> HealthStatus {
    match warnings {
        _ if !answers => HealthStatus::Unhealthy,
        Ok(warnings) if !warnings.is_empty() => HealthStatus::Degraded,
        _ => HealthStatus::Healthy,
    }
}

fn overall(store: HealthStatus, queue: HealthStatus, sweep: SweepStatus) -> HealthStatus {
    match (store, queue, sweep) {
        (HealthStatus::Unhealthy, ..) => HealthStatus::Unhealthy,
        (
            HealthStatus::Healthy,
            HealthStatus::Healthy,
            SweepStatus::Healthy | SweepStatus::Unknown,
        ) => HealthStatus::Healthy,
        _ => HealthStatus::Degraded,
    }
}

fn open_circuits(findings: &Findings, now: Timestamp) -> Vec<OpenCircuit<'_>> {
    let targets = findings.targets.as_deref().unwrap_or_default();
    let open = targets
        .iter()
        .filter_map(|state| state.target.as_ref())
        .filter(|target| target.circuit.state(now) != CircuitState::Closed);
    open.map(|target| OpenCircuit {
        destination: target.key.as_str(),
        state: target.circuit.state(now),
        open_until: target.circuit.open_until,
    })
    .collect()
}

fn store_health<'a>(findings: &'a Findings, backend: &'static str) -> StoreHealth<'a> {
    let disk = findings.disk.as_ref().ok().copied().flatten();
    let own = findings.store_warnings.as_deref().unwrap_or_default();
    let master_key = findings.master_key.as_ref().ok().and_then(Option::as_deref);
    let status = match part_status(findings.store.is_ok(), &findings.store_warnings) {
        HealthStatus::Healthy if master_key.is_some() => HealthStatus::Degraded,
        status => status,
    };
    StoreHealth {
        status,
        backend,
        warnings: own.iter().map(String::as_str).chain(master_key).collect(),
        disk: disk.map(|disk| DiskHealth {
            free_bytes: disk.free_bytes,
            database_bytes: disk.database_bytes,
            log_bytes: disk.log_bytes,
        }),
    }
}

fn queue_health<'a>(findings: &'a Findings, backend: &'static str) -> QueueHealth<'a> {
    let depth = |depth: &Result<Depth, ProbeError>| {
        let depth = depth.as_ref().ok()?;
        Some(QueueDepth { ready: depth.ready, in_flight: depth.in_flight, delayed: depth.delayed })
    };
    let answers =
        findings.queue.is_ok() && findings.webhooks.is_ok() && findings.dead_letters.is_ok();
    let store_warnings = findings.store_warnings.as_deref().unwrap_or_default();
    let queue_warnings = findings.queue_warnings.as_deref().unwrap_or_default();
    let new = queue_warnings.iter().filter(|warning| !store_warnings.contains(warning));
    QueueHealth {
        status: part_status(answers, &findings.queue_warnings),
        backend,
        depths: QueueDepths {
            webhooks: depth(&findings.webhooks),
            dead_letters: depth(&findings.dead_letters),
        },
        warnings: new.map(String::as_str).collect(),
    }
}

#[cfg(test)]
mod tests {
    use shared::store::ClockFault;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn ran(seconds: i64, lag_ms: u64) -> SweepReport {
        SweepReport { ran_at: at(seconds), lag_ms, ..SweepReport::default() }
    }

    #[test]
    fn unreadable_webhooks_and_clock_differences_degrade_health_with_a_warning() {
        let unreadable =
            SweepReport { unreadable: 1000, unreadable_may_be_more: true, ..ran(0, 0) };
        let judge = |report: &SweepReport, now| {
            let health = sweep_health(Some(report), at(0), at(now));
            (health.status, health.warnings.concat())
        };
        let (status, warning) = judge(&unreadable, 1);
        assert_eq!(status, SweepStatus::Degraded);
        assert!(warning.starts_with("At least 1000 due webhooks cannot be read"), "{warning}");
        assert_eq!(judge(&ran(60, 0), 0), (SweepStatus::Healthy, String::new()));
        let (status, warning) = judge(&ran(7200, 0), 0);
        assert_eq!(status, SweepStatus::Degraded);
        assert!(warning.contains("7200 s ahead"), "{warning}");
        let fault = ClockFault { found_at: at(0), ahead_ms: 7_200_000, left: None };
        let (status, warning) = judge(&SweepReport { clock_fault: Some(fault), ..ran(0, 0) }, 1);
        assert_eq!(status, SweepStatus::Degraded);
        assert!(warning.contains("A clock was 7200 s ahead"), "{warning}");
    }

    #[test]
    fn a_sweep_is_late_after_three_minutes_and_behind_after_five_minutes_of_lag() {
        let judge = |report: Option<&SweepReport>, now| sweep_health(report, at(0), at(now)).status;
        assert_eq!(judge(Some(&ran(0, 300_000)), 180), SweepStatus::Healthy);
        assert_eq!(judge(Some(&ran(0, 300_001)), 180), SweepStatus::Behind);
        assert_eq!(judge(Some(&ran(0, 0)), 181), SweepStatus::Late);
        assert_eq!((judge(None, 180), judge(None, 181)), (SweepStatus::Unknown, SweepStatus::Late));
    }

    #[test]
    fn only_an_unavailable_store_is_unhealthy_and_other_faults_degrade() {
        assert_eq!(
            overall(HealthStatus::Healthy, HealthStatus::Healthy, SweepStatus::Healthy),
            HealthStatus::Healthy
        );
        assert_eq!(
            overall(HealthStatus::Healthy, HealthStatus::Healthy, SweepStatus::Unknown),
            HealthStatus::Healthy
        );
        assert_eq!(
            overall(HealthStatus::Unhealthy, HealthStatus::Healthy, SweepStatus::Healthy),
            HealthStatus::Unhealthy
        );
        assert_eq!(
            overall(HealthStatus::Degraded, HealthStatus::Healthy, SweepStatus::Healthy),
            HealthStatus::Degraded
        );
        assert_eq!(
            overall(HealthStatus::Healthy, HealthStatus::Unhealthy, SweepStatus::Healthy),
            HealthStatus::Degraded
        );
        assert_eq!(
            overall(HealthStatus::Healthy, HealthStatus::Degraded, SweepStatus::Healthy),
            HealthStatus::Degraded
        );
        assert_eq!(
            overall(HealthStatus::Healthy, HealthStatus::Healthy, SweepStatus::Late),
            HealthStatus::Degraded
        );
        assert_eq!(
            overall(HealthStatus::Healthy, HealthStatus::Healthy, SweepStatus::Behind),
            HealthStatus::Degraded
        );
        assert_eq!(
            overall(HealthStatus::Healthy, HealthStatus::Healthy, SweepStatus::Degraded),
            HealthStatus::Degraded
        );
    }
}
