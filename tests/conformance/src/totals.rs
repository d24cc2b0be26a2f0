//! Totals: what concurrent functions add up to.

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
        counters_add_up_from_concurrent_functions,
        a_destination_s_sums_add_up_and_its_latest_error_stays,
        destinations_count_over_this_hour_and_the_last,
        the_worst_destinations_come_first_and_are_bounded,
        tidying_changes_no_figure,
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

/// No addition is lost and none counts twice. Proved by 50 tasks over two handles that add to two
/// counters, one of them large.
async fn counters_add_up_from_concurrent_functions(fixture: Fixture) {
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

/// A destination's figures add up, `waiting` up and down, and the error shown is the one of the
/// latest time, whoever came last. Proved by additions out of order.
async fn a_destination_s_sums_add_up_and_its_latest_error_stays(fixture: Fixture) {
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

/// Attempts count for this hour and the one before, and no longer; what waits counts until it
/// ceases to. Proved by looking one, two and three hours after an addition in the middle of an
/// hour.
async fn destinations_count_over_this_hour_and_the_last(fixture: Fixture) {
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
            // One without attempts need not be shown.
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

/// An operator sees the destinations that fail most, at most a hundred. Proved with more than that.
async fn the_worst_destinations_come_first_and_are_bounded(fixture: Fixture) {
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

/// The store's housekeeping is not seen from outside, whenever and however often it runs. Proved by
/// figures that are added before, between and after four runs, two of them at once, an hour apart.
async fn tidying_changes_no_figure(fixture: Fixture) {
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
        // By then nobody still writes what belongs before.
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
