//! Polls the API for a webhook until a condition holds, within a bound.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::Value;

use crate::policy::milliseconds;
use harness::{
    client::{ApiClient, ClientError, Webhook},
    progress::Checklist,
};

/// The interval between two requests.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The interval between two progress lines while nothing changes.
const STILL_WAITING_INTERVAL: Duration = Duration::from_secs(10);

/// The longest time without a change after an attempt's planned time: its timeout and a lease.
const MAX_SILENCE: Duration = Duration::from_secs(90);

/// The maximum duration of following a webhook.
const MAX_FOLLOW: Duration = Duration::from_secs(20 * 60);

/// The maximum outage of the API, for example during a restart.
const MAX_API_AWAY: Duration = Duration::from_secs(30);

/// A webhook and its observed states.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The webhook at the end.
    pub webhook: Webhook,
    /// The last `next_attempt_at` after each attempt's number.
    pub planned: BTreeMap<u32, Timestamp>,
    /// Whether traffic control has deferred the webhook, which makes its waits longer.
    pub is_deferred: bool,
}

/// Follows a webhook until `enough` is true.
pub async fn follow(
    client: &ApiClient,
    report: &Checklist,
    id: &str,
    enough: impl Fn(&Webhook) -> bool,
) -> Result<Followed, FollowError> {
    let mut watcher = Watcher::new();
    loop {
        match client.webhook(id).await {
            Ok(webhook) => {
                if watcher.saw(report, &webhook) && webhook.attempt_count > 0 {
                    watcher.note_deferrals(report, client.explain(id).await.ok().as_ref());
                }
                if enough(&webhook) {
                    return Ok(Followed {
                        webhook,
                        planned: watcher.planned,
                        is_deferred: watcher.is_deferred,
                    });
                }
                if watcher.is_stuck() {
                    let explanation = client
                        .explain(id)
                        .await
                        .map_or_else(|error| error.to_string(), |text| text.to_string());
                    return Err(FollowError::Stuck {
                        status: webhook.status,
                        silence: watcher.changed.elapsed(),
                        explanation,
                    });
                }
            }
            Err(error) if error.is_transient() && watcher.answered.elapsed() < MAX_API_AWAY => {}
            Err(error) => return Err(FollowError::Api(error)),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

struct Watcher {
    started: Instant,
    answered: Instant,
    changed: Instant,
    reported: Instant,
    latest: Option<(String, u32, Option<Timestamp>, Timestamp)>,
    planned: BTreeMap<u32, Timestamp>,
    is_deferred: bool,
    allowed_in: Duration,
}

impl Watcher {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            answered: now,
            changed: now,
            reported: now,
            latest: None,
            planned: BTreeMap::new(),
            is_deferred: false,
            allowed_in: Duration::ZERO,
        }
    }

    /// Returns whether the webhook has changed.
    fn saw(&mut self, report: &Checklist, webhook: &Webhook) -> bool {
        self.answered = Instant::now();
        let state = (
            webhook.status.clone(),
            webhook.attempt_count,
            webhook.next_attempt_at,
            webhook.updated_at,
        );
        let has_changed = self.latest.as_ref() != Some(&state);
        if has_changed {
            self.latest = Some(state);
            self.changed = Instant::now();
            self.reported = Instant::now();
            self.note_change(report, webhook);
        } else if self.reported.elapsed() >= STILL_WAITING_INTERVAL {
            self.reported = Instant::now();
            report.say(format_args!("still {}{}", webhook.status, until(webhook)));
        }
        has_changed
    }

    /// Notes waits that the retry policy did not ask for. The explanation has their reasons.
    fn note_deferrals(&mut self, report: &Checklist, explanation: Option<&Value>) {
        let steps = explanation.and_then(|told| told["steps"].as_array());
        let is_deferral = |step: &&Value| step["transition"] == "defer";
        self.is_deferred |= steps.is_some_and(|steps| steps.iter().any(|step| is_deferral(&step)));
        if let Some(step) = steps.and_then(|steps| steps.last()).filter(is_deferral) {
            let why = step["why"].as_str().unwrap_or_default();
            report.say(format_args!("{why} See GET /destinations. Waiting."));
        }
    }

    fn note_change(&mut self, report: &Checklist, webhook: &Webhook) {
        report.say(format_args!("{}{}", describe(webhook), until(webhook)));
        let wait_ms = webhook.next_attempt_at.map_or(0, |at| milliseconds(Timestamp::now(), at));
        self.allowed_in = Duration::from_millis(wait_ms.max(0) as u64);
        if webhook.status != "retrying" {
            return;
        }
        if let Some(allowed_at) = webhook.next_attempt_at {
            self.planned.insert(webhook.attempt_count, allowed_at);
        }
    }

    fn is_stuck(&self) -> bool {
        self.changed.elapsed() > self.allowed_in + MAX_SILENCE
            || self.started.elapsed() > MAX_FOLLOW
    }
}

fn describe(webhook: &Webhook) -> String {
    let attempts = match webhook.attempt_count {
        0 => "no attempt yet".to_owned(),
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    let error = match &webhook.last_error {
        Some(error) if webhook.status != "delivered" => match error.status_code {
            Some(code) => format!(", last error {} {code}", error.kind),
            None => format!(", last error {}", error.kind),
        },
        _ => String::new(),
    };
    format!("{}, {attempts}{error}", webhook.status)
}

fn until(webhook: &Webhook) -> String {
    match webhook.next_attempt_at.map(|at| milliseconds(Timestamp::now(), at)) {
        Some(wait_ms) if wait_ms > 0 => {
            format!(", next attempt in {:.1} s", wait_ms as f64 / 1000.0)
        }
        _ => String::new(),
    }
}

/// The reason for a failure to follow a webhook.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The API refused the request or was unavailable.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// The webhook did not change for too long.
    #[error("the webhook stays {status} and has not changed for {:.0} s; GET \
        /webhooks/{{id}}/explain returns: {explanation}", silence.as_secs_f64())]
    Stuck {
        /// Its status.
        status: String,
        /// Time since its last change.
        silence: Duration,
        /// The API's explanation.
        explanation: String,
    },
}
