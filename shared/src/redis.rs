//! What the store and the queue on Redis share: a connection to a server or a cluster, and scripts.
//!
//! Every change is one Lua script, which a server runs whole or not at all. A script receives every
//! key that it touches. All of them have one hash tag, so on a cluster they are in one slot, and
//! the script runs on the node with that slot. The store and the queue choose the tags, and so what
//! changes together.
//!
//! **Bounded waits.** A call waits `RESPONSE_TIMEOUT` for its answer and then fails. It never waits
//! for a server to return. On a cluster the client follows redirections and retries within that
//! time, so a script may run twice. Each script is safe to run twice.

mod batcher;
mod durable;
mod script;

use std::{fmt, future::Future, io, sync::Arc, time::Duration};

use ::redis::{
    Client, Cmd, FromRedisValue, InfoDict, RedisError, RedisResult, TlsCertificates, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo},
};
use tokio::{sync::OnceCell, time::timeout};

use self::durable::Durable;
pub(crate) use self::{
    batcher::Batcher,
    script::{Call, Script, allow_full_memory, is_full, scripts},
};
use crate::config::RedisUrl;

/// How long a call waits for its answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a call waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often one call retries a refused connection. The next call starts again.
const CONNECT_RETRIES: usize = 1;

/// How often a call to a cluster is retried within its time, after a redirection, a slot that moves
/// or a broken connection.
const CLUSTER_RETRIES: u32 = 5;

/// The longest wait before such a retry.
const MAX_CLUSTER_RETRY_WAIT_MS: u64 = 500;

/// A connection to a server or a cluster, and the prefix of all keys there.
#[derive(Clone)]
pub struct Connection {
    link: Link,
    durable: Option<Durable>,
    address: String,
    scope: Arc<str>,
}

#[derive(Clone)]
enum Link {
    Server(ConnectionManager),
    Cluster(Arc<Cluster>),
}

/// A cluster. The first successful call opens the connection.
struct Cluster {
    client: ClusterClient,
    connection: OnceCell<ClusterConnection>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// The settings make no valid client.
#[derive(Debug, thiserror::Error)]
#[error("no client can be made for {address}")]
pub struct InvalidConnection {
    /// The server, without user and password.
    pub address: String,
    /// The cause.
    #[source]
    pub source: RedisError,
}

impl Connection {
    /// Creates the connection without opening it. The first call opens it, and each call after it
    /// was lost. Call this within a tokio runtime.
    pub fn new(url: &RedisUrl, prefix: &str, part: &str) -> Result<Self, InvalidConnection> {
        let link = Link::to(url)?;
        Ok(Self {
            link,
            durable: None,
            address: url.to_string(),
            scope: format!("{prefix}-{part}").into(),
        })
    }

    /// Makes `Connection::run_durably` wait until this many replicas have the write.
    pub fn confirmed_by(self, url: &RedisUrl, replicas: u32) -> Result<Self, InvalidConnection> {
        let link = if replicas == 0 { None } else { Some(Link::to(url)?) };
        Ok(Self { durable: link.map(|link| Durable::new(link, replicas)), ..self })
    }

    /// Whether writes wait for replicas.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.durable.is_some()
    }

