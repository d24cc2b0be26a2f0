//! `GET /destinations`.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use futures_util::future;
use http::StatusCode;
use serde::Serialize;
use shared::{
    circuit::State as CircuitState,
    clock::{Timestamp, rfc3339},
    model::LastError,
    store::{DestinationActivity, DestinationTotals, MAX_DESTINATIONS, TargetState},
    traffic::{rate_limit::RateLimits, target::TargetKey},
};
use url::Url;

use utoipa::ToSchema;

use crate::{
    app::App, input::query, openapi::schemas, problem::Problem, respond, target_view::TargetView,
    view::LatestError,
};

/// The activity of a destination in the current and the previous hour, and its targets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Destination)]
struct DestinationView<'a> {
    /// Scheme, host and port. For an endpoint, `{application_id}/{endpoint_id}`.
    destination: &'a str,
    /// The application of an endpoint. Null for others.
    #[schema(value_type = Option<schemas::ApplicationId>)]
    application_id: Option<&'a str>,
    /// The endpoint. Null for other destinations.
    #[schema(value_type = Option<schemas::EndpointId>)]
    endpoint_id: Option<&'a str>,
    /// The host name or address. Empty for an endpoint.
    host: String,
    /// The state of the worst circuit among its targets.
    #[schema(value_type = schemas::CircuitState)]
    circuit: CircuitState,
    /// When that circuit allows the next probe. Null if it is closed.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    open_until: Option<Timestamp>,
    /// The configured rate of the host, e.g. `10/1s`. Null without one.
    rate_limit: Option<String>,
    /// The part of the attempts that succeeded, from 0 to 1. Null without attempts.
    #[schema(minimum = 0, maximum = 1)]
    success_share: Option<f64>,
    /// The attempts of the two hours.
    attempts: u64,
    /// Those that failed.
    failed: u64,
    /// Unfinished webhooks. An estimate. Webhooks that were deleted while they waited are still
    /// counted, and so are webhooks whose worker died.
    waiting: u64,
    /// The latest failed attempt of the two hours. Null without one.
    last_error: Option<LatestError<'a>>,
    /// The targets of the destination that restrict attempts now: the destination itself, and its
    /// URLs. An endpoint is one target. A destination without any is not restricted, except by
    /// `rate_limit`.
    #[schema(max_items = 100)]
    targets: Vec<TargetView<'a>>,
}

#[derive(Serialize, ToSchema)]
struct DestinationList<'a> {
    #[schema(max_items = 100)]
    items: Vec<DestinationView<'a>>,
}

/// List destinations
///
/// The worst destinations of the last one to two hours come first: those with an open circuit, then
/// those with a pause, then those with the most failed attempts.
#[utoipa::path(
    get, path = "/destinations", tag = "Watching", operation_id = "list_destinations",
    responses((
        status = 200, description = "At most 100 destinations.", body = DestinationList<'static>,
    )),
)]
pub(crate) async fn destination_list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let now = app.now();
    let store = &app.context.store;
    let (totals, targets) = future::try_join(store.destinations(now), store.targets(now)).await?;
    let list = DestinationList {
        items: worst_first(&totals, &targets, &app.context.config.rate_limits, now),
    };
    Ok(respond::json(StatusCode::OK, &list))
}

/// Sorts by open circuits and pauses, then by failed attempts. A target can restrict attempts
/// although there was none in the two hours.
fn worst_first<'a>(
    totals: &'a [DestinationTotals],
    targets: &'a [TargetState],
    rate_limits: &RateLimits,
    now: Timestamp,
) -> Vec<DestinationView<'a>> {
    let mut merged: BTreeMap<&str, (Option<&DestinationActivity>, Vec<TargetView<'a>>)> =
        BTreeMap::new();
    for totals in totals {
        merged.entry(&totals.destination).or_default().0 = Some(&totals.activity);
    }
    for state in targets {
        let Some(target) = &state.target else { continue };
        let destination = target.key.origin_part();
        let limit = rate_limits.of_destination(destination);
        merged.entry(destination).or_default().1.extend(TargetView::of(state, limit, now));
    }
    let mut views: Vec<_> = merged
        .into_iter()
        .map(|(destination, (activity, targets))| view(destination, activity, targets, rate_limits))
        .collect();
    views.sort_by_key(|view| {
        let is_paused = view.targets.iter().any(|target| target.paused_until.is_some());
        Reverse((view.circuit as u8, is_paused, view.failed, view.waiting))
    });
    views.truncate(MAX_DESTINATIONS);
    views
}

