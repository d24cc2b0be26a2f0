//! The totals as Prometheus text.

use std::collections::BTreeMap;

use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{
    BUCKETS_MS, DELIVERY_SECONDS, DELIVERY_STATUSES, Mode, TASK_STATUSES, bucket_key, delivery_key,
    sum_key, task_key, task_seconds_name,
};
use crate::{
    circuit::State,
    clock::Timestamp,
    status::Status,
    store::{MAX_TARGETS, TargetState},
    traffic::{
        pace::Pace,
        rate_limit::{RateLimit, RateLimits},
        target::TargetKey,
    },
};

const TARGET_PAUSED: (&str, &str) =
    ("webhook_target_paused", "Whether the target asked to wait, and the wait is not over.");
const TARGET_RATE: (&str, &str) = (
    "webhook_target_rate",
    "The learned rate of a target that refused requests, in attempts per second.",
);
const TARGET_WAITING: (&str, &str) =
    ("webhook_target_waiting", "Webhooks that have a slot of the target's learned rate.");

/// The gauges: the current state of the system.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Webhooks per status, in the order of [`Status::ALL`].
    pub counts: [u64; Status::ALL.len()],
    /// The targets that restrict attempts. The first [`MAX_TARGETS`] are shown.
    pub targets: Vec<TargetState>,
    /// The configured rates, which learned rates never exceed.
    pub rate_limits: RateLimits,
}

/// Renders the totals and the gauges as Prometheus text. Every series except the circuits is always
/// present, at zero if necessary, so that a rate has a start.
pub fn render(totals: &BTreeMap<String, u64>, gauges: &Gauges, now: Timestamp) -> String {
    let targets = &gauges.targets[..gauges.targets.len().min(MAX_TARGETS)];
    let shown: Vec<Shown<'_>> =
        targets.iter().filter_map(|state| Shown::of(state, &gauges.rate_limits, now)).collect();
    let families = [
        deliveries(totals),
        family(
            "webhook_delivery_seconds",
            "Time from the start of an attempt to the end of its answer.",
            MetricType::HISTOGRAM,
            vec![histogram(totals, DELIVERY_SECONDS, &[("worker_id", "deliver")])],
        ),
        tasks(totals),
        family(
            "task_processing_seconds",
            "Time to work on one queue message (deliver, dlq) or to make one run (sweep).",
            MetricType::HISTOGRAM,
            Mode::ALL
                .iter()
                .map(|mode| {
                    histogram(
                        totals,
                        &task_seconds_name(*mode),
                        &[("mode", mode.as_str()), ("worker_id", mode.as_str())],
                    )
                })
                .collect(),
        ),
        circuits(targets, now),
        paces(&shown, TARGET_PAUSED, |shown| f64::from(u8::from(shown.pace.is_paused(now)))),
        paces(&shown, TARGET_RATE, |shown| shown.pace.rate(now, shown.limit)),
        paces(&shown, TARGET_WAITING, |shown| shown.state.waiting(shown.limit, now) as f64),
        counts(gauges.counts),
    ];
    let mut text = Vec::new();
    // The encoder rejects a family without a metric.
    for family in families.into_iter().filter(|family| !family.get_metric().is_empty()) {
        if let Err(error) = TextEncoder::new().encode(&[family], &mut text) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "A metric could not be written"
            );
        }
    }
    String::from_utf8(text).unwrap_or_default()
}

fn deliveries(totals: &BTreeMap<String, u64>) -> MetricFamily {
    let metrics = DELIVERY_STATUSES
        .iter()
        .map(|status| {
            counter(
                totals,
                &delivery_key(*status),
                &[("status", status.as_str()), ("worker_id", "deliver")],
            )
        })
        .collect();
    family(
        "webhook_delivery_total",
        "Attempts, by the status that they led to.",
        MetricType::COUNTER,
        metrics,
    )
}

fn tasks(totals: &BTreeMap<String, u64>) -> MetricFamily {
    let metrics = Mode::ALL
        .iter()
        .flat_map(|mode| TASK_STATUSES.iter().map(move |status| (mode, status)))
        .map(|(mode, status)| {
            let labels =
                [("status", *status), ("mode", mode.as_str()), ("worker_id", mode.as_str())];
            counter(totals, &task_key(*mode, status), &labels)
        })
        .collect();
    let help = "Queue messages (deliver, dlq) and runs (sweep) that were worked on; a failure is \
        one that was handed back.";
    family("task_processing_total", help, MetricType::COUNTER, metrics)
}

