//! The functions in a world that one seed determines: its clock, store, queue, destinations,
//! schedule, callers, operators, and all that goes wrong.
//!
//! The handlers are the real ones, as Lambda calls them: the API's router, `deliver`, `sweep`,
//! `dlq`. One thread runs them; time is virtual and jumps when nobody can go on; chance comes from
//! the seed alone. So a seed replays exactly.
//!
//! A process dies at any await: its calls of store, queue, sender and clock do not return any more,
//! before, within or after what they do. A call that was under way may take effect long after. Once
//! the faults end, the world goes on until all is quiet.
//!
//! | module | what it holds |
//! |---|---|
//! | [`chance`], [`plan`] | what the seed determines: chance, the world, the rates of its faults |
//! | `world` | what all processes share; a process, with its own clock, that may die |
//! | `store`, `queue`, `destination` | the parts of a function's context, with their faults |
//! | `platform` | polls the queue, keeps the schedule, calls functions |
//! | `people` | callers and operators |
//! | `watch`, `circuits`, `verdict` | the checks, at every step and at the end |
//! | [`hunt`] | many seeds; the planted bugs |

pub mod chance;
mod circuits;
mod destination;
pub mod hunt;
mod people;
pub mod plan;
mod platform;
mod queue;
mod store;
mod verdict;
mod watch;
mod world;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use shared::{
    planted::{self, Bug},
    queue::Lane,
};

use self::{
    chance::Chance,
    plan::{Kind, Plan},
    world::World,
};

/// After the faults end, all must be quiet within this much (virtual) time. The longest that a
/// webhook may rightly wait is a deferral of a day in all, and a grace of six hours after it.
const MAX_QUIET: Duration = Duration::from_secs(72 * 3600);

/// What is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Determines everything.
    pub seed: u64,
    /// Instead of the seed's own.
    pub world: Option<Kind>,
    /// Planted for the run.
    pub bug: Option<Bug>,
    /// Whether to write the trace.
    pub traced: bool,
}

impl Run {
    /// A seed with the world that it has, no bug and no trace.
    pub const fn of(seed: u64) -> Self {
        Self { seed, world: None, bug: None, traced: false }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The first check that failed.
    pub violation: Option<String>,
    /// What happened, line by line: time in seconds, who, what.
    pub trace: Vec<String>,
    /// Webhooks that were accepted.
    pub accepted: usize,
    /// Requests that the destinations saw.
    pub requests: usize,
    /// Messages that the queue's lane of webhooks has taken.
    pub messages: u64,
    /// The (virtual) time that it took, in seconds.
    pub seconds: u64,
}

/// Runs one world to its end.
pub fn run(run: Run) -> Ran {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else {
        unreachable!("a runtime without I/O needs nothing of the system")
    };
    planted::plant(run.bug);
    let ran = runtime.block_on(live(run));
    // Whoever still waits is dropped with its runtime.
    drop(runtime);
    planted::plant(None);
    ran
}

async fn live(run: Run) -> Ran {
    let mut chance = Chance::new(run.seed);
    let kind = run.world.unwrap_or_else(|| Kind::of_seed(run.seed));
    let plan = Plan::of(kind, &mut chance).with(kind, run.seed);
    let world = World::new(plan, chance, run.traced);
    world.note(&"world", || format!("{}: {:?}", kind.name(), world.plan));
    people::start(&world);
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        tokio::spawn(platform::poll(Arc::clone(&world), lane));
    }
    tokio::spawn(platform::tick(Arc::clone(&world)));
    let end = Duration::from_secs(world.plan.faults_end_s) + MAX_QUIET;
    tokio::select! {
        biased;
        () = world.failed.notified() => {}
        () = quiet(&world) => world.change(|state| verdict::judge(state, kind, &world.plan)),
        () = tokio::time::sleep(end) => world.change(|state| {
            let what = verdict::unquiet(state);
            state.watch.must(false, || what);
        }),
    }
    let trace = world.take_trace();
    let state = world.state();
    Ran {
        violation: state.watch.violation.clone(),
        trace,
        accepted: state.watch.accepted.len(),
        requests: state.destinations.requests.len(),
        messages: state.messages.taken,
        seconds: world.age_s(),
    }
}

/// Returns once the faults are over and nothing is left to be done.
async fn quiet(world: &World) {
    tokio::time::sleep(Duration::from_secs(world.plan.faults_end_s)).await;
    // What was under way when its process died has landed by then.
    tokio::time::sleep(Duration::from_secs(120)).await;
    while world.busy.load(Relaxed) > 0 || !verdict::is_quiet(&world.state()) {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}
