//! The scenarios of `test-webhook-failure`.

use clap::ValueEnum;
use http::StatusCode;
use serde_json::Value;

use crate::{
    follow::{FollowError, Followed, follow},
    policy::Policy,
    target::{Sighting, Target},
};
use harness::{
    client::{ApiClient, ClientError, NewWebhook, Webhook, test_payload},
    progress::Report,
};

/// An attempt that times out may take this much longer or shorter than another one, in
/// milliseconds.
const TIMEOUT_SPREAD_MS: u64 = 2_000;

/// Which failure to drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Failure {
    /// The destination answers 404: two attempts.
    #[value(name = "4xx")]
    ClientError,
    /// The destination answers 500: three attempts with growing waits.
    #[value(name = "5xx")]
    ServerError,
    /// The destination does not answer in time: three attempts with growing waits; takes about two
    /// minutes.
    #[value(name = "timeout")]
    Timeout,
    /// The URL is no URL: refused, and nothing queued.
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

/// Runs a failure, or without one the checks of the API and one delivery. An error says why it
/// could not go on.
pub async fn run(
    target: &Target,
    failure: Option<Failure>,
    report: &mut Report,
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

/// The API itself, with no webhook involved.
async fn without_webhook(client: &ApiClient, report: &mut Report) -> Result<(), ClientError> {
    report.say(format_args!("the API at {} without any webhook", client.base()));
    let health = client.health().await?;
    let word = serde_json::from_str::<Value>(&health.body)
        .ok()
        .and_then(|page| Some(page.get("status")?.as_str()?.to_owned()));
    let well =
        health.status == StatusCode::OK && matches!(word.as_deref(), Some("healthy" | "degraded"));
    report.check(
        "GET /health answers 200 healthy or degraded",
        well,
        format_args!("{} {word:?}", health.status.as_u16()),
    );
    let page = client.webhooks(&[("page_size", "5")]).await?;
    report.check(
        "GET /webhook-statuses lists a page",
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
    report.check_eq("an unknown webhook is answered", &absent.status.as_u16(), &404);
    let problem = absent.problem();
    let described =
        problem.as_ref().is_some_and(|problem| problem.status == 404 && !problem.title.is_empty());
    report.check(
        "… with a problem of RFC 9457",
        described,
        problem.map_or("no problem+json".into(), |problem| problem.to_string()),
    );
    report.check(
        "every answer carries x-correlation-id",
        absent.correlation_id().is_some() && health.correlation_id().is_some(),
        "seen on two",
    );
    Ok(())
}

/// One webhook that is delivered at once.
async fn one_delivery(
    target: &Target,
    client: &ApiClient,
    report: &mut Report,
) -> Result<(), String> {
    report.say("one delivery");
    let sighting = target.look_at_receiver(report).await?;
    // Whatever the receiver was told to answer, this path answers 200.
    let (accepted, followed) =
        deliver(target, client, "/status-code/200", "delivery", report).await?;
    let webhook = &followed.webhook;
    if !report.check_eq("status", &webhook.status.as_str(), &"delivered") {
        return Err(explain(webhook));
    }
    report.check_eq("attempts", &webhook.attempt_count, &1);
    report.check_eq(
        "the attempt's status code",
        &webhook.attempts.first().and_then(|attempt| attempt.status_code),
        &Some(200),
    );
    report.check(
        "delivered_at is set and nothing is planned",
        webhook.delivered_at.is_some() && webhook.next_attempt_at.is_none(),
        "seen",
    );
    check_correlation(report, accepted.as_deref(), webhook);
    check_received(target, &sighting, 1, report).await;
    Ok(())
}

async fn failing_delivery(
    target: &Target,
    client: &ApiClient,
    failure: Failure,
    report: &mut Report,
) -> Result<(), String> {
    let sighting = target.look_at_receiver(report).await?;
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
            "each attempt lasts until its deadline (30 s unless DELIVERY_TIMEOUT_MS says \
            otherwise), so this takes about two minutes",
        );
    }
    let (accepted, followed) = deliver(target, client, path, failure.as_str(), report).await?;
    let webhook = &followed.webhook;
    report.check_eq("status", &webhook.status.as_str(), &"failed");
    check_attempts(report, webhook, attempts, code);
    report.check_eq("kind of the last error", &webhook.error_kind(), &Some(kind));
    report.check(
        "nothing more is planned",
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

/// Sends a test webhook and follows it to its end; gives the correlation id of the answer, too.
async fn deliver(
    target: &Target,
    client: &ApiClient,
    path: &str,
    scenario: &str,
    report: &mut Report,
) -> Result<(Option<String>, Followed), String> {
    let url = target.receiver_path(path);
    let accepted = client
        .test_webhook(&url, &test_payload(scenario))
        .await
        .map_err(|error| error.to_string())?;
    report.say(format_args!("webhook {} goes to {url}", accepted.webhook_id));
    report.check_eq("status of the answer", &accepted.status.as_str(), &"webhook_queued");
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

/// The number of attempts, their numbers, and what each was answered with.
pub(crate) fn check_attempts(
    report: &mut Report,
    webhook: &Webhook,
    attempts: u32,
    code: Option<u16>,
) {
    report.check_eq("attempts", &webhook.attempt_count, &attempts);
    report.check_eq("max_attempts", &webhook.max_attempts, &attempts);
    let numbers: Vec<u32> = webhook.attempts.iter().map(|attempt| attempt.number).collect();
    report.check_eq("their numbers", &numbers, &(1..=attempts).collect());
    let codes: Vec<Option<u16>> =
        webhook.attempts.iter().map(|attempt| attempt.status_code).collect();
    report.check_eq("their status codes", &codes, &vec![code; attempts as usize]);
}

/// Each wait as the policy allows, and each longer than the one before.
pub(crate) fn check_waits(report: &mut Report, policy: Policy, followed: &Followed) {
    let waits = policy.waits(&followed.webhook.attempts, &followed.promised);
    for wait in &waits {
        let what = format!("wait after attempt {}", wait.after_attempt);
        if followed.held_by_circuit {
            report.check(
                format!("{what}, held by an open circuit, is at least the policy's"),
                wait.long_enough(),
                wait,
            );
        } else {
            report.check(what, wait.long_enough() && wait.short_enough(policy), wait);
        }
    }
    if waits.len() > 1 && !followed.held_by_circuit {
        let lengths: Vec<i64> = waits.iter().map(|wait| wait.waited_ms).collect();
        report.check(
            "waits grow",
            lengths.is_sorted_by(|a, b| a < b),
            format_args!("{lengths:?} ms"),
        );
    }
}

/// Attempts that time out take about the same time, and less than the receiver's pause.
fn check_timeouts(report: &mut Report, webhook: &Webhook) {
    let durations: Vec<u64> = webhook.attempts.iter().map(|attempt| attempt.duration_ms).collect();
    let (least, most) = (
        durations.iter().min().copied().unwrap_or(0),
        durations.iter().max().copied().unwrap_or(0),
    );
    let even = least > 0 && most - least <= TIMEOUT_SPREAD_MS && most < 60_000;
    report.check("attempts last until the same deadline", even, format_args!("{durations:?} ms"));
}

fn check_correlation(report: &mut Report, accepted: Option<&str>, webhook: &Webhook) {
    let same = accepted == Some(webhook.correlation_id.as_str());
    report.check(
        "correlation id of the answer and the webhook",
        same,
        format_args!("{:?} and {:?}", accepted, webhook.correlation_id),
    );
}

/// The webhook is found by its reference id and its status.
async fn check_listed(
    client: &ApiClient,
    webhook: &Webhook,
    report: &mut Report,
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

async fn check_received(target: &Target, sighting: &Sighting, least: u64, report: &mut Report) {
    match target.received_since(sighting).await {
        Some(received) => {
            report.check(
                format!("the receiver got at least {least} requests"),
                received >= least,
                received,
            );
        }
        None => report.say("how often the receiver was asked cannot be told"),
    }
}

/// URLs that are none, or that no webhook may have.
async fn invalid_urls(client: &ApiClient, report: &mut Report) -> Result<(), ClientError> {
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
    report: &mut Report,
    what: &str,
    refused: Result<String, ClientError>,
    fields: &[&str],
) -> Result<(), ClientError> {
    match refused {
        Ok(id) => report.check(what, false, format_args!("it was accepted as {id}")),
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
            "the webhook was not delivered to {}: {} {}; does the stack reach the receiver there? \
             --receiver-url says where it is",
            webhook.url,
            error.kind,
            error.message.as_deref().unwrap_or_default()
        ),
        None => "the webhook was not delivered, and shows no error".into(),
    }
}
