//! The scenarios of `test-webhook-failure`.

use clap::ValueEnum;
use http::StatusCode;
use serde_json::Value;

use crate::{
    follow::{FollowError, Followed, follow},
    policy::Policy,
    target::{ReceiverStatus, Target},
};
use harness::{
    client::{ApiClient, ClientError, NewWebhook, Webhook, test_payload},
    progress::Checklist,
};

/// The durations of attempts that time out may differ by this much, in milliseconds.
const TIMEOUT_SPREAD_MS: u64 = 2_000;

/// The failure to cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Failure {
    /// The destination returns 404: two attempts.
    #[value(name = "4xx")]
    ClientError,
    /// The destination returns 500: three attempts with growing waits.
    #[value(name = "5xx")]
    ServerError,
    /// The destination does not respond in time: three attempts with growing waits. Takes about two
    /// minutes.
    #[value(name = "timeout")]
    Timeout,
    /// The URL is invalid: the API refuses it and queues nothing.
    #[value(name = "invalid_url")]
    InvalidUrl,
}

impl Failure {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Timeout => "timeout",
            Self::InvalidUrl => "invalid_url",
        }
    }
}

/// Causes a failure, or checks the API and one delivery. Returns an error if the run could not
/// finish.
pub async fn run(
    target: &Target,
    failure: Option<Failure>,
    report: &mut Checklist,
) -> Result<(), String> {
    let client = target.client().map_err(|error| error.to_string())?;
    match failure {
        None => {
            without_webhook(&client, report).await.map_err(|error| error.to_string())?;
            one_delivery(target, &client, report).await
        }
        Some(Failure::InvalidUrl) => {
            invalid_urls(&client, report).await.map_err(|error| error.to_string())
        }
        Some(failure) => failing_delivery(target, &client, failure, report).await,
    }
}

/// Checks the API without a webhook.
async fn without_webhook(client: &ApiClient, report: &mut Checklist) -> Result<(), ClientError> {
    report.say(format_args!("checking the API at {} without a webhook", client.base()));
    let health = client.health().await?;
    let status = serde_json::from_str::<Value>(&health.body)
        .ok()
        .and_then(|page| Some(page.get("status")?.as_str()?.to_owned()));
    let well = health.status == StatusCode::OK
        && matches!(status.as_deref(), Some("healthy" | "degraded"));
    report.check(
        "GET /health returns 200 healthy or degraded",
        well,
        format_args!("{} {status:?}", health.status.as_u16()),
    );
    let page = client.webhooks(&[("page_size", "5")]).await?;
    report.check(
        "GET /webhook-statuses returns a page",
        page.items.len() <= 5 && page.page_size == 5,
        format_args!("{} items", page.items.len()),
    );
    let absent = client
        .call(
            http::Method::GET,
            &["webhook-status", "none_00000000-0000-7000-8000-000000000000"],
            &[],
            None,
        )
        .await?;
    report.check_eq("status code for an unknown webhook", &absent.status.as_u16(), &404);
    let problem = absent.problem();
    let described =
        problem.as_ref().is_some_and(|problem| problem.status == 404 && !problem.title.is_empty());
    report.check(
        "its body is an RFC 9457 problem",
        described,
        problem.map_or("no problem+json".into(), |problem| problem.to_string()),
    );
    report.check(
        "responses carry x-correlation-id",
        absent.correlation_id().is_some() && health.correlation_id().is_some(),
        "two responses checked",
    );
    Ok(())
}

/// Checks a webhook whose first attempt succeeds.
async fn one_delivery(
    target: &Target,
    client: &ApiClient,
    report: &mut Checklist,
) -> Result<(), String> {
    report.say("checking one delivery");
    let sighting = target.check_receiver(report).await?;
    // This path returns 200 with all options of the receiver.
    let (accepted, followed) =
        deliver(target, client, "/status-code/200", "delivery", report).await?;
    let webhook = &followed.webhook;
    if !report.check_eq("status", &webhook.status.as_str(), &"delivered") {
        return Err(explain(webhook));
    }
    report.check_eq("attempts", &webhook.attempt_count, &1);
    report.check_eq(
        "status code of the attempt",
        &webhook.attempts.first().and_then(|attempt| attempt.status_code),
        &Some(200),
    );
    report.check(
        "delivered_at is set, next_attempt_at is not",
        webhook.delivered_at.is_some() && webhook.next_attempt_at.is_none(),
        "both fields checked",
    );
    check_correlation(report, accepted.as_deref(), webhook);
    check_received(target, &sighting, 1, report).await;
    Ok(())
}

