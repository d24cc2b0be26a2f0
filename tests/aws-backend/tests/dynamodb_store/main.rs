//! What only the store on DynamoDB promises: sizes that a write unit pays for, times to live, and
//! its error when no server answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod messages;
mod targets;

use std::{collections::BTreeSet, fmt::Write, sync::Arc, time::Duration};

use base64::Engine;

use conformance::TestClock;
use harness::aws::AwsStack;
use serde_json::{Value, json, value::RawValue};
use shared::{
    aws::Aws,
    circuit::Settings,
    clock::{Clock, Timestamp},
    config::{AwsCredentials, AwsSettings},
    id::{TaskId, WebhookId},
    model::{Content, Function, Webhook, Why},
    retry::Outcome,
    store::{
        Activity, CreateError, Store, StoreError, SweepReport, SweepState, Targets, Totals,
        Webhooks, dynamodb::DynamoStore,
    },
    traffic::target::{Target, TargetKey, path_hash},
    transition::{Limits, NewWebhook, Report, Rules},
};
use tools::cost::units::{Item, item_bytes};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CLAIM: shared::model::ClaimId = shared::model::ClaimId(7);

struct World {
    emulator: AwsStack,
    store: DynamoStore,
    clock: Arc<TestClock>,
    rules: Rules,
}

fn settings(endpoint: &str) -> AwsSettings {
    AwsSettings {
        region: "us-east-1".to_owned(),
        credentials: AwsCredentials {
            access_key_id: "test".to_owned(),
            secret_access_key: "test".to_owned(),
            session_token: None,
        },
        dynamodb_endpoint: Some(endpoint.to_owned()),
        table_name: "posthaste".to_owned(),
        ..AwsSettings::default()
    }
}

fn store(endpoint: &str, clock: &Arc<TestClock>, patience: Duration) -> DynamoStore {
    let client = Aws::new().unwrap().with_limits(patience, patience).dynamodb(&settings(endpoint));
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    DynamoStore::new(client, "posthaste", clock, Limits::default().retention)
}

impl World {
    async fn start() -> Self {
        let emulator = tokio::task::spawn_blocking(AwsStack::emulator)
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("{error}"));
        emulator.create_table("posthaste").await.unwrap();
        let clock = Arc::new(TestClock::default());
        let store = store(emulator.endpoint(), &clock, Duration::from_secs(60));
        Self { emulator, store, clock, rules: Rules::default() }
    }

    async fn created(&self, payload_bytes: usize) -> Webhook {
        let webhook = new_webhook(&self.rules, self.clock.now());
        self.store.create(&webhook, &content(payload_bytes)).await.unwrap();
        webhook
    }

    /// All items of the table whose partition begins so.
    async fn items(&self, begins: &str) -> Vec<Item> {
        let found = self
            .emulator
            .call(
                "DynamoDB_20120810.Scan",
                json!({ "TableName": "posthaste", "ConsistentRead": true }),
            )
            .await;
        let found = found.unwrap();
        let items = found["Items"].as_array().unwrap().iter().filter_map(Value::as_object);
        items.filter(|item| item["p"]["S"].as_str().unwrap().starts_with(begins)).cloned().collect()
    }
}

fn failed(origin: &str, count: u32, now: Timestamp) -> Target {
    Target::idle(TargetKey::origin(origin)).failed(count, &Settings::default(), now)
}

fn new_webhook(rules: &Rules, now: Timestamp) -> Webhook {
    let task = TaskId::mint(now, rand::random());
    let new = NewWebhook {
        id: WebhookId::direct(shared::id::ReferenceId::generated(task), task),
        referenced: false,
        correlation_id: "9f0c2b4e-6d1f-4c2e-8a55-0d1c2b3a4f5e".to_owned(),
        trace: None,
        event_type: Some("order.paid".to_owned()),
        destination: "https://hooks.example.com:443".to_owned(),
        path_hash: Some(path_hash("/customers/4711/orders")),
        retry: None,
        deliver_at: None,
    };
    rules.create(new, now)
}

/// JSON of which half compresses.
fn content(bytes: usize) -> Content {
    let mut payload = String::from("{\"order\":\"");
    while payload.len() + 40 < bytes {
        let _ = write!(payload, "{:08x} garden chair;", rand::random::<u32>());
    }
    payload += "\"}";
    Content {
        url: "https://hooks.example.com/customers/4711/orders".to_owned(),
        headers: vec![("x-tenant".to_owned(), "4711".to_owned())],
        payload: RawValue::from_string(payload).unwrap(),
    }
}

/// JSON of hexadecimal digits, of which half are left when they are deflated.
fn identifiers(bytes: usize) -> Content {
    let mut payload = String::from("\"");
    while payload.len() + 17 < bytes {
        let _ = write!(payload, "{:016x}", rand::random::<u64>());
    }
    payload.push('"');
    Content { payload: RawValue::from_string(payload).unwrap(), ..content(0) }
}

