//! The queue: two lanes with at-least-once delivery, in no particular order.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    message::Look,
    queue::{Depth, Lane, MAX_BATCH, Outgoing, Queue, QueueError, Received, SendError},
    store::DueId,
};

use crate::{
    plan::Plan,
    state::{
        State,
        messages::NEWER,
        records::{short_id, short_message},
    },
    world::{Process, Services},
};

/// The milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600_000;

impl State {
    /// Accepts a message, with the faults of the queue.
    fn accept(&mut self, plan: &Plan, faulty: bool, lane: Lane, message: &Outgoing) {
        let now = self.now();
        if lane == Lane::Webhooks {
            self.messages.taken += 1;
        }
        if faulty && self.chance.happens(plan.lost) {
            self.note(&"queue", || "loses a message".to_owned());
            return;
        }
        let copies = if faulty && self.chance.happens(plan.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            let delay_ms = if faulty && self.chance.happens(plan.late) {
                self.chance.below(120_000)
            } else {
                0
            };
            let parked = plan.applications.as_ref().map_or(0.0, |load| load.parked);
            let delay_ms =
                if self.chance.happens(parked) { self.chance.below(4 * DAY_MS) } else { delay_ms };
            // Like SQS, this rounds the delay down to whole seconds.
            let delay =
                Duration::from_secs(message.delay.as_secs()) + Duration::from_millis(delay_ms);
            self.messages.put(lane, message, delay, now);
        }
        self.checks.most_waiting =
            self.checks.most_waiting.max(self.messages.in_lane(Lane::Webhooks));
    }

    /// Receives at most a batch of visible messages.
    pub(super) fn receive(
        &mut self,
        plan: &Plan,
        lane: Lane,
        visibility: Duration,
    ) -> Vec<(u64, Received)> {
        let now = self.now();
        self.move_to_dead_letters(now, plan);
        let visible = self
            .messages
            .waiting
            .iter()
            .filter(|(_, message)| message.lane == lane && message.visible_at <= now);
        let mut numbers: Vec<u64> = visible.map(|(number, _)| *number).collect();
        if plan.reordered {
            for index in (1..numbers.len()).rev() {
                numbers.swap(index, self.chance.below(index as u64 + 1) as usize);
            }
            numbers.truncate(1 + self.chance.below(MAX_BATCH as u64) as usize);
        }
        numbers.truncate(MAX_BATCH);
        let mut received = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(message) = self.messages.waiting.get_mut(&number) else { continue };
            message.receives += 1;
            message.visible_at = now.plus(visibility);
            received.push((
                number,
                Received {
                    id: number.to_string(),
                    receipt: format!("{number}/{}", message.receives),
                    body: message.body.clone(),
                    receives: message.receives,
                    sent_at: message.sent_at,
                },
            ));
        }
        received
    }

    /// Moves the messages that were received too often to the dead-letter lane.
    fn move_to_dead_letters(&mut self, now: Timestamp, plan: &Plan) {
        let parked = plan.applications.as_ref().map_or(0.0, |load| load.parked);
        for message in self.messages.waiting.values_mut() {
            if message.lane == Lane::Webhooks
                && message.visible_at <= now
                && message.receives >= plan.max_receives
            {
                message.lane = Lane::DeadLetters;
                if self.chance.happens(parked) {
                    let wait_ms = self.chance.below(14 * DAY_MS);
                    message.visible_at = now.plus(Duration::from_millis(wait_ms));
                }
            }
        }
    }

    /// Removes the message, unless it was received again since.
    pub(super) fn acknowledge(&mut self, process: &Process, number: u64, received: &Received) {
        let is_latest = self
            .messages
            .waiting
            .get(&number)
            .is_some_and(|message| message.receives == received.receives);
        if !is_latest {
            return;
        }
        let Some(message) = self.messages.waiting.remove(&number) else { return };
        self.note(process, || format!("acknowledges message {number}"));
        self.checks.require(message.body != NEWER, || {
            format!("{process} acknowledged a message of a newer version")
        });
        match message.looks_at.filter(|_| message.lane == Lane::Webhooks) {
            Some(DueId::Webhook(id)) => self.checks.acknowledged(process, &id, &self.records),
            Some(DueId::Message(id)) => {
                self.checks.message_acknowledged(process, &id, &self.records);
            }
            None => {}
        }
    }

    /// Makes the message visible again after a delay, unless it was received again since.
    pub(super) fn hand_back(
        &mut self,
        process: &Process,
        number: u64,
        received: &Received,
        delay: Duration,
    ) {
        let now = self.now();
        self.note(process, || format!("hands back message {number}"));
        if self
            .messages
            .waiting
            .get(&number)
            .is_some_and(|message| message.receives == received.receives)
        {
            self.messages.restore(number, now.plus(delay));
        }
    }
}

/// The name of what a message looks at.
fn name(look: &Look) -> String {
    match look {
        Look::Webhook(message) => short_id(&message.webhook_id),
        Look::Message(id) => short_message(id),
    }
}

fn unavailable() -> QueueError {
    QueueError("the queue of the simulation failed".into())
}

#[async_trait]
impl Queue for Services {
    async fn ping(&self) -> Result<(), QueueError> {
        Ok(())
    }

    async fn warnings(&self) -> Result<Vec<String>, QueueError> {
        Ok(Vec::new())
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError> {
        let process = &self.0;
        let world = &process.world;
        process.wait(process.latency()).await;
        let mut failed = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let fails = world.happens(world.plan.queue_fault);
            let is_accepted = !fails || world.below(2) == 0;
            if fails {
                failed.push(index);
            }
            if is_accepted {
                let faulty = world.is_faulty();
                world.change(|state| {
                    let look = Look::from_json(&message.body).ok();
                    state.note(process, || {
                        let what = look.as_ref().map_or_else(String::new, name);
                        format!("sends {what} to {lane:?}, delay {:?}", message.delay)
                    });
                    state.accept(&world.plan, faulty, lane, message);
                    match look {
                        Some(Look::Webhook(look)) => {
                            state.checks.sent(process, lane, &look, &state.records);
                        }
                        Some(Look::Message(id)) => state.checks.published.sent(process, &id),
                        None => {}
                    }
                });
            }
        }
        world.sent.notify_waiters();
        if world.happens(world.plan.death) {
            process.die();
        }
        process.wait(process.latency()).await;
        if failed.is_empty() {
            return Ok(());
        }
        process.failed_sends.fetch_add(1, Relaxed);
        process
            .note(|| format!("gets an error for {} of {} messages", failed.len(), messages.len()));
        Err(SendError { failed, source: unavailable() })
    }

    // Only the platform receives messages. See `platform`.
    async fn receive(
        &self,
        _: Lane,
        _: usize,
        _: Duration,
        _: Duration,
    ) -> Result<Vec<Received>, QueueError> {
        Err(unavailable())
    }

    async fn acknowledge(&self, _: Lane, _: &[String]) -> Result<(), QueueError> {
        Err(unavailable())
    }

    async fn release(&self, _: Lane, _: &[String], _: Duration) -> Result<(), QueueError> {
        Err(unavailable())
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let process = &self.0;
        process.wait(process.latency()).await;
        if process.world.happens(process.world.plan.queue_fault) {
            return Err(unavailable());
        }
        let state = process.world.state();
        let now = state.now();
        let waiting = state.messages.waiting.values().filter(|message| message.lane == lane);
        let ready = waiting.filter(|message| message.visible_at <= now).count() as u64;
        Ok(Depth { ready, ..Depth::default() })
    }
}