async fn failing_delivery(
    target: &Target,
    client: &ApiClient,
    failure: Failure,
    report: &mut Checklist,
) -> Result<(), String> {
    let sighting = target.check_receiver(report).await?;
    let (path, attempts, code, kind) = match failure {
        Failure::ClientError => ("/status-code/404", 2, Some(404), "http_status"),
        Failure::ServerError => {
            ("/status-code/500", target.retry_max_attempts, Some(500), "http_status")
        }
        Failure::Timeout | Failure::InvalidUrl => {
            ("/delay/60", target.retry_max_attempts, None, "timeout")
        }
    };
    if failure == Failure::Timeout {
        report.say(
            "each attempt runs until its timeout (DELIVERY_TIMEOUT_MS, 30 s by default), so this \
             takes about two minutes",
        );
    }
    let (accepted, followed) = deliver(target, client, path, failure.as_str(), report).await?;
    let webhook = &followed.webhook;
    report.check_eq("status", &webhook.status.as_str(), &"failed");
    check_attempts(report, webhook, attempts, code);
    report.check_eq("kind of the last error", &webhook.error_kind(), &Some(kind));
    report.check(
        "no attempt is planned",
        webhook.next_attempt_at.is_none() && webhook.delivered_at.is_none(),
        "next_attempt_at",
    );
    check_waits(report, target.policy(), &followed);
    if failure == Failure::Timeout {
        check_timeouts(report, webhook);
    }
    check_correlation(report, accepted.as_deref(), webhook);
    check_listed(client, webhook, report).await?;
    check_received(target, &sighting, u64::from(attempts), report).await;
    Ok(())
}

/// Sends a test webhook and follows it to its final status. Also returns the correlation id of the
/// response.
async fn deliver(
    target: &Target,
    client: &ApiClient,
    path: &str,
    scenario: &str,
    report: &mut Checklist,
) -> Result<(Option<String>, Followed), String> {
    let url = target.receiver_path(path);
    let accepted = client
        .test_webhook(&url, &test_payload(scenario))
        .await
        .map_err(|error| error.to_string())?;
    report.say(format_args!("sent webhook {} to {url}", accepted.webhook_id));
    report.check_eq("status in the response", &accepted.status.as_str(), &"webhook_queued");
    let named = accepted.reference_id.starts_with("TEST-")
        && accepted.webhook_id == format!("{}_{}", accepted.reference_id, accepted.task_id);
    report.check(
        "webhook_id is {reference_id}_{task_id}, reference_id begins with TEST-",
        named,
        &accepted.webhook_id,
    );
    let followed = follow(client, report, &accepted.webhook_id, Webhook::is_finished)
        .await
        .map_err(|error: FollowError| error.to_string())?;
    Ok((accepted.correlation_id, followed))
}

/// Checks the number of attempts, their numbers and their status codes.
pub(crate) fn check_attempts(
    report: &mut Checklist,
    webhook: &Webhook,
    attempts: u32,
    code: Option<u16>,
) {
    report.check_eq("attempts", &webhook.attempt_count, &attempts);
    report.check_eq("max_attempts", &webhook.max_attempts, &attempts);
    let numbers: Vec<u32> = webhook.attempts.iter().map(|attempt| attempt.number).collect();
    report.check_eq("attempt numbers", &numbers, &(1..=attempts).collect());
    let codes: Vec<Option<u16>> =
        webhook.attempts.iter().map(|attempt| attempt.status_code).collect();
    report.check_eq("status codes of the attempts", &codes, &vec![code; attempts as usize]);
}

/// Checks that each wait is within the policy and longer than the one before.
pub(crate) fn check_waits(report: &mut Checklist, policy: Policy, followed: &Followed) {
    let waits = policy.waits(&followed.webhook.attempts, &followed.planned);
    for wait in &waits {
        let what = format!("wait after attempt {}", wait.after_attempt);
        if followed.is_deferred {
            report.check(
                format!("{what} (extended by a deferral) is at least the policy's"),
                wait.long_enough(),
                wait,
            );
        } else {
            report.check(what, wait.long_enough() && wait.short_enough(policy), wait);
        }
    }
    if waits.len() > 1 && !followed.is_deferred {
        let lengths: Vec<i64> = waits.iter().map(|wait| wait.waited_ms).collect();
        report.check(
            "each wait is longer than the one before",
            waits.is_sorted_by(|before, wait| wait.longer_than(before, policy)),
            format_args!("{lengths:?} ms"),
        );
    }
}

