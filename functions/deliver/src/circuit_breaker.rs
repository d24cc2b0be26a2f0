//! The circuits of a webhook's targets: permission before an attempt, and the record of its answer.
//!
//! A webhook needs the permission of both its targets, the origin and the URL. When a circuit is
//! half-open, one webhook may probe it. [`CircuitBreaker::admit`] leases the probe with a
//! conditional write, and [`CircuitBreaker::release`] returns the lease if no attempt was made.
//!
//! The first failure of a target stays in memory. Most targets that fail once succeed next, so it
//! saves two writes. A process that ends loses at most one failure.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    circuit::{Admission, Circuit, MAX_FAILURE_GAP},
    clock::Timestamp,
    context::Context,
    model::{ErrorKind, Webhook},
    planted::{self, Bug},
    sender::Answer,
    store::WriteTargetError,
    traffic::{
        pace::{Pace, Refusal},
        target::{Evidence, Target, TargetKey},
    },
};

use crate::known_targets::KnownTargets;

/// Attempts to write a target that other workers write, too.
const MAX_WRITE_ATTEMPTS: u32 = 4;

/// How long a webhook waits if it lost the race for a probe.
const LOST_PROBE_WAIT: Duration = Duration::from_secs(2);

/// The consecutive 5xx answers of an origin after which its circuit opens for retries.
const FAILING_ORIGIN_ANSWERS: u32 = 20;

/// The paths from which they come, at least.
const FAILING_ORIGIN_PATHS: usize = 5;

/// The targets and origins in memory, at most. Beyond it, the counts restart.
const MAX_COUNTED: usize = 10_000;

/// A target's permission to make an attempt.
#[derive(Debug)]
pub(crate) enum TargetPermit {
    /// No failure of the target is known.
    Unwatched(TargetKey),
    /// The target failed lately, and this is its state.
    Watched(Target),
    /// The attempt is the half-open probe, and this state holds its lease.
    Probe(Target),
}

/// The permission of both targets.
#[derive(Debug)]
pub(crate) struct CircuitPermit {
    pub(crate) origin: TargetPermit,
    /// `None`: the record is of a version that did not store the hash of the path.
    pub(crate) url: Option<TargetPermit>,
}

/// A circuit is open: no attempt before `until`.
#[derive(Debug)]
pub(crate) struct CircuitOpen {
    pub(crate) until: Timestamp,
}

/// The circuits that this process knows.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker {
    pub(crate) targets: KnownTargets,
    // A std mutex: it is held for a look-up, never across an await.
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// The targets with one failure that was not written, and its time.
    first_failures: HashMap<TargetKey, Timestamp>,
    origins: HashMap<TargetKey, FailingOrigin>,
}

/// The consecutive 5xx answers of an origin.
#[derive(Debug, Default)]
struct FailingOrigin {
    answers: u32,
    /// At most [`FAILING_ORIGIN_PATHS`].
    paths: HashSet<TargetKey>,
}

/// The keys of the webhook's targets: origin and URL.
pub(crate) fn target_keys(webhook: &Webhook) -> (TargetKey, Option<TargetKey>) {
    let origin = &webhook.destination;
    let url = webhook.path_hash.as_ref().map(|hash| TargetKey::url(origin, hash));
    (TargetKey::origin(origin), url)
}

impl CircuitBreaker {
    /// Decides on an attempt before it is claimed.
    pub(crate) async fn admit(
        &self,
        context: &Context,
        webhook: &Webhook,
    ) -> Result<CircuitPermit, CircuitOpen> {
        let (origin, url) = target_keys(webhook);
        if context.config.circuit.failures == 0 {
            return Ok(CircuitPermit::unwatched(origin, url));
        }
        let is_exempt = |circuit: &Circuit| circuit.retries_only && !got_5xx(webhook);
        let origin = self.admit_to(context, origin, is_exempt).await?;
        let Some(url) = url else { return Ok(CircuitPermit { origin, url: None }) };
        match self.admit_to(context, url, |_| false).await {
            Ok(url) => Ok(CircuitPermit { origin, url: Some(url) }),
            Err(open) => {
                self.release_target(context, origin).await;
                Err(open)
            }
        }
    }

