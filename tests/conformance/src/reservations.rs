//! Idempotency keys: one request gets the key, and the others get its reservation.

use std::{sync::Arc, time::Duration};

use shared::store::{
    IDEMPOTENCY_TTL, ReplaceReservationError, Reservation, ReserveError, Store, StoredReservation,
};
use tokio::sync::Barrier;

use super::{Case, Fixture, area, fixture::fresh_task};

pub(super) fn cases() -> Vec<Case> {
    area![
        the_first_request_gets_the_key,
        one_of_racing_requests_gets_the_key,
        only_the_stored_reservation_is_replaced,
        one_of_racing_replacements_wins,
        an_expired_key_is_free_again,
        a_reservation_is_read_as_it_is_stored,
    ]
}

fn key() -> String {
    format!("caller/POST /webhooks/{:016x}-é", rand::random::<u64>())
}

fn reservation(fixture: &Fixture) -> Reservation {
    Reservation {
        task: fresh_task(fixture.now()),
        fingerprint: format!("{:064x}", rand::random::<u64>()),
        settled: Vec::new(),
        answer: None,
        expires_at: fixture.now().plus(IDEMPOTENCY_TTL),
    }
}

/// The stored reservation of a taken key.
async fn taken(store: &dyn Store, key: &str, own: &Reservation) -> StoredReservation {
    match store.reserve(key, own).await {
        Err(ReserveError::Taken(taken)) => *taken,
        other => panic!("the key is not taken: {other:?}"),
    }
}

/// The first request gets a key, for every process. The case reserves it again through each handle,
/// and then reserves another key.
async fn the_first_request_gets_the_key(fixture: Fixture) {
    let (key, first) = (key(), reservation(&fixture));
    let reserved = fixture.store.reserve(&key, &first).await.unwrap();
    assert_eq!(reserved.reservation, first);
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(taken(&**store, &key, &reservation(&fixture)).await, reserved);
    }
    fixture.store.reserve(&format!("{key}x"), &reservation(&fixture)).await.unwrap();
}

/// Of concurrent requests with the same key, one creates the webhook. In each round, eight tasks on
/// two handles race. One succeeds, and the others get its reservation.
async fn one_of_racing_requests_gets_the_key(fixture: Fixture) {
    const CALLERS: usize = 8;
    for round in 0..40 {
        let key = key();
        let start = Arc::new(Barrier::new(CALLERS));
        let callers: Vec<_> = (0..CALLERS)
            .map(|index| {
                let store =
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
                let (key, own, start) = (key.clone(), reservation(&fixture), Arc::clone(&start));
                tokio::spawn(async move {
                    start.wait().await;
                    store.reserve(&key, &own).await
                })
            })
            .collect();
        let (mut winners, mut found) = (Vec::new(), Vec::new());
        for caller in callers {
            match caller.await.unwrap() {
                Ok(reserved) => winners.push(reserved),
                Err(ReserveError::Taken(taken)) => found.push(*taken),
                Err(ReserveError::Store(error)) => panic!("{error}"),
            }
        }
        let [winner] = winners.as_slice() else {
            panic!("round {round}: {} got the key", winners.len())
        };
        assert!(found.iter().all(|taken| taken == winner), "round {round}");
    }
}

