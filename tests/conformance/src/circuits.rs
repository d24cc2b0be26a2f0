//! Circuits: written at their revision, removed when idle, listed while they have failures.

use std::{sync::Arc, time::Duration};

use shared::{
    circuit::{Circuit, Settings},
    store::WriteCircuitError,
};

use super::{
    Case, Fixture, area,
    fixture::{eventually, same},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_circuit_is_written_only_at_its_revision,
        one_of_racing_writes_wins,
        an_idle_circuit_is_removed,
        opened_circuits_are_listed_first,
    ]
}

fn destination() -> String {
    format!("https://d{:016x}.example.com:443", rand::random::<u64>())
}

fn settings() -> Settings {
    Settings { failures: 2, ..Settings::default() }
}

fn refused(written: &Result<(), WriteCircuitError>) {
    assert!(matches!(written, Err(WriteCircuitError::Changed)), "{written:?}");
}

/// Workers do not overwrite each other's failures. The case writes at right, old and missing
/// revisions, through both handles.
async fn a_circuit_is_written_only_at_its_revision(fixture: Fixture) {
    let destination = destination();
    let now = fixture.now();
    assert_eq!(fixture.store.circuit(&destination).await.unwrap(), None);
    let first = Circuit::closed(&destination).failed(&settings(), now);
    refused(&fixture.store.write_circuit(Some(0), &first).await);
    fixture.store.write_circuit(None, &first).await.unwrap();
    assert_eq!(fixture.other.circuit(&destination).await.unwrap(), Some(first.clone()));
    refused(&fixture.other.write_circuit(None, &first).await);
    let second = first.failed(&settings(), now);
    fixture.other.write_circuit(Some(first.revision), &second).await.unwrap();
    let stale = first.probe(&settings(), now);
    refused(&fixture.store.write_circuit(Some(first.revision), &stale).await);
    assert_eq!(fixture.store.circuit(&destination).await.unwrap(), Some(second));
}

/// One worker gets the probe's lease, and no failure is lost. In each round, four writers on two
/// handles race. The first round starts without a circuit.
async fn one_of_racing_writes_wins(fixture: Fixture) {
    let destination = destination();
    for round in 1..=40 {
        let before = fixture.store.circuit(&destination).await.unwrap();
        let revision = before.as_ref().map(|circuit| circuit.revision);
        let after = before
            .unwrap_or_else(|| Circuit::closed(&destination))
            .failed(&settings(), fixture.now());
        let writers: Vec<_> = (0..4)
            .map(|index| {
                let store =
                    Arc::clone(if index % 2 == 0 { &fixture.store } else { &fixture.other });
                let after = after.clone();
                tokio::spawn(async move { store.write_circuit(revision, &after).await })
            })
            .collect();
        let mut won = 0;
        for writer in writers {
            match writer.await.unwrap() {
                Ok(()) => won += 1,
                lost => refused(&lost),
            }
        }
        assert_eq!(won, 1, "round {round}");
        assert_eq!(fixture.other.circuit(&destination).await.unwrap().unwrap().failures, round);
    }
}

/// An idle circuit is removed. The case records a success after failures, and then a first failure
/// again.
async fn an_idle_circuit_is_removed(fixture: Fixture) {
    let destination = destination();
    let now = fixture.now();
    let failed = Circuit::closed(&destination).failed(&settings(), now).failed(&settings(), now);
    fixture.store.write_circuit(None, &failed).await.unwrap();
    let idle = failed.succeeded();
    refused(&fixture.other.write_circuit(Some(failed.revision + 1), &idle).await);
    fixture.other.write_circuit(Some(failed.revision), &idle).await.unwrap();
    assert_eq!(fixture.store.circuit(&destination).await.unwrap(), None);
    eventually("the idle circuit is not listed", || async {
        let open = fixture.store.circuits().await.unwrap();
        same(&open.iter().any(|circuit| circuit.destination == destination), &false)
    })
    .await;
    let again = Circuit::closed(&destination).failed(&settings(), now);
    fixture.store.write_circuit(None, &again).await.unwrap();
    assert_eq!(fixture.other.circuit(&destination).await.unwrap(), Some(again));
}

/// The list contains every failing destination, opened circuits first. The case writes an open, a
/// half-open and several closed circuits in mixed order.
async fn opened_circuits_are_listed_first(fixture: Fixture) {
    let now = fixture.now();
    let long_ago = now.minus(Duration::from_secs(3600));
    let failed = |times, at| {
        (0..times)
            .fold(Circuit::closed(&destination()), |circuit, _| circuit.failed(&settings(), at))
    };
    let written =
        [failed(1, now), failed(2, now), failed(1, now), failed(2, long_ago), failed(1, now)];
    for circuit in &written {
        fixture.store.write_circuit(None, circuit).await.unwrap();
    }
    eventually("all are listed", || async {
        let mut found = fixture.other.circuits().await.unwrap();
        found.retain(|circuit| written.contains(circuit));
        let opened: Vec<bool> = found.iter().map(|circuit| circuit.open_until.is_some()).collect();
        same(&opened, &vec![true, true, false, false, false])
    })
    .await;
}