    /// Permits an attempt although a circuit is open. Its answer counts like a probe's: success
    /// closes the circuits.
    pub(crate) fn bypass(&self, webhook: &Webhook) -> CircuitPermit {
        let (origin, url) = target_keys(webhook);
        let permit = |key: TargetKey| match self.targets.look_up(&key) {
            Some(target) => TargetPermit::Watched(target),
            None => TargetPermit::Unwatched(key),
        };
        CircuitPermit { origin: permit(origin), url: url.map(permit) }
    }

    async fn admit_to(
        &self,
        context: &Context,
        key: TargetKey,
        is_exempt: impl Fn(&Circuit) -> bool,
    ) -> Result<TargetPermit, CircuitOpen> {
        let Some(target) = self.targets.get(context, &key).await else {
            return Ok(TargetPermit::Unwatched(key));
        };
        if is_exempt(&target.circuit) {
            return Ok(TargetPermit::Watched(target));
        }
        let now = context.clock.now();
        match target.circuit.admit(now) {
            Admission::Go => Ok(TargetPermit::Watched(target)),
            Admission::Wait(until) => Err(CircuitOpen { until }),
            Admission::Probe => self.lease_probe(context, target, now).await,
        }
    }

    /// Leases the probe of a half-open circuit, so that a single webhook tests whether the target
    /// has recovered.
    async fn lease_probe(
        &self,
        context: &Context,
        target: Target,
        now: Timestamp,
    ) -> Result<TargetPermit, CircuitOpen> {
        if planted::is(Bug::ProbeWithoutLease) {
            return Ok(TargetPermit::Watched(target));
        }
        let leased = target.probed(&context.config.circuit, now);
        match context.store.write_target(Some(target.revision), &leased).await {
            Ok(()) => {
                self.targets.remember(leased.clone());
                Ok(TargetPermit::Probe(leased))
            }
            // Another worker wrote the target first.
            Err(WriteTargetError::Changed(Some(newer))) => {
                let admission = newer.circuit.admit(now);
                self.targets.remember((*newer).clone());
                match admission {
                    Admission::Wait(until) => Err(CircuitOpen { until }),
                    // Half-open again. The next look decides.
                    Admission::Probe => Err(CircuitOpen { until: now.plus(LOST_PROBE_WAIT) }),
                    Admission::Go => Ok(TargetPermit::Watched(*newer)),
                }
            }
            Err(WriteTargetError::Changed(None)) => {
                self.targets.forget(&target.key);
                Ok(TargetPermit::Unwatched(target.key))
            }
            Err(WriteTargetError::Store(_)) => Ok(TargetPermit::Unwatched(target.key)),
        }
    }

    /// Records what an answer proves about both targets. It writes only if one failed now or before.
    pub(crate) async fn record(&self, context: &Context, answer: &Answer, permit: CircuitPermit) {
        let mut evidence = Evidence::of(answer.error, answer.status_code);
        if evidence == Evidence::UrlFails && planted::is(Bug::UrlFailsOrigin) {
            evidence = Evidence::OriginFails;
        }
        let CircuitPermit { origin, url } = permit;
        if context.config.circuit.failures == 0 {
            return;
        }
        self.record_origin(context, evidence, origin, url.as_ref()).await;
        let Some(url) = url else { return };
        match evidence {
            Evidence::Works => self.record_success(context, url).await,
            Evidence::UrlFails => self.record_failure(context, url).await,
            Evidence::OriginFails | Evidence::Nothing => self.release_target(context, url).await,
        }
    }

