//! An invocation's metrics as one line of CloudWatch's Embedded Metric Format. CloudWatch extracts
//! the metrics from the function's output, so they cost no call.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
//!
//! The function's name is the only dimension, because CloudWatch bills each combination of
//! dimensions as a metric. The status is part of the metric's name instead. A metric costs money in
//! each hour in which it has a value, so a line leaves out values that have not changed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{DELIVERY_STATUSES, Mode, TASK_STATUSES, delivery_key, task_key};
use crate::{clock::Timestamp, status::Status};

/// The namespace of all metrics.
const NAMESPACE: &str = "Posthaste";

/// The dimension, named as for Lambda's own metrics.
const DIMENSION: &str = "FunctionName";

/// The most values of one metric that the format takes in one line. Further values are dropped. The
/// counts beside them are complete.
const MAX_VALUES: usize = 100;

/// Times and gauges of this invocation. The counts come from the counters.
#[derive(Debug)]
pub(super) struct Emf {
    /// The function's name in the deployment.
    function: String,
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    seconds: BTreeMap<&'static str, Vec<f64>>,
    keys: Option<[u64; Status::ALL.len()]>,
    told_keys: Option<[u64; Status::ALL.len()]>,
}

impl Emf {
    /// Creates lines for this function.
    pub(super) fn new(function: String) -> Self {
        Self { function, gathered: Mutex::default() }
    }

    /// Adds a value of a metric in seconds.
    pub(super) fn observe(&self, name: &'static str, duration: Duration) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let values = gathered.seconds.entry(name).or_default();
        if values.len() < MAX_VALUES {
            values.push(duration.as_secs_f64());
        }
    }

    /// Sets the number of webhooks per status.
    pub(super) fn keys(&self, counts: [u64; Status::ALL.len()]) {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).keys = Some(counts);
    }

    /// The line without its line break. `None` if nothing changed since the last line.
    pub(super) fn line(&self, counters: &BTreeMap<String, u64>, now: Timestamp) -> Option<String> {
        let mut metrics: Vec<(String, &str, Value)> = Vec::new();
        for status in DELIVERY_STATUSES {
            count(&mut metrics, counters, &delivery_key(status), || {
                format!("WebhookDelivery{}", camel(status.as_str()))
            });
        }
        for mode in Mode::ALL {
            for status in TASK_STATUSES {
                count(&mut metrics, counters, &task_key(mode, status), || {
                    format!("TaskProcessing{}", camel(status))
                });
            }
        }
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, values) in std::mem::take(&mut gathered.seconds) {
            metrics.push((
                name.to_owned(),
                "Seconds",
                if let [only] = values[..] { json!(only) } else { json!(values) },
            ));
        }
        if let Some(keys) = gathered.keys.take()
            && gathered.told_keys.replace(keys) != Some(keys)
        {
            let names = Status::ALL.map(|status| format!("WebhookKeys{}", camel(status.as_str())));
            metrics.extend(
                names.into_iter().zip(keys).map(|(name, keys)| (name, "Count", json!(keys))),
            );
        }
        drop(gathered);
        (!metrics.is_empty()).then(|| self.render(metrics, now))
    }

    fn render(&self, metrics: Vec<(String, &str, Value)>, now: Timestamp) -> String {
        let definitions: Vec<Value> =
            metrics.iter().map(|(name, unit, _)| json!({"Name": name, "Unit": unit})).collect();
        let mut line: Map<String, Value> =
            metrics.into_iter().map(|(name, _, value)| (name, value)).collect();
        line.insert(DIMENSION.to_owned(), json!(self.function));
        let directive =
            json!({"Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": definitions});
        line.insert(
            "_aws".to_owned(),
            json!({"Timestamp": now.as_millis(), "CloudWatchMetrics": [directive]}),
        );
        Value::Object(line).to_string()
    }
}

fn count(
    metrics: &mut Vec<(String, &str, Value)>,
    counters: &BTreeMap<String, u64>,
    key: &str,
    name: impl FnOnce() -> String,
) {
    if let Some(count) = counters.get(key) {
        metrics.push((name(), "Count", json!(count)));
    }
}

/// `in_progress` as `InProgress`.
fn camel(name: &str) -> String {
    let capitalised = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(capitalised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: Option<String>) -> Value {
        serde_json::from_str(&line.expect("something happened")).unwrap()
    }

    #[test]
    fn a_line_tells_what_changed_and_the_next_one_tells_it_no_more() {
        let emf = Emf::new("hooks-deliver".to_owned());
        let none = BTreeMap::new();
        assert_eq!(emf.line(&none, Timestamp::default()), None);
        let counters = [
            ("deliveries.delivered".to_owned(), 2),
            ("tasks.deliver.success".to_owned(), 3),
            ("x.le_5".to_owned(), 1),
        ];
        for millis in 0..=150 {
            emf.observe("WebhookDeliverySeconds", Duration::from_millis(millis));
        }
        emf.observe("SweepLagSeconds", Duration::from_secs(4));
        emf.keys([1, 2, 3, 4, 5]);
        let line = parsed(emf.line(&counters.into(), Timestamp::from_millis(1_700_000_000_000)));
        assert_eq!(line["_aws"]["Timestamp"], 1_700_000_000_000_i64);
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["FunctionName"]]));
        assert_eq!(
            (&line["FunctionName"], &line["WebhookDeliveryDelivered"]),
            (&json!("hooks-deliver"), &json!(2))
        );
        assert_eq!(
            (&line["TaskProcessingSuccess"], &line["SweepLagSeconds"]),
            (&json!(3), &json!(4.0))
        );
        assert_eq!(line["WebhookDeliverySeconds"].as_array().map(Vec::len), Some(MAX_VALUES));
        assert_eq!(
            (&line["WebhookKeysInProgress"], &line["WebhookKeysFailed"]),
            (&json!(2), &json!(5))
        );
        assert!(line.get("WebhookDeliveryFailed").is_none());

        emf.keys([1, 2, 3, 4, 5]);
        assert_eq!(emf.line(&none, Timestamp::default()), None, "the same as before");
        emf.keys([1, 2, 3, 4, 6]);
        assert_eq!(parsed(emf.line(&none, Timestamp::default()))["WebhookKeysFailed"], 6);
    }
}
