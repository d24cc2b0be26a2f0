//! The tables of the tool.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use super::{
    invocations::Invocations,
    prices::Prices,
    proxy::{Tallies, Tally, sum_of},
};

/// Minutes of a month, as AWS counts it: 730 hours.
const MINUTES_A_MONTH: f64 = 730.0 * 60.0;

/// Long polls of an idle queue per minute: five Lambda pollers, 20 s each.
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html>
const POLLS_A_MINUTE: f64 = 15.0;

/// Queues with a trigger.
const QUEUES: f64 = 2.0;

/// The measured use of one kind of webhook.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kind.
    pub name: String,
    /// Number of webhooks.
    pub webhooks: u32,
    /// Requests of the functions.
    pub tallies: Tallies,
    /// Invocations of the functions.
    pub invocations: BTreeMap<String, Invocations>,
    /// Read units of the audit for them.
    pub audit_read_units: f64,
}

/// The use of a sweep run without work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle {
    /// Write units of DynamoDB.
    pub write_units: f64,
    /// Read units of DynamoDB.
    pub read_units: f64,
    /// Requests to SQS.
    pub sqs_requests: f64,
    /// The invocation.
    pub sweep: Invocations,
}

/// All results.
#[derive(Clone, Debug)]
pub struct CostReport {
    /// Webhooks per row.
    pub webhooks: u32,
    /// One row per kind of webhook.
    pub rows: Vec<Row>,
    /// A sweep run without webhooks.
    pub idle: Idle,
    /// The price list.
    pub prices: Prices,
}

/// The average use of one webhook, and the cost of a million in dollars.
#[derive(Clone, Copy, Debug)]
struct Each {
    write_units: f64,
    read_units: f64,
    sqs_requests: f64,
    sqs_messages: f64,
    invocations: f64,
    gb_seconds: f64,
    log_bytes: [f64; 2],
}

impl Row {
    fn each(&self) -> Each {
        let webhooks = f64::from(self.webhooks);
        let of = |what: fn(&Tally) -> f64| sum_of(&self.tallies, what) / webhooks;
        let all = |what: fn(&Invocations) -> f64| {
            self.invocations.values().map(what).sum::<f64>() / webhooks
        };
        // Lambda's pollers: a receive and a delete for each batch.
        let batches = self
            .invocations
            .iter()
            .filter(|(name, _)| *name != "api")
            .map(|(_, of)| of.count)
            .sum::<u64>() as f64;
        Each {
            write_units: of(|tally| tally.write_units),
            read_units: of(|tally| tally.read_units) + self.audit_read_units / webhooks,
            sqs_requests: of(|tally| tally.billed as f64) + 2.0 * batches / webhooks,
            sqs_messages: of(|tally| tally.messages as f64),
            invocations: all(|of| of.count as f64),
            gb_seconds: all(|of| of.billed_ms / 1000.0 * of.memory_mb / 1024.0),
            log_bytes: [all(|of| of.log_bytes[0] as f64), all(|of| of.log_bytes[1] as f64)],
        }
    }
}

impl Each {
    /// Cost of a million without the functions' duration.
    fn requests_dollars_per_million(&self, prices: &Prices) -> f64 {
        self.write_units * prices.dynamodb_write_units_per_million
            + self.read_units * prices.dynamodb_read_units_per_million
            + self.sqs_requests * prices.sqs_requests_per_million
            + self.sqs_messages * prices.sqs_fair_queue_messages_per_million
            + self.invocations * prices.lambda_requests_per_million
    }

    /// Cost of the functions' duration. The emulator is far slower than DynamoDB and SQS.
    fn time_dollars_per_million(&self, prices: &Prices) -> f64 {
        self.gb_seconds * prices.lambda_gb_second_arm64 * 1e6
    }

    /// Cost of the logs at the levels warn and info.
    fn log_dollars_per_million(&self, prices: &Prices) -> [f64; 2] {
        self.log_bytes.map(|bytes| bytes * 1e6 / 1e9 * prices.logs_gb)
    }
}

