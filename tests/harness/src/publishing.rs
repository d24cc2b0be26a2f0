//! Publishers and customers at work while the system is killed, and the check of their ledger.
//!
//! Publishers post messages to a few applications. A customer creates, changes, disables, enables
//! and deletes endpoints, and deletes messages. Afterwards each planned delivery of each accepted
//! message must be delivered, a dead letter with a reason, or deleted on purpose, and nothing
//! outside a plan may have arrived.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "tests call this: its panics are their failures"
)]
#![allow(clippy::print_stdout, reason = "the tests print these figures")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    client::{ApiClient, ClientError},
    clients::wait_for_more,
    crash::{self, Settings, launch, rounds},
    functions::{CONCURRENCY, NAMES, functions},
    lambda::Lambda,
    ledger,
    receiver::{Received, Receiver, Reply},
    stack::Launch,
};

const APPLICATIONS: [&str; 3] = ["acme", "globex", "initech"];

/// The endpoints of an application: the fewest, and the most.
const ENDPOINTS: [usize; 2] = [2, 6];

/// Concurrent publishers.
const PUBLISHERS: usize = 6;

/// The least number of accepted messages between two kills.
const LOAD: usize = 20;

/// The pause between two changes of a customer.
const CHANGE_INTERVAL: Duration = Duration::from_millis(15);

/// A master key of 32 bytes.
const MASTER_KEY: &str = "dGVzdHMtb25seS1uZWl0aGVyLXNhZmUtbm9yLXNlY3I=";

/// Every so many endpoints reject everything with 410.
const REJECTING: u32 = 7;

/// The reasons for which a delivery may fail here.
const REASONS: [&str; 3] = ["endpoint_deleted", "endpoint_disabled", "http_status"];

/// An accepted message.
#[derive(Clone, Debug)]
struct Accepted {
    application: &'static str,
    id: String,
    /// The planned deliveries, and the endpoint of each.
    deliveries: Vec<(String, String)>,
}

/// A publish whose answer was lost. It is repeated with its key.
#[derive(Clone, Debug)]
struct Unanswered {
    application: &'static str,
    key: String,
}

/// What publishers and customers know.
#[derive(Debug, Default)]
struct Notes {
    accepted: BTreeMap<String, Accepted>,
    unanswered: Vec<Unanswered>,
    /// Messages that the customer wanted to delete.
    deleted: BTreeSet<String>,
    /// The endpoint of each number in a path.
    endpoints: HashMap<u32, String>,
    changes: usize,
}

/// Publishers and customers, and what they know.
#[derive(Debug)]
pub struct World {
    receiver: Receiver,
    notes: Arc<Mutex<Notes>>,
    /// The number in the path of the next endpoint.
    numbers: Arc<AtomicU32>,
    keys: Arc<AtomicU32>,
}

