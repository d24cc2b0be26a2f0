//! The simulation: many seeds pass, a known seed catches each planted bug, and a seed replays
//! exactly.
//!
//! `SIMULATION_SEEDS` sets the number of seeds. `SIMULATION_BUGS=search` searches for the first
//! seed that catches each bug.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the tests print figures")]

use shared::planted::Bug;
use simulation::{
    Burst, Run,
    plan::Kind,
    run, run_burst,
    search::{MAX_SEEDS_PER_BUG, catch, run_seeds},
};

/// The number of seeds in CI. They take about two minutes on two cores.
const SEEDS: u64 = 10_000;

/// Each planted bug, and a seed that catches it, mostly the first one. `simulate --bugs` prints the
/// number of seeds, which is one more.
const CAUGHT_BY: [(Bug, u64); Bug::ALL.len()] = [
    (Bug::OutcomeWithoutClaim, 234),
    (Bug::RequeueBeforeSend, 0),
    (Bug::ArchiveWithoutCondition, 631),
    (Bug::SweepSkipsInProgress, 0),
    (Bug::ClaimIgnoresLease, 1945),
    (Bug::AcknowledgeUnfinished, 0),
    (Bug::AuditMovesFirst, 2),
    (Bug::AuditSkipsMinute, 4),
    (Bug::ResendKeepsExpiry, 10),
    (Bug::DueAsAllowed, 0),
    (Bug::DeleteUnfenced, 26),
    (Bug::FailedNotHeld, 0),
    (Bug::RescueUnbounded, 235),
    (Bug::InterruptionsUnbounded, 2),
    (Bug::RelaysUnbounded, 5),
    (Bug::DeferralsUnbounded, 0),
    (Bug::KeyMintsNewId, 0),
    (Bug::BudgetKept, 10),
    (Bug::DeferralSpendsAttempt, 5),
    (Bug::RequeueWithoutGrace, 0),
    (Bug::HandBackDone, 0),
    (Bug::ClaimWithoutLease, 0),
    (Bug::RetryAfterIgnored, 0),
    (Bug::NumbersStartAgain, 10),
    (Bug::RedirectIsDelivered, 0),
    (Bug::UnsentNotHeld, 26),
    (Bug::DeletedIsNew, 211),
    (Bug::SettledForgotten, 211),
    (Bug::BacklogFeedsItself, 23),
    (Bug::ProbeWithoutLease, 17),
    (Bug::CircuitOpensLate, 5),
    (Bug::CircuitsUnread, 5),
    (Bug::CountedAgain, 0),
    (Bug::StrayDropped, 24),
    (Bug::NewerArchived, 10),
    (Bug::UnreadableAcknowledged, 86),
    (Bug::DeferralCountedTwice, 1253),
    (Bug::RescueWithoutChange, 25),
    (Bug::UnworkedWithoutWait, 25),
    (Bug::FailedUntried, 17),
    (Bug::DeferralsShareBudget, 173),
    (Bug::InterruptionWithoutWait, 1582),
    (Bug::InterruptionsKept, 0),
    (Bug::SlowClaimBlamed, 20),
    (Bug::RetryFloorIgnored, 32),
    (Bug::AuditNeverTakenBack, 151),
    (Bug::PurgeByOneSighting, 359),
    (Bug::DueWithoutPosition, 1410),
    (Bug::DueNeverTakenBack, 176),
    (Bug::SlotTakenTwice, 1),
    (Bug::ThrottleSpendsAttempt, 1),
    (Bug::PauseForOneOnly, 1),
    (Bug::UrlFailsOrigin, 5),
    (Bug::LateWithoutSlot, 309),
    (Bug::RateNeverDecreases, 1),
    (Bug::ExemptByOldRead, 3125),
    (Bug::PlanFromNow, 28),
    (Bug::FanoutLeavesEarly, 28),
    (Bug::SettleUnconditional, 28),
    (Bug::SettleIgnoresInFlight, 31),
    (Bug::AuditIgnoresUnstarted, 28),
    (Bug::FirstWriteUnconditional, 204),
    (Bug::MarkerForgotten, 204),
    (Bug::SettledIgnored, 1612),
    (Bug::MessageDeletedFirst, 47),
    (Bug::GoneByCache, 124),
    (Bug::DisabledStillPlanned, 28),
    (Bug::SealedUnbound, 47),
    (Bug::TenantByBody, 95),
];

