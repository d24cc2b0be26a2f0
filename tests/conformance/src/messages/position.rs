//! The audit's position, which this version and those before applications each keep.

use shared::store::{AdvanceAuditError, FIRST_OVERLAP};

use crate::{Case, Fixture, area};

pub(super) fn cases() -> Vec<Case> {
    area![
        an_older_position_counts_an_hour_earlier,
        both_positions_move,
        a_later_older_position_is_ignored
    ]
}

fn assert_moved(moved: &Result<(), AdvanceAuditError>) {
    assert!(matches!(moved, Err(AdvanceAuditError::Moved)), "{moved:?}");
}

/// A version before applications has audited up to its position, but without messages. So the audit
/// starts an hour before it, once. The case stores such a position, moves from wrong positions, and
/// then from the right one.
async fn an_older_position_counts_an_hour_earlier(fixture: Fixture) {
    let (older, to) = (fixture.at(7_200_000), fixture.at(3_660_000));
    let start = older.minus(FIRST_OVERLAP);
    fixture.backend.plant_older_position(older).await;
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.audited_until().await.unwrap(), Some(start));
        assert_moved(&store.advance_audit(Some(older), to).await);
        assert_moved(&store.advance_audit(None, to).await);
    }
    assert_eq!(fixture.backend.older_position().await, Some(older));
    let message = fixture.published(1).await;
    let standing = fixture.standing(&message.id).await.unwrap();
    assert_eq!(standing.audited_until, Some(start));
    fixture.store.advance_audit(Some(start), to).await.unwrap();
    assert_eq!(fixture.other.audited_until().await.unwrap(), Some(to));
    assert_moved(&fixture.other.advance_audit(Some(start), to).await);
    assert_eq!(fixture.standing(&message.id).await.unwrap().audited_until, Some(to));
}

/// A move takes the position of the older versions along, forward and back, so that they audit
/// nothing twice after a roll-back. The case reads that position after each move.
async fn both_positions_move(fixture: Fixture) {
    let mut from = fixture.store.audited_until().await.unwrap();
    for (turn, to) in [60_000, 120_000, -86_400_000, 180_000].into_iter().enumerate() {
        let to = fixture.at(to);
        let store = if turn % 2 == 0 { &fixture.store } else { &fixture.other };
        store.advance_audit(from, to).await.unwrap();
        assert_eq!(fixture.backend.older_position().await, Some(to));
        assert_eq!(fixture.other.audited_until().await.unwrap(), Some(to));
        from = Some(to);
    }
}

/// Once this version has a position, only that one counts, and an older version that still runs
/// does not move it on. The case moves the older one ahead, and then moves on from its own.
async fn a_later_older_position_is_ignored(fixture: Fixture) {
    let start = fixture.store.audited_until().await.unwrap();
    let (ours, ahead, next) = (fixture.at(60_000), fixture.at(600_000), fixture.at(120_000));
    fixture.store.advance_audit(start, ours).await.unwrap();
    fixture.backend.plant_older_position(ahead).await;
    assert_eq!(fixture.other.audited_until().await.unwrap(), Some(ours));
    assert_moved(&fixture.other.advance_audit(Some(ahead), next).await);
    assert_moved(&fixture.other.advance_audit(Some(ahead.minus(FIRST_OVERLAP)), next).await);
    fixture.other.advance_audit(Some(ours), next).await.unwrap();
    assert_eq!(fixture.store.audited_until().await.unwrap(), Some(next));
    assert_eq!(fixture.backend.older_position().await, Some(next));
}
