//! The outcome of an attempt: records it, counts it and logs it. Only the holder of the claim can
//! record one.

use std::time::Duration;

use shared::{
    apply::{Applied, apply},
    model::{ClaimId, ErrorKind, LastError, Webhook},
    retry::Outcome,
    sender::Answer,
    status::Status,
    transition::{Refusal, Report},
};

use crate::{
    endpoint::Work,
    worker::{Deliver, Disposition, StepResult, hand_back},
};

/// Attempts to write an outcome. Each can save the destination a second request, because an attempt
/// whose outcome is lost counts as interrupted.
const MAX_WRITE_ATTEMPTS: u32 = 4;

/// The wait before the second attempt to write. It doubles.
const WRITE_BACKOFF: Duration = Duration::from_millis(200);

impl Deliver {
    /// Records the outcome of an attempt.
    pub(crate) async fn record_outcome(
        &self,
        webhook: Box<Webhook>,
        claim_id: ClaimId,
        answer: Answer,
        work: &Work<'_>,
        was_retrying: bool,
    ) -> StepResult {
        let unit = self.context.random.next_unit();
        let Work { turn, rules, .. } = work;
        let report = report_of(answer);
        // The time is the same in every attempt to write, so that a write whose response was lost
        // is recognized.
        let now = self.context.clock.now();
        let conclude = |webhook: &Webhook| {
            let webhook = turn.counted(webhook, &rules.limits);
            rules.conclude(&webhook, claim_id, &report, now, unit).map(|next| work.noted(next))
        };
        self.write_result(webhook, report.clone(), was_retrying, conclude).await
    }

    /// Writes the result of an attempt, logs it and counts it. `rule` returns the next record.
    pub(crate) async fn write_result<F>(
        &self,
        webhook: Box<Webhook>,
        report: Report,
        was_retrying: bool,
        rule: F,
    ) -> StepResult
    where
        F: Fn(&Webhook) -> Result<Webhook, Refusal> + Send + Sync,
    {
        let mut backoff = WRITE_BACKOFF;
        for attempts_left in (0..MAX_WRITE_ATTEMPTS).rev() {
            match apply(&*self.context.store, Webhook::clone(&webhook), &rule).await {
                Ok(Applied::Done(webhook, ())) => {
                    log_outcome(&webhook, &report);
                    self.count_outcome(&webhook, report, was_retrying);
                    return StepResult::Recorded(Box::new(webhook));
                }
                Ok(Applied::Missing) => return StepResult::Ended(Disposition::Acknowledge),
                Ok(Applied::Refused(refusal, _)) => {
                    tracing::warn!(
                        attempt = webhook.attempt_count,
                        "Discarding an outcome that came too late: {refusal}",
                    );
                    return StepResult::Changed;
                }
                Err(error) if attempts_left == 0 => {
                    return StepResult::Ended(hand_back(&error, "record the outcome of"));
                }
                Err(_) => self.context.clock.sleep(backoff).await,
            }
            backoff *= 2;
        }
        StepResult::Ended(Disposition::HandBack)
    }

    fn count_outcome(&self, webhook: &Webhook, report: Report, was_retrying: bool) {
        let now = self.context.clock.now();
        let waiting = i64::from(webhook.status == Status::Retrying) - i64::from(was_retrying);
        let error = report.outcome.error.map(|kind| LastError {
            kind,
            status_code: report.outcome.status_code,
            message: report.message.unwrap_or_default(),
        });
        self.context.metrics.delivery(webhook.status, report.duration);
        self.context.metrics.destination(&webhook.destination, waiting, Some((now, error)));
    }
}

pub(crate) fn report_of(answer: Answer) -> Report {
    Report {
        outcome: Outcome {
            error: answer.error,
            status_code: answer.status_code,
            retry_after: answer.retry_after,
        },
        duration: answer.duration,
        message: answer.message,
        response_excerpt: answer.response_excerpt,
    }
}

fn log_outcome(webhook: &Webhook, report: &Report) {
    let attempt = webhook.attempt_count;
    let reference = &webhook.id.reference;
    if webhook.status == Status::Delivered {
        tracing::info!(attempt, "Successfully delivered webhook for reference_id={reference}");
        return;
    }
    let kind = report.outcome.error.map_or("none", ErrorKind::as_str);
    if let Some(code) = report.outcome.status_code {
        tracing::warn!(attempt, kind, "Webhook delivery failed with status {code}");
    } else {
        let message = report.message.as_deref().unwrap_or(kind);
        tracing::warn!(attempt, kind, "Webhook delivery failed: {message}");
    }
    if let Some(at) = webhook.allowed_at {
        tracing::info!(
            next_attempt_at = %at,
            "Retrying webhook delivery for reference_id={reference}",
        );
    }
}
