//! Runs the functions in a simulated world that one seed determines: clock, store, queue,
//! destinations, schedule, callers, operators, and faults.
//!
//! The handlers are the real ones, as Lambda calls them: the API's router, `deliver`, `sweep` and
//! `dlq`. One thread runs them. Time is virtual and advances when every task waits. All randomness
//! comes from the seed, so a seed replays exactly.
//!
//! A process can die at any await: its calls of store, queue, sender and clock never return. It may
//! die before, during or after the effect of a call. A call in flight may take effect long after.
//! Once the faults end, the world runs until no work is left.
//!
//! | module | contents |
//! |---|---|
//! | [`chance`], [`plan`] | randomness, the kind of world, and the rates of its faults |
//! | `world`, `state` | what all processes share; a process with its own clock |
//! | `store`, `queue`, `destination` | the backends of a function's context, with their faults |
//! | `platform` | polls the queue, runs the schedule, invokes the functions |
//! | `callers` | API callers and operators |
//! | `traffic` | the worlds of traffic control, and their destinations |
//! | `application_load` | the load of a world with applications |
//! | `applications` | the worlds of applications, and their callers |
//! | `checks`, `circuit_checks`, `traffic_checks`, `final_checks` | the checks at every step and at
//! the end |
//! | [`search`] | runs many seeds and plants bugs |

mod application_load;
mod applications;
mod callers;
pub mod chance;
mod checks;
mod circuit_checks;
mod destination;
mod final_checks;
pub mod plan;
mod platform;
mod queue;
pub mod search;
mod state;
mod store;
mod traffic;
mod traffic_checks;
mod world;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use shared::{
    clock::Timestamp,
    planted::{self, Bug},
    queue::Lane,
};

use self::{
    chance::Chance,
    plan::{Kind, Plan},
    state::EPOCH_MS,
    world::World,
};

/// One run of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Determines the world and everything in it.
    pub seed: u64,
    /// Replaces the kind of world that the seed determines.
    pub world: Option<Kind>,
    /// The bug to plant.
    pub bug: Option<Bug>,
    /// Whether to record the trace.
    pub traced: bool,
}

impl Run {
    /// A seed with its own world, no bug and no trace.
    pub const fn of(seed: u64) -> Self {
        Self { seed, world: None, bug: None, traced: false }
    }
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunResult {
    /// The first check that failed.
    pub violation: Option<String>,
    /// The events, one a line: time in seconds, actor, event.
    pub trace: Vec<String>,
    /// Webhooks that were accepted.
    pub accepted: usize,
    /// Requests that the destinations received.
    pub requests: usize,
    /// Messages sent to the webhook lane of the queue.
    pub messages: u64,
    /// Its (virtual) duration in seconds.
    pub seconds: u64,
    /// Webhooks that are dead letters.
    pub dead_letters: usize,
    /// When the last webhook was delivered, in (virtual) milliseconds since the start.
    pub last_delivery_ms: u64,
}

/// Webhooks that arrive within a second at a destination that takes a number of requests per
/// second, and that answers the others with 429 and `retry-after: 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// The seed of everything that is random.
    pub seed: u64,
    /// The number of webhooks.
    pub webhooks: u64,
    /// The requests per second that the destination takes.
    pub per_second: u64,
    /// The number of processes of each function.
    pub workers: u32,
}

/// Runs one world until all work is done or a check fails.
pub fn run(run: Run) -> RunResult {
    let mut chance = Chance::new(run.seed);
    let kind = run.world.unwrap_or_else(|| Kind::of_seed(run.seed));
    let plan = Plan::of(kind, &mut chance).with_seed(kind, run.seed);
    run_plan(run, kind, plan, chance)
}

/// Runs a burst, without faults, until all work is done or a check fails.
pub fn run_burst(burst: Burst) -> RunResult {
    let plan = Plan::of_burst(&burst);
    run_plan(Run::of(burst.seed), Kind::Throttled, plan, Chance::new(burst.seed))
}

fn run_plan(run: Run, kind: Kind, plan: Plan, chance: Chance) -> RunResult {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else {
        unreachable!("a runtime without I/O needs no system resources")
    };
    planted::plant(run.bug);
    let ran = runtime.block_on(async {
        // The world measures time from the start of the runtime.
        simulate(World::new(plan, chance, run.traced), kind).await
    });
    // This ends the tasks that still wait.
    drop(runtime);
    planted::plant(None);
    ran
}

async fn simulate(world: Arc<World>, kind: Kind) -> RunResult {
    world.note(&"world", || format!("{}: {:?}", kind.name(), world.plan));
    let api = callers::Api::default();
    applications::start(&world, &api);
    callers::start(&world, &api);
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        tokio::spawn(platform::poll(Arc::clone(&world), lane));
    }
    tokio::spawn(platform::tick(Arc::clone(&world)));
    let end = Duration::from_secs(world.plan.faults_end_s) + world.plan.max_settle_time();
    tokio::select! {
        biased;
        () = world.failed.notified() => {}
        () = wait_until_settled(&world) => {
            world.change(|state| final_checks::check(state, kind, &world.plan));
        }
        () = tokio::time::sleep(end) => world.change(|state| {
            let what = final_checks::describe_unsettled(state);
            state.checks.require(false, || what);
        }),
    }
    let trace = world.take_trace();
    let state = world.state();
    let webhooks = state.records.webhooks.values().map(|(webhook, _)| webhook);
    RunResult {
        violation: state.checks.violation.clone(),
        trace,
        accepted: state.checks.accepted.len(),
        requests: state.destinations.requests.len(),
        messages: state.messages.taken,
        seconds: world.age_s(),
        dead_letters: webhooks.clone().filter(|webhook| webhook.is_dead_letter()).count(),
        last_delivery_ms: webhooks
            .filter_map(|webhook| webhook.delivered_at)
            .max()
            .map_or(0, |at| at.since(Timestamp::from_millis(EPOCH_MS)).as_millis() as u64),
    }
}

/// Returns once the faults are over and no work is left.
async fn wait_until_settled(world: &World) {
    tokio::time::sleep(Duration::from_secs(world.plan.faults_end_s)).await;
    // All calls of dead processes have taken effect after this time.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let days = Duration::from_secs(world.plan.days() * 24 * 3600);
    tokio::time::sleep_until(world.started + days).await;
    while world.busy.load(Relaxed) > 0 || !final_checks::is_settled(&world.state()) {
        let step_s = if days.is_zero() { 30 } else { 600 };
        tokio::time::sleep(Duration::from_secs(step_s)).await;
    }
}
