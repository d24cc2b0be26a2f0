//! The invocations of the functions, from the report lines in their logs.

use serde_json::Value;

/// The invocations of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Invocations {
    /// The number of invocations.
    pub count: u64,
    /// The sum of their billed durations.
    pub billed_ms: f64,
    /// The function's memory.
    pub memory_mb: f64,
    /// Bytes of its log lines: those from level warn up, and all.
    pub log_bytes: [u64; 2],
}

impl Invocations {
    /// Adds a log line: the platform's report of an invocation, or a line of the function.
    pub(super) fn add(&mut self, line: &str) {
        let bytes = line.len() as u64;
        let level = serde_json::from_str::<Value>(line)
            .ok()
            .and_then(|line| line["level"].as_str().map(str::to_ascii_lowercase));
        let below_warning = matches!(level.as_deref(), Some("info" | "debug" | "trace"));
        self.log_bytes[1] += bytes;
        self.log_bytes[0] += if below_warning { 0 } else { bytes };
        if !line.starts_with("REPORT ") {
            return;
        }
        self.count += 1;
        let billed = line.split('\t').find_map(|part| {
            part.strip_prefix("Billed Duration: ")?.strip_suffix(" ms")?.trim().parse::<f64>().ok()
        });
        self.billed_ms += billed.unwrap_or_default().ceil();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_line_is_an_invocation() {
        let mut sum = Invocations::default();
        sum.add(
            "REPORT RequestId: 1\tDuration: 12.5 ms\tBilled Duration: 13 ms\tMemory Size: 256 MB",
        );
        sum.add(r#"{"level":"INFO","fields":{"message":"Sending"}}"#);
        sum.add(r#"{"level":"WARN","fields":{"message":"Retrying"}}"#);
        assert_eq!((sum.count, sum.billed_ms), (1, 13.0));
        assert!(sum.log_bytes[1] > sum.log_bytes[0] && sum.log_bytes[0] > 47);
    }
}
