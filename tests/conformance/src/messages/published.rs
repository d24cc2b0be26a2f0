//! Messages and deliveries in the states that cases start from.

use std::time::Duration;

use serde_json::value::RawValue;
use shared::{
    applications::{
        id::{ApplicationId, EndpointId},
        matching::Plan,
        message::{PlanEntry, PublishedMessage},
        standing::{Found, Standing},
    },
    clock::Timestamp,
    id::{MessageId, WebhookId},
    model::{Content, Function, Webhook, Why},
    store::{DueId, SweepReport},
    transition::{MessageRefusal, NewMessage, Rules},
};

use crate::{
    Fixture,
    fixture::{fresh_reference, fresh_task},
    steps::{OURS, answered},
};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// This many days.
pub(super) fn days(count: u32) -> Duration {
    DAY * count
}

/// A unique application id.
pub(super) fn fresh_application() -> ApplicationId {
    format!("app-{:016x}", rand::random::<u64>()).parse().unwrap()
}

/// This many unique endpoint ids, in random order.
pub(super) fn fresh_endpoints(count: usize) -> Vec<EndpointId> {
    (0..count).map(|_| EndpointId::mint(rand::random())).collect()
}

/// The input that publishes a unique message to this many endpoints, with a task id of this time.
pub(super) fn new_message(task_at: Timestamp, endpoints: usize) -> NewMessage {
    NewMessage {
        id: MessageId { reference: fresh_reference(), task: fresh_task(task_at) },
        application: fresh_application(),
        referenced: true,
        correlation_id: format!("cor-{:016x}", rand::random::<u64>()),
        event_type: "order.paid".parse().unwrap(),
        trace: None,
        deliver_at: None,
        plan: Plan { planned: fresh_endpoints(endpoints), off: Vec::new() },
    }
}

/// A small content that contains its message's id, which reveals a mix-up.
pub(super) fn content(id: &MessageId) -> Content {
    let payload = RawValue::from_string(format!(r#"{{"message":  "{id}"}}"#)).unwrap();
    Content { url: String::new(), headers: Vec::new(), payload }
}

/// The id of the webhook that has the same key as the message.
pub(super) fn same_key(id: &MessageId) -> WebhookId {
    WebhookId::direct(id.reference.clone(), id.task)
}

/// The delivery to the endpoint number `index` of the plan, as long as it has no record.
pub(super) fn unstarted(message: &PublishedMessage, index: usize) -> Webhook {
    Rules::delivery(message, message.plan[index].endpoint).unwrap()
}

/// The message with one more endpoint in its plan, due now, as a version that extends plans writes
/// it.
pub(super) fn extended(
    message: &PublishedMessage,
    endpoint: EndpointId,
    now: Timestamp,
) -> PublishedMessage {
    let mut next = message.clone();
    next.revision += 1;
    next.plan.push(PlanEntry { endpoint, extended_at: Some(now) });
    (next.updated_at, next.due_at, next.expires_at) = (now, Some(now), None);
    next
}

/// A state of a delivery that has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Pending, and in the due index. Its first write put it there.
    Held,
    /// In progress, outside the due index.
    InProgress,
    /// Waiting for its second attempt, in the due index.
    Retrying,
    /// Delivered.
    Delivered,
    /// Failed, not archived yet, in the due index.
    Failed,
    /// A dead letter.
    Archived,
}

impl State {
    /// All states.
    pub(super) const ALL: [Self; 6] = [
        Self::Held,
        Self::InProgress,
        Self::Retrying,
        Self::Delivered,
        Self::Failed,
        Self::Archived,
    ];

    /// Leads the delivery there, from a pending record or from none.
    pub(super) async fn reach(self, fixture: &Fixture, delivery: &Webhook) -> Webhook {
        let now = fixture.now();
        if self == Self::Held {
            let why = (Function::Api, Why::Unsent);
            return fixture
                .step(delivery, |rules, pending| rules.adopt(pending, now, why, now))
                .await;
        }
        let claim = fixture.step(delivery, |rules, pending| rules.claim(pending, OURS, now));
        let claimed = claim.await;
        let code = match self {
            Self::Held | Self::InProgress => return claimed,
            Self::Retrying => 500,
            Self::Delivered => 200,
            Self::Failed | Self::Archived => 410,
        };
        let conclude = fixture.step(&claimed, |rules, claimed| {
            rules.conclude(claimed, OURS, &answered(code), now, 0.5)
        });
        let concluded = conclude.await;
        if self != Self::Archived {
            return concluded;
        }
        fixture.step(&concluded, |rules, failed| rules.archive(failed, now)).await
    }
}

impl Fixture {
    /// Publishes a message to this many endpoints.
    pub(super) async fn published(&self, endpoints: usize) -> PublishedMessage {
        self.published_as(new_message(self.now(), endpoints)).await
    }

    /// Publishes this message now. Its task id may be older.
    pub(super) async fn published_as(&self, new: NewMessage) -> PublishedMessage {
        let message = self.rules.publish(new, self.now());
        self.store.create_message(&message, &content(&message.id)).await.unwrap();
        message
    }

    /// Applies a rule, which must succeed, and writes the resulting record.
    pub(super) async fn move_message(
        &self,
        message: &PublishedMessage,
        rule: impl FnOnce(&Rules, &PublishedMessage) -> Result<PublishedMessage, MessageRefusal>,
    ) -> PublishedMessage {
        let next = rule(&self.rules, message).unwrap();
        self.store.write_message(message, &next).await.unwrap();
        next
    }

    /// Enters the due index at this time, without regard to the standing.
    pub(super) async fn held(
        &self,
        message: &PublishedMessage,
        due_at: Timestamp,
    ) -> PublishedMessage {
        let now = self.now();
        let standing = Standing::of_new(message.clone());
        self.move_message(message, |rules, _| rules.adopt_message(&standing, due_at, now)).await
    }

    /// The standing. Fails if the handles disagree.
    pub(super) async fn standing(&self, id: &MessageId) -> Option<Standing> {
        let standing = self.store.standing(id).await.unwrap();
        assert_eq!(self.other.standing(id).await.unwrap(), standing, "both handles agree");
        standing
    }

    /// What occupies the key of the delivery. Its message must exist.
    pub(super) async fn found(&self, id: &WebhookId) -> Option<Found> {
        let stored = self.other.delivery(id).await.unwrap();
        stored.expect("the message exists").found
    }

    /// The message's time in the due index, if it has an entry.
    pub(super) async fn message_due_at(&self, id: &MessageId) -> Option<Timestamp> {
        self.entry_of(&DueId::Message(id.clone())).await
    }

    /// Runs the housekeeping of both handles twice, more than a minute apart, so that it may delete
    /// what has expired.
    pub(super) async fn tidied(&self) {
        for _ in 0..3 {
            let report = SweepReport { ran_at: self.now(), ..SweepReport::default() };
            let until = self.now().plus(Duration::from_secs(3600));
            for store in [&self.store, &self.other] {
                store.report_sweep(&report).await.unwrap();
                store.maintain(self.now(), until).await.unwrap();
            }
            self.created().await;
            self.published(0).await;
            self.clock.advance(Duration::from_secs(70));
        }
    }
}
