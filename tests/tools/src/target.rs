//! What the test tools share: the options that say whom they test, and the look at the receiver
//! before they begin.

use clap::Args;
use serde::Deserialize;
use url::Url;

use crate::policy::Policy;
use harness::{
    client::{ApiClient, ClientError, http_client},
    progress::Report,
    receiver::answer::seconds,
};

/// How a receiver is started, as the tools tell it.
const START_RECEIVER: &str =
    "start one in another terminal: cargo run --release -p tools --bin webhook-receiver";

/// Whom to test, and by which settings.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Base URL of the API.
    #[arg(long, default_value = "http://localhost:8000", value_name = "URL")]
    pub api_url: String,
    /// Base URL of the webhook receiver, as the system under test reaches it.
    #[arg(long, default_value = "http://localhost:9001", value_name = "URL")]
    pub receiver_url: String,
    /// Key for the API, if it wants one.
    #[arg(long, value_name = "KEY", env = "POSTHASTE_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Do not look whether the webhook receiver is running.
    #[arg(long)]
    pub skip_receiver_check: bool,
    /// Print the verdict as JSON; progress goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// The server's setting of the same name: attempts for 5xx and timeouts.
    #[arg(long, default_value_t = 3, value_name = "N", env = "RETRY_MAX_ATTEMPTS",
        value_parser = clap::value_parser!(u32).range(2..=10))]
    pub retry_max_attempts: u32,
    /// The server's setting of the same name: the first wait, before jitter.
    #[arg(long, default_value_t = 5_000, value_name = "MS", env = "RETRY_BASE_DELAY_MS",
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub retry_base_delay_ms: u64,
    /// The server's setting of the same name: shorter waits are raised to it.
    #[arg(long, default_value_t = 1_000, value_name = "MS", env = "MIN_RETRY_DELAY_MS",
          value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub min_retry_delay_ms: u64,
    /// How late an attempt may start after the time that was allowed for it.
    #[arg(long, default_value_t = 1_000, value_name = "MS",
        value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub lateness_ms: u64,
}

impl Target {
    /// A client of the API.
    pub fn client(&self) -> Result<ApiClient, ClientError> {
        ApiClient::new(&self.api_url, self.api_key.as_deref())
    }

    /// The waits that are allowed.
    pub fn policy(&self) -> Policy {
        Policy {
            base_ms: self.retry_base_delay_ms,
            floor_ms: self.min_retry_delay_ms,
            lateness_ms: self.lateness_ms,
        }
    }

    /// The URL of a path at the receiver.
    pub fn receiver_path(&self, path: &str) -> String {
        format!("{}/{}", self.receiver_url.trim_end_matches('/'), path.trim_start_matches('/'))
    }

    /// Looks at the receiver, unless told not to. An error says what to start.
    pub async fn look_at_receiver(&self, report: &Report) -> Result<Sighting, String> {
        let url = self.receiver_path("status");
        url.parse::<Url>().map_err(|error| {
            format!("--receiver-url: '{}' is not a URL: {error}", self.receiver_url)
        })?;
        if self.skip_receiver_check {
            report.say("the receiver is not looked at, as asked");
            return Ok(Sighting::Unknown);
        }
        let http = http_client().map_err(|error| error.to_string())?;
        let absent = |why: &dyn std::fmt::Display| {
            format!("no webhook receiver at {} ({why}); {START_RECEIVER}", self.receiver_url)
        };
        let response = http.get(&url).send().await.map_err(|error| {
            absent(&if error.is_timeout() { "no answer" } else { "cannot connect" })
        })?;
        let body = response.text().await.map_err(|error| absent(&error))?;
        let Ok(page) = serde_json::from_str::<StatusPage>(&body) else {
            report.say(format_args!(
                "what answers at {url} is not our webhook-receiver; what \
                follows depends on how it answers"
            ));
            return Ok(Sighting::Unknown);
        };
        report.say(format_args!(
            "the receiver at {} runs; it has received {} requests",
            self.receiver_url, page.received
        ));
        Ok(Sighting::Ours(page))
    }

    /// How many requests more the receiver has had since it was looked at; `None` if that cannot be
    /// told.
    pub async fn received_since(&self, before: &Sighting) -> Option<u64> {
        let Sighting::Ours(before) = before else { return None };
        let response = http_client().ok()?.get(self.receiver_path("status")).send().await.ok()?;
        let now: StatusPage = serde_json::from_str(&response.text().await.ok()?).ok()?;
        now.received.checked_sub(before.received)
    }
}

/// What was seen of the receiver.
#[derive(Clone, Debug)]
pub enum Sighting {
    /// Our `webhook-receiver`.
    Ours(StatusPage),
    /// Another server, or it was not looked at.
    Unknown,
}

impl Sighting {
    /// The code that our receiver answers all webhooks with that go to no special path, if it is
    /// always the same and comes before an attempt would time out.
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

/// What our receiver shows of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct StatusPage {
    /// Requests so far.
    pub received: u64,
    /// How it answers, unless a script says so.
    pub answers: Option<Answers>,
}

/// How our receiver answers.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Answers {
    /// When nothing is to fail.
    pub response_code: u16,
    /// Percentage that fails.
    pub failure_rate: u8,
    /// With what.
    pub failure_code: u16,
    /// After how long.
    pub delay_seconds: f64,
}
