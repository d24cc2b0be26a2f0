//! What a world is like: how much of what goes wrong in it, drawn from the seed.

use std::time::Duration;

use crate::chance::Chance;

/// The worlds, by what goes wrong in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing goes wrong.
    Calm,
    /// Functions die, at any await.
    Deaths,
    /// Calls of the store fail, before or after they took effect.
    StoreFaults,
    /// The store is down for minutes.
    StoreOutage,
    /// Messages are doubled, late, out of order, lost; sends fail.
    QueueFaults,
    /// Ticks of the schedule are missed, doubled, overlap.
    TickFaults,
    /// Clocks are apart by seconds.
    Skew,
    /// Workers stall for longer than their leases.
    Stalls,
    /// Destinations answer this and that, go down and come back.
    Flaps,
    /// Operators delete, resend, redrive and clean up.
    Operators,
    /// The queue stands still for hours.
    Backlog,
    /// `deliver` dies, mostly at once, for hours.
    Crashing,
    /// A newer version was at work: records and messages that this one cannot read, and messages
    /// that are nobody's.
    Versions,
    /// The sweep's clock is ahead for a while, by minutes or by more than a month.
    Clocks,
    /// All of it.
    Everything,
}

impl Kind {
    /// All of them, in the order in which seeds go through them.
    pub const ALL: [Self; 15] = [
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
    ];

    /// The name that `--world` takes.
    pub fn name(self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }

    /// The world with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The world that a seed has if none is asked for. Half of all seeds see everything.
    pub fn of_seed(seed: u64) -> Self {
        if seed.is_multiple_of(2) {
            Self::Everything
        } else {
            Self::ALL[(seed / 2) as usize % Self::ALL.len()]
        }
    }
}

/// Attempts at a time at one destination that a world of this seed allows: a batch, as by default,
/// so that nobody is ever put off for it; or in one of eight worlds, odd and even seeds alike, so
/// few that most batches have more. Not drawn, so that the other draws are what they were.
fn host_concurrency(seed: u64) -> usize {
    if matches!(seed % 16, 13 | 14) { 1 } else { shared::queue::MAX_BATCH }
}

/// Receives until the queue gives up, in a world of this seed: as many as by default, or as few as
/// a queue of one's own may have, so that the queue gives up on a webhook again and again within
/// hours. Not drawn either.
fn max_receives(seed: u64) -> u32 {
    if seed.is_multiple_of(3) { shared::queue::MAX_RECEIVES } else { 5 }
}

/// A clock that is wrong for a while.
#[derive(Clone, Copy, Debug)]
pub struct WrongClock {
    /// From when until when, in seconds.
    pub span: (u64, u64),
    /// By how much it is ahead.
    pub ahead_ms: i64,
}

/// The sweep's clock in a world of this seed. Not drawn from the world's chance, so that the other
/// draws are what they were.
fn wrong_clock(kind: Kind, seed: u64, busy_s: u64) -> Option<WrongClock> {
    let mut chance = Chance::new(seed ^ 0x0063_6c6f_636b);
    if kind != Kind::Clocks && !(kind == Kind::Everything && chance.happens(0.2)) {
        return None;
    }
    // The schedule's ticks are whole minutes.
    let tick = 60 * (1 + chance.below(busy_s / 60 + 15));
    let from = tick - chance.below(20);
    let (minute_s, day_s) = (60, 24 * 3600);
    let (ahead_s, until) = match chance.below(3) {
        0 => (minute_s * (2 + chance.below(180)), tick + 1 + chance.below(1200)),
        1 => (2 * 3600, from + 20),
        // Not so long that two runs a minute apart could both be within it.
        _ => (40 * day_s, from + 20 + chance.below(20)),
    };
    Some(WrongClock { span: (from, until), ahead_ms: 1000 * ahead_s as i64 })
}

