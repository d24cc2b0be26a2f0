//! The keys and kinds of the rows in the table `webhooks`.
//!
//! The key of a direct webhook or a message is its task id. That of a delivery is the task id of
//! its message and the text of the endpoint id. So a message is followed by its deliveries.

use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, Type, ValueRef},
};

use crate::{
    id::{TaskId, WebhookId},
    store::ListPosition,
};

/// The bytes of a task id.
const TASK_BYTES: usize = 16;

/// The column `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A direct webhook.
    Direct,
    /// A published message.
    Message,
    /// The record of a delivery.
    Delivery,
    /// A marker: the delivery was deleted.
    Marker,
    /// The key of a delivery whose record has expired and is gone.
    Expired,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Direct, Self::Message, Self::Delivery, Self::Marker, Self::Expired];

    /// The stored number. It never changes.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Direct => 0,
            Self::Message => 1,
            Self::Delivery => 2,
            Self::Marker => 3,
            Self::Expired => 4,
        }
    }

    /// Whether the row holds the record of a webhook.
    pub(super) const fn is_webhook(self) -> bool {
        matches!(self, Self::Direct | Self::Delivery)
    }

    /// The kind of row that a webhook with this id has.
    pub(super) const fn of(id: &WebhookId) -> Self {
        if id.is_delivery() { Self::Delivery } else { Self::Direct }
    }
}

impl FromSql for Kind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let code = value.as_i64()?;
        let kind = Self::ALL.into_iter().find(|kind| i64::from(kind.code()) == code);
        kind.ok_or(FromSqlError::OutOfRange(code))
    }
}

/// The column `task`. Keys sort as positions do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn of(id: &WebhookId) -> Self {
        Self::at(ListPosition::of(id))
    }

    pub(super) fn at(position: ListPosition) -> Self {
        let mut bytes = position.task.as_bytes().to_vec();
        if let Some(endpoint) = position.endpoint {
            bytes.extend_from_slice(endpoint.to_string().as_bytes());
        }
        Self(bytes)
    }

    /// The key of a direct webhook or a message.
    pub(super) fn task(task: TaskId) -> Self {
        Self(task.as_bytes().to_vec())
    }

    /// Above the keys of a message and its deliveries, and below the next task id.
    pub(super) fn behind(task: TaskId) -> Self {
        Self::task(task).behind_all()
    }

    /// Not above any key.
    pub(super) const fn start() -> Self {
        Self(Vec::new())
    }

    /// Above all keys.
    pub(super) fn last() -> Self {
        Self(vec![0xff; TASK_BYTES])
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Above the keys of the deliveries of this message.
    pub(super) fn behind_all(&self) -> Self {
        let mut bytes = self.0.clone();
        bytes.push(0xff);
        Self(bytes)
    }

    /// The text of the endpoint id. Empty if the key has none.
    pub(super) fn endpoint(&self) -> &str {
        let text = self.0.get(TASK_BYTES..).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// The key of the message of this delivery.
    pub(super) fn message(&self) -> Self {
        Self(self.0.iter().copied().take(TASK_BYTES).collect())
    }
}

/// The task id in this column.
pub(super) fn task(row: &Row<'_>, column: usize) -> rusqlite::Result<TaskId> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let malformed =
        || rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, "not a task id".into());
    TaskId::from_bytes(bytes).ok_or_else(malformed)
}

/// The position in this column, which is a key.
pub(super) fn position(row: &Row<'_>, column: usize) -> rusqlite::Result<ListPosition> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let (task, endpoint) = bytes.split_at(bytes.len().min(TASK_BYTES));
    let endpoint = match endpoint {
        [] => Some(None),
        text => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map(Some),
    };
    let malformed =
        || rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, "no key".into());
    match (TaskId::from_bytes(task), endpoint) {
        (Some(task), Some(endpoint)) => Ok(ListPosition { task, endpoint }),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{applications::id::EndpointId, clock::Timestamp};

    #[test]
    fn keys_sort_as_positions_do() {
        let task = |n| TaskId::mint(Timestamp::from_millis(1_700_000_000_000), [n; 10]);
        let position = |n, endpoint: Option<u8>| {
            let endpoint = endpoint.map(|n| EndpointId::mint([n; 10]));
            ListPosition { task: task(n), endpoint }
        };
        let mut positions = [
            position(2, Some(7)),
            position(1, Some(0xff)),
            position(2, None),
            position(1, None),
            position(1, Some(0)),
        ];
        positions.sort();
        let keys = positions.map(Key::at);
        assert!(keys.is_sorted());
        assert!(keys[2] < Key::behind(task(1)) && Key::behind(task(1)) < keys[3]);
        assert!(Key::start() < keys[0] && keys[4] < Key::last());
        assert_eq!(
            (keys[4].message(), keys[4].endpoint()),
            (keys[3].clone(), "ep-a4dqobyha4dqobyh")
        );
    }
}