fn delivered(rules: &Rules, claimed: &Webhook, now: Timestamp) -> Webhook {
    let report = Report {
        outcome: Outcome { error: None, status_code: Some(200), retry_after: None },
        duration: Duration::from_millis(87),
        message: None,
        response_excerpt: None,
    };
    rules.conclude(claimed, CLAIM, &report, now, 0.5).unwrap()
}

/// Three writes of one unit each for a small webhook, one more for a large one's content: no item
/// of a webhook delivered at once exceeds 1 KiB, and record and content share one where they fit.
/// Tested by the sizes of the items after each step.
#[tokio::test(flavor = "multi_thread")]
async fn no_item_of_a_happy_life_is_more_than_a_write_unit() {
    let world = World::start().await;
    // As text is that compresses, and as identifiers are, which hardly do.
    for (payload, contents) in [(content(400), 0), (content(1024), 0), (identifiers(1400), 1)] {
        let webhook = new_webhook(&world.rules, world.clock.now());
        world.store.create(&webhook, &payload).await.unwrap();
        let now = world.clock.now();
        let claimed = world.rules.claim(&webhook, CLAIM, now).unwrap();
        let opened = world.store.write_and_open(&webhook, &claimed).await.unwrap();
        assert_eq!(opened.url, "https://hooks.example.com/customers/4711/orders");
        let done = delivered(&world.rules, &claimed, now);
        world.store.write(&claimed, &done).await.unwrap();
        let (records, parts) = (world.items("w/").await, world.items("c/").await);
        assert_eq!(parts.len(), contents, "{} bytes", payload.payload.get().len());
        for item in records.iter().chain(&parts) {
            assert!(item_bytes(item) <= 1024, "{} bytes: {item:?}", item_bytes(item));
        }
        world.store.delete(&webhook.id).await.unwrap();
        assert!(world.items("c/").await.is_empty(), "what it carried is gone");
        for left in world.items("w/").await {
            let keeps_nothing = !left.contains_key("d") && left.contains_key("x");
            assert!(
                keeps_nothing && item_bytes(&left) < 128,
                "its id is retired for a while, and that is all: {left:?}"
            );
        }
    }
}

/// Nothing unfinished loses its content, and nothing is kept for ever. Tested by the times to live:
/// the content's is there from the start, is not touched within a month, and is lifted by the first
/// write after that, before the record's.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_s_time_to_live_is_lifted_while_it_is_wanted() {
    let world = World::start().await;
    let ttl =
        async || -> i64 { world.items("c/").await[0]["x"]["N"].as_str().unwrap().parse().unwrap() };
    let webhook = world.created(4000).await;
    let first = ttl().await;
    assert_eq!(first / 86400 - world.clock.now().as_seconds() / 86400, 45);
    assert!(!world.items("w/").await[0].contains_key("x"), "nothing unfinished has a time to live");
    world.clock.advance(30 * DAY);
    let now = world.clock.now();
    let held = world.rules.adopt(&webhook, now, (Function::Sweep, Why::Audit), now).unwrap();
    world.store.write(&webhook, &held).await.unwrap();
    assert_eq!(ttl().await, first, "there is time left");
    world.clock.advance(10 * DAY);
    let now = world.clock.now();
    let claimed = world.rules.claim(&held, CLAIM, now).unwrap();
    assert_eq!(world.store.write_and_open(&held, &claimed).await.unwrap().url, content(1).url);
    let second = ttl().await;
    assert!(second >= first + 30 * 86400, "lifted by {} days", (second - first) / 86400);
    let done = delivered(&world.rules, &claimed, now);
    world.store.write(&claimed, &done).await.unwrap();
    let record_ttl: i64 = world.items("w/").await[0]["x"]["N"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        (record_ttl, ttl().await),
        ((done.expires_at.unwrap().as_millis() + 999) / 1000, second)
    );
    assert!(second > record_ttl, "it outlives its record");
}

