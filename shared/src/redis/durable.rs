//! Writes that replicas must confirm before they are answered (`STATUS_REDIS_WAIT`).
//!
//! `WAIT` counts the replicas that have every write of *its own connection*, and blocks that
//! connection. So these writes have a connection of their own. A write and its `WAIT` are one
//! pipeline, which never spans a reconnection. On a cluster the pipeline goes to the node with the
//! write's slot. Writes that arrive while others wait share the next `WAIT`.
//!
//! A retried write whose first `WAIT` failed changes nothing. So each pipeline also writes a mark,
//! and `WAIT` confirms that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Value,
    aio::ConnectionLike,
    cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr},
    cmd,
};

use super::{Batcher, Call, Link, script};

/// How long replicas have to confirm.
const WAIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a pipeline is sent that changed nothing, because the node does not know the script or
/// no longer has the slot.
const MAX_ROUNDS: usize = 3;

/// Writes that wait for replicas.
#[derive(Clone)]
pub(super) struct Durable(Arc<Inner>);

struct Inner {
    link: Link,
    replicas: u32,
    /// One batcher for a server. One per slot for a cluster.
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
}

/// Writes that share a pipeline. Each has its own answer.
type Lane = Batcher<Write, RedisResult<Value>>;

/// A script with its arguments: by hash, and by text for a node that does not know it.
struct Write {
    by_hash: Cmd,
    by_text: Cmd,
}

impl Durable {
    pub(super) fn new(link: Link, replicas: u32) -> Self {
        Self(Arc::new(Inner { link, replicas, lanes: Mutex::default() }))
    }

    /// Runs the script. Answers once enough replicas have the write. An error means that they did
    /// not confirm in time. The write may have taken effect.
    pub(super) async fn run<T: FromRedisValue>(&self, call: &Call<'_>) -> RedisResult<T> {
        let tag = call.tag();
        let group =
            if matches!(self.0.link, Link::Cluster(_)) { tag.clone() } else { String::new() };
        let lane = {
            let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(lanes.entry(group).or_default())
        };
        let write = Write { by_hash: call.by_hash(), by_text: call.by_text() };
        let (inner, mark) = (Arc::clone(&self.0), format!("{tag}:confirmed"));
        let run = move |writes| {
            let (inner, mark) = (Arc::clone(&inner), mark.clone());
            async move { inner.run_all(writes, &mark).await }
        };
        let answer = lane.add(vec![write], run).await?.pop();
        let value = answer.unwrap_or_else(|| Err(unexpected()))?;
        Ok(T::from_redis_value(value)?)
    }
}

impl Inner {
    async fn run_all(
        &self,
        writes: Vec<Write>,
        mark: &str,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        let mut answers: Vec<RedisResult<Value>> =
            writes.iter().map(|_| Err(unexpected())).collect();
        let mut open: Vec<usize> = (0..writes.len()).collect();
        let mut by_text = false;
        for _ in 0..MAX_ROUNDS {
            let mut pipeline = Pipeline::new();
            for &index in &open {
                let write = &writes[index];
                pipeline.add_command(if by_text {
                    write.by_text.clone()
                } else {
                    write.by_hash.clone()
                });
            }
            pipeline.cmd("EVAL").arg(script::TOUCH).arg(1).arg(mark);
            pipeline.cmd("WAIT").arg(self.replicas).arg(WAIT_TIMEOUT.as_millis() as u64);
            let mut values = self.send(&pipeline, mark).await?;
            let confirmed = self.confirmed(values.pop(), values.pop());
            let mut undone = Vec::new();
            for (index, value) in open.into_iter().zip(values) {
                let answer = value.extract_error();
                if answer
                    .as_ref()
                    .is_err_and(|error| script::is_unknown(error) || error.is_cluster_error())
                {
                    undone.push(index);
                }
                answers[index] = answer.and_then(|value| confirmed.clone().map(|()| value));
            }
            if undone.is_empty() {
                break;
            }
            let is_moved =
                |index: &usize| answers[*index].as_ref().is_err_and(RedisError::is_cluster_error);
            if undone.iter().any(is_moved) {
                // Follows the redirection, so the next pipeline finds the node.
                let _ = self.link.send::<Value>(cmd("EXISTS").arg(mark)).await;
            }
            (open, by_text) = (undone, true);
        }
        Ok(answers)
    }

    fn confirmed(&self, wait: Option<Value>, mark: Option<Value>) -> RedisResult<()> {
        mark.unwrap_or(Value::Nil).extract_error()?;
        let replicas = u32::from_redis_value(wait.unwrap_or(Value::Nil).extract_error()?)?;
        if replicas >= self.replicas {
            return Ok(());
        }
        let found =
            format!("{replicas} of {} within {} ms", self.replicas, WAIT_TIMEOUT.as_millis());
        Err((ErrorKind::Client, "too few replicas confirmed a write (STATUS_REDIS_WAIT)", found)
            .into())
    }

    async fn send(&self, pipeline: &Pipeline, key: &str) -> RedisResult<Vec<Value>> {
        let values = match &self.link {
            Link::Server(manager) => {
                manager.clone().req_packed_commands(pipeline, 0, pipeline.len()).await?
            }
            Link::Cluster(cluster) => {
                let node =
                    SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                cluster
                    .connection()
                    .await?
                    .route_pipeline(pipeline.clone(), 0, pipeline.len(), node)
                    .await?
            }
        };
        if values.len() == pipeline.len() { Ok(values) } else { Err(unexpected()) }
    }
}

fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "a pipeline brought another number of answers").into()
}
