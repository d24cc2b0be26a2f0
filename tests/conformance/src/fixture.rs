//! The parts that each case uses: the backend under test, unique ids, and functions that create
//! records and wait.

use std::{
    fmt::Debug,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::value::RawValue;
use shared::{
    applications::id::ApplicationId,
    clock::{Clock, SystemClock, Timestamp},
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, Webhook},
    queue::Queue,
    store::{DueId, Store, Unindexed},
    traffic::target::TargetKey,
    transition::{NewWebhook, Refusal, Rules},
};
use tokio::time::sleep;

/// How long the suite waits for an expected condition: 15 s.
pub(super) const BOUND: Duration = Duration::from_secs(15);

/// The system clock plus an offset that a test controls. Sleeps take their real time, because
/// servers have their own clocks.
#[derive(Debug, Default)]
pub struct TestClock {
    /// Elapsed time added by [`TestClock::advance`].
    advanced_ms: AtomicI64,
    /// The error of the time of day, set by [`TestClock::set_ahead`].
    error_ms: AtomicI64,
}

impl TestClock {
    /// Lets this much time pass.
    pub fn advance(&self, by: Duration) {
        self.advanced_ms.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Sets the time of day ahead by this much, while no time passes.
    pub fn set_ahead(&self, by: Duration) {
        self.error_ms.store(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ahead_ms =
            self.advanced_ms.load(Ordering::SeqCst) + self.error_ms.load(Ordering::SeqCst);
        Timestamp::from_millis(SystemClock.now().as_millis() + ahead_ms)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
            + Duration::from_millis(self.advanced_ms.load(Ordering::SeqCst).unsigned_abs())
    }

    async fn sleep(&self, wait: Duration) {
        sleep(wait).await;
    }
}

/// A store and a queue under test, for one case.
///
/// The case has exclusive use of both (its own file, key prefix, tables and queues). They need not
/// be empty.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// The store. It reads the time from [`Backend::clock`].
    fn store(&self) -> Arc<dyn Store>;

    /// The queue. It may use its server's time, which runs at the same rate.
    fn queue(&self) -> Arc<dyn Queue>;

    /// The clock of the store and the queue.
    fn clock(&self) -> Arc<TestClock>;

    /// The same store as another process opens it: with its own connection and no shared cache.
    async fn second_store(&self) -> Arc<dyn Store>;

    /// The same queue as another process opens it.
    async fn second_queue(&self) -> Arc<dyn Queue>;

    /// Replaces the stored record of `id` by `json`, as a newer version of Posthaste would. The
    /// revision increases by one. Content and index entries stay unchanged.
    ///
    /// The id names a delivery, or without an endpoint a direct webhook or a message: both have
    /// the same key.
    async fn plant_record(&self, id: &WebhookId, json: &str);

    /// Replaces the stored document of the application by `json`, as a newer version of Posthaste
    /// would. The revision increases by one.
    async fn plant_application(&self, id: &ApplicationId, json: &str);

    /// Replaces the stored target by `json`, as a newer version of Posthaste would. Revision, slot
    /// counters and index entries stay unchanged.
    async fn plant_target(&self, key: &TargetKey, json: &str);

    /// Whether a content of the direct webhook is stored, or of the message with the same key.
    /// Bypasses the store. The payloads of the suite's small contents contain the task id.
    async fn has_content(&self, id: &WebhookId) -> bool;

    /// Stores the audit's position as a version before applications does.
    async fn plant_older_position(&self, at: Timestamp);

    /// The audit's position as a version before applications reads it.
    async fn older_position(&self) -> Option<Timestamp>;
}

/// The parts that each case uses.
#[derive(Debug)]
pub struct Fixture {
    /// The store under test.
    pub store: Arc<dyn Store>,
    /// The same store, as another process opens it.
    pub other: Arc<dyn Store>,
    /// The queue under test.
    pub queue: Arc<dyn Queue>,
    /// The same queue, as another process opens it.
    pub other_queue: Arc<dyn Queue>,
    /// The clock of the stores and the queues.
    pub clock: Arc<TestClock>,
    /// The default rules.
    pub rules: Rules,
    /// A time in the past, unique to this case. Cases that read time ranges create webhooks from
    /// here on.
    pub epoch: Timestamp,
    /// The backend, which lives as long as the case.
    pub backend: Box<dyn Backend>,
}

impl Fixture {
    /// The fixture of a case on this backend.
    pub async fn new(backend: Box<dyn Backend>) -> Self {
        // From 2001 to 2020, which keeps these webhooks out of ranges around the current time.
        let epoch =
            Timestamp::from_millis(rand::random_range(1_000_000_000_000..1_600_000_000_000));
        Self {
            store: backend.store(),
            other: backend.second_store().await,
            queue: backend.queue(),
            other_queue: backend.second_queue().await,
            clock: backend.clock(),
            rules: Rules::default(),
            epoch,
            backend,
        }
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// This many milliseconds after [`Fixture::epoch`].
    pub fn at(&self, millis: i64) -> Timestamp {
        Timestamp::from_millis(self.epoch.as_millis() + millis)
    }

    /// Stores a new webhook, created now, with a unique reference id.
    pub async fn created(&self) -> Webhook {
        self.created_with(self.now(), &fresh_reference()).await
    }

    /// Stores a new webhook with this reference id.
    pub async fn created_with(&self, created_at: Timestamp, reference: &ReferenceId) -> Webhook {
        let webhook = self.rules.create(new_webhook(created_at, reference), created_at);
        self.store.create(&webhook, &content(&webhook)).await.unwrap();
        webhook
    }

    /// Applies a rule, which must succeed, and writes the resulting record.
    pub async fn step(
        &self,
        record: &Webhook,
        rule: impl FnOnce(&Rules, &Webhook) -> Result<Webhook, Refusal>,
    ) -> Webhook {
        let next = rule(&self.rules, record).unwrap();
        self.store.write(record, &next).await.unwrap();
        next
    }

    /// The webhook's time in the due index, if it has an entry.
    pub async fn due_at(&self, id: &WebhookId) -> Option<Timestamp> {
        self.entry_of(&DueId::Webhook(id.clone())).await
    }

    /// The time of the entry in the due index, if there is one.
    pub async fn entry_of(&self, id: &DueId) -> Option<Timestamp> {
        let far = self.now().plus(Duration::from_secs(400 * 24 * 3600));
        let page = self.store.due(far, None, shared::store::MAX_READ).await.unwrap();
        let mut own = page.entries.into_iter().filter(|entry| entry.id == *id);
        let due_at = own.next().map(|entry| entry.due_at);
        assert_eq!(own.next(), None, "{id} has two entries in the due index");
        due_at
    }

    /// Reads all pages of the unfinished webhooks in `[from, until)` that are not in the due index.
    /// Fails if one is listed twice. Returns their task ids.
    pub async fn list_unindexed(&self, from: Timestamp, until: Timestamp) -> Vec<TaskId> {
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..1000 {
            let page = self.store.list_unindexed(from, until, after).await.unwrap();
            found.extend(
                page.items
                    .into_iter()
                    .filter_map(Unindexed::webhook)
                    .map(|webhook| webhook.id.task),
            );
            after = page.next;
            if after.is_none() {
                let mut sorted = found.clone();
                sorted.sort();
                sorted.dedup();
                assert_eq!(sorted.len(), found.len(), "a webhook is listed twice");
                return sorted;
            }
        }
        panic!("the list did not end");
    }
}

/// A unique reference id.
pub(super) fn fresh_reference() -> ReferenceId {
    format!("ref-{:016x}", rand::random::<u64>()).parse().unwrap()
}

/// A unique task id with this creation time.
pub(super) fn fresh_task(created_at: Timestamp) -> TaskId {
    TaskId::mint(created_at, rand::random())
}

/// The input that creates a unique webhook.
pub(super) fn new_webhook(created_at: Timestamp, reference: &ReferenceId) -> NewWebhook {
    NewWebhook {
        id: WebhookId::direct(reference.clone(), fresh_task(created_at)),
        referenced: true,
        correlation_id: format!("cor-{:016x}", rand::random::<u64>()),
        trace: None,
        event_type: None,
        destination: "https://example.com:443".to_owned(),
        path_hash: None,
        retry: None,
        deliver_at: None,
    }
}

/// A small content that contains its webhook's id, which reveals a mix-up.
pub(super) fn content(webhook: &Webhook) -> Content {
    Content {
        url: format!("https://example.com/hook?id={}", webhook.id.task),
        headers: vec![("x-id".to_owned(), webhook.id.to_string())],
        payload: RawValue::from_string(format!(r#"{{"id": "{}"}}"#, webhook.id)).unwrap(),
    }
}

/// Polls until `check` returns `Ok`. Panics with the last `Err` after [`BOUND`].
///
/// For results that a backend may return late: indexes that trail the record, counts, messages.
/// Where the contract promises immediate visibility, read once instead.
pub(super) async fn eventually<T, F, Fut>(what: &str, check: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(complaint) => {
                assert!(
                    started.elapsed() < BOUND,
                    "{what}: after {} s still: {complaint}",
                    BOUND.as_secs()
                );
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// `Ok` if both are the same; for [`eventually`].
pub(super) fn same<T: PartialEq + Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("found {found:?}, expected {expected:?}")) }
}
