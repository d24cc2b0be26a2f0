//! One attempt: claim, send, write the outcome. Only the holder of the claim writes it.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use shared::{
    apply::{Applied, apply, apply_and_open},
    clock::Timestamp,
    id::WebhookId,
    logging::loggable_url,
    model::{ClaimId, Content, ErrorKind, LastError, Webhook, Why},
    planted::{self, Bug},
    retry::Outcome,
    sender::{Answer, Request},
    status::Status,
    store::StoreError,
    trace::Trace,
    transition::{GiveUp, Refusal, Report},
};
use tokio::sync::SemaphorePermit;

use crate::{Deliver, Verdict, breaker::Admitted, turns::Turn};

/// Tries to write an outcome, before the attempt counts as interrupted; each worth a second request
/// to the destination.
const MAX_OUTCOME_TRIES: u32 = 4;

/// The wait before the second of those tries; it doubles.
const OUTCOME_RETRY_WAIT: Duration = Duration::from_millis(200);

/// The wait of a webhook whose destination has no turn for it: as long as the destination has been
/// silent, within these bounds, since a turn there lasts as long and each look costs others their
/// time. It doubles with each deferral in a row.
const CROWDED_WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(16));

/// The longest of those waits: 10 minutes, as long as a circuit stays open at most.
const MAX_CROWDED_WAIT: Duration = shared::circuit::MAX_OPEN;

/// An attempt is made only if at least this share of `DELIVERY_TIMEOUT_MS` is left after the claim:
/// a quarter. With less, a timeout would say more about our store than about the destination.
const MIN_SHARE_LEFT: u32 = 4;

/// How much longer than its deadline an attempt without an answer may take before it counts as this
/// process's own standstill.
const STANDSTILL: Duration = Duration::from_secs(5);

/// The first wait after nothing could be sent for a reason of ours; it doubles up to
/// [`MAX_CROWDED_WAIT`], and half is random.
const OUR_FAULT_WAIT: Duration = Duration::from_secs(10);

/// What came of trying.
pub(crate) enum Attempted {
    /// An outcome, or a wait, is recorded.
    Recorded(Webhook),
    /// There is nothing left to do with this message, or nothing that can be done now.
    Ended(Verdict),
    /// The record is another one than was seen.
    Changed,
    /// It is to be given up for this reason, which follows from this record.
    BudgetSpent(Webhook, GiveUp),
}

/// The right to one attempt, and what it takes.
struct Claimed {
    webhook: Webhook,
    content: Content,
    claim_id: ClaimId,
    /// Just before the claim was written.
    since: Timestamp,
    /// Whether the webhook was among the waiting ones before.
    was_retrying: bool,
}

impl Deliver {
    /// Makes one attempt, if the record allows a claim.
    pub(crate) async fn attempt(
        &self,
        seen: Webhook,
        until: Timestamp,
        xray_trace_id: Option<&str>,
    ) -> Attempted {
        let Some(slot) = self.slot(until).await else { return Attempted::Ended(Verdict::HandBack) };
        let (seen, turn) = match self.turn(seen, until).await {
            ControlFlow::Continue(taken) => taken,
            ControlFlow::Break(put_off) => return put_off,
        };
        let (seen, admitted) = match self.admit(seen, until).await {
            ControlFlow::Continue(admitted) => admitted,
            ControlFlow::Break(put_off) => return put_off,
        };
        // The deadline counts from before the claim, and the lease from the claim: when the lease
        // is over, so is the attempt.
        let claimed_at = self.context.clock.now();
        let rules = &self.context.rules;
        let claim_id = ClaimId(self.context.random.next_u64());
        let was_retrying = AtomicBool::default();
        let claim = |webhook: &Webhook| {
            was_retrying.store(webhook.status == Status::Retrying, Ordering::Relaxed);
            rules.claim(webhook, claim_id, claimed_at)
        };
        let ids = (seen.id.clone(), seen.correlation_id.clone());
        let (webhook, content) = match apply_and_open(&*self.context.store, seen, claim).await {
            Ok(Applied::Done(webhook, content)) => (webhook, content),
            not_claimed => {
                self.breaker.release(&self.context, &admitted).await;
                return match not_claimed {
                    Ok(Applied::Refused(Refusal::Interrupted, webhook)) => {
                        Attempted::BudgetSpent(webhook, GiveUp::Interrupted)
                    }
                    Ok(Applied::Missing) => Attempted::Ended(Verdict::Acknowledge),
                    Ok(_) => Attempted::Changed,
                    Err(error) => hand_back(&error, &ids, "claimed"),
                };
            }
        };
        let claimed = Claimed {
            webhook,
            content,
            claim_id,
            since: claimed_at,
            was_retrying: was_retrying.into_inner(),
        };
        self.send_claimed(claimed, (slot, turn), &admitted, xray_trace_id).await
    }

