//! Targets and their slot counters: conditional writes, and no slot for two.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shared::{
    circuit::Settings,
    clock::Timestamp,
    store::{MAX_TARGETS, ReplaceCountersError, TakenSlots, TargetState, WriteTargetError},
    traffic::{
        pace::{Pace, Refusal},
        slots::{Counters, Take},
        target::{Target, TargetKey, path_hash},
    },
};

use super::{
    Case, Fixture, area,
    fixture::{eventually, same},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_target_is_written_on_its_revision_only,
        one_of_several_racing_target_writes_succeeds,
        an_idle_target_is_removed,
        targets_that_restrict_attempts_are_listed_longest_first,
        a_full_list_contains_the_longest_restrictions,
        slots_are_taken_from_the_counter_of_the_same_rate_above_its_floor,
        counters_are_replaced_only_as_read,
        no_slot_is_given_twice_to_racing_workers,
        a_target_and_its_counters_change_independently,
        an_unreadable_target_counts_as_none_and_is_not_changed,
    ]
}

fn new_key() -> TargetKey {
    let origin = format!("https://d{:016x}.example.com:443", rand::random::<u64>());
    TargetKey::url(&origin, &path_hash("/hook"))
}

fn settings() -> Settings {
    Settings { failures: 2, ..Settings::default() }
}

fn failed(key: &TargetKey, count: u32, now: Timestamp) -> Target {
    Target::idle(key.clone()).failed(count, &settings(), now)
}

fn paused(key: &TargetKey, pause: Duration, now: Timestamp) -> Target {
    let refusal = Refusal { attempt_started_at: now, status_code: 429, retry_after: Some(pause) };
    let pace = Pace::after_refusal(None, &refusal, pause, None, now);
    Target::idle(key.clone()).paused(pace.expect("the first refusal changes the pace"), now)
}

fn take(generation: &str, floor: i64, count: u32, is_late: bool) -> Take {
    Take { generation: generation.to_owned(), floor, count, is_late }
}

fn counters(generation: &str, last: i64, last_late: i64) -> Counters {
    Counters { generation: generation.to_owned(), last, last_late }
}

async fn stored(fixture: &Fixture, key: &TargetKey) -> Option<Target> {
    fixture.other.target(key).await.unwrap().target
}

fn assert_changed(written: Result<(), WriteTargetError>, stored: Option<&Target>) {
    match written {
        Err(WriteTargetError::Changed(found)) => assert_eq!(found.as_deref(), stored),
        other => panic!("{other:?}"),
    }
}

/// Workers do not overwrite each other's changes. Checks right, old and missing revisions, over
/// both handles. A refusal returns what is stored.
async fn a_target_is_written_on_its_revision_only(fixture: Fixture) {
    let (key, now) = (new_key(), fixture.now());
    assert_eq!(fixture.store.target(&key).await.unwrap(), TargetState::default());
    let first = failed(&key, 1, now);
    assert_changed(fixture.store.write_target(Some(0), &first).await, None);
    fixture.store.write_target(None, &first).await.unwrap();
    assert_eq!(stored(&fixture, &key).await, Some(first.clone()));
    assert_changed(fixture.other.write_target(None, &first).await, Some(&first));
    let second = first.failed(1, &settings(), now);
    fixture.other.write_target(Some(first.revision), &second).await.unwrap();
    let stale = first.probed(&settings(), now);
    let refused = fixture.store.write_target(Some(first.revision), &stale).await;
    assert_changed(refused, Some(&second));
    assert_eq!(stored(&fixture, &key).await, Some(second));
}

