//! Lists of deliveries and messages.

use super::{
    messages::{endpoint, new_message},
    *,
};
use crate::{
    status::Status,
    store::{DeadLetterFilter, DeadLetterPosition, ListPosition, MessageFilter, Messages},
};

/// Lists have each delivery once, in their order, whatever the size of the page, with and without a
/// record.
#[tokio::test]
async fn lists_have_deliveries_with_and_without_records() {
    let fixture = fixture();
    let direct = fixture.accept(1).await;
    let message = fixture.publish(2, [5, 1, 4, 2, 3]).await;
    let other = fixture.publish(3, [1]).await;
    let last = fixture.accept(4).await;
    let (done, open) = (fixture.finish(&message, 2).await, fixture.start(&message, 4).await);
    let gone = Rules::delivery(&message, endpoint(5)).unwrap();
    fixture.store.delete_unchanged(&gone).await.unwrap();
    let unstarted = |message, n| Rules::delivery(message, endpoint(n)).unwrap();
    let all = [
        last.clone(),
        unstarted(&other, 1),
        open.clone(),
        unstarted(&message, 3),
        done,
        unstarted(&message, 1),
        direct.clone(),
    ];
    let pending = [
        last.clone(),
        unstarted(&other, 1),
        unstarted(&message, 3),
        unstarted(&message, 1),
        direct.clone(),
    ];
    let of = |status| Filter { status: Some(status), ..Filter::default() };
    for limit in 1..10 {
        let webhooks = async |filter| -> Vec<Webhook> {
            let listed = fixture.walk(&filter, limit).await;
            listed.into_iter().map(|listed| listed.webhook).collect()
        };
        assert_eq!(webhooks(Filter::default()).await, all, "{limit}");
        assert_eq!(webhooks(of(Status::Pending)).await, pending, "{limit}");
        assert_eq!(webhooks(of(Status::InProgress)).await, std::slice::from_ref(&open));
        assert_eq!(webhooks(of(Status::Failed)).await, []);
    }
    // A position between the keys.
    let after = ListPosition { task: message.id.task, endpoint: Some(endpoint(3)) };
    let page = fixture.store.list(&Filter::default(), Some(after), 1).await.unwrap();
    assert_eq!(page.items[0].webhook, all[4]);
    // The index of pending webhooks loses a message with its last delivery.
    assert_eq!(fixture.rows("webhooks WHERE kind = 1 AND status = 0"), 2);
    for n in [1, 3] {
        fixture.start(&message, n).await;
    }
    assert_eq!(fixture.rows("webhooks WHERE kind = 1 AND status = 0"), 1);
    let reference = Some(message.id.reference.clone());
    let filter = Filter { reference, ..Filter::default() };
    assert!(
        fixture.walk(&filter, 10).await.is_empty(),
        "a reference ID finds direct webhooks only"
    );
}

#[tokio::test]
async fn an_endpoints_dead_letters_are_one_query() {
    let fixture = fixture();
    let message = fixture.publish(1, [1, 2]).await;
    let other = fixture.publish(2, [1]).await;
    let dead = [
        fixture.bury(&message, 1).await,
        fixture.bury(&message, 2).await,
        fixture.bury(&other, 1).await,
    ];
    let list = async |filter: DeadLetterFilter| -> Vec<Webhook> {
        let (mut all, mut after) = (Vec::new(), None::<DeadLetterPosition>);
        loop {
            let page = fixture.store.dead_letters(&filter, after, 1).await.unwrap();
            all.extend(page.items.into_iter().map(|listed| listed.webhook));
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    };
    let [a, b, c] = dead;
    assert_eq!(list(DeadLetterFilter::All).await, [c.clone(), b, a.clone()]);
    let application = || message.application.clone();
    assert_eq!(list(DeadLetterFilter::Endpoint(application(), endpoint(1))).await, [c, a]);
    assert_eq!(list(DeadLetterFilter::Endpoint(application(), endpoint(9))).await, []);
    let stranger = "cust-8".parse().unwrap();
    assert_eq!(list(DeadLetterFilter::Endpoint(stranger, endpoint(1))).await, []);
    let reference = message.id.reference.clone();
    assert_eq!(list(DeadLetterFilter::Reference(reference)).await, []);
}

#[tokio::test]
async fn an_applications_messages_are_listed_newest_first() {
    let fixture = fixture();
    let mut messages = Vec::new();
    for n in 0..4_u8 {
        let mut new = new_message(fixture.task(n.into()), [n % 2]);
        if n < 2 {
            (new.id.reference, new.referenced) = ("order-7".parse().unwrap(), true);
        }
        messages.push(fixture.store_message(new).await);
        fixture.advance(Duration::from_millis(10));
    }
    let mut stranger = new_message(fixture.task(9), [1]);
    stranger.application = "cust-8".parse().unwrap();
    (stranger.id.reference, stranger.referenced) = ("order-7".parse().unwrap(), true);
    fixture.store_message(stranger).await;
    let all = MessageFilter::all(messages[0].application.clone());
    let list = async |filter: MessageFilter| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = fixture.store.list_messages(&filter, after, 1).await.unwrap();
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    };
    let of = |numbers: &[usize]| numbers.iter().map(|n| messages[*n].clone()).collect::<Vec<_>>();
    assert_eq!(list(all.clone()).await, of(&[3, 2, 1, 0]));
    let endpoint = Some(endpoint(1));
    assert_eq!(list(MessageFilter { endpoint, ..all.clone() }).await, of(&[3, 1]));
    let reference = "order-7".parse().ok();
    assert_eq!(list(MessageFilter { reference, ..all.clone() }).await, of(&[1, 0]));
    let reference = Some(messages[2].id.reference.clone());
    assert_eq!(list(MessageFilter { reference, ..all.clone() }).await, of(&[2]));
    let (since, until) = (messages[1].created_at, messages[3].created_at);
    let filter = MessageFilter { since: Some(since), until: Some(until), ..all.clone() };
    assert_eq!(list(filter).await, of(&[2, 1]));
}
