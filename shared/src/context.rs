//! The [`Context`] of a process: its settings, backends, clock and randomness.
//!
//! Each backend opens itself in a file of its own below `context/`, which exists only if the
//! backend's feature is on. Everything else works with the [`Store`] and [`Queue`] traits. Only the
//! commands of the local stack that maintain the embedded file know a backend by name.
//!
//! | file | backend | feature |
//! |---|---|---|
//! | `sqlite.rs` | the embedded file, as store, queue or both | `sqlite` |
//! | `redis.rs` | Redis, as store, queue or both | `redis` |
//! | `aws.rs` | DynamoDB as store, SQS as queue | `aws` |

#[cfg(feature = "aws")]
mod aws;
mod backends;
mod environment;
mod error;
mod opening;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::{sync::Arc, time::Duration};

pub use self::{
    backends::Backends,
    environment::config_from_env,
    error::{ContextError, RecoverInFlightError},
    opening::DataDirMode,
};
use crate::{
    application_cache::{ApplicationCache, CachedApplication},
    applications::id::ApplicationId,
    clock::{Clock, SystemClock},
    config::{Config, Defaults, EgressSettings},
    liveness::Liveness,
    metrics::Metrics,
    queue::Queue,
    random::{Random, SystemRandom},
    sender::{AddressGuard, GuardSettings, HttpSender, SenderConfig, pem},
    store::{Store, StoreError},
    transition::Rules,
};

/// Lambda sets this variable.
const LAMBDA_FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";

/// The parts that a function works with. A process makes one, and all its invocations share it.
/// Tests and the simulation replace parts.
#[derive(Clone, Debug)]
pub struct Context {
    /// The settings.
    pub config: Arc<Config>,
    /// The rules of transitions.
    pub rules: Arc<Rules>,
    /// Keeps webhooks.
    pub store: Arc<dyn Store>,
    /// Keeps messages.
    pub queue: Arc<dyn Queue>,
    /// Checks URLs when they are accepted. The sender checks them again before each attempt.
    pub guard: Arc<AddressGuard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The documents of applications that this process has read.
    pub applications: Arc<ApplicationCache>,
    /// The counters that this process has not yet added to the store's totals.
    pub metrics: Arc<Metrics>,
    /// Whether this process may continue its attempts. It must stop them if other processes take
    /// over its claims.
    pub liveness: Arc<Liveness>,
}

impl Context {
    /// Configures a Lambda function from its environment. It prints its metrics for CloudWatch
    /// under the name that it is deployed by.
    pub async fn for_lambda() -> Result<Self, ContextError> {
        let config = config_from_env(Defaults::LAMBDA).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let backends = Backends::open(&config, &clock, DataDirMode::Shared)?;
        backends.keep_until_exit();
        // A zero interval flushes the counters at the end of each invocation.
        let mut context = Self::new(config, &backends, clock, Duration::ZERO)?;
        if let Ok(function) = std::env::var(LAMBDA_FUNCTION_NAME) {
            context.metrics = Arc::new(Metrics::for_lambda(function));
        }
        Ok(context)
    }

    /// Creates a context with these backends. It flushes its counters at most once per
    /// `flush_interval`.
    pub fn new(
        mut config: Config,
        backends: &Backends,
        clock: Arc<dyn Clock>,
        flush_interval: Duration,
    ) -> Result<Self, ContextError> {
        config.master_keys = config.master_keys.or_else(|| backends.master_keys().cloned());
        let guard = Arc::new(AddressGuard::new(GuardSettings {
            allow_private: config.allow_private,
            allowlist: config.allowlist.clone(),
            host_allowlist: config.host_allowlist.clone(),
        })?);
        warn_of_risky_settings(&config, &guard);
        Ok(Self {
            rules: Arc::new(config.rules.clone()),
            applications: Arc::new(ApplicationCache::new(config.endpoint_cache)),
            config: Arc::new(config),
            store: Arc::clone(backends.store()),
            queue: Arc::clone(backends.queue()),
            guard,
            clock,
            random: Arc::new(SystemRandom),
            metrics: Arc::new(Metrics::new(flush_interval)),
            liveness: Arc::clone(backends.liveness()),
        })
    }

    /// The document of an application, at most `ENDPOINT_CACHE_MS` old.
    pub async fn application(
        &self,
        id: &ApplicationId,
    ) -> Result<Option<CachedApplication>, StoreError> {
        self.applications.get(&*self.store, &*self.clock, id).await
    }

    /// The document of an application as it is stored now.
    pub async fn read_application(
        &self,
        id: &ApplicationId,
    ) -> Result<Option<CachedApplication>, StoreError> {
        self.applications.read(&*self.store, &*self.clock, id).await
    }

    /// Creates the sender that the settings describe. Only the function that makes attempts calls
    /// this: the others contain no HTTP client, and do not set one up at each cold start.
    pub fn http_sender(&self) -> Result<HttpSender, ContextError> {
        let EgressSettings { ca, client, proxy } = &self.config.egress;
        let extra_roots = ca.as_ref().map(pem::authorities).transpose()?.unwrap_or_default();
        let identity = client.as_ref().map(pem::identity).transpose()?;
        let sender = SenderConfig::new(self.config.secrets.clone(), Arc::clone(&self.guard));
        let excerpts = self.config.response_excerpts;
        let proxy = proxy.clone();
        Ok(HttpSender::new(SenderConfig { extra_roots, identity, proxy, excerpts, ..sender })?)
    }
}

fn warn_of_risky_settings(config: &Config, guard: &AddressGuard) {
    for secret in config.secrets.iter().filter(|secret| secret.is_raw()) {
        tracing::warn!(
            ?secret,
            "WEBHOOK_HMAC_SECRET is not base64. Its bytes are used as the key."
        );
    }
    if let Some(url) = guard.allowlist_gap() {
        tracing::warn!(
            url,
            "WEBHOOK_ALLOWLIST does not mark the end of the host, so it also allows other hosts. \
             End the host with a slash, as in https://hooks\\.example\\.com/"
        );
    }
    if config.allow_private {
        tracing::warn!(
            "ALLOW_PRIVATE_DESTINATIONS is on: webhooks may be sent to private and loopback \
             addresses"
        );
    }
}