/// One run of the sweep sums up all that was counted, however much it is. Tested with two and a
/// half times as many items as one read takes, in one partition, and one call of the housekeeping;
/// a call whose time is over stops after one read.
#[tokio::test(flavor = "multi_thread")]
async fn one_run_sums_up_all_that_was_counted() {
    const ITEMS: usize = 2500;
    let world = World::start().await;
    let now = world.clock.now();
    let counted = miniz_oxide::deflate::compress_to_vec(br#"{"c":{"invocations":1}}"#, 6);
    let counted = base64::engine::general_purpose::STANDARD.encode(counted);
    let place = |index: usize| format!("{:015}-{index:016x}", now.as_millis());
    for begin in (0..ITEMS).step_by(25) {
        let put = |index: usize| {
            let item = json!({ "p": { "S": "activity" }, "s": { "S": place(index) },
                "d": { "B": counted } });
            json!({ "PutRequest": { "Item": item } })
        };
        let puts: Vec<Value> = (begin..begin + 25).map(put).collect();
        let call = world.emulator.call(
            "DynamoDB_20120810.BatchWriteItem",
            json!({ "RequestItems": { "posthaste": puts } }),
        );
        call.await.unwrap();
    }
    let position = async || world.items("totals").await[0]["f"]["S"].as_str().unwrap().to_owned();
    let later = now.plus(Duration::from_secs(60));
    world.store.maintain(later, world.clock.now()).await.unwrap();
    assert_eq!(position().await, place(999), "its time was over");
    world.store.maintain(later, world.clock.now().plus(Duration::from_secs(60))).await.unwrap();
    assert_eq!(position().await, place(ITEMS - 1));
    assert_eq!(world.store.counters().await.unwrap()["invocations"], ITEMS as u64);
}

/// What is written per invocation and per failure is spread over partitions, of which each takes
/// 1,000 write units a second. Tested by the keys of 64 targets and 64 counts, all of which are
/// told.
#[tokio::test(flavor = "multi_thread")]
async fn targets_and_counts_are_spread_over_partitions() {
    let world = World::start().await;
    let now = world.clock.now();
    for index in 0..64 {
        let open = failed(&format!("https://d{index}.example.com:443"), 5, now);
        world.store.write_target(None, &open).await.unwrap();
        let counters = [("invocations".to_owned(), 1)].into();
        world.store.add_activity(&Activity { counters, ..Activity::default() }, now).await.unwrap();
    }
    for (begins, index_key) in [("target", Some("i")), ("activity", None)] {
        let items = world.items(begins).await;
        let parts = |key: &str| {
            items.iter().map(|item| item[key]["S"].as_str().unwrap()).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(
            (items.len(), parts("p"), index_key.map(parts)),
            (64, 4, index_key.map(|_| 4)),
            "{begins}"
        );
    }
    assert_eq!(world.store.targets(now).await.unwrap().len(), 64);
    assert_eq!(world.store.counters().await.unwrap()["invocations"], 64);
}

/// A clock that was 40 days ahead does not stop the figures for 40 days. Tested with counts from
/// then, summed up then, and others once the clock is right again.
#[tokio::test(flavor = "multi_thread")]
async fn figures_go_on_after_a_clock_was_ahead() {
    let world = World::start().await;
    let now = world.clock.now();
    let until = now.plus(Duration::from_secs(3600));
    let count = async |at: Timestamp| {
        for _ in 0..16 {
            let counters = [("invocations".to_owned(), 1)].into();
            world
                .store
                .add_activity(&Activity { counters, ..Activity::default() }, at)
                .await
                .unwrap();
        }
    };
    let ahead = now.plus(40 * DAY);
    count(ahead).await;
    world.store.maintain(ahead.plus(Duration::from_secs(60)), until).await.unwrap();
    world.store.maintain(now, until).await.unwrap();
    count(now.plus(Duration::from_secs(60))).await;
    world.store.maintain(now.plus(Duration::from_secs(120)), until).await.unwrap();
    assert_eq!(world.store.counters().await.unwrap()["invocations"], 32);
    for sums in world.items("totals").await {
        assert!(
            sums["f"]["S"].as_str().unwrap()
                < format!("{:015}", now.as_millis() + 120_000).as_str(),
            "{sums:?}"
        );
    }
}

/// A report of the sweep that this version cannot read counts as none, and the next one replaces
/// it. Tested with items of another shape, written behind the store's back.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_report_of_the_sweep_counts_as_none() {
    let world = World::start().await;
    let report = SweepReport { ran_at: world.clock.now(), ..SweepReport::default() };
    for unreadable in [json!({ "N": "7" }), json!({ "S": r#"{"another":"shape"}"# })] {
        let item = json!({ "p": { "S": "sweep" }, "s": { "S": "report" }, "d": unreadable });
        let put = json!({ "TableName": "posthaste", "Item": item });
        world.emulator.call("DynamoDB_20120810.PutItem", put).await.unwrap();
        assert_eq!(world.store.last_sweep().await.unwrap(), None, "{item}");
        world.store.report_sweep(&report).await.unwrap();
        assert_eq!(world.store.last_sweep().await.unwrap().as_ref(), Some(&report));
    }
}

/// The error of an unreachable store says that it is unreachable, within the time limit. Tested
/// with a closed port.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable() {
    let clock = Arc::new(TestClock::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = store(&endpoint, &clock, Duration::from_secs(2));
    let webhook = new_webhook(&Rules::default(), clock.now());
    assert!(matches!(store.get(&webhook.id).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(
        store.create(&webhook, &content(10)).await,
        Err(CreateError::Store(StoreError::Unavailable(_)))
    ));
}