/// The planted bugs that were real, and their effects. The simulation or an attack on the release
/// build found them. A seed alone is no regression test, because its world can change.
const REGRESSIONS: [(&str, Bug); 9] = [
    (
        "a repeated idempotency key created its webhook again after an operator had deleted it",
        Bug::DeletedIsNew,
    ),
    ("a batch that got a new ID created the webhooks of the old ID again", Bug::SettledForgotten),
    ("the sweep added to a backlog while the queue was not polled", Bug::BacklogFeedsItself),
    ("two messages of a deferred webhook counted it as waiting twice", Bug::DeferralCountedTwice),
    (
        "a throttled deliver spent the rescues of webhooks that no worker had processed",
        Bug::RescueWithoutChange,
    ),
    ("an open circuit failed webhooks without an attempt", Bug::FailedUntried),
    ("the host limit spent the deferrals of the circuit", Bug::DeferralsShareBudget),
    (
        "repeated kills spent the interruptions of all webhooks in flight",
        Bug::InterruptionWithoutWait,
    ),
    ("a slow claim was recorded as a timeout of the destination", Bug::SlowClaimBlamed),
];

/// No check fails in any world.
#[test]
fn nothing_is_lost_in_any_of_many_worlds() {
    let seeds = std::env::var("SIMULATION_SEEDS")
        .map_or(SEEDS, |text| text.parse().expect("SIMULATION_SEEDS is a number"));
    let ran = run_seeds(0, seeds, None, None);
    println!("{} seeds in {:.1} s: {:.0} a second", ran.seeds, ran.seconds, ran.seeds_per_second());
    let failure = ran
        .failure
        .map(|(seed, violation)| format!("replay it with: simulate --seed {seed}: {violation}"));
    assert_eq!(failure, None);
}

/// The known seed fails with the planted bug, and passes without it.
#[test]
fn each_planted_bug_is_caught() {
    if std::env::var("SIMULATION_BUGS").is_ok_and(|value| value == "search") {
        for bug in Bug::ALL {
            let caught = catch(bug, MAX_SEEDS_PER_BUG);
            println!(
                "{:<24} {:?} {}",
                caught.bug,
                caught.seeds,
                caught.violation.unwrap_or_default()
            );
            assert!(caught.seeds.is_some(), "no seed of {MAX_SEEDS_PER_BUG} catches {bug:?}");
        }
        return;
    }
    for (bug, (listed, seed)) in Bug::ALL.into_iter().zip(CAUGHT_BY) {
        assert_eq!(bug, listed, "CAUGHT_BY has the order of Bug::ALL");
        let ran = run(Run { bug: Some(bug), ..Run::of(seed) });
        assert!(
            ran.violation.is_some(),
            "seed {seed} does not catch {bug:?}. If the worlds have changed, run `simulate --bugs` \
             and update CAUGHT_BY"
        );
        assert_eq!(run(Run::of(seed)).violation, None, "seed {seed} without a bug");
    }
}

/// The simulation finds each regression again.
#[test]
fn each_regression_is_caught() {
    for (what, bug) in REGRESSIONS {
        let (_, seed) = CAUGHT_BY.into_iter().find(|(listed, _)| *listed == bug).unwrap();
        let violation = run(Run { bug: Some(bug), ..Run::of(seed) }).violation;
        println!("{what}: {}", violation.as_ref().map_or_else(String::new, ToString::to_string));
        assert!(violation.is_some(), "seed {seed} does not find that {what}");
        assert_eq!(run(Run::of(seed)).violation, None, "seed {seed} without a bug");
    }
}

