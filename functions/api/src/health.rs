//! `GET /health`: whether webhooks are accepted and delivered, from what store, queue and sweep say
//! themselves.
//!
//! | word | status | when |
//! |---|---|---|
//! | `unhealthy` | 503 | the store does not answer: nothing can be accepted |
//! | `degraded` | 200 | the queue does not answer, or the sweep is late or behind: what is accepted may be delivered later; or store or queue ask for something to be done before they fail or lose webhooks, webhooks cannot be read, or a clock is or was wrong, and `warnings` say what |
//! | `healthy` | 200 | else |
//!
//! Each part is asked at the same time and given [`PATIENCE`]. What they say holds for [`MAX_AGE`]
//! and for every caller of this process, so however often it is polled, the store has one small
//! write and a few reads of it in a second (the embedded one: one commit of 16 KiB, and a count
//! that ends at 100,000 messages). Without a key it tells the word only. Before the first sweep,
//! the sweep is `unknown`, and `late` only once this process has been up for [`MAX_SWEEP_AGE`].

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use futures_util::future::{self, Either};
use http::{StatusCode, header};
use serde::Serialize;
use shared::{
    circuit::{Circuit, State as CircuitState},
    clock::{Timestamp, rfc3339},
    queue::{Depth, Lane, QueueError},
    store::{DiskUsage, StoreError, SweepReport},
};
use tokio::sync::Mutex;

#[cfg(feature = "openapi")]
use crate::openapi::schemas;
use crate::{
    app::{App, Call},
    auth::Caller,
    idempotency::answer,
    problem::{Problem, RETRY_AFTER},
    query,
    view::to_json,
};

/// How long each part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long what the parts said is told again.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A sweep runs each minute; three missed ones are a fault.
const MAX_SWEEP_AGE: Duration = Duration::from_secs(180);

/// Clocks of two machines that are further apart than this are not both right.
const MAX_CLOCK_APART: Duration = Duration::from_secs(60);

/// What was due for longer when the sweep came to it is a fault.
const MAX_SWEEP_LAG: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = HealthStatus))]
#[serde(rename_all = "snake_case")]
enum Word {
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = HealthWord))]
struct Short {
    status: Word,
}

/// What is answered: to whom has a key, and to whom has not.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = HealthAnswer))]
#[serde(untagged)]
enum Answer<'a> {
    Whole(Box<Report<'a>>),
    Word(Short),
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Health))]
struct Report<'a> {
    status: Word,
    /// When the parts were asked.
    #[serde(with = "rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Time))]
    checked_at: Timestamp,
    store: StorePart<'a>,
    queue: QueuePart<'a>,
    sweep: SweepPart,
    circuits: Vec<CircuitPart<'a>>,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = StoreHealth))]
struct StorePart<'a> {
    status: Word,
    backend: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    warnings: &'a [String],
    /// Only of a store on this machine's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    disk: Option<DiskPart>,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = DiskHealth))]
#[expect(clippy::struct_field_names, reason = "each is a number of bytes, and units stand last")]
struct DiskPart {
    /// What may still be written to the file system.
    free_bytes: u64,
    /// The size of the database.
    database_bytes: u64,
    /// The size of its write-ahead log.
    log_bytes: u64,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = QueueHealth))]
struct QueuePart<'a> {
    status: Word,
    backend: &'static str,
    depths: Depths,
    /// Those that the store does not give, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    warnings: Vec<&'a str>,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = QueueDepths))]
struct Depths {
    webhooks: Option<DepthPart>,
    dead_letters: Option<DepthPart>,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = QueueDepth))]
struct DepthPart {
    ready: u64,
    in_flight: u64,
    delayed: u64,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = SweepHealth))]
struct SweepPart {
    status: Sweep,
    #[serde(with = "rfc3339::option")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<schemas::Time>))]
    last_run_at: Option<Timestamp>,
    lag_ms: Option<u64>,
    /// Due webhooks that the latest run could not read; at least so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    unreadable: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = SweepStatus))]
#[serde(rename_all = "snake_case")]
enum Sweep {
    /// It ran a short while ago, and nothing was long overdue.
    Healthy,
    /// It has not run yet, as far as is known.
    Unknown,
    /// It should have run since.
    Late,
    /// It runs, but finds what was due long ago.
    Behind,
    /// It runs, and `warnings` say what it found.
    Degraded,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = OpenCircuit))]