    async fn record_origin(
        &self,
        context: &Context,
        evidence: Evidence,
        origin: TargetPermit,
        url: Option<&TargetPermit>,
    ) {
        if evidence != Evidence::UrlFails {
            self.counted().origins.remove(origin.key());
        }
        match evidence {
            Evidence::Works => self.record_success(context, origin).await,
            Evidence::OriginFails => self.record_failure(context, origin).await,
            Evidence::Nothing => self.release_target(context, origin).await,
            Evidence::UrlFails if self.must_open_for_retries(&origin, url) => {
                let settings = &context.config.circuit;
                let now = context.clock.now();
                let open = |target: &Target| Some(target.opened_for_retries(settings, now));
                self.write(context, origin, open).await;
            }
            Evidence::UrlFails if origin.is_exempted() => {}
            Evidence::UrlFails => self.record_success(context, origin).await,
        }
    }

    /// Counts a 5xx answer of an origin. Returns whether its circuit must open for retries: because
    /// of this answer, or because a probe of such a circuit failed.
    fn must_open_for_retries(&self, origin: &TargetPermit, url: Option<&TargetPermit>) -> bool {
        if let TargetPermit::Probe(target) = origin
            && target.circuit.retries_only
        {
            return true;
        }
        let mut counted = self.counted();
        make_room(&mut counted.origins);
        let failing = counted.origins.entry(origin.key().clone()).or_default();
        failing.answers = failing.answers.saturating_add(1);
        if failing.paths.len() < FAILING_ORIGIN_PATHS {
            failing.paths.extend(url.map(|url| url.key().clone()));
        }
        let is_failing = failing.answers >= FAILING_ORIGIN_ANSWERS
            && failing.paths.len() >= FAILING_ORIGIN_PATHS;
        if is_failing {
            counted.origins.remove(origin.key());
        }
        is_failing && !origin.is_exempted()
    }

    async fn record_success(&self, context: &Context, permit: TargetPermit) {
        self.counted().first_failures.remove(permit.key());
        let now = context.clock.now();
        let close = |target: &Target| (!target.circuit.is_idle()).then(|| target.succeeded(now));
        if permit.known().is_some() {
            self.write(context, permit, close).await;
        }
    }

    async fn record_failure(&self, context: &Context, permit: TargetPermit) {
        let settings = &context.config.circuit;
        let now = context.clock.now();
        let mut count = 1;
        if permit.known().is_none_or(|target| target.circuit.is_idle()) && settings.failures > 1 {
            let mut counted = self.counted();
            let earlier = counted.first_failures.remove(permit.key());
            if earlier.is_none_or(|at| now.since(at) > MAX_FAILURE_GAP) {
                make_room(&mut counted.first_failures);
                counted.first_failures.insert(permit.key().clone(), now);
                return;
            }
            count = 2;
        }
        self.write(context, permit, |target| Some(target.failed(count, settings, now))).await;
    }

    /// Records that the destination asked for fewer requests: the URL is paused. Returns its pace.
    /// `None`: the webhook has no URL target.
    pub(crate) async fn record_refusal(
        &self,
        context: &Context,
        permit: CircuitPermit,
        refusal: &Refusal,
        limit: Option<f64>,
    ) -> Option<Pace> {
        let CircuitPermit { origin, url } = permit;
        if context.config.circuit.failures > 0 {
            self.record_success(context, origin).await;
        }
        let permit = url?;
        self.counted().first_failures.remove(permit.key());
        let now = context.clock.now();
        let max_pause = context.config.rules.retry.retry_after_cap;
        let refused = |target: &Target| {
            let pace = target.pace(now);
            Pace::after_refusal(pace, refusal, max_pause, limit, now)
        };
        let key = permit.key().clone();
        let unwritten = refused(&permit.known().cloned().unwrap_or(Target::idle(key.clone())));
        let change = |target: &Target| match (refused(target), target.pace(now)) {
            (Some(pace), _) => Some(target.paused(pace, now)),
            (None, Some(pace)) if !target.circuit.is_idle() => Some(target.paused(*pace, now)),
            (None, _) => None,
        };
        self.write(context, permit, change).await;
        // Without the store, this process at least keeps the pause to itself.
        let known = self.targets.look_up(&key).and_then(|target| target.pace(now).copied());
        known.or(unwritten)
    }

