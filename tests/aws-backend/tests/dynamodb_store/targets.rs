//! Targets: what they cost, their entries in the index, their times to live, and a write that the
//! client sends twice.

use std::mem;

use shared::{
    store::{MAX_TARGETS, TARGET_TTL, TakenSlots, WriteTargetError},
    traffic::{
        pace::{Pace, Refusal},
        slots::{Counters, Take},
    },
};
use tokio::{
    io::{AsyncReadExt, copy, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tools::cost::proxy::Proxy;

use super::*;

const ORIGIN: &str = "https://down.example.com:443";

fn paused(target: &Target, now: Timestamp) -> Target {
    let refusal = Refusal { attempt_started_at: now, status_code: 429, retry_after: None };
    let pace = Pace::after_refusal(None, &refusal, Duration::from_secs(60), None, now);
    target.paused(pace.unwrap(), now)
}

fn counters(last: i64) -> Counters {
    Counters { generation: "1".to_owned(), last, last_late: 0 }
}

fn take(count: u32) -> Take {
    Take { generation: "1".to_owned(), floor: 0, count, is_late: false }
}

/// The write units and the read units since the last call.
fn units(proxy: &Proxy) -> (f64, f64) {
    let tallies = proxy.take();
    let sum = |of: fn(&tools::cost::proxy::Tally) -> f64| tallies.values().map(of).sum();
    (sum(|tally| tally.write_units), sum(|tally| tally.read_units))
}

/// A target that opens no circuit, and slots, change no index. While all is well, the list is
/// empty: half a read unit for each of its four partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_opens_no_circuit_and_slots_cost_one_unit_each() {
    let world = World::start().await;
    let proxy = Proxy::start().await.unwrap();
    proxy.forward_to(world.emulator.endpoint());
    let store = store(&proxy.endpoint(), &world.clock, Duration::from_secs(60));
    let now = world.clock.now();
    assert_eq!(store.targets(now).await.unwrap(), []);
    assert_eq!(units(&proxy), (0.0, 2.0), "the list");

    let first = failed(ORIGIN, 1, now);
    store.write_target(None, &first).await.unwrap();
    let second = first.failed(1, &Settings::default(), now);
    store.write_target(Some(first.revision), &second).await.unwrap();
    let idle = second.succeeded(now);
    store.write_target(Some(second.revision), &idle).await.unwrap();
    assert_eq!(units(&proxy), (3.0, 0.0), "two failures and a success");

    let paused = paused(&failed(ORIGIN, 1, now), now);
    store.write_target(None, &paused).await.unwrap();
    assert_eq!(units(&proxy), (2.0, 0.0), "a pause, which enters the list");
    store.replace_counters(&paused.key, None, &counters(0)).await.unwrap();
    for _ in 0..3 {
        store.take_slots(&paused.key, &take(10)).await.unwrap();
    }
    assert_eq!(units(&proxy), (4.0, 0.0), "slots of a paused target, ten in one call");
}

/// Only a target that restricts attempts has an entry in the index `work`. Every item has a time to
/// live, also one of which only the counters are left.
#[tokio::test(flavor = "multi_thread")]
async fn only_targets_that_restrict_attempts_are_in_the_index() {
    let world = World::start().await;
    let now = world.clock.now();
    // Whether it has an entry in the index, whether it has a target, and whether it is kept from
    // this time on. The clock goes on during the test.
    let item = async |since: Timestamp| {
        let items = world.items("target").await;
        let [item] = items.as_slice() else { panic!("{items:?}") };
        let expires_at: i64 = item["x"]["N"].as_str().unwrap().parse().unwrap();
        let earliest = since.plus(TARGET_TTL).as_millis() / 1000;
        assert!((earliest..earliest + 60).contains(&expires_at), "{expires_at} {earliest}");
        [item.contains_key("i") && item.contains_key("j"), item.contains_key("d")]
    };
    let first = failed(ORIGIN, 1, now);
    world.store.write_target(None, &first).await.unwrap();
    assert_eq!(item(now).await, [false, true]);
    let open = first.failed(4, &Settings::default(), now);
    world.store.write_target(Some(first.revision), &open).await.unwrap();
    assert_eq!(item(now).await, [true, true]);

    world.clock.advance(DAY);
    let later = world.clock.now();
    world.store.replace_counters(&open.key, None, &counters(0)).await.unwrap();
    assert_eq!(item(later).await, [true, true]);
    world.store.write_target(Some(open.revision), &open.succeeded(later)).await.unwrap();
    world.clock.advance(DAY);
    let latest = world.clock.now();
    world.store.take_slots(&open.key, &take(1)).await.unwrap();
    assert_eq!(item(latest).await, [false, false]);
}

/// The index trails the items. Tested with an item that has its entry still and restricts nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_trails_its_item_is_not_listed() {
    let world = World::start().await;
    let now = world.clock.now();
    let open = failed(ORIGIN, 5, now);
    world.store.write_target(None, &open).await.unwrap();
    assert_eq!(world.store.targets(now).await.unwrap().len(), 1);
    for target in [failed(ORIGIN, 1, now), Target::idle(open.key.clone())] {
        let mut item = world.items("target").await.pop().unwrap();
        item["d"] = json!({ "S": serde_json::to_string(&target).unwrap() });
        let put = json!({ "TableName": "posthaste", "Item": item });
        world.emulator.call("DynamoDB_20120810.PutItem", put).await.unwrap();
        assert_eq!(world.store.targets(now).await.unwrap(), [], "{target:?}");
    }
}

