//! The functions in one process, over a real embedded store and queue, with a clock that a test
//! puts forward and a destination that answers as it is told.

use std::{
    collections::VecDeque,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use deliver::Deliver;
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
    transition::{NewWebhook, testing::new_webhook},
};
use tempfile::TempDir;

use posthaste_tests::conformance::TestClock;

/// A visibility timeout that no test reaches by itself.
const VISIBILITY: Duration = Duration::from_secs(360);

/// All that a function needs, and a way to look at what it left.
#[derive(Debug)]
pub(crate) struct World {
    /// What the functions are given.
    pub(crate) context: Context,
    /// Makes the attempts of `deliver`.
    pub(crate) sender: Arc<dyn Sender>,
    /// The clock of everything.
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

    /// Puts the clock forward to just after this time: a delay counts from its send, which is a
    /// moment later than what it was made from.
    pub(crate) fn advance_past(&self, time: Timestamp) {
        self.clock.advance(time.since(self.now()) + Duration::from_millis(50));
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
        let now = self.now();
        let task = shared::id::TaskId::mint(now, rand::random());
        let new = NewWebhook { destination: destination.to_owned(), ..new_webhook(task) };
        let webhook = self.context.rules.create(new, now);
        let payload = RawValue::from_string("{\"n\": 1}".to_owned()).unwrap();
        let content =
            Content { url: "https://example.com/hook".to_owned(), headers: Vec::new(), payload };
        self.context.store.create(&webhook, &content).await.unwrap();
        webhook
    }

    /// The stored record.
    pub(crate) async fn stored(&self, webhook: &Webhook) -> Webhook {
        self.context.store.get(&webhook.id).await.unwrap().expect("it is stored")
    }

    /// Puts a record in place of the stored one.
    pub(crate) async fn put(&self, before: &Webhook, after: Webhook) -> Webhook {
        self.context.store.write(before, &after).await.unwrap();
        after
    }

    /// Puts records of a newer version in place of these, behind the store's back.
    pub(crate) fn plant_newer(&self, webhooks: &[Webhook]) {
        self.plant(webhooks, |webhook| format!(r#"{{"v":{},"id":"{}"}}"#, SCHEMA + 1, webhook.id));
    }

    /// Puts these records back as they are, as a roll-forward makes them readable again.
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

    /// How many records the file holds, expired or not.
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

    /// Receives a batch, as the event source mapping does. Empty if nothing is visible.
    pub(crate) async fn received(&self, lane: Lane) -> Vec<Received> {
        self.context.queue.receive(lane, MAX_BATCH, VISIBILITY, Duration::ZERO).await.unwrap()
    }

    /// Calls `deliver` with what its queue holds; which of the messages were handed back.
    pub(crate) async fn run_deliver(&self) -> Vec<Received> {
        let batch = self.received(Lane::Webhooks).await;
        let until = self.now().plus(Duration::from_secs(60));
        let response = self.deliver().handle(event(&batch), until).await;
        self.settle(Lane::Webhooks, batch, &response).await
    }

    /// Calls `dlq` with what its queue holds; which of the messages were handed back.
    pub(crate) async fn run_dlq(&self) -> Vec<Received> {
        let batch = self.received(Lane::DeadLetters).await;
        let response = dlq::handle(&self.context, event(&batch)).await;
        self.settle(Lane::DeadLetters, batch, &response).await
    }

    /// Calls `sweep`.
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

    /// How many messages the lane holds: ready, delayed and in flight.
    pub(crate) async fn messages(&self, lane: Lane) -> (u64, u64, u64) {
        let depth = self.context.queue.depth(lane).await.unwrap();
        (depth.ready, depth.delayed, depth.in_flight)
    }

    /// What must hold at the end of every scenario: these webhooks are finished, failed ones are
    /// archived, and nothing is due or queued.
    pub(crate) async fn assert_settled(&self, webhooks: &[&Webhook]) {
        for webhook in webhooks {
            let Some(stored) = self.context.store.get(&webhook.id).await.unwrap() else { continue };
            assert!(stored.status.is_finished(), "{} is {}", stored.id, stored.status);
            assert_eq!(
                stored.status == Status::Failed,
                stored.is_dead_letter(),
                "what failed is a dead letter"
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

/// The event that SQS would send.
pub(crate) fn event(batch: &[Received]) -> SqsEvent {
    let mut event = SqsEvent::default();
    event.records = batch
        .iter()
        .map(|received| {
            let mut message = SqsMessage::default();
            message.message_id = Some(received.id.clone());
            message.body = Some(received.body.clone());
            message
                .attributes
                .insert("ApproximateReceiveCount".to_owned(), received.receives.to_string());
            message
                .attributes
                .insert("SentTimestamp".to_owned(), received.sent_at.as_millis().to_string());
            message
        })
        .collect();
    event
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

/// What a destination does while an attempt is under way.
type DuringAttempt = Box<dyn Fn(&Request<'_>) + Send + Sync>;

/// A destination that answers one attempt after the other as it was told; 200 when it was told
/// nothing more.
#[derive(Default)]
pub(crate) struct ScriptedDestination {
    answers: Mutex<VecDeque<Answer>>,
    attempts: Mutex<Vec<u32>>,
    during: Mutex<Option<DuringAttempt>>,
}

impl fmt::Debug for ScriptedDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedDestination")
            .field("attempts", &self.attempts())
            .finish_non_exhaustive()
    }
}

impl ScriptedDestination {
    /// The answers to the next attempts.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// What happens during each attempt, before it is answered.
    pub(crate) fn during(&self, action: impl Fn(&Request<'_>) + Send + Sync + 'static) {
        *self.during.lock().unwrap() = Some(Box::new(action));
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
        // An action may panic, to see what comes of it.
        if let Some(action) = &*self.during.lock().unwrap_or_else(PoisonError::into_inner) {
            action(request);
        }
        self.answers.lock().unwrap().pop_front().unwrap_or_else(|| status(200))
    }
}
