//! The options of the test tools, and the check that the receiver is running.

use clap::Args;
use serde::Deserialize;
use url::Url;

use crate::policy::Policy;
use harness::{
    client::{ApiClient, ClientError, http_client},
    progress::Checklist,
    receiver::answer::seconds,
};

/// How to start a receiver.
const START_RECEIVER: &str =
    "start one in another terminal: cargo run --release -p tools --bin webhook-receiver";

/// The system under test and its settings.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Base URL of the API.
    #[arg(long, default_value = "http://localhost:8000", value_name = "URL")]
    pub api_url: String,
    /// Base URL of the webhook receiver, as the system under test reaches it.
    #[arg(long, default_value = "http://localhost:9001", value_name = "URL")]
    pub receiver_url: String,
    /// API key, if the API requires one.
    #[arg(long, value_name = "KEY", env = "POSTHASTE_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Do not check that the webhook receiver is running.
    #[arg(long)]
    pub skip_receiver_check: bool,
    /// Print the result as JSON. Progress goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// The server's `RETRY_MAX_ATTEMPTS`: attempts after a 5xx or a timeout.
    #[arg(long, default_value_t = 3, value_name = "N", env = "RETRY_MAX_ATTEMPTS",
        value_parser = clap::value_parser!(u32).range(2..=10))]
    pub retry_max_attempts: u32,
    /// The server's `RETRY_BASE_DELAY_MS`: the first wait, before jitter.
    #[arg(long, default_value_t = 5_000, value_name = "MS", env = "RETRY_BASE_DELAY_MS",
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub retry_base_delay_ms: u64,
    /// The server's `MIN_RETRY_DELAY_MS`: the shortest wait.
    #[arg(long, default_value_t = 1_000, value_name = "MS", env = "MIN_RETRY_DELAY_MS",
          value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub min_retry_delay_ms: u64,
    /// How late an attempt may start after its planned time.
    #[arg(long, default_value_t = 1_000, value_name = "MS",
        value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub lateness_ms: u64,
}

impl Target {
    /// A client of the API.
    pub fn client(&self) -> Result<ApiClient, ClientError> {
        ApiClient::new(&self.api_url, self.api_key.as_deref())
    }

    /// The waits that the settings allow.
    pub fn policy(&self) -> Policy {
        Policy {
            base_ms: self.retry_base_delay_ms,
            floor_ms: self.min_retry_delay_ms,
            lateness_ms: self.lateness_ms,
        }
    }

    /// The URL of a path of the receiver.
    pub fn receiver_path(&self, path: &str) -> String {
        format!("{}/{}", self.receiver_url.trim_end_matches('/'), path.trim_start_matches('/'))
    }

    /// Checks that the receiver is running, unless the check is off. The error explains how to
    /// start it.
    pub async fn check_receiver(&self, report: &Checklist) -> Result<ReceiverStatus, String> {
        let url = self.receiver_path("status");
        url.parse::<Url>().map_err(|error| {
            format!("--receiver-url: '{}' is not a URL: {error}", self.receiver_url)
        })?;
        if self.skip_receiver_check {
            report.say("skipping the check of the receiver");
            return Ok(ReceiverStatus::Unknown);
        }
        let http = http_client().map_err(|error| error.to_string())?;
        let absent = |why: &dyn std::fmt::Display| {
            format!("no webhook receiver at {} ({why}); {START_RECEIVER}", self.receiver_url)
        };
        let response = http.get(&url).send().await.map_err(|error| {
            absent(&if error.is_timeout() { "no response" } else { "cannot connect" })
        })?;
        let body = response.text().await.map_err(|error| absent(&error))?;
        let Ok(page) = serde_json::from_str::<StatusPage>(&body) else {
            report.say(format_args!(
                "the server at {url} is not webhook-receiver; the results depend on its responses"
            ));
            return Ok(ReceiverStatus::Unknown);
        };
        report.say(format_args!(
            "the receiver at {} is running; it has received {} requests",
            self.receiver_url, page.received
        ));
        Ok(ReceiverStatus::Ours(page))
    }

    /// The number of requests that the receiver has received since `before`. `None` if unknown.
    pub async fn received_since(&self, before: &ReceiverStatus) -> Option<u64> {
        let ReceiverStatus::Ours(before) = before else { return None };
        let response = http_client().ok()?.get(self.receiver_path("status")).send().await.ok()?;
        let now: StatusPage = serde_json::from_str(&response.text().await.ok()?).ok()?;
        now.received.checked_sub(before.received)
    }
}

/// The receiver before the test.
#[derive(Clone, Debug)]
pub enum ReceiverStatus {
    /// A `webhook-receiver`.
    Ours(StatusPage),
    /// Another server, or the check is off.
    Unknown,
}

impl ReceiverStatus {
    /// The status code of every response on an ordinary path, if it is constant and the response
    /// comes before an attempt times out.
    pub fn constant_code(&self) -> Option<u16> {
        let Self::Ours(StatusPage { answers: Some(answers), .. }) = self else { return None };
        let prompt = seconds(answers.delay_seconds).as_secs() < 20;
        match answers.failure_rate {
            _ if !prompt => None,
            0 => Some(answers.response_code),
            100 => Some(answers.failure_code),
            _ => None,
        }
    }
}

/// The status page of `webhook-receiver`.
#[derive(Clone, Debug, Deserialize)]
pub struct StatusPage {
    /// Requests so far.
    pub received: u64,
    /// Its responses, unless a script determines them.
    pub answers: Option<Answers>,
}

/// The responses of `webhook-receiver`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Answers {
    /// Status code of a success.
    pub response_code: u16,
    /// Percentage of failures.
    pub failure_rate: u8,
    /// Status code of a failure.
    pub failure_code: u16,
    /// Delay of each response.
    pub delay_seconds: f64,
}