/// The response is kept for later requests, and a request that lost its key cannot overwrite it.
/// The case replaces reservations with right and wrong versions, from its own reservation and from
/// one read through the other handle.
async fn only_the_stored_reservation_is_replaced(fixture: Fixture) {
    let (key, other_key, first) = (key(), key(), reservation(&fixture));
    let settled = vec![None, Some(fresh_task(fixture.now())), Some(fresh_task(fixture.now()))];
    let done = Reservation {
        answer: Some("{\"webhook_id\": \"é\"}".repeat(1000)),
        settled,
        ..first.clone()
    };
    let foreign = fixture.store.reserve(&other_key, &reservation(&fixture)).await.unwrap();
    let missing = fixture.store.replace_reservation(&key, &foreign, &done).await;
    assert!(matches!(missing, Err(ReplaceReservationError::Missing)), "{missing:?}");
    let reserved = fixture.store.reserve(&key, &first).await.unwrap();
    let changed = fixture.other.replace_reservation(&key, &foreign, &done).await;
    assert!(matches!(changed, Err(ReplaceReservationError::Changed)), "{changed:?}");
    let read = taken(&*fixture.other, &key, &foreign.reservation).await;
    assert_eq!(read, reserved);
    let replaced = fixture.other.replace_reservation(&key, &read, &done).await.unwrap();
    assert_eq!(replaced.reservation, done);
    let outdated = fixture.store.replace_reservation(&key, &reserved, &foreign.reservation).await;
    assert!(matches!(outdated, Err(ReplaceReservationError::Changed)), "{outdated:?}");
    assert_eq!(taken(&*fixture.store, &key, &foreign.reservation).await, replaced);
    fixture.store.replace_reservation(&key, &replaced, &first).await.unwrap();
}

/// A request that finds an expired id mints another. Of concurrent requests, one succeeds. The case
/// races four tasks in each round.
async fn one_of_racing_replacements_wins(fixture: Fixture) {
    for round in 0..40 {
        let (key, first) = (key(), reservation(&fixture));
        let reserved = fixture.store.reserve(&key, &first).await.unwrap();
        let callers: Vec<_> = (0..4)
            .map(|index| {
                let store =
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
                let (key, reserved, own) = (key.clone(), reserved.clone(), reservation(&fixture));
                tokio::spawn(async move { store.replace_reservation(&key, &reserved, &own).await })
            })
            .collect();
        let mut winners = Vec::new();
        for caller in callers {
            match caller.await.unwrap() {
                Ok(replaced) => winners.push(replaced),
                Err(ReplaceReservationError::Changed) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(Some(taken(&*fixture.store, &key, &first).await), winners.pop());
    }
}

/// An expired key is free, and its reservation cannot be replaced. The case advances the clock.
async fn an_expired_key_is_free_again(fixture: Fixture) {
    let (key, first) = (key(), reservation(&fixture));
    let reserved = fixture.store.reserve(&key, &first).await.unwrap();
    fixture.clock.advance(IDEMPOTENCY_TTL.checked_sub(Duration::from_secs(60)).unwrap());
    assert_eq!(taken(&*fixture.other, &key, &reservation(&fixture)).await, reserved);
    fixture.clock.advance(Duration::from_secs(61));
    let second = reservation(&fixture);
    let late = fixture.other.replace_reservation(&key, &reserved, &second).await;
    assert!(matches!(late, Err(ReplaceReservationError::Missing)), "{late:?}");
    let reserved = fixture.other.reserve(&key, &second).await.unwrap();
    assert_eq!(taken(&*fixture.store, &key, &first).await, reserved);
}

/// A read returns the newest reservation, through every handle, and none for a key that is free or
/// whose reservation has expired. It reserves nothing. The case reads a key before and after each
/// write, and after the reservation expires.
async fn a_reservation_is_read_as_it_is_stored(fixture: Fixture) {
    let (key, first) = (key(), reservation(&fixture));
    let read = async |key: &str| {
        let found = fixture.other.reservation(key).await.unwrap();
        assert_eq!(fixture.store.reservation(key).await.unwrap(), found);
        found
    };
    assert_eq!(read(&key).await, None);
    let reserved = fixture.store.reserve(&key, &first).await.unwrap();
    assert_eq!(read(&key).await, Some(reserved.clone()));
    assert_eq!(read(&format!("{key}x")).await, None);
    let done = Reservation { answer: Some("{}".to_owned()), ..first };
    let replaced = fixture.store.replace_reservation(&key, &reserved, &done).await.unwrap();
    assert_eq!(read(&key).await, Some(replaced));
    fixture.clock.advance(IDEMPOTENCY_TTL + Duration::from_secs(1));
    assert_eq!(read(&key).await, None);
}
