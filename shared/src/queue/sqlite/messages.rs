//! The table of messages.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;

use crate::{
    clock::Timestamp,
    id::{MessageId, WebhookId},
    queue::{Depth, Lane, MAX_RECEIVES, Outgoing, Received},
    random::{Random, SystemRandom},
    sqlite::{Total, Transaction, totals},
    store::DueId,
};

/// `held`: visible, or sent with a delay.
const SENT: i64 = 0;
/// `held`: received.
const RECEIVED: i64 = 1;
/// `held`: released with a delay.
const RELEASED: i64 = 2;

/// The most messages that one receive moves to the dead-letter lane. The next receive moves more.
const MAX_MOVES: usize = 100;

/// The most hidden messages that are counted. Above that, the depth is an estimate.
const MAX_COUNTED: i64 = 100_000;

/// The result of a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredInFlight {
    /// Messages that a receive had hidden and that are visible now.
    pub released: u64,
    /// What a message of either lane asks to look at, in no order.
    pub looks: Vec<DueId>,
}

/// A message to store.
#[derive(Debug)]
pub(super) struct NewMessage {
    id: i64,
    visible_at: i64,
    body: String,
}

impl NewMessage {
    pub(super) fn of(message: &Outgoing, now: Timestamp) -> Self {
        // Positive, so it reads well. 63 random bits are unique enough without a check.
        let id = (SystemRandom.next_u64() >> 1) as i64;
        Self { id, visible_at: now.plus(message.delay).as_millis(), body: message.body.clone() }
    }
}

/// Identifies one receive of a message: the key since then, and the receive count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    visible_at: i64,
    id: i64,
    receives: i64,
}

impl Receipt {
    /// `None` if the text is not a receipt of this queue.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse::<i64>().ok());
        let receipt =
            Self { visible_at: parts.next()??, id: parts.next()??, receives: parts.next()?? };
        parts.next().is_none().then_some(receipt)
    }

    fn text(self) -> String {
        format!("{}.{}.{}", self.visible_at, self.id, self.receives)
    }
}

/// A visible message.
struct Visible {
    since: i64,
    id: i64,
    receives: i64,
    sent_at: Timestamp,
    body: String,
}

pub(super) fn send(
    tx: &mut Transaction<'_>,
    lane: Lane,
    messages: &[NewMessage],
    now: Timestamp,
) -> rusqlite::Result<()> {
    for message in messages {
        tx.execute(
            "INSERT INTO messages (lane, visible_at, id, held, receives, sent_at, body) VALUES \
             (?1, ?2, ?3, ?4, 0, ?5, ?6)",
            (lane.code(), message.visible_at, message.id, SENT, now.as_millis(), &message.body),
        )?;
    }
    tx.count(Total::Messages(lane), messages.len() as i64);
    tx.announce(lane, messages.len());
    Ok(())
}

/// Up to `max` visible messages. If there are none, when the next one becomes visible.
pub(super) fn receive(
    tx: &mut Transaction<'_>,
    lane: Lane,
    max: usize,
    now: Timestamp,
    visibility: Duration,
) -> rusqlite::Result<(Vec<Received>, Option<Timestamp>)> {
    let hidden_until = now.plus(visibility).as_millis();
    let (mut received, mut moved) = (Vec::new(), 0);
    while received.len() < max && moved < MAX_MOVES {
        let wanted = max - received.len();
        let visible = visible(tx.connection(), lane, now, wanted)?;
        let was_all = visible.len() < wanted;
        for message in visible {
            if lane == Lane::Webhooks && message.receives >= i64::from(MAX_RECEIVES) {
                give_up(tx, &message, now)?;
                moved += 1;
            } else {
                received.push(take(tx, lane, message, hidden_until)?);
            }
        }
        // Without a visibility timeout, received messages stay visible. They are not received
        // twice.
        if was_all || visibility.is_zero() {
            break;
        }
    }
    let next_at = if received.is_empty() { first_visible_at(tx.connection(), lane)? } else { None };
    Ok((received, next_at))
}

