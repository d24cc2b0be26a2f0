//! The world that all processes of a run share, and a process in it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::{
    clock::{Clock, Timestamp},
    config::{Config, Defaults},
    context::Context,
    metrics::Metrics,
    model::Function,
    random::Random,
    sender::{AddressGuard, GuardSettings},
    store::PurgeHorizon,
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    chance::Chance,
    plan::Plan,
    state::{
        EPOCH_MS, State, books::Checks, messages::Messages, records::Records,
        requests::Destinations,
    },
};

/// How likely a doomed process dies at each step.
const DOOM: f64 = 0.2;

/// All that there is besides the processes.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) config: Arc<Config>,
    began: Instant,
    state: Mutex<State>,
    /// A message may have become visible.
    pub(super) sent: Notify,
    /// A check failed.
    pub(super) failed: Notify,
    /// Callers, operators and invocations that are at work.
    pub(super) busy: AtomicU32,
    /// Up to when the store may delete what has expired, as a warm process of the sweep knows it.
    pub(super) horizon: PurgeHorizon,
}

impl World {
    pub(super) fn new(plan: Plan, chance: Chance, traced: bool) -> Arc<Self> {
        let mut config = base().0.clone();
        config.rules.limits.max_defer = plan.max_defer;
        config.deliver_host_concurrency = plan.host_concurrency;
        let watch = Checks::new(&plan, config.rules.clone());
        let state = State {
            chance,
            records: Records::default(),
            messages: Messages::default(),
            destinations: Destinations::default(),
            watch,
            processes: 0,
            began: Instant::now(),
            trace: traced.then(Vec::new),
        };
        Arc::new(Self {
            plan,
            config: Arc::new(config),
            began: Instant::now(),
            state: Mutex::new(state),
            sent: Notify::new(),
            failed: Notify::new(),
            busy: AtomicU32::new(0),
            horizon: PurgeHorizon::default(),
        })
    }

    /// The true time.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH_MS).plus(self.began.elapsed())
    }

    /// Seconds since the world began.
    pub(super) fn age_s(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// Whether things may still go wrong.
    pub(super) fn is_faulty(&self) -> bool {
        self.age_s() < self.plan.faults_end_s
    }

    /// Whether it is a time within these seconds.
    pub(super) fn is_within(&self, span: Option<(u64, u64)>) -> bool {
        span.is_some_and(|(from, until)| (from..until).contains(&self.age_s()))
    }

    // Never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True with this probability, while things may go wrong.
    pub(super) fn happens(&self, probability: f64) -> bool {
        self.is_faulty() && self.state().chance.happens(probability)
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.state().chance.below(bound)
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn note(&self, who: &dyn fmt::Display, what: impl FnOnce() -> String) {
        self.state().note(who, what);
    }

    /// The trace.
    pub(super) fn take_trace(&self) -> Vec<String> {
        self.state().trace.take().unwrap_or_default()
    }

    /// Does something to the world, and ends the run if a check says that it must not be.
    pub(super) fn change<T>(&self, effect: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let failed_before = state.watch.violation.is_some();
        let value = effect(&mut state);
        if let Some(violation) = state.watch.violation.clone().filter(|_| !failed_before) {
            state.note(&"CHECK", || violation);
            self.failed.notify_one();
        }
        value
    }
}

/// The settings and the guard of every process; made once, since that takes longer than a run.
fn base() -> &'static (Config, Arc<AddressGuard>) {
    static BASE: OnceLock<(Config, Arc<AddressGuard>)> = OnceLock::new();
    BASE.get_or_init(|| {
        let setting = |name: &str| {
            matches!(name, "STATUS_BACKEND" | "QUEUE_BACKEND").then(|| "sqlite".to_owned())
        };
        let Ok(config) = Config::from_source(Defaults::LAMBDA, setting) else {
            unreachable!("the defaults are good")
        };
        let Ok(guard) = AddressGuard::new(GuardSettings::default()) else {
            unreachable!("there is no pattern")
        };
        (config, Arc::new(guard))
    })
}

