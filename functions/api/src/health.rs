//! `GET /health`: whether webhooks are accepted and delivered, from what store, queue and sweep say themselves.
//!
//! | word | status | when |
//! |---|---|---|
//! | `unhealthy` | 503 | the store does not answer: nothing can be accepted |
//! | `degraded` | 200 | the queue does not answer, or the sweep is late or behind: what is accepted may be delivered later; or the store is set up so that it may lose webhooks, and `warnings` say how |
//! | `healthy` | 200 | else |
//!
//! Each part is asked at the same time and given [`PATIENCE`]. A call costs a few small reads, and without a key it tells the word
//! only. Before the first sweep, the sweep is `unknown`, and `late` only once this process has been up for [`MAX_SWEEP_AGE`].

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use futures_util::future::{self, Either};
use http::StatusCode;
use serde::Serialize;
use shared::{
    circuit::{Circuit, State as CircuitState},
    clock::{Timestamp, rfc3339},
    queue::{Depth, Lane, QueueError},
    store::{StoreError, SweepReport},
};

use crate::{
    app::{App, Call},
    auth::Caller,
    idempotency::answer,
    problem::Problem,
    query,
    view::to_json,
};

/// How long each part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A sweep runs each minute; three missed ones are a fault.
const MAX_SWEEP_AGE: Duration = Duration::from_secs(180);

/// What was due for longer when the sweep came to it is a fault.
const MAX_SWEEP_LAG: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Serialize)]
struct Short {
    status: Word,
}

#[derive(Serialize)]
struct Report<'a> {
    status: Word,
    store: StorePart<'a>,
    queue: QueuePart,
    sweep: SweepPart,
    circuits: Vec<CircuitPart<'a>>,
}

#[derive(Serialize)]
struct StorePart<'a> {
    status: Word,
    backend: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct QueuePart {
    status: Word,
    backend: &'static str,
    depths: Depths,
}

#[derive(Serialize)]
struct Depths {
    webhooks: Option<DepthPart>,
    dead_letters: Option<DepthPart>,
}

#[derive(Serialize)]
struct DepthPart {
    ready: u64,
    in_flight: u64,
    delayed: u64,
}

#[derive(Serialize)]
struct SweepPart {
    status: Sweep,
    #[serde(with = "rfc3339::option")]
    last_run_at: Option<Timestamp>,
    lag_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
}

#[derive(Serialize)]
struct CircuitPart<'a> {
    destination: &'a str,
    state: CircuitState,
    #[serde(with = "rfc3339::option")]
    open_until: Option<Timestamp>,
}

