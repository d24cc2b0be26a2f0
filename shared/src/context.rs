//! What a function works with: the configured backends, the sender, the clock. The only file that
//! names concrete backends.

use std::{fmt::Debug, sync::Arc, time::Duration};

#[cfg(feature = "aws")]
use crate::{
    aws::{Aws, http::InvalidHttp, secrets::UnreadableSecret},
    queue::sqs::SqsQueue,
    store::dynamodb::DynamoStore,
};
#[cfg(feature = "sqlite")]
use crate::{
    clock::Timestamp,
    queue::sqlite::SqliteQueue,
    sqlite::{DataDir, DataDirError, Database, OpenError},
    store::sqlite::SqliteStore,
};
use crate::{
    clock::{Clock, SystemClock},
    config::{Backend, Config, ConfigErrors, Defaults, EgressSettings},
    liveness::Liveness,
    metrics::Metrics,
    queue::Queue,
    random::{Random, SystemRandom},
    sender::{
        AddressGuard, HttpSender, InvalidPem, InvalidSender, SenderConfig,
        guard::{GuardSettings, InvalidHostGlob},
        pem,
    },
    store::Store,
    transition::Rules,
};
#[cfg(feature = "redis")]
use crate::{
    queue::redis::RedisQueue,
    redis::{Connection, Heartbeat, InvalidConnection},
    store::redis::RedisStore,
};

/// Lambda sets it.
const LAMBDA_FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";