fn visible(
    connection: &Connection,
    lane: Lane,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<Visible>> {
    let mut statement = connection.prepare_cached(
        "SELECT visible_at, id, receives, sent_at, body FROM messages
         WHERE lane = ?1 AND visible_at <= ?2 ORDER BY visible_at, id LIMIT ?3",
    )?;
    let rows = statement.query_map((lane.code(), now.as_millis(), limit as i64), |row| {
        Ok(Visible {
            since: row.get(0)?,
            id: row.get(1)?,
            receives: row.get(2)?,
            sent_at: Timestamp::from_millis(row.get(3)?),
            body: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// Hides the message until that time.
fn take(
    tx: &Transaction<'_>,
    lane: Lane,
    message: Visible,
    hidden_until: i64,
) -> rusqlite::Result<Received> {
    tx.execute(
        "UPDATE messages SET visible_at = ?4, held = ?5, receives = receives + 1 WHERE lane = ?1 \
         AND visible_at = ?2 AND id = ?3",
        (lane.code(), message.since, message.id, hidden_until, RECEIVED),
    )?;
    let receives = message.receives + 1;
    Ok(Received {
        id: message.id.to_string(),
        receipt: Receipt { visible_at: hidden_until, id: message.id, receives }.text(),
        body: message.body,
        receives: u32::try_from(receives).unwrap_or(u32::MAX),
        sent_at: message.sent_at,
    })
}

/// Moves a message with too many receives to the dead-letter lane.
fn give_up(tx: &mut Transaction<'_>, message: &Visible, now: Timestamp) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE messages SET lane = ?4, visible_at = ?5, held = ?6, receives = 0 WHERE lane = ?1 \
         AND visible_at = ?2 AND id = ?3",
        (
            Lane::Webhooks.code(),
            message.since,
            message.id,
            Lane::DeadLetters.code(),
            now.as_millis(),
            SENT,
        ),
    )?;
    tx.count(Total::Messages(Lane::Webhooks), -1);
    tx.count(Total::Messages(Lane::DeadLetters), 1);
    tx.announce(Lane::DeadLetters, 1);
    Ok(())
}

pub(super) fn acknowledge(
    tx: &mut Transaction<'_>,
    lane: Lane,
    receipts: &[Receipt],
) -> rusqlite::Result<()> {
    for receipt in receipts {
        let gone = tx.execute(
            "DELETE FROM messages WHERE lane = ?1 AND visible_at = ?2 AND id = ?3 AND receives = \
             ?4 AND held = ?5",
            (lane.code(), receipt.visible_at, receipt.id, receipt.receives, RECEIVED),
        )?;
        tx.count(Total::Messages(lane), -(gone as i64));
    }
    Ok(())
}

pub(super) fn release(
    tx: &mut Transaction<'_>,
    lane: Lane,
    receipts: &[Receipt],
    now: Timestamp,
    delay: Duration,
) -> rusqlite::Result<()> {
    let (visible_at, held) =
        (now.plus(delay).as_millis(), if delay.is_zero() { SENT } else { RELEASED });
    let mut released = 0;
    for receipt in receipts {
        released += tx.execute(
            "UPDATE messages SET visible_at = ?6, held = ?7
             WHERE lane = ?1 AND visible_at = ?2 AND id = ?3 AND receives = ?4 AND held = ?5",
            (
                lane.code(),
                receipt.visible_at,
                receipt.id,
                receipt.receives,
                RECEIVED,
                visible_at,
                held,
            ),
        )?;
    }
    tx.announce(lane, released);
    Ok(())
}

/// When the first message of the lane becomes or became visible.
pub(super) fn first_visible_at(
    connection: &Connection,
    lane: Lane,
) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = connection.prepare_cached(
        "SELECT visible_at FROM messages WHERE lane = ?1 ORDER BY visible_at LIMIT 1",
    )?;
    statement.query_row([lane.code()], |row| row.get(0).map(Timestamp::from_millis)).optional()
}

/// Totals count all messages. Hidden messages are few, so each call counts them.
pub(super) fn depth(
    connection: &Connection,
    lane: Lane,
    now: Timestamp,
) -> rusqlite::Result<Depth> {
    let read = connection.unchecked_transaction()?;
    let all = totals(&read)?[Total::Messages(lane).slot()];
    let (in_flight, delayed): (i64, i64) = read
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE held <> 0), count(*) FILTER (WHERE held = 0)
             FROM (SELECT held FROM messages WHERE lane = ?1 AND visible_at > ?2 LIMIT ?3)",
        )?
        .query_row((lane.code(), now.as_millis(), MAX_COUNTED), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (in_flight, delayed) = (in_flight as u64, delayed as u64);
    Ok(Depth { ready: all.saturating_sub(in_flight + delayed), in_flight, delayed })
}

/// Makes received messages visible, because their receivers are gone.
pub(super) fn release_all(tx: &mut Transaction<'_>, now: Timestamp) -> rusqlite::Result<u64> {
    let mut released = 0;
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        let changed = tx.execute(
            "UPDATE messages SET visible_at = min(visible_at, ?2), held = ?3, receives = \
             max(receives - 1, 0)
             WHERE lane = ?1 AND held = ?4",
            (lane.code(), now.as_millis(), SENT, RECEIVED),
        )?;
        tx.announce(lane, changed);
        released += changed as u64;
    }
    Ok(released)
}

/// What the messages ask to look at. For an unreadable message, its ID is enough.
pub(super) fn looks(connection: &Connection) -> rusqlite::Result<Vec<DueId>> {
    #[derive(Deserialize)]
    struct Named {
        webhook_id: Option<WebhookId>,
        message_id: Option<MessageId>,
    }
    let mut statement = connection.prepare_cached("SELECT body FROM messages")?;
    let mut rows = statement.query(())?;
    let mut looks = Vec::new();
    while let Some(row) = rows.next()? {
        if let Ok(named) = serde_json::from_str::<Named>(row.get_ref(0)?.as_str()?) {
            let webhook = named.webhook_id.map(DueId::Webhook);
            looks.extend(webhook.or(named.message_id.map(DueId::Message)));
        }
    }
    Ok(looks)
}
