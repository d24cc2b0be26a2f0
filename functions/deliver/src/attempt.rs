//! One attempt: claim the webhook, send the request, hand the answer to `outcome`.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use shared::{
    apply::{Applied, apply_and_open},
    clock::Timestamp,
    logging::loggable_url,
    model::{ClaimId, Content, Webhook},
    planted::{self, Bug},
    sender::{Answer, Request},
    status::Status,
    trace::Trace,
    transition::{GiveUp, Refusal},
};

use crate::{
    admission::{AttemptPermit, NoAttempt, Reservation},
    endpoint::{NoEndpoint, OpenEndpoint, Work},
    throttling::refusal,
    worker::{Deliver, Disposition, StepResult, hand_back},
};

/// An attempt needs at least this share of `DELIVERY_TIMEOUT_MS` after the claim: a quarter. With
/// less, a timeout would say more about the store than about the destination.
const MIN_SHARE_LEFT: u32 = 4;

/// An attempt without an answer may exceed its deadline by this much. After that, the process
/// itself was suspended.
const SUSPENSION_MARGIN: Duration = Duration::from_secs(5);

/// A claimed webhook.
struct HeldClaim {
    webhook: Box<Webhook>,
    claim_id: ClaimId,
    /// Just before the claim was written.
    claimed_at: Timestamp,
    /// Whether the webhook was `retrying` before.
    was_retrying: bool,
}

/// What a claim and its request need.
struct Sending<'a> {
    work: &'a Work<'a>,
    /// The endpoint of a delivery.
    endpoint: Option<OpenEndpoint>,
    /// Whether only a webhook that was never attempted may be claimed.
    only_if_untried: bool,
}

/// Why an admitted delivery cannot be claimed.
enum NotReady {
    NoEndpoint(NoEndpoint),
    /// What is needed for a request cannot be read, for this reason.
    Unusable(String),
}

/// Why there is no answer that counts for the destination.
enum NoAnswer {
    /// No claim was written.
    NotClaimed(StepResult),
    /// This machine sent nothing, for this reason.
    NothingSent(HeldClaim, String),
    /// The process was suspended during the attempt. The destination may have received the request.
    Suspended,
}

impl Deliver {
    /// Makes one attempt if admission and the record allow it. The slot is held until the result,
    /// which can be a deferral, is written.
    pub(crate) async fn attempt(
        &self,
        seen: Box<Webhook>,
        work: &Work<'_>,
        until: Timestamp,
    ) -> StepResult {
        let admission = self.admission(&seen, work, until).await;
        let AttemptPermit { mut reservation, circuit, only_if_untried } = match admission {
            Ok(permit) => *permit,
            Err(NoAttempt::Defer(deferral, _reservation)) => {
                return self.defer(seen, work, deferral).await;
            }
            Err(NoAttempt::WaitForSlot(wait)) => {
                return self.wait_for_slot(seen, work, wait).await;
            }
            Err(NoAttempt::GiveUp(reason)) => return StepResult::BudgetSpent(seen, reason),
            Err(NoAttempt::HandBack) => return StepResult::Ended(Disposition::HandBack),
        };
        let (work, endpoint) = match self.before_claim(seen.as_ref(), work).await {
            Ok(current) => current,
            Err(reason) => {
                self.breaker.release(&self.context, circuit).await;
                return match reason {
                    NotReady::NoEndpoint(reason) => {
                        self.step_without_endpoint(seen, work.turn, reason).await
                    }
                    NotReady::Unusable(why) => self.defer_unusable(seen, work, &why).await,
                };
            }
        };
        let sending = Sending { work: &work, endpoint, only_if_untried };
        let no_answer = match self.claim_and_send(seen, sending, &mut reservation).await {
            Ok((HeldClaim { webhook, claim_id, was_retrying, .. }, sent_at, answer)) => {
                if let Some(refusal) = refusal(&webhook, &answer, sent_at) {
                    let wait = self.pause(&webhook, &refusal, circuit).await;
                    let waiting = (wait, was_retrying);
                    return self.throttle(webhook, claim_id, answer, &work, waiting).await;
                }
                self.breaker.record(&self.context, &answer, circuit).await;
                return self.record_outcome(webhook, claim_id, answer, &work, was_retrying).await;
            }
            Err(no_answer) => no_answer,
        };
        self.breaker.release(&self.context, circuit).await;
        match no_answer {
            NoAnswer::NotClaimed(result) => result,
            NoAnswer::NothingSent(HeldClaim { webhook, claim_id, was_retrying, .. }, why) => {
                let why = format!("nothing was sent: {why}");
                self.release_claim(webhook, claim_id, was_retrying, &why).await
            }
            // Once the lease is over, the attempt counts as interrupted.
            NoAnswer::Suspended => {
                tracing::error!("This process was suspended during an attempt");
                StepResult::Ended(Disposition::HandBack)
            }
        }
    }

