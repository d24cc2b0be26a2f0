//! Kinds of records, and events that the rules allow or refuse.

use std::time::Duration;

use shared::{
    clock::Timestamp,
    model::{ClaimId, ErrorKind, Function, Webhook, Why},
    retry::Outcome,
    transition::{Refusal, Report, Rules},
};

use super::Fixture;

/// The claim of records in progress.
pub(super) const OURS: ClaimId = ClaimId(0xfeed_f00d_dead_beef);
/// A claim that no record has.
pub(super) const FOREIGN: ClaimId = ClaimId(1);

/// The report of a worker that received this status code.
pub(super) fn answered(status_code: u16) -> Report {
    let error = (!(200..300).contains(&status_code)).then_some(ErrorKind::HttpStatus);
    Report {
        outcome: Outcome { error, status_code: Some(status_code), retry_after: None },
        duration: Duration::from_millis(7),
        message: error.map(|_| format!("the destination answered {status_code}")),
        response_excerpt: error.map(|_| "sorry – désolé".to_owned()),
    }
}

/// A record in its initial state for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pending,
    PendingHeld,
    Scheduled,
    LeaseLive,
    LeaseOver,
    RetryingAllowed,
    RetryingLater,
    Delivered,
    Failed,
    Archived,
}

impl Kind {
    /// Stores such a webhook, through the transitions that lead to its state.
    pub(super) async fn make(self, fixture: &Fixture) -> Webhook {
        let now = fixture.now();
        let ago = |seconds| now.minus(Duration::from_secs(seconds));
        let claim = |webhook, at| async move {
            fixture.step(&webhook, |rules, webhook| rules.claim(webhook, OURS, at)).await
        };
        let conclude = |webhook, code, at| async move {
            fixture
                .step(&webhook, |rules, webhook| {
                    rules.conclude(webhook, OURS, &answered(code), at, 0.5)
                })
                .await
        };
        let created =
            |at| async move { fixture.created_with(at, &super::fixture::fresh_reference()).await };
        match self {
            Self::Pending => created(ago(60)).await,
            Self::PendingHeld => {
                let webhook = created(ago(60)).await;
                fixture
                    .step(&webhook, |rules, webhook| {
                        rules.adopt(webhook, now, (Function::Api, Why::Unsent), now)
                    })
                    .await
            }
            Self::Scheduled => {
                let mut new = super::fixture::new_webhook(now, &super::fixture::fresh_reference());
                new.deliver_at = Some(now.plus(Duration::from_secs(3600)));
                let webhook = fixture.rules.create(new, now);
                fixture.store.create(&webhook, &super::fixture::content(&webhook)).await.unwrap();
                webhook
            }
            Self::LeaseLive => claim(created(ago(60)).await, now).await,
            Self::LeaseOver => claim(created(ago(60)).await, ago(50)).await,
            Self::RetryingAllowed => {
                conclude(claim(created(ago(60)).await, ago(50)).await, 500, ago(49)).await
            }
            Self::RetryingLater => {
                conclude(claim(created(ago(60)).await, now).await, 500, now).await
            }
            Self::Delivered => conclude(claim(created(ago(60)).await, now).await, 200, now).await,
            Self::Failed => conclude(claim(created(ago(60)).await, now).await, 410, now).await,
            Self::Archived => {
                let failed = conclude(claim(created(ago(60)).await, now).await, 410, now).await;
                fixture.step(&failed, |rules, webhook| rules.archive(webhook, now)).await
            }
        }
    }
}

/// An event on a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Claim,
    Ok,
    Retry,
    Fail,
    ForeignOk,
    GiveUp,
    Defer,
    Requeue,
    RequeueWrong,
    Adopt,
    Audit,
    Rescue,
    Archive,
    Resend,
    Redrive,
}

impl Event {
    /// All events.
    pub(super) const ALL: [Self; 15] = [
        Self::Claim,
        Self::Ok,
        Self::Retry,
        Self::Fail,
        Self::ForeignOk,
        Self::GiveUp,
        Self::Defer,
        Self::Requeue,
        Self::RequeueWrong,
        Self::Adopt,
        Self::Audit,
        Self::Rescue,
        Self::Archive,
        Self::Resend,
        Self::Redrive,
    ];

    /// Applies the rule for this event.
    pub(super) fn happen(
        self,
        rules: &Rules,
        record: &Webhook,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        let due_at = record.due_at.unwrap_or(now);
        match self {
            Self::Claim => rules.claim(record, ClaimId(2), now),
            Self::Ok => rules.conclude(record, OURS, &answered(200), now, 0.5),
            Self::Retry => rules.conclude(record, OURS, &answered(500), now, 0.5),
            Self::Fail => rules.conclude(record, OURS, &answered(410), now, 0.5),
            Self::ForeignOk => rules.conclude(record, FOREIGN, &answered(200), now, 0.5),
            Self::GiveUp => {
                rules.give_up(record, shared::transition::GiveUp::Unreadable, Function::Dlq, now)
            }
            Self::Defer => {
                rules.defer(record, now.plus(Duration::from_secs(30)), Why::RateLimit, now)
            }
            Self::Requeue => rules.requeue(record, due_at, now),
            Self::RequeueWrong => rules.requeue(record, due_at.plus(Duration::from_millis(1)), now),
            Self::Adopt => rules.adopt(
                record,
                now.plus(Duration::from_secs(1)),
                (Function::Api, Why::Unsent),
                now,
            ),
            Self::Audit => rules.audit(record, now),
            Self::Rescue => rules.rescue(record, now),
            Self::Archive => rules.archive(record, now),
            Self::Resend => rules.resend(record, now),
            Self::Redrive => rules.redrive(record, now),
        }
    }
}
