//! The settings, parsed once at start from environment variables.
//!
//! A bad value stops the start. The error names the variable, the fault and an example. No value
//! falls back silently. `docs/settings.md` and the fields below describe every variable.

mod aws;
mod egress;
mod keys;
mod parse;
mod redis;

use std::{cell::RefCell, ffi::OsString, path::PathBuf, time::Duration};

use regex::Regex;

use crate::{
    circuit,
    clock::{MAX_CLOCK_SKEW, Timestamp},
    lane::MAX_BATCH,
    retry::RetryPolicy,
    sealing::MasterKeys,
    signing::Secret,
    traffic::rate_limit::RateLimits,
    transition::{Limits, Rules},
};
pub use aws::{AwsCredentials, AwsSettings};
pub use egress::{ClientCertificate, EgressSettings, Pem, ProxyUrl};
pub use keys::KeyHash;
use parse::Reader;
pub use parse::{ConfigError, ConfigErrors};
pub use redis::{RedisSettings, RedisUrl};

/// The shortest time between the end of an attempt and the end of its lease: twice the clock skew.
const LEASE_MARGIN: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW.as_secs());

/// How much longer than a lease a function may run. It waits for a free slot and writes the outcome
/// in this time.
const FUNCTION_MARGIN: Duration = Duration::from_secs(15);

/// How many function timeouts a message stays hidden. AWS requires at least six.
const VISIBILITY_FACTOR: u32 = 6;

/// The earliest credible end of an invocation: 2020-01-01. See [`Config::invocation_end`].
const FIRST_DEADLINE: Timestamp = Timestamp::from_millis(1_577_836_800_000);

/// See [`Config::max_id_age`]: 60 s.
const MAX_ID_AGE: Duration = Duration::from_secs(60);

/// The data directory of the embedded backend if `DATA_DIR` is not set.
pub const DEFAULT_DATA_DIR: &str = ".posthaste";

/// The largest payload that can be configured: 1 MiB.
pub const MAX_PAYLOAD_LIMIT: usize = 1024 * 1024;

/// The minimum of [`Config::api_body_bytes`]: 32 MiB. The largest request fits.
pub const MIN_API_BODY_BYTES: u64 = 32 * 1024 * 1024;

/// The default: 128 MiB.
const API_BODY_BYTES: u64 = 128 * 1024 * 1024;

/// The default of `ENDPOINT_RETRY_SCHEDULE`, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h,
/// 20 h, 24 h.
const ENDPOINT_RETRY_SCHEDULE_S: [u64; 9] =
    [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// The maximum: 1 TiB.
const MAX_API_BODY_BYTES: u64 = 1024 * 1024 * 1024 * 1024;

/// The backend that keeps webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBackend {
    /// The embedded file.
    Sqlite,
    /// A Redis server or cluster.
    Redis,
    /// A table of Amazon DynamoDB.
    DynamoDb,
}

impl StoreBackend {
    const ALL: [Self; 3] = [Self::Sqlite, Self::Redis, Self::DynamoDb];

    /// The value of `STATUS_BACKEND`, which `GET /health` shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::DynamoDb => "dynamodb",
        }
    }
}

/// The backend that keeps messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBackend {
    /// The embedded file.
    Sqlite,
    /// A Redis server or cluster.
    Redis,
    /// Queues of Amazon SQS.
    Sqs,
}

impl QueueBackend {
    const ALL: [Self; 3] = [Self::Sqlite, Self::Redis, Self::Sqs];

    /// The value of `QUEUE_BACKEND`, which `GET /health` shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::Sqs => "sqs",
        }
    }
}

/// Who may call the API.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Access {
    /// The hash of each key in `API_KEYS`.
    pub key_hashes: Vec<KeyHash>,
    /// `API_AUTH`: who authenticates callers if there is no key.
    pub auth: Auth,
}

