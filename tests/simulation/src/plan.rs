//! The plan of a world: its load and the rates of its faults, drawn from the seed.

use std::time::Duration;

use shared::traffic::rate_limit::RateLimit;

use crate::{application_load::Applications, chance::Chance};

/// The host with a configured rate.
pub(crate) const LIMITED_HOST: &str = "limited.example";

/// The kinds of worlds, by their faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No faults.
    Calm,
    /// Processes die at any await.
    Deaths,
    /// Store calls fail, before or after they take effect.
    StoreFaults,
    /// The store is down for minutes.
    StoreOutage,
    /// Messages are duplicated, delayed, reordered and lost. Sends fail.
    QueueFaults,
    /// Ticks of the schedule are missed, doubled, and overlap.
    TickFaults,
    /// Clocks differ by seconds.
    Skew,
    /// Workers stall for longer than their leases.
    Stalls,
    /// Destinations respond differently, and are sometimes down.
    Flaps,
    /// Operators delete, resend, redrive and clean up.
    Operators,
    /// The queue is not polled for hours.
    Backlog,
    /// `deliver` dies in each invocation for hours, mostly at once.
    Crashing,
    /// A newer version wrote records and messages that this version cannot read. Some messages are
    /// unreadable in all versions.
    Versions,
    /// The sweep's clock is ahead for a while, by minutes or by more than a month.
    Clocks,
    /// A host has a configured rate.
    Limited,
    /// A destination takes a number of requests per second and refuses the others.
    Throttled,
    /// One host has paths that work and paths that do not.
    SharedHosts,
    /// Messages go to applications with several endpoints.
    Fanout,
    /// Endpoints are created, changed, disabled, enabled and deleted meanwhile.
    OnOff,
    /// Applications have keys, and try the routes of others.
    Tenants,
    /// All faults.
    Everything,
}

impl Kind {
    /// All kinds, in the order in which seeds use them.
    pub const ALL: [Self; 21] = [
        Self::Everything,
        Self::Calm,
        Self::Deaths,
        Self::StoreFaults,
        Self::StoreOutage,
        Self::QueueFaults,
        Self::TickFaults,
        Self::Skew,
        Self::Stalls,
        Self::Flaps,
        Self::Operators,
        Self::Backlog,
        Self::Crashing,
        Self::Versions,
        Self::Clocks,
        Self::Limited,
        Self::Throttled,
        Self::SharedHosts,
        Self::Fanout,
        Self::OnOff,
        Self::Tenants,
    ];

    /// The number of kinds without traffic control and applications, which are the first of all.
    const WITHOUT_TRAFFIC: usize = 15;