    /// The whole key. Keys of the same `{PREFIX-PART}` share a slot.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{{{}}}:{name}", self.scope)
    }

    /// The whole key. Keys of the same `{PREFIX-PART-SHARD}` share a slot.
    pub(crate) fn key_of_shard(&self, shard: usize, name: &str) -> String {
        format!("{{{}-{shard}}}:{name}", self.scope)
    }

    /// Runs a command that is safe to run twice. Retries once if the connection breaks.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self.send(command).await {
            Err(error) if is_dropped(&error) => self.send(command).await,
            answer => answer,
        }
    }

    /// Runs a script. Does not retry if the connection breaks. A cluster's client may retry.
    pub(crate) async fn once<T: FromRedisValue>(&self, call: &Call<'_>) -> RedisResult<T> {
        match self.send(&call.by_hash()).await {
            // A node that started or was promoted since. It keeps the script from now on.
            Err(error) if script::is_unknown(&error) => self.send(&call.by_text()).await,
            answer => answer,
        }
    }

    /// Runs a script that is safe to run twice. Retries once if the connection breaks, for example
    /// because the server restarts.
    pub(crate) async fn run<T: FromRedisValue>(&self, call: &Call<'_>) -> RedisResult<T> {
        match self.once(call).await {
            Err(error) if is_dropped(&error) => self.once(call).await,
            answer => answer,
        }
    }

    /// Runs a script whose answer promises durability. If `again`, retries once if the connection
    /// breaks.
    pub(crate) async fn run_durably<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
        again: bool,
    ) -> RedisResult<T> {
        let Some(durable) = &self.durable else {
            return if again { self.run(call).await } else { self.once(call).await };
        };
        match durable.run(call).await {
            Err(error) if again && is_dropped(&error) => durable.run(call).await,
            answer => answer,
        }
    }

    /// Writes this key. Fails on a replica, which answers reads. Succeeds on full memory, because
    /// the server can still be read and emptied.
    pub(crate) async fn ping(&self, key: &str) -> RedisResult<()> {
        self.ask(::redis::cmd("EVAL").arg(script::TOUCH).arg(1).arg(key)).await
    }

    /// A section of `INFO` from each node that takes writes.
    pub(crate) async fn info(&self, section: &str) -> RedisResult<Vec<InfoDict>> {
        let command = ::redis::cmd("INFO").arg(section).clone();
        match &self.link {
            Link::Server(_) => Ok(vec![self.ask(&command).await?]),
            Link::Cluster(_) => self.each_node(command).await,
        }
    }

    /// A setting from each node that takes writes. Empty if the user may not read it.
    pub(crate) async fn setting(&self, name: &str) -> RedisResult<Vec<(String, String)>> {
        let command = ::redis::cmd("CONFIG").arg("GET").arg(name).clone();
        match &self.link {
            Link::Server(_) => Ok(self
                .ask::<Option<(String, String)>>(&command)
                .await
                .unwrap_or(None)
                .into_iter()
                .collect()),
            Link::Cluster(_) => Ok(self.each_node(command).await.unwrap_or_default()),
        }
    }

    async fn each_node<T: FromRedisValue>(&self, command: Cmd) -> RedisResult<Vec<T>> {
        let Link::Cluster(cluster) = &self.link else { return Ok(Vec::new()) };
        let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answer = cluster.connection().await?.route_command(command, everywhere).await?;
        let Value::Map(answers) = answer else { return Ok(Vec::new()) };
        answers.into_iter().map(|(_, answer)| Ok(T::from_redis_value(answer)?)).collect()
    }

    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        self.link.send(command).await
    }
}

impl Link {
    fn to(url: &RedisUrl) -> Result<Self, InvalidConnection> {
        let link = if url.is_cluster() { cluster(url) } else { server(url) };
        link.map_err(|source| InvalidConnection { address: url.to_string(), source })
    }

    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Server(manager) => command.query_async(&mut manager.clone()).await,
            Self::Cluster(cluster) => command.query_async(&mut cluster.connection().await?).await,
        }
    }
}

impl Cluster {
    /// The connection that all calls share.
    async fn connection(&self) -> RedisResult<ClusterConnection> {
        let connect = self.connection.get_or_try_init(|| self.client.get_async_connection());
        in_time(connect).await.cloned()
    }
}

/// Includes the wait for other calls that connect.
async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(RESPONSE_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

fn certificates(url: &RedisUrl) -> Option<TlsCertificates> {
    let root_cert = url.ca()?.to_vec();
    Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
}

fn server(url: &RedisUrl) -> RedisResult<Link> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(CONNECT_RETRIES)
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let client = match certificates(url) {
        Some(certificates) => Client::build_with_tls(url.secret(), certificates)?,
        None => Client::open(url.secret())?,
    };
    ConnectionManager::new_lazy_with_config(client, config).map(Link::Server)
}

fn cluster(url: &RedisUrl) -> RedisResult<Link> {
    let mut builder = ClusterClient::builder(url.nodes())
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(RESPONSE_TIMEOUT)
        .retries(CLUSTER_RETRIES)
        .min_retry_wait(1)
        .max_retry_wait(MAX_CLUSTER_RETRY_WAIT_MS);
    if let Some(certificates) = certificates(url) {
        builder = builder.certs(certificates);
    }
    Ok(Link::Cluster(Arc::new(Cluster { client: builder.build()?, connection: OnceCell::new() })))
}

/// Whether the connection broke, so the next call opens another one.
pub(crate) fn is_dropped(error: &RedisError) -> bool {
    error.is_connection_dropped()
}
