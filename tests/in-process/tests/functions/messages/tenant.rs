//! An application whose endpoints are scripted receivers, and the messages published to it.

use std::{
    fmt, io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;
use shared::{
    applications::{
        application::Application,
        endpoint::{Disabled, DisabledWhy, Endpoint, SealedHeader},
        id::{ApplicationId, EndpointId},
        matching::Plan,
        message::PublishedMessage,
        secrets::{EndpointSecret, StoredSecret},
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    message::{Look, Message},
    model::{APPLICATIONS_SCHEMA, Content, Webhook},
    queue::{Depth, Lane, Outgoing, Queue, QueueError, Received, SendError},
    random::SystemRandom,
    sealing::{Binding, MasterKeys},
    sender::{Answer, Lookup, NoLookup, Request, Sender},
    signing::{Secret, sign},
    status::Status,
    transition::{NewMessage, Rules},
};

use crate::world::{World, status};

/// The master key of every tenant.
pub(crate) const KEY: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

/// Another master key.
pub(crate) const OTHER_KEY: &str = "YW5vdGhlci1rZXktb2YtMzItYnl0ZXMtZm9yLXRlc3Q=";

/// A request that arrived at an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrived {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    /// The id of the delivery. Receivers see the message's.
    pub(crate) webhook_id: WebhookId,
    /// What each secret makes of a fixed text. `None`: the sender's own secrets sign.
    pub(crate) signatures: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) event_type: Option<String>,
    pub(crate) attempt: u32,
}

type Decision = Box<dyn Fn(&Arrived) -> Answer + Send + Sync>;

/// Keeps the requests, and answers with 200 or as the test says.
pub(crate) struct Endpoints {
    arrived: Mutex<Vec<Arrived>>,
    decides: Mutex<Decision>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("arrived", &self.arrived()).finish_non_exhaustive()
    }
}

impl Endpoints {
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    /// The requests that arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.arrived.lock().unwrap())
    }

    pub(crate) fn decide(&self, answer: impl Fn(&Arrived) -> Answer + Send + Sync + 'static) {
        *self.decides.lock().unwrap() = Box::new(answer);
    }
}

#[async_trait]
impl Lookup for Endpoints {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        NoLookup.lookup(host).await
    }
}

#[async_trait]
impl Sender for Endpoints {
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer {
        let arrived = Arrived {
            url: request.url.to_owned(),
            headers: request.headers.to_vec(),
            webhook_id: request.webhook_id.clone(),
            signatures: request.secrets.map(signatures),
            timeout: deadline,
            event_type: request.event_type.map(ToOwned::to_owned),
            attempt: request.attempt,
        };
        let answer = self.decides.lock().unwrap()(&arrived);
        self.arrived.lock().unwrap().push(arrived);
        answer
    }
}

fn signatures(secrets: &[Secret]) -> String {
    sign(secrets, "a", 1, b"{}")
}

/// A queue that keeps what was sent, and refuses messages while the test says so.
#[derive(Debug)]
pub(crate) struct WatchedQueue {
    inner: Arc<dyn Queue>,
    pub(crate) refuses: AtomicBool,
    sent: Mutex<Vec<Vec<Outgoing>>>,
}

impl WatchedQueue {
    /// What was sent to the webhook queue since the last call, by calls.
    pub(crate) fn take(&self) -> Vec<Vec<Outgoing>> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

#[async_trait]
impl Queue for WatchedQueue {
    async fn ping(&self) -> Result<(), QueueError> {
        self.inner.ping().await
    }

