//! The first write of a delivery, which makes its record, and the writes after it.

use shared::{
    applications::standing::Found,
    model::{ClaimId, Function, Webhook, Why},
    status::Status,
    store::WriteError,
    transition::GiveUp,
};

use super::published::{State, content, days, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, same},
    races::run_concurrently,
    steps::{OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_delivery_has_no_record_before_its_first_write,
        each_first_write_makes_the_record,
        one_of_racing_first_writes_wins,
        a_repeated_first_write_succeeds,
        a_late_first_write_returns_the_stored_record,
        later_writes_are_conditional,
        every_claim_gets_the_message_s_content,
        deliveries_of_one_message_are_independent,
        a_hundred_deliveries_are_made_at_once,
        counts_have_stored_records_only,
    ]
}

async fn assert_stored(fixture: &Fixture, expected: &Webhook) {
    let id = &expected.id;
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.get(id).await.unwrap().as_ref(), Some(expected));
        let opened = (expected.clone(), content(&id.message_id().unwrap()));
        assert_eq!(store.open(id).await.unwrap(), Some(opened));
    }
    let found = Some(Found::Record(Box::new(expected.clone())));
    assert_eq!(fixture.found(id).await, found);
}

fn assert_conflict(written: Result<(), WriteError>, stored: &Webhook) {
    match written {
        Err(WriteError::Conflict(found)) => assert_eq!(*found, *stored),
        other => panic!("{other:?}"),
    }
}

/// A delivery without a record is not read by its id, and its key is vacant. The case reads it by
/// each call.
async fn a_delivery_has_no_record_before_its_first_write(fixture: Fixture) {
    let message = fixture.published(1).await;
    let delivery = unstarted(&message, 0);
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.get(&delivery.id).await.unwrap(), None);
        assert_eq!(store.open(&delivery.id).await.unwrap(), None);
        let stored = store.delivery(&delivery.id).await.unwrap().unwrap();
        assert_eq!((&stored.message, &stored.found), (&message, &None));
        let visible = stored.visible(message.plan[0].endpoint, fixture.now());
        assert_eq!(visible.as_ref(), Some(&delivery));
    }
    assert_eq!(fixture.due_at(&delivery.id).await, None);
}

/// The first write makes the record, whatever transition it is. The case claims, holds, rescues,
/// defers, gives up and abandons a delivery that has no record.
async fn each_first_write_makes_the_record(fixture: Fixture) {
    let message = fixture.published(5).await;
    let now = fixture.now();
    let nth = |index| unstarted(&message, index);
    let (rules, why) = (&fixture.rules, (Function::Api, Why::Unsent));
    let later = now.plus(days(14));
    let first_writes = [
        (nth(0), rules.claim(&nth(0), OURS, now).unwrap()),
        (nth(1), rules.adopt(&nth(1), now, why, now).unwrap()),
        (nth(2), rules.rescue(&nth(2), now).unwrap()),
        (nth(3), rules.give_up(&nth(3), GiveUp::Unreadable, Function::Dlq, now).unwrap()),
        (nth(4), rules.abandon(&nth(4), later).unwrap()),
    ];
    for (index, (delivery, next)) in first_writes.iter().enumerate() {
        assert_eq!(delivery.revision, 0);
        if index % 2 == 0 {
            fixture.store.write(delivery, next).await.unwrap();
        } else {
            let opened = fixture.other.write_and_open(delivery, next).await.unwrap();
            assert_eq!(opened, content(&message.id));
        }
        assert_stored(&fixture, next).await;
        eventually("its place in the due index", || async {
            same(&fixture.due_at(&next.id).await, &next.due_at)
        })
        .await;
    }
    assert_eq!(fixture.store.message(&message.id).await.unwrap(), Some(message));
}