struct CircuitPart<'a> {
    destination: &'a str,
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::CircuitState))]
    state: CircuitState,
    #[serde(with = "rfc3339::option")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<schemas::Time>))]
    open_until: Option<Timestamp>,
}

/// What the parts said; an error is the cause, for the log.
#[derive(Debug)]
struct Findings {
    asked_at: Timestamp,
    store: Result<(), Fault>,
    warnings: Result<Vec<String>, Fault>,
    disk: Result<Option<DiskUsage>, Fault>,
    queue: Result<(), Fault>,
    queue_warnings: Result<Vec<String>, Fault>,
    webhooks: Result<Depth, Fault>,
    dead_letters: Result<Depth, Fault>,
    last_sweep: Result<Option<SweepReport>, Fault>,
    circuits: Result<Vec<Circuit>, Fault>,
}

impl Findings {
    /// What the latest run of the sweep said. One that was only announced has not said anything
    /// yet.
    fn swept(&self) -> Option<&SweepReport> {
        self.last_sweep
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .filter(|report| report.ran_at > Timestamp::default())
    }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("no answer within {} ms", PATIENCE.as_millis())]
    Silent,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/health", tag = "Watching", operation_id = "health", security((), ("bearer" = []),
        ("apiKey" = [])),
    summary = "Whether webhooks are accepted and delivered",
    description = "Without a key it answers with its word only. Cheap enough to be asked each \
        second.",
    responses(
        (status = 200, description = "Healthy, or degraded: what is accepted may be delivered \
            late.", body = Answer<'static>),
        (status = 503, description = "Unhealthy: nothing can be accepted.", body = Answer<'static>),
    ),
))]
pub(crate) async fn health(
    State(app): State<Arc<App>>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let findings = ask_at_most_once_a_second(&app, &call).await;
    let now = app.now();
    let sweep = judge_sweep(findings.swept(), app.started_at, now);
    let status = overall(judge_store(&findings), judge_queue(&findings), sweep);
    let code =
        if status == Word::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = match call.caller {
        Caller::Anonymous => Answer::Word(Short { status }),
        Caller::Known(_) => Answer::Whole(Box::new(report(&app, status, sweep, &findings, now))),
    };
    let mut response = answer(code, to_json(&body));
    if status == Word::Unhealthy {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    Ok(response)
}

/// What the parts said last.
#[derive(Debug, Default)]
pub(crate) struct LastFindings(Mutex<Option<Arc<Findings>>>);

/// Callers that come while the parts are asked wait for the same answer. If the one who asks hangs
/// up, the next one asks.
async fn ask_at_most_once_a_second(app: &App, call: &Call) -> Arc<Findings> {
    let mut last = app.health.0.lock().await;
    let now = app.now();
    // A clock that was put back makes nothing young.
    let is_young = |asked_at: Timestamp| asked_at <= now && now.since(asked_at) < MAX_AGE;
    if let Some(findings) = last.as_ref().filter(|findings| is_young(findings.asked_at)) {
        return Arc::clone(findings);
    }
    let findings = Arc::new(ask(app).await);
    log(call, &findings);
    *last = Some(Arc::clone(&findings));
    findings
}

async fn ask(app: &App) -> Findings {
    let asked_at = app.now();
    let (store, queue) = (&app.context.store, &app.context.queue);
    let (
        store,
        warnings,
        disk,
        queue,
        queue_warnings,
        webhooks,
        dead_letters,
        last_sweep,
        circuits,
    ) = tokio::join!(
        patient(app, store.ping()),
        patient(app, store.warnings()),
        patient(app, store.disk_usage()),
        patient(app, queue.ping()),
        patient(app, queue.warnings()),
        patient(app, queue.depth(Lane::Webhooks)),
        patient(app, queue.depth(Lane::DeadLetters)),
        patient(app, store.last_sweep()),
        patient(app, store.circuits()),
    );
    Findings {
        asked_at,
        store,
        warnings,
        disk,
        queue,
        queue_warnings,
        webhooks,
        dead_letters,
        last_sweep,
        circuits,
    }
}

async fn patient<T, E: Into<Fault>>(
    app: &App,
    part: impl Future<Output = Result<T, E>>,
) -> Result<T, Fault> {
    match future::select(pin!(part), app.context.clock.sleep(PATIENCE)).await {
        Either::Left((answer, _)) => answer.map_err(Into::into),
        Either::Right(_) => Err(Fault::Silent),
    }
}

fn judge_sweep(last: Option<&SweepReport>, started_at: Timestamp, now: Timestamp) -> Sweep {
    match last {
        Some(report) if now.since(report.ran_at) > MAX_SWEEP_AGE => Sweep::Late,
        Some(report) if Duration::from_millis(report.lag_ms) > MAX_SWEEP_LAG => Sweep::Behind,
        Some(report) if !sweep_warnings(report, now).is_empty() => Sweep::Degraded,
        Some(_) => Sweep::Healthy,
        None if now.since(started_at) > MAX_SWEEP_AGE => Sweep::Late,
        None => Sweep::Unknown,
    }
}

/// What the sweep found that somebody has to see to, a sentence or two each.
fn sweep_warnings(report: &SweepReport, now: Timestamp) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.unreadable > 0 {
        let at_least = if report.unreadable_may_be_more { "At least " } else { "" };
        warnings.push(format!(
            "{at_least}{} due webhooks cannot be read: a newer version wrote them, or they are \
             damaged. They wait until a version that can read them runs again; the log names some \
             of them.",
            report.unreadable
        ));
    }
    let ahead = report.ran_at.since(now);
    if ahead > MAX_CLOCK_APART {
        warnings.push(format!(
            "The sweep's clock is {} s ahead of this function's, so one of them is wrong. Set the \
             clocks of all machines.",
            ahead.as_secs()
        ));
    }
    if let Some(fault) = &report.clock_fault {
        warnings.push(format!(
            "A clock was {} s ahead; the sweep found that at {}. What was written with it is taken \
             back. Check the clocks of all machines.",
            fault.ahead_ms / 1000,
            fault.found_at
        ));
    }
    warnings
}

