//! Runs one sweep on its own Redis servers and reads their counters.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use harness::{clock::StoppedClock, redis_server::RedisServer};
use redis::{InfoDict, cmd};
use serde_json::value::RawValue;
use shared::{
    clock::{Clock, Timestamp},
    config::{Config, Defaults},
    context::{Backends, Context, DataDirMode},
    id::TaskId,
    model::Content,
    store::Store,
    transition::{Rules, testing::new_webhook},
};

/// A fixed time, which makes all runs equal.
const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// Due webhooks become due within the minute that a sweep looks ahead.
const SOON: Duration = Duration::from_secs(30);

/// Other open webhooks become due after this time.
const LATER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Concurrent creates.
const CONCURRENCY: usize = 128;

/// The shards of the store. Each has a due index.
const SHARDS: usize = 16;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The result of a sweep.
#[derive(Debug)]
pub(crate) struct Swept {
    /// Webhooks that it queued.
    pub(crate) requeued: usize,
    /// Entries that are not due, in the due index of the shard that has the fewest.
    pub(crate) fewest_waiting: u64,
    /// Commands that the servers ran, by name. Commands within scripts are included, the scripts of
    /// sends are not.
    pub(crate) commands: BTreeMap<String, u64>,
    /// Bytes that the store's server sent.
    pub(crate) answered_bytes: u64,
    /// The duration of the sweep.
    pub(crate) took: Duration,
}

/// Sweeps once over `due` webhooks that are due and `open` webhooks that are not.
pub(crate) async fn sweep(open: usize, due: usize) -> Result<Swept, Failure> {
    let (status, queue) = (RedisServer::start()?, RedisServer::start()?);
    let context = context(&status, &queue)?;
    let until = NOW.plus(Duration::from_secs(3600));
    fill(&*context.store, open, Some(NOW.plus(LATER)), 0).await?;
    // Moves the audit past these webhooks and loads the scripts into the server.
    fill(&*context.store, 1, Some(NOW.plus(SOON)), 1).await?;
    sweep::handle(&context, until).await?;
    fill(&*context.store, due, Some(NOW.plus(SOON)), 2).await?;
    let (mut status, mut queue) = (connect(&status)?, connect(&queue)?);
    let fewest_waiting = fewest_waiting(&mut status)?;
    for connection in [&mut status, &mut queue] {
        cmd("CONFIG").arg("RESETSTAT").query::<()>(connection)?;
    }
    let started = Instant::now();
    let summary = sweep::handle(&context, until).await?;
    let took = started.elapsed();
    let info: InfoDict = cmd("INFO").arg("stats").query(&mut status)?;
    let answered_bytes = info.get("total_net_output_bytes").ok_or("no count of bytes")?;
    let mut commands =
        calls("store", &cmd("INFO").arg("commandstats").query::<String>(&mut status)?);
    commands.extend(calls("queue", &cmd("INFO").arg("commandstats").query::<String>(&mut queue)?));
    // Sends that wait for each other share a script, and each of these scripts persists one key.
    // The number of sends that share one depends on timing. The number of other scripts does not.
    let sends = commands.remove("queue persist").ok_or("no send was counted")?;
    let scripts = commands.remove("queue evalsha").ok_or("no script was counted")?;
    commands.insert("queue evalsha besides sends".to_owned(), scripts - sends);
    let requeued = summary.requeued;
    Ok(Swept { requeued, fewest_waiting, commands, answered_bytes, took })
}

/// Counts the entries that are not due in each shard's due index. Returns the lowest count.
fn fewest_waiting(status: &mut redis::Connection) -> Result<u64, Failure> {
    let indexes: Vec<String> = cmd("KEYS").arg("*:due").query(status)?;
    if indexes.len() != SHARDS {
        return Err(format!("not one due index for each shard: {indexes:?}").into());
    }
    let mut fewest = u64::MAX;
    for index in indexes {
        let later = NOW.plus(LATER).as_millis();
        let waiting: u64 = cmd("ZCOUNT").arg(index).arg(later).arg("+inf").query(status)?;
        fewest = fewest.min(waiting);
    }
    Ok(fewest)
}

fn connect(server: &RedisServer) -> redis::RedisResult<redis::Connection> {
    redis::Client::open(server.url(0))?.get_connection()
}

/// The calls of each command, without those of this test.
fn calls(of: &str, info: &str) -> BTreeMap<String, u64> {
    let call = |line: &str| {
        let (name, counts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let count = counts.split(',').next()?.parse().ok()?;
        (!name.starts_with("config") && name != "info").then(|| (format!("{of} {name}"), count))
    };
    info.lines().filter_map(call).collect()
}

fn context(status: &RedisServer, queue: &RedisServer) -> Result<Context, Failure> {
    let setting = |name: &str| match name {
        "STATUS_BACKEND" | "QUEUE_BACKEND" => Some("redis".to_owned()),
        "STATUS_REDIS_URL" => Some(status.url(0)),
        "QUEUE_REDIS_URL" => Some(queue.url(0)),
        _ => None,
    };
    let config = Config::from_source(Defaults::LAMBDA, setting)?;
    let clock: Arc<dyn Clock> = Arc::new(StoppedClock(NOW));
    let backends = Backends::open(&config, &clock, DataDirMode::Shared)?;
    Ok(Context::new(config, &backends, clock, Duration::from_secs(3600))?)
}

/// Creates webhooks with a payload of 1 KiB. Their ids, and so their shards, are the same in each
/// run. `kind` separates them from those of other calls.
async fn fill(
    store: &dyn Store,
    count: usize,
    deliver_at: Option<Timestamp>,
    kind: u8,
) -> Result<(), Failure> {
    let rules = Rules::default();
    let create = |number: usize| {
        let mut random = [kind; 10];
        random[2..].copy_from_slice(&(number as u64).to_be_bytes());
        let mut new = new_webhook(TaskId::mint(NOW, random));
        new.deliver_at = deliver_at;
        let webhook = rules.create(new, NOW);
        async move {
            let payload = RawValue::from_string(format!("\"{}\"", "x".repeat(1022)))?;
            let content =
                Content { url: "https://example.com/".to_owned(), headers: Vec::new(), payload };
            store.create(&webhook, &content).await?;
            Ok::<(), Failure>(())
        }
    };
    stream::iter((0..count).map(create))
        .buffer_unordered(CONCURRENCY)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}