/// Publishers and a customer at work.
#[derive(Debug)]
pub struct Working {
    stopping: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Working {
    /// Waits until this many more messages are accepted.
    pub async fn accepts(&self, when: &str, more: usize) {
        let count = || self.accepted.load(Ordering::SeqCst);
        wait_for_more(&format!("messages accepted {when}"), count, more).await;
    }

    /// Ends the work.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

impl World {
    /// A world whose receiver answers after `delay`.
    pub async fn start(delay: Duration) -> Self {
        let script = move |request: &Received| {
            let rejects = number_in(request.uri.path()) % REJECTING == REJECTING - 1;
            Reply::status(if rejects { 410 } else { 200 }).after(delay)
        };
        let receiver = Receiver::builder().script(script).start().await.unwrap();
        Self { receiver, notes: Arc::default(), numbers: Arc::default(), keys: Arc::default() }
    }

    /// Starts publishers and a customer. A publisher that gets no answer ends, unless
    /// `is_patient`: then it goes on, since only one function was killed.
    pub async fn work(&self, api_url: &str, is_patient: bool) -> Working {
        let api = ApiClient::new(api_url, None).unwrap();
        self.set_up(&api).await;
        let stopping = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let worker = |seed: usize| Worker {
            api: api.clone(),
            base: self.receiver.url("/"),
            notes: Arc::clone(&self.notes),
            numbers: Arc::clone(&self.numbers),
            keys: Arc::clone(&self.keys),
            stopping: Arc::clone(&stopping),
            accepted: Arc::clone(&accepted),
            is_patient,
            seed,
        };
        let mut tasks: Vec<_> =
            (0..PUBLISHERS).map(|seed| tokio::spawn(worker(seed).publish())).collect();
        tasks.push(tokio::spawn(worker(0).change()));
        Working { stopping, accepted, tasks }
    }

    /// Creates what is missing, reads the endpoints' ids, and repeats what got no answer.
    async fn set_up(&self, api: &ApiClient) {
        for application in APPLICATIONS {
            let put = call(api, Method::PUT, &["applications", application], Some(json!({}))).await;
            put.unwrap();
            let mut known = endpoints(api, application).await.unwrap();
            while known.len() < ENDPOINTS[0] {
                let number = self.numbers.fetch_add(1, Ordering::SeqCst);
                let url = self.receiver.url(&format!("/{number}"));
                create(api, application, &url).await.unwrap();
                known = endpoints(api, application).await.unwrap();
            }
            let mut notes = self.notes.lock().unwrap();
            for (id, url, _) in known {
                notes.endpoints.insert(number_in(&url), id);
            }
        }
        let unanswered = std::mem::take(&mut self.notes.lock().unwrap().unanswered);
        let repeats = unanswered.into_iter().map(async |lost| {
            let accepted = publish(api, lost.application, &lost.key).await.unwrap();
            self.notes.lock().unwrap().accepted.insert(accepted.id.clone(), accepted);
        });
        join_all(repeats).await;
    }

    /// Waits until everything has ended, and checks the ledger. Prints the figures.
    pub async fn check(&self, what: &str, kills: u32, api: &ApiClient, bound: Duration) {
        self.set_up(api).await;
        let notes = std::mem::take(&mut *self.notes.lock().unwrap());
        let planned: Vec<String> = notes
            .accepted
            .values()
            .flat_map(|message| message.deliveries.iter().map(|(id, _)| id.clone()))
            .collect();
        let ledger = ledger::settle(api, &planned, bound).await;
        let mut arrived: HashMap<(String, String), usize> = HashMap::new();
        for request in self.receiver.received() {
            let number = number_in(request.uri.path());
            let Some(endpoint) = notes.endpoints.get(&number) else { continue };
            let message = request.webhook_id().unwrap().to_owned();
            *arrived.entry((message, endpoint.clone())).or_default() += 1;
        }
        let mut failed = 0;
        for message in notes.accepted.values() {
            let is_deleted = notes.deleted.contains(&message.id);
            for (id, endpoint) in &message.deliveries {
                let arrivals = arrived.get(&(message.id.clone(), endpoint.clone()));
                failed +=
                    usize::from(check_delivery(api, id, arrivals.is_some(), is_deleted).await);
            }
            let plan: BTreeSet<_> =
                message.deliveries.iter().map(|(_, endpoint)| endpoint).collect();
            let outside =
                arrived.keys().find(|(id, endpoint)| *id == message.id && !plan.contains(endpoint));
            assert_eq!(outside, None, "arrived outside the plan of {message:?}");
        }
        // Of a deleted message nothing tells which attempts have no recorded answer.
        let counted = arrived
            .iter()
            .filter(|((id, _), _)| notes.accepted.contains_key(id) && !notes.deleted.contains(id));
        let twice: usize = counted.map(|(_, count)| count - 1).sum();
        assert!(
            twice <= ledger.unanswered,
            "{twice} duplicates, {} attempts without a recorded response",
            ledger.unanswered
        );
        println!(
            "{what}: {kills} kills, {} messages with {} deliveries accepted, 0 lost, {failed} \
             failed for a reason, {twice} duplicates, {} changes of endpoints, {} messages deleted",
            notes.accepted.len(),
            planned.len(),
            notes.changes,
            notes.deleted.len(),
        );
    }
}

/// Checks how a delivery ended. Returns whether it failed.
async fn check_delivery(api: &ApiClient, id: &str, has_arrived: bool, is_deleted: bool) -> bool {
    match api.webhook(id).await {
        Ok(webhook) if webhook.status == "delivered" => {
            assert!(has_arrived, "{id} is delivered, and the receiver does not have it");
            false
        }
        Ok(webhook) => {
            let error = webhook.last_error.unwrap();
            assert_eq!(webhook.status, "failed");
            assert!(REASONS.contains(&error.kind.as_str()), "{id} failed: {error:?}");
            true
        }
        Err(error) => {
            assert!(is_deleted, "{id} is lost: {error}");
            assert_eq!(error.status().map(|status| status.as_u16()), Some(404));
            false
        }
    }
}

/// One publisher or customer.
struct Worker {
    api: ApiClient,
    base: String,
    notes: Arc<Mutex<Notes>>,
    numbers: Arc<AtomicU32>,
    keys: Arc<AtomicU32>,
    stopping: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    is_patient: bool,
    seed: usize,
}

impl Worker {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    async fn publish(self) {
        let mut turn = self.seed;
        while !self.is_stopping() {
            let application = APPLICATIONS[turn % APPLICATIONS.len()];
            turn += 1;
            let key = format!("key-{}", self.keys.fetch_add(1, Ordering::SeqCst));
            if let Ok(accepted) = publish(&self.api, application, &key).await {
                self.notes.lock().unwrap().accepted.insert(accepted.id.clone(), accepted);
                self.accepted.fetch_add(1, Ordering::SeqCst);
            } else {
                self.notes.lock().unwrap().unanswered.push(Unanswered { application, key });
                if !self.is_patient {
                    return;
                }
            }
            if self.is_patient {
                sleep(Duration::from_millis(25)).await;
            }
        }
    }

    async fn change(self) {
        while !self.is_stopping() {
            let application = APPLICATIONS[rand::random_range(0..APPLICATIONS.len())];
            if self.change_one(application).await.is_err() && !self.is_patient {
                return;
            }
            sleep(CHANGE_INTERVAL).await;
        }
    }

    async fn change_one(&self, application: &'static str) -> Result<(), ClientError> {
        let known = endpoints(&self.api, application).await?;
        let (id, _, is_enabled) = known[rand::random_range(0..known.len())].clone();
        let path = |rest: &[&'static str]| {
            let mut path = vec!["applications".to_owned(), application.to_owned()];
            path.extend(["endpoints".to_owned(), id.clone()]);
            path.extend(rest.iter().map(|part| (*part).to_owned()));
            path
        };
        let send = async |method: Method, path: Vec<String>, body: Option<Value>| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            call(&self.api, method, &path, body).await
        };
        match rand::random_range(0..8) {
            0 if known.len() < ENDPOINTS[1] => {
                let number = self.numbers.fetch_add(1, Ordering::SeqCst);
                let url = format!("{}{number}", self.base);
                let created = create(&self.api, application, &url).await?;
                self.notes.lock().unwrap().endpoints.insert(number, created);
            }
            1 if known.len() > ENDPOINTS[0] => {
                send(Method::DELETE, path(&[]), None).await?;
            }
            2 | 3 => {
                let number = self.numbers.fetch_add(1, Ordering::SeqCst);
                self.notes.lock().unwrap().endpoints.insert(number, id.clone());
                let url = format!("{}{number}", self.base);
                send(Method::PATCH, path(&[]), Some(json!({ "url": url }))).await?;
            }
            4 | 5 => {
                let what = if is_enabled { "disable" } else { "enable" };
                send(Method::POST, path(&[what]), Some(json!({}))).await?;
            }
            6 => {
                let of_application = |message: &&Accepted| message.application == application;
                let chosen = {
                    let mut notes = self.notes.lock().unwrap();
                    let all: Vec<_> = notes.accepted.values().filter(of_application).collect();
                    let chosen = all.last().map(|message| message.id.clone());
                    notes.deleted.extend(chosen.clone());
                    chosen
                };
                if let Some(id) = chosen {
                    let path = ["applications", application, "messages", &id];
                    self.api.call(Method::DELETE, &path, &[], None).await?;
                }
            }
            _ => return Ok(()),
        }
        self.notes.lock().unwrap().changes += 1;
        Ok(())
    }
}

async fn call(
    api: &ApiClient,
    method: Method,
    path: &[&str],
    body: Option<Value>,
) -> Result<Value, ClientError> {
    let answer = api.call(method, path, &[], body.map(|body| body.to_string())).await?;
    let status = answer.status;
    if status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    let wanted = if status.is_success() { status } else { StatusCode::OK };
    answer.expect(wanted)
}

async fn create(api: &ApiClient, application: &str, url: &str) -> Result<String, ClientError> {
    let path = ["applications", application, "endpoints"];
    let created = call(api, Method::POST, &path, Some(json!({ "url": url }))).await?;
    Ok(text(&created["endpoint_id"]))
}

/// The endpoints of an application: id, URL, and whether each is enabled.
async fn endpoints(
    api: &ApiClient,
    application: &str,
) -> Result<Vec<(String, String, bool)>, ClientError> {
    let path = ["applications", application, "endpoints"];
    let list = call(api, Method::GET, &path, None).await?;
    let items = list["items"].as_array().unwrap();
    let endpoint = |item: &Value| {
        (text(&item["endpoint_id"]), text(&item["url"]), item["enabled"].as_bool().unwrap())
    };
    Ok(items.iter().map(endpoint).collect())
}

async fn publish(
    api: &ApiClient,
    application: &'static str,
    key: &str,
) -> Result<Accepted, ClientError> {
    let path = ["applications", application, "messages"];
    let body =
        json!({"event_type": "order.paid", "payload": {"key": key, "filler": "x".repeat(300)}});
    let headers = [("idempotency-key", key)];
    let answer = api.call_with(Method::POST, &path, &headers, Some(body.to_string())).await?;
    let accepted: Value = answer.expect(StatusCode::ACCEPTED)?;
    let deliveries = accepted["deliveries"].as_array().unwrap();
    let delivery = |item: &Value| (text(&item["delivery_id"]), text(&item["endpoint_id"]));
    Ok(Accepted {
        application,
        // A message that no endpoint is enabled for is not stored and has no id.
        id: accepted["message_id"].as_str().map_or_else(|| format!("none-{key}"), str::to_owned),
        deliveries: deliveries.iter().map(delivery).collect(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// The number at the end of a path.
fn number_in(path: &str) -> u32 {
    path.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Short retries of endpoints, and a master key that all processes share.
pub fn with_endpoints(mut settings: Settings) -> Settings {
    let extra = [("ENDPOINT_RETRY_SCHEDULE", "50ms,50ms,50ms,50ms"), ("MASTER_KEY", MASTER_KEY)];
    settings.extend(crash::settings(&extra));
    settings
}

/// Starts the stack, lets publishers and customers work, and kills it at a random moment, `rounds`
/// times. Then checks the ledger on a last start.
pub async fn kill_stack(what: &str, launch: &Launch, bound: Duration) {
    let world = World::start(Duration::from_millis(5)).await;
    for _ in 0..rounds() {
        let stack = launch.start().unwrap();
        let working = world.work(&stack.url(), false).await;
        working.accepts("under load", LOAD).await;
        // The random moment under load is what this tests, so there is no condition to wait for.
        sleep(Duration::from_millis(rand::random_range(0..600))).await;
        stack.crash().unwrap();
        working.stop().await;
    }
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let started = Instant::now();
    world.check(what, rounds(), &api, bound).await;
    println!("{what}: everything had ended {:?} after the last start", started.elapsed());
    ledger::end(&api, stack).await;
}

/// Kills each function in turn at random moments while publishers and customers work.
pub async fn kill_functions(what: &str, settings: Settings, bound: Duration) {
    let launch = launch(&settings);
    let pairs: Vec<(&str, &str)> =
        settings.iter().map(|(variable, value)| (variable.as_str(), value.as_str())).collect();
    let lambda = Lambda::start(functions(&launch, &pairs), launch.folder()).await.unwrap();
    let launch = launch
        .instead("--functions", &lambda.endpoint())
        .instead("--function-concurrency", &CONCURRENCY.to_string());
    let world = World::start(Duration::from_millis(20)).await;
    let stack = launch.start().unwrap();
    let working = world.work(&stack.url(), true).await;
    let mut kills = 0;
    for _ in 0..rounds() {
        for name in NAMES {
            working.accepts("under load", 5).await;
            // The random moment under load is what this tests.
            sleep(Duration::from_millis(rand::random_range(0..50))).await;
            let started = Instant::now();
            while lambda.crash(name) == 0 {
                assert!(started.elapsed() < bound, "{name} never runs");
                sleep(Duration::from_millis(5)).await;
            }
            kills += 1;
        }
    }
    working.stop().await;
    let api = ApiClient::new(&stack.url(), None).unwrap();
    world.check(&format!("messages, functions on {what}"), kills, &api, bound).await;
    ledger::end(&api, stack).await;
}
