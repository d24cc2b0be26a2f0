//! The world of a run, which all its processes share, and the processes.

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
    application_cache::ApplicationCache,
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
    plan::{LIMITED_HOST, Plan, Traffic},
    state::{
        EPOCH_MS, State, messages::Messages, records::Records, requests::Destinations,
        tracking::Checks,
    },
};

/// 32 bytes in base64.
const MASTER_KEY: &str = "c2ltdWxhdGVkIG1hc3RlciBrZXksIDMyIGJ5dGVzISE=";

/// The probability that a doomed process dies at each step.
const DOOM: f64 = 0.2;

/// Everything but the processes.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) config: Arc<Config>,
    pub(super) started: Instant,
    state: Mutex<State>,
    /// A message may have become visible.
    pub(super) sent: Notify,
    /// A check failed.
    pub(super) failed: Notify,
    /// The number of running callers, operators and invocations.
    pub(super) busy: AtomicU32,
    /// The time up to which the store may purge, as a warm sweep process knows it.
    pub(super) horizon: PurgeHorizon,
}

impl World {
    pub(super) fn new(plan: Plan, chance: Chance, traced: bool) -> Arc<Self> {
        let mut config = config_and_guard().0.clone();
        config.rules.limits.max_defer = plan.max_defer;
        config.deliver_host_concurrency = plan.host_concurrency;
        if let Some(Traffic::Limited(limit)) = plan.traffic {
            config.rate_limits = format!("{LIMITED_HOST}={limit}").parse().unwrap_or_default();
        }
        if let Some(retention) = plan.retention() {
            config.rules.limits.retention = retention;
        }
        let checks = Checks::new(&plan, &config);
        let state = State {
            chance,
            records: Records::default(),
            messages: Messages::default(),
            destinations: Destinations::default(),
            checks,
            processes: 0,
            started: Instant::now(),
            trace: traced.then(Vec::new),
        };
        Arc::new(Self {
            plan,
            config: Arc::new(config),
            started: Instant::now(),
            state: Mutex::new(state),
            sent: Notify::new(),
            failed: Notify::new(),
            busy: AtomicU32::new(0),
            horizon: PurgeHorizon::default(),
        })
    }

    /// The true time.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH_MS).plus(self.started.elapsed())
    }

    /// Seconds since the start of the world.
    pub(super) fn age_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Whether faults can happen now. In a world of days they come back in some hours.
    pub(super) fn is_faulty(&self) -> bool {
        let age_s = self.age_s();
        age_s < self.plan.faults_end_s
            || (age_s < self.plan.days() * 24 * 3600 && (age_s / 3600).is_multiple_of(8))
    }

    /// Whether the time is within this span, in seconds.
    pub(super) fn is_within(&self, span: Option<(u64, u64)>) -> bool {
        span.is_some_and(|(from, until)| (from..until).contains(&self.age_s()))
    }

    /// Locks the state. The lock must not be held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True with this probability while faults can happen.
    pub(super) fn happens(&self, probability: f64) -> bool {
        self.is_faulty() && self.state().chance.happens(probability)
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.state().chance.below(bound)
    }

    /// Adds a line to the trace, if the run is traced.
    pub(super) fn note(&self, who: &dyn fmt::Display, what: impl FnOnce() -> String) {
        self.state().note(who, what);
    }

    /// Takes the trace.
    pub(super) fn take_trace(&self) -> Vec<String> {
        self.state().trace.take().unwrap_or_default()
    }

    /// Changes the state. Ends the run if a check fails.
    pub(super) fn change<T>(&self, effect: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let failed_before = state.checks.violation.is_some();
        let value = effect(&mut state);
        if let Some(violation) = state.checks.violation.clone().filter(|_| !failed_before) {
            state.note(&"CHECK", || violation);
            self.failed.notify_one();
        }
        value
    }
}

/// The settings and the guard of every process. Creating them takes longer than a run, so this
/// happens once.
fn config_and_guard() -> &'static (Config, Arc<AddressGuard>) {
    static CREATED: OnceLock<(Config, Arc<AddressGuard>)> = OnceLock::new();
    CREATED.get_or_init(|| {
        let setting = |name: &str| {
            let value = match name {
                "STATUS_BACKEND" | "QUEUE_BACKEND" => "sqlite",
                "MASTER_KEY" => MASTER_KEY,
                _ => return None,
            };
            Some(value.to_owned())
        };
        let Ok(config) = Config::from_source(Defaults::LAMBDA, setting) else {
            unreachable!("the default settings are valid")
        };
        let Ok(guard) = AddressGuard::new(GuardSettings::default()) else {
            unreachable!("the default settings have no pattern")
        };
        (config, Arc::new(guard))
    })
}

