//! `GET /overview`: the last hour minute by minute, and what has waited longest; for the operator's
//! page.
//!
//! Nothing counts by minute, so both are read from the webhooks themselves, at most [`MAX_READ`] of
//! each index: the newest webhooks, and the beginning of the due index. Where that does not reach,
//! the answer says so: `complete` is false, and the hour's figures are those since `since`. It
//! costs as much as a long page of a list, so it is to be asked for now and then rather than each
//! second.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use futures_util::future;
use http::StatusCode;
use serde::Serialize;
use shared::{
    clock::{Timestamp, rfc3339},
    id::WebhookId,
    model::{Transition, Webhook},
    status::Status,
    store::{Filter, Listed, MAX_READ, Page, StoreError},
};

#[cfg(feature = "openapi")]
use crate::openapi::schemas;
use crate::{app::App, idempotency::answer, problem::Problem, query, view::to_json};

const MINUTE: Duration = Duration::from_secs(60);

/// Minutes shown, the present one included.
const MINUTES: usize = 60;

/// The newest webhooks may come in several short pages, such as at midnight.
const MAX_PAGES: usize = 4;

/// Entries read of each part of the due index.
const MAX_DUE_READ: usize = 250;

/// Of those, how many of the oldest are looked at.
const MAX_DUE_OPENED: usize = 20;

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
struct Overview {
    #[serde(with = "rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Time))]
    now: Timestamp,
    last_hour: LastHour,
    oldest_waiting: OldestWaiting,
}

/// Webhooks by the minute in which they were accepted and by what has become of them so far.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
struct LastHour {
    /// Whether all of them were read.
    complete: bool,
    /// All of them were read that were accepted since.
    #[serde(with = "rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Time))]
    since: Timestamp,
    /// One for each minute, oldest first; the last one is not over yet.
    minutes: Vec<Minute>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
struct Minute {
    #[serde(with = "rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Time))]
    at: Timestamp,
    delivered: u64,
    waiting: u64,
    failed: u64,
}

/// The webhook that has waited longest, of those that were to be sent by now.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
struct OldestWaiting {
    /// Whether there can be no older one.
    complete: bool,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<schemas::WebhookId>))]
    webhook_id: Option<WebhookId>,
    /// Since it was accepted or sent again; of a scheduled one, since its time came.
    #[serde(with = "rfc3339::option")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<schemas::Time>))]
    since: Option<Timestamp>,
}

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/overview", tag = "Watching", operation_id = "overview",
    summary = "The last hour minute by minute, and what has waited longest",
    description = "Read from at most 1000 webhooks; where that does not reach, `complete` is \
        false. It costs as much as a long page of a list.",
    responses((status = 200, description = "The last hour.", body = Overview)),
))]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let now = app.now();
    let _room = app.room.records(MAX_READ).await?;
    let (newest, due) = future::try_join(newest(&app, first_minute(now)), due(&app, now)).await?;
    let overview = Overview {
        now,
        last_hour: last_hour(&newest, now),
        oldest_waiting: oldest_waiting(&app, &newest, &due, now),
    };
    Ok(answer(StatusCode::OK, to_json(&overview)))
}

/// The newest webhooks, and since when they are all there.
struct Newest {
    webhooks: Vec<Webhook>,
    /// `None`: since ever.
    since: Option<Timestamp>,
}

async fn newest(app: &App, wanted_since: Timestamp) -> Result<Newest, StoreError> {
    let mut webhooks = Vec::new();
    let mut after = None;
    for _ in 0..MAX_PAGES {
        let limit = MAX_READ - webhooks.len();
        let Page { items, next } = app.context.store.list(&Filter::default(), after, limit).await?;
        webhooks.extend(items.into_iter().map(|Listed { webhook, .. }| webhook));
        after = next;
        let is_enough = after.is_none_or(|next| next.created_at() < wanted_since);
        if is_enough || webhooks.len() >= MAX_READ {
            break;
        }
    }
    // Of the position's own millisecond some may be missing.
    let since = after.map(|next| next.created_at().plus(Duration::from_millis(1)));
    Ok(Newest { webhooks, since })
}

/// What stands at the beginning of the due index.
struct Due {
    /// The oldest of it.
    webhooks: Vec<Webhook>,
    /// When the next one was created; `None` if there is none.
    rest_since: Option<Timestamp>,
    /// Whether that is all there is.
    complete: bool,
}

