//! The results and the targets, as tables or as JSON.

use std::fmt;

use miniz_oxide::deflate::compress_to_vec;
use serde::Serialize;

use super::delivery::DELIVERIES;

/// Target: CPU time of a start, as a multiple of hello-world's.
const MAX_RATIO: f64 = 2.0;

/// Target: additional CPU time of the first delivery, compared with the second.
const MAX_FIRST_DELIVERY_MS: f64 = 5.0;

/// Target: size of a function's zip. The tests of `aws-backend` check the deployed ones.
pub const MAX_ZIP_BYTES: usize = 5 * 1024 * 1024;

/// Compression level of a zip.
const ZIP_LEVEL: u8 = 6;

/// All results.
#[derive(Debug, Serialize)]
pub struct StartupReport {
    /// The functions. The last one is the baseline.
    functions: Vec<Function>,
    /// The first delivery of a process, the second, …
    deliveries: Vec<Quantiles>,
    is_met: bool,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    cpu_ms: Quantiles,
    wall_ms: Quantiles,
    /// Its CPU time, as a multiple of the baseline's.
    ratio: f64,
    binary_bytes: usize,
    zip_bytes: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    median: f64,
    p90: f64,
}

/// One function's samples, and the binary that was started.
#[derive(Debug)]
pub(super) struct Samples {
    pub(super) name: &'static str,
    pub(super) binary: Vec<u8>,
    pub(super) cpu_ms: Vec<f64>,
    pub(super) wall_ms: Vec<f64>,
}

impl StartupReport {
    /// The last of the samples are the baseline's.
    pub(super) fn of(samples: Vec<Samples>, deliveries: [Vec<f64>; DELIVERIES]) -> Self {
        let mut functions: Vec<Function> = samples.into_iter().map(Function::of).collect();
        let baseline = functions.last().map_or(f64::NAN, |function| function.cpu_ms.median);
        for function in &mut functions {
            function.ratio = function.cpu_ms.median / baseline;
        }
        let deliveries: Vec<Quantiles> = deliveries.into_iter().map(Quantiles::of).collect();
        let ours = functions.split_last().map_or(&[][..], |(_, ours)| ours);
        let starts_well = ours
            .iter()
            .all(|function| function.ratio <= MAX_RATIO && function.zip_bytes <= MAX_ZIP_BYTES);
        let is_met = starts_well && first_takes_more_ms(&deliveries) <= MAX_FIRST_DELIVERY_MS;
        Self { functions, deliveries, is_met }
    }

    /// Whether every target is met.
    pub fn is_met(&self) -> bool {
        self.is_met
    }
}

fn first_takes_more_ms(deliveries: &[Quantiles]) -> f64 {
    match deliveries {
        [first, second, ..] => first.median - second.median,
        _ => f64::NAN,
    }
}

impl Function {
    fn of(samples: Samples) -> Self {
        Self {
            name: samples.name.to_owned(),
            cpu_ms: Quantiles::of(samples.cpu_ms),
            wall_ms: Quantiles::of(samples.wall_ms),
            ratio: f64::NAN,
            binary_bytes: samples.binary.len(),
            zip_bytes: packed(&samples.binary),
        }
    }
}

impl Quantiles {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index =
                ((samples.len() as f64 * share) as usize).min(samples.len().saturating_sub(1));
            samples.get(index).copied().unwrap_or(f64::NAN)
        };
        Self { median: at(0.5), p90: at(0.9) }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms ({:.2})", self.median, self.p90)
    }
}

impl fmt::Display for StartupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| function | CPU until the first call, median (p90) | vs. hello-world | time, \
             median (p90) | binary | zip |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for Function { name, cpu_ms, wall_ms, ratio, binary_bytes, zip_bytes } in &self.functions {
            let (binary, zip) = (mebibytes(*binary_bytes), mebibytes(*zip_bytes));
            writeln!(
                f,
                "| {name} | {cpu_ms} | {ratio:.2} | {wall_ms} | {binary:.2} MiB | {zip:.2} MiB |"
            )?;
        }
        let zip = mebibytes(MAX_ZIP_BYTES);
        writeln!(
            f,
            "\nTargets: at most {MAX_RATIO} times hello-world, zips of at most {zip} MiB.\n"
        )?;
        writeln!(f, "| delivery of a process, over TLS | CPU, median (p90) |\n|---|---|")?;
        for (number, delivery) in self.deliveries.iter().enumerate() {
            writeln!(f, "| {} | {delivery} |", number + 1)?;
        }
        let more = first_takes_more_ms(&self.deliveries);
        writeln!(
            f,
            "\nThe first takes {more:.2} ms more than the second. Target: at most \
             {MAX_FIRST_DELIVERY_MS} ms."
        )
    }
}

/// The size of its zip: the deflated bytes and about 150 bytes of metadata.
fn packed(bytes: &[u8]) -> usize {
    compress_to_vec(bytes, ZIP_LEVEL).len() + 150
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(api_cpu_ms: f64, first_delivery_ms: f64) -> StartupReport {
        let samples = |name, cpu_ms| Samples {
            name,
            binary: vec![0; 1000],
            cpu_ms: vec![cpu_ms; 3],
            wall_ms: vec![1.0, 3.0, 2.0],
        };
        let mut deliveries = [const { Vec::new() }; DELIVERIES];
        for (number, delivery) in deliveries.iter_mut().enumerate() {
            delivery.push(if number == 0 { first_delivery_ms } else { 1.0 });
        }
        StartupReport::of(vec![samples("api", api_cpu_ms), samples("hello-world", 1.0)], deliveries)
    }

    #[test]
    fn a_missed_target_is_reported() {
        assert!(report(2.0, 6.0).is_met());
        assert!(!report(2.1, 6.0).is_met());
        assert!(!report(2.0, 6.1).is_met());
    }

    #[test]
    fn the_table_and_the_json_have_the_same_values() {
        let report = report(1.5, 6.0);
        assert!(
            report
                .to_string()
                .contains("| api | 1.50 ms (1.50) | 1.50 | 2.00 ms (3.00) | 0.00 MiB |"),
            "{report}"
        );
        let json = serde_json::json!(report);
        assert_eq!(
            (&json["functions"][0]["ratio"], &json["functions"][0]["wall_ms"]["median"]),
            (&1.5.into(), &2.0.into())
        );
        assert_eq!(
            (&json["deliveries"][0]["median"], &json["is_met"]),
            (&6.0.into(), &true.into())
        );
    }
}