fn judge_store(findings: &Findings) -> Word {
    judge(findings.store.is_ok(), &findings.warnings)
}

fn judge_queue(findings: &Findings) -> Word {
    let is_up =
        findings.queue.is_ok() && findings.webhooks.is_ok() && findings.dead_letters.is_ok();
    judge(is_up, &findings.queue_warnings)
}

/// Without an answer about what there is to warn of, nothing is known against it.
fn judge(is_up: bool, warnings: &Result<Vec<String>, Fault>) -> Word {
    match warnings {
        _ if !is_up => Word::Unhealthy,
        Ok(warnings) if !warnings.is_empty() => Word::Degraded,
        _ => Word::Healthy,
    }
}

fn overall(store: Word, queue: Word, sweep: Sweep) -> Word {
    match (store, queue, sweep) {
        (Word::Unhealthy, ..) => Word::Unhealthy,
        (Word::Healthy, Word::Healthy, Sweep::Healthy | Sweep::Unknown) => Word::Healthy,
        _ => Word::Degraded,
    }
}

fn report<'a>(
    app: &App,
    status: Word,
    sweep: Sweep,
    findings: &'a Findings,
    now: Timestamp,
) -> Report<'a> {
    let depth = |depth: &Result<Depth, Fault>| {
        let depth = depth.as_ref().ok()?;
        Some(DepthPart { ready: depth.ready, in_flight: depth.in_flight, delayed: depth.delayed })
    };
    let last = findings.swept();
    let circuits = findings.circuits.as_deref().unwrap_or_default();
    let config = &app.context.config;
    let warnings = findings.warnings.as_deref().unwrap_or_default();
    let queue_warnings = findings.queue_warnings.as_deref().unwrap_or_default();
    Report {
        status,
        checked_at: findings.asked_at,
        store: StorePart {
            status: judge_store(findings),
            backend: config.status_backend.as_str(),
            warnings,
            disk: findings.disk.as_ref().ok().copied().flatten().map(|disk| DiskPart {
                free_bytes: disk.free_bytes,
                database_bytes: disk.database_bytes,
                log_bytes: disk.log_bytes,
            }),
        },
        queue: QueuePart {
            status: judge_queue(findings),
            backend: config.queue_backend.as_str(),
            depths: Depths {
                webhooks: depth(&findings.webhooks),
                dead_letters: depth(&findings.dead_letters),
            },
            warnings: queue_warnings
                .iter()
                .filter(|warning| !warnings.contains(warning))
                .map(String::as_str)
                .collect(),
        },
        sweep: SweepPart {
            status: sweep,
            last_run_at: last.map(|report| report.ran_at),
            lag_ms: last.map(|report| report.lag_ms),
            unreadable: last.map(|report| report.unreadable).filter(|unreadable| *unreadable > 0),
            warnings: last.map(|report| sweep_warnings(report, now)).unwrap_or_default(),
        },
        circuits: circuits
            .iter()
            .filter(|circuit| circuit.state(now) != CircuitState::Closed)
            .map(|circuit| CircuitPart {
                destination: &circuit.destination,
                state: circuit.state(now),
                open_until: circuit.open_until,
            })
            .collect(),
    }
}

