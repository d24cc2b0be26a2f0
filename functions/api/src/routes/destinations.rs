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
    circuit::{Circuit, State as CircuitState},
    clock::{Timestamp, rfc3339},
    model::LastError,
    store::{DestinationActivity, DestinationTotals, MAX_DESTINATIONS},
};
use url::Url;

use utoipa::ToSchema;

use crate::{app::App, input::query, openapi::schemas, problem::Problem, respond, view::ErrorView};

/// The activity of a destination in the current and the previous hour.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Destination)]
struct DestinationView<'a> {
    /// Scheme, host and port.
    destination: &'a str,
    host: String,
    #[schema(value_type = schemas::CircuitState)]
    circuit: CircuitState,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    open_until: Option<Timestamp>,
    /// The part of the attempts that succeeded, from 0 to 1. Null without attempts.
    #[schema(minimum = 0, maximum = 1)]
    success_share: Option<f64>,
    attempts: u64,
    failed: u64,
    /// An estimate. Webhooks that were deleted while they waited are still counted, and so are
    /// webhooks whose worker died.
    waiting: u64,
    last_error: Option<LatestError<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LatestError<'a> {
    #[serde(flatten)]
    error: ErrorView<'a>,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    at: Timestamp,
}

#[derive(Serialize, ToSchema)]
struct DestinationList<'a> {
    #[schema(max_items = 100)]
    items: Vec<DestinationView<'a>>,
}

/// List destinations
///
/// The worst destinations of the last one to two hours come first: those with an open circuit, then
/// those with the most failed attempts.
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
    let (totals, circuits) = future::try_join(store.destinations(now), store.circuits()).await?;
    let list = DestinationList { items: worst_first(&totals, &circuits, now) };
    Ok(respond::json(StatusCode::OK, &list))
}

/// Sorts by open circuits, then by failed attempts. A circuit can be open without an attempt in the
/// two hours.
fn worst_first<'a>(
    totals: &'a [DestinationTotals],
    circuits: &'a [Circuit],
    now: Timestamp,
) -> Vec<DestinationView<'a>> {
    let mut merged: BTreeMap<&str, (Option<&DestinationActivity>, Option<&Circuit>)> =
        BTreeMap::new();
    for totals in totals {
        merged.entry(&totals.destination).or_default().0 = Some(&totals.activity);
    }
    for circuit in circuits {
        merged.entry(&circuit.destination).or_default().1 = Some(circuit);
    }
    let mut views: Vec<_> = merged
        .into_iter()
        .map(|(destination, (activity, circuit))| view(destination, activity, circuit, now))
        .collect();
    views.sort_by_key(|view| Reverse((view.circuit as u8, view.failed, view.waiting)));
    views.truncate(MAX_DESTINATIONS);
    views
}

fn view<'a>(
    destination: &'a str,
    activity: Option<&'a DestinationActivity>,
    circuit: Option<&Circuit>,
    now: Timestamp,
) -> DestinationView<'a> {
    let (delivered, failed) =
        activity.map_or((0, 0), |activity| (activity.delivered, activity.failed));
    let attempts = delivered.saturating_add(failed);
    let last_error: Option<&(Timestamp, LastError)> =
        activity.and_then(|activity| activity.last_error.as_ref());
    DestinationView {
        destination,
        host: Url::parse(destination)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_default(),
        circuit: circuit.map_or(CircuitState::Closed, |circuit| circuit.state(now)),
        open_until: circuit.and_then(|circuit| circuit.open_until),
        success_share: (attempts > 0).then(|| delivered as f64 / attempts as f64),
        attempts,
        failed,
        // The sum of the workers' counts. A crash can leave it slightly below zero.
        waiting: activity.map_or(0, |activity| u64::try_from(activity.waiting).unwrap_or(0)),
        last_error: last_error
            .map(|(at, error)| LatestError { error: ErrorView::of(error), at: *at }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::{circuit::Settings, model::ErrorKind};

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
    fn open_circuits_come_first_and_then_the_most_failures() {
        let totals =
            [totals("https://a.example:443", 3, 1, -2), totals("http://[::1]:80", 0, 9, 4)];
        let settings = Settings { failures: 1, ..Settings::default() };
        let now = Timestamp::from_millis(5000);
        let circuits = [Circuit::closed("https://c.example:443").failed(&settings, now)];
        let views = worst_first(&totals, &circuits, now);
        let shown: Vec<_> = views
            .iter()
            .map(|view| (view.host.as_str(), view.failed, view.waiting, view.success_share))
            .collect();
        assert_eq!(
            shown,
            [
                ("c.example", 0, 0, None),
                ("[::1]", 9, 4, Some(0.0)),
                ("a.example", 1, 0, Some(0.75))
            ]
        );
        let first = serde_json::to_value(&views[0]).unwrap();
        assert_eq!(
            (&first["circuit"], &first["open_until"]),
            (&"open".into(), &now.plus(Duration::from_secs(30)).to_string().into())
        );
        let second = serde_json::to_value(&views[1]).unwrap();
        assert_eq!(second["last_error"]["kind"], "timeout");
        assert_eq!(second["last_error"]["at"], "1970-01-01T00:00:01.000Z");
    }
}