    /// The endpoint of a delivery as it is now, since admission may have taken a while, and what a
    /// request to it needs.
    async fn before_claim<'a>(
        &self,
        webhook: &Webhook,
        work: &Work<'a>,
    ) -> Result<(Work<'a>, Option<OpenEndpoint>), NotReady> {
        let current = self.work(webhook, work.turn).await.map_err(NotReady::NoEndpoint)?;
        let open = current.endpoint.as_ref().map(|in_use| self.open_endpoint(in_use));
        Ok((current, open.transpose().map_err(NotReady::Unusable)?))
    }

    /// The attempt's deadline counts from before the claim, and the lease from the claim. So the
    /// attempt ends before its lease.
    ///
    /// With [`Sending::only_if_untried`], it claims no webhook that another message has attempted
    /// since it was seen.
    async fn claim(
        &self,
        seen: Box<Webhook>,
        sending: &Sending<'_>,
    ) -> Result<(HeldClaim, Content), StepResult> {
        let claimed_at = self.context.clock.now();
        let claim_id = ClaimId(self.context.random.next_u64());
        let Sending { work: Work { rules, .. }, only_if_untried, .. } = sending;
        let was_retrying = AtomicBool::default();
        let claim = |webhook: &Webhook| {
            was_retrying.store(webhook.status == Status::Retrying, Ordering::Relaxed);
            let mut has_right = !*only_if_untried || !webhook.was_attempted();
            if planted::is(Bug::ExemptByOldRead) {
                has_right = true;
            }
            if !has_right {
                return Err(Refusal::Changed);
            }
            rules.claim(webhook, claim_id, claimed_at)
        };
        match apply_and_open(&*self.context.store, *seen, claim).await {
            Ok(Applied::Done(webhook, content)) => {
                let (webhook, was_retrying) = (Box::new(webhook), was_retrying.into_inner());
                Ok((HeldClaim { webhook, claim_id, claimed_at, was_retrying }, content))
            }
            Ok(Applied::Refused(Refusal::Interrupted, webhook)) => {
                Err(StepResult::BudgetSpent(Box::new(webhook), GiveUp::Interrupted))
            }
            Ok(Applied::Refused(..)) => Err(StepResult::Changed),
            Ok(Applied::Missing) => Err(StepResult::Ended(Disposition::Acknowledge)),
            Err(error) => Err(StepResult::Ended(hand_back(&error, "claim"))),
        }
    }

    /// Claims the webhook and sends the request. The host permit is returned with the answer.
    async fn claim_and_send(
        &self,
        seen: Box<Webhook>,
        sending: Sending<'_>,
        reservation: &mut Reservation<'_>,
    ) -> Result<(HeldClaim, Timestamp, Answer), NoAnswer> {
        let (claim, content) = self.claim(seen, &sending).await.map_err(NoAnswer::NotClaimed)?;
        let sent_at = self.context.clock.now();
        let claim_took = sent_at.since(claim.claimed_at);
        let time_left = self.context.config.delivery_timeout.saturating_sub(claim_took);
        if !self.is_enough_time(time_left) {
            let why = format!("the claim took {} ms", claim_took.as_millis());
            return Err(NoAnswer::NothingSent(claim, why));
        }
        let endpoint = sending.endpoint;
        let own_timeout = endpoint.as_ref().and_then(|endpoint| endpoint.timeout);
        let time_left = own_timeout.map_or(time_left, |own| own.min(time_left));
        let payload_bytes = content.payload.get().len();
        let request = self.send_request(&claim.webhook, content, endpoint, (sent_at, time_left));
        let answer = match reservation.host.take() {
            Some(mut host) => host.run(&mut reservation.slot, payload_bytes, request).await,
            None => request.await,
        };
        if answer.is_our_fault {
            let why = answer.message.unwrap_or_else(|| "this machine could not try".to_owned());
            return Err(NoAnswer::NothingSent(claim, why));
        }
        let took = self.context.clock.now().since(sent_at);
        if answer.status_code.is_none() && took > time_left + SUSPENSION_MARGIN {
            return Err(NoAnswer::Suspended);
        }
        Ok((claim, sent_at, answer))
    }

    fn is_enough_time(&self, time_left: Duration) -> bool {
        if planted::is(Bug::SlowClaimBlamed) {
            return true;
        }
        time_left >= self.context.config.delivery_timeout / MIN_SHARE_LEFT
    }

    async fn send_request(
        &self,
        webhook: &Webhook,
        mut content: Content,
        endpoint: Option<OpenEndpoint>,
        (now, time_left): (Timestamp, Duration),
    ) -> Answer {
        let mut secrets = None;
        if let Some(endpoint) = endpoint {
            (content.url, content.headers) = (endpoint.url, endpoint.headers);
            secrets = Some(endpoint.secrets);
        }
        let span = webhook.trace.as_ref().map(|_| self.context.random.next_u64().max(1));
        tracing::info!(
            attempt = webhook.attempt_count,
            span_id = span.map(|span| format!("{span:016x}")),
            "Sending webhook notification to {} for reference_id={}",
            loggable_url(&content.url),
            webhook.id.reference,
        );
        let url = std::mem::take(&mut content.url);
        let mut headers = std::mem::take(&mut content.headers);
        if let (Some(trace), Some(span)) = (&webhook.trace, span) {
            add_trace_headers(&mut headers, trace, span);
        }
        let request = Request {
            url: &url,
            headers: &headers,
            payload: content.into_payload(),
            webhook_id: &webhook.id,
            secrets: secrets.as_deref(),
            correlation_id: &webhook.correlation_id,
            event_type: webhook.event_type.as_deref(),
            attempt: webhook.attempt_count,
            timestamp: now,
        };
        self.sender.send(&request, time_left).await
    }
}

/// Adds the trace with this attempt's span as the parent, unless the caller set trace headers.
fn add_trace_headers(headers: &mut Vec<(String, String)>, trace: &Trace, span: u64) {
    let is_trace_header = |(name, _): &(String, String)| {
        ["traceparent", "tracestate"].iter().any(|header| name.eq_ignore_ascii_case(header))
    };
    if headers.iter().any(is_trace_header) {
        return;
    }
    headers.push(("traceparent".to_owned(), trace.parent(span)));
    headers.extend(trace.state.iter().map(|state| ("tracestate".to_owned(), state.clone())));
}
