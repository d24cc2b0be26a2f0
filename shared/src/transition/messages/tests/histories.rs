//! Random histories of one message, its deliveries and their keys, with expiry, late looks, an
//! audit, rescues, resends, deletions and added endpoints. The model knows the truth, which the
//! store forgets: whether a delivery has finished.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::applications::standing::FanOut;

/// A look waits at most this long: 4 days in the queue and 14 in the dead-letter queue.
const LOOK_LIVES: Duration = Duration::from_secs(18 * 24 * 3600);

#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// The worker dies after the claim.
    Crash,
    Delivered,
    Retry,
    Gone,
}

#[derive(Clone, Debug)]
enum Event {
    Pass(Duration),
    Look(u8, Outcome),
    LookAtMessage,
    Requeue,
    Audit,
    /// The queue gives up on a look at the message.
    RescueMessage,
    /// The queue gives up on a look at the delivery.
    Rescue(u8),
    Archive(u8),
    Resend(u8),
    DeleteDelivery(u8),
    StartDeleting,
    Extend,
}

/// What occupies a key.
#[derive(Clone, Debug)]
enum Key {
    Record(Box<Webhook>),
    Marker(Timestamp),
}

struct World {
    rules: Rules,
    now: Timestamp,
    /// `None`: deleted or expired.
    message: Option<PublishedMessage>,
    keys: BTreeMap<EndpointId, Key>,
    audited_until: Option<Timestamp>,
    /// When the newest look at a delivery was sent.
    looks: BTreeMap<EndpointId, Timestamp>,
    message_look: Option<Timestamp>,
    /// The deliveries that finished or were deleted, and were not resent since.
    finished: BTreeSet<EndpointId>,
    /// Whether functions can be down for longer than a day.
    outages: bool,
}

impl World {
    fn publish(endpoints: u8, retention: Duration, outages: bool, looks_lost: bool) -> Self {
        let mut rules = rules();
        rules.limits.retention = retention;
        let message = rules.publish(new(endpoints), NOW);
        let looks = message.plan.iter().map(|entry| (entry.endpoint, NOW));
        let looks = if looks_lost { BTreeMap::new() } else { looks.collect() };
        Self {
            rules,
            now: NOW,
            message: Some(message),
            keys: BTreeMap::new(),
            audited_until: None,
            looks,
            message_look: None,
            finished: BTreeSet::new(),
            outages,
        }
    }

    /// The endpoint number `n` of the plan.
    fn endpoint(&self, n: u8) -> Option<EndpointId> {
        let plan = &self.message.as_ref()?.plan;
        plan.get(usize::from(n) % plan.len().max(1)).map(|entry| entry.endpoint)
    }

    fn found(&self, endpoint: EndpointId) -> Option<Found> {
        match self.keys.get(&endpoint)? {
            Key::Marker(until) => (self.now < *until).then_some(Found::Marker),
            Key::Record(webhook) => match webhook.expires_at {
                Some(at) if occupied_until(at) <= self.now => None,
                Some(at) if at <= self.now => Some(Found::Expired),
                _ => Some(Found::Record(webhook.clone())),
            },
        }
    }

    fn standing(&self) -> Option<Standing> {
        let message = self.message.clone()?;
        let found = message
            .plan
            .iter()
            .filter_map(|entry| self.found(entry.endpoint).map(|found| (entry.endpoint, found)));
        let found = found.collect();
        Some(Standing { message, found, audited_until: self.audited_until })
    }