fn view<'a>(
    destination: &'a str,
    activity: Option<&'a DestinationActivity>,
    targets: Vec<TargetView<'a>>,
    rate_limits: &RateLimits,
) -> DestinationView<'a> {
    let (delivered, failed) =
        activity.map_or((0, 0), |activity| (activity.delivered, activity.failed));
    let attempts = delivered.saturating_add(failed);
    let last_error: Option<&(Timestamp, LastError)> =
        activity.and_then(|activity| activity.last_error.as_ref());
    let worst = targets.iter().max_by_key(|target| (target.circuit as u8, target.open_until));
    let endpoint = TargetKey::origin(destination);
    let endpoint = destination.split_once('/').filter(|_| endpoint.is_endpoint());
    DestinationView {
        destination,
        application_id: endpoint.map(|(application, _)| application),
        endpoint_id: endpoint.map(|(_, endpoint)| endpoint),
        host: Url::parse(destination)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_default(),
        circuit: worst.map_or(CircuitState::Closed, |target| target.circuit),
        open_until: worst.and_then(|target| target.open_until),
        rate_limit: rate_limits.of_destination(destination).map(|limit| limit.to_string()),
        success_share: (attempts > 0).then(|| delivered as f64 / attempts as f64),
        attempts,
        failed,
        // The sum of the workers' counts. A crash can leave it slightly below zero.
        waiting: activity.map_or(0, |activity| u64::try_from(activity.waiting).unwrap_or(0)),
        last_error: last_error.map(|(at, error)| LatestError::of(error, *at)),
        targets,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::{
        circuit::Settings,
        model::ErrorKind,
        traffic::{
            pace::{Pace, Refusal},
            target::Target,
        },
    };

    use super::*;

    fn totals(destination: &str, delivered: u64, failed: u64, waiting: i64) -> DestinationTotals {
        let error = LastError {
            kind: ErrorKind::Timeout,
            status_code: None,
            message: "no answer".to_owned(),
        };
        let last_error = (failed > 0).then(|| (Timestamp::from_millis(1000), error));
        DestinationTotals {
            destination: destination.to_owned(),
            activity: DestinationActivity { delivered, failed, waiting, last_error },
        }
    }

    #[test]
    fn open_circuits_come_first_then_pauses_then_the_most_failures() {
        let totals =
            [totals("https://a.example:443", 3, 1, -2), totals("http://[::1]:80", 0, 9, 4)];
        let settings = Settings { failures: 1, ..Settings::default() };
        let now = Timestamp::from_millis(5000);
        let open = Target::idle(TargetKey::origin("https://c.example:443"));
        let refusal = Refusal { attempt_started_at: now, status_code: 429, retry_after: None };
        let pace = Pace::after_refusal(None, &refusal, Duration::from_secs(60), None, now);
        let paused = Target::idle(TargetKey::url("https://a.example:443", "hash"));
        let of_c = |hash| Target::idle(TargetKey::url("https://c.example:443", hash));
        let longer = Settings { open: Duration::from_secs(60), ..settings };
        let targets = [
            of_c("longer").failed(1, &longer, now),
            open.failed(1, &settings, now),
            of_c("paused").paused(pace.unwrap(), now),
            paused.paused(pace.unwrap(), now),
        ]
        .map(|target| TargetState { target: Some(target), counters: None });
        let limits = "*.example=1/2s".parse().unwrap();
        let views = worst_first(&totals, &targets, &limits, now);
        let shown: Vec<_> = views
            .iter()
            .map(|view| (view.host.as_str(), view.failed, view.waiting, view.success_share))
            .collect();
        assert_eq!(
            shown,
            [
                ("c.example", 0, 0, None),
                ("a.example", 1, 0, Some(0.75)),
                ("[::1]", 9, 4, Some(0.0)),
            ]
        );
        let first = serde_json::to_value(&views[0]).unwrap();
        assert_eq!(
            (&first["circuit"], &first["open_until"]),
            (&"open".into(), &now.plus(Duration::from_secs(60)).to_string().into()),
            "the circuit that is open for the longest"
        );
        let second = serde_json::to_value(&views[1]).unwrap();
        assert_eq!((&second["circuit"], &second["rate_limit"]), (&"closed".into(), &"1/2s".into()));
        assert_eq!(
            second["targets"],
            serde_json::json!([{
                "target": "https://a.example:443#hash", "circuit": "closed", "open_until": null,
                "retries_only": false, "paused_until": "1970-01-01T00:00:06.000Z",
                "paused_by": 429, "learned_rate": 0.5, "waiting": 0,
            }])
        );
        let second = serde_json::to_value(&views[2]).unwrap();
        assert_eq!(second["last_error"]["kind"], "timeout");
        assert_eq!(second["last_error"]["at"], "1970-01-01T00:00:01.000Z");
    }
}
