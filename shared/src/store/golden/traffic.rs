//! Samples of targets, and of webhooks that wait for a slot.

use std::time::Duration;

use super::{NOW, at, referenced};
use crate::{
    circuit::Circuit,
    model::{ClaimId, ErrorKind, Slot, Webhook},
    retry::Outcome,
    store::{Store, TargetState},
    traffic::{
        pace::{Pace, Refusal},
        slots::Counters,
        target::{Target, TargetKey, path_hash},
    },
    transition::{Report, Rules, SlotWait},
};

/// The sample that restricts attempts and has counters.
const FULL: &str = "target_full.json";

/// A target with every field, and one with the fewest.
pub fn targets() -> [(&'static str, Target); 2] {
    let key = |path| TargetKey::url("https://down.example.com:443", &path_hash(path));
    let circuit = Circuit {
        failures: 5,
        openings: 2,
        open_until: Some(at(60)),
        probe_until: Some(at(105)),
        retries_only: true,
    };
    let refusal = |seconds| Refusal {
        attempt_started_at: at(seconds),
        status_code: 429,
        retry_after: Some(Duration::from_secs(10)),
    };
    let hour = Duration::from_secs(3600);
    let pace = Pace::after_refusal(None, &refusal(0), hour, None, at(0));
    let pace = Pace::after_refusal(pace.as_ref(), &refusal(20), hour, None, at(21));
    let written = |path| Target { revision: 1, touched_at: at(30), ..Target::idle(key(path)) };
    let full = Target { revision: 7, circuit, pace, ..written("/hook") };
    let circuit = Circuit { failures: 1, ..Circuit::default() };
    [(FULL, full), ("target_least.json", Target { circuit, ..written("/other") })]
}

/// Writes the targets, and counters of the first.
pub async fn write_targets(store: &dyn Store) {
    for (_, target) in targets() {
        store.write_target(None, &target).await.unwrap();
    }
    let [(_, first), _] = targets();
    store.replace_counters(&first.key, None, &counters()).await.unwrap();
}

/// Panics unless the store reads everything that [`write_targets`] writes, in every way.
pub async fn assert_targets_read(store: &dyn Store) {
    let listed = store.targets(NOW).await.unwrap();
    for (name, target) in targets() {
        let is_full = name == FULL;
        let key = target.key.clone();
        let state = TargetState { target: Some(target), counters: is_full.then(counters) };
        assert_eq!(store.target(&key).await.unwrap(), state, "{name}");
        assert_eq!(listed.contains(&state), is_full, "{name}: {listed:?}");
    }
}

/// A webhook that was throttled and waits for a slot, as [`Rules::throttle`] writes it.
pub fn throttled() -> Webhook {
    let rules = Rules::default();
    let (now, claim_id) = (at(10), ClaimId(7));
    let pending = Webhook { path_hash: Some(path_hash("/hook")), ..referenced(6) };
    let claimed = rules.claim(&pending, claim_id, now).unwrap();
    let outcome = Outcome {
        error: Some(ErrorKind::HttpStatus),
        status_code: Some(429),
        retry_after: Some(Duration::from_secs(1)),
    };
    let message = Some("the destination answered 429".to_owned());
    let duration = Duration::from_millis(12);
    let report = Report { outcome, duration, message, response_excerpt: None };
    let slot = Some(Slot { generation: "4000000010007".to_owned(), number: 31 });
    let wait = SlotWait { until: at(700), slot, is_learned: true };
    rules.throttle(&claimed, claim_id, &report, &wait, now).unwrap()
}

/// A webhook that waits for a slot of a configured rate, as [`Rules::defer_for_slot`] writes it.
pub fn rate_limited() -> Webhook {
    let pending = Webhook { path_hash: Some(path_hash("/hook")), ..referenced(7) };
    let slot = Some(Slot { generation: "10/1".to_owned(), number: 40_000_000_000 });
    let wait = SlotWait { until: at(3600), slot, is_learned: false };
    Rules::default().defer_for_slot(&pending, &wait, at(10)).unwrap()
}

/// The slot counters of a target.
pub fn counters() -> Counters {
    Counters { generation: "10/1".to_owned(), last: 17_971_200_000, last_late: 17_971_199_990 }
}