impl CostReport {
    /// The items of a month without webhooks.
    fn month(&self) -> Vec<(&'static str, f64)> {
        let (idle, prices) = (&self.idle, &self.prices);
        let per_month =
            |count: f64, price_per_million: f64| count * MINUTES_A_MONTH / 1e6 * price_per_million;
        let gb_seconds = idle.sweep.billed_ms / 1000.0 * idle.sweep.memory_mb / 1024.0;
        vec![
            ("sweep: writes", per_month(idle.write_units, prices.dynamodb_write_units_per_million)),
            ("sweep: reads", per_month(idle.read_units, prices.dynamodb_read_units_per_million)),
            ("sweep: invocations", per_month(1.0, prices.lambda_requests_per_million)),
            ("sweep: GB-seconds", per_month(gb_seconds, prices.lambda_gb_second_arm64 * 1e6)),
            ("schedule", per_month(1.0, prices.scheduler_invocations_per_million)),
            (
                "polls of two empty queues",
                per_month(QUEUES * POLLS_A_MINUTE, prices.sqs_requests_per_million),
            ),
        ]
    }

    /// The report as JSON.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let each = row.each();
            let [warn, info] = each.log_dollars_per_million(&self.prices);
            let requests = row.tallies.iter().map(|((function, call), tally)| {
                json!({ "function": function, "call": call, "requests": tally.requests,
                    "write_units": tally.write_units,
                    "read_units": tally.read_units, "billed": tally.billed })
            });
            json!({
                "name": row.name, "webhooks": row.webhooks, "write_units": each.write_units,
                "read_units": each.read_units,
                "sqs_requests": each.sqs_requests, "invocations": each.invocations,
                "gb_seconds": each.gb_seconds,
                "requests_dollars_per_million": each.requests_dollars_per_million(&self.prices),
                "time_dollars_per_million": each.time_dollars_per_million(&self.prices),
                "logs_dollars_per_million": { "warn": warn, "info": info },
                "requests": requests.collect::<Vec<_>>(),
            })
        });
        json!({ "region": self.prices.region, "rows": rows.collect::<Vec<_>>(),
            "idle_month": self.month().into_iter().collect::<BTreeMap<_, _>>() })
    }
}

impl fmt::Display for CostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "One webhook, on average of {}; list prices of {}:\n",
            self.webhooks, self.prices.region
        )?;
        writeln!(
            f,
            "{:<36} {:>7} {:>7} {:>7} {:>7} {:>11} {:>9} {:>12} {:>9}",
            "", "writes", "reads", "SQS", "Lambda", "$/million", "+time", "+logs, warn", "or info"
        )?;
        for row in &self.rows {
            let each = row.each();
            let [warn, info] = each.log_dollars_per_million(&self.prices);
            writeln!(
                f,
                "{:<36} {:>7.3} {:>7.3} {:>7.3} {:>7.3} {:>11.2} {:>9.2} {:>12.2} {:>9.2}",
                row.name,
                each.write_units,
                each.read_units,
                each.sqs_requests,
                each.invocations,
                each.requests_dollars_per_million(&self.prices),
                each.time_dollars_per_million(&self.prices),
                warn,
                info
            )?;
        }
        writeln!(
            f,
            "\nThe durations are the emulator's, which is far slower than AWS.\n\nRequests by \
             function:\n"
        )?;
        for row in &self.rows {
            writeln!(f, "{}", row.name)?;
            for ((function, call), tally) in &row.tallies {
                writeln!(
                    f,
                    "  {function:<20} {call:<22} {:>7} requests {:>9.1} writes {:>9.1} reads",
                    tally.requests, tally.write_units, tally.read_units
                )?;
            }
            writeln!(
                f,
                "  {:<20} {:<22} {:>26} {:>9.1} reads",
                "sweep", "(audit)", "", row.audit_read_units
            )?;
            for (function, of) in &row.invocations {
                writeln!(
                    f,
                    "  {function:<20} {:>7} invocations of {:.1} ms on average, {} MB",
                    of.count,
                    of.billed_ms / (of.count.max(1)) as f64,
                    of.memory_mb
                )?;
            }
        }
        writeln!(f, "\nA month without webhooks:\n")?;
        let month = self.month();
        for (what, dollars) in &month {
            writeln!(f, "  {what:<36} ${dollars:.3}")?;
        }
        writeln!(
            f,
            "  {:<36} ${:.3}",
            "total",
            month.iter().map(|(_, dollars)| dollars).sum::<f64>()
        )?;
        writeln!(
            f,
            "  {:<36} ${:.2} per alarm, ${:.2} for the dashboard",
            "in addition, if enabled", self.prices.alarm_month, self.prices.dashboard_month
        )?;
        writeln!(f, "\nPrices from a single source: {}", self.prices.unconfirmed.join(", "))
    }
}
