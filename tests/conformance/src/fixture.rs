//! What a case has at hand: the backend under test, ids that nobody else has, and ways to make
//! records and to wait.

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
    clock::{Clock, SystemClock, Timestamp},
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, Webhook},
    queue::Queue,
    store::Store,
    transition::{NewWebhook, Refusal, Rules},
};
use tokio::time::sleep;

/// How long the suite waits for something that must happen: 15 s.
pub(super) const BOUND: Duration = Duration::from_secs(15);

/// The system's clock, which a test can put forward. Sleeps last as long as they say, since servers
/// have clocks of their own.
#[derive(Debug, Default)]
pub struct TestClock {
    /// What has passed besides what the system's clock says.
    passed_ms: AtomicI64,
    /// By how much the time of day is wrong.
    wrong_ms: AtomicI64,
}

impl TestClock {
    /// It is that much later from now on: so much time has passed.
    pub fn advance(&self, by: Duration) {
        self.passed_ms.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The time of day is ahead by that much from now on, though no time has passed.
    pub fn set_ahead(&self, by: Duration) {
        self.wrong_ms.store(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ahead_ms = self.passed_ms.load(Ordering::SeqCst) + self.wrong_ms.load(Ordering::SeqCst);
        Timestamp::from_millis(SystemClock.now().as_millis() + ahead_ms)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
            + Duration::from_millis(self.passed_ms.load(Ordering::SeqCst).unsigned_abs())
    }

    async fn sleep(&self, wait: Duration) {
        sleep(wait).await;
    }
}

/// A store and a queue under test, for one case.
///
/// Nobody else uses them during the case (a file, a key prefix, tables and queues of its own). They
/// need not be empty.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// The store. It reads the time from [`Backend::clock`].
    fn store(&self) -> Arc<dyn Store>;

    /// The queue. It may go by its server's time, which runs as fast as ours.
    fn queue(&self) -> Arc<dyn Queue>;

    /// The clock that store and queue were given.
    fn clock(&self) -> Arc<TestClock>;

    /// The same store as another process would have it: a connection of its own, nothing cached in
    /// common.
    async fn second_store(&self) -> Arc<dyn Store>;

    /// The same queue as another process would have it.
    async fn second_queue(&self) -> Arc<dyn Queue>;

    /// Puts `json` in place of the stored record of `id`, as a newer version of Posthaste would: as
    /// the next revision, while content and index entries stay as they are.
    async fn plant_record(&self, id: &WebhookId, json: &str);

    /// Whether a content of the webhook is stored, looked for behind the store's back. The suite's
    /// contents have the task id in their URL.
    async fn has_content(&self, id: &WebhookId) -> bool;
}

/// What a case has at hand.
#[derive(Debug)]
pub struct Fixture {
    /// The store under test.
    pub store: Arc<dyn Store>,
    /// The same store, as another process has it.
    pub other: Arc<dyn Store>,
    /// The queue under test.
    pub queue: Arc<dyn Queue>,
    /// The same queue, as another process has it.
    pub other_queue: Arc<dyn Queue>,
    /// The clock of all of them.
    pub clock: Arc<TestClock>,
    /// The default rules.
    pub rules: Rules,
    /// A time long ago that no other case has; what is created by time range begins here.
    pub epoch: Timestamp,
    /// The backend itself, which lives as long as the case.
    pub backend: Box<dyn Backend>,
}

impl Fixture {
    /// What a case has at hand on this backend.
    pub async fn new(backend: Box<dyn Backend>) -> Self {
        // From 2001 to 2020, so that ranges of ids and of due times never meet those of what was
        // made just now.
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

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// So many milliseconds after [`Fixture::epoch`].
    pub fn at(&self, millis: i64) -> Timestamp {
        Timestamp::from_millis(self.epoch.as_millis() + millis)
    }

    /// Stores a new webhook, created now, with a reference id of its own.
    pub async fn created(&self) -> Webhook {
        self.created_with(self.now(), &fresh_reference()).await
    }

    /// Stores a new webhook with this reference id.
    pub async fn created_with(&self, created_at: Timestamp, reference: &ReferenceId) -> Webhook {
        let webhook = self.rules.create(new_webhook(created_at, reference), created_at);
        self.store.create(&webhook, &content(&webhook)).await.unwrap();
        webhook
    }

    /// Makes the next record by a rule that must apply, and writes it.
    pub async fn step(
        &self,
        record: &Webhook,
        rule: impl FnOnce(&Rules, &Webhook) -> Result<Webhook, Refusal>,
    ) -> Webhook {
        let next = rule(&self.rules, record).unwrap();
        self.store.write(record, &next).await.unwrap();
        next
    }

    /// Where the webhook stands in the due index, if it does.
    pub async fn due_at(&self, id: &WebhookId) -> Option<Timestamp> {
        let far = self.now().plus(Duration::from_secs(400 * 24 * 3600));
        let page = self.store.due(far, None, shared::store::MAX_READ).await.unwrap();
        let mut own = page.entries.into_iter().filter(|entry| entry.id == *id);
        let due_at = own.next().map(|entry| entry.due_at);
        assert_eq!(own.next(), None, "{id} stands in the due index twice");
        due_at
    }

    /// Lists the unfinished webhooks in `[from, until)` that are not in the due index, page by
    /// page, and checks that each is listed once. Returns their task ids.
    pub async fn list_unindexed(&self, from: Timestamp, until: Timestamp) -> Vec<TaskId> {
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..1000 {
            let page = self.store.list_unindexed(from, until, after).await.unwrap();
            found.extend(page.items.iter().map(|webhook| webhook.id.task));
            after = page.next;
            if after.is_none() {
                let mut sorted = found.clone();
                sorted.sort();
                sorted.dedup();
                assert_eq!(sorted.len(), found.len(), "each exactly once");
                return sorted;
            }
        }
        panic!("it never came to an end");
    }
}

/// A reference id that nobody else has.
pub(super) fn fresh_reference() -> ReferenceId {
    format!("ref-{:016x}", rand::random::<u64>()).parse().unwrap()
}

/// A task id of this time that nobody else has.
pub(super) fn fresh_task(created_at: Timestamp) -> TaskId {
    TaskId::mint(created_at, rand::random())
}

/// What create is told of a webhook that nobody else has.
pub(super) fn new_webhook(created_at: Timestamp, reference: &ReferenceId) -> NewWebhook {
    NewWebhook {
        id: WebhookId { reference: reference.clone(), task: fresh_task(created_at) },
        referenced: true,
        correlation_id: format!("cor-{:016x}", rand::random::<u64>()),
        trace: None,
        event_type: None,
        destination: "https://example.com:443".to_owned(),
        retry: None,
        deliver_at: None,
    }
}

/// A small content that names its webhook, so that a mix-up shows.
pub(super) fn content(webhook: &Webhook) -> Content {
    Content {
        url: format!("https://example.com/hook?id={}", webhook.id.task),
        headers: vec![("x-id".to_owned(), webhook.id.to_string())],
        payload: RawValue::from_string(format!(r#"{{"id": "{}"}}"#, webhook.id)).unwrap(),
    }
}

/// Asks again and again until `check` answers `Ok`, and panics with its last complaint if that
/// takes longer than [`BOUND`].
///
/// For what a backend may answer a moment late: indexes that trail the record, counts, messages.
/// Where a contract promises that a write is seen at once, ask once.
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
