//! Opens Redis. Store and queue share one heartbeat.

mod heartbeat;

use std::sync::Arc;

use async_trait::async_trait;

use self::heartbeat::Heartbeat;
use super::{
    error::{ContextError, RecoverInFlightError},
    opening::{Opened, Opening, Service},
};
use crate::{
    clock::{Clock, Timestamp},
    config::RedisSettings,
    liveness::Liveness,
    queue::redis::RedisQueue,
    redis::{Connection, InvalidConnection},
    store::redis::RedisStore,
};

pub(super) fn open(opening: Opening<'_>) -> Result<Opened, ContextError> {
    let Opening { config, clock, roles, .. } = opening;
    let liveness = Arc::default();
    let store = roles.store.then(|| open_store(&config.redis, clock, &liveness)).transpose();
    let (store_connection, store) = store.map_err(ContextError::backend)?.unzip();
    let queue = roles.queue.then(|| open_queue(&config.redis, clock, &liveness)).transpose();
    let (queue_connection, queue) = queue.map_err(ContextError::backend)?.unzip();
    let mut opened = Opened {
        store: store.clone().map(|store| store as _),
        queue: queue.clone().map(|queue| queue as _),
        // Without a store on Redis no process takes over claims, and no attempt has to stop.
        liveness: store.as_ref().map(|_| Arc::clone(&liveness)),
        master_keys: None,
        service: None,
    };
    // The heartbeat is kept beside the webhooks if they are on Redis.
    if let Some(connection) = store_connection.or(queue_connection) {
        let heartbeat = Heartbeat::new(connection, liveness, Arc::clone(clock), store, queue);
        opened.service = Some(Arc::new(heartbeat));
    }
    Ok(opened)
}

fn open_store(
    settings: &RedisSettings,
    clock: &Arc<dyn Clock>,
    liveness: &Arc<Liveness>,
) -> Result<(Connection, Arc<RedisStore>), InvalidConnection> {
    let url = &settings.status;
    let connection = Connection::new(url, &settings.status_prefix, "status")?;
    let connection = connection.confirmed_by(url, settings.status_wait)?;
    let store = RedisStore::of_process(connection.clone(), Arc::clone(clock), Arc::clone(liveness));
    Ok((connection, Arc::new(store)))
}

fn open_queue(
    settings: &RedisSettings,
    clock: &Arc<dyn Clock>,
    liveness: &Arc<Liveness>,
) -> Result<(Connection, Arc<RedisQueue>), InvalidConnection> {
    let connection = Connection::new(&settings.queue, &settings.queue_prefix, "queue")?;
    let queue = RedisQueue::of_process(connection.clone(), Arc::clone(clock), Arc::clone(liveness));
    Ok((connection, Arc::new(queue)))
}

#[async_trait]
impl Service for Heartbeat {
    async fn recover_in_flight(&self, _: Timestamp) -> Result<u64, RecoverInFlightError> {
        Ok(0)
    }

    async fn run(&self) {
        self.clone().beat_forever().await;
    }
}
