//! All figures, as a table or as JSON.

use std::fmt;

use serde::Serialize;

use super::{figure::Figure, isolation::Isolation, limit::Limit, throttled::Throttled};

/// All results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrafficReport {
    /// The backend.
    pub backend: &'static str,
    /// Receivers that refuse requests.
    pub throttled: Vec<Throttled>,
    /// What works beside what does not.
    pub isolation: Vec<Isolation>,
    /// A configured rate.
    pub limit: Option<Limit>,
}

impl TrafficReport {
    /// No results yet, with this backend.
    pub(super) fn new(backend: &'static str) -> Self {
        Self { backend, ..Self::default() }
    }

    fn figures(&self) -> impl Iterator<Item = &Figure> {
        let throttled = self.throttled.iter().flat_map(|case| &case.figures);
        let isolation = self.isolation.iter().flat_map(|result| &result.figures);
        let limit = self.limit.iter().flat_map(|result| &result.figures);
        throttled.chain(isolation).chain(limit)
    }

    /// Whether every target is met.
    pub fn is_met(&self) -> bool {
        self.figures().all(|figure| figure.is_met)
    }
}

impl fmt::Display for TrafficReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "backend: {}", self.backend)?;
        for case in &self.throttled {
            writeln!(
                f,
                "throttled: {} webhooks to a receiver of {} a second, {} requests",
                case.webhooks, case.per_second, case.requests
            )?;
            case.figures.iter().try_for_each(|figure| figure.fmt(f))?;
        }
        for result in &self.isolation {
            writeln!(
                f,
                "isolation: {} webhooks a second beside 6 times as many to {}, {} s",
                result.rate,
                result.case.broken_part(),
                result.seconds
            )?;
            for (number, pair) in result.pairs.iter().enumerate() {
                writeln!(
                    f,
                    "  pair {}: p99 {:.2} ms without, {:.2} ms beside, ratio {:.2}; {} requests \
                     to the broken part",
                    number + 1,
                    pair.alone.p99_ms,
                    pair.beside_broken.p99_ms,
                    pair.p99_ratio,
                    pair.broken_requests
                )?;
            }
            result.figures.iter().try_for_each(|figure| figure.fmt(f))?;
        }
        if let Some(result) = &self.limit {
            writeln!(
                f,
                "limit: {} webhooks at {} a second, processes: {}, {} s, the last after {:.1} s",
                result.webhooks,
                result.rate,
                result.processes,
                result.seconds,
                result.drained_after_seconds
            )?;
            result.figures.iter().try_for_each(|figure| figure.fmt(f))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::figure::{at_least, at_most, exactly};

    #[test]
    fn a_missed_target_is_reported() {
        assert!(exactly("x", 40, 40).is_met && !exactly("x", 39, 40).is_met);
        assert!(at_most("x", 2.3, 2.3).is_met && !at_most("x", 2.31, 2.3).is_met);
        assert!(at_least("x", 0.9, 0.9).is_met && !at_least("x", 0.89, 0.9).is_met);
        assert!(!at_most("x", f64::NAN, 2.3).is_met, "no value");
        let case = |figure| Throttled {
            webhooks: 4,
            per_second: 2,
            requests: 9,
            figures: vec![exactly("delivered", 4, 4), figure],
        };
        let mut report = TrafficReport::new("embedded");
        report.throttled = vec![case(at_most("requests per webhook", 2.25, 2.3))];
        assert!(report.is_met() && !report.to_string().contains("MISSED"), "{report}");
        report.throttled.push(case(at_most("requests per webhook", f64::NAN, 2.3)));
        assert!(!report.is_met() && report.to_string().contains("MISSED"), "{report}");
        let json = serde_json::json!(report);
        let figures = &json["throttled"][0]["figures"];
        assert_eq!(figures[1]["target"]["at_most"], 2.3);
        assert_eq!((&figures[1]["value"], &figures[0]["is_met"]), (&2.25.into(), &true.into()));
        assert!(json["throttled"][1]["figures"][1]["value"].is_null());
    }
}