    fn write_message(&mut self, next: PublishedMessage) {
        let before = self.message.as_ref().unwrap();
        assert_eq!((next.revision, next.updated_at), (before.revision + 1, self.now));
        assert!(next.plan.starts_with(&before.plan), "the plan never shrinks");
        assert!(next.settled >= before.settled && next.settled as usize <= next.plan.len());
        assert!(next.deleting || !before.deleting);
        assert_eq!(next.is_due(), next.expires_at.is_none(), "it lasts while it is due");
        assert!(next.is_due() || !next.deleting, "a deletion is not forgotten");
        for entry in &next.plan[..next.settled as usize] {
            assert!(self.is_accounted_for(entry.endpoint), "{entry:?} is settled");
        }
        let json = serde_json::to_string(&next).unwrap();
        assert_eq!(serde_json::from_str::<PublishedMessage>(&json).unwrap(), next);
        self.message = Some(next);
    }

    /// The truth.
    fn is_accounted_for(&self, endpoint: EndpointId) -> bool {
        let holds = |key: &Key| match key {
            Key::Record(webhook) => webhook.due_at.is_some(),
            Key::Marker(_) => true,
        };
        self.finished.contains(&endpoint) || self.keys.get(&endpoint).is_some_and(holds)
    }

    fn write_delivery(&mut self, next: Webhook) {
        let endpoint = next.id.endpoint.unwrap();
        let message = self.message.as_ref().unwrap();
        if let Some(longer) = self.rules.prolong(message, &next, self.now) {
            self.write_message(longer);
        }
        let resent = !next.status.is_finished() && next.history.last().is_some_and(is_resend);
        if next.status.is_finished() {
            self.finished.insert(endpoint);
        } else if resent {
            self.finished.remove(&endpoint);
        }
        assert!(
            next.status.is_finished() || !self.finished.contains(&endpoint),
            "a delivery that finished never starts again"
        );
        self.keys.insert(endpoint, Key::Record(Box::new(next)));
    }

    /// A look at a delivery, if one is in the queue or the delivery is due.
    fn look(&mut self, endpoint: EndpointId, outcome: Outcome) {
        let Some(message) = self.message.clone() else { return };
        let sent = self.looks.get(&endpoint).is_some_and(|at| self.now.since(*at) <= LOOK_LIVES);
        let record = match self.found(endpoint) {
            Some(Found::Record(webhook)) => *webhook,
            Some(_) => return,
            None if !sent => return,
            None => match Rules::unstarted(&message, endpoint, self.now) {
                Unstarted::MayStart(first) => *first,
                Unstarted::TooOld(first) => {
                    if self.outages && self.finished.contains(&endpoint) {
                        // A false dead letter, and no second attempt.
                        return;
                    }
                    assert!(!self.finished.contains(&endpoint), "no false dead letter");
                    let failed = self.rules.abandon(&first, self.now).unwrap();
                    return self.write_delivery(failed);
                }
                _ => return,
            },
        };
        if !sent && record.due_at.is_none_or(|at| at > self.now) {
            return;
        }
        match self.rules.claim(&record, ClaimId(7), self.now) {
            Ok(claimed) => {
                self.write_delivery(claimed.clone());
                let code = match outcome {
                    Outcome::Crash => return,
                    Outcome::Delivered => 200,
                    Outcome::Retry => 503,
                    Outcome::Gone => 410,
                };
                let ended = self.rules.conclude(&claimed, ClaimId(7), &report(code), self.now, 0.5);
                self.write_delivery(ended.unwrap());
            }
            Err(Refusal::Interrupted) => {
                let reason = GiveUp::Interrupted;
                let failed =
                    self.rules.give_up(&record, reason, Function::Deliver, self.now).unwrap();
                self.write_delivery(failed);
            }
            Err(Refusal::NotYet(_)) if record.claim.is_some() => {
                if let Ok(next) = self.rules.retry_interrupted(&record, self.now) {
                    self.write_delivery(next);
                }
            }
            Err(_) => {}
        }
    }