    async fn warnings(&self) -> Result<Vec<String>, QueueError> {
        self.inner.warnings().await
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError> {
        if self.refuses.load(Ordering::SeqCst) {
            let failed = (0..messages.len()).collect();
            return Err(SendError { failed, source: QueueError("told to".into()) });
        }
        if lane == Lane::Webhooks {
            self.sent.lock().unwrap().push(messages.to_vec());
        }
        self.inner.send(lane, messages).await
    }

    async fn receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Received>, QueueError> {
        self.inner.receive(lane, max, visibility, wait).await
    }

    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError> {
        self.inner.acknowledge(lane, receipts).await
    }

    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError> {
        self.inner.release(lane, receipts, delay).await
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.inner.depth(lane).await
    }
}

/// A world with one application.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) world: World,
    pub(crate) id: ApplicationId,
    pub(crate) endpoints: Arc<Endpoints>,
}

/// The id of the endpoint number `n`.
pub(crate) fn endpoint(n: usize) -> EndpointId {
    EndpointId::mint([u8::try_from(n).unwrap(); 10])
}

/// The URL of the endpoint number `n`.
pub(crate) fn url(n: usize) -> String {
    format!("https://receiver-{n}.example/hook")
}

/// A secret that only this number has.
pub(crate) fn secret(n: usize) -> EndpointSecret {
    let bytes = STANDARD.encode([u8::try_from(n).unwrap(); 32]);
    format!("whsec_{bytes}").parse().unwrap()
}

/// What these secrets make of the fixed text.
pub(crate) fn signed_by(numbers: &[usize]) -> String {
    let list: Vec<String> = numbers.iter().map(|n| secret(*n).reveal()).collect();
    signatures(&Secret::parse_list(&list.join(" ")).unwrap())
}

impl Tenant {
    /// A tenant with endpoints 1 to this number, with the default settings.
    pub(crate) async fn new(endpoints: usize) -> Self {
        Self::with(&[], endpoints).await
    }

    /// The same with these settings.
    pub(crate) async fn with(settings: &[(&str, &str)], endpoints: usize) -> Self {
        let mut world = World::with(&[settings, &[("MASTER_KEY", KEY)]].concat());
        let receivers = Arc::new(Endpoints {
            arrived: Mutex::default(),
            decides: Mutex::new(Box::new(|_| status(200))),
        });
        world.sender = Arc::clone(&receivers) as _;
        let tenant = Self { world, id: "cust-7".parse().unwrap(), endpoints: receivers };
        let now = tenant.world.now();
        let application = Application {
            schema: APPLICATIONS_SCHEMA,
            revision: 1,
            id: tenant.id.clone(),
            name: None,
            keep_unmatched: false,
            metadata: std::collections::BTreeMap::new(),
            created_at: now,
            updated_at: now,
            deleted_at: None,
            tokens_not_before: None,
            keys: Vec::new(),
            endpoints: (1..=endpoints).map(|n| tenant.make_endpoint(n)).collect(),
            changes: Vec::new(),
        };
        tenant.world.context.store.write_application(None, &application).await.unwrap();
        tenant
    }

    /// The master keys of this process.
    pub(crate) fn keys(&self) -> &MasterKeys {
        self.world.context.config.master_keys.as_ref().unwrap()
    }

    /// Gives this process other settings.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut shared::config::Config)) {
        change(Arc::make_mut(&mut self.world.context.config));
    }

    /// The endpoint number `n` as it is created.
    pub(crate) fn make_endpoint(&self, n: usize) -> Endpoint {
        let now = self.world.now();
        Endpoint {
            id: endpoint(n),
            revision: 1,
            created_at: now,
            updated_at: now,
            url: url(n),
            event_types: None,
            headers: Vec::new(),
            secrets: vec![self.seal_secret(n, n)],
            retry: None,
            timeout_ms: None,
            description: None,
            metadata: std::collections::BTreeMap::new(),
            disabled: None,
        }
    }

    /// The secret number `number`, sealed for the endpoint number `n`.
    pub(crate) fn seal_secret(&self, number: usize, n: usize) -> StoredSecret {
        let (now, random) = (self.world.now(), SystemRandom);
        let (secret, id) = (secret(number), endpoint(n));
        StoredSecret::seal(&secret, &self.id, id, self.keys(), now, &random).unwrap()
    }