    /// Sends what was claimed, and writes what came of it.
    async fn send_claimed(
        &self,
        claimed: Claimed,
        (slot, turn): (SemaphorePermit<'_>, Option<Turn<'_>>),
        admitted: &Admitted,
        xray_trace_id: Option<&str>,
    ) -> Attempted {
        let Claimed { webhook, content, claim_id, since: claimed_at, was_retrying } = claimed;
        let sent_at = self.context.clock.now();
        let left = self.context.config.delivery_timeout.saturating_sub(sent_at.since(claimed_at));
        if left < self.context.config.delivery_timeout / MIN_SHARE_LEFT
            && !planted::is(Bug::SlowClaimBlamed)
        {
            let why = format!(
                "nothing was sent: the claim took {} ms",
                sent_at.since(claimed_at).as_millis()
            );
            return self.give_back(webhook, (claim_id, was_retrying), &why, admitted).await;
        }
        // Given back before the attempt ends if it hangs.
        let mut slot = Some(slot);
        let bytes = content.payload.get().len();
        let request = self.send_request(&webhook, content, (sent_at, left), xray_trace_id);
        let answer = match turn {
            Some(mut turn) => turn.ask(&mut slot, bytes, request).await,
            None => request.await,
        };
        if answer.is_our_fault {
            let why = format!(
                "nothing was sent: {}",
                answer.message.as_deref().unwrap_or("this machine could not try")
            );
            return self.give_back(webhook, (claim_id, was_retrying), &why, admitted).await;
        }
        if answer.status_code.is_none()
            && self.context.clock.now().since(sent_at) > left + STANDSTILL
        {
            return self.stood_still(&webhook, admitted).await;
        }
        self.breaker.note(&self.context, &webhook.destination, &answer, admitted).await;
        self.record(webhook, claim_id, answer, was_retrying).await
    }

    /// When a claim may be made at the latest: with a lease left.
    fn latest_claim(&self, until: Timestamp) -> Timestamp {
        until.minus(self.context.rules.limits.lease)
    }

    /// Whether a claim that is made now has a lease left.
    fn is_in_time(&self, until: Timestamp) -> bool {
        self.context.clock.now() <= self.latest_claim(until)
    }

    /// The right to make this attempt at its destination, or what was done with the webhook since
    /// there is none to be had.
    async fn turn(
        &self,
        seen: Webhook,
        until: Timestamp,
    ) -> ControlFlow<Attempted, (Webhook, Option<Turn<'_>>)> {
        let silence = match self.turns.take(&seen.destination).await {
            Ok(turn) if self.is_in_time(until) => return ControlFlow::Continue((seen, Some(turn))),
            Ok(_) => Duration::ZERO,
            Err(silence) => silence,
        };
        match self.stand_aside(seen, silence).await {
            Ok(put_off) => ControlFlow::Break(put_off),
            // It was put off for as long as it may be: no limit of ours must be what fails it, so
            // it goes ahead beyond the limit.
            Err(seen) if self.is_in_time(until) => ControlFlow::Continue((seen, None)),
            Err(_) => ControlFlow::Break(Attempted::Ended(Verdict::HandBack)),
        }
    }

    /// What the destination's circuit has to say of this attempt, or what was done with the webhook
    /// since the circuit is open.
    async fn admit(
        &self,
        seen: Webhook,
        until: Timestamp,
    ) -> ControlFlow<Attempted, (Webhook, Admitted)> {
        let open_until = match self.breaker.admit(&self.context, &seen.destination).await {
            Admitted::No(open_until) => open_until,
            admitted => return ControlFlow::Continue((seen, admitted)),
        };
        match self.put_off(seen, open_until).await {
            Ok(put_off) => ControlFlow::Break(put_off),
            Err(seen) if seen.was_attempted() || planted::is(Bug::FailedUntried) => {
                ControlFlow::Break(Attempted::BudgetSpent(seen, GiveUp::CircuitOpen))
            }
            // It has had no attempt: what others were answered must not be what fails it. It goes
            // ahead, as a probe does.
            Err(seen) if self.is_in_time(until) => {
                let admitted = self.breaker.go_ahead(&seen.destination);
                ControlFlow::Continue((seen, admitted))
            }
            Err(_) => ControlFlow::Break(Attempted::Ended(Verdict::HandBack)),
        }
    }