    /// A look at the message, if one is in the queue or the message is due.
    fn look_at_message(&mut self) {
        let Some(standing) = self.standing() else { return };
        let sent = self.message_look.is_some_and(|at| self.now.since(at) <= LOOK_LIVES);
        if !sent && standing.message.due_at.is_none_or(|at| at > self.now) {
            return;
        }
        match standing.fan_out(self.now) {
            FanOut::Delete => {
                for entry in standing.message.plan.clone() {
                    let until = standing.message.marker_until(&entry, self.now);
                    self.keys.insert(entry.endpoint, Key::Marker(until));
                    self.finished.insert(entry.endpoint);
                }
                self.message = None;
            }
            FanOut::Settle => {
                for entry in &standing.message.plan {
                    let endpoint = entry.endpoint;
                    assert!(self.is_accounted_for(endpoint), "{endpoint} does not settle");
                }
                self.write_message(self.rules.settle(&standing, self.now).unwrap());
            }
            FanOut::Send(looks) => {
                assert!(self.rules.settle(&standing, self.now).is_err());
                self.looks.extend(looks.into_iter().map(|endpoint| (endpoint, self.now)));
            }
            FanOut::Early { .. } => panic!("nothing is scheduled"),
        }
    }

    fn audit(&mut self) {
        let Some(standing) = self.standing() else { return };
        if self.now < standing.message.audited_at() {
            return;
        }
        if let Ok(next) = self.rules.audit_message(&standing, self.now) {
            self.write_message(next);
        }
        self.audited_until = Some(standing.message.audited_at());
        let message = self.message.as_ref().unwrap();
        let is_held = |entry: &PlanEntry| self.is_accounted_for(entry.endpoint);
        assert!(message.is_due() || message.plan.iter().all(is_held), "{message:?}");
    }

    fn rescue(&mut self, endpoint: EndpointId) {
        let Some(message) = self.message.clone() else { return };
        let record = match self.found(endpoint) {
            Some(Found::Record(webhook)) => *webhook,
            Some(_) => return,
            None => match Rules::unstarted(&message, endpoint, self.now) {
                Unstarted::MayStart(first) if self.looks.contains_key(&endpoint) => *first,
                _ => return,
            },
        };
        if let Ok(next) = self.rules.rescue(&record, self.now) {
            self.write_delivery(next);
        }
    }

    /// The sweep sends looks, and the workers take them.
    fn upkeep(&mut self, outcome: Outcome) {
        self.audit();
        if self.message.as_ref().is_some_and(|message| message.due_at <= Some(self.now)) {
            self.look_at_message();
        }
        for n in 0..4 {
            if let Some(endpoint) = self.endpoint(n) {
                self.look(endpoint, outcome);
            }
        }
    }

    fn pass(&mut self, wait: Duration, outcome: Outcome) {
        let until = self.now.plus(wait);
        while self.now < until {
            self.now = self.now.plus(DAY / 2).min(until);
            if self.message.as_ref().is_some_and(|message| message.is_expired(self.now)) {
                self.message = None;
            }
            if !self.outages {
                self.upkeep(outcome);
            }
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Pass(wait) => self.pass(wait, Outcome::Retry),
            Event::LookAtMessage => self.look_at_message(),
            Event::Audit => self.audit(),
            Event::Look(n, outcome) => {
                if let Some(endpoint) = self.endpoint(n) {
                    self.look(endpoint, outcome);
                }
            }
            Event::Rescue(n) => {
                if let Some(endpoint) = self.endpoint(n) {
                    self.rescue(endpoint);
                }
            }
            Event::Archive(n) | Event::Resend(n) | Event::DeleteDelivery(n) => {
                if let Some(endpoint) = self.endpoint(n) {
                    self.operate(endpoint, event);
                }
            }
            Event::Requeue | Event::RescueMessage | Event::StartDeleting | Event::Extend => {
                self.change_message(event);
            }
        }
    }