/// The fence of the first attempt: of any number of workers, one makes the record. In each round,
/// six workers claim a delivery that has none. The others get the record that beat them.
async fn one_of_racing_first_writes_wins(fixture: Fixture) {
    for round in 0..30 {
        let message = fixture.published(1).await;
        let (delivery, now) = (unstarted(&message, 0), fixture.now());
        let results = run_concurrently(&fixture, 6, |index, store| {
            let claim = ClaimId(100 + index as u64);
            let (delivery, claimed) =
                (delivery.clone(), fixture.rules.claim(&delivery, claim, now).unwrap());
            async move {
                let written = if index % 3 == 0 {
                    store.write(&delivery, &claimed).await
                } else {
                    store.write_and_open(&delivery, &claimed).await.map(|opened| {
                        assert_eq!(opened, content(&delivery.id.message_id().unwrap()));
                    })
                };
                (written, claimed)
            }
        })
        .await;
        let stored = fixture.other.get(&delivery.id).await.unwrap().unwrap();
        let mut won = 0;
        for (written, claimed) in results {
            match written {
                Ok(()) => {
                    won += 1;
                    assert_eq!(stored, claimed, "round {round}");
                }
                refused => assert_conflict(refused, &stored),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
}

/// A worker that finds its own claim has succeeded. The case repeats the first write, of either
/// kind and through both handles.
async fn a_repeated_first_write_succeeds(fixture: Fixture) {
    let message = fixture.published(1).await;
    let delivery = unstarted(&message, 0);
    let claimed = fixture.rules.claim(&delivery, OURS, fixture.now()).unwrap();
    for store in [&fixture.store, &fixture.other, &fixture.store] {
        store.write(&delivery, &claimed).await.unwrap();
        let opened = store.write_and_open(&delivery, &claimed).await.unwrap();
        assert_eq!(opened, content(&message.id));
    }
    assert_stored(&fixture, &claimed).await;
}

/// A look that is late finds the record of the look before it, and changes nothing. The case makes
/// the first write again in each state of the delivery.
async fn a_late_first_write_returns_the_stored_record(fixture: Fixture) {
    let message = fixture.published(State::ALL.len()).await;
    for (index, state) in State::ALL.into_iter().enumerate() {
        let delivery = unstarted(&message, index);
        let stored = state.reach(&fixture, &delivery).await;
        let claimed = fixture.rules.claim(&delivery, ClaimId(9), fixture.now()).unwrap();
        for store in [&fixture.store, &fixture.other] {
            assert_conflict(store.write(&delivery, &claimed).await, &stored);
            let opened = store.write_and_open(&delivery, &claimed).await;
            assert_conflict(opened.map(drop), &stored);
        }
        assert_stored(&fixture, &stored).await;
    }
}

/// A write after the first takes effect only on the stored record. The case writes from an older
/// and a newer revision, and repeats a write.
async fn later_writes_are_conditional(fixture: Fixture) {
    let message = fixture.published(1).await;
    let now = fixture.now();
    let delivery = unstarted(&message, 0);
    let claimed = fixture.step(&delivery, |rules, first| rules.claim(first, OURS, now)).await;
    let retrying = fixture.rules.conclude(&claimed, OURS, &answered(500), now, 0.5).unwrap();
    for store in [&fixture.other, &fixture.store] {
        store.write(&claimed, &retrying).await.unwrap();
    }
    assert_stored(&fixture, &retrying).await;
    let delivered = fixture.rules.conclude(&claimed, OURS, &answered(200), now, 0.5).unwrap();
    let ahead = Webhook { revision: retrying.revision + 1, ..retrying.clone() };
    let further = Webhook { revision: retrying.revision + 2, ..retrying.clone() };
    for store in [&fixture.store, &fixture.other] {
        for (before, after) in [(&claimed, &delivered), (&ahead, &further)] {
            assert_conflict(store.write(before, after).await, &retrying);
            let opened = store.write_and_open(before, after).await;
            assert_conflict(opened.map(drop), &retrying);
        }
    }
    assert_stored(&fixture, &retrying).await;
}

/// Each claim gets the content of the message: without URL and headers, which the endpoint has. The
/// case claims for the first, the second and a resent attempt, after a write of the message.
async fn every_claim_gets_the_message_s_content(fixture: Fixture) {
    let published = fixture.published(1).await;
    let message = fixture.held(&published, fixture.now()).await;
    let now = fixture.now();
    let delivery = unstarted(&message, 0);
    let claim = async |before: &Webhook, now| {
        let claimed = fixture.rules.claim(before, OURS, now).unwrap();
        let opened = fixture.store.write_and_open(before, &claimed).await.unwrap();
        assert_eq!(opened, content(&message.id), "{}", before.status);
        claimed
    };
    let claimed = claim(&delivery, now).await;
    let failing = answered(500);
    let retry =
        fixture.step(&claimed, |rules, claimed| rules.conclude(claimed, OURS, &failing, now, 0.5));
    let retrying = retry.await;
    let later = retrying.allowed_at.unwrap();
    let claimed = claim(&retrying, later).await;
    let delivered = fixture
        .step(&claimed, |rules, claimed| rules.conclude(claimed, OURS, &answered(200), later, 0.5))
        .await;
    assert_stored(&fixture, &delivered).await;
    let resent = fixture.step(&delivered, |rules, done| rules.resend(done, later)).await;
    let claimed = claim(&resent, later).await;
    assert_stored(&fixture, &claimed).await;
}

/// The deliveries of one message change independently of each other and of the message. In the
/// case, each reaches another state, and then the message changes.
async fn deliveries_of_one_message_are_independent(fixture: Fixture) {
    let message = fixture.published(State::ALL.len() + 1).await;
    let mut expected = Vec::new();
    for (index, state) in State::ALL.into_iter().enumerate() {
        expected.push(state.reach(&fixture, &unstarted(&message, index)).await);
    }
    let held = fixture.held(&message, fixture.now()).await;
    for webhook in &expected {
        assert_stored(&fixture, webhook).await;
    }
    let standing = fixture.standing(&message.id).await.unwrap();
    assert_eq!((standing.message, standing.found.len()), (held, expected.len()));
    assert_eq!(fixture.found(&unstarted(&message, expected.len()).id).await, None);
}

/// Each delivery of a large message is claimed and concluded by a worker of its own, and none is
/// refused. The case has 100 endpoints and two handles.
async fn a_hundred_deliveries_are_made_at_once(fixture: Fixture) {
    let message = fixture.published(100).await;
    let now = fixture.now();
    let delivered = run_concurrently(&fixture, 100, |index, store| {
        let (delivery, rules) = (unstarted(&message, index), fixture.rules.clone());
        async move {
            let claimed = rules.claim(&delivery, OURS, now).unwrap();
            store.write_and_open(&delivery, &claimed).await.unwrap();
            let delivered = rules.conclude(&claimed, OURS, &answered(200), now, 0.5).unwrap();
            store.write(&claimed, &delivered).await.unwrap();
            delivered
        }
    })
    .await;
    let standing = fixture.standing(&message.id).await.unwrap();
    assert_eq!(standing.found.len(), 100);
    for webhook in delivered {
        let found = &standing.found[&webhook.id.endpoint.unwrap()];
        assert_eq!(*found, Found::Record(Box::new(webhook)));
    }
    assert!(standing.accounts_for_all(fixture.now()) && !standing.is_unheld());
}

/// The counts have each stored record of a delivery, and neither the message nor a delivery without
/// a record. The case compares them before and after writes and a marker.
async fn counts_have_stored_records_only(fixture: Fixture) {
    let before = fixture.store.counts().await.unwrap();
    let expect = async |added: &[Status]| {
        let mut expected = before;
        for status in added {
            expected[status.index()] += 1;
        }
        eventually("counts", || async { same(&fixture.other.counts().await.unwrap(), &expected) })
            .await;
    };
    let published = fixture.published(4).await;
    let message = fixture.held(&published, fixture.now()).await;
    expect(&[]).await;
    let claimed = State::InProgress.reach(&fixture, &unstarted(&message, 0)).await;
    State::Delivered.reach(&fixture, &unstarted(&message, 1)).await;
    State::Archived.reach(&fixture, &unstarted(&message, 2)).await;
    expect(&[Status::InProgress, Status::Delivered, Status::Failed]).await;
    fixture.store.put_marker(&claimed.id, fixture.now()).await.unwrap();
    expect(&[Status::Delivered, Status::Failed]).await;
    fixture.store.put_marker(&claimed.id, fixture.now()).await.unwrap();
    fixture.store.put_marker(&unstarted(&message, 3).id, fixture.now()).await.unwrap();
    fixture.store.delete(&unstarted(&message, 1).id).await.unwrap();
    expect(&[Status::Failed]).await;
}
