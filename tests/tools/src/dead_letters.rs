//! The scenarios of `test-webhook-dlq` and `test-webhook-dlq-simple`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    failure::{check_attempts, check_waits},
    follow::{Followed, follow},
    policy::milliseconds,
    target::{ReceiverStatus, Target},
};
use harness::{
    client::{Accepted, ApiClient, ClientError, DeadLetter, NewWebhook, Webhook, test_payload},
    progress::Checklist,
};

/// A failed webhook becomes a dead letter within this time.
const ARCHIVE_BOUND: Duration = Duration::from_secs(60);

/// The interval between two requests for the dead letter.
const ARCHIVE_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Retention of a dead letter: 30 days.
const KEPT_MS: i64 = 30 * 24 * 3600 * 1000;

/// The retention starts when the letter is archived, at most this long after the failure.
const KEPT_TOLERANCE_MS: i64 = 3600 * 1000;

/// Checks that a failing webhook becomes a complete dead letter that can be redriven and deleted.
pub async fn full(target: &Target, report: &mut Checklist) -> Result<(), String> {
    let client = target.client().map_err(|error| error.to_string())?;
    let sighting = target.check_receiver(report).await?;
    let url = failing_url(target, &sighting, report);
    let payload = test_payload("dlq");
    let reference = format!("DLQ-{:08x}", rand::random::<u32>());
    let webhook = NewWebhook { url: &url, payload: &payload, reference_id: Some(&reference) };
    let accepted = client.submit(&webhook).await.map_err(|error| error.to_string())?;
    check_accepted(report, &accepted, &url);
    let id = accepted.webhook_id.as_str();

    let followed = until_finished(&client, report, id, 0).await?;
    require_failed(&followed.webhook)?;
    report.check_eq("status", &followed.webhook.status.as_str(), &"failed");
    let code = followed.webhook.last_error.as_ref().and_then(|error| error.status_code);
    check_attempts(report, &followed.webhook, target.retry_max_attempts, code);
    check_waits(report, target.policy(), &followed);

    let letter = archived(&client, report, id).await?;
    check_letter(report, &letter, &accepted, &url, &payload, &followed.webhook);
    check_in_list(&client, report, &reference, id, true).await?;

    redrive(&client, report, id).await?;
    check_in_list(&client, report, &reference, id, false).await?;
    let before = followed.webhook.attempt_count;
    let again = until_finished(&client, report, id, before).await?;
    check_redriven(target, report, &followed.webhook, &again);
    if again.webhook.status == "failed" {
        let letter = archived(&client, report, id).await?;
        report.check_eq(
            "attempts of the second dead letter",
            &letter.attempt_count,
            &again.webhook.attempt_count,
        );
        client.delete_dead_letter(id).await.map_err(|error| error.to_string())?;
        report.say("deleted the dead letter");
        let left = client.dead_letter(id).await.map_err(|error| error.to_string())?;
        report.check(
            "a deleted dead letter returns 404",
            left.is_none(),
            if left.is_none() { "404" } else { "it still exists" },
        );
    }
    Ok(())
}

/// Checks that a failing webhook becomes a dead letter that can be redriven.
pub async fn simple(target: &Target, report: &mut Checklist) -> Result<(), String> {
    let client = target.client().map_err(|error| error.to_string())?;
    let sighting = target.check_receiver(report).await?;
    let url = failing_url(target, &sighting, report);
    let accepted = client
        .test_webhook(&url, &test_payload("dlq-simple"))
        .await
        .map_err(|error| error.to_string())?;
    check_accepted(report, &accepted, &url);
    let id = accepted.webhook_id.as_str();
    let followed = until_finished(&client, report, id, 0).await?;
    require_failed(&followed.webhook)?;
    report.check_eq("status", &followed.webhook.status.as_str(), &"failed");
    report.check_eq("attempts", &followed.webhook.attempt_count, &target.retry_max_attempts);
    let letter = archived(&client, report, id).await?;
    report.check_eq(
        "attempts of the dead letter",
        &letter.attempt_count,
        &followed.webhook.attempt_count,
    );
    redrive(&client, report, id).await
}

/// Records the first check. From here on, an early end of the run is a failure of the system.
fn check_accepted(report: &mut Checklist, accepted: &Accepted, url: &str) {
    report.say(format_args!("sent webhook {} to {url}", accepted.webhook_id));
    let named = accepted.webhook_id == format!("{}_{}", accepted.reference_id, accepted.task_id);
    report.check(
        "accepted, and webhook_id is {reference_id}_{task_id}",
        named,
        &accepted.webhook_id,
    );
}

/// The destination: an ordinary path if the receiver returns a 5xx to every webhook, else the path
/// that always returns 500. With an ordinary path, the receiver can be restarted so that the
/// redrive succeeds.
fn failing_url(target: &Target, sighting: &ReceiverStatus, report: &Checklist) -> String {
    match sighting.constant_code() {
        Some(code @ 500..) => {
            report.say(format_args!(
                "the receiver returns {code} on every path, so the webhook goes to an ordinary path"
            ));
            target.receiver_path("/webhook-receiver")
        }
        _ => target.receiver_path("/status-code/500"),
    }
}

