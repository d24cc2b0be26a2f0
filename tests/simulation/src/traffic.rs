//! The worlds of traffic control: their load, their destinations and their settings.
//!
//! Everything here has its own generator, so that the draws of the other worlds stay the same.

use std::time::Duration;

use shared::queue::{MAX_BATCH, MAX_RECEIVES};

use crate::{
    Burst,
    chance::Chance,
    destination::Reaction,
    plan::{Kind, LIMITED_HOST, Plan, Traffic},
    state::State,
};

impl Plan {
    /// The plan of a burst.
    pub(crate) fn of_burst(burst: &Burst) -> Self {
        Self {
            webhooks: burst.webhooks,
            workers: burst.workers,
            busy_s: 1,
            faults_end_s: 1,
            max_defer: Duration::from_secs(24 * 3600),
            host_concurrency: MAX_BATCH,
            max_receives: MAX_RECEIVES,
            traffic: Some(Traffic::Throttled {
                per_second: burst.per_second,
                retry_after_s: Some(1),
            }),
            ..Self::default()
        }
    }

    /// Adds what the worlds of traffic control have.
    pub(crate) fn add_traffic(&mut self, kind: Kind, seed: u64) {
        let mut chance = Chance::new(seed ^ 0x7472_6166_6669_6373);
        match kind {
            Kind::Limited => {
                let limits = ["1/1s", "2/1s", "5/1s", "30/60s"];
                let Ok(limit) = chance.pick(&limits).parse() else {
                    unreachable!("the rates are valid")
                };
                self.traffic = Some(Traffic::Limited(limit));
                self.webhooks = 30 + chance.below(60);
                self.busy_s = 5 + chance.below(30);
                // A stopped queue makes webhooks late for their slots.
                if chance.happens(0.5) {
                    let from = chance.below(self.busy_s);
                    self.stopped = Some((from, from + 30 + chance.below(120)));
                }
            }
            Kind::Throttled => {
                let per_second = chance.pick(&[1, 2, 5]);
                let retry_after_s = chance.pick(&[Some(1), Some(1), Some(3), Some(20), None]);
                self.traffic = Some(Traffic::Throttled { per_second, retry_after_s });
                self.webhooks = 20 + chance.below(40);
                self.busy_s = 1 + chance.below(20);
            }
            Kind::SharedHosts => {
                self.traffic = Some(Traffic::SharedHosts);
                self.webhooks = 40 + chance.below(60);
                self.busy_s = 60 + chance.below(600);
            }
            _ => return,
        }
        self.workers = 4 + chance.below(5) as u32;
        self.varied = chance.happens(0.3);
        self.flaps = false;
        self.faults_end_s = self.busy_s + 60 + chance.below(300);
        if let Some((_, until)) = self.stopped {
            self.faults_end_s = self.faults_end_s.max(until);
        }
        if chance.happens(0.5) {
            return;
        }
        if chance.happens(0.5) {
            self.death = chance.pick(&[0.001, 0.005, 0.02]);
        }
        if chance.happens(0.5) {
            (self.doubled, self.late) = (0.2, 0.2);
            self.lost = chance.pick(&[0.0, 0.05]);
        }
        if chance.happens(0.3) {
            let rate = chance.pick(&[0.01, 0.05]);
            (self.store_before, self.store_after) = (rate, rate);
        }
    }

    /// Whether every call of the store succeeds, and soon. A worker that cannot read a target makes
    /// its attempt.
    pub(crate) fn has_sound_store(&self) -> bool {
        self.store_before == 0.0
            && self.store_after == 0.0
            && self.stall == 0.0
            && self.outage.is_none()
    }
}

impl Traffic {
    /// The URL of a new webhook.
    pub(crate) fn draw_url(self, chance: &mut Chance) -> String {
        match self {
            Self::Limited(_) => format!("https://{LIMITED_HOST}/hook"),
            Self::Throttled { .. } => "https://throttled.example/hook".to_owned(),
            Self::SharedHosts => {
                let path = match chance.below(8) {
                    0..3 => "well".to_owned(),
                    3..5 => format!("broken/{}", chance.below(8)),
                    5 => "broken/0".to_owned(),
                    6 => "flaps".to_owned(),
                    _ => "busy".to_owned(),
                };
                format!("https://shared.example/{path}")
            }
        }
    }

    /// The reaction of the destination to a request now.
    pub(crate) fn react(self, state: &mut State, url: &str) -> Reaction {
        let age_s = state.started.elapsed().as_secs();
        match self {
            Self::Throttled { per_second, retry_after_s } => {
                let (second, taken) = &mut state.destinations.taken;
                if *second != age_s {
                    (*second, *taken) = (age_s, 0);
                }
                if *taken >= per_second {
                    return Reaction::Responds(429, retry_after_s);
                }
                *taken += 1;
                Reaction::Responds(200, None)
            }
            Self::SharedHosts if url.contains("/broken/") => {
                Reaction::Responds(state.chance.pick(&[500, 502, 503]), None)
            }
            Self::SharedHosts if url.ends_with("/flaps") && (age_s / 60) % 2 == 1 => {
                Reaction::Responds(500, state.chance.pick(&[None, Some(40)]))
            }
            Self::SharedHosts if url.ends_with("/busy") => state.chance.pick(&[
                Reaction::Responds(200, None),
                Reaction::Responds(200, None),
                Reaction::Responds(429, None),
                Reaction::Responds(429, Some(2)),
                Reaction::Responds(503, Some(30)),
                Reaction::Responds(429, Some(200)),
            ]),
            Self::Limited(_) | Self::SharedHosts => Reaction::Responds(200, None),
        }
    }
}

/// Whether the path of this URL always works, on a host with paths that do not.
pub(crate) fn is_healthy_path(url: &str) -> bool {
    url == "https://shared.example/well"
}
