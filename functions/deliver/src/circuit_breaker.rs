//! The circuits of a webhook's targets: permission before an attempt, and the record of its answer.
//!
//! A direct webhook needs the permission of both its targets, the origin and the URL. A delivery
//! needs that of its endpoint alone, for which an answer with 5xx and no answer both count. When a
//! circuit is half-open, one webhook may probe it. [`CircuitBreaker::admit`] leases the probe with
//! a conditional write, and [`CircuitBreaker::release`] returns the lease if no attempt was made.
//!
//! The first failure of a target stays in memory. Most targets that fail once succeed next, so it
//! saves two writes. A process that ends loses at most one failure.

use std::time::Duration;

use shared::{
    circuit::{Admission, Circuit, State},
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

use crate::{
    known_targets::{KnownTargets, TargetLocks},
    recent_failures::RecentFailures,
};

/// Attempts to write a target that other workers write, too.
const MAX_WRITE_ATTEMPTS: u32 = 4;

/// How often a webhook looks at a circuit again because it lost the race for a probe.
const MAX_PROBE_ROUNDS: u32 = 2;

/// How long a webhook waits if it lost all of them.
const LOST_PROBE_WAIT: Duration = Duration::from_secs(2);

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

/// The permission of all targets.
#[derive(Debug)]
pub(crate) struct CircuitPermit {
    /// `None`: a delivery. Its endpoint is no part of an origin.
    pub(crate) origin: Option<TargetPermit>,
    /// The URL, or the endpoint of a delivery. `None`: the record is of a version that did not
    /// store the hash of the path.
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
    recent: RecentFailures,
    /// Held from the decision on a write to its end. So concurrent answers count one by one.
    writing: TargetLocks,
}

/// The keys of the webhook's targets: origin and URL, or the endpoint of a delivery in place of the
/// URL.
pub(crate) fn target_keys(webhook: &Webhook) -> (Option<TargetKey>, Option<TargetKey>) {
    if let (Some(application), Some(endpoint)) = (&webhook.application, webhook.id.endpoint) {
        return (None, Some(TargetKey::endpoint(application, endpoint)));
    }
    let origin = &webhook.destination;
    let url = webhook.path_hash.as_ref().map(|hash| TargetKey::url(origin, hash));
    (Some(TargetKey::origin(origin)), url)
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
        let origin = match origin {
            Some(origin) => Some(self.admit_to(context, origin, webhook).await?),
            None => None,
        };
        let Some(url) = url else { return Ok(CircuitPermit { origin, url: None }) };
        match self.admit_to(context, url, webhook).await {
            Ok(url) => Ok(CircuitPermit { origin, url: Some(url) }),
            Err(open) => {
                self.release(context, CircuitPermit { origin, url: None }).await;
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
        CircuitPermit { origin: origin.map(permit), url: url.map(permit) }
    }

    /// The end of the time for which a circuit is open, if an attempt would have to wait for it.
    /// Leases no probe.
    pub(crate) async fn open_until(
        &self,
        context: &Context,
        webhook: &Webhook,
    ) -> Option<Timestamp> {
        if context.config.circuit.failures == 0 {
            return None;
        }
        let (origin, url) = target_keys(webhook);
        let now = context.clock.now();
        for key in [origin, url].into_iter().flatten() {
            let target = self.targets.get(context, &key).await;
            let circuit = target.map(|target| target.circuit).unwrap_or_default();
            if !is_exempt(&circuit, webhook)
                && let Admission::Wait(until) = circuit.admit(now)
            {
                return Some(until);
            }
        }
        None
    }

    async fn admit_to(
        &self,
        context: &Context,
        key: TargetKey,
        webhook: &Webhook,
    ) -> Result<TargetPermit, CircuitOpen> {
        let Some(mut target) = self.targets.get(context, &key).await else {
            return Ok(TargetPermit::Unwatched(key));
        };
        for _ in 0..MAX_PROBE_ROUNDS {
            if is_exempt(&target.circuit, webhook) {
                return Ok(TargetPermit::Watched(target));
            }
            let now = context.clock.now();
            match target.circuit.admit(now) {
                Admission::Go => return Ok(TargetPermit::Watched(target)),
                Admission::Wait(until) => return Err(CircuitOpen { until }),
                Admission::Probe => match self.lease_probe(context, target, now).await {
                    Ok(permit) => return Ok(permit),
                    Err(newer) => target = *newer,
                },
            }
        }
        Err(CircuitOpen { until: context.clock.now().plus(LOST_PROBE_WAIT) })
    }

    /// Leases the probe of a half-open circuit, so that a single webhook tests whether the target
    /// has recovered. Returns the newer state if another worker wrote the target first.
    async fn lease_probe(
        &self,
        context: &Context,
        target: Target,
        now: Timestamp,
    ) -> Result<TargetPermit, Box<Target>> {
        if planted::is(Bug::ProbeWithoutLease) {
            return Ok(TargetPermit::Watched(target));
        }
        let leased = target.probed(&context.config.circuit, now);
        match self.call_write(context, Some(target.revision), &leased).await {
            Some(Ok(())) => {
                self.targets.remember(leased.clone());
                Ok(TargetPermit::Probe(leased))
            }
            Some(Err(Some(newer))) => {
                self.targets.remember((*newer).clone());
                Err(newer)
            }
            Some(Err(None)) => {
                self.targets.forget(&target.key);
                Ok(TargetPermit::Unwatched(target.key))
            }
            None => Ok(TargetPermit::Unwatched(target.key)),
        }
    }

    /// Records what an answer proves about the targets. It writes only if one failed now or
    /// before.
    pub(crate) async fn record(&self, context: &Context, answer: &Answer, permit: CircuitPermit) {
        let mut evidence = Evidence::of(answer.error, answer.status_code);
        if evidence == Evidence::UrlFails && planted::is(Bug::UrlFailsOrigin) {
            evidence = Evidence::OriginFails;
        }
        let CircuitPermit { origin, url } = permit;
        if context.config.circuit.failures == 0 {
            return;
        }
        let is_endpoint = origin.is_none();
        if let Some(origin) = origin {
            self.record_origin(context, evidence, origin, url.as_ref()).await;
        }
        let Some(url) = url else { return };
        match evidence {
            Evidence::Works => self.record_success(context, url).await,
            Evidence::UrlFails => self.record_failure(context, url).await,
            Evidence::OriginFails if is_endpoint => self.record_failure(context, url).await,
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
        if evidence == Evidence::Works {
            self.recent.got_no_5xx(origin.key());
        }
        match evidence {
            Evidence::Works => self.record_success(context, origin).await,
            Evidence::OriginFails => self.record_failure(context, origin).await,
            Evidence::Nothing => self.release_target(context, origin).await,
            Evidence::UrlFails if self.must_open_for_retries(&origin, url) => {
                let _writing = self.writing.lock(origin.key()).await;
                self.recent.forget(origin.key());
                let settings = &context.config.circuit;
                let now = context.clock.now();
                // Several processes may find the origin failing at the same time.
                let is_open =
                    |circuit: &Circuit| circuit.retries_only && circuit.state(now) == State::Open;
                let open = |target: &Target| {
                    (!is_open(&target.circuit)).then(|| target.opened_for_retries(settings, now))
                };
                self.write(context, origin, open).await;
            }
            Evidence::UrlFails => {
                // An attempt that a circuit admitted before it opened for retries does not close
                // it.
                let is_closable = |circuit: &Circuit| !circuit.is_idle() && !circuit.retries_only;
                self.close(context, origin, is_closable).await;
            }
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
        let url = url.map(TargetPermit::key);
        self.recent.got_5xx(origin.key(), url) && !origin.is_exempted()
    }

    async fn record_success(&self, context: &Context, permit: TargetPermit) {
        self.close(context, permit, |circuit| !circuit.is_idle()).await;
    }

    /// Closes the circuit that admitted the attempt, if `must` says so of its newest state.
    async fn close(
        &self,
        context: &Context,
        permit: TargetPermit,
        must: impl Fn(&Circuit) -> bool,
    ) {
        self.recent.forget(permit.key());
        let now = context.clock.now();
        let close = |target: &Target| must(&target.circuit).then(|| target.succeeded(now));
        if permit.known().is_some() {
            let _writing = self.writing.lock(permit.key()).await;
            self.write(context, permit, close).await;
        }
    }

    async fn record_failure(&self, context: &Context, permit: TargetPermit) {
        let settings = &context.config.circuit;
        let now = context.clock.now();
        let mut count = 1;
        let _writing = self.writing.lock(permit.key()).await;
        let is_first = self.newest(&permit).is_none_or(|target| target.circuit.is_idle());
        if is_first && settings.failures > 1 {
            count = self.recent.failed(permit.key(), now);
            if count == 0 {
                return;
            }
        }
        self.write(context, permit, |target| Some(target.failed(count, settings, now))).await;
    }

    /// Records that the destination asked for fewer requests: the URL or endpoint is paused.
    /// Returns its pace. `None`: the webhook has no such target.
    pub(crate) async fn record_refusal(
        &self,
        context: &Context,
        permit: CircuitPermit,
        refusal: &Refusal,
        limit: Option<f64>,
    ) -> Option<Pace> {
        let CircuitPermit { origin, url } = permit;
        if let Some(origin) = origin
            && context.config.circuit.failures > 0
        {
            // The answer to a paused URL can be a 503, and tells as much of the origin as another.
            let evidence = Evidence::of(Some(ErrorKind::HttpStatus), Some(refusal.status_code));
            self.record_origin(context, evidence, origin, url.as_ref()).await;
        }
        let permit = url?;
        let _writing = self.writing.lock(permit.key()).await;
        self.recent.forget(permit.key());
        let now = context.clock.now();
        let max_pause = context.config.rules.retry.retry_after_cap;
        let refused = |target: &Target| {
            let pace = target.pace(now);
            Pace::after_refusal(pace, refusal, max_pause, limit, now)
        };
        let key = permit.key().clone();
        let unwritten = refused(&self.newest(&permit).unwrap_or(Target::idle(key.clone())));
        let change = |target: &Target| match (refused(target), target.pace(now)) {
            (Some(pace), _) => Some(target.paused(pace, now)),
            (None, Some(pace)) if !target.circuit.is_idle() => Some(target.paused(*pace, now)),
            (None, _) => None,
        };
        self.write(context, permit, change).await;
        // Without the store, at least this webhook waits for the pause.
        let known = self.targets.look_up(&key).and_then(|target| target.pace(now).copied());
        known.or(unwritten)
    }

    /// The newest state of the target that this process knows. It may have changed since the
    /// attempt was permitted.
    fn newest(&self, permit: &TargetPermit) -> Option<Target> {
        let known = self.targets.look_up(permit.key());
        let permitted = permit.known();
        match (known, permitted) {
            (Some(known), Some(permitted)) if known.touched_at < permitted.touched_at => {
                Some(permitted.clone())
            }
            (Some(known), _) => Some(known),
            (None, permitted) => permitted.cloned(),
        }
    }

    /// Writes the state that `change` returns for the stored one. `None`: nothing to write.
    async fn write(
        &self,
        context: &Context,
        permit: TargetPermit,
        change: impl Fn(&Target) -> Option<Target>,
    ) {
        let key = permit.key().clone();
        let mut stored = self.newest(&permit);
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let current = stored.clone().unwrap_or_else(|| Target::idle(key.clone()));
            let Some(next) = change(&current) else { return };
            let revision = stored.as_ref().map(|target| target.revision);
            match self.call_write(context, revision, &next).await {
                Some(Ok(())) => {
                    log_change(&current, &next, context.clock.now());
                    return self.targets.remember(next);
                }
                Some(Err(newer)) => {
                    stored = newer.map(|newer| *newer);
                    match &stored {
                        Some(newer) => self.targets.remember(newer.clone()),
                        None => self.targets.forget(&key),
                    }
                }
                // The next answer is recorded here again.
                None => return,
            }
        }
    }

    /// Writes a target. `Some(Err)`: another worker wrote it first, and this is the newer state.
    /// `None`: the store failed. The outcome of the attempt is recorded apart from this.
    async fn call_write(
        &self,
        context: &Context,
        before: Option<u64>,
        after: &Target,
    ) -> Option<Result<(), Option<Box<Target>>>> {
        let call = context.store.write_target(before, after);
        let is_answer = |error: &WriteTargetError| matches!(error, WriteTargetError::Changed(_));
        match self.targets.calls.make(context, "write a target", call, is_answer).await? {
            Ok(()) => Some(Ok(())),
            Err(WriteTargetError::Changed(newer)) => Some(Err(newer)),
            Err(WriteTargetError::Store(_)) => None,
        }
    }

    /// Returns the leases of the probes if no attempt was made. The next webhook may probe.
    pub(crate) async fn release(&self, context: &Context, permit: CircuitPermit) {
        for permit in [permit.origin, permit.url].into_iter().flatten() {
            self.release_target(context, permit).await;
        }
    }

    async fn release_target(&self, context: &Context, permit: TargetPermit) {
        let TargetPermit::Probe(leased) = permit else { return };
        let released = leased.released(context.clock.now());
        // If the write is refused, another worker has written the target. If it fails, the lease
        // expires.
        if let Some(Ok(())) = self.call_write(context, Some(leased.revision), &released).await {
            self.targets.remember(released);
        }
    }
}

impl CircuitPermit {
    fn unwatched(origin: Option<TargetKey>, url: Option<TargetKey>) -> Self {
        let unwatched = |key: Option<TargetKey>| key.map(TargetPermit::Unwatched);
        Self { origin: unwatched(origin), url: unwatched(url) }
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

/// Whether an open circuit does not hold up this webhook, because it is open for retries only.
fn is_exempt(circuit: &Circuit, webhook: &Webhook) -> bool {
    circuit.retries_only && !got_5xx(webhook)
}

/// Whether the latest attempt was answered with 5xx, if there was one since the webhook was
/// accepted or sent again.
fn got_5xx(webhook: &Webhook) -> bool {
    let is_5xx = webhook.last_error.as_ref().is_some_and(|error| {
        error.kind == ErrorKind::HttpStatus && error.status_code.is_some_and(|code| code >= 500)
    });
    is_5xx && webhook.was_attempted()
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
