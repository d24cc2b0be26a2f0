//! Totals: the sums of concurrent functions.

use std::{sync::Arc, time::Duration};

use shared::{
    clock::Timestamp,
    model::{ErrorKind, LastError},
    store::{Activity, DestinationActivity, DestinationTotals, MAX_DESTINATIONS},
};

use super::{
    Case, Fixture, area,
    fixture::{eventually, same},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        concurrent_additions_to_counters_add_up,
        destination_totals_add_up_and_keep_the_latest_error,
        destination_totals_cover_this_hour_and_the_previous_one,
        the_list_is_limited_to_the_worst_destinations,
        maintenance_changes_no_total,
    ]
}

fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}", rand::random::<u64>())
}

fn error(message: &str) -> LastError {
    LastError { kind: ErrorKind::HttpStatus, status_code: Some(503), message: message.to_owned() }
}

fn about(destination: &str, activity: DestinationActivity) -> Activity {
    Activity { destinations: [(destination.to_owned(), activity)].into(), ..Activity::default() }
}

async fn totals_of(
    fixture: &Fixture,
    destination: &str,
    now: Timestamp,
) -> Option<DestinationTotals> {
    let found = fixture.other.destinations(now).await.unwrap();
    assert!(found.len() <= MAX_DESTINATIONS);
    found.into_iter().find(|totals| totals.destination == destination)
}

/// Each addition counts exactly once. In the case, 50 tasks on two handles add to two counters, one
/// of them large.
async fn concurrent_additions_to_counters_add_up(fixture: Fixture) {
    let (one, other) = (fresh("delivered{worker=\"é\"} "), fresh("bytes "));
    let activity = Activity {
        counters: [(one.clone(), 1), (other.clone(), 1 << 33)].into(),
        ..Activity::default()
    };
    let adders: Vec<_> = (0..50)
        .map(|index| {
            let store = Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
            let (activity, now) = (activity.clone(), fixture.now());
            tokio::spawn(async move { store.add_activity(&activity, now).await.unwrap() })
        })
        .collect();
    for adder in adders {
        adder.await.unwrap();
    }
    eventually("the sums", || async {
        let counters = fixture.other.counters().await.unwrap();
        same(&(counters.get(&one), counters.get(&other)), &(Some(&50), Some(&(50 << 33))))
    })
    .await;
}

/// A destination's totals add up, `waiting` may also decrease, and the error with the latest time
/// is kept. The case adds out of order.
async fn destination_totals_add_up_and_keep_the_latest_error(fixture: Fixture) {
    let destination = fresh("https://d");
    let now = fixture.now();
    let earlier = now.minus(Duration::from_secs(5));
    for (waiting, last_error) in [
        (3, Some((earlier, error("first")))),
        (-1, Some((now, error("latest")))),
        (2, Some((earlier, error("late")))),
        (-4, None),
    ] {
        let activity = DestinationActivity { delivered: 2, failed: 1_000_000, waiting, last_error };
        fixture.store.add_activity(&about(&destination, activity), now).await.unwrap();
    }
    let expected = DestinationActivity {
        delivered: 8,
        failed: 4_000_000,
        waiting: 0,
        last_error: Some((now, error("latest"))),
    };
    eventually("the sums", || async {
        same(
            &totals_of(&fixture, &destination, now).await.map(|totals| totals.activity),
            &Some(expected.clone()),
        )
    })
    .await;
}