    /// The name, as in `--world`.
    pub fn name(self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind that a seed determines. One in eight seeds has a world of traffic control, and one
    /// in eight a world of applications. Nearly half of all seeds have all faults.
    pub fn of_seed(seed: u64) -> Self {
        match seed % 16 {
            12 => [Self::Fanout, Self::OnOff][(seed / 16 % 2) as usize],
            15 => [Self::Fanout, Self::OnOff, Self::Tenants][(seed / 16 % 3) as usize],
            1 | 5 => Self::ALL[Self::WITHOUT_TRAFFIC + ((seed / 16 + seed % 16) % 3) as usize],
            even if even.is_multiple_of(2) => Self::Everything,
            _ => Self::ALL[(seed / 2) as usize % Self::WITHOUT_TRAFFIC],
        }
    }
}

/// The concurrency limit of a destination in the world of a seed. By default it is a batch, so that
/// no webhook is deferred for it. In one of eight worlds, for odd and even seeds, it is less than
/// most batches. It is not drawn, so that the other draws stay the same.
fn host_concurrency(seed: u64) -> usize {
    if matches!(seed % 16, 13 | 14) { 1 } else { shared::queue::MAX_BATCH }
}

/// The maximum number of receives in the world of a seed: the default, or the minimum of a
/// user-managed queue, so that webhooks are rescued repeatedly within hours. It is not drawn
/// either.
fn max_receives(seed: u64) -> u32 {
    if seed.is_multiple_of(3) { shared::queue::MAX_RECEIVES } else { 5 }
}

/// A clock that is wrong for a while.
#[derive(Clone, Copy, Debug)]
pub struct WrongClock {
    /// The start and the end, in seconds.
    pub span: (u64, u64),
    /// How far it is ahead.
    pub ahead_ms: i64,
}

/// The wrong clock of the sweep in the world of a seed. It has its own generator, so that the other
/// draws stay the same.
pub(crate) fn wrong_clock(kind: Kind, seed: u64, busy_s: u64) -> Option<WrongClock> {
    let mut chance = Chance::new(seed ^ 0x0063_6c6f_636b);
    if kind != Kind::Clocks && !(kind == Kind::Everything && chance.happens(0.2)) {
        return None;
    }
    // The schedule ticks at whole minutes.
    let tick = 60 * (1 + chance.below(busy_s / 60 + 15));
    let from = tick - chance.below(20);
    let (minute_s, day_s) = (60, 24 * 3600);
    let (ahead_s, until) = match chance.below(3) {
        0 => (minute_s * (2 + chance.below(180)), tick + 1 + chance.below(1200)),
        1 => (2 * 3600, from + 20),
        // Too short for two sweeps that run a minute apart.
        _ => (40 * day_s, from + 20 + chance.below(20)),
    };
    Some(WrongClock { span: (from, until), ahead_ms: 1000 * ahead_s as i64 })
}

/// The faults of a world, as probabilities, and its load.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The process dies at a step.
    pub death: f64,
    /// A store call fails without an effect.
    pub store_before: f64,
    /// A store call fails, and takes effect now or later.
    pub store_after: f64,
    /// A call takes up to 40 s.
    pub stall: f64,
    /// The outage of the store: its start and its end, in seconds.
    pub outage: Option<(u64, u64)>,
    /// A message is duplicated.
    pub doubled: f64,
    /// A message is delayed.
    pub late: f64,
    /// A message is lost.
    pub lost: f64,
    /// Whether messages are reordered.
    pub reordered: bool,
    /// A queue call fails, with or without an effect.
    pub queue_fault: f64,
    /// A tick is missed.
    pub tick_missed: f64,
    /// A tick is doubled.
    pub tick_doubled: f64,
    /// The maximum error of a clock, in milliseconds.
    pub skew_ms: i64,
    /// Whether destinations fail.
    pub flaps: bool,
    /// The number of requests of operators.
    pub operations: u64,
    /// The time in which the queue is not polled: its start and its end, in seconds.
    pub stopped: Option<(u64, u64)>,
    /// The time in which `deliver` dies in each invocation: its start and its end, in seconds. Most
    /// invocations die at once, as while the function is throttled, and some at a later step.
    pub crashing: Option<(u64, u64)>,
    /// The number of callers.
    pub webhooks: u64,
    /// Whether callers use idempotency keys, batches, schedules and retry policies.
    pub varied: bool,
    /// The time in which callers send requests, in seconds.
    pub busy_s: u64,
    /// The end of the faults, in seconds.
    pub faults_end_s: u64,
    /// The number of messages that no version can parse.
    pub unreadable_messages: u64,
    /// The number of messages of a newer version, and of webhooks that it writes to. The newer
    /// version processes them at the end of the faults.
    pub newer: u64,
    /// The limit of all deferrals of a webhook.
    pub max_defer: Duration,
    /// The maximum number of concurrent attempts of a process at a destination.
    pub host_concurrency: usize,
    /// The number of receives after which a message moves to the dead-letter queue.
    pub max_receives: u32,
    /// The error of the sweep's clock.
    pub wrong_clock: Option<WrongClock>,
    /// How destinations restrict requests.
    pub traffic: Option<Traffic>,
    /// The load of applications.
    pub applications: Option<Applications>,
    /// The maximum number of concurrent processes of each function.
    pub workers: u32,
}

/// How destinations restrict requests.
#[derive(Clone, Copy, Debug)]
pub enum Traffic {
    /// The host has a configured rate, and the destination takes everything.
    Limited(RateLimit),
    /// The destination takes this many requests in each second. It answers the others with 429 and
    /// this `retry-after`.
    Throttled {
        /// Requests per second.
        per_second: u64,
        /// In seconds.
        retry_after_s: Option<u64>,
    },
    /// One host has paths that work, paths that fail, one that fails now and then, and one that
    /// refuses requests.
    SharedHosts,
}