/// Checks that attempts time out after the same time, and before the receiver responds.
fn check_timeouts(report: &mut Checklist, webhook: &Webhook) {
    let durations: Vec<u64> = webhook.attempts.iter().map(|attempt| attempt.duration_ms).collect();
    let (least, most) = (
        durations.iter().min().copied().unwrap_or(0),
        durations.iter().max().copied().unwrap_or(0),
    );
    let even = least > 0 && most - least <= TIMEOUT_SPREAD_MS && most < 60_000;
    report.check("attempts time out after the same time", even, format_args!("{durations:?} ms"));
}

fn check_correlation(report: &mut Checklist, accepted: Option<&str>, webhook: &Webhook) {
    let same = accepted == Some(webhook.correlation_id.as_str());
    report.check(
        "response and webhook have the same correlation id",
        same,
        format_args!("{:?} and {:?}", accepted, webhook.correlation_id),
    );
}

/// Checks that the list finds the webhook by its reference id and its status.
async fn check_listed(
    client: &ApiClient,
    webhook: &Webhook,
    report: &mut Checklist,
) -> Result<(), String> {
    let reference_id = webhook.webhook_id.split('_').next().unwrap_or_default();
    let filters = [("reference_id", reference_id), ("status", webhook.status.as_str())];
    let page = client.webhooks(&filters).await.map_err(|error| error.to_string())?;
    let found = page.items.iter().any(|item| item.webhook_id == webhook.webhook_id);
    report.check(
        "GET /webhook-statuses finds it by reference_id and status",
        found,
        format_args!("{} items", page.items.len()),
    );
    Ok(())
}

async fn check_received(
    target: &Target,
    sighting: &ReceiverStatus,
    least: u64,
    report: &mut Checklist,
) {
    match target.received_since(sighting).await {
        Some(received) => {
            report.check(
                format!("the receiver received at least {least} requests"),
                received >= least,
                received,
            );
        }
        None => report.say("the number of requests at the receiver is unknown"),
    }
}

/// Checks that the API refuses invalid URLs and URLs that it does not allow.
async fn invalid_urls(client: &ApiClient, report: &mut Checklist) -> Result<(), ClientError> {
    let payload = test_payload("invalid_url");
    let reference = format!("INVALID-{:08x}", rand::random::<u32>());
    for url in [
        "not-a-url",
        "",
        "http://",
        "ftp://example.com/webhook",
        "http://user:secret@example.com/webhook",
        "//example.com/x",
    ] {
        let refused = client.test_webhook(url, &payload).await;
        check_refusal(
            report,
            &format!("POST /test-webhook refuses '{url}'"),
            refused.map(|accepted| accepted.webhook_id),
            &["webhook_url", "url"],
        )?;
        let webhook = NewWebhook { url, payload: &payload, reference_id: Some(&reference) };
        let refused = client.submit(&webhook).await;
        check_refusal(
            report,
            &format!("POST /webhooks refuses '{url}'"),
            refused.map(|accepted| accepted.webhook_id),
            &["url"],
        )?;
    }
    let page = client.webhooks(&[("reference_id", reference.as_str())]).await?;
    report.check_eq("webhooks queued", &page.items.len(), &0);
    Ok(())
}

fn check_refusal(
    report: &mut Checklist,
    what: &str,
    refused: Result<String, ClientError>,
    fields: &[&str],
) -> Result<(), ClientError> {
    match refused {
        Ok(id) => report.check(what, false, format_args!("accepted as {id}")),
        Err(ClientError::Problem { status, problem, .. }) => {
            let named = problem.errors.iter().any(|error| fields.contains(&error.field.as_str()));
            report.check(
                what,
                status == StatusCode::UNPROCESSABLE_ENTITY && named,
                format_args!("{} {problem}", status.as_u16()),
            )
        }
        Err(error @ ClientError::Unexpected { .. }) => report.check(what, false, error),
        Err(error) => return Err(error),
    };
    Ok(())
}

fn explain(webhook: &Webhook) -> String {
    match &webhook.last_error {
        Some(error) => format!(
            "the webhook was not delivered to {}: {} {}. Check that the stack can reach the \
             receiver at this URL, or set --receiver-url.",
            webhook.url.as_deref().unwrap_or_default(),
            error.kind,
            error.message.as_deref().unwrap_or_default()
        ),
        None => "the webhook was not delivered, and the API reports no error".into(),
    }
}
