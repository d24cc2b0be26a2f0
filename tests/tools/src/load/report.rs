//! What was measured, as a table or as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{fairness::Fairness, machine::DiskSync, overload::Overload};

/// The quantiles of some times, by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: usize,
    /// Half were at most this.
    pub p50_ms: f64,
    /// Nine of ten were.
    pub p90_ms: f64,
    /// 99 of a hundred were.
    pub p99_ms: f64,
    /// All were.
    pub max_ms: f64,
}

impl Quantiles {
    /// Of these.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |share: f64| {
            let rank = (share * times.len() as f64).ceil().max(1.0) as usize;
            times
                .get(rank.min(times.len()).saturating_sub(1))
                .map_or(0.0, |time| milliseconds(*time))
        };
        Self {
            count: times.len(),
            p50_ms: rank(0.5),
            p90_ms: rank(0.9),
            p99_ms: rank(0.99),
            max_ms: rank(1.0),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.2}   p90 {:.2}   p99 {:.2}   max {:.2} ms",
            self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms
        )
    }
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Everything measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// The disk's sync time.
    pub disk_sync: Option<DiskSync>,
    /// The same, asked as often as the latency run asks it.
    pub disk_sync_at_rate: Option<Quantiles>,
    /// From start to `GET /health`, of a stack that was started by the tool.
    pub ready_ms: Option<f64>,
    /// The closed loop.
    pub throughput: Option<Throughput>,
    /// The open loop.
    pub latency: Option<Latency>,
    /// A destination that hangs, without and with the circuit breaker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fairness: Vec<Fairness>,
    /// Ten times the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,
    /// The most memory that the system had at once.
    pub peak_memory_mib: Option<f64>,
    /// What its files took at the end.
    pub data_mib: Option<f64>,
    /// From SIGTERM to its end.
    pub exit_ms: Option<f64>,
}

/// What the closed loop gave.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Webhooks sent.
    pub webhooks: u32,
    /// Connections.
    pub connections: u16,
    /// Bytes of a payload.
    pub payload_bytes: u32,
    /// Requests a second, posting straight to the receiver.
    pub ceiling_per_second: f64,
    /// Webhooks a second from the first POST to the last 202.
    pub accepted_per_second: f64,
    /// Webhooks a second from the first POST until the receiver had all.
    pub delivered_per_second: f64,
    /// That time.
    pub seconds: f64,
    /// Processor time of the system for a webhook.
    pub cpu_ms_per_webhook: Option<f64>,
    /// How it went.
    pub faults: Faults,
}

/// What the open loop gave.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Webhooks sent.
    pub webhooks: u32,
    /// A second.
    pub rate: f64,
    /// From when the POST was due to the arrival at the receiver.
    pub arrival: Quantiles,
    /// From when the POST was due to its answer.
    pub answer: Quantiles,
    /// How late the tool itself sent.
    pub lateness: Quantiles,
    /// Processor time of the system for a webhook.
    pub cpu_ms_per_webhook: Option<f64>,
    /// How it went.
    pub faults: Faults,
}

/// What should not have been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Answers other than 202, by status.
    pub other_answers: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub unanswered: u64,
    /// The first of them.
    pub first: Option<String>,
    /// Webhooks that arrived again.
    pub duplicates: u64,
}

impl Faults {
    /// Whether every webhook was accepted and none arrived twice.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: u64 = self.other_answers.values().sum();
        write!(
            f,
            "{others} other than 202, {} unanswered, {} duplicates",
            self.unanswered, self.duplicates
        )?;
        self.first.as_ref().map_or(Ok(()), |first| write!(f, "; the first: {first}"))
    }
}

impl Results {
    /// Whether every webhook was accepted, or under overload shed as it should be, and none arrived
    /// twice.
    pub fn is_clean(&self) -> bool {
        let faults = [
            self.throughput.as_ref().map(|run| &run.faults),
            self.latency.as_ref().map(|run| &run.faults),
        ];
        faults.into_iter().flatten().all(Faults::none)
            && self.fairness.iter().all(|run| run.faults.none())
            && self.overload.as_ref().is_none_or(Overload::is_clean)
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        if let Some(disk) = &self.disk_sync {
            row("disk: append of 4 KiB and fdatasync", disk.times.to_string());
            if disk.in_memory {
                row(
                    "",
                    "the folder is in memory, so nothing measured here is durable; --data-dir \
                    names a disk"
                        .into(),
                );
            }
        }
        if let Some(ms) = self.ready_ms {
            row("ready to serve after", format!("{ms:.1} ms"));
        }
        if let Some(run) = &self.throughput {
            row(
                "load",
                format!(
                    "{} webhooks of {} bytes over {} connections",
                    run.webhooks, run.payload_bytes, run.connections
                ),
            );
            row("ceiling, straight to the receiver", format!("{:.0} /s", run.ceiling_per_second));
            row("accepted", format!("{:.0} /s", run.accepted_per_second));
            row(
                "accepted and delivered",
                format!("{:.0} /s ({:.3} s in all)", run.delivered_per_second, run.seconds),
            );
            row("processor time of the system", cpu(run.cpu_ms_per_webhook));
            row("faults", run.faults.to_string());
        }
        if let Some(run) = &self.latency {
            row("load", format!("{} webhooks at {} a second", run.webhooks, run.rate));
            if let Some(times) = self.disk_sync_at_rate {
                row("disk, asked at that rate just before", times.to_string());
            }
            row("POST due to arrival", run.arrival.to_string());
            row("POST due to answer", run.answer.to_string());
            row("of which the tool was late", run.lateness.to_string());
            row("processor time of the system", cpu(run.cpu_ms_per_webhook));
            row("faults", run.faults.to_string());
        }
        rows.extend(self.fairness.iter().flat_map(Fairness::rows));
        rows.extend(self.overload.iter().flat_map(Overload::rows));
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        if let Some(mib) = self.peak_memory_mib {
            row("peak memory of the system", format!("{mib:.1} MiB"));
        }
        if let Some(mib) = self.data_mib {
            row("its files at the end", format!("{mib:.1} MiB"));
        }
        if let Some(ms) = self.exit_ms {
            row("ended after SIGTERM within", format!("{ms:.0} ms"));
        }
        rows
    }
}

fn cpu(ms: Option<f64>) -> String {
    ms.map_or_else(
        || "not known; --pid names its process".into(),
        |ms| format!("{ms:.3} ms a webhook"),
    )
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.rows() {
            writeln!(f, "{name:<36} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let found = Quantiles::of(times);
        assert_eq!(
            (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms),
            (50.0, 90.0, 99.0, 100.0)
        );
        let one = Quantiles::of(vec![Duration::from_micros(1500)]);
        assert_eq!((one.p50_ms, one.max_ms, one.count), (1.5, 1.5, 1));
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }
}