/// Made once per process, and shared by all its invocations. Tests and simulations put their own
/// parts in.
#[derive(Clone, Debug)]
pub struct Context {
    /// The settings.
    pub config: Arc<Config>,
    /// What may happen to a webhook.
    pub rules: Arc<Rules>,
    /// Where webhooks are kept.
    pub store: Arc<dyn Store>,
    /// Where messages wait.
    pub queue: Arc<dyn Queue>,
    /// Judges URLs at acceptance as the sender does before each attempt.
    pub guard: Arc<AddressGuard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
    /// What this process has done and not yet told the store.
    pub metrics: Arc<Metrics>,
    /// Whether this process may go on with its attempts, where others take over when it seems dead.
    pub liveness: Arc<Liveness>,
}

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// A backend was chosen that this binary does not have.
    #[error(
        "{variable} is {backend}, which this build of Posthaste does not have; it was built \
         without that feature"
    )]
    NotBuiltIn {
        /// The variable that chose it.
        variable: &'static str,
        /// Its name.
        backend: &'static str,
    },
    /// The embedded backend's file cannot be used.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The embedded backend's folder cannot be used, or a stack has it for itself.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What the settings say of Redis does not make a client.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Redis(#[from] InvalidConnection),
    /// No client of AWS can be made.
    #[cfg(feature = "aws")]
    #[error(transparent)]
    Aws(#[from] InvalidHttp),
    /// A setting refers to a secret that cannot be read.
    #[cfg(feature = "aws")]
    #[error(transparent)]
    Secret(#[from] UnreadableSecret),
    /// The settings are bad.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The allowlist of hosts is not what the settings said it is.
    #[error(transparent)]
    Guard(#[from] InvalidHostGlob),
    /// A file of certificates or of a key is of no use.
    #[error(transparent)]
    Pem(#[from] InvalidPem),
    /// No HTTP client can be made.
    #[error(transparent)]
    Sender(#[from] InvalidSender),
}

/// The store and the queue, as configured.
#[derive(Clone, Debug)]
pub struct Backends {
    /// Where webhooks are kept.
    pub store: Arc<dyn Store>,
    /// Where messages wait.
    pub queue: Arc<dyn Queue>,
    liveness: Arc<Liveness>,
    #[cfg(feature = "redis")]
    heartbeat: Option<Heartbeat>,
    #[cfg(feature = "sqlite")]
    embedded: (Option<Arc<SqliteStore>>, Option<Arc<SqliteQueue>>),
}

impl Backends {
    /// Opens what `STATUS_BACKEND` and `QUEUE_BACKEND` chose; the caller sees to the lock of the
    /// embedded file's folder. A server need not answer yet: `GET /health` tells whether it does.
    /// Call it within a tokio runtime.
    #[cfg_attr(
        not(any(feature = "aws", feature = "redis", feature = "sqlite")),
        expect(unused_variables, unreachable_code, reason = "no backend is built in")
    )]
    pub fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, ContextError> {
        #[cfg(feature = "sqlite")]
        let (database, mut embedded) = (Embedded::new(config), (None, None));
        #[cfg(feature = "aws")]
        let amazon = Amazon::default();
        #[cfg(feature = "redis")]
        let mut redis = OnRedis::default();
        let store: Arc<dyn Store> = match config.status_backend {
            #[cfg(feature = "sqlite")]
            Backend::Sqlite => {
                let store = Arc::new(SqliteStore::new(database.get()?, Arc::clone(clock)));
                embedded.0 = Some(Arc::clone(&store));
                store
            }
            #[cfg(feature = "redis")]
            Backend::Redis => redis.open_store(config, clock)?,
            #[cfg(feature = "aws")]
            Backend::DynamoDb => {
                let client = amazon.get()?.dynamodb(&config.aws);
                let retention = config.rules.limits.retention;
                Arc::new(DynamoStore::new(
                    client,
                    &config.aws.table_name,
                    Arc::clone(clock),
                    retention,
                ))
            }
            other => return Err(not_built_in("STATUS_BACKEND", other)),
        };
        let queue: Arc<dyn Queue> = match config.queue_backend {
            #[cfg(feature = "sqlite")]
            Backend::Sqlite => {
                let queue = Arc::new(SqliteQueue::new(database.get()?, Arc::clone(clock)));
                embedded.1 = Some(Arc::clone(&queue));
                queue
            }
            #[cfg(feature = "redis")]
            Backend::Redis => redis.open_queue(config, clock)?,
            #[cfg(feature = "aws")]
            Backend::Sqs => Arc::new(SqsQueue::new(amazon.get()?.sqs(&config.aws), &config.aws)),
            other => return Err(not_built_in("QUEUE_BACKEND", other)),
        };
        Ok(Self {
            store,
            queue,
            #[cfg(feature = "redis")]
            liveness: redis.liveness_of_claims(),
            #[cfg(not(feature = "redis"))]
            liveness: Arc::default(),
            #[cfg(feature = "redis")]
            heartbeat: redis.heartbeat(clock),
            #[cfg(feature = "sqlite")]
            embedded,
        })
    }

    /// Keeps the heartbeat of this process for as long as it is polled, and takes over from
    /// processes whose heartbeat stopped; see [`Heartbeat`]. Only for a process that runs all the
    /// time until it ends. Does nothing where no backend is on Redis.
    #[cfg(feature = "redis")]
    pub fn keep_alive(&self) -> impl Future<Output = ()> + Send + use<> {
        let heartbeat = self.heartbeat.clone();
        async move {
            if let Some(heartbeat) = heartbeat {
                heartbeat.run().await;
            }
        }
    }

    /// Ends what the last run on the embedded file began, so that it goes on now and not when
    /// leases and visibility timeouts run out. Only for who knows that nobody else is at work, and
    /// before anybody is. How many webhooks and messages that were.
    #[cfg(feature = "sqlite")]
    pub async fn recover_in_flight(&self, now: Timestamp) -> Result<u64, RecoverInFlightError> {
        let (store, queue) = &self.embedded;
        let mut count = 0;
        let mut led_to = None;
        if let Some(queue) = queue {
            let taken = queue.recover_in_flight(now).await?;
            count += taken.released;
            led_to = Some(taken.webhooks);
        }
        if let Some(store) = store {
            let taken = store.recover_in_flight(now, led_to).await?;
            count = count.max(taken.leases) + taken.unsent;
        }
        Ok(count)
    }
}

fn not_built_in(variable: &'static str, backend: Backend) -> ContextError {
    ContextError::NotBuiltIn { variable, backend: backend.as_str() }
}

/// The embedded file, opened when the first of store and queue asks for it.
#[cfg(feature = "sqlite")]
struct Embedded<'a> {
    config: &'a Config,
    opened: std::cell::OnceCell<Database>,
}

#[cfg(feature = "sqlite")]
impl<'a> Embedded<'a> {
    fn new(config: &'a Config) -> Self {
        Self { config, opened: std::cell::OnceCell::new() }
    }

    fn get(&self) -> Result<Database, OpenError> {
        if let Some(database) = self.opened.get() {
            return Ok(database.clone());
        }
        let database = Database::open(&self.config.data_dir.join(crate::sqlite::DATABASE_FILE))?;
        Ok(self.opened.get_or_init(|| database).clone())
    }
}

/// What is on Redis, and shares a heartbeat.
#[cfg(feature = "redis")]
#[derive(Default)]
struct OnRedis {
    liveness: Arc<Liveness>,
    store: Option<(Connection, Arc<RedisStore>)>,
    queue: Option<(Connection, Arc<RedisQueue>)>,
}

#[cfg(feature = "redis")]
impl OnRedis {
    fn open_store(
        &mut self,
        config: &Config,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn Store>, InvalidConnection> {
        let url = &config.redis.status;
        let connection = Connection::new(url, &config.redis.status_prefix, "status")?;
        let connection = connection.confirmed_by(url, config.redis.status_wait)?;
        let store = RedisStore::of_process(
            connection.clone(),
            Arc::clone(clock),
            Arc::clone(&self.liveness),
        );
        Ok(Arc::clone(&self.store.insert((connection, Arc::new(store))).1) as _)
    }

    fn open_queue(
        &mut self,
        config: &Config,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn Queue>, InvalidConnection> {
        let connection = Connection::new(&config.redis.queue, &config.redis.queue_prefix, "queue")?;
        let queue = RedisQueue::of_process(
            connection.clone(),
            Arc::clone(clock),
            Arc::clone(&self.liveness),
        );
        Ok(Arc::clone(&self.queue.insert((connection, Arc::new(queue))).1) as _)
    }

    /// Of the process's claims: without a store on Redis nobody takes them over, and no attempt has
    /// to stop.
    fn liveness_of_claims(&self) -> Arc<Liveness> {
        if self.store.is_some() { Arc::clone(&self.liveness) } else { Arc::default() }
    }

    /// One for both, where the webhooks are if they are on Redis.
    fn heartbeat(self, clock: &Arc<dyn Clock>) -> Option<Heartbeat> {
        let (store_connection, store) = self.store.unzip();
        let (queue_connection, queue) = self.queue.unzip();
        let connection = store_connection.or(queue_connection)?;
        Some(Heartbeat::new(connection, self.liveness, Arc::clone(clock), store, queue))
    }
}

/// The clients of AWS, made when the first of store and queue asks for them.
#[cfg(feature = "aws")]
#[derive(Default)]
struct Amazon {
    made: std::cell::OnceCell<Aws>,
}

#[cfg(feature = "aws")]
impl Amazon {
    fn get(&self) -> Result<&Aws, InvalidHttp> {
        if let Some(aws) = self.made.get() {
            return Ok(aws);
        }
        let aws = Aws::new()?;
        Ok(self.made.get_or_init(|| aws))
    }
}

/// The settings of the process's environment, with the secrets that they refer to (see
/// [`crate::aws::secrets`]).
#[cfg_attr(
    not(feature = "aws"),
    expect(clippy::unused_async, reason = "without AWS there is nobody to ask")
)]
pub async fn config_from_env(defaults: Defaults) -> Result<Config, ContextError> {
    #[cfg(feature = "aws")]
    {
        let secrets = crate::aws::secrets::resolve(|name| std::env::var(name).ok()).await?;
        let source =
            |name: &str| secrets.get(name).map(Into::into).or_else(|| std::env::var_os(name));
        Ok(Config::from_raw_source(defaults, source)?)
    }
    #[cfg(not(feature = "aws"))]
    Ok(Config::from_env(defaults)?)
}

/// What the last run left cannot be read or written.
#[cfg(feature = "sqlite")]
#[derive(Debug, thiserror::Error)]
pub enum RecoverInFlightError {
    /// The store failed.
    #[error("cannot take over the webhooks of the last run")]
    Store(#[from] crate::store::StoreError),
    /// The queue failed.
    #[error("cannot take over the messages of the last run")]
    Queue(#[from] crate::queue::QueueError),
}

impl Context {
    /// Configures a Lambda function from its environment. It prints its metrics for CloudWatch
    /// under the name that it is deployed by.
    pub async fn for_lambda() -> Result<Self, ContextError> {
        let mut context = Self::from_config(config_from_env(Defaults::LAMBDA).await?)?;
        if let Ok(function) = std::env::var(LAMBDA_FUNCTION_NAME) {
            context.metrics = Arc::new(Metrics::for_lambda(function));
        }
        Ok(context)
    }

    /// Everything as configured but the sender, with the machine's clock, for a function in a
    /// process of its own: others may work on the same backends. Counters are flushed at the end of
    /// each invocation.
    fn from_config(config: Config) -> Result<Self, ContextError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        #[cfg(feature = "sqlite")]
        if config.is_embedded() {
            DataDir::share(&config.data_dir)?.keep();
        }
        let backends = Backends::open(&config, &clock)?;
        Self::new(config, backends, clock, Duration::ZERO)
    }

    /// A sender by the settings. Only the function that makes attempts needs one: the others
    /// contain no HTTP client, and do not set one up at each cold start.
    pub fn http_sender(&self) -> Result<HttpSender, ContextError> {
        let EgressSettings { ca, client, proxy } = &self.config.egress;
        let extra_roots = ca.as_ref().map(pem::authorities).transpose()?.unwrap_or_default();
        let identity = client.as_ref().map(pem::identity).transpose()?;
        let sender = SenderConfig::new(self.config.secrets.clone(), Arc::clone(&self.guard));
        let excerpts = self.config.response_excerpts;
        let proxy = proxy.clone();
        Ok(HttpSender::new(SenderConfig { extra_roots, identity, proxy, excerpts, ..sender })?)
    }

    /// Everything as configured, over these backends. Counters are flushed at most once per
    /// `flush_interval`.
    pub fn new(
        config: Config,
        backends: Backends,
        clock: Arc<dyn Clock>,
        flush_interval: Duration,
    ) -> Result<Self, ContextError> {
        let guard = Arc::new(AddressGuard::new(GuardSettings {
            allow_private: config.allow_private,
            allowlist: config.allowlist.clone(),
            host_allowlist: config.host_allowlist.clone(),
        })?);
        for secret in config.secrets.iter().filter(|secret| secret.is_raw()) {
            tracing::warn!(
                ?secret,
                "WEBHOOK_HMAC_SECRET is not base64: its bytes are the key as they stand"
            );
        }
        if let Some(url) = guard.allowlist_gap() {
            tracing::warn!(
                url,
                "WEBHOOK_ALLOWLIST does not mark the end of the host, so it lets other hosts in: \
                 end the host with a slash, as in https://hooks\\.example\\.com/"
            );
        }
        if config.allow_private {
            tracing::warn!(
                "ALLOW_PRIVATE_DESTINATIONS is on: webhooks may be sent to private and loopback \
                 addresses"
            );
        }
        Ok(Self {
            rules: Arc::new(config.rules.clone()),
            config: Arc::new(config),
            store: backends.store,
            queue: backends.queue,
            guard,
            clock,
            random: Arc::new(SystemRandom),
            metrics: Arc::new(Metrics::new(flush_interval)),
            liveness: backends.liveness,
        })
    }
}