/// Follows a webhook until it is finished with more attempts than `before`.
async fn until_finished(
    client: &ApiClient,
    report: &Checklist,
    id: &str,
    before: u32,
) -> Result<Followed, String> {
    let enough = |webhook: &Webhook| webhook.is_finished() && webhook.attempt_count > before;
    follow(client, report, id, enough).await.map_err(|error| error.to_string())
}

fn require_failed(webhook: &Webhook) -> Result<(), String> {
    if webhook.status == "delivered" {
        return Err(format!(
            "{} accepted the webhook, so there is no dead letter. Start a receiver that fails: \
             webhook-receiver --failure-rate 100",
            webhook.url.as_deref().unwrap_or_default()
        ));
    }
    Ok(())
}

/// Waits for the dead letter of a failed webhook.
async fn archived(
    client: &ApiClient,
    report: &mut Checklist,
    id: &str,
) -> Result<DeadLetter, String> {
    let started = Instant::now();
    while started.elapsed() < ARCHIVE_BOUND {
        match client.dead_letter(id).await {
            Ok(Some(letter)) => {
                report.check(
                    "the dead letter exists",
                    true,
                    format_args!("found after {} ms", started.elapsed().as_millis()),
                );
                return Ok(letter);
            }
            Ok(None) => {}
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.to_string()),
        }
        tokio::time::sleep(ARCHIVE_POLL_INTERVAL).await;
    }
    Err(format!(
        "the webhook failed, but GET /dead-letters/{id} still returns 404 after {} s",
        ARCHIVE_BOUND.as_secs()
    ))
}

fn check_letter(
    report: &mut Checklist,
    letter: &DeadLetter,
    accepted: &Accepted,
    url: &str,
    payload: &Value,
    webhook: &Webhook,
) {
    report.check_eq("its webhook_id", &letter.webhook_id, &accepted.webhook_id);
    report.check_eq("its reference_id", &letter.reference_id, &accepted.reference_id);
    report.check_eq(
        "its correlation_id",
        &Some(&letter.correlation_id),
        &accepted.correlation_id.as_ref(),
    );
    report.check_eq("its url", &letter.url.as_deref(), &Some(url));
    let same = letter.payload.as_ref() == Some(payload);
    report.check("its payload", same, if same { "as sent" } else { "differs from the one sent" });
    report.check_eq("its attempt_count", &letter.attempt_count, &webhook.attempt_count);
    report.check_eq(
        "its attempts",
        &letter.attempts.as_ref().map_or(0, Vec::len),
        &webhook.attempts.len(),
    );
    report.check_eq("its error", &Some(&letter.last_error), &webhook.last_error.as_ref());
    let kept_ms = milliseconds(letter.failed_at, letter.expires_at);
    let kept = (KEPT_MS - KEPT_TOLERANCE_MS..=KEPT_MS + KEPT_TOLERANCE_MS).contains(&kept_ms);
    report.check(
        "it is retained for 30 days",
        kept,
        format_args!("{:.2} days", kept_ms as f64 / 86_400_000.0),
    );
}

async fn check_in_list(
    client: &ApiClient,
    report: &mut Checklist,
    reference: &str,
    id: &str,
    wanted: bool,
) -> Result<(), String> {
    let page = client
        .dead_letters(&[("reference_id", reference)])
        .await
        .map_err(|error| error.to_string())?;
    let found: Vec<&DeadLetter> =
        page.items.iter().filter(|letter| letter.webhook_id == id).collect();
    let what = if wanted {
        "GET /dead-letters?reference_id= lists it"
    } else {
        "after the redrive, GET /dead-letters does not list it"
    };
    report.check(
        what,
        found.is_empty() != wanted,
        format_args!("{} of {} items", found.len(), page.items.len()),
    );
    if wanted {
        let lean = found.iter().all(|letter| letter.payload.is_none() && letter.attempts.is_none());
        report.check("the list omits payload and attempts", lean, "first page");
    }
    Ok(())
}

async fn redrive(client: &ApiClient, report: &mut Checklist, id: &str) -> Result<(), String> {
    match client.redrive(id).await {
        Ok(_) => report.check("redrive returns 202", true, "202"),
        Err(error @ ClientError::Unreachable { .. }) => return Err(error.to_string()),
        Err(error) => report.check("redrive returns 202", false, error),
    };
    let webhook = client.webhook(id).await.map_err(|error| error.to_string())?;
    let alive = !webhook.is_finished() || webhook.status == "delivered";
    report.check("the webhook is open or delivered again", alive, &webhook.status);
    Ok(())
}

/// Checks that a redriven webhook has a new budget of attempts and continues their numbers.
fn check_redriven(target: &Target, report: &mut Checklist, first: &Webhook, again: &Followed) {
    let webhook = &again.webhook;
    let numbers: Vec<u32> = webhook.attempts.iter().map(|attempt| attempt.number).collect();
    let fresh = webhook.attempt_count - first.attempt_count;
    if webhook.status == "delivered" {
        report.say("the receiver returns 2xx now: the redriven webhook is delivered");
        report.check(
            "attempts after the redrive",
            (1..=target.retry_max_attempts).contains(&fresh),
            fresh,
        );
    } else {
        report.check_eq("status after the redrive", &webhook.status.as_str(), &"failed");
        report.check_eq(
            "attempts after the redrive (a new budget)",
            &fresh,
            &target.retry_max_attempts,
        );
    }
    report.check_eq("attempt numbers continue", &numbers, &(1..=webhook.attempt_count).collect());
}