/// The trace of a seed is the same in two runs, in two threads, and in another process, byte for
/// byte.
#[test]
fn a_seed_replays_exactly() {
    for world in Kind::ALL {
        let traced = Run { world: Some(world), traced: true, ..Run::of(7) };
        let first = run(traced);
        assert!(first.trace.len() > 10, "{world:?}: {:?}", first.trace);
        let second = std::thread::spawn(move || run(traced)).join().unwrap();
        assert_eq!(first, second, "{world:?}");
        let tool = std::process::Command::new(env!("CARGO_BIN_EXE_simulate"))
            .args(["--seed", "7", "--world", &world.name()])
            .output()
            .unwrap();
        assert!(tool.status.success(), "{world:?}: {tool:?}");
        let printed = String::from_utf8(tool.stdout).unwrap();
        let lines: Vec<&str> = printed.lines().take(first.trace.len()).collect();
        assert_eq!(lines, first.trace, "{world:?}");
    }
}

/// A burst at a receiver that takes fewer requests and refuses the others: the figures of the
/// design hold, and no webhook is lost.
#[test]
fn a_burst_is_delivered_at_the_rate_that_its_receiver_takes() {
    for (webhooks, per_second, workers, seeds, most_s, most_requests) in
        [(40, 2, 4, 20, 45.0, 2.3), (40, 2, 10, 20, 45.0, 2.3), (1000, 50, 20, 3, 60.0, 1.5)]
    {
        for seed in 0..seeds {
            let ran = run_burst(Burst { seed, webhooks, per_second, workers });
            let seconds = ran.last_delivery_ms as f64 / 1000.0;
            let requests = ran.requests as f64 / webhooks as f64;
            println!(
                "{webhooks} webhooks to {per_second}/s, seed {seed}: {seconds:.1} s, \
                 {requests:.2} requests a webhook"
            );
            assert_eq!((ran.violation, ran.dead_letters), (None, 0), "seed {seed}");
            assert_eq!(ran.accepted as u64, webhooks, "seed {seed}");
            assert!(seconds <= most_s, "{webhooks} webhooks, seed {seed}: {seconds} s");
            assert!(requests <= most_requests, "{webhooks} webhooks, seed {seed}: {requests}");
        }
    }
}

/// Each kind of world accepts and sends webhooks, and its faults happen.
#[test]
fn every_world_does_something() {
    for world in Kind::ALL {
        let ran: Vec<_> = (0..30)
            .map(|seed| run(Run { world: Some(world), traced: true, ..Run::of(seed) }))
            .collect();
        let accepted: usize = ran.iter().map(|ran| ran.accepted).sum();
        let requests: usize = ran.iter().map(|ran| ran.requests).sum();
        // In worlds where deliver dies for hours, most messages become dead letters before a
        // request is sent.
        assert!(
            accepted > 10 && requests > 0,
            "{world:?}: {accepted} accepted, {requests} requests"
        );
        let sign = match world {
            Kind::Calm => "dies",
            Kind::Deaths => "without its caller",
            Kind::StoreFaults => "and takes effect in",
            Kind::StoreOutage => "fails",
            Kind::QueueFaults => "loses a message",
            Kind::TickFaults => "has audited until",
            Kind::Skew => "its clock off by -",
            Kind::Stalls => "reaches the time limit",
            Kind::Flaps => "cannot connect",
            Kind::Operators => "deletes",
            Kind::Backlog => "requeue",
            Kind::Crashing => "is invoked with messages",
            Kind::Versions => "writes to webhook",
            Kind::Clocks => "taken_back: 1",
            Kind::Limited => " slots up to ",
            Kind::Throttled => "paused until",
            Kind::SharedHosts => "circuit Open",
            Kind::Fanout => "puts the marker of delivery",
            Kind::OnOff => "endpoint.deleted",
            Kind::Tenants => "puts the secret of",
            Kind::Everything => "retry, in_progress -> retrying",
        };
        let seen = ran.iter().flat_map(|ran| &ran.trace).any(|line| line.contains(sign));
        assert!(seen, "{world:?}: no line has {sign:?}");
    }
}