/// Who authenticates the API's callers. With `API_KEYS`, a key is required in addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Auth {
    /// `keys`: the API itself, with its keys.
    #[default]
    Keys,
    /// `iam`: the function URL or API Gateway.
    Platform,
    /// `local`: no check of identity. Only programs on this machine may call, and no web page of
    /// another origin.
    Local,
}

/// The responses whose body is kept as an excerpt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excerpts {
    /// Only responses of failed attempts.
    #[default]
    Failures,
    /// All responses. Some receivers return 200 with an error in the body.
    All,
}

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// `STATUS_BACKEND`.
    pub status_backend: StoreBackend,
    /// `QUEUE_BACKEND`.
    pub queue_backend: QueueBackend,
    /// `DATA_DIR`: the directory of the embedded backend's file.
    pub data_dir: PathBuf,
    /// `REDIS_*`, `STATUS_REDIS_*`, `QUEUE_REDIS_*`: the Redis servers, if Redis is a backend.
    pub redis: RedisSettings,
    /// `AWS_*`, `TABLE_NAME`, `QUEUE_URL`, `DEAD_LETTER_QUEUE_URL`: DynamoDB and SQS, if they are
    /// backends.
    pub aws: AwsSettings,
    /// `API_KEYS` and `API_AUTH`.
    pub access: Access,
    /// `MASTER_KEY`: the first key seals the secrets of endpoints, all open them. `None`: it is not
    /// set.
    pub master_keys: Option<MasterKeys>,
    /// `ENDPOINT_CACHE_MS`: how long a copy of an application's document serves.
    pub endpoint_cache: Duration,
    /// The retry policy of endpoints without one of their own: `RETRY_*` with
    /// `ENDPOINT_RETRY_SCHEDULE` as its schedule.
    pub endpoint_retry: RetryPolicy,
    /// `RETRY_*`, `MIN_RETRY_DELAY_MS`, `LEASE_MS`, `REQUEUE_GRACE_MS`, `MAX_DEFER_MS`,
    /// `RETENTION_DAYS`.
    pub rules: Rules,
    /// `CIRCUIT_FAILURES`, `CIRCUIT_OPEN_MS`.
    pub circuit: circuit::Settings,
    /// `RATE_LIMITS`: the rates of hosts.
    pub rate_limits: RateLimits,
    /// `DELIVERY_TIMEOUT_MS`: the deadline of one attempt, including reading the response.
    pub delivery_timeout: Duration,
    /// `RESPONSE_EXCERPTS`: the responses whose body is kept as an excerpt.
    pub response_excerpts: Excerpts,
    /// `DELIVER_CONCURRENCY`: concurrent attempts in one process, at least [`Config::batch_size`].
    pub deliver_concurrency: usize,
    /// `DELIVER_HOST_CONCURRENCY`: concurrent attempts at one destination (scheme, host and port).
    pub deliver_host_concurrency: usize,
    /// `API_CONCURRENCY`: concurrent API requests in one process. Further requests are rejected.
    pub api_concurrency: usize,
    /// `API_BODY_BYTES`: the memory for concurrent requests in one process, with their bodies and
    /// parsed values. Further requests are rejected.
    pub api_body_bytes: u64,
    /// `BATCH_SIZE`: messages of one invocation of `deliver` or `dlq`.
    pub batch_size: usize,
    /// `AUDIT_AGE_MS`: the age at which the audit looks for a webhook.
    pub audit_age: Duration,
    /// `MAX_PAYLOAD_BYTES`.
    pub max_payload_bytes: usize,
    /// `WEBHOOK_HMAC_SECRET`: every secret signs.
    pub secrets: Vec<Secret>,
    /// `WEBHOOK_ALLOWLIST`.
    pub allowlist: Option<Regex>,
    /// `WEBHOOK_HOST_ALLOWLIST`.
    pub host_allowlist: Vec<String>,
    /// `WEBHOOK_CA_FILE`, `WEBHOOK_CLIENT_CERT_FILE`, `WEBHOOK_CLIENT_KEY_FILE`,
    /// `WEBHOOK_PROXY_URL`: the connections of deliveries.
    pub egress: EgressSettings,
    /// `ALLOW_PRIVATE_DESTINATIONS`.
    pub allow_private: bool,
    /// `ENABLE_PROMETHEUS`.
    pub prometheus: bool,
    /// `PROMETHEUS_PORT`: the port on which the local stack serves the metrics.
    pub prometheus_port: u16,
}

