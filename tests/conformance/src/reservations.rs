//! Idempotency keys: one request gets it, and the others learn what it stands for.

use std::{sync::Arc, time::Duration};

use shared::store::{IDEMPOTENCY_TTL, Reservation};
use tokio::sync::Barrier;

use super::{Case, Fixture, area, fixture::fresh_task};

pub(super) fn cases() -> Vec<Case> {
    area![
        the_first_gets_the_key_and_the_others_learn_of_it,
        of_racing_requests_one_gets_the_key,
        only_what_stands_there_is_replaced,
        of_racing_replacements_one_wins,
        an_expired_key_is_free_again,
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

/// A key stands for its first request, for every process. Proved by asking twice through each
/// handle, and with another key.
async fn the_first_gets_the_key_and_the_others_learn_of_it(fixture: Fixture) {
    let (key, first) = (key(), reservation(&fixture));
    assert_eq!(fixture.store.reserve(&key, &first).await.unwrap(), None);
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.reserve(&key, &reservation(&fixture)).await.unwrap(), Some(first.clone()));
    }
    assert_eq!(
        fixture.store.reserve(&format!("{key}x"), &reservation(&fixture)).await.unwrap(),
        None
    );
}

/// Of requests that come at the same time with the same key, one makes the webhook. Proved by
/// rounds of eight tasks over two handles: one is told nothing, the others all the same.
async fn of_racing_requests_one_gets_the_key(fixture: Fixture) {
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
                    (store.reserve(&key, &own).await.unwrap(), own)
                })
            })
            .collect();
        let (mut winners, mut told) = (Vec::new(), Vec::new());
        for caller in callers {
            match caller.await.unwrap() {
                (None, own) => winners.push(own),
                (Some(reserved), _) => told.push(reserved),
            }
        }
        let [winner] = winners.as_slice() else {
            panic!("round {round}: {} got the key", winners.len())
        };
        assert!(told.iter().all(|reserved| reserved == winner), "round {round}");
    }
}

/// The answer is kept for those who ask again, and a request that lost its key cannot write over
/// it. Proved with the right and with wrong reservations before.
async fn only_what_stands_there_is_replaced(fixture: Fixture) {
    let (key, first) = (key(), reservation(&fixture));
    let settled = vec![None, Some(fresh_task(fixture.now())), Some(fresh_task(fixture.now()))];
    let done = Reservation {
        answer: Some("{\"webhook_id\": \"é\"}".repeat(1000)),
        settled,
        ..first.clone()
    };
    assert!(
        !fixture.store.replace_reservation(&key, &first, &done).await.unwrap(),
        "there is none"
    );
    assert_eq!(fixture.store.reserve(&key, &first).await.unwrap(), None, "and none was made");
    let foreign = reservation(&fixture);
    assert!(!fixture.other.replace_reservation(&key, &foreign, &done).await.unwrap());
    assert_eq!(fixture.other.reserve(&key, &foreign).await.unwrap(), Some(first.clone()));
    assert!(fixture.other.replace_reservation(&key, &first, &done).await.unwrap());
    assert!(!fixture.store.replace_reservation(&key, &first, &foreign).await.unwrap());
    assert_eq!(fixture.store.reserve(&key, &foreign).await.unwrap(), Some(done));
}

/// Who finds an id too old mints another, and only one of those who do so at the same time. Proved
/// by rounds.
async fn of_racing_replacements_one_wins(fixture: Fixture) {
    for round in 0..40 {
        let (key, first) = (key(), reservation(&fixture));
        assert_eq!(fixture.store.reserve(&key, &first).await.unwrap(), None);
        let callers: Vec<_> = (0..4)
            .map(|index| {
                let store =
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
                let (key, first, own) = (key.clone(), first.clone(), reservation(&fixture));
                tokio::spawn(async move {
                    store.replace_reservation(&key, &first, &own).await.unwrap().then_some(own)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for caller in callers {
            winners.extend(caller.await.unwrap());
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(fixture.store.reserve(&key, &first).await.unwrap(), winners.pop());
    }
}

/// After its time a key stands for nothing: it can be had again, and what it stood for cannot be
/// replaced. Proved with the clock put forward.
async fn an_expired_key_is_free_again(fixture: Fixture) {
    let (key, first) = (key(), reservation(&fixture));
    assert_eq!(fixture.store.reserve(&key, &first).await.unwrap(), None);
    fixture.clock.advance(IDEMPOTENCY_TTL.checked_sub(Duration::from_secs(60)).unwrap());
    assert_eq!(
        fixture.other.reserve(&key, &reservation(&fixture)).await.unwrap(),
        Some(first.clone())
    );
    fixture.clock.advance(Duration::from_secs(61));
    let second = reservation(&fixture);
    assert!(!fixture.other.replace_reservation(&key, &first, &second).await.unwrap());
    assert_eq!(fixture.other.reserve(&key, &second).await.unwrap(), None);
    assert_eq!(fixture.store.reserve(&key, &first).await.unwrap(), Some(second));
}
