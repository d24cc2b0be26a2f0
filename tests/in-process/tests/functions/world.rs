//! The functions in one process, over a real embedded store and queue, with a clock that the test
//! advances and a scripted destination.

use std::{
    collections::VecDeque,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_lambda_events::event::sqs::SqsBatchResponse;
use deliver::Deliver;
use local::events;
use serde_json::value::RawValue;
use shared::{
    clock::{Clock, Timestamp},
    config::{Config, Defaults},
    context::{Backends, Context, DataDirMode},
    message::Message,
    model::{Content, ErrorKind, SCHEMA, Webhook},
    queue::{Lane, MAX_BATCH, Outgoing, Received},
    sender::{Answer, Lookup, NoLookup, Request, Sender},
    status::Status,
    traffic::target::{Target, path_hash},
    transition::{NewWebhook, testing::new_webhook},
};
use tempfile::TempDir;

use conformance::TestClock;

/// A visibility timeout that passes only if the test advances the clock.
const VISIBILITY: Duration = Duration::from_secs(360);

/// Everything that a function needs, and access to its results.
#[derive(Debug)]
pub(crate) struct World {
    /// The context of the functions.
    pub(crate) context: Context,
    /// Makes the attempts of `deliver`.
    pub(crate) sender: Arc<dyn Sender>,
    /// The clock of all parts.
    pub(crate) clock: Arc<TestClock>,
    /// The destination.
    pub(crate) destination: Arc<ScriptedDestination>,
    folder: TempDir,
}

impl World {
    /// With the default settings.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With these environment variables set.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let setting = |name: &str| {
            settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let mut config = Config::from_source(Defaults::LOCAL, setting).unwrap();
        folder.path().clone_into(&mut config.data_dir);
        let clock = Arc::new(TestClock::default());
        let as_clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let backends = Backends::open(&config, &as_clock, DataDirMode::Shared).unwrap();
        let context = Context::new(config, &backends, as_clock, Duration::ZERO).unwrap();
        let destination = Arc::new(ScriptedDestination::default());
        let sender = Arc::clone(&destination) as _;
        Self { context, sender, clock, destination, folder }
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Advances the clock to a second after this time. A delay counts from its send, which is a
    /// write to the disk later than the time that it was computed from.
    pub(crate) fn advance_past(&self, time: Timestamp) {
        self.clock.advance(time.since(self.now()) + Duration::from_secs(1));
    }

    /// The function `deliver`.
    pub(crate) fn deliver(&self) -> Deliver {
        Deliver::new(self.context.clone(), Arc::clone(&self.sender))
    }

    /// Accepts a webhook as the API does, but sends no message for it.
    pub(crate) async fn accepted(&self) -> Webhook {
        self.accepted_for("https://example.com:443").await
    }

    /// The same for this destination.
    pub(crate) async fn accepted_for(&self, destination: &str) -> Webhook {
        self.accepted_at(destination, "/hook").await
    }

    /// The same for this path of the destination.
    pub(crate) async fn accepted_at(&self, destination: &str, path: &str) -> Webhook {
        self.accepted_with(destination, path, Some(path_hash(path))).await
    }

    /// The same with this hash of the path. Older versions stored none.
    pub(crate) async fn accepted_with(
        &self,
        destination: &str,
        path: &str,
        path_hash: Option<String>,
    ) -> Webhook {
        let now = self.now();
        let task = shared::id::TaskId::mint(now, rand::random());
        let new =
            NewWebhook { destination: destination.to_owned(), path_hash, ..new_webhook(task) };
        let webhook = self.context.rules.create(new, now);
        let payload = RawValue::from_string("{\"n\": 1}".to_owned()).unwrap();
        let content = Content { url: format!("{destination}{path}"), headers: Vec::new(), payload };
        self.context.store.create(&webhook, &content).await.unwrap();
        webhook
    }

    /// The stored record.
    pub(crate) async fn stored(&self, webhook: &Webhook) -> Webhook {
        self.context.store.get(&webhook.id).await.unwrap().expect("it is stored")
    }

    /// The targets that restrict attempts.
    pub(crate) async fn targets(&self) -> Vec<Target> {
        let states = self.context.store.targets(self.now()).await.unwrap();
        states.into_iter().filter_map(|state| state.target).collect()
    }

    /// Replaces the stored record.
    pub(crate) async fn put(&self, before: &Webhook, after: Webhook) -> Webhook {
        self.context.store.write(before, &after).await.unwrap();
        after
    }

    /// Replaces these records with records of a newer version, directly in the file.
    pub(crate) fn plant_newer(&self, webhooks: &[Webhook]) {
        self.plant(webhooks, |webhook| format!(r#"{{"v":{},"id":"{}"}}"#, SCHEMA + 1, webhook.id));
    }

    /// Restores these records, as if the newer version were deployed again.
    pub(crate) fn plant_back(&self, webhooks: &[Webhook]) {
        self.plant(webhooks, Webhook::to_json);
    }

    fn plant(&self, webhooks: &[Webhook], json: impl Fn(&Webhook) -> String) {
        let mut connection =
            rusqlite::Connection::open(self.folder.path().join("posthaste.db")).unwrap();
        let transaction = connection.transaction().unwrap();
        for webhook in webhooks {
            let changed = transaction.execute(
                "UPDATE webhooks SET record = ?2 WHERE task = ?1",
                (webhook.id.task.as_bytes(), json(webhook)),
            );
            assert_eq!(changed.unwrap(), 1);
        }
        transaction.commit().unwrap();
    }

    /// Replaces the record of this row, directly in the file.
    pub(crate) fn plant_record(&self, row: &[u8], json: &str) {
        let connection =
            rusqlite::Connection::open(self.folder.path().join("posthaste.db")).unwrap();
        let changed =
            connection.execute("UPDATE webhooks SET record = ?2 WHERE task = ?1", (row, json));
        assert_eq!(changed.unwrap(), 1);
    }

    /// The number of records in the file, including expired ones.
    pub(crate) fn records_on_disk(&self) -> i64 {
        let connection =
            rusqlite::Connection::open(self.folder.path().join("posthaste.db")).unwrap();
        connection.query_row("SELECT count(*) FROM webhooks", [], |row| row.get(0)).unwrap()
    }

    /// Sends a message for the webhook.
    pub(crate) async fn queued(&self, webhook: &Webhook) {
        self.send(Lane::Webhooks, &Message::look_at(webhook.id.clone()).to_json()).await;
    }

    /// Sends a text.
    pub(crate) async fn send(&self, lane: Lane, body: &str) {
        let message =
            Outgoing { body: body.to_owned(), delay: Duration::ZERO, group: String::new() };
        self.context.queue.send(lane, &[message]).await.unwrap();
    }

    /// Receives a batch, as the event source mapping does. Empty if no message is visible.
    pub(crate) async fn received(&self, lane: Lane) -> Vec<Received> {
        self.context.queue.receive(lane, MAX_BATCH, VISIBILITY, Duration::ZERO).await.unwrap()
    }

    /// Invokes `deliver`, in a new process, with a batch of its queue. Returns the messages that
    /// were handed back.
    pub(crate) async fn run_deliver(&self) -> Vec<Received> {
        self.run(&self.deliver()).await
    }

    /// Does the same in this process.
    pub(crate) async fn run(&self, deliver: &Deliver) -> Vec<Received> {
        let batch = self.received(Lane::Webhooks).await;
        let until = self.now().plus(Duration::from_secs(60));
        let response = deliver.handle(events::sqs(Lane::Webhooks, &batch), until).await;
        self.settle(Lane::Webhooks, batch, &response).await
    }

    /// Invokes `dlq` with a batch of its queue. Returns the messages that were handed back.
    pub(crate) async fn run_dlq(&self) -> Vec<Received> {
        let batch = self.received(Lane::DeadLetters).await;
        let response = dlq::handle(&self.context, events::sqs(Lane::DeadLetters, &batch)).await;
        self.settle(Lane::DeadLetters, batch, &response).await
    }

    /// Invokes `sweep`.
    pub(crate) async fn run_sweep(&self) -> sweep::Summary {
        sweep::handle(&self.context, self.now().plus(Duration::from_secs(60))).await.unwrap()
    }

    async fn settle(
        &self,
        lane: Lane,
        batch: Vec<Received>,
        response: &SqsBatchResponse,
    ) -> Vec<Received> {
        let is_back = |message: &Received| {
            response.batch_item_failures.iter().any(|failure| failure.item_identifier == message.id)
        };
        let (back, done): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_back);
        let receipts: Vec<String> = done.into_iter().map(|message| message.receipt).collect();
        self.context.queue.acknowledge(lane, &receipts).await.unwrap();
        back
    }

    /// The number of messages in the lane: ready, delayed and in flight.
    pub(crate) async fn messages(&self, lane: Lane) -> (u64, u64, u64) {
        let depth = self.context.queue.depth(lane).await.unwrap();
        (depth.ready, depth.delayed, depth.in_flight)
    }

    /// Asserts the end state of every scenario: these webhooks are finished, failed ones are
    /// archived, and nothing is due or queued.
    pub(crate) async fn assert_settled(&self, webhooks: &[&Webhook]) {
        for webhook in webhooks {
            let Some(stored) = self.context.store.get(&webhook.id).await.unwrap() else { continue };
            assert!(stored.status.is_finished(), "{} is {}", stored.id, stored.status);
            assert_eq!(
                stored.status == Status::Failed,
                stored.is_dead_letter(),
                "a failed webhook is a dead letter"
            );
        }
        let far = self.now().plus(Duration::from_secs(400 * 24 * 3600));
        assert_eq!(
            self.context.store.due(far, None, 100).await.unwrap().entries,
            [],
            "nothing is due"
        );
        for lane in [Lane::Webhooks, Lane::DeadLetters] {
            assert_eq!(self.messages(lane).await, (0, 0, 0), "nothing is queued in {lane:?}");
        }
    }
}

/// An answer with this status code.
pub(crate) fn status(code: u16) -> Answer {
    let error = (!(200..300).contains(&code)).then_some(ErrorKind::HttpStatus);
    Answer {
        error,
        status_code: Some(code),
        duration: Duration::from_millis(7),
        ..Answer::default()
    }
}

/// No answer, for this reason.
pub(crate) fn no_answer(kind: ErrorKind) -> Answer {
    Answer { error: Some(kind), message: Some("as the test says".to_owned()), ..Answer::default() }
}

/// An action of the destination during an attempt.
type DuringAttempt = Box<dyn Fn(&Request<'_>) + Send + Sync>;

/// The answer of the destination to a request.
type Decision = Box<dyn Fn(&Request<'_>) -> Answer + Send + Sync>;

/// A destination that answers attempts with the scripted answers in order, and then with 200.
#[derive(Default)]
pub(crate) struct ScriptedDestination {
    answers: Mutex<VecDeque<Answer>>,
    attempts: Mutex<Vec<u32>>,
    during: Mutex<Option<DuringAttempt>>,
    decides: Mutex<Option<Decision>>,
}

impl fmt::Debug for ScriptedDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedDestination")
            .field("attempts", &self.attempts())
            .finish_non_exhaustive()
    }
}

impl ScriptedDestination {
    /// Adds answers to the script.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// Sets the action during each attempt, before its answer.
    pub(crate) fn during(&self, action: impl Fn(&Request<'_>) + Send + Sync + 'static) {
        *self.during.lock().unwrap() = Some(Box::new(action));
    }

    /// Lets this function answer once the script is over.
    pub(crate) fn decide(&self, answer: impl Fn(&Request<'_>) -> Answer + Send + Sync + 'static) {
        *self.decides.lock().unwrap() = Some(Box::new(answer));
    }

    /// The numbers of the attempts that were made.
    pub(crate) fn attempts(&self) -> Vec<u32> {
        self.attempts.lock().unwrap().clone()
    }
}

#[async_trait]
impl Lookup for ScriptedDestination {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        NoLookup.lookup(host).await
    }
}

#[async_trait]
impl Sender for ScriptedDestination {
    async fn send(&self, request: &Request<'_>, _deadline: Duration) -> Answer {
        self.attempts.lock().unwrap().push(request.attempt);
        // Some tests let the action panic.
        if let Some(action) = &*self.during.lock().unwrap_or_else(PoisonError::into_inner) {
            action(request);
        }
        if let Some(answer) = self.answers.lock().unwrap().pop_front() {
            return answer;
        }
        self.decides.lock().unwrap().as_ref().map_or_else(|| status(200), |decide| decide(request))
    }
}
