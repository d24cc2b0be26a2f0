//! Targets: what is kept of them, and for how long.

use super::*;
use crate::{
    circuit::Settings,
    store::{TARGET_TTL, Targets},
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
};

fn failed(name: &str, at: Timestamp) -> Target {
    Target::idle(TargetKey::origin(name)).failed(1, &Settings::default(), at)
}

/// A target that was not used for longer than its time to live makes room for others.
#[tokio::test]
async fn a_write_deletes_unused_targets() {
    let fixture = fixture();
    let later = BEGIN.plus(TARGET_TTL);
    for (name, at) in [("stale", BEGIN), ("older", BEGIN), ("used", later)] {
        fixture.store.write_target(None, &failed(name, at)).await.unwrap();
    }
    let kept = async || {
        let mut kept = Vec::new();
        for name in ["stale", "older", "used", "new"] {
            let state = fixture.store.target(&TargetKey::origin(name)).await.unwrap();
            kept.extend(state.target.map(|_| name));
        }
        kept
    };
    assert_eq!(kept().await, ["stale", "older", "used"]);
    let after = later.plus(Duration::from_millis(1));
    fixture.store.write_target(None, &failed("new", after)).await.unwrap();
    assert_eq!(kept().await, ["used", "new"]);
}

/// A target with slots alone, too. Taking slots from its counters is a use.
#[tokio::test]
async fn a_restart_of_counters_deletes_unused_targets() {
    let fixture = fixture();
    let counters = Counters { generation: "1".to_owned(), last: 1, last_late: 1 };
    let [unused, taken, new] = ["unused", "taken", "new"].map(TargetKey::origin);
    for key in [&unused, &taken] {
        fixture.store.replace_counters(key, None, &counters).await.unwrap();
    }
    fixture.advance(TARGET_TTL);
    let take = Take { generation: "1".to_owned(), floor: 0, count: 1, is_late: false };
    fixture.store.take_slots(&taken, &take).await.unwrap();
    fixture.advance(Duration::from_millis(1));
    fixture.store.replace_counters(&new, None, &counters).await.unwrap();
    for (key, is_kept) in [(&unused, false), (&taken, true), (&new, true)] {
        let state = fixture.store.target(key).await.unwrap();
        assert_eq!(state.counters.is_some(), is_kept, "{key}");
    }
}

/// A target that works has no row, unless it has counters.
#[tokio::test]
async fn nothing_is_left_of_a_target_that_works() {
    let fixture = fixture();
    let (first, second) = (failed("first", BEGIN), failed("second", BEGIN));
    let counters = Counters { generation: "1".to_owned(), last: 1, last_late: 1 };
    fixture.store.replace_counters(&second.key, None, &counters).await.unwrap();
    for target in [first, second] {
        fixture.store.write_target(None, &target).await.unwrap();
        let idle = target.succeeded(BEGIN);
        fixture.store.write_target(Some(target.revision), &idle).await.unwrap();
    }
    let sql = "SELECT group_concat(key) FROM targets";
    let raw = Connection::open(&fixture.path).unwrap();
    assert_eq!(raw.query_row(sql, (), |row| row.get::<_, String>(0)).unwrap(), "second");
}
