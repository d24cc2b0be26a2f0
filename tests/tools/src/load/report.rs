//! The results, as a table or as JSON.

use std::fmt;

use serde::Serialize;

use super::{
    fairness::Fairness,
    fan_out::FanOut,
    figures::{Faults, Quantiles},
    machine::DiskSync,
    overload::Overload,
};

/// All results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// The disk's sync time.
    pub disk_sync: Option<DiskSync>,
    /// The disk's sync time at the rate of the latency run.
    pub disk_sync_at_rate: Option<Quantiles>,
    /// From the start of the stack to a healthy `GET /health`, with --spawn.
    pub ready_ms: Option<f64>,
    /// The closed loop.
    pub throughput: Option<Throughput>,
    /// The open loop.
    pub latency: Option<Latency>,
    /// A hanging destination, without and with the circuit breaker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fairness: Vec<Fairness>,
    /// Messages to an application, against direct webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<FanOut>,
    /// Ten times the capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,
    /// Peak memory of the system.
    pub peak_memory_mib: Option<f64>,
    /// Size of its files at the end.
    pub data_mib: Option<f64>,
    /// From SIGTERM to its exit.
    pub exit_ms: Option<f64>,
}

/// The result of the closed loop.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Webhooks sent.
    pub webhooks: u32,
    /// Connections.
    pub connections: u16,
    /// Bytes of a payload.
    pub payload_bytes: u32,
    /// Requests per second, posting directly to the receiver.
    pub ceiling_per_second: f64,
    /// Webhooks per second from the first POST to the last 202.
    pub accepted_per_second: f64,
    /// Webhooks per second from the first POST until the receiver had all of them.
    pub delivered_per_second: f64,
    /// Duration of the run.
    pub seconds: f64,
    /// CPU time of the system per webhook.
    pub cpu_ms_per_webhook: Option<f64>,
    /// Unexpected results.
    pub faults: Faults,
}

/// The result of the open loop.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Webhooks sent.
    pub webhooks: u32,
    /// Webhooks per second.
    pub rate: f64,
    /// From when the POST was due to the arrival at the receiver.
    pub arrival: Quantiles,
    /// From when the POST was due to its response.
    pub answer: Quantiles,
    /// How late the tool itself sent the requests.
    pub lateness: Quantiles,
    /// CPU time of the system per webhook.
    pub cpu_ms_per_webhook: Option<f64>,
    /// Unexpected results.
    pub faults: Faults,
}

impl Results {
    /// Whether every webhook was accepted (or shed, under overload) and none arrived twice.
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
                    "the folder is in memory, so the results are not durable; set --data-dir"
                        .into(),
                );
            }
        }
        if let Some(ms) = self.ready_ms {
            row("ready after", format!("{ms:.1} ms"));
        }
        if let Some(run) = &self.fan_out {
            row(&format!("messages to {} endpoints", run.endpoints), run.to_string());
        }
        if let Some(run) = &self.throughput {
            row(
                "load",
                format!(
                    "{} webhooks of {} bytes over {} connections",
                    run.webhooks, run.payload_bytes, run.connections
                ),
            );
            row("ceiling, directly to the receiver", format!("{:.0} /s", run.ceiling_per_second));
            row("accepted", format!("{:.0} /s", run.accepted_per_second));
            row(
                "accepted and delivered",
                format!("{:.0} /s ({:.3} s in total)", run.delivered_per_second, run.seconds),
            );
            row("CPU time of the system", cpu(run.cpu_ms_per_webhook));
            row("faults", run.faults.to_string());
        }
        if let Some(run) = &self.latency {
            row("load", format!("{} webhooks at {} per second", run.webhooks, run.rate));
            if let Some(times) = self.disk_sync_at_rate {
                row("disk, at that rate just before", times.to_string());
            }
            row("POST due to arrival", run.arrival.to_string());
            row("POST due to response", run.answer.to_string());
            row("of which lateness of the tool", run.lateness.to_string());
            row("CPU time of the system", cpu(run.cpu_ms_per_webhook));
            row("faults", run.faults.to_string());
        }
        rows.extend(self.fairness.iter().flat_map(Fairness::rows));
        rows.extend(self.overload.iter().flat_map(Overload::rows));
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        if let Some(mib) = self.peak_memory_mib {
            row("peak memory of the system", format!("{mib:.1} MiB"));
        }
        if let Some(mib) = self.data_mib {
            row("size of its files at the end", format!("{mib:.1} MiB"));
        }
        if let Some(ms) = self.exit_ms {
            row("exit after SIGTERM", format!("{ms:.0} ms"));
        }
        rows
    }
}

fn cpu(ms: Option<f64>) -> String {
    ms.map_or_else(|| "unknown; set --pid".into(), |ms| format!("{ms:.3} ms per webhook"))
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.rows() {
            writeln!(f, "{name:<36} {value}")?;
        }
        Ok(())
    }
}
