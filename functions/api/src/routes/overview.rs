//! `GET /overview`: the last hour by minute, and the webhook that has waited longest, for the
//! operator's page.
//!
//! There are no counters by minute. Both figures are computed from at most [`MAX_READ`] entries of
//! each index: the newest webhooks, and the start of the due index. If that is not enough,
//! `complete` is false, and the figures of the hour start at `since`. A request costs as much as a
//! long page of a list, so it is not meant to be made every second.

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
    store::{DueId, Filter, Listed, MAX_READ, Page, StoreError},
};

use utoipa::ToSchema;

use crate::{app::App, input::query, openapi::schemas, problem::Problem, respond};

const MINUTE: Duration = Duration::from_secs(60);

/// The minutes in the response, including the current one.
const MINUTES: usize = 60;

/// The store can return the newest webhooks in several short pages, for example at midnight.
const MAX_PAGES: usize = 4;

/// The entries that are read from the due index.
const MAX_DUE_READ: usize = 250;

/// The oldest of them, whose records are read.
const MAX_DUE_OPENED: usize = 20;

#[derive(Debug, Serialize, ToSchema)]
struct Overview {
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    now: Timestamp,
    last_hour: LastHour,
    oldest_waiting: OldestWaiting,
}

/// Webhooks by the minute of their acceptance and by their current status.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct LastHour {
    /// Whether the figures contain all webhooks of the hour.
    complete: bool,
    /// The figures contain all webhooks that were accepted since this time.
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    since: Timestamp,
    /// One entry for each minute, oldest first. The last minute is the current one.
    minutes: Vec<Minute>,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct Minute {
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    at: Timestamp,
    delivered: u64,
    /// Pending, in progress or retrying.
    waiting: u64,
    failed: u64,
}

/// The unfinished webhook that has waited longest. Scheduled webhooks count from their time.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct OldestWaiting {
    /// Whether it is certain that no other webhook has waited longer.
    complete: bool,
    #[schema(value_type = Option<schemas::AnyWebhookId>)]
    webhook_id: Option<WebhookId>,
    /// When it was accepted or sent again, or the time for which it was scheduled.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    since: Option<Timestamp>,
}

/// Get an overview of the last hour
///
/// The overview is computed from at most 1000 webhooks. If there are more, `complete` is false. A
/// request costs as much as a long page of a list.
#[utoipa::path(
    get, path = "/overview", tag = "Watching", operation_id = "overview",
    responses((
        status = 200, description = "The last hour, and the longest wait.", body = Overview,
    )),
)]
pub(crate) async fn overview_get(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let now = app.now();
    let _permit = app.capacity.records(MAX_READ).await?;
    let (newest, due) = future::try_join(newest(&app, first_minute(now)), due(&app, now)).await?;
    let overview = Overview {
        now,
        last_hour: last_hour(&newest, now),
        oldest_waiting: oldest_waiting(&app, &newest, &due, now),
    };
    Ok(respond::json(StatusCode::OK, &overview))
}

/// The newest webhooks.
struct Newest {
    webhooks: Vec<Webhook>,
    /// All webhooks that were accepted since this time are included. `None` means all webhooks.
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
        let is_enough = after.is_none_or(|next| next.task.created_at() < wanted_since);
        if is_enough || webhooks.len() >= MAX_READ {
            break;
        }
    }
    // Webhooks of the position's own millisecond can be missing.
    let since = after.map(|next| next.task.created_at().plus(Duration::from_millis(1)));
    Ok(Newest { webhooks, since })
}

/// The start of the due index.
struct Due {
    /// The oldest webhooks in it.
    webhooks: Vec<Webhook>,
    /// When the next older webhook was created, if there is one.
    rest_since: Option<Timestamp>,
    /// Whether these are all entries.
    complete: bool,
}

/// Reads entries of every due time: the webhook with the latest due time can have waited longest.
async fn due(app: &App, now: Timestamp) -> Result<Due, StoreError> {
    let store = &app.context.store;
    let mut entries = store
        .due(now.plus(Duration::from_secs(u64::from(u32::MAX))), None, MAX_DUE_READ)
        .await?
        .entries;
    let complete = entries.len() < MAX_DUE_READ;
    entries.sort_by_key(|entry| entry.id.task());
    let rest_since = entries.get(MAX_DUE_OPENED).map(|entry| entry.id.task().created_at());
    // A due message stands for its deliveries that are not in the index themselves.
    let records = entries.iter().take(MAX_DUE_OPENED).map(async |entry| match &entry.id {
        DueId::Webhook(id) => Ok(store.get(id).await?.into_iter().collect()),
        DueId::Message(id) => {
            let standing = store.standing(id).await?;
            Ok(standing.map_or_else(Vec::new, |standing| standing.visible_deliveries(now)))
        }
    });
    let mut webhooks: Vec<Webhook> = Vec::new();
    for record in future::join_all(records).await {
        match record {
            Ok(found) => webhooks.extend(found),
            // It stays in the index until a version that can read it runs.
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
        // The clock of another machine can be ahead, so a webhook can be from the next minute.
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
    // The audit puts older unfinished webhooks into the due index. It reads each minute after its
    // end, with a delay.
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
