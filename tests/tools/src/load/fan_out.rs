//! Messages to an application of N endpoints, against direct webhooks.
//!
//! Each round measures both on the same system, one after the other, in changing order: direct
//! webhooks and messages, with the same number of deliveries. Then it measures how long a publish
//! takes with N endpoints and with one, over one connection.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    LoadError,
    arrival::{Arrivals, LoadReceiver},
    closed::post_all,
    figures::milliseconds,
    open::nothing_accepted,
    plan::Plan,
    wire::{Connection, Server, Template, run_name},
};

/// Publishes for one measurement of the answer time.
const PUBLISHES: u32 = 200;

/// The result of the fan-out measurement.
#[derive(Clone, Debug, Serialize)]
pub struct FanOut {
    /// Endpoints of the application.
    pub endpoints: u16,
    /// Deliveries of each run.
    pub deliveries: u32,
    /// The rounds, in order.
    pub rounds: Vec<Round>,
}

/// One round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Direct webhooks per second, from the first POST until the receiver had all of them.
    pub direct_per_second: f64,
    /// Deliveries of messages per second, from the first POST until the receiver had all of them.
    pub deliveries_per_second: f64,
    /// The mean answer time of a publish to one endpoint, in milliseconds.
    pub publish_one_ms: f64,
    /// The mean answer time of a publish to all endpoints, in milliseconds.
    pub publish_all_ms: f64,
}

impl Round {
    fn speed(&self) -> f64 {
        self.deliveries_per_second / self.direct_per_second
    }

    fn answer(&self) -> f64 {
        self.publish_all_ms / self.publish_one_ms
    }
}

impl FanOut {
    /// Deliveries a second relative to direct webhooks: the median, the least, the most.
    pub fn speed(&self) -> [f64; 3] {
        spread(self.rounds.iter().map(Round::speed))
    }

    /// The answer time relative to one endpoint: the median, the least, the most.
    pub fn answer(&self) -> [f64; 3] {
        spread(self.rounds.iter().map(Round::answer))
    }
}

impl fmt::Display for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [speed, least, most] = self.speed();
        let [answer, fastest, slowest] = self.answer();
        let figure = |of: fn(&Round) -> f64| spread(self.rounds.iter().map(of))[0];
        write!(
            f,
            "{:.0} deliveries/s, {:.0} direct webhooks/s: {speed:.2} ({least:.2} to {most:.2}); a \
             publish {:.2} ms, to one endpoint {:.2} ms: {answer:.2} ({fastest:.2} to \
             {slowest:.2}); median of {} rounds",
            figure(|round| round.deliveries_per_second),
            figure(|round| round.direct_per_second),
            figure(|round| round.publish_all_ms),
            figure(|round| round.publish_one_ms),
            self.rounds.len(),
        )
    }
}

fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    [at(values.len() / 2), at(0), at(values.len().saturating_sub(1))]
}

/// Measures the rounds of a plan.
pub(crate) async fn measure(
    plan: &Plan,
    api: &Server,
    endpoints: u16,
) -> Result<FanOut, LoadError> {
    let wanted = plan.webhooks.unwrap_or(super::plan::THROUGHPUT_WEBHOOKS);
    let messages = (wanted / u32::from(endpoints)).max(1);
    let deliveries = messages * u32::from(endpoints);
    let mut rounds = Vec::new();
    for round in 1..=plan.rounds {
        plan.say(format_args!(
            "round {round}: {deliveries} direct webhooks, {messages} messages to {endpoints} \
             endpoints"
        ));
        let (direct, published) = if round % 2 == 1 {
            let direct = direct(plan, api, deliveries).await?;
            (direct, publish(plan, api, messages, endpoints).await?)
        } else {
            let published = publish(plan, api, messages, endpoints).await?;
            (direct(plan, api, deliveries).await?, published)
        };
        let one = answer_time(plan, api, 1).await?;
        let all = answer_time(plan, api, endpoints).await?;
        rounds.push(Round {
            direct_per_second: f64::from(deliveries) / direct.as_secs_f64(),
            deliveries_per_second: f64::from(deliveries) / published.as_secs_f64(),
            publish_one_ms: milliseconds(one),
            publish_all_ms: milliseconds(all),
        });
    }
    Ok(FanOut { endpoints, deliveries, rounds })
}