/// One worker leases the probe, and no failure is lost. Checks 40 rounds of four writers over two
/// handles. The first round starts without a target.
async fn one_of_several_racing_target_writes_succeeds(fixture: Fixture) {
    let key = new_key();
    for round in 1..=40 {
        let before = fixture.store.target(&key).await.unwrap().target;
        let revision = before.as_ref().map(|target| target.revision);
        let after = before.unwrap_or_else(|| Target::idle(key.clone())).failed(
            1,
            &settings(),
            fixture.now(),
        );
        let writers: Vec<_> = (0..4)
            .map(|index| {
                let store =
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
                let after = after.clone();
                tokio::spawn(async move { store.write_target(revision, &after).await })
            })
            .collect();
        let mut won = 0;
        for writer in writers {
            match writer.await.unwrap() {
                Ok(()) => won += 1,
                Err(WriteTargetError::Changed(found)) => assert_eq!(found.as_deref(), Some(&after)),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
        assert_eq!(stored(&fixture, &key).await.unwrap().circuit.failures, round);
    }
}

/// Nothing is stored of a target that works. Checks a success after failures, and a first failure
/// after it.
async fn an_idle_target_is_removed(fixture: Fixture) {
    let (key, now) = (new_key(), fixture.now());
    let open = failed(&key, 2, now);
    fixture.store.write_target(None, &open).await.unwrap();
    let idle = open.succeeded(now);
    assert!(idle.is_idle());
    assert_changed(fixture.other.write_target(Some(open.revision + 1), &idle).await, Some(&open));
    fixture.other.write_target(Some(open.revision), &idle).await.unwrap();
    assert_eq!(stored(&fixture, &key).await, None);
    eventually("the target is not listed", || async {
        same(&listed(&fixture, std::slice::from_ref(&key)).await, &Vec::new())
    })
    .await;
    let again = failed(&key, 1, now);
    fixture.store.write_target(None, &again).await.unwrap();
    assert_eq!(stored(&fixture, &key).await, Some(again));
}

async fn listed(fixture: &Fixture, keys: &[TargetKey]) -> Vec<Target> {
    let found = fixture.other.targets(fixture.now()).await.unwrap();
    let targets = found.into_iter().filter_map(|state| state.target);
    targets.filter(|target| keys.contains(&target.key)).collect()
}

/// The list contains the targets with an open circuit or a pace, and no other. Checks open,
/// half-open, paused, failing and forgotten ones, written in mixed order, with the counters of one.
async fn targets_that_restrict_attempts_are_listed_longest_first(fixture: Fixture) {
    let now = fixture.now();
    let long_ago = now.minus(Duration::from_secs(3600));
    let keys: Vec<TargetKey> = (0..6).map(|_| new_key()).collect();
    let written = [
        failed(&keys[0], 1, now),
        paused(&keys[1], Duration::from_secs(1), now),
        failed(&keys[2], 2, long_ago),
        paused(&keys[3], Duration::from_secs(1), long_ago),
        failed(&keys[4], 2, now),
        paused(&keys[5], Duration::from_secs(1000), now),
    ];
    for target in &written {
        fixture.store.write_target(None, target).await.unwrap();
    }
    let expected = [&written[4], &written[2], &written[5], &written[1]].map(Clone::clone);
    eventually("the targets are listed", || async {
        same(&listed(&fixture, &keys).await, &expected.to_vec())
    })
    .await;
    let taken = counters("7", 3, 0);
    fixture.store.replace_counters(&keys[5], None, &taken).await.unwrap();
    let found = fixture.other.targets(now).await.unwrap();
    let of_key = |state: &&TargetState| state.target.as_ref().is_some_and(|t| t.key == keys[5]);
    assert_eq!(found.iter().find(of_key).unwrap().counters, Some(taken));
}

/// A caller can tell a full list. Checks one target more than the list holds: the one that
/// restricts for the shortest is left out.
async fn a_full_list_contains_the_longest_restrictions(fixture: Fixture) {
    let now = fixture.now();
    let mut keys = Vec::new();
    for index in 0..=MAX_TARGETS as u64 {
        let key = new_key();
        // Longer than the targets of other cases.
        let pause = Duration::from_secs(400 * 24 * 3600 + index);
        fixture.store.write_target(None, &paused(&key, pause, now)).await.unwrap();
        keys.push(key);
    }
    let longest = &keys[1..];
    eventually("the list is full", || async {
        let found = fixture.other.targets(now).await.unwrap();
        let found: Vec<TargetKey> =
            found.into_iter().filter_map(|state| state.target).map(|target| target.key).collect();
        same(&found, &longest.iter().rev().cloned().collect())
    })
    .await;
    for key in keys {
        let target = stored(&fixture, &key).await.unwrap();
        let gone = Target { pace: None, ..target.succeeded(now) };
        fixture.store.write_target(Some(target.revision), &gone).await.unwrap();
    }
}

/// Checks each of the two counters at, above and below the floor, with the right and with another
/// rate, and without counters.
async fn slots_are_taken_from_the_counter_of_the_same_rate_above_its_floor(fixture: Fixture) {
    let key = new_key();
    let refused = |state: TakenSlots, expected: Option<Counters>| match state {
        TakenSlots::Refused(state) => assert_eq!(state.counters, expected),
        taken @ TakenSlots::Taken { .. } => panic!("{taken:?}"),
    };
    refused(fixture.store.take_slots(&key, &take("10/1", 0, 1, false)).await.unwrap(), None);
    let first = counters("10/1", 1_800_000_000_000_000, 50);
    fixture.store.replace_counters(&key, None, &first).await.unwrap();
    for (asked, last) in [
        (take("10/1", 1_800_000_000_000_000, 1, false), 1_800_000_000_000_001),
        (take("10/1", -5, 7, false), 1_800_000_000_000_008),
        (take("10/1", 50, 2, true), 52),
        (take("10/1", 0, 1, true), 53),
    ] {
        let taken = fixture.other.take_slots(&key, &asked).await.unwrap();
        assert_eq!(taken, TakenSlots::Taken { last, target: None }, "{asked:?}");
    }
    let now_stored = counters("10/1", 1_800_000_000_000_008, 53);
    for asked in [
        take("10/1", 1_800_000_000_000_009, 1, false),
        take("10/1", 54, 1, true),
        take("11/1", 0, 1, false),
        take("11/1", 0, 1, true),
    ] {
        let taken = fixture.store.take_slots(&key, &asked).await.unwrap();
        refused(taken, Some(now_stored.clone()));
    }
}

/// Checks right, old and missing expectations. A refusal returns what is stored.
async fn counters_are_replaced_only_as_read(fixture: Fixture) {
    let key = new_key();
    let (first, second) = (counters("1", 5, 0), counters("2", 0, 0));
    let replace = |before: Option<Counters>, after: Counters| {
        let (store, key) = (Arc::clone(&fixture.other), key.clone());
        async move { store.replace_counters(&key, before.as_ref(), &after).await }
    };
    let assert_changed =
        |result: Result<(), ReplaceCountersError>, stored: Option<&Counters>| match result {
            Err(ReplaceCountersError::Changed(state)) => {
                assert_eq!(state.counters.as_ref(), stored);
            }
            other => panic!("{other:?}"),
        };
    assert_changed(replace(Some(first.clone()), second.clone()).await, None);
    replace(None, first.clone()).await.unwrap();
    for wrong in
        [None, Some(counters("2", 5, 0)), Some(counters("1", 4, 0)), Some(counters("1", 5, 1))]
    {
        assert_changed(replace(wrong, second.clone()).await, Some(&first));
    }
    replace(Some(first), second.clone()).await.unwrap();
    assert_eq!(fixture.store.target(&key).await.unwrap().counters, Some(second));
}

/// Each slot is given once, and none is left out. Checks eight workers over both handles that take
/// slots in batches while the counters restart with another rate.
async fn no_slot_is_given_twice_to_racing_workers(fixture: Fixture) {
    let key = new_key();
    fixture.store.replace_counters(&key, None, &counters("a", 0, 0)).await.unwrap();
    let workers: Vec<_> = (0..8_u32)
        .map(|index| {
            let store = Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
            let key = key.clone();
            tokio::spawn(async move {
                let mut slots = Vec::new();
                for _ in 0..10 {
                    let asked = take("a", 0, index % 3 + 1, index % 4 == 0);
                    match store.take_slots(&key, &asked).await.unwrap() {
                        TakenSlots::Taken { last, .. } => {
                            let first = last - i64::from(asked.count) + 1;
                            slots.extend((first..=last).map(|slot| (asked.is_late, slot)));
                        }
                        refused @ TakenSlots::Refused(_) => panic!("{refused:?}"),
                    }
                }
                slots
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    let given: BTreeSet<(bool, i64)> = all.iter().copied().collect();
    assert_eq!(given.len(), all.len(), "each slot once");
    for is_late in [false, true] {
        let slots: Vec<i64> =
            given.iter().filter(|slot| slot.0 == is_late).map(|slot| slot.1).collect();
        let expected: Vec<i64> = (1..=slots.len() as i64).collect();
        assert_eq!(slots, expected, "no slot is left out");
    }
}

/// A write of the one keeps the other. Checks both orders, and the removal of the target.
async fn a_target_and_its_counters_change_independently(fixture: Fixture) {
    let (key, now) = (new_key(), fixture.now());
    let taken = counters("7", 1, 0);
    fixture.store.replace_counters(&key, None, &taken).await.unwrap();
    let target = paused(&key, Duration::from_secs(1), now);
    fixture.store.write_target(None, &target).await.unwrap();
    let state = fixture.other.target(&key).await.unwrap();
    assert_eq!(state, TargetState { target: Some(target.clone()), counters: Some(taken) });
    let advanced = fixture.other.take_slots(&key, &take("7", 0, 2, false)).await.unwrap();
    assert_eq!(advanced, TakenSlots::Taken { last: 3, target: Some(target.clone()) });
    let gone = Target { pace: None, ..target.succeeded(now) };
    fixture.store.write_target(Some(target.revision), &gone).await.unwrap();
    let state = fixture.other.target(&key).await.unwrap();
    assert_eq!(state, TargetState { target: None, counters: Some(counters("7", 3, 0)) });
}

/// After a rollback, a target of the newer version restricts nothing and survives. Its counters are
/// readable. Checks reads, the list, each kind of write, and slots.
async fn an_unreadable_target_counts_as_none_and_is_not_changed(fixture: Fixture) {
    let (key, now) = (new_key(), fixture.now());
    let open = failed(&key, 2, now);
    fixture.store.write_target(None, &open).await.unwrap();
    fixture.store.replace_counters(&key, None, &counters("7", 1, 0)).await.unwrap();
    fixture.backend.plant_target(&key, r#"{"another":"shape"}"#).await;
    for store in [&fixture.store, &fixture.other] {
        let unreadable = TargetState { target: None, counters: Some(counters("7", 1, 0)) };
        assert_eq!(store.target(&key).await.unwrap(), unreadable);
        assert_eq!(listed(&fixture, std::slice::from_ref(&key)).await, []);
        assert_changed(store.write_target(None, &failed(&key, 1, now)).await, None);
        assert_changed(store.write_target(Some(open.revision + 1), &open).await, None);
    }
    let taken = fixture.store.take_slots(&key, &take("7", 0, 1, false)).await.unwrap();
    assert_eq!(taken, TakenSlots::Taken { last: 2, target: None });
    fixture.backend.plant_target(&key, &serde_json::to_string(&open).unwrap()).await;
    assert_eq!(stored(&fixture, &key).await, Some(open));
}