/// How often things go wrong, each a probability, and how much there is to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// At each step of a function: it dies there.
    pub death: f64,
    /// A call of the store fails and has done nothing.
    pub store_before: f64,
    /// A call of the store fails, and has taken effect or will.
    pub store_after: f64,
    /// A call takes long: up to 40 s.
    pub stall: f64,
    /// The store does not answer from when until when, in seconds.
    pub outage: Option<(u64, u64)>,
    /// A message comes twice.
    pub doubled: f64,
    /// A message comes late.
    pub late: f64,
    /// A message is lost.
    pub lost: f64,
    /// Messages come in any order.
    pub reordered: bool,
    /// A call of the queue fails, done or not.
    pub queue_fault: f64,
    /// A tick is missed.
    pub tick_missed: f64,
    /// A tick comes twice.
    pub tick_doubled: f64,
    /// The most that a clock is off, in milliseconds.
    pub skew_ms: i64,
    /// Destinations misbehave.
    pub flaps: bool,
    /// Calls of operators.
    pub operations: u64,
    /// Nobody reads the queue from when until when, in seconds.
    pub stopped: Option<(u64, u64)>,
    /// Each call of `deliver` dies from when until when, in seconds: most at once, as while it is
    /// throttled, some at a later step.
    pub crashing: Option<(u64, u64)>,
    /// Webhooks that callers ask for.
    pub webhooks: u64,
    /// Callers ask for all kinds of webhooks, under keys, in batches, scheduled.
    pub varied: bool,
    /// The time over which callers and operators call, in seconds.
    pub busy_s: u64,
    /// When the faults end, in seconds.
    pub faults_end_s: u64,
    /// Messages that nobody can read.
    pub strays: u64,
    /// Messages of a newer version, and webhooks that it writes to. It takes care of them when the
    /// faults end.
    pub newer: u64,
    /// How long a webhook may be deferred.
    pub max_defer: Duration,
    /// Attempts at a time that a destination gets of a process.
    pub host_concurrency: usize,
    /// Receives until the queue gives up on a message.
    pub max_receives: u32,
    /// The sweep's clock.
    pub wrong_clock: Option<WrongClock>,
}

impl Plan {
    /// The plan of a world.
    pub fn of(kind: Kind, chance: &mut Chance) -> Self {
        let busy_s = 60 + chance.below(1200);
        let mut plan = Self {
            webhooks: 2 + chance.below(7),
            varied: true,
            busy_s,
            faults_end_s: busy_s + 60 + chance.below(1200),
            max_defer: Duration::from_secs([300, 1800, 24 * 3600][chance.below(3) as usize]),
            ..Self::default()
        };
        let all = kind == Kind::Everything;
        // In a world of everything, each kind of fault is there or not, so that rare ones are not
        // always drowned by others.
        let mut has = |this: Kind| kind == this || (all && chance.happens(0.4));
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
        let mut rate = |there: bool, rates: [f64; 3]| {
            if there { rates[chance.below(3) as usize] } else { 0.0 }
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
            // Whoever comes second while the first one stalls.
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
            plan.strays = chance.below(4);
            // What is lost while nobody can read its webhook is the newer version's to find.
            plan.newer = if plan.lost > 0.0 { 0 } else { chance.below(5) };
        }
        plan.operations = if operators { 2 + chance.below(10) } else { 0 };
        plan.long_troubles(kind, chance);
        if kind == Kind::Calm {
            plan.flaps = false;
            plan.varied = chance.happens(0.5);
        }
        plan
    }

    /// Whether nothing goes wrong on our side, but for the schedule and the clocks.
    pub fn is_mild(&self) -> bool {
        let rates = [
            self.death,
            self.store_before,
            self.store_after,
            self.stall,
            self.doubled,
            self.late,
            self.lost,
            self.queue_fault,
        ];
        let troubles = [self.outage, self.stopped, self.crashing];
        rates.iter().all(|rate| *rate == 0.0)
            && self.newer == 0
            && troubles.iter().all(Option::is_none)
    }

    /// The same, with what a seed has besides.
    pub(super) fn with(mut self, kind: Kind, seed: u64) -> Self {
        self.host_concurrency = host_concurrency(seed);
        self.max_receives = max_receives(seed);
        self.wrong_clock = wrong_clock(kind, seed, self.busy_s);
        if let Some(wrong) = self.wrong_clock {
            self.faults_end_s = self.faults_end_s.max(wrong.span.1);
        }
        self
    }

    fn long_troubles(&mut self, kind: Kind, chance: &mut Chance) {
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