    /// A free slot, with more than a lease left afterwards.
    async fn slot(&self, until: Timestamp) -> Option<SemaphorePermit<'_>> {
        let latest = self.latest_claim(until);
        let wait = latest.since(self.context.clock.now());
        tokio::select! {
            biased;
            permit = self.slots.acquire() => {
                permit.ok().filter(|_| self.context.clock.now() <= latest)
            }
            () = self.context.clock.sleep(wait) => None,
        }
    }

    async fn send_request(
        &self,
        webhook: &Webhook,
        mut content: Content,
        (now, left): (Timestamp, Duration),
        xray_trace_id: Option<&str>,
    ) -> Answer {
        let span = webhook.trace.as_ref().map(|_| self.context.random.next_u64().max(1));
        tracing::info!(
            correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
            attempt = webhook.attempt_count,
            trace_id = trace_id(webhook), span_id = span.map(|span| format!("{span:016x}")),
            xray_trace_id,
            "[{}] Sending webhook notification to {} for reference_id={}",
            webhook.correlation_id, loggable_url(&content.url), webhook.id.reference,
        );
        let (url, mut headers) =
            (std::mem::take(&mut content.url), std::mem::take(&mut content.headers));
        if let (Some(trace), Some(span)) = (&webhook.trace, span) {
            add_trace(&mut headers, trace, span);
        }
        let request = Request {
            url: &url,
            headers: &headers,
            payload: content.into_payload(),
            webhook_id: &webhook.id,
            correlation_id: &webhook.correlation_id,
            event_type: webhook.event_type.as_deref(),
            attempt: webhook.attempt_count,
            timestamp: now,
        };
        self.sender.send(&request, left).await
    }

    /// Nothing was sent, for a reason of ours, which says nothing of the destination: nothing is
    /// recorded against it. The claim is given back, so that this uses up no budget, and the
    /// webhook waits, longer each time.
    async fn give_back(
        &self,
        webhook: Webhook,
        (claim_id, was_retrying): (ClaimId, bool),
        why: &str,
        admitted: &Admitted,
    ) -> Attempted {
        self.breaker.release(&self.context, admitted).await;
        tracing::error!(
            correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
            "[{}] This machine could not attempt the delivery: {why}", webhook.correlation_id,
        );
        let doubled = 2_u32.saturating_pow(webhook.budget.deferrals.min(16));
        let longest = OUR_FAULT_WAIT.saturating_mul(doubled).min(MAX_CROWDED_WAIT);
        let now = self.context.clock.now();
        let until = now.plus(longest.mul_f64(0.5 + self.context.random.next_unit() / 2.0));
        let rules = &self.context.rules;
        let ids = (webhook.id.clone(), webhook.correlation_id.clone());
        let give_back = |webhook: &Webhook| rules.give_back(webhook, claim_id, why, until, now);
        match apply(&*self.context.store, webhook, give_back).await {
            Ok(Applied::Done(webhook, ())) => {
                self.context.metrics.destination(
                    &webhook.destination,
                    i64::from(!was_retrying),
                    None,
                );
                Attempted::Recorded(webhook)
            }
            Ok(Applied::Refused(..)) => Attempted::Changed,
            Ok(Applied::Missing) => Attempted::Ended(Verdict::Acknowledge),
            // The lease runs out, and the attempt is noted as interrupted.
            Err(error) => hand_back(&error, &ids, "given back"),
        }
    }

    /// No answer came, long after the deadline at which the attempt should have ended: this process
    /// stood still, and what the destination did is not known. Once the lease is over the attempt
    /// is noted as interrupted.
    async fn stood_still(&self, webhook: &Webhook, admitted: &Admitted) -> Attempted {
        self.breaker.release(&self.context, admitted).await;
        tracing::error!(
            correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
            "[{}] This process stood still during an attempt", webhook.correlation_id,
        );
        Attempted::Ended(Verdict::HandBack)
    }

    /// Writes the outcome, as the holder of the claim.
    async fn record(
        &self,
        webhook: Webhook,
        claim_id: ClaimId,
        answer: Answer,
        was_retrying: bool,
    ) -> Attempted {
        let unit = self.context.random.next_unit();
        let rules = &self.context.rules;
        let report = Report {
            outcome: Outcome {
                error: answer.error,
                status_code: answer.status_code,
                retry_after: answer.retry_after,
            },
            duration: answer.duration,
            message: answer.message,
            response_excerpt: answer.response_excerpt,
        };
        // The same in every try, so that a try whose answer was lost is recognised.
        let now = self.context.clock.now();
        let mut wait = OUTCOME_RETRY_WAIT;
        for tries_left in (0..MAX_OUTCOME_TRIES).rev() {
            let conclude =
                |webhook: &Webhook| rules.conclude(webhook, claim_id, &report, now, unit);
            match apply(&*self.context.store, webhook.clone(), conclude).await {
                Ok(Applied::Done(webhook, ())) => {
                    self.count(&webhook, &report, was_retrying);
                    return Attempted::Recorded(webhook);
                }
                Ok(Applied::Missing) => return Attempted::Ended(Verdict::Acknowledge),
                Ok(Applied::Refused(refusal, _)) => {
                    tracing::warn!(
                        correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
                        attempt = webhook.attempt_count,
                        "[{}] An outcome came too late to be recorded: {refusal}",
                        webhook.correlation_id,
                    );
                    return Attempted::Changed;
                }
                Err(error) if tries_left == 0 => {
                    return hand_back(&error, &(webhook.id, webhook.correlation_id), "concluded");
                }
                Err(_) => self.context.clock.sleep(wait).await,
            }
            wait *= 2;
        }
        Attempted::Ended(Verdict::HandBack)
    }

    /// The destination's circuit is open: wait without an attempt. An error is the webhook,
    /// deferred for as long as it may be.
    async fn put_off(&self, seen: Webhook, open_until: Timestamp) -> Result<Attempted, Webhook> {
        let now = self.context.clock.now();
        // Each deferral waits longer, and all of them spread out, so that they do not come back
        // together.
        let spread = open_until
            .since(now)
            .max(Duration::from_secs(1))
            .mul_f64(self.context.random.next_unit());
        let until = open_until.plus(spread.saturating_mul(seen.budget.deferrals.min(8) + 1));
        self.defer(seen, until, Why::Error(ErrorKind::CircuitOpen), "its circuit is open").await
    }

    /// The destination has as many attempts under way as this process makes there: wait without
    /// one. The waits double, so that a backlog for a destination that hangs costs ever fewer
    /// looks, and half of each is random, so that it does not come back together. An error is the
    /// webhook, deferred for as long as it may be.
    async fn stand_aside(&self, seen: Webhook, silence: Duration) -> Result<Attempted, Webhook> {
        let longest = silence
            .clamp(CROWDED_WAIT.0, CROWDED_WAIT.1)
            .saturating_mul(2_u32.saturating_pow(seen.budget.deferrals.min(16)))
            .min(MAX_CROWDED_WAIT);
        let wait = longest.mul_f64(0.5 + self.context.random.next_unit() / 2.0);
        let until = self.context.clock.now().plus(wait);
        self.defer(seen, until, Why::RateLimit, "a concurrency limit was reached").await
    }

    async fn defer(
        &self,
        seen: Webhook,
        until: Timestamp,
        why: Why,
        because: &str,
    ) -> Result<Attempted, Webhook> {
        let now = self.context.clock.now();
        let rules = &self.context.rules;
        self.wait(seen, because, |webhook| rules.defer(webhook, until, why, now)).await
    }

    /// Its attempt was interrupted, and not for the first time in a row: it waits before the next
    /// one.
    pub(crate) async fn wait_out(&self, seen: Webhook) -> Attempted {
        let now = self.context.clock.now();
        let rules = &self.context.rules;
        let waiting = self.wait(seen, "its attempts are interrupted again and again", |webhook| {
            rules.retry_interrupted(webhook, now)
        });
        waiting.await.unwrap_or(Attempted::Changed)
    }

    /// Writes that it waits without an attempt, in the due index; what is to be queued by `deliver`
    /// itself is the caller's to see to. An error is the webhook if its deferrals are used up.
    async fn wait<F>(&self, seen: Webhook, because: &str, rule: F) -> Result<Attempted, Webhook>
    where
        F: Fn(&Webhook) -> Result<Webhook, Refusal> + Send + Sync,
    {
        // Another message of the webhook may have put it off meanwhile, and have counted it.
        let was_retrying = AtomicBool::default();
        let first_seen = seen.status;
        let defer = |webhook: &Webhook| {
            let status =
                if planted::is(Bug::DeferralCountedTwice) { first_seen } else { webhook.status };
            was_retrying.store(status == Status::Retrying, Ordering::Relaxed);
            rule(webhook)
        };
        let ids = (seen.id.clone(), seen.correlation_id.clone());
        Ok(match apply(&*self.context.store, seen, defer).await {
            Ok(Applied::Done(webhook, ())) => {
                tracing::info!(
                    correlation_id = webhook.correlation_id, webhook_id = %webhook.id,
                    "[{}] Deferring webhook delivery for reference_id={} to {}: {because}",
                    webhook.correlation_id, webhook.id.reference, webhook.destination,
                );
                self.context.metrics.destination(
                    &webhook.destination,
                    i64::from(!was_retrying.into_inner()),
                    None,
                );
                Attempted::Recorded(webhook)
            }
            Ok(Applied::Refused(Refusal::BudgetSpent, webhook)) => return Err(webhook),
            Ok(Applied::Refused(Refusal::Interrupted, webhook)) => {
                Attempted::BudgetSpent(webhook, GiveUp::Interrupted)
            }
            Ok(Applied::Refused(..)) => Attempted::Changed,
            Ok(Applied::Missing) => Attempted::Ended(Verdict::Acknowledge),
            Err(error) => hand_back(&error, &ids, "deferred"),
        })
    }

    fn count(&self, webhook: &Webhook, report: &Report, was_retrying: bool) {
        log_outcome(webhook, report);
        let now = self.context.clock.now();
        let waiting = i64::from(webhook.status == Status::Retrying) - i64::from(was_retrying);
        let error = report.outcome.error.map(|kind| LastError {
            kind,
            status_code: report.outcome.status_code,
            message: report.message.clone().unwrap_or_default(),
        });
        self.context.metrics.delivery(webhook.status, report.duration);
        self.context.metrics.destination(&webhook.destination, waiting, Some((now, error)));
    }
}