fn log(call: &Call, findings: &Findings) {
    let parts = [
        ("store", findings.store.as_ref().err().or(findings.warnings.as_ref().err())),
        ("store", findings.disk.as_ref().err()),
        ("queue", findings.queue.as_ref().err().or(findings.queue_warnings.as_ref().err())),
        ("queue", findings.webhooks.as_ref().err().or(findings.dead_letters.as_ref().err())),
        ("sweep", findings.last_sweep.as_ref().err()),
        ("circuits", findings.circuits.as_ref().err()),
    ];
    let correlation_id = &*call.correlation_id;
    for (part, fault) in parts.into_iter().filter_map(|(part, fault)| Some((part, fault?))) {
        let error = fault as &(dyn std::error::Error + 'static);
        tracing::warn!(
            correlation_id,
            part,
            error,
            "[{correlation_id}] Asked for its health, the {part} did not answer well"
        );
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
    fn what_cannot_be_read_and_clocks_that_disagree_degrade_it_and_are_told() {
        let unreadable =
            SweepReport { unreadable: 1000, unreadable_may_be_more: true, ..ran(0, 0) };
        assert_eq!(judge_sweep(Some(&unreadable), at(0), at(1)), Sweep::Degraded);
        assert!(
            sweep_warnings(&unreadable, at(1))[0]
                .starts_with("At least 1000 due webhooks cannot be read")
        );
        assert_eq!(judge_sweep(Some(&ran(60, 0)), at(0), at(0)), Sweep::Healthy);
        assert_eq!(judge_sweep(Some(&ran(7200, 0)), at(0), at(0)), Sweep::Degraded);
        assert!(sweep_warnings(&ran(7200, 0), at(0))[0].contains("7200 s ahead"));
        let fault = ClockFault { found_at: at(0), ahead_ms: 7_200_000, left: None };
        let told = SweepReport { clock_fault: Some(fault), ..ran(0, 0) };
        assert_eq!(judge_sweep(Some(&told), at(0), at(1)), Sweep::Degraded);
        assert!(sweep_warnings(&told, at(1))[0].contains("A clock was 7200 s ahead"));
    }

    #[test]
    fn a_sweep_is_late_after_three_minutes_and_behind_after_five_of_lag() {
        let judge = |report: Option<&SweepReport>, now| judge_sweep(report, at(0), at(now));
        assert_eq!(judge(Some(&ran(0, 300_000)), 180), Sweep::Healthy);
        assert_eq!(judge(Some(&ran(0, 300_001)), 180), Sweep::Behind);
        assert_eq!(judge(Some(&ran(0, 0)), 181), Sweep::Late);
        assert_eq!((judge(None, 180), judge(None, 181)), (Sweep::Unknown, Sweep::Late));
    }

    #[test]
    fn without_the_store_nothing_is_accepted_and_without_the_rest_it_is_late() {
        assert_eq!(overall(Word::Healthy, Word::Healthy, Sweep::Healthy), Word::Healthy);
        assert_eq!(overall(Word::Healthy, Word::Healthy, Sweep::Unknown), Word::Healthy);
        assert_eq!(overall(Word::Unhealthy, Word::Healthy, Sweep::Healthy), Word::Unhealthy);
        assert_eq!(overall(Word::Degraded, Word::Healthy, Sweep::Healthy), Word::Degraded);
        assert_eq!(overall(Word::Healthy, Word::Unhealthy, Sweep::Healthy), Word::Degraded);
        assert_eq!(overall(Word::Healthy, Word::Degraded, Sweep::Healthy), Word::Degraded);
        assert_eq!(overall(Word::Healthy, Word::Healthy, Sweep::Late), Word::Degraded);
        assert_eq!(overall(Word::Healthy, Word::Healthy, Sweep::Behind), Word::Degraded);
        assert_eq!(overall(Word::Healthy, Word::Healthy, Sweep::Degraded), Word::Degraded);
    }
}