async fn direct(plan: &Plan, api: &Server, webhooks: u32) -> Result<Duration, LoadError> {
    let arrivals = Arrivals::new(run_name(), webhooks);
    let receiver = LoadReceiver::start(Arc::clone(&arrivals))?;
    let (key, bytes) = (plan.api_key.as_deref(), plan.payload_bytes);
    let template = Template::submission(api, key, receiver.url(), arrivals.run(), bytes);
    let (took, _) = run(plan, api, &template, &arrivals, (webhooks, plan.connections)).await?;
    receiver.stop()?;
    Ok(took)
}

async fn publish(
    plan: &Plan,
    api: &Server,
    messages: u32,
    endpoints: u16,
) -> Result<Duration, LoadError> {
    Ok(published(plan, api, (messages, plan.connections), endpoints).await?.0)
}

/// The mean time from a publish to its answer, over one connection.
async fn answer_time(plan: &Plan, api: &Server, endpoints: u16) -> Result<Duration, LoadError> {
    let (_, answered) = published(plan, api, (PUBLISHES, 1), endpoints).await?;
    Ok(answered / PUBLISHES)
}

/// Publishes this many messages over this many connections. Returns the times from the first POST
/// until the receiver had all deliveries, and until the last answer.
async fn published(
    plan: &Plan,
    api: &Server,
    (messages, connections): (u32, u16),
    endpoints: u16,
) -> Result<(Duration, Duration), LoadError> {
    let arrivals = Arrivals::of_messages(run_name(), messages, endpoints);
    let receiver = LoadReceiver::start(Arc::clone(&arrivals))?;
    let key = plan.api_key.as_deref();
    let application = format!("load-{}", arrivals.run());
    set_up(api, key, &application, receiver.url(), endpoints)?;
    let template = Template::message(api, key, &application, arrivals.run(), plan.payload_bytes);
    let times = run(plan, api, &template, &arrivals, (messages, connections)).await?;
    receiver.stop()?;
    Ok(times)
}

async fn run(
    plan: &Plan,
    api: &Server,
    template: &Template,
    arrivals: &Arc<Arrivals>,
    (requests, connections): (u32, u16),
) -> Result<(Duration, Duration), LoadError> {
    let posted = post_all(api, template, requests, connections, 202).await?;
    if posted.answered(202) < u64::from(requests) {
        return Err(nothing_accepted(posted.first_refusal));
    }
    arrivals.wait_for(arrivals.expected(), plan.arrival_bound()).await?;
    if arrivals.duplicates() > 0 {
        let found = arrivals.duplicates();
        return Err(LoadError::Protocol(format!("{found} webhooks arrived more than once")));
    }
    let first_sent = posted.first_sent.unwrap_or_else(Instant::now);
    let last = arrivals.epoch() + arrivals.latest();
    Ok((last.saturating_duration_since(first_sent), posted.took))
}

/// Creates an application with this many endpoints below the URL of the receiver.
pub(crate) fn set_up(
    api: &Server,
    key: Option<&str>,
    application: &str,
    receiver: &str,
    endpoints: u16,
) -> Result<(), LoadError> {
    let mut connection = Connection::open(api)?;
    let mut call = |method: &str, path: &str, body: &Value| {
        let request = api.request(method, path, key, &body.to_string());
        let (status, text) =
            connection.exchange(request.as_bytes()).map_err(|error| api.error("set up", error))?;
        if status == 201 {
            Ok(())
        } else {
            Err(LoadError::Protocol(format!("{method} {path} returned {status}: {text}")))
        }
    };
    call("PUT", &format!("/applications/{application}"), &json!({}))?;
    for number in 0..endpoints {
        let path = format!("/applications/{application}/endpoints");
        call("POST", &path, &json!({"url": format!("{receiver}/{number}")}))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_shown_with_its_spread() {
        let round = |direct, deliveries, all| Round {
            direct_per_second: direct,
            deliveries_per_second: deliveries,
            publish_one_ms: 1.0,
            publish_all_ms: all,
        };
        let rounds =
            vec![round(100.0, 150.0, 2.0), round(100.0, 50.0, 1.5), round(100.0, 90.0, 3.0)];
        let fan_out = FanOut { endpoints: 10, deliveries: 100, rounds };
        let shown = fan_out.to_string();
        assert!(shown.contains("0.90 (0.50 to 1.50)"), "{shown}");
        assert!(shown.contains("2.00 (1.50 to 3.00)"), "{shown}");
    }
}