/// The defaults that differ between the local stack and the Lambda functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// See [`Config::allow_private`].
    pub allow_private: bool,
    /// See [`Config::deliver_concurrency`].
    pub deliver_concurrency: usize,
}

impl Defaults {
    /// The defaults of a Lambda function.
    pub const LAMBDA: Self = Self { allow_private: false, deliver_concurrency: MAX_BATCH };
    /// The defaults of the local stack, where receivers run on the same machine.
    pub const LOCAL: Self = Self { allow_private: true, deliver_concurrency: 128 };
}

impl Config {
    /// How long an invocation may take where Posthaste itself invokes the function: a lease and 15
    /// s, so 60 s. With a shortened lease, the margin is a third of the lease.
    pub fn function_timeout(&self) -> Duration {
        function_timeout(self.rules.limits.lease)
    }

    /// How long a received message stays hidden where Posthaste itself receives it: six function
    /// timeouts.
    pub fn visibility_timeout(&self) -> Duration {
        self.function_timeout() * VISIBILITY_FACTOR
    }

    /// The end of an invocation that began at `now` and has this deadline from the platform. An
    /// emulator may send a deadline in 1970 (cargo-lambda does). Then the invocation gets
    /// [`Config::function_timeout`].
    pub fn invocation_end(&self, deadline_ms: u64, now: Timestamp) -> Timestamp {
        let named = Timestamp::from_millis(i64::try_from(deadline_ms).unwrap_or(i64::MAX));
        if named < FIRST_DEADLINE { now.plus(self.function_timeout()) } else { named }
    }

    /// The largest age of an ID at the creation of its webhook. The API replaces an older ID. So a
    /// minute that the audit reads at [`Config::audit_age`] is complete.
    pub fn max_id_age(&self) -> Duration {
        MAX_ID_AGE.min(self.audit_age / 2)
    }

    /// Reads the process's environment.
    pub fn from_env(defaults: Defaults) -> Result<Self, ConfigErrors> {
        Self::from_raw_source(defaults, |name| std::env::var_os(name))
    }