fn circuits(targets: &[TargetState], now: Timestamp) -> MetricFamily {
    let metrics = targets.iter().filter_map(|state| state.target.as_ref()).map(|target| {
        gauge(f64::from(target.circuit.state(now) as u8), &[("service", target.key.as_str())])
    });
    let help = format!(
        "Circuit of a target that restricts attempts: {} closed, {} half-open, {} open.",
        State::Closed as u8,
        State::HalfOpen as u8,
        State::Open as u8
    );
    family("circuit_breaker_status", &help, MetricType::GAUGE, metrics.collect())
}

/// A target that refused requests, with the configured rate of its host per second.
struct Shown<'a> {
    key: &'a TargetKey,
    state: &'a TargetState,
    pace: &'a Pace,
    limit: Option<f64>,
}

impl<'a> Shown<'a> {
    fn of(state: &'a TargetState, limits: &RateLimits, now: Timestamp) -> Option<Self> {
        let target = state.target.as_ref()?;
        let limit = limits.of_destination(target.key.origin_part()).map(RateLimit::per_second);
        Some(Self { key: &target.key, state, pace: target.pace(now)?, limit })
    }
}

/// A gauge of each target that refused requests.
fn paces(
    targets: &[Shown<'_>],
    (name, help): (&str, &str),
    value: impl Fn(&Shown<'_>) -> f64,
) -> MetricFamily {
    let metrics =
        targets.iter().map(|shown| gauge(value(shown), &[("service", shown.key.as_str())]));
    family(name, help, MetricType::GAUGE, metrics.collect())
}

fn counts(counts: [u64; Status::ALL.len()]) -> MetricFamily {
    let metrics = Status::ALL
        .iter()
        .zip(counts)
        .map(|(status, count)| gauge(count as f64, &[("status", status.as_str())]))
        .collect();
    let help = "Webhooks in the store, by status; an estimate, whatever the store is built on.";
    family("redis_webhook_keys", help, MetricType::GAUGE, metrics)
}

fn total(totals: &BTreeMap<String, u64>, key: &str) -> u64 {
    totals.get(key).copied().unwrap_or(0)
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    Metric::from_label(
        labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect(),
    )
}

fn counter(totals: &BTreeMap<String, u64>, key: &str, labels: &[(&str, &str)]) -> Metric {
    let mut metric = labelled(labels);
    let mut counter = Counter::default();
    counter.set_value(total(totals, key) as f64);
    metric.set_counter(counter);
    metric
}

fn gauge(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut metric = labelled(labels);
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

fn histogram(totals: &BTreeMap<String, u64>, name: &str, labels: &[(&str, &str)]) -> Metric {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(BUCKETS_MS.len());
    for (index, bound_ms) in BUCKETS_MS.iter().enumerate() {
        cumulative += total(totals, &bucket_key(name, index));
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(cumulative);
        bucket.set_upper_bound(*bound_ms as f64 / 1000.0);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_sample_count(cumulative + total(totals, &bucket_key(name, BUCKETS_MS.len())));
    histogram.set_sample_sum(total(totals, &sum_key(name)) as f64 / 1e6);
    histogram.set_bucket(buckets);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        circuit::Settings,
        metrics::Metrics,
        traffic::{pace::Refusal, slots::Counters, target::Target},
    };

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.delivery(Status::Delivered, Duration::from_millis(3));
        metrics.delivery(Status::Failed, Duration::from_secs(100));
        metrics.task(Mode::Dlq, false, Duration::from_millis(1));
        let text = render(
            &metrics.drain().counters,
            &Gauges { counts: [1, 2, 3, 4, 5], ..Gauges::default() },
            Timestamp::default(),
        );
        for line in [
            "# TYPE webhook_delivery_total counter",
            r#"webhook_delivery_total{status="delivered",worker_id="deliver"} 1"#,
            r#"webhook_delivery_total{status="retrying",worker_id="deliver"} 0"#,
            r#"webhook_delivery_seconds_bucket{worker_id="deliver",le="0.002"} 0"#,
            r#"webhook_delivery_seconds_bucket{worker_id="deliver",le="0.005"} 1"#,
            r#"webhook_delivery_seconds_bucket{worker_id="deliver",le="+Inf"} 2"#,
            r#"webhook_delivery_seconds_sum{worker_id="deliver"} 100.003"#,
            r#"webhook_delivery_seconds_count{worker_id="deliver"} 2"#,
            r#"task_processing_total{status="failure",mode="dlq",worker_id="dlq"} 1"#,
            r#"redis_webhook_keys{status="failed"} 5"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("circuit_breaker_status"), "no circuit is open");
        assert!(metrics.drain().counters.is_empty(), "counted once");
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn paused(key: TargetKey, pause: Duration) -> TargetState {
        let retry_after = Some(pause);
        let refusal = Refusal { attempt_started_at: at(0), status_code: 429, retry_after };
        let pace = Pace::after_refusal(None, &refusal, pause, None, at(0)).unwrap();
        TargetState { target: Some(Target::idle(key).paused(pace, at(0))), counters: None }
    }

    fn rendered(targets: Vec<TargetState>, now: Timestamp) -> String {
        let gauges = Gauges { targets, ..Gauges::default() };
        render(&BTreeMap::new(), &gauges, now)
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|have| have == *line), "{line} is missing in\n{text}");
        }
    }

    /// A target that refused a request shows its pause, then the rate that it has learned, and how
    /// many wait for it.
    #[test]
    fn a_paused_target_shows_its_pause_its_rate_and_how_many_wait() {
        let key = TargetKey::url("https://example.com:443", "b8LQUXrd0pU");
        let mut state = paused(key, Duration::from_secs(10));
        let generation = state.target.as_ref().unwrap().pace.unwrap().generation();
        state.counters = Some(Counters { generation, last: 7, last_late: 0 });
        let service = r#"{service="https://example.com:443#b8LQUXrd0pU"}"#;
        let line = |name: &str, value: &str| format!("{name}{service} {value}");
        for (now, is_paused, rate, waiting) in
            [(at(9), "1", "1", "8"), (at(10), "0", "1", "7"), (at(12), "0", "2", "5")]
        {
            let text = rendered(vec![state.clone()], now);
            let lines = [
                line("webhook_target_paused", is_paused),
                line("webhook_target_rate", rate),
                line("webhook_target_waiting", waiting),
                line("circuit_breaker_status", "0"),
            ];
            assert_lines(&text, &lines.each_ref().map(String::as_str));
        }
        let mut other_rate = state.clone();
        other_rate.counters.as_mut().unwrap().generation = "10/1".to_owned();
        let text = rendered(vec![other_rate], at(9));
        assert_lines(&text, &[&line("webhook_target_waiting", "0")]);
        let forgotten = rendered(vec![state], at(1000));
        assert!(!forgotten.contains("webhook_target_"), "{forgotten}");
    }

    /// Rate and waiting slots are those of the configured rate where it is lower. The pause ends at
    /// 10 s.
    #[test]
    fn a_learned_rate_is_shown_within_the_configured_one() {
        let key = |host: &str| TargetKey::url(&format!("https://{host}:443"), "hash");
        let states = ["limited", "free"].map(|host| {
            let mut state = paused(key(host), Duration::from_secs(10));
            let generation = state.target.as_ref().unwrap().pace.unwrap().generation();
            state.counters = Some(Counters { generation, last: 10, last_late: 0 });
            state
        });
        let rate_limits = "limited=1/2s".parse().unwrap();
        let gauges = Gauges { targets: states.to_vec(), rate_limits, ..Gauges::default() };
        let text = render(&BTreeMap::new(), &gauges, at(14));
        let lines = [
            r#"webhook_target_rate{service="https://limited:443#hash"} 0.5"#,
            r#"webhook_target_rate{service="https://free:443#hash"} 4"#,
            r#"webhook_target_waiting{service="https://limited:443#hash"} 8"#,
            r#"webhook_target_waiting{service="https://free:443#hash"} 2"#,
        ];
        assert_lines(&text, &lines);
    }

    /// An open circuit without a pace has none of the three gauges.
    #[test]
    fn an_open_circuit_shows_its_state_alone() {
        let target = Target::idle(TargetKey::origin("https://down:443"));
        let target = Some(target.failed(5, &Settings::default(), at(0)));
        let state = TargetState { target, counters: None };
        for (now, value) in [(at(1), "2"), (at(30), "1")] {
            let text = rendered(vec![state.clone()], now);
            let line = format!(r#"circuit_breaker_status{{service="https://down:443"}} {value}"#);
            assert_lines(&text, &[&line]);
            assert!(!text.contains("webhook_target_"), "{text}");
        }
    }

    /// Names of targets are the callers' to choose, so each gauge has at most 100 series.
    #[test]
    fn each_gauge_of_targets_has_at_most_100_series() {
        let states = (0..150).map(|index| {
            let key = TargetKey::url("https://example.com:443", &format!("path-{index:03}"));
            paused(key, Duration::from_secs(1000))
        });
        let text = rendered(states.collect(), at(1));
        for name in [
            "circuit_breaker_status",
            "webhook_target_paused",
            "webhook_target_rate",
            "webhook_target_waiting",
        ] {
            let begins = format!("{name}{{");
            let series = text.lines().filter(|line| line.starts_with(&begins));
            assert_eq!(series.count(), MAX_TARGETS, "{name}");
        }
    }
}
