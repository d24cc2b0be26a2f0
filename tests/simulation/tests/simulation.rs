//! The simulation: many seeds hold, each planted bug is caught, and a seed replays exactly.
//!
//! `SIMULATION_SEEDS` runs another number of seeds than CI does; `SIMULATION_BUGS=search` searches
//! anew for the seed that catches each bug.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test prints is read by who runs it"
)]

use shared::planted::Bug;
use simulation::{
    Run,
    plan::Kind,
    run,
    search::{MAX_SEEDS_PER_BUG, catch, run_seeds},
};

/// Seeds that CI runs, in about two minutes on two cores. `SIMULATION_SEEDS=100000` or `simulate
/// --seeds 100000` run more.
const SEEDS: u64 = 10_000;

/// Each planted bug and the first seed that catches it: what `simulate --bugs` prints, less one.
const CAUGHT_BY: [(Bug, u64); Bug::ALL.len()] = [
    (Bug::OutcomeWithoutClaim, 317),
    (Bug::RequeueBeforeSend, 0),
    (Bug::ArchiveWithoutCondition, 142),
    (Bug::SweepSkipsInProgress, 2),
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
    (Bug::RelaysUnbounded, 15),
    (Bug::DeferralsUnbounded, 13),
    (Bug::KeyMintsNewId, 0),
    (Bug::BudgetKept, 10),
    (Bug::DeferralSpendsAttempt, 13),
    (Bug::RequeueWithoutGrace, 0),
    (Bug::HandBackDone, 0),
    (Bug::ClaimWithoutLease, 0),
    (Bug::RetryAfterIgnored, 6),
    (Bug::NumbersStartAgain, 10),
    (Bug::RedirectIsDelivered, 0),
    (Bug::UnsentNotHeld, 26),
    (Bug::DeletedIsNew, 211),
    (Bug::SettledForgotten, 211),
    (Bug::BacklogFeedsItself, 23),
    (Bug::ProbeWithoutLease, 13),
    (Bug::CircuitOpensLate, 13),
    (Bug::CircuitsUnread, 13),
    (Bug::CountedAgain, 0),
    (Bug::StrayDropped, 24),
    (Bug::NewerArchived, 20),
    (Bug::UnreadableAcknowledged, 64),
    (Bug::DeferralCountedTwice, 18558),
    (Bug::RescueWithoutChange, 25),
    (Bug::UnworkedWithoutWait, 25),
    (Bug::FailedUntried, 67),
    (Bug::DeferralsShareBudget, 78),
    (Bug::InterruptionWithoutWait, 2368),
    (Bug::InterruptionsKept, 0),
    (Bug::SlowClaimBlamed, 20),
    (Bug::RetryFloorIgnored, 14),
    (Bug::AuditNeverTakenBack, 151),
    (Bug::PurgeByOneSighting, 176),
    (Bug::DueWithoutPosition, 528),
    (Bug::DueNeverTakenBack, 359),
];

/// Of those, what was in the software until the simulation or an attack on the release build found
/// it, by what it did then. A seed alone would not keep it: what a seed does changes with the
/// worlds.
const REGRESSIONS: [(&str, Bug); 9] = [
    (
        "a key asked for again, after an operator had deleted its webhook, made that anew",
        Bug::DeletedIsNew,
    ),
    (
        "a batch that was given a new id made again what it had made under the old one",
        Bug::SettledForgotten,
    ),
    ("the sweep added to a backlog for as long as the queue stood still", Bug::BacklogFeedsItself),
    (
        "two messages of one webhook that was put off counted it as waiting twice",
        Bug::DeferralCountedTwice,
    ),
    (
        "a throttled deliver used up the rescues of webhooks that no function had looked at",
        Bug::RescueWithoutChange,
    ),
    ("an open circuit failed webhooks that had had no attempt", Bug::FailedUntried),
    ("the host limit used up what the circuit may defer", Bug::DeferralsShareBudget),
    (
        "kills in a row used up the interruptions of all that was in flight",
        Bug::InterruptionWithoutWait,
    ),
    (
        "a claim that took too long was recorded as a timeout of the destination",
        Bug::SlowClaimBlamed,
    ),
];

/// Every seed is a world; none of them breaks a promise.
#[test]
fn nothing_is_lost_in_any_of_many_worlds() {
    let seeds = std::env::var("SIMULATION_SEEDS")
        .map_or(SEEDS, |text| text.parse().expect("SIMULATION_SEEDS is a number"));
    let ran = run_seeds(0, seeds, None, None);
    println!("{} seeds in {:.1} s: {:.0} a second", ran.seeds, ran.seconds, ran.seeds_per_second());
    let failure = ran
        .failure
        .map(|(seed, violation)| format!("simulate --seed {seed} shows it: {violation}"));
    assert_eq!(failure, None);
}

/// With a bug planted, the seed that is known to show it fails; without it, the same seed passes.
/// So it is the bug that is caught.
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
            assert!(
                caught.seeds.is_some(),
                "{bug:?} is not caught within {MAX_SEEDS_PER_BUG} seeds"
            );
        }
        return;
    }
    for (bug, (listed, seed)) in Bug::ALL.into_iter().zip(CAUGHT_BY) {
        assert_eq!(bug, listed, "the table is in the order of the bugs");
        let ran = run(Run { bug: Some(bug), ..Run::of(seed) });
        let how = "the table is out of date: `simulate --bugs` makes it anew";
        assert!(
            ran.violation.is_some(),
            "seed {seed} does not catch {bug:?}; if the world has changed, {how}"
        );
        assert_eq!(run(Run::of(seed)).violation, None, "seed {seed} without a bug");
    }
}

/// What the simulation found once, it finds again.
#[test]
fn each_regression_is_caught() {
    for (what, bug) in REGRESSIONS {
        let (_, seed) = CAUGHT_BY.into_iter().find(|(listed, _)| *listed == bug).unwrap();
        let violation = run(Run { bug: Some(bug), ..Run::of(seed) }).violation;
        println!("{what}: {}", violation.as_ref().map_or_else(String::new, ToString::to_string));
        assert!(violation.is_some(), "seed {seed} does not show that {what}");
        assert_eq!(run(Run::of(seed)).violation, None, "seed {seed} as the software is now");
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

/// Worlds are not empty: each has webhooks that are accepted and sent, and each fault is seen to
/// happen.
#[test]
fn every_world_does_something() {
    for world in Kind::ALL {
        let ran: Vec<_> = (0..30)
            .map(|seed| run(Run { world: Some(world), traced: true, ..Run::of(seed) }))
            .collect();
        let accepted: usize = ran.iter().map(|ran| ran.accepted).sum();
        let requests: usize = ran.iter().map(|ran| ran.requests).sum();
        // Where deliver dies for hours, most are given up by the queue before anything is sent.
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
            Kind::Stalls => "takes too long",
            Kind::Flaps => "cannot connect",
            Kind::Operators => "deletes",
            Kind::Backlog => "requeue",
            Kind::Crashing => "is called with messages",
            Kind::Versions => "writes to webhook",
            Kind::Clocks => "taken_back: 1",
            Kind::Everything => "retry, in_progress -> retrying",
        };
        let seen = ran.iter().flat_map(|ran| &ran.trace).any(|line| line.contains(sign));
        assert!(seen, "{world:?}: no line says {sign:?}");
    }
}