    /// A header of the endpoint number `n`.
    pub(crate) fn seal_header(&self, n: usize, name: &str, value: &str) -> SealedHeader {
        let binding = Binding::headers(&self.id, endpoint(n));
        let sealed = self.keys().seal(value.as_bytes(), &binding, &SystemRandom).unwrap();
        SealedHeader { name: name.to_owned(), sealed }
    }

    /// Changes the stored document. This process sees it once its copy is old.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut Application)) {
        let store = &self.world.context.store;
        let mut after = store.application(&self.id).await.unwrap().unwrap();
        change(&mut after);
        after.revision += 1;
        store.write_application(Some(after.revision - 1), &after).await.unwrap();
    }

    /// Changes the endpoint number `n`, and lets this process see it.
    pub(crate) async fn change_endpoint(&self, n: usize, change: impl FnOnce(&mut Endpoint)) {
        self.change(|application| {
            let found = application.endpoints.iter_mut().find(|known| known.id == endpoint(n));
            let found = found.unwrap();
            change(found);
            found.revision += 1;
        })
        .await;
        self.see_changes();
    }

    /// Disables the endpoint number `n`, and lets this process see it.
    pub(crate) async fn disable(&self, n: usize) {
        let disabled = Disabled { at: self.world.now(), why: DisabledWhy::Customer, told: true };
        self.change_endpoint(n, |endpoint| endpoint.disabled = Some(disabled)).await;
    }

    /// Deletes the endpoint number `n`, and lets this process see it.
    pub(crate) async fn delete_endpoint(&self, n: usize) {
        self.change(|application| application.endpoints.retain(|known| known.id != endpoint(n)))
            .await;
        self.see_changes();
    }

    /// Lets the copy of this process get old.
    pub(crate) fn see_changes(&self) {
        self.world.clock.advance(self.world.context.config.endpoint_cache);
    }

    /// Watches the queue.
    pub(crate) fn watch_queue(&mut self) -> Arc<WatchedQueue> {
        let watched = Arc::new(WatchedQueue {
            inner: Arc::clone(&self.world.context.queue),
            refuses: AtomicBool::default(),
            sent: Mutex::default(),
        });
        self.world.context.queue = Arc::clone(&watched) as _;
        watched
    }

    /// Publishes a message to endpoints 1 to this number, and sends no look.
    pub(crate) async fn publish(&self, endpoints: usize) -> PublishedMessage {
        self.publish_at(endpoints, None).await
    }

    /// The same, for this time.
    pub(crate) async fn publish_at(
        &self,
        endpoints: usize,
        deliver_at: Option<Timestamp>,
    ) -> PublishedMessage {
        let now = self.world.now();
        let new = NewMessage {
            id: MessageId {
                reference: "order-7".parse().unwrap(),
                task: TaskId::mint(now, rand::random()),
            },
            application: self.id.clone(),
            referenced: true,
            correlation_id: "cor-7".to_owned(),
            event_type: "order.paid".parse().unwrap(),
            trace: None,
            deliver_at,
            plan: Plan { planned: (1..=endpoints).map(endpoint).collect(), off: Vec::new() },
        };
        let message = self.world.context.rules.publish(new, now);
        self.store(&message).await;
        message
    }

    /// Stores a message with a content.
    pub(crate) async fn store(&self, message: &PublishedMessage) {
        let payload = RawValue::from_string("{\"n\": 1}".to_owned()).unwrap();
        let content = Content { url: String::new(), headers: Vec::new(), payload };
        self.world.context.store.create_message(message, &content).await.unwrap();
    }

    /// Sends a look at each delivery of the message, as the API does.
    pub(crate) async fn send_looks(&self, message: &PublishedMessage) {
        for entry in &message.plan {
            let delivery = Rules::delivery(message, entry.endpoint).unwrap();
            self.world.send(Lane::Webhooks, &Message::with_seen(&delivery).to_json()).await;
        }
    }

    /// Publishes a message to endpoints 1 to this number, and sends its looks.
    pub(crate) async fn accept(&self, endpoints: usize) -> PublishedMessage {
        let message = self.publish(endpoints).await;
        self.send_looks(&message).await;
        message
    }

    /// Sends a look at the delivery to endpoint number `n`, without its record.
    pub(crate) async fn look_at_delivery(&self, message: &PublishedMessage, n: usize) {
        let look = Message::look_at(message.id.delivery(endpoint(n)));
        self.world.send(Lane::Webhooks, &look.to_json()).await;
    }

    /// Sends a look at the message.
    pub(crate) async fn look_at(&self, message: &PublishedMessage) {
        self.world.send(Lane::Webhooks, &Look::Message(message.id.clone()).to_json()).await;
    }

    /// The message as it is stored.
    pub(crate) async fn message(&self, message: &PublishedMessage) -> Option<PublishedMessage> {
        self.world.context.store.message(&message.id).await.unwrap()
    }

    /// The record of the delivery to endpoint number `n`, if there is one.
    pub(crate) async fn delivery(&self, message: &PublishedMessage, n: usize) -> Option<Webhook> {
        self.world.context.store.get(&message.id.delivery(endpoint(n))).await.unwrap()
    }

    /// The statuses of the deliveries to endpoints 1 to this number.
    pub(crate) async fn statuses(
        &self,
        message: &PublishedMessage,
        endpoints: usize,
    ) -> Vec<Option<Status>> {
        let mut statuses = Vec::new();
        for n in 1..=endpoints {
            statuses.push(self.delivery(message, n).await.map(|delivery| delivery.status));
        }
        statuses
    }

    /// Claims the delivery to endpoint number `n` as another worker does, which then dies.
    pub(crate) async fn claimed_elsewhere(&self, message: &PublishedMessage, n: usize) -> Webhook {
        let before = match self.delivery(message, n).await {
            Some(stored) => stored,
            None => Rules::delivery(message, endpoint(n)).unwrap(),
        };
        let claim = shared::model::ClaimId(rand::random());
        let after = self.world.context.rules.claim(&before, claim, self.world.now()).unwrap();
        self.world.put(&before, after).await
    }

    /// Invokes `deliver` and `dlq` until both queues have nothing to receive.
    pub(crate) async fn drain(&self) {
        for _ in 0..200 {
            let (webhooks, ..) = self.world.messages(Lane::Webhooks).await;
            let (dead_letters, ..) = self.world.messages(Lane::DeadLetters).await;
            if (webhooks, dead_letters) == (0, 0) {
                return;
            }
            self.world.run_deliver().await;
            self.world.run_dlq().await;
        }
        panic!("the queues do not get empty");
    }

    /// Runs sweeps and workers, with the clock moved by `step` after each, until nothing is due or
    /// queued.
    pub(crate) async fn run_until_settled(&self, step: Duration) {
        for _ in 0..500 {
            self.world.run_sweep().await;
            self.drain().await;
            let far = self.world.now().plus(Duration::from_secs(400 * 24 * 3600));
            let due = self.world.context.store.due(far, None, 100).await.unwrap().entries;
            let mut queued = 0;
            for lane in [Lane::Webhooks, Lane::DeadLetters] {
                let (ready, delayed, in_flight) = self.world.messages(lane).await;
                queued += ready + delayed + in_flight;
            }
            if due.is_empty() && queued == 0 {
                return;
            }
            self.world.clock.advance(step);
        }
        panic!("something stays due or queued");
    }
}

/// No look of these has an effect: nothing is sent and nothing is written.
pub(crate) async fn assert_no_effect(tenant: &Tenant, message: &PublishedMessage) {
    let before = tenant.world.context.store.standing(&message.id).await.unwrap();
    tenant.send_looks(message).await;
    for entry in &message.plan {
        let look = Message::look_at(message.id.delivery(entry.endpoint));
        tenant.world.send(Lane::Webhooks, &look.to_json()).await;
    }
    tenant.drain().await;
    assert_eq!(tenant.endpoints.take(), [], "nothing is sent");
    assert_eq!(tenant.world.context.store.standing(&message.id).await.unwrap(), before);
}