    /// Reads the settings from the system's strings. A value that is not Unicode is an error.
    pub(crate) fn from_raw_source(
        defaults: Defaults,
        source: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigErrors> {
        let unreadable = RefCell::new(Vec::new());
        let config = Self::from_source(defaults, |name| {
            let value = source(name)?.into_string();
            if value.is_err() {
                unreadable.borrow_mut().push(ConfigError::not_unicode(name));
            }
            value.ok()
        });
        match (unreadable.into_inner(), config) {
            (unreadable, config) if unreadable.is_empty() => config,
            (mut unreadable, Err(ConfigErrors(errors))) => {
                unreadable.extend(errors);
                Err(ConfigErrors(unreadable))
            }
            (unreadable, Ok(_)) => Err(ConfigErrors(unreadable)),
        }
    }

    /// Reads the settings from `source`. Reports every bad value, not just the first.
    pub fn from_source(
        defaults: Defaults,
        source: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let mut read = Reader::new(&source);
        let delivery_timeout = read.millis("DELIVERY_TIMEOUT_MS", 30_000, 100..=600_000);
        let rules =
            Rules { retry: retry_policy(&mut read), limits: limits(&mut read, delivery_timeout) };
        let status_backend = read.store_backend("STATUS_BACKEND");
        let queue_backend = read.queue_backend("QUEUE_BACKEND");
        let deliver_concurrency =
            read.number("DELIVER_CONCURRENCY", defaults.deliver_concurrency, 1..=1000);
        let batch_size = read.number("BATCH_SIZE", MAX_BATCH, 1..=MAX_BATCH);
        check_batch(&mut read, deliver_concurrency, batch_size);
        let config = Self {
            status_backend,
            queue_backend,
            redis: RedisSettings::read(&mut read, status_backend, queue_backend),
            aws: AwsSettings::read(&mut read, status_backend, queue_backend),
            data_dir: read.text("DATA_DIR", DEFAULT_DATA_DIR).into(),
            access: read.access(),
            master_keys: read.master_keys("MASTER_KEY"),
            endpoint_cache: read.millis("ENDPOINT_CACHE_MS", 2000, 0..=10_000),
            endpoint_retry: endpoint_retry(&mut read, &rules.retry),
            circuit: circuit::Settings {
                failures: read.number("CIRCUIT_FAILURES", 5, 0..=10_000),
                open: read.millis("CIRCUIT_OPEN_MS", 30_000, 100..=600_000),
                probe_lease: rules.limits.lease,
            },
            rate_limits: read.rate_limits("RATE_LIMITS"),
            rules,
            delivery_timeout,
            response_excerpts: read.excerpts("RESPONSE_EXCERPTS"),
            deliver_concurrency,
            deliver_host_concurrency: read.number(
                "DELIVER_HOST_CONCURRENCY",
                host_share(deliver_concurrency),
                1..=1000,
            ),
            api_concurrency: read.number("API_CONCURRENCY", 256, 1..=10_000),
            api_body_bytes: read.number(
                "API_BODY_BYTES",
                API_BODY_BYTES,
                MIN_API_BODY_BYTES..=MAX_API_BODY_BYTES,
            ),
            batch_size,
            audit_age: read.millis("AUDIT_AGE_MS", 15 * 60_000, 1000..=24 * 3_600_000),
            max_payload_bytes: read.number("MAX_PAYLOAD_BYTES", 256 * 1024, 1..=MAX_PAYLOAD_LIMIT),
            secrets: read.secrets("WEBHOOK_HMAC_SECRET"),
            allowlist: read.regex("WEBHOOK_ALLOWLIST"),
            host_allowlist: read.host_globs("WEBHOOK_HOST_ALLOWLIST"),
            egress: EgressSettings::read(&mut read),
            allow_private: read.flag("ALLOW_PRIVATE_DESTINATIONS", defaults.allow_private),
            prometheus: read.flag("ENABLE_PROMETHEUS", true),
            prometheus_port: read.number("PROMETHEUS_PORT", 8001, 0..=u16::MAX),
        };
        read.finish(config)
    }
}

/// The default for one destination: a quarter of the attempts, so three destinations that hang
/// leave a quarter for the others. At least a batch, because on Lambda a batch ends with its
/// slowest message.
fn host_share(deliver_concurrency: usize) -> usize {
    (deliver_concurrency / 4).max(MAX_BATCH)
}

/// The queue gives up on a message that repeatedly gets no slot for an attempt, so a batch must not
/// be larger than the limit.
fn check_batch(read: &mut Reader<'_>, deliver_concurrency: usize, batch_size: usize) {
    if deliver_concurrency < batch_size {
        let message = format!(
            "must be at least BATCH_SIZE ({batch_size}), or messages of a batch would wait for an \
             attempt until they are handed back"
        );
        let example = format!("{batch_size}, or BATCH_SIZE={deliver_concurrency}");
        read.fault("DELIVER_CONCURRENCY", &message, &example);
    }
}

fn function_timeout(lease: Duration) -> Duration {
    lease + FUNCTION_MARGIN.min(lease / 3)
}

fn retry_policy(read: &mut Reader<'_>) -> RetryPolicy {
    let fallback = RetryPolicy::default();
    let day_ms = 24 * 3_600_000;
    let schedule = read.schedule("RETRY_SCHEDULE");
    let attempts_given = read.is_set("RETRY_MAX_ATTEMPTS");
    let mut max_attempts = read.number("RETRY_MAX_ATTEMPTS", fallback.max_attempts, 1..=50);
    if !schedule.is_empty() {
        if attempts_given {
            read.fault(
                "RETRY_MAX_ATTEMPTS",
                "contradicts RETRY_SCHEDULE, which gives the number of attempts",
                "leave one of them out",
            );
        }
        max_attempts = schedule.len() as u32 + 1;
    }
    RetryPolicy {
        max_attempts,
        client_error_max_attempts: read.number(
            "RETRY_CLIENT_ERROR_MAX_ATTEMPTS",
            fallback.client_error_max_attempts,
            1..=50,
        ),
        base_delay: read.millis("RETRY_BASE_DELAY_MS", 5000, 0..=7 * day_ms),
        factor: read.fraction("RETRY_FACTOR", fallback.factor, 1.0..=100.0),
        max_delay: read.millis("RETRY_MAX_DELAY_MS", 3_600_000, 0..=7 * day_ms),
        jitter: read.fraction("RETRY_JITTER", fallback.jitter, 0.0..=1.0),
        schedule,
        retry_after_cap: read.millis("RETRY_AFTER_CAP_MS", 3_600_000, 0..=7 * day_ms),
        min_delay: read.millis(
            "MIN_RETRY_DELAY_MS",
            fallback.min_delay.as_millis() as u64,
            0..=3_600_000,
        ),
    }
}

/// The policy of endpoints, from that of direct webhooks.
fn endpoint_retry(read: &mut Reader<'_>, direct: &RetryPolicy) -> RetryPolicy {
    let given = read.schedule("ENDPOINT_RETRY_SCHEDULE");
    let schedule = if given.is_empty() {
        ENDPOINT_RETRY_SCHEDULE_S.map(Duration::from_secs).to_vec()
    } else {
        given
    };
    let max_attempts = schedule.len() as u32 + 1;
    // A customer's endpoint that is set up wrongly answers 4xx until somebody mends it.
    let client_error_max_attempts = max_attempts;
    RetryPolicy { max_attempts, client_error_max_attempts, schedule, ..direct.clone() }
}

/// The times nest: attempt < lease < function timeout < visibility timeout < grace. So no other
/// worker claims a webhook while the worker with the current claim may still write.
fn limits(read: &mut Reader<'_>, delivery_timeout: Duration) -> Limits {
    let fallback = Limits::default();
    let lease = read.millis("LEASE_MS", 45_000, 1000..=600_000);
    let grace = read.millis("REQUEUE_GRACE_MS", 15 * 60_000, 1000..=6 * 3_600_000);
    // A shortened lease, as in tests on one machine with one clock, keeps a third as its margin.
    let margin = LEASE_MARGIN.min(lease / 3);
    if lease < delivery_timeout + margin {
        let message = format!(
            "must exceed DELIVERY_TIMEOUT_MS ({} ms) by {} ms",
            delivery_timeout.as_millis(),
            margin.as_millis()
        );
        read.fault("LEASE_MS", &message, "45000 with DELIVERY_TIMEOUT_MS=30000");
    }
    // With a shorter grace, the sweep would send another message while the first one is only
    // hidden.
    let visibility = function_timeout(lease) * VISIBILITY_FACTOR;
    if grace <= visibility {
        let message = format!(
            "must exceed the visibility timeout that follows from LEASE_MS ({} ms)",
            visibility.as_millis()
        );
        read.fault("REQUEUE_GRACE_MS", &message, "900000 with LEASE_MS=45000");
    }
    let days = read.number("RETENTION_DAYS", 30_u64, 1..=3650);
    Limits {
        lease,
        grace,
        max_grace: fallback.max_grace.max(grace),
        max_defer: read.millis("MAX_DEFER_MS", 24 * 3_600_000, 0..=30 * 24 * 3_600_000),
        retention: Duration::from_secs(days * 24 * 3600),
        ..fallback
    }
}

#[cfg(test)]
mod tests;