/// What the log calls the trace.
fn trace_id(webhook: &Webhook) -> Option<&str> {
    webhook.trace.as_ref().map(|trace| trace.id.as_str())
}

/// Tells the destination the trace, with this attempt's span as its parent; unless the caller gave
/// headers of its own for that.
fn add_trace(headers: &mut Vec<(String, String)>, trace: &Trace, span: u64) {
    let is_theirs = |(name, _): &(String, String)| {
        ["traceparent", "tracestate"].iter().any(|own| name.eq_ignore_ascii_case(own))
    };
    if headers.iter().any(is_theirs) {
        return;
    }
    headers.push(("traceparent".to_owned(), trace.parent(span)));
    headers.extend(trace.state.iter().map(|state| ("tracestate".to_owned(), state.clone())));
}

fn hand_back(
    error: &StoreError,
    (webhook_id, correlation_id): &(WebhookId, String),
    what: &str,
) -> Attempted {
    let error = error as &dyn std::error::Error;
    tracing::warn!(correlation_id, %webhook_id, error,
        "[{correlation_id}] Handing back a webhook that cannot be {what} now");
    Attempted::Ended(Verdict::HandBack)
}

fn log_outcome(webhook: &Webhook, report: &Report) {
    let (correlation_id, reference, trace_id) =
        (&webhook.correlation_id, &webhook.id.reference, trace_id(webhook));
    if webhook.status == Status::Delivered {
        tracing::info!(
            correlation_id, webhook_id = %webhook.id, attempt = webhook.attempt_count, trace_id,
            "[{correlation_id}] Successfully delivered webhook for reference_id={reference}",
        );
        return;
    }
    let kind = report.outcome.error.map_or("none", ErrorKind::as_str);
    if let Some(code) = report.outcome.status_code {
        tracing::warn!(
            correlation_id, webhook_id = %webhook.id, attempt = webhook.attempt_count, trace_id,
            kind,
            "[{correlation_id}] Webhook delivery failed with status {code}",
        );
    } else {
        tracing::warn!(
            correlation_id, webhook_id = %webhook.id, attempt = webhook.attempt_count, trace_id,
            kind,
            "[{correlation_id}] Webhook delivery failed: {}",
            report.message.as_deref().unwrap_or(kind),
        );
    }
    if let Some(at) = webhook.allowed_at {
        tracing::info!(
            correlation_id, webhook_id = %webhook.id, trace_id, next_attempt_at = %at,
            "[{correlation_id}] Retrying webhook delivery for reference_id={reference}",
        );
    }
}