    fn operate(&mut self, endpoint: EndpointId, event: &Event) {
        let Some(Found::Record(webhook)) = self.found(endpoint) else { return };
        let next = match event {
            Event::Archive(_) => self.rules.archive(&webhook, self.now),
            Event::Resend(_) => self.rules.resend(&webhook, self.now),
            _ => {
                let message = self.message.as_ref().unwrap();
                let entry = message.plan[message.place(endpoint).unwrap()];
                let until = message.marker_until(&entry, self.now);
                self.keys.insert(endpoint, Key::Marker(until));
                self.finished.insert(endpoint);
                return;
            }
        };
        if let Ok(next) = next {
            self.write_delivery(next);
        }
    }

    fn change_message(&mut self, event: &Event) {
        let Some(standing) = self.standing() else { return };
        let (rules, message, now) = (&self.rules, &standing.message, self.now);
        let next = match event {
            Event::Requeue => match message.due_at.filter(|at| *at <= now) {
                Some(seen) => rules.requeue_message(message, seen, false, now),
                None => return,
            },
            Event::RescueMessage => rules.adopt_message(&standing, now, now),
            Event::StartDeleting => rules.start_deleting(message, now),
            _ if message.plan.len() >= 4 || message.deleting => return,
            // The contract of `extend`, which is not built yet.
            _ => {
                let endpoint = ep(100 + message.plan.len() as u8);
                let settled = match message.due_at {
                    Some(_) => message.settled,
                    None => standing.leading_settled(now),
                };
                let mut next = PublishedMessage { settled, ..touched(message, now) };
                next.plan.push(PlanEntry { endpoint, extended_at: Some(now) });
                (next.due_at, next.expires_at) = (Some(now), None);
                Ok(next)
            }
        };
        if let Ok(next) = next {
            if matches!(event, Event::Requeue) {
                self.message_look = Some(now);
            }
            self.write_message(next);
        }
    }
}

fn is_resend(step: &crate::model::Step) -> bool {
    step.transition == Transition::Resend
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Crash),
        3 => Just(Outcome::Delivered),
        2 => Just(Outcome::Retry),
        1 => Just(Outcome::Gone),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let wait = prop_oneof![
        3 => (0_u64..48).prop_map(|hours| HOUR * hours as u32),
        2 => (0_u32..12).prop_map(|days| DAY * days),
        1 => (0_u64..600).prop_map(Duration::from_secs),
    ];
    prop_oneof![
        8 => wait.prop_map(Event::Pass),
        6 => (0_u8..4, outcome()).prop_map(|(n, outcome)| Event::Look(n, outcome)),
        3 => Just(Event::LookAtMessage),
        2 => Just(Event::Requeue),
        2 => Just(Event::Audit),
        2 => Just(Event::RescueMessage),
        1 => (0_u8..4).prop_map(Event::Rescue),
        2 => (0_u8..4).prop_map(Event::Archive),
        1 => (0_u8..4).prop_map(Event::Resend),
        1 => (0_u8..4).prop_map(Event::DeleteDelivery),
        1 => Just(Event::Extend),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 20_000,
        ..ProptestConfig::default() })]

    /// Whatever happens, and in whatever order: only what is accounted for settles, nothing that
    /// finished starts again, and the plan never shrinks. While the functions run every day, every
    /// planned delivery ends, and none ends twice.
    #[test]
    fn any_history_keeps_the_rules(
        endpoints in 1_u8..4, retention_days in prop_oneof![Just(1_u32), Just(30)],
        outages in any::<bool>(), looks_lost in any::<bool>(),
        deleted in proptest::bool::weighted(0.1),
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut world =
            World::publish(endpoints, DAY * retention_days, outages, looks_lost);
        for event in &events {
            world.happen(event);
        }
        if deleted {
            world.happen(&Event::StartDeleting);
        }
        if !outages {
            let planned = world.message.as_ref().map(|message| message.plan.clone());
            world.pass(DAY * 40, Outcome::Delivered);
            for entry in planned.unwrap_or_default() {
                let endpoint = entry.endpoint;
                prop_assert!(world.finished.contains(&endpoint), "{} is lost", endpoint);
            }
        }
    }
}
