//! What the embedded store and queue cost per webhook: its whole life (create, send, receive,
//! claim, conclude, acknowledge), without HTTP. It prints figures; it is not a test.
//!
//! `cargo run --release -p shared --features sqlite,testing --example sqlite_bench -- [WEBHOOKS]
//! [PRODUCERS] [POLLERS] [PER_SECOND]`

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use shared::{
    clock::{Clock, SystemClock},
    id::{ReferenceId, TaskId, WebhookId},
    message::Message,
    model::{ClaimId, Content},
    queue::{Lane, MAX_BATCH, Outgoing, Queue, Received, sqlite::SqliteQueue},
    random::{Random, SystemRandom},
    retry::Outcome,
    sqlite::{DataDir, Database},
    store::{Lists, Webhooks, sqlite::SqliteStore},
    transition::{Report, Rules, testing::new_webhook},
};

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Debug)]
struct Bench {
    store: SqliteStore,
    queue: SqliteQueue,
    rules: Rules,
    total: usize,
    begun: Instant,
    created: AtomicUsize,
    delivered: AtomicUsize,
    /// From before its create until its claim, in microseconds.
    latencies: std::sync::Mutex<Vec<u64>>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let argument = |index: usize, default| arguments.get(index).copied().unwrap_or(default);
    let (total, producers, pollers, rate) =
        (argument(0, 20_000), argument(1, 32), argument(2, 4), argument(3, 0));
    // In the current folder: /tmp may be memory, which syncs in no time.
    let folder = std::env::current_dir()?.join(format!("sqlite-bench-{}", std::process::id()));
    let data_dir = DataDir::lock(&folder)?;
    shared::say!("one write of 20 KiB and its sync here: {:.2} ms", sync_cost_ms(&folder)?);
    let database = Database::open(&data_dir.database())?;
    let bench = Arc::new(Bench {
        store: SqliteStore::new(database.clone(), Arc::new(SystemClock)),
        queue: SqliteQueue::new(database.clone(), Arc::new(SystemClock)),
        rules: Rules::default(),
        total,
        begun: Instant::now(),
        created: AtomicUsize::new(0),
        delivered: AtomicUsize::new(0),
        latencies: std::sync::Mutex::default(),
    });
    let (cpu, wall) = (cpu_us()?, Instant::now());
    let mut tasks = Vec::new();
    for _ in 0..pollers {
        tasks.push(tokio::spawn(poll(Arc::clone(&bench))));
    }
    for index in 0..producers {
        tasks.push(tokio::spawn(produce(Arc::clone(&bench), index, producers, rate)));
    }
    for task in tasks {
        task.await??;
    }
    let (wall, cpu, n) = (wall.elapsed(), cpu_us()? - cpu, total as f64);
    shared::say!("{total} webhooks, {producers} producers, {pollers} pollers, {rate}/s asked for");
    shared::say!(
        "  {:.0} webhooks/s; {:.1} us wall and {:.1} us CPU per webhook",
        n / wall.as_secs_f64(),
        wall.as_secs_f64() * 1e6 / n,
        cpu / n
    );
    shared::say!(
        "  {} commits, {:.2} per webhook",
        database.commits(),
        database.commits() as f64 / n
    );
    let mut latencies = std::mem::take(&mut *bench.latencies.lock().map_err(|_| "poisoned")?);
    latencies.sort_unstable();
    let at =
        |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    shared::say!(
        "  create to claim: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    shared::say!(
        "  statuses {:?}, lane {:?}",
        bench.store.counts().await?,
        bench.queue.depth(Lane::Webhooks).await?
    );
    shared::say!("  peak memory {}; {} ", status_line("VmHWM")?, sizes(&folder)?);
    for line in threads()? {
        shared::say!("  {line}");
    }
    drop((bench, database));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

async fn produce(
    bench: Arc<Bench>,
    index: usize,
    producers: usize,
    rate: usize,
) -> Result<(), Failure> {
    let payload = format!("{{\"data\":\"{}\"}}", "x".repeat(1010));
    for number in (index..bench.total).step_by(producers) {
        if rate > 0 {
            tokio::time::sleep_until(
                (bench.begun + Duration::from_secs_f64(number as f64 / rate as f64)).into(),
            )
            .await;
        }
        let begun_us = bench.begun.elapsed().as_micros() as u64;
        let mut random = [0; 10];
        SystemRandom.fill(&mut random);
        let now = SystemClock.now();
        let task = TaskId::mint(now, random);
        let mut new = new_webhook(task);
        new.id = WebhookId::direct(ReferenceId::generated(task), task);
        new.referenced = false;
        new.correlation_id = format!("{begun_us:036}");
        let webhook = bench.rules.create(new, now);
        let content = Content {
            url: "https://example.com/hooks/7".to_owned(),
            headers: Vec::new(),
            payload: serde_json::value::RawValue::from_string(payload.clone())?,
        };
        bench.store.create(&webhook, &content).await?;
        let body = Message::with_seen(&webhook).to_json();
        let message = Outgoing { body, delay: Duration::ZERO, group: webhook.destination.clone() };
        bench.queue.send(Lane::Webhooks, &[message]).await?;
        bench.created.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn poll(bench: Arc<Bench>) -> Result<(), Failure> {
    while bench.delivered.load(Ordering::Relaxed) < bench.total {
        let (visibility, wait) = (Duration::from_secs(360), Duration::from_millis(200));
        let batch = bench.queue.receive(Lane::Webhooks, MAX_BATCH, visibility, wait).await?;
        for result in join_all(batch.iter().map(|message| deliver(&bench, message))).await {
            result?;
        }
        let receipts: Vec<String> = batch.iter().map(|message| message.receipt.clone()).collect();
        try_join_all([bench.queue.acknowledge(Lane::Webhooks, &receipts)]).await?;
        bench.delivered.fetch_add(batch.len(), Ordering::Relaxed);
    }
    Ok(())
}

async fn deliver(bench: &Bench, message: &Received) -> Result<(), Failure> {
    let seen = *Message::from_json(&message.body)?.seen.ok_or("no record in the message")?;
    let claim = ClaimId(SystemRandom.next_u64());
    let claimed = bench.rules.claim(&seen, claim, SystemClock.now())?;
    let content = bench.store.write_and_open(&seen, &claimed).await?;
    let latency =
        bench.begun.elapsed().as_micros() as u64 - claimed.correlation_id.parse::<u64>()?;
    bench.latencies.lock().map_err(|_| "poisoned")?.push(latency);
    assert!(content.payload.get().len() > 1000, "the payload came back");
    let outcome = Outcome { error: None, status_code: Some(200), retry_after: None };
    let report = Report {
        outcome,
        duration: Duration::from_millis(1),
        message: None,
        response_excerpt: None,
    };
    let delivered = bench.rules.conclude(&claimed, claim, &report, SystemClock.now(), 0.5)?;
    bench.store.write(&claimed, &delivered).await?;
    Ok(())
}

fn sync_cost_ms(folder: &Path) -> Result<f64, Failure> {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("sync"))?;
    let (block, begun) = (vec![7; 20 * 1024], Instant::now());
    for _ in 0..100 {
        file.write_all(&block)?;
        file.sync_data()?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1000.0 / 100.0)
}

/// User and system time of this process, in ticks of 10 ms.
fn cpu_us() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) * 10_000.0)
}

/// The time that each thread has used, by name.
fn threads() -> Result<Vec<String>, Failure> {
    let mut threads = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(entry?.path().join("stat"))?;
        let (head, tail) = stat.rsplit_once(')').unwrap_or_default();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let sum = threads.entry(head.split_once('(').unwrap_or_default().1.to_owned()).or_default();
        *sum = (sum.0 + fields[11].parse::<u64>()? * 10, sum.1 + fields[12].parse::<u64>()? * 10);
    }
    Ok(threads
        .iter()
        .map(|(name, (user, system))| format!("{name}: {user} ms user, {system} ms system"))
        .collect())
}

fn status_line(name: &str) -> Result<String, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    Ok(line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
}

fn sizes(folder: &Path) -> Result<String, Failure> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        sizes.push(format!(
            "{} {} KiB",
            entry.file_name().display(),
            entry.metadata()?.len() / 1024
        ));
    }
    sizes.sort();
    Ok(sizes.join(", "))
}