/// Whatever its time: what is to be looked at last may have waited longest.
async fn due(app: &App, now: Timestamp) -> Result<Due, StoreError> {
    let store = &app.context.store;
    let mut entries = store
        .due(now.plus(Duration::from_secs(u64::from(u32::MAX))), None, MAX_DUE_READ)
        .await?
        .entries;
    let complete = entries.len() < MAX_DUE_READ;
    entries.sort_by_key(|entry| entry.id.task);
    let rest_since = entries.get(MAX_DUE_OPENED).map(|entry| entry.id.task.created_at());
    let records = entries.iter().take(MAX_DUE_OPENED).map(|entry| store.get(&entry.id));
    let mut webhooks = Vec::new();
    for record in future::join_all(records).await {
        match record {
            Ok(webhook) => webhooks.extend(webhook),
            // It stays in the index until somebody who can read it has looked.
            Err(StoreError::Unreadable { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Due { webhooks, rest_since, complete })
}

fn first_minute(now: Timestamp) -> Timestamp {
    let minute_ms = MINUTE.as_millis() as i64;
    let present = Timestamp::from_millis(now.as_millis().div_euclid(minute_ms) * minute_ms);
    present.minus(MINUTE * (MINUTES as u32 - 1))
}

fn last_hour(newest: &Newest, now: Timestamp) -> LastHour {
    let start = first_minute(now);
    let mut minutes: Vec<Minute> = (0..MINUTES as u32)
        .map(|index| Minute { at: start.plus(MINUTE * index), delivered: 0, waiting: 0, failed: 0 })
        .collect();
    for webhook in newest.webhooks.iter().filter(|webhook| webhook.created_at >= start) {
        let index = webhook.created_at.since(start).as_secs() / MINUTE.as_secs();
        // A clock that is ahead: accepted a moment from now.
        let minute = &mut minutes[(index as usize).min(MINUTES - 1)];
        match webhook.status {
            Status::Delivered => minute.delivered += 1,
            Status::Failed => minute.failed += 1,
            Status::Pending | Status::InProgress | Status::Retrying => minute.waiting += 1,
        }
    }
    let since = newest.since.filter(|since| *since > start);
    LastHour { complete: since.is_none(), since: since.unwrap_or(start), minutes }
}

fn oldest_waiting(app: &App, newest: &Newest, due: &Due, now: Timestamp) -> OldestWaiting {
    let unfinished =
        newest.webhooks.iter().chain(&due.webhooks).filter(|webhook| !webhook.status.is_finished());
    let waiting = unfinished
        .map(|webhook| (waits_since(webhook), webhook))
        .filter(|(since, _)| *since <= now);
    let oldest = waiting.min_by_key(|(since, _)| *since);
    // What is older than that and unfinished is in the due index. The audit reads a minute once it
    // is over, and takes its time.
    let audited_until = now.minus(app.context.config.audit_age + MINUTE * 2);
    let is_older_than_rest =
        due.rest_since.is_none_or(|rest| oldest.is_some_and(|(since, _)| since <= rest));
    OldestWaiting {
        complete: due.complete
            && is_older_than_rest
            && newest.since.is_none_or(|since| since <= audited_until),
        webhook_id: oldest.map(|(_, webhook)| webhook.id.clone()),
        since: oldest.map(|(since, _)| since),
    }
}

fn waits_since(webhook: &Webhook) -> Timestamp {
    let starts = |transition| {
        matches!(transition, Transition::Create | Transition::Resend | Transition::Redrive)
    };
    let start = webhook.history.iter().rev().find(|step| starts(step.transition));
    start.map_or(webhook.created_at, |step| {
        step.allowed_at.map_or(step.at, |allowed_at| allowed_at.max(step.at))
    })
}

#[cfg(test)]
mod tests {
    use shared::transition::{Rules, testing};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_030_000);

    fn accepted(before: Duration) -> Webhook {
        testing::webhook(NOW.minus(before))
    }

    #[test]
    fn an_hour_has_sixty_minutes_and_says_how_far_back_it_is_true() {
        let ages = [0, 10, 45, 3500, 3570, 3631].map(Duration::from_secs);
        let mut webhooks: Vec<Webhook> = ages.into_iter().map(accepted).collect();
        webhooks[1].status = Status::Delivered;
        webhooks[2].status = Status::Failed;
        let hour = last_hour(&Newest { webhooks: webhooks.clone(), since: None }, NOW);
        assert_eq!((hour.minutes.len(), hour.complete, hour.since), (60, true, hour.minutes[0].at));
        // The present minute is 50 seconds old.
        assert_eq!(
            hour.minutes[59],
            Minute { at: NOW.minus(Duration::from_secs(50)), delivered: 1, waiting: 1, failed: 1 }
        );
        assert_eq!(
            hour.minutes.iter().map(|minute| minute.waiting).sum::<u64>(),
            3,
            "the oldest one is out of it"
        );
        let since = NOW.minus(Duration::from_secs(45));
        let cut = last_hour(&Newest { webhooks, since: Some(since) }, NOW);
        assert_eq!((cut.complete, cut.since), (false, since));
    }

    #[test]
    fn a_webhook_waits_since_it_was_last_asked_for() {
        let rules = Rules::default();
        let mut webhook = accepted(Duration::from_secs(100));
        assert_eq!(waits_since(&webhook), webhook.created_at);
        webhook.status = Status::Delivered;
        let again = rules.resend(&webhook, NOW).unwrap();
        assert_eq!(waits_since(&again), NOW);
        let scheduled = NOW.plus(Duration::from_secs(9));
        webhook.history[0].allowed_at = Some(scheduled);
        assert_eq!(waits_since(&webhook), scheduled);
    }
}
