//! What lists are asked for and answer with.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    id::{ReferenceId, TaskId, WebhookId},
    model::Webhook,
    status::Status,
};

/// Which webhooks a list wants. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those with this reference id.
    pub reference: Option<ReferenceId>,
    /// Only those with this status.
    pub status: Option<Status>,
    /// Only those created before this time.
    pub created_before: Option<Timestamp>,
}

impl Filter {
    /// Whether the webhook is one of those, and not expired.
    pub fn matches(&self, webhook: &Webhook, now: Timestamp) -> bool {
        !webhook.is_expired(now)
            && self.reference.as_ref().is_none_or(|reference| *reference == webhook.id.reference)
            && self.status.is_none_or(|status| status == webhook.status)
            && self.created_before.is_none_or(|time| webhook.id.task < TaskId::first_at(time))
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T, Position> {
    /// What was found.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end.
    pub next: Option<Position>,
}

#[cfg(any(feature = "aws", feature = "redis"))]
impl<P: Ord + Copy> Page<Listed, P> {
    /// Puts in what the page's index does not know: a webhook whose reference id was made up has no index entry (one whose caller
    /// copied such a reference id has). It enters this page, which ends before `end`, if it belongs here, and not to one before or after.
    pub(crate) fn insert(&mut self, listed: Listed, limit: usize, end: Option<P>, place: impl Fn(&Listed) -> P) {
        let found = place(&listed);
        if end.is_some_and(|end| found >= end) || self.next.is_some_and(|next| found < next) {
            return;
        }
        self.items.push(listed);
        self.items.sort_by_key(|listed| std::cmp::Reverse(place(listed)));
        if self.items.len() > limit {
            self.items.truncate(limit);
            self.next = self.items.last().map(place);
        }
    }
}

/// A webhook in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The record.
    pub webhook: Webhook,
    /// Of its content, the URL.
    pub url: String,
}

/// A place in the list of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeadLetterPosition {
    /// When it was archived.
    #[serde(rename = "a")]
    pub archived_at: Timestamp,
    /// Which webhook.
    #[serde(rename = "t")]
    pub task: TaskId,
}

/// A part of the list of dead letters.
pub type DeadLetters = Page<Listed, DeadLetterPosition>;

/// An entry of the due index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueEntry {
    /// Which webhook.
    pub id: WebhookId,
    /// When somebody must look.
    pub due_at: Timestamp,
}
