//! The sync time of a disk, and the CPU time and memory of a process.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use harness::process::peak_kib;
use serde::Serialize;

use super::{LoadError, figures::Quantiles};

/// Maximum number of appends to measure the disk with.
const SYNC_SAMPLES: usize = 300;

/// Maximum duration of the measurement.
const SYNC_BOUND: Duration = Duration::from_secs(3);

/// The size of an append.
const SYNC_BYTES: usize = 4096;

/// The magic number of tmpfs in `statfs`.
const TMPFS_MAGIC: i128 = 0x0102_1994;

/// Measures an append of 4 KiB and its `fdatasync` in a folder, back to back or with a pause
/// between two.
///
/// A disk that is fast under load can be slow when it is used rarely, as by an idle system.
pub fn disk_sync(folder: &Path, pause: Duration) -> Result<DiskSync, LoadError> {
    let failed = |source: io::Error| LoadError::File { path: folder.to_owned(), source };
    let mut file: File = tempfile::tempfile_in(folder).map_err(failed)?;
    let in_memory =
        rustix::fs::statfs(folder).is_ok_and(|found| i128::from(found.f_type) == TMPFS_MAGIC);
    let started = Instant::now();
    let mut samples = Vec::with_capacity(SYNC_SAMPLES);
    while samples.len() < SYNC_SAMPLES
        && started.elapsed() < SYNC_BOUND + pause * SYNC_SAMPLES as u32
    {
        std::thread::sleep(pause);
        let before = Instant::now();
        file.write_all(&[0x5a; SYNC_BYTES]).and_then(|()| file.sync_data()).map_err(failed)?;
        samples.push(before.elapsed());
    }
    Ok(DiskSync { times: Quantiles::of(samples), in_memory })
}

/// The sync time of a disk.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DiskSync {
    /// The durations.
    pub times: Quantiles,
    /// Whether the folder is in memory. Its files are not durable then.
    pub in_memory: bool,
}

/// CPU time and memory of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since their start, user and system.
    pub cpu: Duration,
    /// Sum of their peak memory, in KiB.
    pub peak_kib: u64,
}

/// Reads the usage of these processes.
pub fn usage(pids: &[u32]) -> Result<Usage, LoadError> {
    let mut total = Usage::default();
    for pid in pids {
        let stat = read(*pid, "stat")?;
        let ticks = cpu_ticks(&stat)
            .ok_or_else(|| LoadError::Protocol(format!("/proc/{pid}/stat is not as expected")))?;
        total.cpu +=
            Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        let peak_kib = peak_kib(*pid)
            .map_err(|source| LoadError::File { path: format!("/proc/{pid}").into(), source })?;
        total.peak_kib += peak_kib.unwrap_or(0);
    }
    Ok(total)
}

fn read(pid: u32, file: &str) -> Result<String, LoadError> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).map_err(|source| LoadError::File { path: path.into(), source })
}

/// utime and stime, fields 14 and 15. Field 2 is the name in parentheses, which may contain spaces
/// and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(after_name.next()?.parse::<u64>().ok()? + after_name.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let stat =
            "4242 (a) b (c) S 1 4242 4242 0 -1 4194560 900 0 0 0 17 25 0 0 20 0 3 0 100 1000 200 0";
        assert_eq!(cpu_ticks(stat), Some(42));
    }

    #[test]
    fn usage_is_read_for_a_process_and_is_an_error_without_one() {
        assert!(usage(&[std::process::id()]).unwrap().peak_kib > 0);
        assert!(usage(&[0]).is_err());
    }

    #[test]
    fn a_sync_takes_time() {
        let measured = disk_sync(&std::env::temp_dir(), Duration::ZERO).unwrap();
        assert!(measured.times.count > 0 && measured.times.p50_ms > 0.0);
    }
}
