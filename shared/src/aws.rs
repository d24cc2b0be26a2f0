//! The AWS clients, configured for a short cold start: explicit region and credentials, no
//! look-ups, and one HTTP client ([`http`]) with the sender's TLS library.
//!
//! The clients retry throttling, timeouts and broken connections up to [`MAX_TRIES`] times. Each
//! try takes at most [`TRY_LIMIT`], all of them [`CALL_LIMIT`]. Then the backend is *unavailable*.
//! That is less time than a function has left when it starts work; see "Times that nest" in
//! `docs/architecture.md`.
//!
//! | module | what it does |
//! |---|---|
//! | [`http`] | sends the clients' requests |
//! | [`secrets`] | settings that refer to Parameter Store or Secrets Manager |

pub mod http;
pub mod secrets;

use std::{error::Error, time::Duration};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_dynamodb::config::{
    AppName, BehaviorVersion, IdentityCache, Region, StalledStreamProtectionConfig,
    retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::SdkConfig;

use self::http::{AwsHttp, InvalidHttp};
use crate::config::{AwsCredentials, AwsSettings};

/// Tries of one call, including the first.
pub const MAX_TRIES: u32 = 4;

/// The longest time of one try: 3 s. DynamoDB and SQS answer within tens of milliseconds, so a new
/// try is faster than a slow answer.
pub const TRY_LIMIT: Duration = Duration::from_secs(3);

/// The longest time of all tries of a call: 10 s.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The wait before the second try. It doubles, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The clients of one process. They share connections.
#[derive(Clone, Debug)]
pub struct Aws {
    http: SharedHttpClient,
    limits: (Duration, Duration),
}

impl Aws {
    /// Creates the clients without connecting.
    pub fn new() -> Result<Self, InvalidHttp> {
        Ok(Self { http: SharedHttpClient::new(AwsHttp::new()?), limits: (TRY_LIMIT, CALL_LIMIT) })
    }

    /// Does the same with other limits, for an emulator that is slower than AWS.
    #[must_use]
    pub fn with_limits(self, each: Duration, together: Duration) -> Self {
        Self { limits: (each, together), ..self }
    }

    /// Creates a client of DynamoDB.
    pub fn dynamodb(&self, settings: &AwsSettings) -> aws_sdk_dynamodb::Client {
        let mut config = aws_sdk_dynamodb::config::Builder::from(&self.config(settings));
        config.set_endpoint_url(settings.dynamodb_endpoint.clone());
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    /// Creates a client of SQS.
    pub fn sqs(&self, settings: &AwsSettings) -> aws_sdk_sqs::Client {
        let mut config = aws_sdk_sqs::config::Builder::from(&self.config(settings));
        config.set_endpoint_url(settings.sqs_endpoint.clone());
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    /// The configuration that all clients share.
    fn config(&self, settings: &AwsSettings) -> SdkConfig {
        let mut config = SdkConfig::builder()
            .behavior_version(behaviour())
            .region(Region::new(settings.region.clone()))
            .credentials_provider(credentials(&settings.credentials))
            .identity_cache(IdentityCache::no_cache())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_config(retries())
            .timeout_config(timeouts(self.limits.0, self.limits.1))
            .http_client(self.http.clone());
        config.set_app_name(app_name(settings));
        config.build()
    }
}

/// Pinned, so an update of the clients changes no behavior silently.
fn behaviour() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// The function's name in the user agent. The clients accept every function name.
fn app_name(settings: &AwsSettings) -> Option<AppName> {
    AppName::new(settings.function_name.clone()?).ok()
}

fn credentials(credentials: &AwsCredentials) -> SharedCredentialsProvider {
    let AwsCredentials { access_key_id, secret_access_key, session_token } = credentials.clone();
    SharedCredentialsProvider::new(Credentials::new(
        access_key_id,
        secret_access_key,
        session_token,
        None,
        "environment",
    ))
}

fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(MAX_TRIES).with_initial_backoff(FIRST_WAIT)
}

/// The limits of a call.
pub(crate) fn timeouts(each: Duration, together: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(each).operation_timeout(together).build()
}

/// The source of an error, from any failure of a call.
pub(crate) fn boxed(error: impl Error + Send + Sync + 'static) -> Box<dyn Error + Send + Sync> {
    Box::new(error)
}