    /// Writes the state that `change` returns for the stored one. `None`: nothing to write.
    async fn write(
        &self,
        context: &Context,
        permit: TargetPermit,
        change: impl Fn(&Target) -> Option<Target>,
    ) {
        let key = permit.key().clone();
        let mut stored = permit.known().cloned();
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let current = stored.clone().unwrap_or_else(|| Target::idle(key.clone()));
            let Some(next) = change(&current) else {
                return stored
                    .map_or_else(|| self.targets.forget(&key), |t| self.targets.remember(t));
            };
            let revision = stored.as_ref().map(|target| target.revision);
            match context.store.write_target(revision, &next).await {
                Ok(()) => {
                    log_change(&current, &next, context.clock.now());
                    return self.targets.remember(next);
                }
                Err(WriteTargetError::Changed(newer)) => stored = newer.map(|newer| *newer),
                // The attempt's outcome is recorded separately, and the next answer is recorded
                // here again.
                Err(WriteTargetError::Store(_)) => return,
            }
        }
    }

    /// Returns the leases of the probes if no attempt was made. The next webhook may probe.
    pub(crate) async fn release(&self, context: &Context, permit: CircuitPermit) {
        self.release_target(context, permit.origin).await;
        if let Some(url) = permit.url {
            self.release_target(context, url).await;
        }
    }

    async fn release_target(&self, context: &Context, permit: TargetPermit) {
        let TargetPermit::Probe(leased) = permit else { return };
        let released = leased.released(context.clock.now());
        // If the write is refused, another worker has written the target. If it fails, the lease
        // expires.
        if context.store.write_target(Some(leased.revision), &released).await.is_ok() {
            self.targets.remember(released);
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CircuitPermit {
    fn unwatched(origin: TargetKey, url: Option<TargetKey>) -> Self {
        Self { origin: TargetPermit::Unwatched(origin), url: url.map(TargetPermit::Unwatched) }
    }
}

impl TargetPermit {
    pub(crate) fn key(&self) -> &TargetKey {
        match self {
            Self::Unwatched(key) => key,
            Self::Watched(target) | Self::Probe(target) => &target.key,
        }
    }

    fn known(&self) -> Option<&Target> {
        match self {
            Self::Unwatched(_) => None,
            Self::Watched(target) | Self::Probe(target) => Some(target),
        }
    }

    /// Whether a circuit that is open for retries let a first attempt through.
    fn is_exempted(&self) -> bool {
        matches!(self, Self::Watched(target) if target.circuit.retries_only)
    }
}

/// Whether the latest attempt of the webhook was answered with 5xx.
fn got_5xx(webhook: &Webhook) -> bool {
    webhook.last_error.as_ref().is_some_and(|error| {
        error.kind == ErrorKind::HttpStatus && error.status_code.is_some_and(|code| code >= 500)
    })
}

fn make_room<V>(map: &mut HashMap<TargetKey, V>) {
    if map.len() >= MAX_COUNTED {
        map.clear();
    }
}

fn log_change(before: &Target, after: &Target, now: Timestamp) {
    let (old_state, new_state) = (before.circuit.state(now), after.circuit.state(now));
    if old_state != new_state {
        tracing::warn!(
            target_key = after.key.as_str(),
            failures = after.circuit.failures,
            "The circuit of {} changed from {old_state:?} to {new_state:?}",
            after.key
        );
    }
    if let Some(pace) = after.pace.filter(|pace| pace.is_paused(now) && before.pace != after.pace) {
        tracing::warn!(
            target_key = after.key.as_str(),
            resume_at = %pace.resume_at,
            "{} refused a request and is paused until {}",
            after.key,
            pace.resume_at
        );
    }
}