/// A process: it has a clock of its own, and may die.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) number: u32,
    pub(super) function: Function,
    skew_ms: i64,
    dead: AtomicBool,
    /// It will not live through its invocation.
    pub(super) doomed: AtomicBool,
    pub(super) died: Notify,
    /// Calls of the store that failed, or found that somebody else was first, in this invocation.
    pub(super) troubles: AtomicU32,
    /// Sends that failed in this invocation.
    pub(super) queue_troubles: AtomicU32,
    /// What it was asked for.
    pub(super) request: Mutex<String>,
}

impl Process {
    pub(super) fn start(world: &Arc<World>, function: Function) -> Arc<Self> {
        let (number, skew_ms) = {
            let mut state = world.state();
            state.processes += 1;
            let spread = world.plan.skew_ms.unsigned_abs();
            let skew_ms = if spread == 0 {
                0
            } else {
                state.chance.below(2 * spread + 1) as i64 - spread as i64
            };
            (state.processes, skew_ms)
        };
        let process = Arc::new(Self {
            world: Arc::clone(world),
            number,
            function,
            skew_ms,
            dead: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            died: Notify::new(),
            troubles: AtomicU32::new(0),
            queue_troubles: AtomicU32::new(0),
            request: Mutex::default(),
        });
        process.note(|| format!("starts, its clock off by {skew_ms} ms"));
        process
    }

    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        self.world.note(self, what);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    pub(super) fn die(&self) {
        if !self.dead.swap(true, Relaxed) {
            self.note(|| "dies".to_owned());
            self.died.notify_one();
        }
    }

    /// Its own time.
    pub(super) fn local_now(&self) -> Timestamp {
        let wrong = self.world.plan.wrong_clock.filter(|_| self.function == Function::Sweep);
        let ahead_ms = wrong
            .filter(|wrong| self.world.is_within(Some(wrong.span)))
            .map_or(0, |wrong| wrong.ahead_ms);
        Timestamp::from_millis(self.world.now().as_millis() + self.skew_ms + ahead_ms)
    }

    /// Returns while it lives. It may die here.
    pub(super) async fn alive(&self) {
        let doomed = self.doomed.load(Relaxed) && self.world.happens(DOOM);
        if !self.is_dead() && (doomed || self.world.happens(self.world.plan.death)) {
            self.die();
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets that much pass, if it lives that long.
    pub(super) async fn wait(&self, time: Duration) {
        self.alive().await;
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// How long a call takes.
    pub(super) fn latency(&self) -> Duration {
        let world = &self.world;
        if world.happens(world.plan.stall) {
            return Duration::from_millis(5000 + world.below(35_000));
        }
        Duration::from_millis(1 + world.below(12))
    }

    pub(super) fn trouble(&self) {
        self.troubles.fetch_add(1, Relaxed);
    }

    /// This process as one of the parts of a context.
    pub(super) fn own(self: &Arc<Self>) -> Arc<Own> {
        Arc::new(Own(Arc::clone(self)))
    }

    /// What a function works with, in this process.
    pub(super) fn context(self: &Arc<Self>) -> Context {
        let own = || self.own();
        Context {
            config: Arc::clone(&self.world.config),
            rules: Arc::new(self.world.config.rules.clone()),
            store: own(),
            queue: own(),
            guard: Arc::clone(&base().1),
            clock: own(),
            random: own(),
            metrics: Arc::new(Metrics::new(Duration::ZERO)),
            liveness: Arc::default(),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.function.as_str(), self.number))
    }
}

/// The parts of its context: what a process sees of the world.
#[derive(Debug)]
pub(super) struct Own(pub(super) Arc<Process>);

#[async_trait]
impl Clock for Own {
    fn now(&self) -> Timestamp {
        self.0.local_now()
    }

    fn monotonic(&self) -> Duration {
        self.0.world.began.elapsed()
    }

    async fn sleep(&self, wait: Duration) {
        self.0.wait(wait).await;
    }
}

impl Random for Own {
    fn next_u64(&self) -> u64 {
        self.0.world.state().chance.bits()
    }
}

impl Process {
    /// The true time at which its clock showed this.
    pub(super) fn to_true(&self, local: Timestamp) -> Timestamp {
        Timestamp::from_millis(local.as_millis() - self.skew_ms)
    }
}
