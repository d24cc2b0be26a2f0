//! The worlds of applications: their load, and the callers of the routes below `/applications`.
//!
//! | module | contents |
//! |---|---|
//! | `publishers` | callers that publish messages, and the checks of their answers |
//! | `operators` | creates applications and endpoints, changes them, deletes and resends |
//! | `tenants` | callers with application keys, and an attacker who can write to the store |
//!
//! Everything here has its own generator until the world runs, so that the draws of the other
//! worlds stay the same.

mod operators;
mod publishers;
mod tenants;

use std::{sync::Arc, time::Duration};

use shared::applications::id::ApplicationId;

use crate::{
    application_load::{Applications, DAY_S, HOUR_S},
    callers::Api,
    chance::Chance,
    plan::{Kind, Plan, wrong_clock},
    world::World,
};

impl Plan {
    /// Adds what the worlds of applications have.
    pub(crate) fn add_applications(&mut self, kind: Kind, seed: u64) {
        let mut chance = Chance::new(seed ^ 0x6170_706c_6963_6174);
        let mut load = Applications {
            count: 1 + chance.below(2),
            endpoints: chance.pick(&[1, 2, 3, 3, 3, 4, 5, 12]),
            publishers: 2 + chance.below(6),
            ..Applications::default()
        };
        match kind {
            Kind::Fanout => {
                load.operations = chance.pick(&[0, 2, 6]);
                if chance.happens(0.4) {
                    load.add_months(&mut chance);
                }
            }
            Kind::OnOff => load.changes = 2 + chance.below(10),
            Kind::Tenants => {
                load.count = 2 + chance.below(2);
                load.has_tenants = true;
                load.operations = 4 + chance.below(8);
            }
            _ => return,
        }
        self.busy_s = 60 + chance.below(900);
        self.faults_end_s = self.busy_s + 60 + chance.below(1200);
        self.webhooks = chance.below(3);
        self.varied = true;
        self.flaps = chance.happens(0.3);
        self.max_defer = Duration::from_secs(chance.pick(&[1800, DAY_S]));
        if chance.happens(0.75) {
            self.add_faults(&mut chance);
        }
        if kind != Kind::Tenants && chance.happens(0.2) {
            self.wrong_clock = wrong_clock(Kind::Clocks, seed, self.busy_s);
        }
        if let Some(wrong) = self.wrong_clock {
            self.faults_end_s = self.faults_end_s.max(wrong.span.1);
        }
        self.applications = Some(load);
    }

    /// Draws the faults as a world with all kinds of them does.
    fn add_faults(&mut self, chance: &mut Chance) {
        let mut rates = |values: &[f64; 3]| -> [f64; 2] {
            let has_fault = chance.happens(0.4);
            [(); 2].map(|()| if has_fault { chance.pick(values) } else { 0.0 })
        };
        [self.death, self.lost] = [rates(&[0.005, 0.02, 0.06])[0], rates(&[0.05, 0.2, 0.5])[0]];
        [self.store_before, self.store_after] = rates(&[0.01, 0.05, 0.2]);
        [self.doubled, self.late] = rates(&[0.05, 0.2, 0.5]);
        self.reordered = self.late > 0.0;
        [self.tick_missed, self.tick_doubled] = rates(&[0.1, 0.3, 0.7]);
        [self.queue_fault, _] = rates(&[0.02, 0.1, 0.3]);
        [self.stall, _] = rates(&[0.01, 0.05, 0.1]);
        self.skew_ms = if chance.happens(0.3) { 2500 } else { 0 };
        if chance.happens(0.1) {
            let from = chance.below(self.busy_s);
            self.outage = Some((from, from + 30 + chance.below(1200)));
        }
        if chance.happens(0.1) {
            let from = chance.below(self.busy_s);
            self.stopped = Some((from, from + HOUR_S * (1 + chance.below(5))));
        }
        for (_, until) in [self.outage, self.stopped].into_iter().flatten() {
            self.faults_end_s = self.faults_end_s.max(until);
        }
    }

    /// Whether the world has applications.
    pub(crate) const fn has_applications(&self) -> bool {
        self.applications.is_some()
    }

    /// Whether ten messages can have more than 100 deliveries.
    pub(crate) fn has_many_endpoints(&self) -> bool {
        self.applications.as_ref().is_some_and(|load| load.endpoints > 10)
    }

    /// Whether `sweep` does not run at this age.
    pub(crate) fn is_unswept(&self, age_s: u64) -> bool {
        let unswept = self.applications.as_ref().and_then(|load| load.unswept);
        unswept.is_some_and(|(from, until)| (from..until).contains(&age_s))
    }

    /// How long a delivered webhook is kept, if not for the default time.
    pub(crate) fn retention(&self) -> Option<Duration> {
        let retention = self.applications.as_ref().map(|load| load.retention);
        retention.filter(|retention| !retention.is_zero())
    }

    /// For how many days the world lasts at least.
    pub(crate) fn days(&self) -> u64 {
        self.applications.as_ref().map_or(0, |load| load.days)
    }
}

/// The application with this number.
fn application_id(number: u64) -> ApplicationId {
    let Ok(id) = format!("customer-{number}").parse() else { unreachable!("the id is valid") };
    id
}

/// Starts the callers.
pub(crate) fn start(world: &Arc<World>, api: &Api) {
    let Some(load) = world.plan.applications.clone() else { return };
    operators::start(world, api, &load);
    publishers::start(world, api, &load);
    if load.has_tenants {
        tenants::start(world, api, &load);
    }
}