impl Plan {
    /// The plan of a world.
    pub fn of(kind: Kind, chance: &mut Chance) -> Self {
        let busy_s = 60 + chance.below(1200);
        let mut plan = Self {
            webhooks: 2 + chance.below(7),
            workers: 4,
            varied: true,
            busy_s,
            faults_end_s: busy_s + 60 + chance.below(1200),
            max_defer: Duration::from_secs([300, 1800, 24 * 3600][chance.below(3) as usize]),
            ..Self::default()
        };
        let all = kind == Kind::Everything;
        // A world with all kinds of faults has each kind with some probability, so that frequent
        // faults do not hide rare ones.
        let mut has = |fault: Kind| kind == fault || (all && chance.happens(0.4));
        let kinds = [
            Kind::Deaths,
            Kind::StoreFaults,
            Kind::QueueFaults,
            Kind::TickFaults,
            Kind::Skew,
            Kind::Stalls,
        ];
        let [deaths, store, queue, ticks, skew, stalls] = kinds.map(&mut has);
        let [flaps, operators, versions] =
            [Kind::Flaps, Kind::Operators, Kind::Versions].map(&mut has);
        let mut rate = |has_fault: bool, rates: [f64; 3]| {
            if has_fault { rates[chance.below(3) as usize] } else { 0.0 }
        };
        plan.death = rate(deaths, [0.005, 0.02, 0.06]);
        plan.store_before = rate(store, [0.01, 0.05, 0.2]);
        plan.store_after = rate(store, [0.01, 0.05, 0.2]);
        plan.doubled = rate(queue, [0.05, 0.2, 0.5]);
        plan.late = rate(queue, [0.05, 0.2, 0.5]);
        plan.lost = rate(queue, [0.0, 0.1, 0.4]);
        plan.queue_fault = rate(queue, [0.01, 0.1, 0.3]);
        plan.tick_missed = rate(ticks, [0.1, 0.3, 0.7]);
        plan.tick_doubled = rate(ticks, [0.1, 0.3, 0.7]);
        plan.stall = rate(stalls, [0.01, 0.05, 0.1]);
        plan.reordered = queue;
        if stalls {
            // A second worker gets the message while the first one stalls.
            (plan.doubled, plan.late) = (plan.doubled.max(0.5), plan.late.max(0.5));
        }
        plan.skew_ms = if skew { 2500 } else { 0 };
        plan.flaps = flaps
            || kind == Kind::Stalls
            || kind == Kind::Operators
            || (!all && chance.happens(0.2));
        if kind == Kind::Clocks {
            plan.flaps = true;
            plan.lost = chance.pick(&[0.0, 0.2, 0.5]);
        }
        if versions {
            plan.unreadable_messages = chance.below(4);
            // This version cannot find a lost message whose webhook it cannot read.
            plan.newer = if plan.lost > 0.0 { 0 } else { chance.below(5) };
        }
        plan.operations = if operators { 2 + chance.below(10) } else { 0 };
        plan.add_outages(kind, chance);
        if kind == Kind::Calm {
            plan.flaps = false;
            plan.varied = chance.happens(0.5);
        }
        plan
    }

    /// Whether Posthaste has no faults, except in its schedule and clocks.
    pub fn is_mild(&self) -> bool {
        let parked = self.applications.as_ref().map_or(0.0, |load| load.parked);
        let is_prompt = self.doubled == 0.0 && self.late == 0.0 && parked == 0.0;
        is_prompt && self.every_write_is_counted()
    }

    /// Whether nothing can come between a write and its count. Messages may come twice or late.
    pub(crate) fn every_write_is_counted(&self) -> bool {
        let rates = [
            self.death,
            self.store_before,
            self.store_after,
            self.stall,
            self.lost,
            self.queue_fault,
        ];
        let outages = [self.outage, self.stopped, self.crashing];
        rates.iter().all(|rate| *rate == 0.0)
            && self.newer == 0
            && outages.iter().all(Option::is_none)
    }

    /// The limit of virtual time between the end of the faults and the end of all work. A webhook
    /// can correctly wait for one day of deferrals and a grace period of six hours. Endpoints have
    /// waits of days between attempts.
    pub(super) fn max_settle_time(&self) -> Duration {
        let days = if self.has_applications() { 12 + 40 * u64::from(self.days() > 0) } else { 3 };
        Duration::from_secs((days + self.days()) * 24 * 3600)
    }

    /// Adds the settings that depend on the seed and are not drawn.
    pub(super) fn with_seed(mut self, kind: Kind, seed: u64) -> Self {
        self.host_concurrency = host_concurrency(seed);
        self.max_receives = max_receives(seed);
        self.wrong_clock = wrong_clock(kind, seed, self.busy_s);
        if let Some(wrong) = self.wrong_clock {
            self.faults_end_s = self.faults_end_s.max(wrong.span.1);
        }
        self.add_traffic(kind, seed);
        self.add_applications(kind, seed);
        self
    }

    fn add_outages(&mut self, kind: Kind, chance: &mut Chance) {
        let all = kind == Kind::Everything;
        if kind == Kind::StoreOutage || (all && chance.happens(0.1)) {
            let from = chance.below(self.busy_s);
            self.outage = Some((from, from + 30 + chance.below(1200)));
        }
        if kind == Kind::Backlog {
            let from = chance.below(self.busy_s);
            self.webhooks = 20 + chance.below(60);
            self.stopped = Some((from, from + 3600 * (1 + chance.below(5))));
        } else if kind == Kind::Crashing {
            self.crashing = Some((0, 3600 * (2 + chance.below(8))));
            self.webhooks = 1 + chance.below(3);
        }
        for (_, until) in [self.outage, self.stopped, self.crashing].into_iter().flatten() {
            self.faults_end_s = self.faults_end_s.max(until);
        }
    }
}
