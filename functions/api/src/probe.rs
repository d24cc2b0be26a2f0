//! Asks store and queue about their state, for `GET /health`.
//!
//! The questions run at the same time, each with a timeout of [`PROBE_TIMEOUT`]. All callers of
//! this process share the findings for [`MAX_AGE`]. So the store sees at most one small write and a
//! few reads a second, however often `/health` is polled. On the embedded backend that is one
//! commit of 16 KiB, and a count that stops at 100,000 messages.

use std::{error::Error, pin::pin, sync::Arc, time::Duration};

use futures_util::future::{self, Either};
use shared::{
    clock::Timestamp,
    context::Context,
    queue::{Depth, Lane, QueueError},
    store::{DiskUsage, StoreError, SweepReport, TargetState},
};
use tokio::sync::Mutex;

/// How long store and queue have for each answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long findings are reused.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The answers of store and queue.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) probed_at: Timestamp,
    pub(crate) store: Result<(), ProbeError>,
    pub(crate) store_warnings: Result<Vec<String>, ProbeError>,
    pub(crate) disk: Result<Option<DiskUsage>, ProbeError>,
    pub(crate) queue: Result<(), ProbeError>,
    pub(crate) queue_warnings: Result<Vec<String>, ProbeError>,
    pub(crate) webhooks: Result<Depth, ProbeError>,
    pub(crate) dead_letters: Result<Depth, ProbeError>,
    pub(crate) last_sweep: Result<Option<SweepReport>, ProbeError>,
    pub(crate) targets: Result<Vec<TargetState>, ProbeError>,
    /// A key of `MASTER_KEY` that is missing, as a sentence for an operator.
    pub(crate) master_key: Result<Option<String>, ProbeError>,
}

impl Findings {
    /// The report of the latest sweep. A sweep that has started but not finished has none.
    pub(crate) fn sweep_report(&self) -> Option<&SweepReport> {
        self.last_sweep
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .filter(|report| report.ran_at > Timestamp::default())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("no answer within {} ms", PROBE_TIMEOUT.as_millis())]
    TimedOut,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// The latest findings.
#[derive(Debug, Default)]
pub(crate) struct ProbeCache(Mutex<Option<Arc<Findings>>>);

impl ProbeCache {
    /// The latest findings if they are younger than [`MAX_AGE`], otherwise new ones. Concurrent
    /// callers wait for the same findings. If the caller that probes disconnects, the next one
    /// probes.
    pub(crate) async fn findings(&self, context: &Context) -> Arc<Findings> {
        let mut latest = self.0.lock().await;
        let now = context.clock.now();
        // A clock that was set back must not make old findings valid.
        let is_recent = |at: Timestamp| at <= now && now.since(at) < MAX_AGE;
        if let Some(findings) = latest.as_ref().filter(|findings| is_recent(findings.probed_at)) {
            return Arc::clone(findings);
        }
        let findings = Arc::new(probe(context).await);
        log(&findings);
        *latest = Some(Arc::clone(&findings));
        findings
    }
}

async fn probe(context: &Context) -> Findings {
    let probed_at = context.clock.now();
    let (store, queue) = (&context.store, &context.queue);
    let answers = tokio::join!(
        within_timeout(context, store.ping()),
        within_timeout(context, store.warnings()),
        within_timeout(context, store.disk_usage()),
        within_timeout(context, queue.ping()),
        within_timeout(context, queue.warnings()),
        within_timeout(context, queue.depth(Lane::Webhooks)),
        within_timeout(context, queue.depth(Lane::DeadLetters)),
        within_timeout(context, store.last_sweep()),
        within_timeout(context, store.targets(probed_at)),
        within_timeout(context, missing_master_key(context)),
    );
    Findings {
        probed_at,
        store: answers.0,
        store_warnings: answers.1,
        disk: answers.2,
        queue: answers.3,
        queue_warnings: answers.4,
        webhooks: answers.5,
        dead_letters: answers.6,
        last_sweep: answers.7,
        targets: answers.8,
        master_key: answers.9,
    }
}

/// Whether secrets are stored that no key of `MASTER_KEY` opens. With a key, that is known of the
/// applications alone that this process has read.
async fn missing_master_key(context: &Context) -> Result<Option<String>, StoreError> {
    let Some(keys) = &context.config.master_keys else {
        let any = context.store.applications(None, 1).await?;
        return Ok((!any.items.is_empty()).then(|| {
            "There are applications, but MASTER_KEY is not set. Deliveries to their endpoints \
             wait. Set it to the key that they were created with."
                .to_owned()
        }));
    };
    let unknown = context.applications.documents().into_iter().find_map(|application| {
        let endpoints = application.endpoints.iter();
        let mut sealed = endpoints.flat_map(|endpoint| {
            let headers = endpoint.headers.iter().map(|header| &header.sealed);
            headers.chain(endpoint.secrets.iter().map(|secret| &secret.sealed))
        });
        let unknown = sealed.find_map(|sealed| sealed.key_id().filter(|id| !keys.holds(*id)))?;
        Some(format!(
            "MASTER_KEY does not hold the key {unknown}, under which secrets of the application {} \
             are sealed. Deliveries to its endpoints wait. Add that key to the end of MASTER_KEY.",
            application.id
        ))
    });
    Ok(unknown)
}

async fn within_timeout<T, E: Into<ProbeError>>(
    context: &Context,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, ProbeError> {
    match future::select(pin!(call), context.clock.sleep(PROBE_TIMEOUT)).await {
        Either::Left((answer, _)) => answer.map_err(Into::into),
        Either::Right(_) => Err(ProbeError::TimedOut),
    }
}

fn log(findings: &Findings) {
    let Findings { store, store_warnings, disk, queue, queue_warnings, .. } = findings;
    let parts = [
        ("store", store.as_ref().err().or(store_warnings.as_ref().err())),
        ("store", disk.as_ref().err()),
        ("queue", queue.as_ref().err().or(queue_warnings.as_ref().err())),
        ("queue", findings.webhooks.as_ref().err().or(findings.dead_letters.as_ref().err())),
        ("sweep", findings.last_sweep.as_ref().err()),
        ("targets", findings.targets.as_ref().err()),
        ("applications", findings.master_key.as_ref().err()),
    ];
    for (part, error) in parts.into_iter().filter_map(|(part, error)| Some((part, error?))) {
        tracing::warn!(part, error = error as &dyn Error, "Health check failed: {part}");
    }
}