/// A partition can have more entries than the list holds. The list has those that restrict for the
/// longest.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_full_partition_the_longest_restrictions_are_listed() {
    let world = World::start().await;
    let now = world.clock.now();
    let mut keys = Vec::new();
    // The partitions are four, so one of them has more entries than the list.
    for seconds in 0..=4 * MAX_TARGETS as u64 {
        let later = now.plus(Duration::from_secs(seconds));
        let open = failed(&format!("https://{seconds}.example.com:443"), 5, later);
        world.store.write_target(None, &open).await.unwrap();
        keys.push(open.key);
    }
    let listed = world.store.targets(now).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|state| state.target.unwrap().key).collect();
    let longest: Vec<_> = keys.into_iter().rev().take(MAX_TARGETS).collect();
    assert_eq!(listed, longest);
}

/// Forwards to the emulator, except that the answer to the first connection is lost.
async fn losing_the_first_answer(endpoint: &str) -> (String, JoinHandle<()>) {
    let upstream = endpoint.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let forwarder = tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&upstream).await.unwrap();
            if mem::take(&mut is_first) {
                let (mut request, _) = client.split();
                let (mut answer, mut to_server) = server.split();
                tokio::select! {
                    _ = copy(&mut request, &mut to_server) => {}
                    _ = answer.read_u8() => {}
                }
            } else {
                tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
            }
        }
    });
    (format!("http://{address}"), forwarder)
}

/// The client sends a write again if the answer was lost. The second one finds the first, which is
/// no other worker's.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_sent_twice_finds_itself() {
    let world = World::start().await;
    let (endpoint, forwarder) = losing_the_first_answer(world.emulator.endpoint()).await;
    let store = store(&endpoint, &world.clock, Duration::from_secs(60));
    let target = failed(ORIGIN, 1, world.clock.now());
    store.write_target(None, &target).await.unwrap();
    assert_eq!(world.store.target(&target.key).await.unwrap().target, Some(target.clone()));
    let another = store.write_target(None, &target).await;
    assert!(matches!(another, Err(WriteTargetError::Changed(Some(_)))), "{another:?}");
    forwarder.abort();
}

/// Slots that were taken twice are lost, never given twice.
#[tokio::test(flavor = "multi_thread")]
async fn slots_whose_answer_was_lost_are_given_to_nobody() {
    let world = World::start().await;
    let key = TargetKey::origin(ORIGIN);
    world.store.replace_counters(&key, None, &counters(0)).await.unwrap();
    let (endpoint, forwarder) = losing_the_first_answer(world.emulator.endpoint()).await;
    let store = store(&endpoint, &world.clock, Duration::from_secs(60));
    for (count, last) in [(3, 6), (1, 7)] {
        let taken = store.take_slots(&key, &take(count)).await.unwrap();
        assert_eq!(taken, TakenSlots::Taken { last, target: None });
    }
    forwarder.abort();
}
