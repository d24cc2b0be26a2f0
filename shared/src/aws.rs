//! Amazon's clients, made so that a cold start stays short: explicit region and credentials, no
//! look-ups, and one HTTP client ([`http`]) with the TLS stack that the sender has too.
//!
//! The clients retry what is worth it (throttling, timeouts, broken connections) up to
//! [`MAX_TRIES`] times, each within [`TRY_LIMIT`], all within [`CALL_LIMIT`]; then the backend is
//! *unavailable*. That is less than a function has left when it starts anything, see `design.md` on
//! how times nest.
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

/// Tries of one call, the first included.
pub const MAX_TRIES: u32 = 4;

/// How long one try may take: 3 s. DynamoDB and SQS answer within tens of milliseconds; a slower
/// one is better asked again.
pub const TRY_LIMIT: Duration = Duration::from_secs(3);

/// How long all tries of a call may take together: 10 s.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The wait before the second try; it doubles, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The clients of one process. They share connections.
#[derive(Clone, Debug)]
pub struct Aws {
    http: SharedHttpClient,
    limits: (Duration, Duration),
}

impl Aws {
    /// Connects to nothing yet.
    pub fn new() -> Result<Self, InvalidHttp> {
        Ok(Self { http: SharedHttpClient::new(AwsHttp::new()?), limits: (TRY_LIMIT, CALL_LIMIT) })
    }

    /// The same with other limits of a try and of a call, for an emulator that is slower than AWS.
    #[must_use]
    pub fn with_limits(self, each: Duration, together: Duration) -> Self {
        Self { limits: (each, together), ..self }
    }

    /// A client of DynamoDB.
    pub fn dynamodb(&self, settings: &AwsSettings) -> aws_sdk_dynamodb::Client {
        let mut config = aws_sdk_dynamodb::config::Builder::from(&self.config(settings));
        config.set_endpoint_url(settings.dynamodb_endpoint.clone());
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    /// A client of SQS.
    pub fn sqs(&self, settings: &AwsSettings) -> aws_sdk_sqs::Client {
        let mut config = aws_sdk_sqs::config::Builder::from(&self.config(settings));
        config.set_endpoint_url(settings.sqs_endpoint.clone());
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    /// What all clients have in common.
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

/// Pinned, so that an update of the clients changes nothing unseen.
fn behaviour() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// Who calls, as it stands in the user agent. A function's name is one that the clients take.
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

/// Any failure of a call, for an error's source.
pub(crate) fn boxed(error: impl Error + Send + Sync + 'static) -> Box<dyn Error + Send + Sync> {
    Box::new(error)
}
