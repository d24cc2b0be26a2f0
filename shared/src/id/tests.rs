use proptest::prelude::*;

use super::*;

/// However the clock moves, and whatever the generator draws.
#[test]
fn the_ids_of_one_process_are_monotonic_and_stay_near_the_clock() {
    // Small steps, so that several ids share a millisecond; steps back below and above the
    // limit.
    let step = prop_oneof![6 => 0_i64..3, 2 => -900_i64..0, 1 => -5000_i64..5000];
    let draw = prop_oneof![3 => any::<[u8; 10]>(), 1 => Just([0xff; 10]), 1 => Just([0; 10])];
    proptest!(|(steps in proptest::collection::vec((step, draw), 1..200))| {
        let ids = TaskIdGenerator::default();
        let mut now = Timestamp::from_millis(1_700_000_000_000);
        let mut last: Option<TaskId> = None;
        for (step, random) in steps {
            now = Timestamp::from_millis(now.as_millis() + step);
            let id = ids.next(now, random);
            prop_assert!(id.created_at() >= now, "{id} is older than {now}");
            prop_assert!(id.created_at() <= now.plus(MAX_AHEAD), "{id} is ahead of {now}");
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            if let Some(last) = last
                && last.created_at().since(now) < MAX_AHEAD
            {
                prop_assert!(id > last, "{} after {}", id, last);
            }
            last = Some(id);
        }
    });
}

#[test]
fn a_counter_that_overflows_goes_on_in_the_next_millisecond() {
    let (ids, now) = (TaskIdGenerator::default(), Timestamp::from_millis(1_700_000_000_000));
    let first = ids.next(now, [0xff; 10]);
    let second = ids.next(now, [0; 10]);
    assert!(first < second);
    assert_eq!(second.created_at(), now.plus(Duration::from_millis(1)));
}

#[test]
fn a_batch_is_in_the_order_of_its_items_and_apart_from_other_ids() {
    let (ids, now) = (TaskIdGenerator::default(), Timestamp::from_millis(1_700_000_000_000));
    let before = ids.next(now, [7; 10]);
    let batch = ids.next_batch(now, [7; 10], 100);
    let after = ids.next(now, [7; 10]);
    let all: Vec<_> = [before].into_iter().chain(batch.clone()).chain([after]).collect();
    assert_eq!(batch.len(), 100);
    assert!(all.is_sorted_by(|one, next| one < next), "{all:?}");
    assert_eq!(ids.next_batch(now, [7; 10], 0), []);
    assert!(ids.next(now, [7; 10]) > after);
}

#[test]
fn threads_share_one_order() {
    let (ids, now) = (TaskIdGenerator::default(), Timestamp::from_millis(1_700_000_000_000));
    let mint = || (0..500).map(|_| ids.next(now, [7; 10])).collect::<Vec<_>>();
    let mut minted = std::thread::scope(|scope| {
        let others = [scope.spawn(mint), scope.spawn(mint)];
        let all = others.into_iter().flat_map(|thread| thread.join().unwrap());
        all.collect::<Vec<_>>()
    });
    minted.sort_unstable();
    minted.dedup();
    assert_eq!(minted.len(), 1000);
}

fn task() -> TaskId {
    TaskId::mint(Timestamp::from_millis(1_700_000_000_123), [7; 10])
}

#[test]
fn an_id_carries_its_time_and_sorts_by_it() {
    assert_eq!(task().created_at(), Timestamp::from_millis(1_700_000_000_123));
    let later = TaskId::mint(Timestamp::from_millis(1_700_000_000_124), [0; 10]);
    assert!(
        task() < later
            && task().as_bytes() < later.as_bytes()
            && task().to_string() < later.to_string()
    );
    assert!(TaskId::first_at(task().created_at()) <= task());
}

#[test]
fn a_webhook_id_is_read_as_it_was_written() {
    for reference in ["a", "order_17", "_", "-_-", &"x".repeat(64)] {
        let id = WebhookId::direct(reference.parse().unwrap(), task());
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

#[test]
fn invalid_ids_are_refused() {
    let good = task().to_string();
    let cases = [
        "",
        "_",
        "a",
        &good,
        &format!("_{good}"),
        &format!("a b_{good}"),
        &format!("a_{}", good.to_uppercase()),
    ];
    for text in cases {
        assert_eq!(text.parse::<WebhookId>(), Err(InvalidId::Webhook), "{text}");
    }
    assert_eq!(
        "a_9f0c2b4e-0000-4000-8000-000000000000".parse::<WebhookId>(),
        Err(InvalidId::Webhook),
        "UUIDv4"
    );
    assert_eq!("x".repeat(65).parse::<ReferenceId>(), Err(InvalidId::Reference));
}

#[test]
fn the_id_of_a_delivery_names_its_message_and_its_endpoint() {
    let endpoint = EndpointId::mint([7; 10]);
    let message: MessageId = format!("a_b_{}", task()).parse().unwrap();
    let delivery = message.delivery(endpoint);
    assert_eq!(delivery.to_string(), format!("a_b_{}.{endpoint}", task()));
    assert_eq!(delivery.to_string().parse(), Ok(delivery.clone()));
    assert_eq!((delivery.message_id(), delivery.is_delivery()), (Some(message.clone()), true));
    let direct: WebhookId = message.to_string().parse().unwrap();
    assert_eq!((direct.endpoint, direct.message_id(), direct.is_delivery()), (None, None, false));
    assert_eq!(direct, WebhookId::direct(message.reference.clone(), message.task));
    let json = serde_json::to_string(&message).unwrap();
    assert_eq!(json, format!("\"a_b_{}\"", task()));
    assert_eq!(serde_json::from_str::<MessageId>(&json).unwrap(), message);
    assert_eq!(delivery.to_string().parse::<MessageId>(), Err(InvalidId::Webhook));
    for bad in ["", ".", "ep-", "ep-aaaaaaaaaaaaaaaa.", "ep-AAAAAAAAAAAAAAAA", "x"] {
        let text = format!("{message}.{bad}");
        assert_eq!(text.parse::<WebhookId>(), Err(InvalidId::Webhook), "{text}");
    }
    let text = format!(".{endpoint}");
    assert_eq!(text.parse::<WebhookId>(), Err(InvalidId::Webhook), "{text}");
}

#[test]
fn a_generated_reference_leads_back_to_its_task() {
    let generated = ReferenceId::generated(task());
    assert_eq!(generated.as_str().parse(), Ok(generated.clone()));
    assert_eq!(generated.generated_for(), Some(task()));
    assert_eq!("auto-mobile".parse::<ReferenceId>().unwrap().generated_for(), None);
}

#[test]
fn items_of_a_batch_differ_and_are_always_the_same() {
    assert_eq!(task().nth(3), task().nth(3));
    assert_ne!(task().nth(3), task().nth(4));
    assert_eq!(task().nth(3).created_at(), task().created_at());
}