/// Attempts count in the current and the previous hour. Waiting webhooks count until they stop
/// waiting. The case adds in the middle of an hour and reads one, two and three hours later.
async fn destination_totals_cover_this_hour_and_the_previous_one(fixture: Fixture) {
    const HOUR_MS: i64 = 3_600_000;
    let destination = fresh("https://d");
    let now = Timestamp::from_millis(fixture.now().as_millis() / HOUR_MS * HOUR_MS + HOUR_MS / 2);
    let hours_later = |hours: i64| Timestamp::from_millis(now.as_millis() + hours * HOUR_MS);
    let add = async |failed, hours| {
        let activity = DestinationActivity { delivered: 1, failed, waiting: 1, last_error: None };
        fixture
            .store
            .add_activity(&about(&destination, activity), hours_later(hours))
            .await
            .unwrap();
    };
    let expect = async |hours, delivered: u64, failed: u64, waiting: i64| {
        eventually(&format!("{hours} hours later"), || async {
            let activity = totals_of(&fixture, &destination, hours_later(hours))
                .await
                .map(|totals| totals.activity);
            let attempts =
                activity.as_ref().map_or((0, 0), |activity| (activity.delivered, activity.failed));
            same(&attempts, &(delivered, failed))?;
            // A destination without attempts may be left out.
            same(&activity.is_none_or(|activity| activity.waiting == waiting), &true)
        })
        .await;
    };
    add(1_000_000, 0).await;
    expect(0, 1, 1_000_000, 1).await;
    add(2_000_000, 1).await;
    expect(1, 2, 3_000_000, 2).await;
    expect(2, 1, 2_000_000, 2).await;
    expect(3, 0, 0, 2).await;
}

/// The list contains the destinations with the most failures, at most a hundred. The case has more.
async fn the_list_is_limited_to_the_worst_destinations(fixture: Fixture) {
    let now = fixture.now();
    let prefix = fresh("https://w");
    let names: Vec<String> =
        (0..MAX_DESTINATIONS + 20).map(|index| format!("{prefix}-{index:03}")).collect();
    for (index, name) in names.iter().enumerate() {
        let activity = DestinationActivity {
            failed: 10_000_000 + index as u64,
            ..DestinationActivity::default()
        };
        fixture.store.add_activity(&about(name, activity), now).await.unwrap();
    }
    let expected: Vec<&String> = names.iter().rev().take(MAX_DESTINATIONS).collect();
    eventually("the worst hundred", || async {
        let found = fixture.other.destinations(now).await.unwrap();
        same(&found.iter().map(|totals| &totals.destination).collect::<Vec<_>>(), &expected)
    })
    .await;
}

/// The store's maintenance changes no total, whenever and however often it runs. The case adds
/// before, between and after its runs, two of which run at once.
async fn maintenance_changes_no_total(fixture: Fixture) {
    const HOUR_MS: i64 = 3_600_000;
    let (counter, destination) = (fresh("delivered "), fresh("https://d"));
    let start = Timestamp::from_millis(fixture.now().as_millis() / HOUR_MS * HOUR_MS + HOUR_MS / 2);
    for round in 1..=3_u64 {
        let now = start.plus(Duration::from_secs(20 * 60 * (round - 1)));
        let activity =
            DestinationActivity { delivered: 2, failed: 1_000_000, waiting: 1, last_error: None };
        let counters = [(counter.clone(), 5)].into();
        let both = Activity { counters, ..about(&destination, activity) };
        fixture.store.add_activity(&both, now).await.unwrap();
        // Late enough that no writer still adds to earlier periods.
        let later = now.plus(Duration::from_secs(300));
        let until = fixture.now().plus(Duration::from_secs(60));
        let (one, other) = tokio::join!(
            fixture.store.maintain(later, until),
            fixture.other.maintain(later, until)
        );
        one.unwrap();
        other.unwrap();
        eventually("the counter", || async {
            same(&fixture.other.counters().await.unwrap().get(&counter), &Some(&(5 * round)))
        })
        .await;
        let expected = DestinationActivity {
            delivered: 2 * round,
            failed: 1_000_000 * round,
            waiting: round as i64,
            last_error: None,
        };
        eventually("the destination", || async {
            same(
                &totals_of(&fixture, &destination, later).await.map(|totals| totals.activity),
                &Some(expected.clone()),
            )
        })
        .await;
        fixture.store.maintain(later, until).await.unwrap();
    }
    assert_eq!(fixture.other.counters().await.unwrap().get(&counter), Some(&15));
}
