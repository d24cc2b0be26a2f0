//! What the store and the queue on Redis have in common: a connection that all calls share, and scripts.
//!
//! Every change is one Lua script, which the server runs as a whole or not at all. The keys of a store carry one hash tag, and those of
//! a queue another one, so a script's keys are in one slot.

use std::{fmt, sync::Arc, time::Duration};

use ::redis::{
    Client, Cmd, FromRedisValue, RedisError, RedisResult, Script, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::config::RedisUrl;

/// How long a call waits for its answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long it waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a connection that is refused is tried again within one call; the next call tries anew.
const CONNECT_RETRIES: usize = 1;

/// A server, and the prefix of all keys there.
#[derive(Clone)]
pub struct Connection {
    manager: ConnectionManager,
    address: String,
    prefix: Arc<str>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The settings do not make a client.
#[derive(Debug, thiserror::Error)]
#[error("no client can be made for {address}")]
pub struct InvalidConnection {
    /// Which server, without user and password.
    pub address: String,
    /// Why.
    #[source]
    pub source: RedisError,
}

impl Connection {
    /// Does not connect yet: the first call does, and each call after a connection was lost. Call it within a tokio runtime.
    pub fn new(url: &RedisUrl, prefix: &str, part: &str) -> Result<Self, InvalidConnection> {
        let address = url.to_string();
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(CONNECT_RETRIES)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let manager = Client::open(url.secret()).and_then(|client| ConnectionManager::new_lazy_with_config(client, config));
        match manager {
            Ok(manager) => Ok(Self { manager, address, prefix: format!("{{{prefix}-{part}}}:").into() }),
            Err(source) => Err(InvalidConnection { address, source }),
        }
    }

    /// What all keys begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The whole key.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs a command that does no harm if it runs twice: once more if the connection breaks.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match command.query_async(&mut self.manager.clone()).await {
            Err(error) if is_dropped(&error) => command.query_async(&mut self.manager.clone()).await,
            answer => answer,
        }
    }

    /// Runs a script.
    pub(crate) async fn once<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        script.invoke_async(&mut self.manager.clone()).await
    }

    /// Runs a script that does no harm if it runs twice: once more if the connection breaks, as it does when the server restarts.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        match self.once(script).await {
            Err(error) if is_dropped(&error) => self.once(script).await,
            answer => answer,
        }
    }

    /// The script with its first key and its first argument, the prefix. Every key has the same hash tag; the first one is named so that a
    /// cluster knows where to run the script.
    pub(crate) fn call<'a>(&self, script: &'a Script, arguments: &[&str]) -> ScriptInvocation<'a> {
        let mut invocation = script.prepare_invoke();
        invocation.key(self.prefix()).arg(self.prefix());
        for argument in arguments {
            invocation.arg(*argument);
        }
        invocation
    }
}

/// Whether the connection broke, so that the next call makes another one.
pub(crate) fn is_dropped(error: &RedisError) -> bool {
    error.is_connection_dropped()
}
