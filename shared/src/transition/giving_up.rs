//! The end of a webhook whose retry policy grants another attempt.

use super::{Refusal, Rules, check_lease, interruption::note_interruption, note, unfinished};
use crate::{
    clock::Timestamp,
    model::{ErrorKind, Function, LastError, Transition, Webhook, Why},
    planted::{self, Bug},
    status::Status,
};

/// Why a webhook is given up although its retry policy grants another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Too many attempts in a row were interrupted.
    Interrupted,
    /// The destination's circuit has deferred the webhook for the longest allowed time.
    CircuitOpen,
    /// The rates of its targets have deferred the webhook for the longest allowed time.
    RateLimited,
    /// The queue gave up on its messages too often.
    Undeliverable,
    /// The queue held an unreadable message. The record is not a webhook. It keeps the text.
    Unreadable,
    /// A secret, a custom header or the whole document of the delivery's endpoint could not be read
    /// for the longest allowed time.
    EndpointUnusable,
    /// The endpoint of the delivery was deleted.
    EndpointDeleted,
    /// The endpoint of the delivery is disabled.
    EndpointDisabled,
}

impl GiveUp {
    /// The kind of error that the record shows.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Interrupted => ErrorKind::Interrupted,
            // Older versions know no other kind.
            Self::CircuitOpen | Self::RateLimited => ErrorKind::CircuitOpen,
            Self::Undeliverable | Self::Unreadable | Self::EndpointUnusable => {
                ErrorKind::Undeliverable
            }
            Self::EndpointDeleted => ErrorKind::EndpointDeleted,
            Self::EndpointDisabled => ErrorKind::EndpointDisabled,
        }
    }

    /// Whether the reason applies only after an attempt has started.
    const fn needs_attempt(self) -> bool {
        matches!(self, Self::CircuitOpen | Self::RateLimited | Self::Undeliverable)
    }
}

impl Rules {
    /// Fails the webhook without a further attempt, because a budget other than the retry policy's
    /// is spent. The caller found that on this record, so it applies the transition with
    /// [`apply_unchanged`](crate::apply::apply_unchanged).
    pub fn give_up(
        &self,
        webhook: &Webhook,
        reason: GiveUp,
        function: Function,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        check_lease(webhook, now)?;
        let mut is_untried = reason.needs_attempt() && !webhook.was_attempted();
        if planted::is(Bug::FailedUntried) {
            is_untried = false;
        }
        if is_untried {
            return Err(Refusal::Untried);
        }
        if webhook.status == Status::InProgress {
            note_interruption(&mut next);
        }
        let message = match reason {
            GiveUp::Interrupted => {
                format!(
                    "{} attempts in a row ended without a recorded answer",
                    next.budget.interrupted
                )
            }
            GiveUp::CircuitOpen => "the destination's circuit stayed open for too long".to_owned(),
            GiveUp::RateLimited => {
                "the destination's pauses or rate limit deferred it for too long".to_owned()
            }
            GiveUp::Undeliverable => {
                format!("the queue gave up on it {} times", self.limits.max_rescues + 1)
            }
            GiveUp::Unreadable => {
                "the queue held an unreadable message; the payload is its text".to_owned()
            }
            GiveUp::EndpointUnusable => {
                "the settings or secrets of the endpoint could not be read for too long".to_owned()
            }
            GiveUp::EndpointDeleted => "the endpoint was deleted".to_owned(),
            GiveUp::EndpointDisabled => "the endpoint is disabled".to_owned(),
        };
        let kind = reason.kind();
        next.last_error = Some(LastError { kind, status_code: None, message });
        next.claim = None;
        self.fail(&mut next, now);
        note(&mut next, now, function, Transition::Fail, None, Some(Why::Error(kind)));
        Ok(next)
    }
}
