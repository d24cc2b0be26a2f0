//! What a look at a message does, by each state of a delivery.

use super::*;
use crate::applications::standing::FanOut;

/// Whether the entry is accounted for, and whether it gets a look.
fn judged(message: &PublishedMessage, found: Option<Found>, now: Timestamp) -> (bool, bool) {
    let found: Vec<(u8, Found)> = found.into_iter().map(|found| (1, found)).collect();
    let standing = standing(message.clone(), &found);
    let looked = match standing.fan_out(now) {
        FanOut::Send(looks) => !looks.is_empty(),
        FanOut::Settle => false,
        other => panic!("{other:?}"),
    };
    (standing.accounts_for(0, now), looked)
}

/// Section 3.2: each state of a delivery.
#[test]
fn each_state_of_a_delivery_is_accounted_for_or_gets_a_look_or_waits() {
    let message = due(1, NOW);
    let lease = rules().limits.lease;
    let in_progress = || record(claimed(&message, 1, NOW));
    let retrying = concluded(&message, 1, 503, NOW);
    let failed = rules().abandon(&delivery(&message, 1), NOW.plus(START_WITHIN)).unwrap();
    let dead = rules().archive(&failed, NOW.plus(START_WITHIN)).unwrap();
    let resent = rules().resend(&dead, NOW.plus(START_WITHIN)).unwrap();
    let (accounted, look, waits) = ((true, false), (false, true), (false, false));
    for (name, found, now, expected) in [
        ("vacant", None, NOW, look),
        ("vacant and too old", None, NOW.plus(START_WITHIN), look),
        ("in flight", Some(in_progress()), NOW.plus(lease).minus(MS), waits),
        ("lease over", Some(in_progress()), NOW.plus(lease), look),
        ("retrying", Some(record(retrying)), NOW.plus(DAY), accounted),
        ("failed", Some(record(failed)), NOW.plus(DAY), accounted),
        ("dead letter", Some(record(dead)), NOW, accounted),
        ("resent", Some(record(resent)), NOW, accounted),
        ("delivered", Some(record(concluded(&message, 1, 200, NOW))), NOW, accounted),
        ("expired", Some(Found::Expired), NOW, accounted),
        ("marker", Some(Found::Marker), NOW, accounted),
        ("unreadable", Some(Found::Unreadable), NOW, waits),
    ] {
        assert_eq!(judged(&message, found, now), expected, "{name}");
    }
}

/// A delivery that a caller resent, and whose record was rescued into the due index, waits there.
/// One that waits outside of it for its first attempt gets a look when that is allowed.
#[test]
fn a_record_outside_the_due_index_gets_a_look_when_it_is_allowed() {
    let message = due(1, NOW);
    let allowed_at = Some(NOW.plus(HOUR));
    let waiting = Webhook { allowed_at, revision: 3, ..delivery(&message, 1) };
    assert_eq!(
        judged(&message, Some(record(waiting.clone())), NOW.plus(HOUR).minus(MS)),
        (false, false)
    );
    assert_eq!(judged(&message, Some(record(waiting)), NOW.plus(HOUR)), (false, true));
}

#[test]
fn a_vacant_key_counts_by_time_unless_the_message_is_due() {
    let late = NOW.plus(KEY_OCCUPIED);
    let quiet = published(1);
    assert_eq!(judged(&quiet, None, late.minus(MS)), (false, true));
    assert_eq!(judged(&quiet, None, late), (true, false));
    assert_eq!(judged(&due(1, NOW), None, late), (false, true));
    let settled = PublishedMessage { settled: 1, ..due(1, NOW) };
    assert_eq!(judged(&settled, None, NOW), (true, false));
}

#[test]
fn only_a_due_message_settles() {
    let gone = [(1, Found::Marker), (2, Found::Expired)];
    assert_eq!(standing(due(2, NOW), &gone).fan_out(NOW), FanOut::Settle);
    assert_eq!(standing(published(2), &gone).fan_out(NOW), FanOut::Send(vec![]));
    let open = standing(due(3, NOW), &gone);
    assert_eq!(open.fan_out(NOW), FanOut::Send(vec![ep(3)]));
    assert_eq!(Standing::of_new(due(0, NOW)).fan_out(NOW), FanOut::Settle);
}

#[test]
fn looks_are_sent_in_the_order_of_the_plan() {
    let standing = standing(due(4, NOW), &[(2, Found::Marker)]);
    assert_eq!(standing.fan_out(NOW), FanOut::Send(vec![ep(1), ep(3), ep(4)]));
}

#[test]
fn a_message_that_is_allowed_later_waits_in_its_index_or_in_the_queue() {
    let at = |by, due_at| {
        let message = PublishedMessage { allowed_at: NOW.plus(by), due_at, ..published(1) };
        Standing::of_new(message).fan_out(NOW)
    };
    let until = NOW.plus(MAX_EARLY + MS);
    let early = |hand_back| FanOut::Early { until, hand_back };
    assert_eq!(at(MAX_EARLY + MS, None), early(true));
    assert_eq!(at(MAX_EARLY + MS, Some(NOW)), early(false));
    assert_eq!(at(MAX_EARLY, None), FanOut::Send(vec![ep(1)]));
}

#[test]
fn a_deletion_goes_on_before_anything_else() {
    let ahead = PublishedMessage { deleting: true, allowed_at: NOW.plus(DAY), ..due(1, NOW) };
    assert_eq!(Standing::of_new(ahead).fan_out(NOW), FanOut::Delete);
}
