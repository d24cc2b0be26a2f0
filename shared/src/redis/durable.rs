//! Writes that replicas have before they are answered (`STATUS_REDIS_WAIT`).
//!
//! `WAIT` counts the replicas that have everything that *its own connection* has written, and
//! blocks that connection. So these writes have a connection of their own, and a write and its
//! `WAIT` go there as one pipeline, which never spans a reconnection. On a cluster the pipeline
//! goes to the node that has the write's slot. Writes that come while others wait go together: they
//! share the next `WAIT`.
//!
//! A write that found everything done already, by an earlier try whose `WAIT` failed, changes
//! nothing. So each pipeline writes a mark too, and `WAIT` is about that.

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

use super::{Batcher, Call, Link, allow_full_memory, script};

/// How long replicas have to confirm.
const WAIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a pipeline is sent that did nothing: a node that does not know the script, or no
/// longer has the slot.
const MAX_ROUNDS: usize = 3;

/// Writes the mark.
const MARK: &str = concat!(allow_full_memory!(), "redis.call('SET', KEYS[1], 1)");

/// Where writes wait for replicas.
#[derive(Clone)]
pub(super) struct Durable(Arc<Inner>);

struct Inner {
    link: Link,
    replicas: u32,
    /// By what goes together: all on a server, those of one slot on a cluster.
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
}

/// Writes that go together. Each has an answer of its own.
type Lane = Batcher<Write, RedisResult<Value>>;

/// A script with its arguments, as it is sent first, and to a node that does not know it.
struct Write {
    by_hash: Cmd,
    by_text: Cmd,
}

impl Durable {
    pub(super) fn new(link: Link, replicas: u32) -> Self {
        Self(Arc::new(Inner { link, replicas, lanes: Mutex::default() }))
    }

    /// Runs the script. The answer comes once enough replicas have the write; an error says that
    /// they did not confirm it in time, and it may stand all the same.
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
            pipeline.cmd("EVAL").arg(MARK).arg(1).arg(mark);
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
                // Follows the redirection, so that the next pipeline finds the node.
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
