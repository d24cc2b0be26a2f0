//! Messages and deliveries: their sizes, their index entries, and their times to live.

use shared::{
    applications::{id::EndpointId, matching::Plan, message::PublishedMessage},
    store::{Messages, WriteError},
    transition::{GiveUp, NewMessage},
};

use super::*;
use tools::cost::units::Mirror;

const APPLICATION: &str = "customer-4711";

fn new_message(task: TaskId, endpoints: usize) -> NewMessage {
    NewMessage {
        id: shared::id::MessageId { reference: shared::id::ReferenceId::generated(task), task },
        application: APPLICATION.parse().unwrap(),
        referenced: false,
        correlation_id: "9f0c2b4e-6d1f-4c2e-8a55-0d1c2b3a4f5e".to_owned(),
        event_type: "order.paid".parse().unwrap(),
        trace: None,
        deliver_at: None,
        plan: Plan {
            planned: (0..endpoints).map(|_| EndpointId::mint(rand::random())).collect(),
            off: Vec::new(),
        },
    }
}

fn payload(content: Content) -> Content {
    Content { url: String::new(), headers: Vec::new(), ..content }
}

/// A world whose finished webhooks are kept for a day only.
async fn brief_world() -> World {
    let mut world = World::start().await;
    let client = Aws::new().unwrap().with_limits(CALL_TIMEOUT, CALL_TIMEOUT);
    let client = client.dynamodb(&settings(world.emulator.endpoint()));
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as Arc<dyn Clock>;
    world.store = DynamoStore::new(client, "posthaste", clock, DAY);
    world.rules.limits.retention = DAY;
    world
}

const CALL_TIMEOUT: Duration = Duration::from_secs(60);

impl World {
    async fn published(&self, endpoints: usize, content: Content) -> PublishedMessage {
        let now = self.clock.now();
        let message =
            self.rules.publish(new_message(TaskId::mint(now, rand::random()), endpoints), now);
        self.store.create_message(&message, &payload(content)).await.unwrap();
        message
    }

    /// The units that writing today's items over those of `mirror` costs.
    async fn units(&self, mirror: &mut Mirror) -> f64 {
        let mut units = 0.0;
        for item in self.items("w/").await.into_iter().chain(self.items("c/").await) {
            if mirror.get(&item) != Some(&item) {
                units += mirror.write(&item.clone(), Some(item));
            }
        }
        units
    }

    /// Makes the delivery to the endpoint number `index` a dead letter.
    async fn dead_letter(&self, message: &PublishedMessage, index: usize) -> Webhook {
        let now = self.clock.now();
        let first = Rules::delivery(message, message.plan[index].endpoint).unwrap();
        let failed =
            self.rules.give_up(&first, GiveUp::EndpointDeleted, Function::Deliver, now).unwrap();
        self.store.write(&first, &failed).await.unwrap();
        let letter = self.rules.archive(&failed, now).unwrap();
        self.store.write(&failed, &letter).await.unwrap();
        letter
    }

    /// The times to live in days from now: of the message, its content, its only delivery.
    async fn days_left(&self) -> [Option<i64>; 3] {
        let now = self.clock.now().as_seconds();
        let left = |item: Option<&Item>| {
            let at: i64 = item?.get("x")?["N"].as_str().unwrap().parse().unwrap();
            Some((at - now) / 86400)
        };
        let (records, parts) = (self.items("w/").await, self.items("c/").await);
        let find = |kind: &str| records.iter().find(|item| item["k"]["S"] == kind);
        [left(find("m")), left(parts.first()), left(find("d"))]
    }
}

/// A message costs one write unit and its entry in one index. A claim and an outcome of a delivery
/// cost one write unit each and enter no index. Tested by the units of the items, step by step, for
/// payloads that share the message's item and for one that does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_costs_two_write_units_and_its_message_two() {
    for (payload, apart) in [(content(400), 0.0), (identifiers(900), 0.0), (identifiers(1500), 1.0)]
    {
        let world = World::start().await;
        let mut mirror = Mirror::default();
        let message = world.published(3, payload).await;
        assert!((world.units(&mut mirror).await - (2.0 + apart)).abs() < 0.01);
        for entry in &message.plan {
            let now = world.clock.now();
            let first = Rules::delivery(&message, entry.endpoint).unwrap();
            let claimed = world.rules.claim(&first, CLAIM, now).unwrap();
            world.store.write_and_open(&first, &claimed).await.unwrap();
            assert!((world.units(&mut mirror).await - 1.0).abs() < 0.01, "the claim");
            let done = delivered(&world.rules, &claimed, now);
            world.store.write(&claimed, &done).await.unwrap();
            assert!((world.units(&mut mirror).await - 1.0).abs() < 0.01, "the outcome");
        }
        for item in world.items("w/").await {
            assert!(item_bytes(&item) <= 1024, "{} bytes: {item:?}", item_bytes(&item));
        }
    }
}