/// A process, with its own clock. It can die.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) number: u32,
    pub(super) function: Function,
    skew_ms: i64,
    dead: AtomicBool,
    /// Whether it dies during its invocation.
    pub(super) doomed: AtomicBool,
    pub(super) died: Notify,
    /// Store calls of this invocation that failed or had a conflict.
    pub(super) failed_calls: AtomicU32,
    /// Sends of this invocation that failed.
    pub(super) failed_sends: AtomicU32,
    /// The request that it answers.
    pub(super) request: Mutex<String>,
    /// When its invocation began.
    invoked_at: Mutex<Timestamp>,
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
            failed_calls: AtomicU32::new(0),
            failed_sends: AtomicU32::new(0),
            request: Mutex::default(),
            invoked_at: Mutex::default(),
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

    /// Called when an invocation begins.
    pub(super) fn invoked(&self) {
        self.failed_calls.store(0, Relaxed);
        self.failed_sends.store(0, Relaxed);
        *self.invoked_at.lock().unwrap_or_else(PoisonError::into_inner) = self.world.now();
    }

    /// When its latest invocation began.
    pub(super) fn invoked_at(&self) -> Timestamp {
        *self.invoked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of its clock.
    pub(super) fn local_now(&self) -> Timestamp {
        let wrong = self.world.plan.wrong_clock.filter(|_| self.function == Function::Sweep);
        let ahead_ms = wrong
            .filter(|wrong| self.world.is_within(Some(wrong.span)))
            .map_or(0, |wrong| wrong.ahead_ms);
        Timestamp::from_millis(self.world.now().as_millis() + self.skew_ms + ahead_ms)
    }

    /// Returns if the process is alive. The process can die here.
    pub(super) async fn alive(&self) {
        let doomed = self.doomed.load(Relaxed) && self.world.happens(DOOM);
        if !self.is_dead() && (doomed || self.world.happens(self.world.plan.death)) {
            self.die();
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for this time, unless the process dies.
    pub(super) async fn wait(&self, time: Duration) {
        self.alive().await;
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// The latency of a call.
    pub(super) fn latency(&self) -> Duration {
        let world = &self.world;
        if world.happens(world.plan.stall) {
            return Duration::from_millis(5000 + world.below(35_000));
        }
        Duration::from_millis(1 + world.below(12))
    }

    pub(super) fn note_failure(&self) {
        self.failed_calls.fetch_add(1, Relaxed);
    }

    /// The backends of the context of this process.
    pub(super) fn services(self: &Arc<Self>) -> Arc<Services> {
        Arc::new(Services(Arc::clone(self)))
    }

    /// The context of a function in this process.
    pub(super) fn context(self: &Arc<Self>) -> Context {
        let services = || self.services();
        Context {
            config: Arc::clone(&self.world.config),
            rules: Arc::new(self.world.config.rules.clone()),
            store: services(),
            queue: services(),
            guard: Arc::clone(&config_and_guard().1),
            clock: services(),
            random: services(),
            applications: Arc::new(ApplicationCache::new(self.world.config.endpoint_cache)),
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

/// The backends of a process: clock, randomness, store, queue and sender.
#[derive(Debug)]
pub(super) struct Services(pub(super) Arc<Process>);

#[async_trait]
impl Clock for Services {
    fn now(&self) -> Timestamp {
        self.0.local_now()
    }

    fn monotonic(&self) -> Duration {
        self.0.world.started.elapsed()
    }

    async fn sleep(&self, wait: Duration) {
        self.0.wait(wait).await;
    }
}

impl Random for Services {
    fn next_u64(&self) -> u64 {
        self.0.world.state().chance.bits()
    }
}

impl Process {
    /// The true time at which its clock showed this time.
    pub(super) fn to_true(&self, local: Timestamp) -> Timestamp {
        Timestamp::from_millis(local.as_millis() - self.skew_ms)
    }
}
