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
    circuit::State, clock::Timestamp, status::Status, store::TargetState, traffic::pace::Pace,
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
    /// The targets that restrict attempts.
    pub targets: Vec<TargetState>,
}

/// Renders the totals and the gauges as Prometheus text. Every series except the circuits is always
/// present, at zero if necessary, so that a rate has a start.
pub fn render(totals: &BTreeMap<String, u64>, gauges: &Gauges, now: Timestamp) -> String {
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
        circuits(&gauges.targets, now),
        paces(&gauges.targets, now, TARGET_PAUSED, |_, pace| {
            f64::from(u8::from(pace.is_paused(now)))
        }),
        paces(&gauges.targets, now, TARGET_RATE, |_, pace| pace.rate(now, None)),
        paces(&gauges.targets, now, TARGET_WAITING, |state, _| state.waiting(now) as f64),
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

/// A gauge of each target that refused requests.
fn paces(
    targets: &[TargetState],
    now: Timestamp,
    (name, help): (&str, &str),
    value: impl Fn(&TargetState, &Pace) -> f64,
) -> MetricFamily {
    let metrics = targets.iter().filter_map(|state| {
        let target = state.target.as_ref()?;
        Some(gauge(value(state, target.pace(now)?), &[("service", target.key.as_str())]))
    });
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
    use crate::metrics::Metrics;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.delivery(Status::Delivered, Duration::from_millis(3));
        metrics.delivery(Status::Failed, Duration::from_secs(100));
        metrics.task(Mode::Dlq, false, Duration::from_millis(1));
        let text = render(
            &metrics.drain().counters,
            &Gauges { counts: [1, 2, 3, 4, 5], targets: vec![] },
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
}