/// A message that is adopted and settles stays within one write unit, beside the largest payload
/// that shares its item. Tested with payloads of rising sizes.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_does_not_outgrow_its_write_unit() {
    let world = World::start().await;
    let (mut inline, mut apart) = (0, 0);
    for bytes in (700..1600).step_by(60) {
        let message = world.published(1, identifiers(bytes)).await;
        let read = world.store.standing(&message.id).await.unwrap().unwrap();
        let now = world.clock.now();
        let held = world.rules.adopt_message(&read, now, now).unwrap();
        world.store.write_message(&message, &held).await.unwrap();
        let items = world.items("w/").await;
        let task = message.id.task.to_string();
        let item = items.iter().find(|item| item["s"]["S"] == task.as_str()).unwrap();
        assert!(item_bytes(item) <= 1024, "{bytes}: {} bytes", item_bytes(item));
        if item.contains_key("c") { inline += 1 } else { apart += 1 }
    }
    assert!(inline > 3 && apart > 3, "{inline} {apart}");
}

/// A message and its content outlast the record of each delivery by 7.5 days. Tested by the times
/// to live, with records that are kept for a day: a dead letter, which is kept for 30, extends both
/// when it is written, and a delivered one extends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_a_delivery_extends_its_message_and_content() {
    let world = brief_world().await;
    let message = world.published(1, identifiers(4000)).await;
    assert_eq!(world.days_left().await, [Some(16), Some(31), None]);
    let letter = world.dead_letter(&message, 0).await;
    let [of_message, of_content, of_delivery] = world.days_left().await;
    assert_eq!(of_delivery, Some(30 + 20), "it occupies its key");
    assert_eq!(of_message, Some(30 + 1 + 15));
    assert!(of_content >= of_message, "{of_content:?}");
    let stored = world.store.message(&message.id).await.unwrap().unwrap();
    assert!(stored.revision > message.revision, "by a conditional write");
    world.clock.advance(29 * DAY);
    let (found, _) = world.store.open(&letter.id).await.unwrap().unwrap();
    assert_eq!(found, letter);

    let world = brief_world().await;
    let message = world.published(1, identifiers(4000)).await;
    let now = world.clock.now();
    let first = Rules::delivery(&message, message.plan[0].endpoint).unwrap();
    let claimed = world.rules.claim(&first, CLAIM, now).unwrap();
    world.store.write(&first, &claimed).await.unwrap();
    let done = delivered(&world.rules, &claimed, now);
    world.store.write(&claimed, &done).await.unwrap();
    assert_eq!(world.days_left().await, [Some(16), Some(31), Some(21)]);
    assert_eq!(world.store.message(&message.id).await.unwrap(), Some(message));
}

/// A first write after 14 days extends the message before it puts the record. Tested with records
/// that are kept for a day, after an outage.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_first_write_extends_its_message() {
    let world = brief_world().await;
    let message = world.published(1, identifiers(4000)).await;
    world.clock.advance(14 * DAY);
    let first = Rules::delivery(&message, message.plan[0].endpoint).unwrap();
    let failed = world.rules.abandon(&first, world.clock.now()).unwrap();
    world.store.write(&first, &failed).await.unwrap();
    let [of_message, of_content, of_delivery] = world.days_left().await;
    assert_eq!((of_message, of_delivery), (Some(16), None));
    assert!(of_content >= of_message, "{of_content:?}");
}

/// What a write of a delivery relies on stays: a message that is settled later keeps its time to
/// live. Tested with a dead letter, which is kept for 30 days, of a message that would expire after
/// 16, and with a settlement 20 days later.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_does_not_shorten_a_message_s_life() {
    let world = brief_world().await;
    let message = world.published(1, identifiers(4000)).await;
    let letter = world.dead_letter(&message, 0).await;
    let extended = world.days_left().await;
    let mut adopted = world.store.message(&message.id).await.unwrap().unwrap();
    let before = adopted.clone();
    adopted.revision += 1;
    (adopted.due_at, adopted.expires_at) = (Some(world.clock.now()), None);
    world.store.write_message(&before, &adopted).await.unwrap();
    assert_eq!(world.days_left().await[0], None, "a due message has no time to live");
    let standing = world.store.standing(&message.id).await.unwrap().unwrap();
    let settled = world.rules.settle(&standing, world.clock.now()).unwrap();
    world.store.write_message(&adopted, &settled).await.unwrap();
    assert_eq!(world.days_left().await, extended);
    world.clock.advance(29 * DAY);
    assert!(settled.is_expired(world.clock.now()), "by its record alone");
    let (found, _) = world.store.open(&letter.id).await.unwrap().unwrap();
    assert_eq!(found, letter);
    let standing = world.store.standing(&message.id).await.unwrap().unwrap();
    assert_eq!(standing.message, settled);
    world.store.delete_message(&settled).await.unwrap();
    assert!(world.items("c/").await.is_empty());
}

/// A first write needs the message, so that a late look cannot make a delivery that has no content.
/// Tested with a message whose items DynamoDB has deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_after_the_message_s_time_to_live_is_refused() {
    let world = World::start().await;
    let message = world.published(1, content(400)).await;
    let first = Rules::delivery(&message, message.plan[0].endpoint).unwrap();
    let claimed = world.rules.claim(&first, CLAIM, world.clock.now()).unwrap();
    for item in world.items("w/").await {
        let key = json!({ "p": item["p"], "s": item["s"] });
        let delete = json!({ "TableName": "posthaste", "Key": key });
        world.emulator.call("DynamoDB_20120810.DeleteItem", delete).await.unwrap();
    }
    let written = world.store.write_and_open(&first, &claimed).await;
    assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
    assert!(world.items("w/").await.is_empty());
}