/// What the parts said; an error is the cause, for the log.
struct Findings {
    store: Result<(), Fault>,
    warnings: Result<Vec<String>, Fault>,
    webhooks: Result<Depth, Fault>,
    dead_letters: Result<Depth, Fault>,
    last_sweep: Result<Option<SweepReport>, Fault>,
    circuits: Result<Vec<Circuit>, Fault>,
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

pub(crate) async fn health(State(app): State<Arc<App>>, call: Call, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let findings = ask(&app).await;
    let now = app.now();
    let sweep = judge_sweep(findings.last_sweep.as_ref().ok().and_then(Option::as_ref), app.started_at, now);
    let queue_up = findings.webhooks.is_ok() && findings.dead_letters.is_ok();
    let status = overall(judge_store(&findings), queue_up, sweep);
    log(&call, &findings);
    let code = if status == Word::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = match call.caller {
        Caller::Anonymous => to_json(&Short { status }),
        Caller::Known(_) => to_json(&report(&app, status, sweep, &findings, now)),
    };
    Ok(answer(code, body))
}

async fn ask(app: &App) -> Findings {
    let (store, queue) = (&app.context.store, &app.context.queue);
    let (store, warnings, webhooks, dead_letters, last_sweep, circuits) = tokio::join!(
        patient(app, store.ping()),
        patient(app, store.warnings()),
        patient(app, queue.depth(Lane::Webhooks)),
        patient(app, queue.depth(Lane::DeadLetters)),
        patient(app, store.last_sweep()),
        patient(app, store.circuits()),
    );
    Findings { store, warnings, webhooks, dead_letters, last_sweep, circuits }
}

async fn patient<T, E: Into<Fault>>(app: &App, part: impl Future<Output = Result<T, E>>) -> Result<T, Fault> {
    match future::select(pin!(part), app.context.clock.sleep(PATIENCE)).await {
        Either::Left((answer, _)) => answer.map_err(Into::into),
        Either::Right(_) => Err(Fault::Silent),
    }
}

fn judge_sweep(last: Option<&SweepReport>, started_at: Timestamp, now: Timestamp) -> Sweep {
    match last {
        Some(report) if now.since(report.ran_at) > MAX_SWEEP_AGE => Sweep::Late,
        Some(report) if Duration::from_millis(report.lag_ms) > MAX_SWEEP_LAG => Sweep::Behind,
        Some(_) => Sweep::Healthy,
        None if now.since(started_at) > MAX_SWEEP_AGE => Sweep::Late,
        None => Sweep::Unknown,
    }
}

/// Without an answer about its settings, nothing is known against them.
fn judge_store(findings: &Findings) -> Word {
    match (&findings.store, &findings.warnings) {
        (Err(_), _) => Word::Unhealthy,
        (Ok(()), Ok(warnings)) if !warnings.is_empty() => Word::Degraded,
        _ => Word::Healthy,
    }
}

fn overall(store: Word, queue_up: bool, sweep: Sweep) -> Word {
    match (store, queue_up, sweep) {
        (Word::Unhealthy, ..) => Word::Unhealthy,
        (Word::Healthy, true, Sweep::Healthy | Sweep::Unknown) => Word::Healthy,
        _ => Word::Degraded,
    }
}

fn report<'a>(app: &App, status: Word, sweep: Sweep, findings: &'a Findings, now: Timestamp) -> Report<'a> {
    let up = |well: bool| if well { Word::Healthy } else { Word::Unhealthy };
    let depth = |depth: &Result<Depth, Fault>| {
        let depth = depth.as_ref().ok()?;
        Some(DepthPart { ready: depth.ready, in_flight: depth.in_flight, delayed: depth.delayed })
    };
    let last = findings.last_sweep.as_ref().ok().and_then(Option::as_ref);
    let circuits = findings.circuits.as_deref().unwrap_or_default();
    let config = &app.context.config;
    Report {
        status,
        store: StorePart {
            status: judge_store(findings),
            backend: config.status_backend.as_str(),
            warnings: findings.warnings.as_deref().unwrap_or_default(),
        },
        queue: QueuePart {
            status: up(findings.webhooks.is_ok() && findings.dead_letters.is_ok()),
            backend: config.queue_backend.as_str(),
            depths: Depths { webhooks: depth(&findings.webhooks), dead_letters: depth(&findings.dead_letters) },
        },
        sweep: SweepPart {
            status: sweep,
            last_run_at: last.map(|report| report.ran_at),
            lag_ms: last.map(|report| report.lag_ms),
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
        ("queue", findings.webhooks.as_ref().err().or(findings.dead_letters.as_ref().err())),
        ("sweep", findings.last_sweep.as_ref().err()),
        ("circuits", findings.circuits.as_ref().err()),
    ];
    let correlation_id = &*call.correlation_id;
    for (part, fault) in parts.into_iter().filter_map(|(part, fault)| Some((part, fault?))) {
        let error = fault as &(dyn std::error::Error + 'static);
        tracing::warn!(correlation_id, part, error, "[{correlation_id}] Asked for its health, the {part} did not answer well");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn ran(seconds: i64, lag_ms: u64) -> SweepReport {
        SweepReport { ran_at: at(seconds), lag_ms, counts: [0; 5] }
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
        assert_eq!(overall(Word::Healthy, true, Sweep::Healthy), Word::Healthy);
        assert_eq!(overall(Word::Healthy, true, Sweep::Unknown), Word::Healthy);
        assert_eq!(overall(Word::Unhealthy, true, Sweep::Healthy), Word::Unhealthy);
        assert_eq!(overall(Word::Degraded, true, Sweep::Healthy), Word::Degraded);
        assert_eq!(overall(Word::Healthy, false, Sweep::Healthy), Word::Degraded);
        assert_eq!(overall(Word::Healthy, true, Sweep::Late), Word::Degraded);
        assert_eq!(overall(Word::Healthy, true, Sweep::Behind), Word::Degraded);
    }
}
